"""Hyperparameters: defaults, and that a mistake is named."""

import json
import subprocess
import sys

import pytest

from sia_nb.errors import ConfigError
from sia_nb.training.hyper import ALGORITHMS, MENU, Hyper, make_hyper


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_has_defaults_and_a_place_on_the_menu(algorithm):
    hyper = make_hyper(algorithm)
    assert hyper.algorithm == algorithm and MENU[algorithm]
    assert Hyper(**json.loads(hyper.model_dump_json())) == hyper


def test_defaults_by_algorithm():
    assert make_hyper("ppo").epochs == 2 and make_hyper("grpo").epochs == 1
    assert make_hyper("reinforce_kl").kl == 0.05 and make_hyper("entropic").kl == 0
    assert make_hyper("ppo", epochs=3).epochs == 3
    assert make_hyper("entropic", beta=2).beta == 2.0


def test_every_field_is_described():
    assert all(field.description for field in Hyper.model_fields.values())


@pytest.mark.parametrize(
    ("algorithm", "overrides", "said"),
    [
        ("grop", {}, ["algorithm", "'grop'", "grpo, entropic, ppo", "Did you mean 'grpo'"]),
        ("grpo", {"group_size": 1}, ["group_size", "1 ", "greater than or equal to 2"]),
        ("entropic", {"group_size": 3}, ["group_size", "3 ", "at least 4"]),
        ("grpo", {"learning_rate": 0.0}, ["learning_rate", "0.0", "greater than 0"]),
        ("grpo", {"learning_rate": 0.5}, ["learning_rate", "0.5", "less than or equal to 0.01"]),
        ("grpo", {"learning_rate": float("nan")}, ["learning_rate", "nan"]),
        ("grpo", {"rank": 0}, ["rank", "0 ", "greater than or equal to 1"]),
        ("grpo", {"rank": 257}, ["rank", "257"]),
        ("grpo", {"temperature": 0.05}, ["temperature", "0.05", "0.1"]),
        ("grpo", {"temperature": 4}, ["temperature", "4", "3"]),
        ("grpo", {"temprature": 1.0}, ["'temprature' is not known", "Did you mean 'temperature'"]),
        ("grpo", {"steps": 2.5}, ["steps", "2.5", "integer"]),
        ("grpo", {"steps": True}, ["steps", "True"]),
        ("grpo", {"mutation": 0.6}, ["mutation", "0.6", "0.5"]),
        ("grpo", {"start": "pact"}, ["start", "'pact'", "Did you mean 'puct'"]),
        ("entropic", {"beta": "adaptiv"}, ["beta", "'adaptiv'", "Did you mean 'adaptive'"]),
        ("entropic", {"beta": -1.0}, ["beta", "-1.0", "greater than 0"]),
        ("grpo", {"algorithm_": "x"}, ["not known"]),
    ],
)
def test_a_mistake_names_field_value_and_what_was_expected(algorithm, overrides, said):
    with pytest.raises(ConfigError) as error:
        make_hyper(algorithm, **overrides)
    for part in said:
        assert part in str(error.value)


def test_a_fixed_beta_needs_no_four_rollouts():
    assert make_hyper("entropic", beta=2.0, group_size=2).group_size == 2


def test_frozen():
    with pytest.raises(ValueError):
        make_hyper("grpo").steps = 3


def test_importing_it_does_not_import_torch():
    code = "import sys, sia_nb.training.hyper; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
