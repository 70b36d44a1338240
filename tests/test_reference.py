"""The study as a list of commands, several tasks in one, and what is put into results/reference."""

import shutil
import subprocess
from types import SimpleNamespace

import pytest
from view_runs import a_run

from sia_nb import cli, reference
from sia_nb.arms import run_all
from sia_nb.cli import main
from sia_nb.config import make_config
from sia_nb.errors import ConfigError, StoreError
from sia_nb.store import ROOT, Run, read_json, run_name, write_json
from sia_nb.verify import verify


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


# -- the list of commands ------------------------------------------------------------------------------


def test_the_study_is_all_arms_seeds_and_controls_of_the_tasks():
    todo = reference.parts(["lawbench", "denoising", "trimul"])
    lines = [p.line.removeprefix("python -m sia_nb ") for p in todo]
    assert lines[0] == "run --task lawbench --profile cpu --seeds 5 --arms all"
    assert "run --task denoising --profile cpu --seeds 5 --arms W --control shuffled_rewards" in lines
    assert "controls --task trimul --profile cpu --seeds 3" in lines and lines[-1] == "figures --profile cpu"
    assert [p.of for p in todo] == [15, 5, 15, 15, 5, 15, 9, 9, 0] and all(p.left == p.of for p in todo)
    assert sum(p.of for p in reference.parts(["lawbench"], seeds=1)) == 3 + 1 + 3


def test_what_is_finished_is_counted_and_takes_no_time(results):
    before = reference.parts(["denoising"], seeds=1)[0]
    write_json(results / "runs" / run_name(make_config(task="denoising", arm="W")) / "report.json", {})
    after = reference.parts(["denoising"], seeds=1)[0]
    assert (after.left, before.left) == (2, 3) and after.seconds == pytest.approx(before.seconds * 2 / 3)
    assert "# 2 of 3 left" in reference.announcement([after], 2)
    assert f"About {after.seconds / 2 / 3600:.1f} hours, 2 runs at a time" in reference.announcement([after], 2)


def test_its_times_are_those_of_the_committed_runs(monkeypatch):
    monkeypatch.delenv("SIA_RESULTS")
    known = reference._seconds("denoising")
    assert {"H", "W", "W+H", "W shuffled", "random", "local", "best_of_n"} <= set(known) and min(known.values()) > 1
    assert reference._seconds("trimul_cuda") == {}


def test_the_command_does_what_is_left_in_order_and_stops_at_what_fails(results, monkeypatch, capsys):
    asked, codes = [], {"controls": 0}
    monkeypatch.setitem(cli.main.__globals__, "_run", lambda args, extra: asked.append((args.arms, args.jobs, extra)))
    monkeypatch.setitem(cli.main.__globals__, "_controls", lambda args, extra: codes["controls"])
    monkeypatch.setitem(cli.main.__globals__, "_figures", lambda args, extra: asked.append("figures"))
    for config in (make_config("smoke", arm=arm) for arm in ("H", "W", "W+H")):
        write_json(results / "runs" / run_name(config) / "report.json", {})
    assert main(["reference", "--task", "lawbench", "--profile", "smoke", "--seeds", "1", "--jobs", "1"]) == 0
    assert asked == [("W", 1, ["--task", "lawbench", "--control", "shuffled_rewards"]), "figures"]
    codes["controls"] = 1
    assert main(["reference", "--task", "lawbench", "--profile", "smoke", "--seeds", "1"]) == 1
    assert "'python -m sia_nb controls --task lawbench --profile smoke --seeds 1' ended with status 1" in capsys.readouterr().err
    asked.clear()
    assert main(["reference", "--list"]) == 0 and not asked
    assert capsys.readouterr().out.count("python -m sia_nb") == 9


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["reference", "--seeds", "-1"], "--seeds: -1"),
        (["reference", "--jobs", "-1"], "--jobs: -1"),
        (["reference", "--task", "lawbensh"], "Did you mean 'lawbench'?"),
        (["reference", "--task", "trimul,trimul"], "names a task twice"),
        (["run", "--task", "lawbench,denoisin"], "Did you mean 'denoising'?"),
        (["run", "--task", "all", "--run-dir", "x"], "--run-dir names one folder, but --task asks for several"),
        (["data", "--task", "lawbench,x"], "task: 'x' is not known"),
        (["publish"], "name either a run or, with --study"),
        (["publish", "a", "--study", "b"], "name either a run or, with --study"),
    ],
)
def test_mistakes_are_named(argv, part, capsys):
    assert main(argv) == 2
    assert part in capsys.readouterr().err


def make(*words):
    return subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_make_reference_asks_for_all_tasks_and_their_data_unless_told_otherwise():
    usual, own = make("reference"), make("reference", "TASK=denoising", "SEEDS=2", "PROFILE=smoke")
    assert "sia_nb data --task all" in usual and "sia_nb reference --task all --seeds 0 --profile cpu" in usual
    assert "sia_nb data --task denoising" in own and "sia_nb reference --task denoising --seeds 2 --profile smoke" in own


def test_figure_1_of_all_tasks_and_arms_is_one_command():
    said = make("reproduce-fig1", "TASK=all", "ARMS=all")
    assert "sia_nb data --task all" in said and "sia_nb figures --profile cpu" in said
    assert "sia_nb run --task all --profile cpu --seeds 1 --arms all" in said
    assert "sia_nb run --task lawbench --profile cpu --seeds 1 --arms W+H" in make("reproduce-fig1")


