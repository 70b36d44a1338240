"""Figure 5 and Table 3 for TriMul: a speed-up on a CPU and a score on a GPU, never on one axis, nor times of two machines."""

import csv

import pytest
from matplotlib.axes import Axes
from view_runs import a_result, a_rollout, a_run, a_step, trained

from sia_nb.view import collect, everything, figures, panels, tables, text

CPU = "Intel(R) Xeon(R) Processor @ 2.90GHz, 2 cores, 16 GiB"
OTHER_CPU = "AMD EPYC 9V84 96-Core Processor, 16 cores, 128 GiB"
GPU = "Intel(R) Xeon(R) Platinum 8480C, 26 cores, 221 GiB, 1 × NVIDIA H100 80GB HBM3"
PAPER = {"baseline": 0.105, "H": 0.120, "W+H": 1.475, "previous": 1.292}


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    return tmp_path


def timed(results, seed, value, *, task="trimul", hardware=CPU, base=1.0, created="2026-01-01T00:00:00+00:00", **kwargs):
    run = a_run(results, seed, value, task=task, base=base, name=f"{task}-{hardware[:3]}-{seed}-{value}", **kwargs)
    run.update(hardware=hardware, created=created)
    return run


def rows_of(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def a_panel(task):
    """The panel of a task drawn from its runs, its rows and the words of its legend."""
    ours, reference = figures.gather(task)
    rows = collect.rows(task, ours, collect.comparable(task, ours, reference))
    _, ax = figures.pyplot().subplots()
    panels.panel_from_data(ax, task=task, rows=rows, title="")
    return ax, rows, [t.get_text() for t in ax.get_legend().get_texts()]


def diamonds(ax: Axes):
    return sorted(float(line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "D")


def test_a_speed_up_on_a_cpu_stands_without_the_papers_scores(results):
    timed(results, 0, 2.5)
    ax, rows, legend = a_panel("trimul")
    assert {r["source"] for r in rows} == {"ours"} and {r["metric"] for r in rows} == {"speedup"}
    assert diamonds(ax) == [] and not any(line.get_linestyle() == "--" for line in ax.lines)
    assert ax.get_ylabel() == "speed-up over eager on this CPU\nIntel Xeon Processor @ 2.90GHz, 2 cores"
    assert legend == ["paper's scores: of an H100, not drawn"]


def test_a_score_on_a_gpu_stands_beside_the_papers_with_the_hardware_of_both(results):
    timed(results, 0, 0.9, task="trimul_cuda", hardware=GPU, base=0.16)
    ax, rows, legend = a_panel("trimul_cuda")
    assert {r["arm"]: r["value"] for r in rows if r["source"] == "paper"} == PAPER
    assert {r["hardware"] for r in rows if r["source"] == "paper"} == {"H100"}
    assert diamonds(ax) == [0.105, 0.120, 1.475]
    assert [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"] == [1.292]
    assert ax.get_ylabel() == "1500 / µs on this GPU\n1 × NVIDIA H100 80GB HBM3"
    assert legend == ["previous state of the art (paper, H100)", "paper's SIA (120 B model, H100)"]


def test_the_two_devices_have_panels_files_and_lines_of_their_own(results):
    timed(results, 0, 2.5)
    timed(results, 0, 0.9, task="trimul_cuda", hardware=GPU, base=0.16)
    assert collect.tasks_with_runs() == ["trimul", "trimul_cuda"]
    rows = rows_of(figures.figure_1()["csv"])
    assert {(r["task"], r["metric"]) for r in rows} == {("trimul", "speedup"), ("trimul_cuda", "score")}
    assert {r["task"] for r in rows if r["source"] == "paper"} == {"trimul_cuda"}
    markdown, _ = tables.table_3()
    lines = markdown.split("\n")[2:]
    assert lines == [
        f"| TriMul on a CPU, {CPU} | speed-up over eager on this CPU | ours | 1.000 |  | 2.500 |  |  | 1 |",
        "| TriMul on a GPU (H100) | 1500 / µs | paper | 0.105 | 1.292 | 0.120 |  | 1.475 |  |",
        f"| TriMul on a GPU, {GPU} | 1500 / µs | ours | 0.160 |  | 0.900 |  |  | 1 |",
    ]
    said = []
    everything.draw(echo=said.append)
    assert any(line.startswith("Figure 5 on a CPU: ") for line in said)
    names = {p.name for p in (results / "figures").iterdir()}
    assert names >= {"fig5_cpu.svg", "fig5_cuda.pdf", "fig5_cpu.csv", "fig5_cuda_progress.csv", "fig2b_trimul.png", "table3.md"}
    assert {r["task"] for r in rows_of(results / "figures" / "fig5_cpu.csv")} == {"trimul"}


def test_a_cpu_beside_a_gpu_is_named_by_itself_and_long_names_are_wrapped():
    assert panels.on("words", "trimul", GPU) == "words\nIntel Xeon Platinum 8480C, 26 cores"
    several = "CPU, 8 cores, 64 GiB, 2 × NVIDIA GeForce RTX 4090 Laptop GPU, 1 × NVIDIA T4"
    assert panels.on("words", "trimul_cuda", several) == "words\n2 × NVIDIA GeForce RTX 4090 Laptop GPU, 1 ×\nNVIDIA T4"
    assert panels.on("words", "lawbench", GPU) == "words"


def test_figure_5_names_the_hardware_on_both_axes_and_holds_training(results, monkeypatch):
    run = timed(results, 0, 1.0, arm="W+H")
    a_step(run, 2, 1.8, action="harness", parent=1, verdicts=[1.2, 1.8])
    a_step(run, 3, 2.5, action="weights", algorithm="entropic", parent=2, verdicts=[2.5], rollouts=[a_rollout(2.1)])
    trained(run, 3, a_result(1.0, 2.0), [])
    labels = []
    monkeypatch.setattr(figures, "provenance", lambda fig, used: labels.extend(ax.get_ylabel() for ax in fig.axes))
    files = figures.figure_task("trimul")
    assert len(labels) == 2 and all(label.endswith("\nIntel Xeon Processor @ 2.90GHz, 2 cores") for label in labels)
    assert labels[1].startswith("speed-up over the eager reference on dev shapes,")
    assert [float(r["value"]) for r in rows_of(files["progress"])] == [1.2, 1.8, 2.1, 2.5]


def test_times_of_two_machines_are_never_in_one_bar(results):
    timed(results, 0, 2.0, hardware=OTHER_CPU)
    timed(results, 1, 3.0, created="2026-02-01T00:00:00+00:00")
    assert [f.seed for f in collect.finished("trimul")] == [1]
    (mean,) = [r for r in rows_of(figures.figure_1()["csv"]) if r["arm"] == "H"]
    assert (mean["value"], mean["seeds"], mean["hardware"]) == ("3", "1", CPU)


@pytest.mark.parametrize(("hardware", "behind"), [(OTHER_CPU, 0), (CPU, 2)])
def test_reference_runs_stand_behind_ours_on_the_same_machine_alone(results, hardware, behind):
    timed(results, 0, 2.0, hardware=hardware, where="reference/trimul")
    timed(results, 0, 3.0)
    assert sum(r["source"] == "reference" for r in rows_of(figures.figure_1()["csv"])) == behind
    assert sum(r["source"] == "reference" for r in rows_of(figures.figure_task("trimul")["csv"])) == behind
    assert f"| TriMul on a CPU, {hardware} | speed-up over eager on this CPU | reference | 1.000 |" in tables.table_3()[0]


def test_of_the_committed_runs_those_of_our_machine_are_drawn_though_others_are_newer(results):
    timed(results, 0, 2.0, hardware=OTHER_CPU, where="reference/trimul/a")
    timed(results, 0, 4.0, where="reference/trimul/b", created="2026-02-01T00:00:00+00:00")
    assert [r["value"] for r in rows_of(figures.figure_1()["csv"]) if r["arm"] == "H"] == ["4"]
    timed(results, 0, 3.0, hardware=OTHER_CPU)
    drawn = [(r["source"], r["value"]) for r in rows_of(figures.figure_1()["csv"]) if r["arm"] == "H"]
    assert drawn == [("ours", "3"), ("reference", "2")]


def test_accuracies_of_two_machines_still_share_a_bar(results):
    a_run(results, 0, 0.7).update(hardware=CPU)
    a_run(results, 1, 0.8).update(hardware=OTHER_CPU)
    assert len(collect.finished("lawbench")) == 2


def test_timings_of_one_program_may_differ_a_little_but_not_a_lot(results):
    timed(results, 0, 2.0, base=1.0)
    timed(results, 0, 1.5, base=1.03, arm="W")
    assert not [s for s in text.findings("trimul") if "disagree" in s]
    timed(results, 0, 1.6, base=1.3, arm="W+H")
    (told,) = [s for s in text.findings("trimul") if "disagree" in s]
    assert "1.0000 in the H run" in told and "1.3000 in the W+H run" in told
