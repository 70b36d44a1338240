"""Figures and tables: every number from a run folder, pooled only with its like; widgets escape what they show."""

import csv
import math

import pytest
from scipy import stats

from sia_nb.config import make_config
from sia_nb.errors import StoreError
from sia_nb.store import Run, write_json
from sia_nb.trajectory import Event, Trajectory
from sia_nb.view import collect, figures, inspect, tables


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    return tmp_path


def a_run(results, seed, value, *, profile="smoke", where="runs", base=0.2, **overrides):
    run = Run.create(make_config(profile, seed=seed, **overrides), results / where / f"{profile}-{seed}-{value}")
    arm = lambda v, calls: {"solution": "{}", "dev": v, "test": {"top1": v}, "verifier_calls": calls, "tokens": 10 * calls}
    write_json(
        run.path / "report.json",
        {"task": "lawbench", "seed": seed, "metric": "top1", "arms": {"baseline": arm(base, 8), "H": arm(value, 24)}},
    )
    write_json(
        run.step(1) / "metrics.json",
        {
            "step": 1,
            "score": value,
            "noise": 0.0,
            "accepted": True,
            "note": "",
            "used": {"verifier_calls": 8, "tokens": 80},
            "solutions": [],
        },
    )
    write_json(run.step(1) / "origin.json", {"action": "init", "parent": 0, "edits": [], "author": "playbook"})
    (run.step(1) / "scaffold").mkdir()
    (run.step(1) / "scaffold" / "agent.py").write_text("x = 1\n")
    (run.step(1) / "trajectory.jsonl").write_text("")
    write_json(run.step(1) / "run.done.json", {"files": {}})
    return run


def test_no_runs_is_a_clear_error():
    with pytest.raises(StoreError, match="python -m sia_nb run"):
        figures.figure_1(["lawbench"])


def test_the_interval_is_students_t():
    values = [0.70, 0.74, 0.78, 0.71]
    mean, low, high = collect.interval(values)
    expected = stats.t.interval(0.95, 3, loc=stats.tmean(values), scale=stats.sem(values))
    assert mean == pytest.approx(0.7325)
    assert (low, high) == pytest.approx(expected)


def test_one_seed_has_no_interval():
    mean, low, high = collect.interval([0.5])
    assert mean == 0.5 and math.isnan(low) and math.isnan(high)


def test_figure_and_csv_say_what_the_runs_say(results):
    for seed, value in enumerate((0.70, 0.80, 0.75)):
        a_run(results, seed, value)
    files = figures.figure_1(["lawbench"])
    assert {p.suffix for p in files.values()} == {".svg", ".pdf", ".png", ".csv"}
    assert all(p.stat().st_size > 500 for p in files.values())
    with open(files["csv"], newline="") as f:
        table = list(csv.DictReader(f))
    assert list(table[0]) == collect.COLUMNS
    mean = next(r for r in table if r["source"] == "ours" and r["arm"] == "H" and r["seeds"] == "3")
    assert float(mean["value"]) == pytest.approx(0.75)
    assert float(mean["low"]) < 0.70 and float(mean["high"]) > 0.80
    assert float(mean["verifier_calls"]) == 24
    singles = [r for r in table if r["source"] == "ours" and r["arm"] == "H" and r["seeds"] == "1"]
    assert sorted(float(r["value"]) for r in singles) == [0.70, 0.75, 0.80]
    assert all(r["run"] for r in table)
    paper = {r["arm"]: float(r["value"]) for r in table if r["source"] == "paper"}
    assert paper == {"baseline": 0.135, "H": 0.5, "W+H": 0.701, "previous": 0.45}


def test_figures_are_the_same_bytes_when_drawn_again(results):
    a_run(results, 0, 0.7)
    first = {s: figures.figure_1(["lawbench"])[s].read_bytes() for s in ("svg", "pdf", "csv")}
    again = {s: figures.figure_1(["lawbench"])[s].read_bytes() for s in ("svg", "pdf", "csv")}
    assert first == again


def test_runs_of_other_profiles_or_budgets_are_never_pooled(results):
    a_run(results, 0, 0.70)
    a_run(results, 1, 0.90, profile="cpu")
    a_run(results, 1, 0.60, steps=5)
    assert [f.report["arms"]["H"]["test"]["top1"] for f in collect.finished("lawbench", profile="cpu")] == [0.90]
    assert len(collect.finished("lawbench", profile="smoke")) == 1
    assert collect.finished("lawbench", profile="gpu") == []


def test_reference_runs_stand_beside_ours(results):
    a_run(results, 0, 0.70)
    for seed in (0, 1, 2):
        a_run(results, seed, 0.80 + seed / 100, profile="cpu", where="reference/lawbench/laptop")
    rows = collect.rows("lawbench", *figures.gather("lawbench"))
    assert {r["source"] for r in rows} == {"ours", "reference", "paper"}
    files = figures.figure_4()
    assert files["png"].stat().st_size > 1000


def test_table_3_has_ours_and_the_papers_apart(results):
    a_run(results, 0, 0.70)
    a_run(results, 1, 0.72)
    markdown, files = tables.table_3(["lawbench"])
    assert "| paper | 0.135 | 0.450 | 0.500 | 0.701 |" in markdown
    assert "| ours | 0.200 [0.200, 0.200] |  | 0.710 [" in markdown
    assert files["md"].read_text().strip() == markdown


def test_widgets_escape_model_text():
    event = Event(
        3,
        "response",
        1.0,
        {"text": "<script>alert(1)</script>", "messages": [{"role": "<b>", "content": "<img src=x onerror=y>"}]},
    )
    shown = inspect.detail(event)
    assert "<script>" not in shown and "<img" not in shown and "&lt;script&gt;" in shown


def test_rows_filter_by_kind_and_text():
    trajectory = Trajectory(
        [
            Event(0, "log", 0.0, {"kind": "a", "text": "needle"}),
            Event(1, "response", 0.1, {"text": "hay"}),
            Event(2, "log", 0.2, {"text": "x" * 500}),
        ]
    )
    assert [i for _, i in inspect.rows(trajectory, ("log",))] == [0, 2]
    assert [i for _, i in inspect.rows(trajectory, (), "NEEDLE")] == [0]
    assert all(len(label) < 120 for label, _ in inspect.rows(trajectory))
