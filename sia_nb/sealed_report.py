"""The one way to an end result: choose on dev by the full verdict, write down that the sealed test is opened, open it once.

Runs and controls report through this, so that what they report differs in how the solutions were found and in nothing
else. Called by ``phases.report`` and ``controls``; it may import ``store`` and ``tasks``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from .errors import InvalidSolution, StoreError
from .store import read_json, write_json
from .tasks.base import Score, Solution, Task, Verifier

PROMOTED = 5  # how many of the best by the loop's verdict that the full verdict holds valid are compared before the report
EXAMINED = 256  # how many are looked at to find them


def promoted(
    verifier: Verifier,
    found: Iterable[Solution],
    baseline: Solution | None = None,
    tell: Callable[[int], None] = lambda done: None,
    before: str | None = None,
) -> tuple[Solution | None, dict[str, Score]]:
    """The best of the PROMOTED first of ``found`` that the full verdict holds valid, and of ``baseline``; the verdicts by id.

    A full verdict may be stricter than the loop's (a gate that is soft there), so more are examined where some fail it.

    Args:
        found: best first by the loop's verdict, EXAMINED at most.
        tell: told before each full verdict of how many there are.
        before: the id of the solution that a report chose before this one (``opened_for``). Where verdicts are timings, which
            come out otherwise each time they are taken, it stays chosen.
    """
    full: dict[str, Score] = {}
    found = list(found)[:EXAMINED]
    known = [s for s in (*found, baseline) if s is not None and s.id == before]
    if known and getattr(verifier, "timed", False):
        return known[0], {s.id: verifier.full(s) for s in (known[0], baseline) if s is not None}

    def sound(solution: Solution) -> bool:
        tell(min(len(full), PROMOTED))
        full[solution.id] = full.get(solution.id) or verifier.full(solution)
        return full[solution.id].valid

    compared = list(islice(filter(sound, found), PROMOTED)) + [b for b in (baseline,) if b and sound(b)]
    return max(compared or found[:1], key=lambda s: full[s.id].value, default=None), full


def opened_for(folder: Path, arm: str) -> str | None:
    """The id of the arm's solution for which a report that did not end has opened the sealed test; None where none has."""
    path = folder / "seal.json"
    return read_json(path)["solutions"].get(arm) if path.exists() else None


def log_opening(folder: Path, chosen: dict[str, Solution | None]) -> None:
    """Write down in ``folder``/seal.json that the sealed test is opened, when, and for which solutions, before it is.

    A report that was killed is done again; it may open the test for the same solutions only.

    Raises:
        StoreError: the test has been opened for others.
    """
    path = folder / "seal.json"
    ids = {arm: solution.id if solution else None for arm, solution in chosen.items()}
    if not path.exists():
        write_json(path, {"created": datetime.now(UTC).isoformat(timespec="seconds"), "solutions": ids})
    elif (before := read_json(path)["solutions"]) != ids:
        raise StoreError(
            f"{path}: the sealed test has been opened for the solutions {before}, now asked for {ids}. It is opened once a run: "
            "what the run's steps hold was changed since; start a new run."
        )


def open_seal(task: Task, verifier: Verifier, solution: Solution | None, full: dict[str, Score]) -> dict[str, Any]:
    """What the report says of ``solution``: itself, its full verdict on dev, and the sealed test's figures."""
    if solution is None:
        return {"solution": None, "dev": 0.0, "test": {task.report_metric: 0.0}}
    told = {"solution": solution.text, "solution_id": solution.id, "dev": full[solution.id].value}
    try:
        return told | {"test": verifier.seal(solution)}
    except InvalidSolution as error:  # it may fail on the sealed data alone; the seal is broken all the same
        return told | {"test": {task.report_metric: 0.0}, "reason": f"{error.kind}: {error}"}
