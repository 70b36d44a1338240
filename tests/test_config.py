"""Configuration: what is refused, and that the message says what to do."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_nb import config
from sia_nb.config import PROFILES, RunConfig, make_config, parse_value
from sia_nb.errors import ConfigError


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid(profile):
    made = make_config(profile)
    assert made.profile == profile
    assert made.verifier_calls == PROFILES[profile]["verifier_calls"]


@pytest.mark.parametrize(
    ("kwargs", "parts"),
    [
        ({"profile": "cpuu"}, ["cpuu", "Did you mean 'cpu'?"]),
        ({"task": "lawbensh"}, ["lawbensh", "Did you mean 'lawbench'?"]),
        ({"verifier_call": 3}, ["verifier_call", "Did you mean 'verifier_calls'?"]),
        ({"steps": "8"}, ["steps", "'8'", "str", "integer"]),
        ({"steps": 0}, ["steps", "0", "greater than or equal to 1"]),
        ({"seed": True}, ["seed", "bool"]),
        ({"seconds": -1.0}, ["seconds", "-1.0", "greater than 0"]),
        ({"agent": "claud"}, ["agent", "claud", "Did you mean 'claude'?"]),
        ({"agent": "replay"}, ["replay_of"]),
        ({"agent": "openai_compatible"}, ["agent_url", "agent_model"]),
    ],
)
def test_bad_parameters_name_what_where_and_the_nearest(kwargs, parts):
    with pytest.raises(ConfigError) as error:
        make_config(**kwargs)
    for part in parts:
        assert part in str(error.value)


def test_a_whole_number_is_taken_for_seconds():
    assert make_config(seconds=30).seconds == 30.0


def test_config_is_frozen():
    with pytest.raises(Exception, match="frozen"):
        make_config().steps = 3


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("steps", "12", 12), ("seconds", "1.5", 1.5), ("unsafe_no_sandbox", "true", True), ("agent", "claude", "claude")],
)
def test_command_line_values(name, text, value):
    assert parse_value(name, text) == value


@pytest.mark.parametrize(("name", "text"), [("steps", "many"), ("steps", "1.5"), ("unsafe_no_sandbox", "yes"), ("nope", "1")])
def test_bad_command_line_values(name, text):
    with pytest.raises(ConfigError, match=name):
        parse_value(name, text)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(list(RunConfig.model_fields)) | st.text(), _json))
def test_any_values_give_a_config_or_a_config_error(values):
    try:
        made = config.validate(values)
    except ConfigError:
        return
    assert config.validate(json.loads(json.dumps(made.model_dump()))) == made


def test_an_arm_that_trains_needs_a_policy_of_our_own():
    with pytest.raises(ConfigError, match="arm: 'W\\+H' trains.*policy_url names a server"):
        make_config("smoke", arm="W+H", policy_url="http://localhost:8000/v1")
    with pytest.raises(ConfigError, match="arm: 'B'.*not valid"):
        make_config("smoke", arm="B")


def test_a_fixed_algorithm_is_one_of_the_six():
    assert make_config("smoke", algorithm="dpo").algorithm == "dpo"
    with pytest.raises(ConfigError, match="'gpro' is not known.*Did you mean 'grpo'"):
        make_config("smoke", algorithm="gpro")
