"""Runs that are damaged, incomplete or of an older format: named, left out, and their gap shown in what is drawn."""

import csv

import pytest
from view_runs import a_rollout, a_run, a_step

from sia_nb.errors import StoreError
from sia_nb.store import read_json, results_dir, sha256, write_json
from sia_nb.view import collect, everything, figures, health, setup_tables, tables, transfer

WHERE = "reference/lawbench/laptop"


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def three(results):
    """Three committed runs of arm H; the first has a second step, made by a weight update, and marks with hashes."""
    runs = [
        a_run(results, seed, 0.7 + seed / 100, where=WHERE, name=f"lawbench-H-smoke-playbook-s{seed}-abc{seed}")
        for seed in range(3)
    ]
    first = runs[0]
    a_step(first, 2, 0.72, action="weights", algorithm="grpo", parent=1, verdicts=[0.72], rollouts=[a_rollout(0.5)])
    write_json(first.step(2) / "weights" / "result.json", {"before": {}, "after": {}})
    write_json(first.step(2) / "train.done.json", {"phase": "train", "files": {}})
    files = {f"step_002/{n}": sha256(first.step(2) / n) for n in ("trajectory.jsonl", "metrics.json")}
    write_json(first.step(2) / "run.done.json", {"phase": "run", "files": files})
    assert len(collect.finished("lawbench", source="reference")) == 3
    return runs


def cut(path):
    path.write_text(path.read_text()[:40])


def set_format(path):
    write_json(path, read_json(path) | {"format": 0})


