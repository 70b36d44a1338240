"""Figures 2(a) and 3 and Tables 1 and 2: drawn from the code's own structure and from runs, with nothing typed in."""

import csv
import itertools
from pathlib import Path

import pytest
from view_runs import a_rollout, a_run, a_step

from sia_nb.agents.base import View
from sia_nb.errors import StoreError
from sia_nb.loop import run_loop
from sia_nb.store import ROOT, Run, read_json, write_json
from sia_nb.training.hyper import ALGORITHMS
from sia_nb.view import collect, diagrams, figures, setup_tables, structure
from sia_nb.view.paper import SYSTEMS

TASKS = ("lawbench", "denoising", "trimul", "trimul_cuda")  # of the committed runs


@pytest.fixture
def committed(monkeypatch, tmp_path_factory):
    """The committed runs and no others, whatever has been run here."""
    alone = tmp_path_factory.mktemp("results")
    (alone / "reference").symlink_to(ROOT / "results" / "reference")
    monkeypatch.setenv("SIA_RESULTS", str(alone))
    found = [f for task in TASKS for f in collect.finished(task, source="reference")]
    assert found
    return found


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    return tmp_path


def rows_of(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def test_the_phases_are_those_that_the_loop_runs():
    found = structure.loop_notebooks()
    assert sorted(found) == sorted(p.stem for p in (ROOT / "notebooks").glob("0[1-5]_*.ipynb"))
    assert set(found.values()) == set(structure.ROLES)
    assert callable(run_loop)


def test_every_file_that_a_committed_runs_mark_names_is_drawn(committed):
    phases = {p.mark: p for p in structure.phases_of([f.run for f in committed])}
    for f in committed:
        for mark in f.run.path.glob("step_*/*.done.json"):
            told = read_json(mark)
            for name in told["files"]:
                short = "/".join(Path(name).parts[1:])
                symbol = next(s for start, s in structure.WRITES.items() if short.startswith(start))
                assert symbol in phases[told["phase"]].writes or (told["phase"], symbol) == ("train", "A")
    assert all(symbol in diagrams.WORDS for p in phases.values() for symbol in (*p.reads, *p.writes))


def test_what_the_paper_says_of_each_component_is_what_the_code_reads(committed):
    phases = {p.mark: p for p in structure.phases_of([f.run for f in committed])}
    assert set(phases["init"].reads) == {"U", "R"} and phases["init"].writes == ("A",)  # A_1 = M(U, R)
    assert set(phases["decision"].reads) == {"A", "tau", "E", "U"}  # A_{g+1} = F(A_g, τ_g, E_g, U)
    assert {"A", "V", "theta"} <= set(phases["run"].reads) and set(phases["run"].writes) == {"tau", "E"}
    assert phases["train"].writes == ("theta",)  # the scaffold is fixed in a weight update
    assert "sealed" in phases["report"].reads and not any("sealed" in p.reads for m, p in phases.items() if m != "report")
    assert {"spec", "scaffold", "trajectory", "metrics"} <= {*View.__dataclass_fields__}


def test_a_weight_update_that_changed_its_scaffold_would_show(results):
    run = a_run(results, 0, 0.5, arm="W")
    a_step(run, 2, 0.6, action="weights", algorithm="grpo", parent=1, rollouts=[a_rollout(0.5)])
    write_json(
        run.step(2) / "train.done.json", {"phase": "train", "files": {"step_002/scaffold/agent.py": "", "step_002/weights/x": ""}}
    )
    train = lambda: next(p for p in structure.phases_of([Run(run.path)]) if p.mark == "train")
    assert train().writes == ("theta",)
    (run.step(2) / "scaffold" / "agent.py").write_text("x = 2\n")
    assert set(train().writes) == {"theta", "A"}


def test_without_runs_there_is_no_structure():
    with pytest.raises(StoreError, match="there is none"):
        structure.phases_of([])


def figure_of(monkeypatch, draw):
    kept = []
    monkeypatch.setattr(figures, "save", lambda fig, *more: kept.append((fig, *more)) or {})
    draw()
    return kept[0]


@pytest.mark.parametrize("draw", [diagrams.figure_2a, diagrams.figure_3])
def test_boxes_do_not_overlap_and_hold_their_text(committed, monkeypatch, draw):
    from matplotlib.patches import FancyBboxPatch

    fig, *_ = figure_of(monkeypatch, draw)
    (ax,) = fig.axes
    fig.draw_without_rendering()
    boxes = [p.get_window_extent() for p in ax.patches if isinstance(p, FancyBboxPatch)]
    assert len(boxes) >= 3
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    texts = [t for t in ax.texts if t.get_text() and t.get_zorder() == 4]  # the boxes' own
    for t in texts:
        e = t.get_window_extent()
        assert any(b.x0 <= e.x0 and e.x1 <= b.x1 and b.y0 <= e.y0 and e.y1 <= b.y1 for b in boxes), t.get_text()


def test_figure_3_has_an_arrow_a_row_and_counts_the_ledger(committed, monkeypatch):
    fig, _, rows, *_ = figure_of(monkeypatch, diagrams.figure_3)
    arrows = [t for t in fig.axes[0].texts if getattr(t, "arrow_patch", None)]
    assert len(arrows) == len(rows) > 10
    executed = sum(len(f.run.executed()) for f in committed)
    assert {r["times"] for r in rows if r["phase"] == "run"} == {executed}


def test_figure_2a_counts_the_updates_of_the_runs(results):
    run = a_run(results, 0, 0.5, arm="W+H")
    (run.step(1) / "scaffold" / "agent.py").write_text("def run(env):\n    pass\n")
    a_step(run, 2, 0.6, action="harness", parent=1)
    (run.step(2) / "scaffold" / "agent.py").write_text("def run(env):\n    pass\n\n\ndef hints():\n    pass\n")
    a_step(run, 3, 0.5, action="weights", algorithm="entropic", parent=2, accepted=False, rollouts=[a_rollout(0.5)])
    rows = {(r["lever"], r["kind"], r["name"]): (int(r["count"]), r["kept"]) for r in rows_of(diagrams.figure_2a()["csv"])}
    assert rows["harness", "updates", "harness"] == (1, "1") and rows["weights", "updates", "weights"] == (1, "0")
    assert rows["harness", "function", "run"] == (1, "1") and rows["harness", "function", "hints"] == (1, "0")
    assert rows["weights", "algorithm", "entropic"] == (1, "0")
    assert all(name in ALGORITHMS for _, kind, name in rows if kind == "algorithm")


def test_table_1_measures_what_is_here_and_says_what_is_not(committed, tmp_path):
    markdown, files = setup_tables.table_1(out=tmp_path)
    rows = rows_of(files["csv"])
    assert {r["strategy"] for r in rows if r["group"] == "paper"} == {name for name, _, _ in SYSTEMS}
    assert all(not r["value"] for r in rows if r["group"] == "paper")
    arms = {r["strategy"]: (r["edits_harness"][:3], r["edits_weights"][:3]) for r in rows if r["group"] == "arm"}
    assert arms == {"Baseline": ("No", "No"), "SIA-H": ("Yes", "No"), "SIA-W": ("No", "Yes"), "SIA-W+H": ("Yes", "Yes")}
    searchers = {r["strategy"] for r in rows if r["group"] == "searcher"}
    assert {"local search from scratch", "uniform draws", "untrained policy (same mask)"} <= searchers
    assert all(r["value"] and r["run"] and r["hardware"] for r in rows if r["group"] != "paper")
    assert "Hyperagents (Zhang et al., 2026): not implemented here | Yes | No |" in markdown


def test_table_2_sets_the_papers_row_beside_that_of_the_runs(committed, tmp_path):
    markdown, files = setup_tables.table_2(out=tmp_path)
    rows = rows_of(files["csv"])
    assert [(r["task"], r["source"]) for r in rows] == [(t, s) for t in TASKS for s in ("paper", "reference")]
    law = rows[1]
    config = next(f.run.config for f in committed if f.run.config.task == "lawbench")
    assert law["budget"].startswith(f"{config.steps} steps × {config.verifier_calls} calls")
    assert law["metric"] == "top1" and "913" in law["sealed"] and rows[0]["data"] == "5,332 / 913"
    assert "sealed test only through" in law["verifier"] and markdown.count("\n") == 2 * len(TASKS) + 1
