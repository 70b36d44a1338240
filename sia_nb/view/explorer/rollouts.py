"""The rollouts of a weight update: sorted, before and after, with its curve and result. Used by ``model``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import ConfigError, StoreError, nearest
from ...store import Run
from . import files
from .describe import shorten
from .files import number

SORTS = ("reward", "advantage", "id")
WHEN = ("all", "before", "after")


def rollouts(run: Run, g: int, sort: str, when: str, offset: int, limit: int) -> dict[str, Any]:
    """The answer to ``rollouts``: a page of the rollouts of the weight update that made step g, best first unless by id.

    Before and after are the rewarded rollouts of the first and of the last training step: the first are the policy's of
    before any update, the last those of before the last one. A rollout's ``id`` is its place in the file.

    Raises:
        ConfigError: an unknown order or choice. StoreError: the step was not made by a weight update, or a file is damaged.
    """
    for name, value, known in (("sort", sort, SORTS), ("when", when, WHEN)):
        if not isinstance(value, str) or value not in known:
            raise ConfigError(f"{name}: {value!r}; expected one of {', '.join(known)}.{nearest(str(value), known)}")
    folder = run.step(g) / "weights"
    if not folder.is_dir():
        trained = ", ".join(str(h) for h in files.numbered(run) if (run.step(h) / "weights").is_dir()) or "none"
        raise StoreError(f"step {g} of {run.path.name} was not made by a weight update; steps that were: {trained}")
    lines, damaged = files.lines(folder / "rollouts.jsonl")
    curve, bad = files.lines(folder / "curve.jsonl")
    rows = _ordered(_when([{"id": n, **line} for n, line in enumerate(lines)], when), sort)
    cut: dict[str, int] = {}
    page = [shorten(row, f"rows.{n}", cut) for n, row in enumerate(rows[offset : offset + limit])]
    answer = {"rows": page, "total": len(lines), "matched": len(rows), "offset": offset, "cut": cut, "curve": curve}
    answer |= {"result": _result(folder), "hyperparameters": files.table(folder / "hyper.json")}
    return answer | {"damaged": {"rollouts.jsonl": damaged, "curve.jsonl": bad}}


def _result(folder: Path) -> dict[str, Any] | None:
    """result.json but for the list of solutions, which are among the rollouts; None before training has ended."""
    return {k: v for k, v in files.table(folder / "result.json").items() if k != "solutions"} or None


def _when(rows: list[dict[str, Any]], when: str) -> list[dict[str, Any]]:
    known = [row for row in rows if number(row.get("reward")) is not None]
    if when == "all" or not known:
        return rows if when == "all" else []
    step = known[0 if when == "before" else -1].get("step")
    return [row for row in known if row.get("step") == step]


def _ordered(rows: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """Best first; those without a value, and not a number, last."""
    if sort == "id":
        return rows

    def key(row: dict[str, Any]) -> tuple[bool, float]:
        value = number(row.get(sort))
        return (True, 0.0) if value is None or value != value else (False, -value)

    return sorted(rows, key=key)