# -- several tasks in one command -------------------------------------------------------------------------


def test_all_tasks_run_side_by_side_and_each_has_its_figures_drawn(results, monkeypatch, capsys):
    started, drawn = [], []
    monkeypatch.setattr("sia_nb.arms.run_all", lambda runs, jobs, figures: started.extend(r.config for r in runs))
    assert main(["run", "--task", "all", "--profile", "smoke", "--arms", "all"]) == 0
    assert [(c.task, c.arm) for c in started] == [(t, a) for t in reference.TASKS for a in ("H", "W", "W+H")]
    assert started[0].verifier_calls == 8 and "9 runs (lawbench, denoising, trimul; H, W, W+H; 1 seed)" in capsys.readouterr().out
    monkeypatch.setattr("sia_nb.arms.draw", lambda run: drawn.append(run.config.task))
    monkeypatch.setattr("sia_nb.arms.subprocess", SimpleNamespace(Popen=Finished, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT))
    run_all([a_run(results, s, 0.7, task=t, steps=1) for t in ("lawbench", "denoising") for s in (0, 1)], 2)
    assert drawn == ["lawbench", "denoising"]


class Finished:
    """A child that has nothing to do."""

    def __init__(self, *_, **__):
        self.stdout = iter(())

    def wait(self, *_):
        return 0


# -- publishing -------------------------------------------------------------------------------------------


@pytest.fixture
def collected(tmp_path):
    """A folder as a machine gives it back: a run, a control and a transfer study, each in its results folder."""
    committed, folder = ROOT / "results" / "reference", tmp_path / "collected"
    run = sorted(committed.glob("lawbench/*/lawbench-H-cpu-*-s0-*"))[0]
    control = sorted(committed.glob("controls/denoising/*/random-s1"))[0]
    shutil.copytree(run, folder / "some" / "runs" / run.name)
    shutil.copytree(control, folder / "some" / "controls" / place(control))
    (folder / "more" / "runs" / "transfer" / "lawbench-full").mkdir(parents=True)
    shutil.copy(committed / "transfer" / "lawbench-full.json", folder / "more/runs/transfer/lawbench-full/transfer.json")
    return folder, run, control


def place(control):
    return "/".join(control.parts[-3:])


def test_a_study_is_verified_copied_and_takes_the_place_of_the_earlier_one(results, collected):
    folder, run, control = collected
    where = results / "reference" / "lawbench" / run.parent.name
    shutil.copytree(run, where / "earlier")
    shutil.copytree(run, where.parent / "another-machine" / "earlier")
    shuffled = sorted((ROOT / "results" / "reference").glob("lawbench/*/lawbench-W-shuffled*-s0-*"))[0]
    shutil.copytree(shuffled, where / shuffled.name)
    for name in ("random-s1", "random-s7"):
        shutil.copytree(control, results / "reference" / "controls" / "denoising" / "another-machine" / name)
    lines = []
    made = reference.publish_study(folder, echo=lines.append)
    names = {str(p.relative_to(results / "reference")) for p in made}
    assert names == {f"lawbench/{run.parent.name}/{run.name}", f"controls/{place(control)}", "transfer/lawbench-full.json"}
    assert Run(where / run.name).config == Run(run).config and (where / "earlier").exists()
    assert read_json(results / "reference" / "controls" / place(control) / "control.json")["seed"] == 1
    assert any(line.startswith(f"{run.name}: no faults in ") for line in lines)
    reference.publish_study(folder, replace=True, echo=lines.append)
    assert {line.removesuffix(": removed") for line in lines if line.endswith("removed")} == {
        f"lawbench/{run.parent.name}/earlier",
        "lawbench/another-machine/earlier",
        "controls/denoising/another-machine/random-s1",
    }
    assert not (where.parent / "another-machine").exists() and (where / shuffled.name).exists()


def test_times_of_another_machine_are_kept(results, tmp_path):
    here, there = (a_run(results, s, 1.5, task="trimul", steps=1) for s in (0, 1))
    root = results / "reference"
    for run, machine in ((here, "one"), (there, "one"), (there, "other")):
        shutil.copytree(run.path, root / "trimul" / machine / run.path.name)
    made = root / "trimul" / "one" / here.path.name
    assert reference._earlier([made], root) == [root / "trimul" / "one" / there.path.name]


def test_what_a_committed_run_lacks_anyway_may_be_missing_of_a_collected_one(results, tmp_path):
    run = sorted((ROOT / "results" / "reference").glob("lawbench/*/lawbench-W-cpu-*-s0-*"))[0]
    copy = Run(shutil.copytree(run, tmp_path / "collected" / "runs" / run.name))
    assert "trimmed" in copy.info
    copy.update(trimmed=False)
    copy.write_manifest()
    assert any("adapter" in fault.file for fault in verify(copy.path).faults)
    (made,) = reference.publish_study(tmp_path / "collected", echo=lambda _: None)
    assert verify(made).faults == []


def test_a_run_that_does_not_hold_or_an_empty_folder_publishes_nothing(results, collected, tmp_path):
    folder, run, _ = collected
    path = folder / "some" / "runs" / run.name / "report.json"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    with pytest.raises(StoreError, match=r"nothing was published[\s\S]*report"):
        reference.publish_study(folder, echo=lambda _: None)
    assert not (results / "reference").exists()
    with pytest.raises(StoreError, match="holds no finished run"):
        reference.publish_study(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="--seeds"):
        reference.parts(["lawbench"], seeds=-1)
