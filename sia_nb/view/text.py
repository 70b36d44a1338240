"""A run in the terminal: the list of runs, one run step by step, one step in full."""

from __future__ import annotations

import difflib
import json

from ..errors import StoreError
from ..store import Run, find_run, read_json, results_dir
from ..trajectory import Trajectory


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
        echo(
            f"step {row['step']:3}  dev {row['score']:.4f}  {'kept' if row['kept'] else 'back'}  {row['verifier_calls']:4.0f} calls  {row['change']}"
        )
    report = run.path / "report.json"
    if report.exists():
        for arm, r in read_json(report)["arms"].items():
            echo(f"sealed test  {arm:9} " + "  ".join(f"{k} {v:.4f}" for k, v in r["test"].items()))
    else:
        echo("the sealed test has not been opened")
    return None


def steps_table(run: Run) -> list[dict]:
    """A row a step, for a terminal or a notebook."""
    rows = []
    for g in run.executed():
        m, o = run.metrics(g), run.origin(g)
        change = "A_1 by the Meta-Agent" if o["action"] == "init" else f"from step {o['parent']}: {', '.join(o['edits'])}"
        rows.append(
            {
                "step": g,
                "score": m["score"],
                "noise": m["noise"],
                "kept": m["accepted"],
                "verifier_calls": m["used"]["verifier_calls"],
            }
            | {"tokens": m["used"]["tokens"], "change": change, "note": m["note"]}
        )
    return rows


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
