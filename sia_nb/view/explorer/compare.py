"""Two scaffolds, two steps or two runs side by side. Used by ``model``."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np

from ...store import Run
from . import files, runs
from .events import EventLog
from .files import number, table

EXACT = 1_500  # lines up to which every line takes part in the comparison, however often it comes

Line = list[Any] | None  # [number, text]


def side_by_side(left: str, right: str) -> list[dict[str, Any]]:
    """The lines of two texts, paired: {"tag": equal, delete, insert or replace, "left": [number, text] or None, "right": the same}.

    A stretch of lines that was replaced is paired line by line; what is left over on one side was deleted or inserted.
    """
    a, b = left.splitlines(), right.splitlines()
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=len(a) + len(b) > EXACT)
    out = []
    for tag, a1, a2, b1, b2 in matcher.get_opcodes():
        for n in range(max(a2 - a1, b2 - b1)):
            one: Line = [a1 + n + 1, a[a1 + n]] if a1 + n < a2 else None
            two: Line = [b1 + n + 1, b[b1 + n]] if b1 + n < b2 else None
            out.append({"tag": tag if one and two else "delete" if one else "insert", "left": one, "right": two})
    return out


def scaffold(run: Run, g: int, to: int | None) -> dict[str, Any]:
    """The answer to ``scaffold``: A_g beside the scaffold of step ``to``, of its parent where that is None.

    Raises:
        StoreError: origin.json is damaged.
    """
    parent = to if to is not None else number(table(run.step(g) / "origin.json").get("parent")) or 0
    source = files.text(run.step(g) / "scaffold" / "agent.py")
    before = files.text(run.step(parent) / "scaffold" / "agent.py") if parent else ""
    return {"source": source, "parent_source": before, "parent_g": parent, "diff": side_by_side(before, source)}


def metrics(run: Run, g: int, log: EventLog | None, whole: bool) -> dict[str, Any]:
    """Name → value of what is told of step g; with ``whole`` of the run first.

    Raises:
        StoreError: a file is damaged.
    """
    steps = {row["g"]: row for row in runs.steps(run)["steps"]}
    row, m = steps[g], table(run.step(g) / "metrics.json")
    out = _of_run(run, steps) if whole else {}
    fate = "kept" if row["incumbent"] else "rolled back" if row["rolled_back"] else "not executed"
    out |= {"step": g, "lever": row["lever"], "algorithm": row["algorithm"], "edits": ", ".join(row["edits"])}
    out |= {"score": row["score"], "noise": row["se"], "fate": fate, "valid": row["valid"], "answer": row["solution"]}
    for name in ("verifier_calls", "tokens", "seconds", "dollars"):
        out[name.replace("_", " ")] = row[name]
    counts = m.get("counts") if isinstance(m.get("counts"), dict) else {}
    named = {"valid": "valid verdicts"}
    out |= {named.get(name, name.replace("_", " ")): number(n) for name, n in counts.items() if name != "failures"}
    failures = counts.get("failures") if isinstance(counts.get("failures"), dict) else {}
    out |= {f"failure: {word}": number(n) for word, n in failures.items()}
    result = table(run.step(g) / "weights" / "result.json")
    for when in ("before", "after"):
        group = result.get(when) if isinstance(result.get(when), dict) else {}
        out |= {f"mean score {when} training": number(group.get("mean"))} if group else {}
    return out | ({"events": len(log)} if log is not None else {})


def _of_run(run: Run, steps: dict[int, dict[str, Any]]) -> dict[str, Any]:
    done = [row for row in steps.values() if row["done"]]
    out = {"task": run.config.task, "arm": run.config.arm, "seed": run.config.seed, "agent": run.config.agent}
    out |= {"steps of the run": len(done), "kept": sum(row["incumbent"] for row in done)}
    for name in ("verifier_calls", "tokens", "seconds", "dollars"):
        out[f"{name.replace('_', ' ')} of the run"] = sum(row[name] or 0 for row in steps.values())
    arms = (runs.report(run) or {}).get("arms")
    for arm, told in (arms if isinstance(arms, dict) else {}).items():
        test = told.get("test") if isinstance(told, dict) else None
        role = "baseline" if arm == "baseline" else "the run's answer"
        out |= {f"sealed test, {role}: {k}": number(v) for k, v in (test if isinstance(test, dict) else {}).items()}
    return out


def paired(left: dict[str, Any], right: dict[str, Any]) -> list[dict[str, Any]]:
    """{"name", "left", "right"} of all names, in the order of the left; None where one side has none."""
    return [{"name": name, "left": left.get(name), "right": right.get(name)} for name in dict.fromkeys([*left, *right])]


def instances(log: EventLog | None, unnamed: str) -> dict[str, dict[str, Any]]:
    """Instance → what its verdicts were: verdicts, valid, best and mean score of the valid; ``unnamed`` for one without a name."""
    if log is None:
        return {}
    t, code = log.table, log.table.code("kind", "verdict")
    out = {}
    verdicts = np.flatnonzero(t["kind"] == code) if code is not None else np.empty(0, int)
    for instance in np.unique(t["instance"][verdicts]).tolist():
        mine = verdicts[t["instance"][verdicts] == instance]
        scores = t["reward"][mine][t["valid"][mine] == 1]
        scores = scores[~np.isnan(scores)]
        told = {"verdicts": len(mine), "valid": int((t["valid"][mine] == 1).sum())}
        told |= {"best": float(scores.max()), "mean": float(scores.mean())} if len(scores) else {"best": None, "mean": None}
        out[t.words["instance"][instance] or unnamed] = told
    return out
