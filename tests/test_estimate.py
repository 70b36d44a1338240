"""What a run is said to take before it runs: by task, from sums, and never spoilt by one odd step."""

import json

import pytest

from sia_nb.config import make_config
from sia_nb.estimate import Clock, seconds_left
from sia_nb.store import Run


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_DATA", str(tmp_path))
    return tmp_path


def test_it_learns_from_steps_but_not_from_remembered_verdicts():
    config, clock = make_config("cpu"), Clock()
    before = clock.total(config)
    clock.learn(26 * 10.0, {"verifier_calls": 26, "tokens": 0})
    assert clock.total(config) > before
    for _ in range(50):
        clock.learn(1.0, {"verifier_calls": 26, "tokens": 0})
    assert 0.1 * before < clock.total(config) < before


def test_a_step_that_loads_a_model_and_asks_for_next_to_nothing_hardly_changes_it():
    config, clock = make_config("cpu"), Clock()
    before = clock.total(config)
    clock.learn(40.0, {"verifier_calls": 0, "tokens": 200})
    assert before < clock.total(config) < 1.5 * before


def test_what_one_task_took_says_nothing_of_another(data):
    slow = Clock.load("trimul")
    for _ in range(5):
        slow.learn(2000.0, {"verifier_calls": 16, "tokens": 1000})
    slow.save()
    quick = Clock.load("denoising")
    assert quick.seen == {}
    quick.learn_training(50.0)
    quick.save()
    assert Clock.load("trimul").seen == {k: [round(x, 3) for x in v] for k, v in slow.seen.items()}
    assert Clock.load("denoising").seen == {"training": [50.0, 80.0]}


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"token": 0.05, "notebook": 6.0}', '{"denoising": {"run": "x"}}', '{"denoising": 3}']
)
def test_a_damaged_or_older_file_is_passed_over_and_replaced(data, text):
    file = data / "cache" / "speed.json"
    file.parent.mkdir()
    file.write_text(text)
    clock = Clock.load("denoising")
    assert clock.seen == {}
    clock.learn(30.0, {"verifier_calls": 40, "tokens": 1000})
    clock.save()
    assert json.loads(file.read_text())["denoising"]["run"][0] == 30.0 and Clock.load("denoising").seen


def test_an_arm_that_trains_takes_longest_and_a_finished_run_next_to_nothing(data, tmp_path, monkeypatch):
    left = {}
    for arm in ("H", "W", "W+H"):
        run = Run.create(make_config("cpu", arm=arm), tmp_path / arm)
        left[arm] = seconds_left(run)
        monkeypatch.setattr(run, "done", lambda *_: True)
        assert seconds_left(run) < 0.2 * left[arm]
    assert left["W"] > left["W+H"] > left["H"]
