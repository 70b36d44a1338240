"""Run folders as plain data: which there are, how they stand, their steps, decisions and ledger. Used by ``model`` only.

Everything is read, nothing written, and no lock is taken: a run that goes on does not notice. A file that is damaged is named
and passed over, so that one bad line does not hide the rest.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...errors import StoreError
from ...store import Run, read_json, results_dir

LEVERS = {"init": "start", "harness": "H", "weights": "W"}
FRESH = 30.0  # seconds since a file was last written in which a run without a lock counts as going on
TRAJECTORY, GROWING = "trajectory.jsonl", ".trajectory.jsonl.tmp"  # of a step that is done, and of one that is being executed


def discover() -> list[Path]:
    """The run folders under results/runs and results/reference, those of one's own first."""
    root = results_dir()
    own, reference = (root / "runs").glob("*/run.json"), (root / "reference").glob("*/*/*/run.json")
    return [path.parent for group in (own, reference) for path in sorted(group)]


def lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The JSON objects of a file, one a line, and the numbers of the lines that hold none; empty where there is no file.

    A last line that has no end is still being written, and waits.
    """
    try:
        raw = path.read_bytes()
    except OSError:
        return [], []
    out, damaged = [], []
    for number, line in enumerate(raw.split(b"\n")[:-1], 1):
        try:
            value = json.loads(line.decode("utf-8", "replace"))
            if not isinstance(value, dict):
                raise ValueError
            out.append(value)
        except (ValueError, RecursionError):
            damaged.append(number)
    return out, damaged


def optional(path: Path) -> Any:
    """The JSON in a file, None where there is none.

    Raises:
        StoreError: it is damaged.
    """
    return read_json(path) if path.exists() else None


def trajectory_path(run: Run, g: int) -> Path:
    """Where step g's trajectory is, or is being written."""
    done = run.step(g) / TRAJECTORY
    return done if done.exists() or not (run.step(g) / GROWING).exists() else run.step(g) / GROWING


_COUNTED: dict[tuple[int, int], tuple[int, int, int]] = {}  # (device, inode) → bytes, time of change, lines


def count_events(path: Path) -> int:
    """The lines of a trajectory, counted anew only where the file has changed; 0 where there is none."""
    try:
        with open(path, "rb") as file:
            told = os.fstat(file.fileno())
            key, now = (told.st_dev, told.st_ino), (told.st_size, told.st_mtime_ns)
            if _COUNTED.get(key, ())[:2] != now:
                blocks = iter(lambda: file.read(1 << 20), b"")
                _COUNTED[key] = (*now, sum(block.count(b"\n") for block in blocks))
            return _COUNTED[key][2]
    except OSError:
        return 0


def live(run: Run) -> bool:
    """Whether the run goes on: a process holds its lock, or it has no report and one of its files was written just now."""
    if _lock_is_held(run.path / ".lock"):
        return True
    if (run.path / "report.json").exists():
        return False
    watched = [run.path / ".progress.json", *run.path.glob(f"step_*/{GROWING}"), *run.path.glob("step_*/weights/curve.jsonl")]
    now = time.time()
    return any(now - _written(path) < FRESH for path in watched)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _lock_is_held(path: Path) -> bool:
    """From the kernel's own list of locks, so that the lock need not be touched; False where there is no such list."""
    try:
        told = path.stat()
        held = Path("/proc/locks").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    name = f"{os.major(told.st_dev):02x}:{os.minor(told.st_dev):02x}:{told.st_ino}"
    return any(name in line.split() for line in held)


# -- runs ------------------------------------------------------------------------------------------------


def describe(name: str, folder: Path) -> dict[str, Any]:
    """One line of the list of runs; a folder that cannot be read is a line too, with the reason as its note."""
    row: dict[str, Any] = {"name": name, "task": "", "arm": "", "seed": None, "agent": "", "steps": 0, "state": "damaged"}
    row |= {"score": None, "report": None, "note": ""}
    try:
        run = Run(folder)
    except StoreError as error:
        return row | {"note": str(error)}
    config = run.config
    row |= {"task": config.task, "arm": config.arm, "seed": config.seed, "agent": config.agent, "planned": config.steps}
    row |= {"profile": config.profile, "created": str(run.info.get("created", "")), "hardware": str(run.info.get("hardware", ""))}
    notes = [str(n) for n in run.info.get("notices") or []]
    try:
        steps = run.executed()
        row |= {"steps": len(steps)}
        if steps:
            row["score"] = number(run.metrics(number(run.metrics(steps[-1]).get("incumbent")) or steps[-1]).get("score"))
        row["report"] = report(run)
        row["state"] = "finished" if row["report"] else "running" if live(run) else "unfinished"
    except StoreError as error:
        notes.append(str(error))
    if row["state"] == "unfinished":
        notes.append(f"{row['steps']} of {config.steps} steps are done: `python -m sia_nb resume {folder.name}` goes on.")
    return row | {"note": " ".join(notes)}


