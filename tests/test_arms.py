"""Several runs side by side: which arms, how many at once, what fails."""

import pytest

from sia_nb.arms import default_jobs, parse_arms, run_all
from sia_nb.cli import main
from sia_nb.config import make_config
from sia_nb.errors import ConfigError, SiaError
from sia_nb.store import Run


def test_arms_are_named_with_commas_or_all():
    assert parse_arms("all") == ["H", "W", "W+H"] and parse_arms("W+H, H") == ["W+H", "H"]
    with pytest.raises(ConfigError, match="'WH' is not known.*Did you mean 'W\\+H'"):
        parse_arms("WH")
    with pytest.raises(ConfigError, match="names an arm twice"):
        parse_arms("H,H")
    with pytest.raises(ConfigError, match="baseline.*first step of every run"):
        parse_arms("baseline,H")


def test_as_many_at_once_as_there_is_room_for_and_never_none():
    assert default_jobs(1) == 1 and 1 <= default_jobs(100) <= 100


def test_bad_combinations_are_refused_before_anything_runs(capsys):
    for words, said in (
        (["--arms", "all", "--arm", "H"], "--arms and --arm"),
        (["--arms", "all", "--run-dir", "x"], "--run-dir names one folder"),
        (["--jobs", "-1"], "--jobs: -1"),
    ):
        assert main(["run", *words]) == 2
        assert said in capsys.readouterr().err


def test_one_run_that_fails_leaves_the_others_and_is_named(tmp_path):
    runs = [
        Run.create(make_config("smoke", arm=arm, agent="replay", replay_of=str(tmp_path / "nowhere")), tmp_path / arm)
        for arm in ("H", "W")
    ]
    lines = []
    with pytest.raises(SiaError) as error:
        run_all(runs, 2, echo=lines.append)
    assert all(name in str(error.value) for name in ("H: ", "W: ")) and "Traceback" not in str(error.value)
    assert any(line.startswith("H    s0 | ") for line in lines)
