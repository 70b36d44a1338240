"""Which finished runs can be drawn from, and what is wrong with the others: damaged, incomplete, or of an older format.

A figure is drawn from the runs that are whole; what is left out is a ``Gap`` that names its file, and is shown where the
run would stand. A run is whole where run.json and report.json can be read and are of this format, its steps follow one
another, each has the files that the figures read, and these are the bytes that the phase's mark names.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..store import LEFT_OUT, TRIMMED, Run, read_json, read_lines, results_dir, sha256

REPORT_FORMAT = 1
MEND = "restore it from the repository, or make the run again"
ABSENT = {"notebooks", *TRIMMED}  # may be, in a run that is committed: no figure reads them
_NAME = re.compile(r"^(?P<task>[a-z_]+)-(?P<arm>W\+H|H|W)-(?P<control>shuffled_rewards-)?.*?(?:-s(?P<seed>\d+)-[0-9a-f]+)?$")


@dataclass(frozen=True)
class Gap:
    """A run that is left out. ``arm`` and ``seed`` are what its folder's name says: empty and -1 where it says nothing."""

    path: Path
    why: str  # names the file, what was found, what was expected, what to do
    arm: str = ""
    seed: int = -1

    @property
    def short(self) -> str:
        """One line for a figure: the run and the file."""
        what = self.why.split("; ")[0].split(". ")[0]
        return f"{self.path.name}: {what.replace(str(self.path) + os.sep, '')}"


def examine(task: str, source: str = "ours", also: Path | None = None) -> tuple[list[tuple[Run, dict[str, Any]]], list[Gap]]:
    """The whole runs of a task with their reports, and the gaps. Of our own runs an unfinished one is neither.

    Args:
        source: "ours" (results/runs) or "reference" (results/reference/<task>/<hardware>).
        also: a run of ours that is kept elsewhere.
    """
    whole, gaps = [], []
    for path in sorted(_folders(task, source, also)):
        try:
            run, report = _whole(path, _signature(path))
        except (StoreError, OSError) as error:
            named = _NAME.match(path.name)
            if source == "reference" or (named and named["task"] == task):
                arm = named["arm"] if named and not named["control"] else ""  # a control has no place among the arms
                seed = int(named["seed"] or -1) if named else -1
                gaps.append(Gap(path, str(error), arm, seed))
            continue
        if run.config.task == task:
            whole.append((run, report))
    return whole, gaps


def gaps(task: str) -> list[Gap]:
    """What of a task's runs, ours and the committed ones, cannot be drawn."""
    return [gap for source in ("ours", "reference") for gap in examine(task, source)[1]]


def _folders(task: str, source: str, also: Path | None) -> Iterator[Path]:
    if source == "reference":
        for folder, inner, names in os.walk(results_dir() / "reference" / task):
            if {"run.json", "report.json"} & set(names) or any(n.startswith("step_") for n in inner):
                inner.clear()
                yield Path(folder).resolve()
        return
    found = {p.parent.resolve() for p in (results_dir() / "runs").glob("**/report.json")}
    if also and (also / "report.json").exists():
        found.add(also.resolve())
    yield from found


def _signature(path: Path) -> tuple:
    """Name, size and time of every file that a mark could name: a run that has not changed is examined once."""
    out = []
    for folder, inner, names in os.walk(path):
        inner[:] = [n for n in inner if n not in LEFT_OUT]
        for name in names:
            told = os.stat(os.path.join(folder, name))
            out.append((folder, name, told.st_size, told.st_mtime_ns))
    return tuple(sorted(out))


@lru_cache(256)
def _whole(path: Path, signature: tuple) -> tuple[Run, dict[str, Any]]:
    """Raises StoreError: the run at ``path`` is not whole; the message names the file."""
    run = Run(path)
    report = _report(path / "report.json", run)
    steps = run.executed()
    if not steps or steps != list(range(1, steps[-1] + 1)):
        missing = next((g for g in range(1, run.config.steps + 1) if g not in steps), 1)
        raise StoreError(f"{run.step(missing)} is missing or has no run.done.json; the steps of a run follow one another; {MEND}")
    ledger = path / "ledger.jsonl"
    ran = [line["step"] for line in read_lines(ledger) if line.get("phase") == "run"] if ledger.exists() else []
    if ran and max(ran) > steps[-1]:
        raise StoreError(f"{run.step(max(ran))} is missing, though ledger.jsonl tells of it; {MEND}")
    for g in steps:
        try:
            _step(run, g)
        except (KeyError, TypeError) as error:
            raise StoreError(
                f"{run.step(g)}: a file of this step lacks {error}; it was written by another version; {MEND}"
            ) from None
    return run, report


def _report(path: Path, run: Run) -> dict[str, Any]:
    report = read_json(path)
    if not isinstance(report, dict) or report.get("format", REPORT_FORMAT) != REPORT_FORMAT:
        found = report.get("format") if isinstance(report, dict) else type(report).__name__
        raise StoreError(f"{path}: format {found!r}, expected {REPORT_FORMAT}; it was written by another version; {MEND}")
    try:
        for arm in ("baseline", run.config.arm):
            entry = report["arms"][arm]
            numbers = (entry["test"][report["metric"]], entry["verifier_calls"], entry["tokens"])
            if not all(isinstance(n, int | float) for n in numbers):
                raise TypeError(f"of arm {arm}: {numbers}")
    except (KeyError, TypeError) as error:
        raise StoreError(f"{path}: {error} is missing or no number, expected the report of two arms; {MEND}") from None
    return report


def _step(run: Run, g: int) -> None:
    folder = run.step(g)
    needed = ["metrics.json", "origin.json", "trajectory.jsonl"]
    for name in ("metrics.json", "origin.json"):
        if not isinstance(read_json(folder / name), dict):
            raise StoreError(f"{folder / name}: expected a JSON object; {MEND}")
    if run.origin(g)["action"] == "weights" and (folder / "train.done.json").exists():
        needed += ["weights/rollouts.jsonl", "weights/result.json"]
    for name in needed:
        if not (folder / name).exists():
            raise StoreError(f"{folder / name} is missing; {MEND}")
    for mark in sorted(folder.glob("*.done.json")):
        for name, digest in read_json(mark)["files"].items():
            file = run.path / name
            if not file.exists():
                if ABSENT & set(file.relative_to(run.path).parts):
                    continue
                raise StoreError(f"{file} is missing, though {mark.name} names it; {MEND}")
            if sha256(file) != digest:
                raise StoreError(f"{file}{_where(file)} is altered since {mark.name} was written; {MEND}")


def _where(file: Path) -> str:
    """``, line 3`` where a line of a JSONL file is no JSON."""
    if file.suffix != ".jsonl":
        return ""
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], 1):
        try:
            json.loads(line)
        except ValueError:
            return f", line {number},"
    return ""
