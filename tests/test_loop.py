"""The loop on real data with the real model: the notebooks, resume after a kill, and the same bits for the same seed."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sia_nb import phases
from sia_nb.config import make_config
from sia_nb.errors import ConfigError, StoreError
from sia_nb.loop import run_loop
from sia_nb.store import ROOT, Run, read_json
from sia_nb.trajectory import Trajectory

TINY = {"arm": "W+H", "steps": 3, "verifier_calls": 11, "tokens": 4000}  # structured output, then a weight update


KEY = "sk-canary-of-a-key-93b1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, lawbench_data, embedded_model):
    """A run of three tiny steps by the notebooks, both levers pulled, up to its sealed test and figures."""
    folder, lines = tmp_path_factory.mktemp("loop"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIA_RESULTS", str(folder))
        for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "MY_TOKEN"):
            patch.setenv(name, KEY)
        run = run_loop(Run.create(make_config("smoke", **TINY), folder / "runs" / "by-notebooks"), echo=lines.append)
    return run, lines


def fingerprint(run: Run) -> dict:
    """All that must be the same for the same seed: everything but times."""
    out = {}
    for g in run.steps():
        out[f"scaffold {g}"] = run.scaffold(g)
        out[f"origin {g}"] = run.origin(g)
        weights = run.step(g) / "weights"
        if weights.exists():
            out[f"training {g}"] = (weights / "rollouts.jsonl").read_text(), read_json(weights / "result.json")
            out[f"curve {g}"] = [
                {k: v for k, v in json.loads(line).items() if k != "seconds"} for line in open(weights / "curve.jsonl")
            ]
        if g in run.executed():
            out[f"trajectory {g}"] = Trajectory.read(run.step(g) / "trajectory.jsonl").digest()
            m = run.metrics(g)
            out[f"metrics {g}"] = {k: v for k, v in m.items() if k != "used"} | {
                "used": {k: v for k, v in m["used"].items() if k != "seconds"}
            }
        if (run.step(g) / "decision.json").exists():
            out[f"decision {g}"] = read_json(run.step(g) / "decision.json")
            report = run.step(g) / "improvement.md"
            out[f"improvement {g}"] = report.read_text() if report.exists() else ""
    return out


def test_the_first_scaffold_scores_the_fallback_and_structured_output_wakes_the_loop(finished):
    run, _ = finished
    first, second = run.metrics(1), run.metrics(2)
    task = __import__("sia_nb.tasks", fromlist=["get_task"]).get_task("lawbench")
    assert first["solution"] == task.fallback().text
    assert any("structured" in e for e in run.origin(2)["edits"])
    assert 'grammar="solution"' in run.scaffold(2)
    verdicts = Trajectory.read(run.step(2) / "trajectory.jsonl").of("verdict")
    assert verdicts and all(v.data["valid"] for v in verdicts)
    assert second["score"] > first["score"]


def test_the_weight_update_trains_through_the_scaffold_within_the_steps_budget(finished):
    run, _ = finished
    decision, origin, metrics = read_json(run.step(2) / "decision.json"), run.origin(3), run.metrics(3)
    result = read_json(run.step(3) / "weights" / "result.json")
    assert decision["action"] == origin["action"] == "weights" and decision["algorithm"] == origin["algorithm"]
    assert run.scaffold(3) == run.scaffold(origin["parent"]) and origin["weights"] == 3
    assert 0 < result["verifier_calls"] <= TINY["verifier_calls"] * run.config.weight_share
    assert result["verifier_calls"] <= metrics["used"]["verifier_calls"] <= TINY["verifier_calls"]
    assert result["tokens"] < metrics["used"]["tokens"] <= TINY["tokens"]
    asked = Trajectory.read(run.step(3) / "trajectory.jsonl").of("sample")[0].data["messages"]
    assert asked[0]["content"] == Trajectory.read(run.step(2) / "trajectory.jsonl").of("sample")[0].data["messages"][0]["content"]
    assert metrics["score"] >= max(s["score"] for s in result["solutions"]), "what training found counts for the step"
    spent = [e for e in map(json.loads, open(run.path / "ledger.jsonl")) if e["step"] == 3]
    assert sum(e["verifier_calls"] for e in spent) == metrics["used"]["verifier_calls"]
    assert sum(e["phase"] == "train" for e in spent) == 1


def test_the_trained_weights_are_a_peft_adapter(finished):
    from peft import PeftConfig
    from safetensors.torch import load_file

    folder = finished[0].step(3) / "weights" / "adapter"
    assert PeftConfig.from_pretrained(folder).r == 32
    tensors = load_file(folder / "adapter_model.safetensors")
    assert any(t.abs().max() > 0 for name, t in tensors.items() if "lora_B" in name), "B starts at 0 and has learned"


def test_decisions_cite_events_that_exist(finished):
    run, _ = finished
    for g in (1, 2):
        ids = {e.id for e in phases.trajectory(run, g)}
        cited = read_json(run.step(g) / "decision.json")["evidence"]
        assert cited and set(cited) <= ids


@pytest.mark.trust(suite="secrets", backend="")
def test_no_key_of_the_environment_is_in_any_file_of_a_run(trust, finished):
    files = [p for p in finished[0].path.parent.parent.rglob("*") if p.is_file()]
    assert len(files) > 40 and any(p.suffix == ".ipynb" for p in files)
    for path in files:
        assert trust.case(str(path), KEY.encode() not in path.read_bytes())


def test_executed_notebooks_are_kept_for_each_phase(finished):
    run, _ = finished
    kept = sorted(str(p.relative_to(run.path)) for p in run.path.glob("**/notebooks/*.ipynb"))
    assert kept == [
        "notebooks/05_ablation_figures.ipynb",
        "step_001/notebooks/01_init_scaffold.ipynb",
        "step_001/notebooks/02_run_generation.ipynb",
        "step_001/notebooks/03_feedback_decision.ipynb",
        "step_002/notebooks/02_run_generation.ipynb",
        "step_002/notebooks/03_feedback_decision.ipynb",
        "step_003/notebooks/02_run_generation.ipynb",
        "step_003/notebooks/04_grpo_training.ipynb",
    ]
    for name in kept:
        cells = json.loads((run.path / name).read_text())["cells"]
        assert not [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]


def test_the_loop_says_an_estimate_first_and_each_step(finished):
    _, lines = finished
    assert "about" in lines[0] and "3 of 3 steps" in lines[0]
    assert [s for s in lines if "step 3: dev" in s]


def test_budgets_hold_and_the_ledger_adds_up(finished):
    run, _ = finished
    spent = 0
    for g in run.executed():
        used = run.metrics(g)["used"]
        assert used["verifier_calls"] <= TINY["verifier_calls"]
        assert used["tokens"] <= TINY["tokens"]
        spent += used["verifier_calls"]
    assert read_json(run.path / "report.json")["arms"]["W+H"]["verifier_calls"] == spent


def test_the_report_and_its_figure_tell_the_same_numbers(finished):
    run, _ = finished
    report = read_json(run.path / "report.json")
    assert set(report["arms"]) == {"baseline", "W+H"}
    for arm in report["arms"].values():
        assert 0 < arm["test"]["top1"] < 1
    assert report["arms"]["W+H"]["dev"] >= report["arms"]["baseline"]["dev"]
    with open(run.path.parent.parent / "figures" / "fig1.csv", newline="") as f:
        drawn = {r["arm"]: float(r["value"]) for r in csv.DictReader(f) if r["source"] == "ours"}
    assert drawn == pytest.approx({a: r["test"]["top1"] for a, r in report["arms"].items()}, rel=1e-5)


def test_the_same_phases_without_notebooks_give_the_same_bits(finished, tmp_path):
    run, _ = finished
    other = Run.create(make_config("smoke", **TINY), tmp_path / "by-hand")
    for g in (1, 2, 3):
        phases.run_generation(other, g)
        if g < 3 and phases.feedback_decision(other, g).action == "weights":
            phases.weight_update(other, g)
    assert fingerprint(other) == fingerprint(run)


def test_a_run_killed_twice_resumes_to_the_same_bits(finished, tmp_path):
    run, _ = finished
    path = tmp_path / "killed"
    command = [sys.executable, "-m", "sia_nb", "run", "--profile", "smoke", "--run-dir", str(path), "--no-figures"]
    command += [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]
    for instant, executed in (("step_002/.trajectory.jsonl.tmp", [1]), ("step_003/weights/curve.jsonl", [1, 2])):
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        end = time.monotonic() + 300
        while not ((path / instant).exists() and (path / instant).stat().st_size):
            assert time.monotonic() < end and child.poll() is None, child.stderr.read().decode()[-2000:]
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        killed = Run(path)
        assert killed.executed() == executed
    run_loop(killed, echo=lambda _: None, figures=False)
    assert fingerprint(killed) == fingerprint(run)


def heed_ctrl_c():
    """A shell's background job starts with SIGINT ignored, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(lawbench_data, embedded_model, tmp_path):
    path = tmp_path / "interrupted"
    command = [sys.executable, "-m", "sia_nb", "run", "--profile", "smoke", "--run-dir", str(path), "--no-figures"]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c)
    end = time.monotonic() + 120
    while not (path / "step_001" / "notebooks").exists():
        assert time.monotonic() < end and child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert b"resume" in err and b"Traceback" not in err


