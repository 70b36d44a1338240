"""Figures and tables: every number from a run folder, pooled only with its like; widgets escape what they show."""

import csv
import json
import math

import pytest
from scipy import stats
from view_runs import a_rollout, a_run, a_step

from sia_nb.errors import StoreError
from sia_nb.store import read_lines
from sia_nb.trajectory import Event, Trajectory
from sia_nb.view import collect, figures, inspect, panels, tables


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    return tmp_path


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


def test_of_committed_runs_the_profile_asked_for_is_drawn_else_ours_else_the_default_one(results):
    for profile, value in (("cpu", 0.7), ("gpu", 0.8)):  # the newest is no default
        a_run(results, 0, value, profile=profile, where="reference/lawbench").update(created=f"2026-01-0{value * 10:.0f}")
    said = lambda found: [f.report["arms"]["H"]["test"]["top1"] for f in found]
    assert said(collect.finished("lawbench", source="reference")) == said(collect.committed("lawbench", [])) == [0.7]
    assert said(collect.committed("lawbench", [], "gpu")) == [0.8]
    a_run(results, 0, 0.75, profile="gpu")
    assert said(collect.committed("lawbench", collect.finished("lawbench"))) == [0.8]
    a_run(results, 0, 0.65)
    assert said(collect.committed("lawbench", collect.finished("lawbench", profile="smoke"))) == [0.7]


def test_arms_at_one_budget_stand_in_one_figure_with_one_baseline_a_seed(results):
    for arm, value in (("H", 0.7), ("W", 0.3), ("W+H", 0.8)):
        for seed in (0, 1):
            a_run(results, seed, value + seed / 100, arm=arm)
    runs = collect.finished("lawbench")
    assert [(f.arm, f.seed) for f in runs] == [(a, s) for a in ("H", "W", "W+H") for s in (0, 1)]
    assert [f.seed for f, _ in collect.arm_values(runs, "baseline", "top1")] == [0, 1]
    with open(figures.figure_1(["lawbench"])["csv"], newline="") as f:
        means = {r["arm"]: float(r["value"]) for r in csv.DictReader(f) if r["source"] == "ours" and r["seeds"] == "2"}
    assert means == pytest.approx({"baseline": 0.2, "H": 0.705, "W": 0.305, "W+H": 0.805})
    again = a_run(results, 0, 0.9, arm="W", name="again")
    again.update(created="2999-01-01T00:00:00+00:00")
    newest = collect.finished("lawbench")
    assert len(newest) == 6 and [f.run.path.name for f in newest if (f.arm, f.seed) == ("W", 0)] == ["again"]


def test_a_fixed_algorithm_separates_the_runs_of_an_arm_but_not_the_arms(results):
    h, w = a_run(results, 0, 0.7), a_run(results, 0, 0.3, arm="W")
    as_run = lambda run: collect.Finished(run, {}, "ours")
    assert as_run(h).settings == as_run(w).settings
    assert as_run(h).training == () and len(as_run(w).training) == len(collect.TRAINING)


def test_runs_that_disagree_on_the_baseline_are_told(results):
    a_run(results, 0, 0.7, base=0.2)
    a_run(results, 0, 0.3, arm="W", base=0.25)
    (said,) = collect.disagreements(collect.finished("lawbench"), "top1")
    assert all(part in said for part in ("seed 0", "0.2000 in the H run", "0.2500 in the W run"))
    markdown, _ = tables.table_3(["lawbench"])
    assert said in markdown
    a_run(results, 1, 0.7, profile="cpu")
    assert "disagree" not in tables.table_3(["lawbench"], profile="cpu")[0]


def test_training_verdicts_are_counted_before_those_of_the_step_they_led_to(results):
    run = a_run(results, 0, 0.5, arm="W+H")
    training = [
        a_rollout(0.2),
        a_rollout(0.9, cached=True),
        a_rollout(0.0, solution=None, valid=False, cached=True),  # nothing to extract: the verifier was not asked
        a_rollout(0.0, valid=False),
        a_rollout(0.6),
        a_rollout(0.0) | {"reward": None, "score": None, "valid": None, "cached": None},  # the calls had ended
    ]
    a_step(run, 2, 0.55, action="weights", algorithm="grpo", parent=1, verdicts=[0.4, 0.55], rollouts=training)
    a_step(run, 3, 0.5, action="harness", parent=2, accepted=False, verdicts=[0.5])
    c = collect.curve(run)
    assert c["score"] == [0.2, 0.0, 0.6, 0.4, 0.55, 0.5]
    assert c["calls"] == [1, 2, 3, 4, 5, 6] and c["step_end"] == [0, 5, 6]
    assert c["step_end"][-1] == sum(run.metrics(g)["used"]["verifier_calls"] for g in (1, 2, 3))
    assert c["action"] == ["init", "weights", "harness"] and c["algorithm"] == ["", "grpo", ""]
    assert collect.running_best(c) == [0.5, 0.5, 0.6, 0.6, 0.6, 0.6]  # A_1's answer, 0.5, took no call
    assert collect.running_best(c | {"step_end": [2, 5, 6]}) == [0.2, 0.5, 0.6, 0.6, 0.6, 0.6]  # or was submitted after two
    with open(figures.figure_task("lawbench")["progress"], newline="") as f:
        assert [float(r["value"]) for r in csv.DictReader(f)] == [0.5, 0.5, 0.6, 0.6, 0.6, 0.6]


