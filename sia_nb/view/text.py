"""A run in the terminal: the list of runs, one run step by step, one step in full."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from ..errors import StoreError
from ..store import Run, find_run, read_json, results_dir
from ..trajectory import Trajectory
from . import collect, training
from .paper import ARM_NAMES, PAPER


def show(name: str = "", *, step: int = 0, diff: bool = False, echo=print) -> None:
    """Print a run; without a name, the runs there are.

    Raises:
        StoreError: no such run or step.
    """
    if not name:
        return _list(echo)
    run = find_run(name)
    if step:
        return _step(run, step, diff, echo)
    echo(f"{run.path.name}   commit {run.info['commit']}   {run.info['hardware']}")
    for notice in run.info["notices"]:
        echo(f"note: {notice}")
    for row in steps_table(run):
        fate = "kept" if row["kept"] else "back"
        echo(
            f"step {row['step']:3}  {row['lever']:3}  dev {row['score']:.4f}  {fate}  {row['verifier_calls']:4.0f} calls  {row['change']}"
        )
    report = run.path / "report.json"
    if report.exists():
        for arm, r in read_json(report)["arms"].items():
            echo(f"sealed test  {arm:9} " + "  ".join(f"{k} {v:.4f}" for k, v in r["test"].items()))
    else:
        echo("the sealed test has not been opened")
    return None


LEVERS = {"init": "A_1", "harness": "H", "weights": "W"}


def steps_table(run: Run) -> list[dict]:
    """A row a step, for a terminal or a notebook."""
    rows = []
    for g in run.executed():
        m, o = run.metrics(g), run.origin(g)
        row = {"step": g, "lever": LEVERS[o["action"]], "score": m["score"], "noise": m["noise"], "kept": m["accepted"]}
        row |= {"verifier_calls": m["used"]["verifier_calls"], "tokens": m["used"]["tokens"]}
        rows.append(row | {"change": _change(run, g, o), "note": m["note"]})
    return rows


def _change(run: Run, g: int, origin: dict) -> str:
    """What the lever did to the step before."""
    if origin["action"] == "init":
        return "A_1 by the Meta-Agent"
    if origin["action"] == "harness":
        return f"from step {origin['parent']}: {', '.join(origin['edits'])}"
    return f"from step {origin['parent']}: {origin['algorithm']}, {training_line(training.result(training.folder_of(run, g)))}"


def training_line(result: dict) -> str:
    """What a weight update came to."""
    before, after = result["before"]["mean"], result["after"]["mean"]
    return f"{result['steps']} training steps, mean score {before:.4f} → {after:.4f}, stopped: {result['stopped']}"


def scaffold_diff(run: Run, step: int) -> str:
    """Unified diff of A_g to its parent's scaffold."""
    parent = run.origin(step)["parent"]
    before = run.scaffold(parent).splitlines() if parent else []
    return "\n".join(difflib.unified_diff(before, run.scaffold(step).splitlines(), f"step {parent}", f"step {step}", lineterm=""))


def _list(echo) -> None:
    found = sorted((results_dir() / "runs").glob("*/run.json"))
    if not found:
        raise StoreError("no runs yet; `python -m sia_nb run` makes one")
    for path in found:
        try:
            run = Run(path.parent)
        except StoreError as error:
            echo(f"{path.parent.name}  damaged: {error}")
            continue
        state = "finished" if (path.parent / "report.json").exists() else "unfinished"
        echo(f"{run.path.name}  {len(run.executed())}/{run.config.steps} steps  {state}")


def _step(run: Run, g: int, diff: bool, echo) -> None:
    if g not in run.steps():
        raise StoreError(f"{run.path.name} has no step {g}; it has {', '.join(map(str, run.steps())) or 'none'}")
    if diff:
        echo(scaffold_diff(run, g))
        return
    if g in training.trained_steps(run):
        folder = training.folder_of(run, g)
        echo("--- weights/curve.jsonl")
        for line in training.curve_lines(folder):
            echo(training.curve_line(line))
        result = training.result(folder)
        echo(f"{training.gain_sentence(result)} Stopped: {result['note']}.")
    for name in ("decision.json", "improvement.md"):
        path = run.step(g) / name
        if path.exists():
            echo(f"--- {name}\n{path.read_text(encoding='utf-8')}")
    path = run.step(g) / "trajectory.jsonl"
    if path.exists():
        echo("--- trajectory.jsonl")
        for e in Trajectory.read(path):
            text = json.dumps(e.data, ensure_ascii=False)
            echo(f"{e.id:5} {e.seconds:8.2f}s {e.kind:9} {text[:240]}{' …' if len(text) > 240 else ''}")