DAMAGE = {
    "run.json cut": ("run.json", cut),
    "run.json of an older format": ("run.json", set_format),
    "report.json cut": ("report.json", cut),
    "report.json of an older format": ("report.json", set_format),
    "report.json gone": ("report.json", lambda p: p.unlink()),
    "report.json without an arm": ("report.json", lambda p: write_json(p, {"metric": "top1", "arms": {"baseline": {}}})),
    "a trajectory altered": ("step_002/trajectory.jsonl", lambda p: p.write_text(p.read_text().replace("0.72", "0.99"))),
    "a trajectory gone": ("step_002/trajectory.jsonl", lambda p: p.unlink()),
    "a trajectory cut": ("step_002/trajectory.jsonl", lambda p: p.write_text('{"id": 0, "ki\n')),
    "metrics altered": ("step_002/metrics.json", lambda p: p.write_text(p.read_text().replace("0.72", "0.99"))),
    "metrics no object": ("step_001/metrics.json", lambda p: p.write_text("[]")),
    "rollouts gone": ("step_002/weights/rollouts.jsonl", lambda p: p.unlink()),
    "a step's mark gone": ("step_001/run.done.json", lambda p: p.unlink()),
    "a mark without files": ("step_002/run.done.json", lambda p: p.write_text("{}")),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_run_is_left_out_and_its_file_named(three, what):
    name, harm = DAMAGE[what]
    harm(three[0].path / name)
    (gap,) = health.gaps("lawbench")
    assert (gap.path, gap.arm, gap.seed) == (three[0].path, "H", 0)
    assert str(three[0].path / (name if "mark" not in what else name.split("/")[0])) in gap.why
    assert [f.seed for f in collect.finished("lawbench", source="reference")] == [1, 2]


def test_an_altered_line_is_named_by_its_number(three):
    path = three[0].step(2) / "trajectory.jsonl"
    path.write_text(path.read_text() + '{"id": 1, "ki\n')
    assert f"{path}, line 2, is altered" in health.gaps("lawbench")[0].why


def drawn(monkeypatch):
    """The texts of each figure from now on; of its files only the CSV is written, for time."""
    texts = {}

    def keep(fig, name, rows, out, columns=None):
        texts[name] = " ".join(t.get_text() for t in fig.findobj(lambda a: hasattr(a, "get_text"))).replace("\n", " ")
        path = results_dir() / "figures" / f"{name}.csv"
        collect.write_csv(path, rows, columns)
        figures.pyplot().close(fig)
        return dict.fromkeys(("svg", "pdf", "png", "csv"), path)

    monkeypatch.setattr(figures, "save", keep)
    return texts


def test_figures_are_drawn_from_the_rest_and_show_the_gap(three, results, monkeypatch):
    texts = drawn(monkeypatch)
    cut(three[0].path / "report.json")
    said = []
    study = results / "reference" / "transfer" / "study.json"
    study.parent.mkdir()
    study.write_text("[]")
    with pytest.raises(StoreError, match=r"s0-abc0/report.json is damaged[\s\S]*transfer/study.json: format"):
        everything.draw(echo=said.append)
    with open(results / "figures" / "fig1.csv", newline="") as f:
        (mean,) = [r for r in csv.DictReader(f) if r["arm"] == "H" and r["source"] == "reference" and r["seeds"] == "2"]
    assert float(mean["value"]) == pytest.approx(0.715)
    for name in ("fig1", "fig2a", "fig2b_lawbench", "fig3", "fig4", "levers_lawbench"):
        assert "left out: lawbench-H-smoke-playbook-s0-abc0: report.json is damaged" in texts[name], name
    assert "1 lost" in texts["fig1"] and "1 lost" in texts["fig4"]
    assert (
        "not readable: lawbench-H-smoke-playbook-s0-abc0" in texts["fig2b_lawbench"] and "SIA-H seed 0" in texts["fig2b_lawbench"]
    )
    assert any(line.startswith("Table 3") for line in said)


def test_an_arm_that_is_lost_whole_keeps_its_place(results, three, monkeypatch):
    lost = a_run(results, 0, 0.6, arm="W", where=WHERE, name="lawbench-W-smoke-playbook-s0-fff000")
    cut(lost.path / "run.json")
    texts = drawn(monkeypatch)
    figures.figure_1(["lawbench"])
    assert "SIA-W" in texts["fig1"] and " not readable" in texts["fig1"]


def test_a_task_that_is_lost_whole_has_an_empty_panel_in_figure_1_and_an_error_of_its_own(results, three, monkeypatch):
    folder = "reference/denoising/laptop"
    lost = a_run(
        results, 0, 0.1, task="denoising", where=folder, more={"passes_right": 1.0}, name="denoising-H-smoke-playbook-s0-aaa"
    )
    cut(lost.path / "report.json")
    texts = drawn(monkeypatch)
    with pytest.raises(StoreError, match="denoising-H-smoke-playbook-s0-aaa/report.json"):
        everything.draw(echo=lambda line: None)
    assert "1 runs, none of which can be read" in texts["fig1"] and "fig4" in texts
    with pytest.raises(StoreError, match=r"no finished run of 'denoising'[\s\S]*aaa/report.json"):
        figures.figure_task("denoising")


def test_nothing_readable_at_all_names_every_file(three):
    for run in three:
        cut(run.path / "run.json")
    with pytest.raises(StoreError) as error:
        everything.draw(echo=lambda line: None)
    assert all(str(run.path / "run.json") in str(error.value) for run in three)


def test_an_unfinished_run_of_ours_is_no_gap_but_a_damaged_finished_one_is(results):
    unfinished = a_run(results, 0, 0.7, name="lawbench-H-smoke-playbook-s0-aaa")
    (unfinished.path / "report.json").unlink()
    assert health.gaps("lawbench") == [] and collect.finished("lawbench") == []
    damaged = a_run(results, 1, 0.7, name="lawbench-H-smoke-playbook-s1-bbb")
    cut(damaged.path / "run.json")
    assert [gap.path for gap in health.gaps("lawbench")] == [damaged.path]
    assert health.gaps("denoising") == []


def test_a_mended_run_is_drawn_again(three):
    path = three[0].path / "report.json"
    whole = path.read_text()
    cut(path)
    assert len(collect.finished("lawbench", source="reference")) == 2
    path.write_text(whole)
    assert len(collect.finished("lawbench", source="reference")) == 3 and health.gaps("lawbench") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [('{"format": 0}', "format 0, expected 1"), ('{"for', "is damaged"), ('{"format": 1}', "KeyError"), ("[]", "format 'list'")],
)
def test_a_transfer_study_that_cannot_be_read_is_named(results, text, said):
    path = results / "reference" / "transfer" / "study.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert str(path) in transfer.trouble(path) and said in transfer.trouble(path)
    a_run(results, 0, 0.7)
    assert "study" not in setup_tables.table_1(["lawbench"])[0]


def test_tables_are_made_of_what_can_be_read(three):
    cut(three[0].path / "report.json")
    assert "| reference | 0.200 [0.200, 0.200] |  | 0.715 [" in tables.table_3(["lawbench"])[0]
    assert "SIA-H 2" in setup_tables.table_2(["lawbench"])[0]
