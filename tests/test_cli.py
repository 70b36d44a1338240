"""The command line: help, errors that name the nearest, exit codes; never a traceback for a user's mistake."""

import pytest

from sia_nb.cli import main
from sia_nb.config import make_config
from sia_nb.store import Run


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def test_no_command_prints_help(capsys):
    assert main([]) == 2
    assert "reproduce" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "resume", "show", "figures", "report", "data", "model", "doctor"])
def test_each_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert command in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "parts"),
    [
        (["run", "--profile", "smok"], 2, ["smok", "Did you mean 'smoke'?"]),
        (["run", "--task", "lawbensh"], 2, ["Did you mean 'lawbench'?"]),
        (["run", "--verifier-call", "3"], 2, ["--verifier-call", "Did you mean 'verifier-calls'?"]),
        (["run", "--steps", "many"], 2, ["steps", "'many'", "whole number"]),
        (["run", "--steps"], 2, ["--steps", "no value"]),
        (["run", "--steps", "0"], 2, ["steps", "greater than or equal to 1"]),
        (["run", "--seeds", "0"], 2, ["--seeds"]),
        (["run", "--seeds", "2", "--run-dir", "x"], 2, ["--run-dir", "--seeds"]),
        (["run", "stray"], 2, ["'stray'"]),
        (["run", "--agent", "replay"], 2, ["replay_of"]),
        (["resume", "nothing"], 1, ["nothing"]),
        (["resume"], 1, ["no unfinished run"]),
        (["show", "nothing"], 1, ["nothing"]),
        (["show"], 1, ["no runs yet"]),
        (["show", "--stray"], 2, ["--stray"]),
        (["data", "--task", "x"], 2, ["lawbench"]),
    ],
)
def test_a_mistake_is_named_and_is_no_traceback(argv, code, parts, capsys):
    assert main(argv) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def test_show_lists_runs_and_passes_over_damaged_ones(results, capsys):
    Run.create(make_config("smoke"), results / "runs" / "good")
    Run.create(make_config("smoke"), results / "runs" / "bad")
    (results / "runs" / "bad" / "run.json").write_text("{")
    assert main(["show"]) == 0
    out = capsys.readouterr().out
    assert "good  0/3 steps  unfinished" in out
    assert "bad  damaged" in out


def test_doctor_says_what_is_there_and_what_to_do(lawbench_data, embedded_model, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("sandbox", "packages", "data", "model", "gpu", "key"):
        assert word in out


def test_doctor_names_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIA_DATA", str(tmp_path / "none"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "make data" in out and "make model" in out and "not ready: data, model" in out
