"""Which kind of change each lever made: the answers of successive incumbents compared field by field.

A step that was kept replaced the incumbent's answer by its own. Each field that differs between the two specs is one
change of the field's kind in the task's space (parameter, structure or post-processing); where either answer is a program,
the whole is one change of kind "code". The change is the lever's that was pulled before the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import InvalidSolution, StoreError
from . import collect, figures, markdown
from .collect import Finished
from .paper import ARM_NAMES, ARMS

KINDS = ("parameter", "structure", "post-processing", "code")
COLUMNS = ["task", "arm", "seed", "step", "lever", "algorithm", "kind", "field", "before", "after", "source", "hardware", "run"]
LEVERS = {"harness": "harness update", "weights": "weight update"}


def table(task: str = "denoising", *, profile: str = "", out: Path | None = None, also: Path | None = None) -> tuple[str, dict]:
    """The changes counted by arm, lever and kind. Returns Markdown and the files by suffix; the CSV has a row a change.

    Raises:
        StoreError: no finished run and no reference run, or one whose answers are not of the task's space.
    """
    from ..tasks import get_task

    ours, reference = figures.gather(task, profile, also)
    runs = ours or reference
    rows = changes(runs, get_task(task).space)
    kept = kept_steps(runs)
    head = ["arm", "lever", "kept steps", *KINDS, "fields changed most"]
    lines = markdown.head(head)
    for arm, lever in sorted(kept, key=lambda key: (ARMS.index(key[0]), list(LEVERS).index(key[1]))):
        mine = [r for r in rows if (r["arm"], r["lever"]) == (arm, lever)]
        counts = [str(sum(r["kind"] == kind for r in mine)) for kind in KINDS]
        lines.append(markdown.line([ARM_NAMES[arm], LEVERS[lever], kept[arm, lever], *counts, _often(mine)]))
    whole = "\n".join(lines) if kept else "No step after the first was kept, so no lever has changed the answer."
    return collect.write_table(f"changes_{task}", whole, rows, COLUMNS, out)


def changes(runs: Iterable[Finished], space: Any) -> list[dict[str, Any]]:
    """A row for each change between the answers of successive incumbents; ``space`` is the task's."""
    out = []
    for f in runs:
        common = {"task": f.run.config.task, "arm": f.arm, "seed": f.seed, "source": f.source}
        common |= {"hardware": f.run.info["hardware"], "run": f.run.path.name}
        for step, origin, before, after in _replaced(f):
            told = common | {"step": step, "lever": origin["action"], "algorithm": origin.get("algorithm", "")}
            out += [told | change for change in difference(before, after, space)]
    return out


def kept_steps(runs: Iterable[Finished]) -> dict[tuple[str, str], int]:
    """(arm, lever) → how many of its steps replaced an incumbent's answer."""
    out: dict[tuple[str, str], int] = {}
    for f in runs:
        for _, origin, _, _ in _replaced(f):
            key = (f.arm, origin["action"])
            out[key] = out.get(key, 0) + 1
    return out


def _replaced(f: Finished) -> Iterable[tuple[int, dict[str, Any], str, str]]:
    """(step, origin, answer before, answer after) of each step that was kept after one with a valid answer."""
    before = None
    for g in f.run.executed():
        m = f.run.metrics(g)
        if not m["accepted"]:
            continue
        if m["valid"]:
            if before is not None:
                yield g, f.run.origin(g), before, m["solution"]
            before = m["solution"]


def difference(before: str, after: str, space: Any) -> list[dict[str, Any]]:
    """{"kind", "field", "before", "after"} for each field that differs; one of kind "code" where either is a program."""
    if before == after:
        return []
    if not (before.startswith("{") and after.startswith("{")):
        return [{"kind": "code", "field": "", "before": "", "after": ""}]
    try:
        old, new = space.parse(before), space.parse(after)
    except InvalidSolution as error:
        raise StoreError(
            f"the answers {before!r} and {after!r} of a run are not both of the task's space ({error}); the run was made with "
            "another version of the space: draw it with that version, or leave it out"
        ) from None
    return [
        {"kind": f.kind, "field": f.name, "before": str(old[f.name]), "after": str(new[f.name])}
        for f in space.fields
        if (type(old[f.name]), old[f.name]) != (type(new[f.name]), new[f.name])
    ]


def _often(rows: list[dict[str, Any]], most: int = 3) -> str:
    """``knn (4), rescale (2)``: the fields that changed most often."""
    counts: dict[str, int] = {}
    for r in rows:
        if r["field"]:
            counts[r["field"]] = counts.get(r["field"], 0) + 1
    ranked = sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))[:most]
    return ", ".join(f"{name} ({n})" for name, n in ranked)
