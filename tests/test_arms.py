"""Several runs side by side: which arms, how many at once, what fails."""

import csv
from contextlib import contextmanager

import pytest
from view_runs import a_run

from sia_nb import phases
from sia_nb.arms import default_jobs, parse_arms, run_all
from sia_nb.cli import _summary, main
from sia_nb.config import make_config
from sia_nb.errors import ConfigError, InvalidSolution, SiaError
from sia_nb.loop import run_loop
from sia_nb.store import Run, read_json, write_json
from sia_nb.tasks import get_task
from sia_nb.tasks.base import Score


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


def test_the_run_that_will_take_longest_begins_first(tmp_path):
    runs = [
        Run.create(make_config("smoke", arm=arm, agent="replay", replay_of=str(tmp_path / "nowhere")), tmp_path / arm)
        for arm in ("H", "W", "W+H")
    ]
    lines = []
    with pytest.raises(SiaError):
        run_all(runs, 1, echo=lines.append)
    assert list(dict.fromkeys(line.split(" | ")[0].split()[0] for line in lines)) == ["W", "W+H", "H"]


def executed(results, arm, **more):
    """A run whose only step is done, and its report written."""
    run = a_run(results, 0, 0.7, arm=arm, steps=1, **more)
    write_json(run.step(1) / "init.done.json", {"files": {}})
    return run


def test_the_figures_of_several_runs_are_drawn_once_after_the_last(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    runs = [executed(tmp_path, arm) for arm in ("H", "W")]
    run_all(runs, 2, echo=lambda _: None)
    assert [(run.path / "notebooks" / "05_ablation_figures.ipynb").exists() for run in runs] == [False, True]
    with open(tmp_path / "figures" / "fig1.csv", newline="") as f:
        assert {r["arm"] for r in csv.DictReader(f) if r["source"] == "ours"} == {"baseline", "H", "W"}
    for path in (tmp_path / "figures").iterdir():
        path.unlink()
    run_all(runs, 2, figures=False, echo=lambda _: None)
    assert not any((tmp_path / "figures").iterdir())


class Known:
    """A verifier that knows its answers, and what a known method is worth."""

    def full(self, solution):
        return Score(0.5, True, solution_id=solution.id)

    def seal(self, solution):
        return {"top1": 0.4}

    def peers(self):
        return {"dev": [], "sealed": [{"method": "a method", "top1": 0.3, "published": {}}]}


def verified_by(verifier, tmp_path, monkeypatch):
    """Let the report of a run in ``tmp_path`` ask this verifier."""

    @contextmanager
    def opened(run, task):
        yield verifier

    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    monkeypatch.setattr(phases, "open_verifier", opened)
    monkeypatch.setattr(phases, "prepare_data", lambda run: None)


def test_the_report_is_opened_without_drawing_and_tells_of_known_methods(tmp_path, monkeypatch):
    verified_by(Known(), tmp_path, monkeypatch)
    text = get_task("lawbench").fallback().text
    run = executed(tmp_path, "H", solution=text)
    (run.path / "report.json").unlink()
    run_loop(run, figures=False, echo=lambda _: None)
    assert not (run.path / "report.json").exists()
    run_loop(run, report_only=True, echo=lambda _: None)
    report = read_json(run.path / "report.json")
    assert report["arms"]["H"]["test"] == {"top1": 0.4} and report["arms"]["H"]["solution"] == text
    assert read_json(run.path / "peers.json") == Known().peers()
    assert not (run.path / "notebooks").exists() and not (tmp_path / "figures").exists()


class Lacking(Known):
    """A known method's package is not installed."""

    def peers(self):
        import no_such_package_of_a_method  # noqa: F401


def reported(verifier, tmp_path, monkeypatch):
    """A run whose report this verifier has made."""
    verified_by(verifier, tmp_path, monkeypatch)
    run = executed(tmp_path, "H", solution=get_task("lawbench").fallback().text)
    (run.path / "report.json").unlink()
    run_loop(run, report_only=True, echo=lambda _: None)
    return Run(run.path)


def test_a_package_that_known_methods_lack_costs_their_file_and_not_the_report(tmp_path, monkeypatch):
    run = reported(Lacking(), tmp_path, monkeypatch)
    assert read_json(run.path / "report.json")["arms"]["H"]["test"] == {"top1": 0.4}
    assert not (run.path / "peers.json").exists() and (run.path / "manifest.json").exists()
    (notice,) = run.info["notices"]
    assert "peers.json" in notice and "no_such_package_of_a_method" in notice and "requirements.lock" in notice


def test_a_report_made_on_another_machine_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "hardware", lambda: "a machine of 3 cores")
    (notice,) = reported(Known(), tmp_path, monkeypatch).info["notices"]
    assert "another machine" in notice and "a machine of 3 cores" in notice


class Failing(Known):
    """Its answers fail on the sealed data alone."""

    def seal(self, solution):
        raise InvalidSolution("non_finite", "3 values are NaN")


def test_an_answer_that_fails_on_the_sealed_test_alone_scores_0_and_says_why(tmp_path, monkeypatch, capsys):
    verified_by(Failing(), tmp_path, monkeypatch)
    run = executed(tmp_path, "H", solution=get_task("lawbench").fallback().text)
    (run.path / "report.json").unlink()
    arm = phases.report(run)["arms"]["H"]
    assert arm["test"] == {"top1": 0.0} and arm["reason"] == "non_finite: 3 values are NaN"
    _summary(run)
    assert "non_finite: 3 values are NaN" in capsys.readouterr().out


def test_a_sealed_test_cannot_be_both_closed_and_opened(capsys):
    assert main(["resume", "--no-figures", "--report-only"]) == 2
    assert "leave one of them out" in capsys.readouterr().err