def test_a_finished_run_is_quick_and_unchanged(finished):
    run, _ = finished
    before = fingerprint(run)
    start = time.monotonic()
    run_loop(run, echo=lambda _: None, figures=False)
    assert time.monotonic() - start < 5
    assert fingerprint(run) == before


def test_an_altered_step_is_refused(finished, tmp_path):
    run, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    file = copy / "step_002" / "metrics.json"
    file.write_text(file.read_text().replace('"accepted": true', '"accepted": false'))
    with pytest.raises(StoreError, match="metrics.json is altered"):
        run_loop(Run(copy), echo=lambda _: None, figures=False)


def test_a_report_of_a_run_without_steps_says_what_to_do(tmp_path):
    run = Run.create(make_config("smoke"), tmp_path / "empty")
    with pytest.raises(StoreError, match="no executed step"):
        phases.report(run)
    with pytest.raises(ConfigError, match="02_run_generation"):
        phases.latest_step(run)
    with pytest.raises(StoreError, match="step 4"):
        phases.run_generation(run, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["01_init_scaffold", "02_run_generation", "03_feedback_decision", "04_grpo_training", "00_quickstart", "05_ablation_figures"],
)
def test_each_notebook_runs_by_hand_with_its_defaults(name, lawbench_data, embedded_model, tmp_path_factory, monkeypatch):
    from sia_nb import notebooks

    folder = Path(tmp_path_factory.getbasetemp()) / "results-by-hand"
    monkeypatch.setenv("SIA_RESULTS", str(folder))
    notebooks.execute(name, {}, folder / "executed" / f"{name}.ipynb", timeout=900)