def test_the_line_under_a_figure_says_of_how_many_runs_a_notice_is_and_which_seeds_each_arm_has(results, monkeypatch):
    told = []
    monkeypatch.setattr(figures, "caption", lambda fig, lines, warnings: told.append(lines))
    runs = [a_run(results, seed, 0.5, arm=arm) for seed in (0, 1) for arm in ("H", "W+H")]
    runs[0].notice("the disk was full once")
    figures.provenance(None, collect.finished("lawbench"))
    for run in runs[1:]:
        run.notice("the disk was full once")
    a_run(results, 2, 0.5, arm="H")
    figures.provenance(None, collect.finished("lawbench"))
    (first, *_, noted), (second, *_, noted_again) = told
    assert "· seeds 0, 1 ·" in first and noted == "1 of the 4 runs: the disk was full once"
    assert "· SIA-H seeds 0, 1, 2; SIA-W+H seeds 0, 1 ·" in second and noted_again.startswith("4 of the 5 runs: ")


def test_a_weight_step_without_its_rollouts_is_a_clear_error(results):
    run = a_run(results, 0, 0.5, arm="W")
    a_step(run, 2, 0.5, action="weights", algorithm="grpo", parent=1)
    with pytest.raises(StoreError, match="rollouts.jsonl.*trained"):
        collect.curve(run)


def test_a_line_that_is_still_being_written_is_left_out_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "curve.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert [line["step"] for line in read_lines(path)] == [1, 2]
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(StoreError, match="line 2"):
        read_lines(path)


def test_the_interleaving_shows_each_step_its_lever_and_its_fate(results):
    run = a_run(results, 0, 0.5, arm="W+H")
    a_step(run, 2, 0.6, action="harness", parent=1)
    a_step(run, 3, 0.55, action="weights", algorithm="entropic", parent=2, accepted=False, rollouts=[a_rollout(0.5)])
    files = figures.figure_2b("lawbench")
    with open(files["csv"], newline="") as f:
        table = list(csv.DictReader(f))
    assert list(table[0])[: len(collect.COLUMNS)] == collect.COLUMNS
    assert [(r["action"], r["algorithm"], r["accepted"], r["value"]) for r in table] == [
        ("init", "", "True", "0.5"),
        ("harness", "", "True", "0.6"),
        ("weights", "entropic", "False", "0.55"),
    ]
    assert all(r["run"] == run.path.name for r in table)
    fig, ax = figures.pyplot().subplots()
    steps = [{**r, "step": int(r["step"]), "value": float(r["value"]), "accepted": r["accepted"] == "True"} for r in table]
    panels.interleaving_from_data(ax, [{"label": "one", "steps": steps}])
    badges = {t.get_text(): t.get_bbox_patch().get_facecolor()[:3] for t in ax.texts if t.get_bbox_patch()}
    assert set(badges) == {"$A_1$", "H", "W"}
    assert badges["W"] == (1.0, 1.0, 1.0) and badges["H"] != (1.0, 1.0, 1.0)
    assert "entropic" in [t.get_text() for t in ax.texts]


def test_reference_runs_stand_beside_ours(results):
    a_run(results, 0, 0.70)
    for seed in (0, 1, 2):
        a_run(results, seed, 0.80 + seed / 100, profile="cpu", where="reference/lawbench/laptop")
    rows = collect.rows("lawbench", *figures.gather("lawbench"))
    assert {r["source"] for r in rows} == {"ours", "reference", "paper"}
    files = figures.figure_task("lawbench")
    assert files["png"].stat().st_size > 1000


def test_table_3_has_ours_and_the_papers_apart(results):
    a_run(results, 0, 0.70)
    a_run(results, 1, 0.72)
    markdown, files = tables.table_3(["lawbench"])
    assert "| paper | 0.135 | 0.450 | 0.500 |  | 0.701 |" in markdown
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


def test_widgets_carry_themselves_as_html_for_where_no_kernel_is(results, monkeypatch):
    monkeypatch.setattr(inspect, "STILL", 2)
    run = a_run(results, 0, 0.7)
    data = {"score": 0.25, "valid": False, "reason": "<script>alert(1)</script>", "solution_id": "x"}
    events = [{"id": n, "kind": "verdict", "seconds": 1.0, "data": data} for n in range(5)]
    (run.step(1) / "trajectory.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    for widget, words in ((inspect.inspect_trajectory(run, 1), "3 more events"), (inspect.show_scaffold(run, 1), "x = 1")):
        bundle = widget._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert words in bundle["text/html"] and "<script>" not in bundle["text/html"]


def test_a_search_that_finds_nothing_leaves_the_next_one_with_a_choice(results):
    run = a_run(results, 0, 0.7)
    a_step(run, 2, 0.8, verdicts=(0.25, 0.5))
    (kind, text), (events, pane) = (box.children for box in inspect.inspect_trajectory(run, 2).children)
    text.value = "nothing holds this"
    assert events.options == () and pane.value == "no event matches"
    text.value = ""
    assert events.value == 0 and "0.25" in pane.value