def report(run: Run) -> dict[str, Any] | None:
    """report.json: what the sealed test said; None before it was opened.

    Raises:
        StoreError: it is damaged.
    """
    found = optional(run.path / "report.json")
    return found if isinstance(found, dict) else None


def number(value: Any) -> Any:
    """A number as it is, anything else as None."""
    return value if type(value) in (int, float) else None


# -- steps -----------------------------------------------------------------------------------------------


def steps(run: Run, events: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """The answer to ``steps``, but for what goes on.

    Args:
        events: (step, number of its events).
    """
    counted, damaged, out = dict(events), [], []
    spent = _spent_by_step(run, damaged)
    best = None
    for g in run.steps():
        row: dict[str, Any] = {"g": g, "lever": "", "algorithm": "", "score": None, "se": None, "best": best, "incumbent": False}
        row |= {"rolled_back": False, "verifier_calls": None, "tokens": None, "seconds": 0.0, "dollars": 0.0, "rule": ""}
        row |= {"events": counted.get(g, 0), "done": (run.step(g) / "run.done.json").exists(), "note": "", "edits": []}
        row |= {"parent": 0, "author": "", "valid": None, "solution": None} | spent.get(g, {})
        for read in (_origin, _rule, _metrics):
            try:
                row |= read(run, g)
            except StoreError as error:
                damaged.append({"g": g, "message": str(error)})
        if row["incumbent"] and row["score"] is not None:
            best = row["score"]
        out.append(row | {"best": best})
    return {"steps": out, "damaged": damaged}


def _table(path: Path) -> dict[str, Any]:
    found = optional(path)
    if found is not None and not isinstance(found, dict):
        raise StoreError(
            f"{path} is damaged: expected an object, found {type(found).__name__}. Restore it or run the step again."
        )
    return found or {}


def _origin(run: Run, g: int) -> dict[str, Any]:
    o = _table(run.step(g) / "origin.json")
    told = {"lever": LEVERS.get(str(o.get("action")), str(o.get("action", ""))), "algorithm": str(o.get("algorithm") or "")}
    return told | {
        "edits": list(o.get("edits") or []),
        "parent": number(o.get("parent")) or 0,
        "author": str(o.get("author", "")),
    }


def _rule(run: Run, g: int) -> dict[str, Any]:
    """The rule of the decision that made step g, which stands in the step before."""
    return {"rule": str(_table(run.step(g - 1) / "decision.json").get("rule") or "") if g > 1 else ""}


def _metrics(run: Run, g: int) -> dict[str, Any]:
    m = _table(run.step(g) / "metrics.json")
    if not m:
        return {}
    used = m.get("used") if isinstance(m.get("used"), dict) else {}
    told = {
        "score": number(m.get("score")),
        "se": number(m.get("noise")),
        "valid": m.get("valid"),
        "note": str(m.get("note", "")),
    }
    told |= {"incumbent": bool(m.get("accepted")), "rolled_back": not m.get("accepted"), "solution": m.get("solution")}
    return told | {k: number(used.get(k)) for k in ("verifier_calls", "tokens")}


# -- ledger ----------------------------------------------------------------------------------------------

AMOUNTS = ("seconds", "input_tokens", "output_tokens", "sampled_tokens", "verifier_calls", "dollars")


def _amounts(entry: dict[str, Any]) -> dict[str, float]:
    named = {**entry, "sampled_tokens": entry.get("tokens")}
    return {name: number(named.get(name)) or 0 for name in AMOUNTS}


def _spent_by_step(run: Run, damaged: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    entries, bad = lines(run.path / "ledger.jsonl")
    damaged += [{"g": None, "message": f"{run.path / 'ledger.jsonl'}, line {n} is damaged; it is left out."} for n in bad]
    out: dict[int, dict[str, float]] = {}
    for entry in entries:
        row, told = out.setdefault(number(entry.get("step")) or 0, {"seconds": 0.0, "dollars": 0.0}), _amounts(entry)
        for name in row:
            row[name] += told[name]
    return out


def ledger(run: Run) -> dict[str, Any]:
    """The answer to ``ledger``: what each phase spent, in order of first appearance, and the sum.

    ``unpriced`` counts entries whose price in dollars is not known.
    """
    entries, bad = lines(run.path / "ledger.jsonl")
    nothing = dict.fromkeys(AMOUNTS, 0) | {"unpriced": 0, "entries": 0}
    phases: dict[str, dict[str, Any]] = {}
    for entry in entries:
        row, told = phases.setdefault(str(entry.get("phase", "?")), dict(nothing)), _amounts(entry)
        for name in AMOUNTS:
            row[name] += told[name]
        row["unpriced"] += entry.get("dollars") is None
        row["entries"] += 1
    total = {name: sum(row[name] for row in phases.values()) for name in nothing}
    return {"phases": [{"phase": phase, **row} for phase, row in phases.items()], "total": total, "damaged": bad}