# -- what the levers were worth, in sentences --------------------------------------------------------

PAIRS = (("H", "baseline"), ("W", "baseline"), ("W+H", "baseline"), ("W+H", "H"), ("W+H", "W"), ("W", "H"))


def findings(task: str, *, profile: str = "", also: Path | None = None) -> list[str]:
    """What the arms' finished runs allow to say: each pair of arms, then the weight updates one by one.

    Raises:
        StoreError: no finished run and no reference run.
    """
    from .figures import gather

    ours, reference = gather(task, profile, also)
    runs, metric = ours or reference, PAPER[task]["metric"]
    return [*comparisons(runs, metric), *collect.disagreements(runs, metric), *weight_updates(runs)]


def comparisons(runs: list[collect.Finished], metric: str) -> list[str]:
    """A sentence for each pair of arms that share seeds: the paired difference on the sealed test with its 95 % interval."""
    out = []
    for arm, other in PAIRS:
        a, b = ({f.seed: (f, v) for f, v in collect.arm_values(runs, x, metric)} for x in (arm, other))
        seeds = sorted(set(a) & set(b))
        if seeds:
            calls = [sum(found[s][0].report["arms"][x]["verifier_calls"] for s in seeds) for found, x in ((a, arm), (b, other))]
            spent = f"{calls[0] / len(seeds):.0f} against {calls[1] / len(seeds):.0f} verifier calls"
            out.append(comparison(arm, other, [a[s][1] - b[s][1] for s in seeds], spent))
    return out


def comparison(arm: str, other: str, differences: list[float], spent: str) -> str:
    """What the paired differences of two arms over seeds allow to say, and no more."""
    names = f"{ARM_NAMES[arm]} − {ARM_NAMES[other]}"
    mean, low, high = collect.interval(differences)
    if low != low:
        return f"{names}: {mean:+.3f} with 1 seed, which is no evidence of a difference either way ({spent})."
    if low > 0:
        verdict = f"{ARM_NAMES[arm]} is better"
    elif high < 0:
        verdict = f"{ARM_NAMES[arm]} is worse"
    else:
        verdict = "it did not help measurably: the interval holds 0"
    return f"{names}: {mean:+.3f}, 95 % interval [{low:+.3f}, {high:+.3f}] over {len(differences)} seeds: {verdict} ({spent})."


def weight_updates(runs: list[collect.Finished]) -> list[str]:
    """What the single weight updates did, arm by arm: how many were kept, and in how many the policy's rewards rose."""
    out = []
    for arm in ("W", "W+H"):
        group = [f for f in runs if f.arm == arm]
        steps = [(f.run, g) for f in group for g in f.run.executed() if f.run.origin(g)["action"] == "weights"]
        if not group:
            continue
        if not steps:
            out.append(f"{ARM_NAMES[arm]}: the Feedback-Agent never chose a weight update in {len(group)} runs.")
            continue
        kept = sum(run.metrics(g)["accepted"] for run, g in steps)
        bounds = [
            training.gain(r["before"], r["after"])[1:] for r in (training.result(run.step(g) / "weights") for run, g in steps)
        ]
        rose, fell = sum(low > 0 for low, _ in bounds), sum(high < 0 for _, high in bounds)
        out.append(
            f"{ARM_NAMES[arm]}: {len(steps)} weight updates in {len(group)} runs; the mean score of the policy's samples rose "
            f"in {rose} and fell in {fell} (95 % interval without 0); {kept} were kept for a dev score beyond the noise, "
            f"{len(steps) - kept} rolled back."
        )
    return out
