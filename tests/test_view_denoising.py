"""What is drawn of a task with a gate: the front, known methods, kinds of change; and several tasks side by side."""

import csv
import math

import pytest
import view_denoising as made
from hypothesis import given
from hypothesis import strategies as st
from view_runs import a_result, a_rollout, a_run, a_step, a_verdict, trained

from sia_nb.errors import ConfigError, StoreError
from sia_nb.view import changes, collect, everything, figures, front, panels, peers, tables


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    made.register(monkeypatch)
    return tmp_path


def rows_of(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


# -- several tasks -----------------------------------------------------------------------------------


def test_figure_1_and_table_3_have_a_panel_and_rows_for_each_task_that_has_runs(results):
    a_run(results, 0, 0.7)
    assert collect.tasks_with_runs() == ["lawbench"]
    a_run(results, 0, 0.2, base=0.08, task="denoising")
    assert collect.tasks_with_runs() == ["lawbench", "denoising"]
    rows = rows_of(figures.figure_1()["csv"])
    ours = {(r["task"], r["arm"]): (r["metric"], float(r["value"])) for r in rows if r["source"] == "ours"}
    assert ours["lawbench", "H"] == ("top1", 0.7) and ours["denoising", "H"] == ("mse_norm", 0.2)
    paper = {r["arm"]: float(r["value"]) for r in rows if r["source"] == "paper" and r["task"] == "denoising"}
    assert paper == {"baseline": 0.048, "H": 0.241, "W+H": 0.289, "previous": 0.24}
    markdown, _ = tables.table_3()
    assert "| Denoising (pancreas) | mse_norm | paper | 0.048 | 0.240 | 0.241 |  | 0.289 |" in markdown
    assert (
        "| Denoising (PBMC 68k) | mse_norm | ours | 0.080 |" in markdown
        and "| LawBench (191 charges) | top1 | ours |" in markdown
    )
    assert {r["task"] for r in rows_of(figures.figure_1(["denoising"])["csv"])} == {"denoising"}


def test_no_run_of_any_task_is_a_clear_error():
    with pytest.raises(StoreError, match="no finished run of any task"):
        collect.tasks_with_runs()
    with pytest.raises(ConfigError, match="'denoisin'.*Did you mean 'denoising'"):
        everything.draw(["denoisin"])


def test_each_metric_has_its_own_words_and_scale(results):
    a_run(results, 0, 0.2, base=0.08, task="denoising")
    rows = collect.rows("denoising", *figures.gather("denoising"))
    _, (left, right) = figures.pyplot().subplots(1, 2)
    panels.panel_from_data(left, task="denoising", rows=rows, title="")
    assert left.get_ylabel() == "mse_norm, sealed cells" and 0.289 < left.get_ylim()[1] < 0.45
    panels.progress_from_data(
        right,
        [{"arm": "H", "seed": 0, **collect.curve(figures.gather("denoising")[0][0].run)}],
        ylabel="words",
        metric="mse_norm",
    )
    assert right.get_ylabel() == "words" and 0.2 < right.get_ylim()[1] < 0.3
    assert panels.limits([0.3], "top1") == (0, 1)
    low, high = panels.limits([-0.1, 0.2, math.nan], "mse_norm")
    assert low < -0.1 and high > 0.2


def test_a_runs_own_figures_pool_with_that_run_and_not_with_the_newest(results):
    mine = a_run(results, 0, 0.7, arm="W", where="elsewhere", steps=5)
    a_run(results, 0, 0.1, arm="W", steps=5, learning_rate=0.001, name="rate")
    a_run(results, 1, 0.6, steps=5, name="partner")
    for n, name in enumerate(("newer", "newest")):
        a_run(results, n, 0.9, name=name, steps=6).update(created=f"299{n}-01-01T00:00:00+00:00")
    a_run(results, 0, 0.2, arm="W", name="same again", steps=5).update(created="2999-01-01T00:00:00+00:00")
    assert [f.run.path.name for f in collect.finished("lawbench", also=mine.path)] == ["partner", mine.path.name]
    assert [f.run.path.name for f in collect.finished("lawbench")] == ["partner", "same again"]
    assert collect.finished("denoising", also=mine.path) == []


# -- the front ---------------------------------------------------------------------------------------

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25)


@given(PAIRS)
def test_the_front_is_what_no_other_pair_beats(pairs):
    beaten = lambda a: any(b[0] >= a[0] and b[1] >= a[1] and b != a for b in pairs)
    assert front.front(pairs) == {n for n, pair in enumerate(pairs) if not beaten(pair)}


def test_the_points_are_the_distinct_valid_tries_of_executions_and_trainings(results):
    run = a_run(results, 0, 0.2, arm="W+H", task="denoising")
    verdicts = [
        a_verdict("a", 0.10, 0.52, 0.98),
        a_verdict("b", 0.30, 0.20, 0.975),
        a_verdict("b", 0.30, 0.20, 0.975),  # evaluated again
        a_verdict("c", 0.40, -3.0, 0.90, valid=False),
        {"score": 0.3, "valid": True, "solution_id": "d", "metrics": {"mse_norm": 0.3}},
    ]
    rolled = [
        a_rollout(0.2) | {"solution_id": n, "metrics": a_verdict(n, m, p, 0.5)["metrics"]}
        for n, m, p in (("W+H0", 0.25, 0.51), ("a", 0.1, 0.52))
    ]
    rolled.append(a_rollout(0.0, valid=False))
    a_step(run, 2, 0.2, action="weights", algorithm="grpo", parent=1, verdicts=verdicts, rollouts=rolled)
    rows = front.points(collect.finished("denoising"))
    assert [(r["solution_id"], r["origin"], r["passes_right"], r["passes_published"]) for r in rows] == [
        ("W+H0", "training", True, False),
        ("a", "training", True, False),
        ("b", "execution", False, True),
    ]
    assert [r["reported"] for r in rows] == [True, False, False] and [r["front"] for r in rows] == [True, True, True]


def test_a_task_whose_verdicts_hold_one_measure_has_no_front(results):
    a_run(results, 0, 0.7)
    with pytest.raises(StoreError, match="poisson_norm_openproblems.*no front"):
        front.figure_front("lawbench")
    assert list(everything.extras("lawbench")) == []


# -- known methods -----------------------------------------------------------------------------------


def test_known_methods_stand_beside_the_arms_with_the_published_scores(results):
    for seed in (0, 1):
        run = a_run(
            results,
            seed,
            0.2,
            base=0.08,
            task="denoising",
            more={"poisson_norm": 0.53, "poisson_norm_openproblems": 0.98, "passes_right": 1 - seed},
        )
        made.known(run, seed)
    markdown, files = peers.table()
    lines = {
        line.split(" | ")[0].strip("| *"): [c.strip() for c in line.split("|")[2:-1]]
        for line in markdown.split("\n")[2:]
        if line[:1] == "|"
    }
    assert list(lines)[0] == "SIA-H" and list(lines)[-1] == "DCA (not run here)"
    assert lines["SIA-H"][1] == f"{(0.2 / 0.066 + 0.2 / 0.068) / 2:.2f}" and lines["SIA-H"][3] == "1 of 2"
    assert lines["MAGIC"][1:] == [
        "1.00",
        lines["MAGIC"][2],
        "yes",
        lines["MAGIC"][4],
        "no",
        "2",
        "0.239 / 0.590",
        "0.304 / 0.541",
    ]
    assert lines["gene means"][3:6:2] == ["no", "yes"]  # what the published gate lets through
    assert lines["DCA (not run here)"][-2:] == ["0.117 / -0.076", ""]
    rows = rows_of(files["csv"])
    value = {(r["method"], r["measure"]): r for r in rows if r["split"] == "sealed"}
    assert float(value["MAGIC", "mse_norm"]["value"]) == pytest.approx(0.067) and value["MAGIC", "mse_norm"]["seeds"] == "2"
    assert any(r["source"] == "literature" and r["data"] == "pbmc1k" for r in rows)


def test_runs_without_known_methods_say_so(results):
    a_run(results, 0, 0.2, task="denoising")
    with pytest.raises(StoreError, match="peers.json; a run writes it"):
        peers.table()
    told = {name: words for name, _, words in everything.extras("denoising")}
    assert len(told) == 3 and all(w.startswith("not there: ") for n, w in told.items() if "change" not in n)


# -- kinds of change ---------------------------------------------------------------------------------


def test_changes_are_those_between_successive_incumbents_by_lever_and_kind(results):
    run = a_run(results, 0, 0.1, arm="W+H", task="denoising", solution=made.spec())
    a_step(run, 2, 0.2, action="harness", parent=1, solution=made.spec(knn=10, round=0.1))
    a_step(
        run,
        3,
        0.1,
        action="weights",
        algorithm="grpo",
        parent=2,
        accepted=False,
        solution=made.spec("log"),
        rollouts=[a_rollout(0.1)],
    )
    a_step(
        run,
        4,
        0.3,
        action="weights",
        algorithm="grpo",
        parent=2,
        solution=made.spec("sqrt", knn=10, t=1),
        rollouts=[a_rollout(0.1)],
    )
    a_step(run, 5, 0.4, action="harness", parent=4, solution="import numpy\ndef denoise(counts): return counts")
    for g in (3, 4):
        trained(run, g, a_result(0.1, 0.1), [])
    markdown, files = changes.table()
    assert "| SIA-W+H | harness update | 2 | 1 | 0 | 1 | 1 |" in markdown
    assert "| SIA-W+H | weight update | 1 | 1 | 1 | 1 | 0 |" in markdown
    rows = [(r["step"], r["lever"], r["kind"], r["field"], r["before"], r["after"]) for r in rows_of(files["csv"])]
    assert rows == [
        ("2", "harness", "parameter", "knn", "5", "10"),
        ("2", "harness", "post-processing", "round", "none", "0.1"),
        ("4", "weights", "structure", "normalisation", "library", "sqrt"),
        ("4", "weights", "parameter", "t", "3", "1"),
        ("4", "weights", "post-processing", "round", "0.1", "none"),
        ("5", "harness", "code", "", "", ""),
    ]


def test_an_answer_of_another_space_is_named_and_not_taken_for_a_program(results):
    run = a_run(results, 0, 0.1, task="denoising", solution=made.spec())
    a_step(run, 2, 0.2, action="harness", parent=1, solution='{"gone":1}')
    with pytest.raises(StoreError, match="gone.*another version of the space"):
        changes.table()


# -- everything --------------------------------------------------------------------------------------


def test_everything_is_drawn_for_all_tasks_or_for_one(results):
    a_run(results, 0, 0.7)
    made.study(results, seeds=1)
    said = []
    everything.draw(echo=said.append)
    names = {p.name for p in (results / "figures").iterdir()}
    assert names >= {"fig1.svg", "fig2b_lawbench.svg", "fig2b_denoising.svg", "fig4.svg", "fig6.svg", "fig6_progress.csv"}
    assert names >= {"front_denoising.png", "front_denoising.csv", "peers_denoising.md", "changes_denoising.md", "table3.md"}
    assert names >= {
        "fig2a.pdf",
        "fig3.svg",
        "levers_denoising.png",
        "edits_lawbench.md",
        "costs_denoising.csv",
        "table1.csv",
        "table2.md",
    }
    assert any(line.startswith("Figure 6: ") for line in said)
    everything.draw(["denoising"], out=results / "one", echo=said.append)
    assert not any("lawbench" in p.name or "fig4" in p.name for p in (results / "one").iterdir())
