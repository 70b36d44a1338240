"""Where a run keeps what the explorer shows, and reading it so that nothing of the run is touched and one bad line hides nothing.

Everything is read, nothing written, and no lock is taken: a run that goes on does not notice. Used within this folder.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ...errors import StoreError
from ...store import Run, read_json, results_dir

FRESH = 30.0  # seconds since a file was last written in which a run without a lock counts as going on
TRAJECTORY, GROWING = "trajectory.jsonl", ".trajectory.jsonl.tmp"  # of a step that is done, and of one that is being executed
END = 256  # bytes by which a file that grew is known to be the one that was counted


def discover() -> list[Path]:
    """The run folders under results/runs and results/reference, one's own first."""
    root = results_dir()
    own, reference = (root / "runs").glob("*/run.json"), (root / "reference").glob("*/*/*/run.json")
    return [path.parent for group in (own, reference) for path in sorted(group)]


def open_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        StoreError: there is none, it is damaged, or another version wrote it; the message names the file.
    """
    if not folder.is_dir():
        raise StoreError(f"run: {folder} does not exist; was it moved or deleted? Choose another run.")
    if not isinstance(table(folder / "run.json").get("config", {}), dict):
        raise StoreError(f"{folder / 'run.json'} holds no valid config: expected an object. Restore the file.")
    return Run(folder)


def table(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file.

    Raises:
        StoreError: it is damaged, or holds something else.
    """
    try:
        found = read_json(path) if path.exists() else {}
    except RecursionError:
        found = None
    if not isinstance(found, dict):
        raise StoreError(
            f"{path} is damaged: it holds no JSON object. Restore it, or delete the step's folder and resume the run."
        )
    return found


def text(path: Path) -> str:
    """A text file, "" where there is none; bytes that are no text are replaced."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The JSON objects of a file, one a line, and the numbers of the lines that hold none; empty where there is no file.

    A last line that has no end is still being written, and waits.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return [], []
    out, damaged = [], []
    for n, line in enumerate(raw.split(b"\n")[:-1], 1):
        try:
            value = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            out.append(value)
        else:
            damaged.append(n)
    return out, damaged


def number(value: Any) -> Any:
    """A number as it is, anything else as None."""
    return value if type(value) in (int, float) else None


def numbered(run: Run) -> list[int]:
    """The steps that have a scaffold or are being trained, in order."""
    found = set()
    for pattern in ("step_*/scaffold/agent.py", "step_*/weights/hyper.json"):
        names = (path.parent.parent.name[5:] for path in run.path.glob(pattern))
        found |= {int(name) for name in names if name.isdecimal()}
    return sorted(found)


def executed(run: Run, g: int) -> bool:
    """Whether step g's execution is done."""
    return (run.step(g) / "run.done.json").exists()


def trajectory_path(run: Run, g: int) -> Path:
    """Where step g's trajectory is, or is being written."""
    growing = run.step(g) / GROWING
    return growing if growing.exists() and not executed(run, g) else run.step(g) / TRAJECTORY


_COUNTED: dict[tuple[int, int], tuple[int, int, bytes]] = {}  # (device, inode) → bytes, lines, the last bytes


def count_lines(path: Path) -> int:
    """The lines of a file that grows; what was counted before is not read again. 0 where there is none."""
    try:
        with open(path, "rb", buffering=0) as file:
            told = os.fstat(file.fileno())
            key = (told.st_dev, told.st_ino)
            size, count, end = _COUNTED.get(key, (0, 0, b""))
            if told.st_size < size or os.pread(file.fileno(), len(end), size - len(end)) != end:
                size = count = 0
            file.seek(size)
            while block := file.read(1 << 20):
                size, count = size + len(block), count + block.count(b"\n")
            _COUNTED[key] = (size, count, os.pread(file.fileno(), END, max(0, size - END)))
            return count
    except OSError:
        return 0


def fingerprint(run: Run) -> tuple:
    """Changes whenever something that is shown of the run changes; a few dozen look-ups, nothing is read."""
    watched = [run.path / name for name in ("run.json", "report.json", "ledger.jsonl")]
    for pattern in ("step_*/*.json", f"step_*/{TRAJECTORY}", f"step_*/{GROWING}", "step_*/*/*.json*", "step_*/*/agent.py"):
        watched += sorted(run.path.glob(pattern))
    return tuple((str(path), *_stamp(path)) for path in watched)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        told = path.stat()
        return told.st_size, told.st_mtime_ns
    except OSError:
        return 0, 0


def live(run: Run) -> bool:
    """Whether the run goes on: a process holds its lock, or it has no report and one of its files was written just now."""
    if _lock_is_held(run.path / ".lock"):
        return True
    if (run.path / "report.json").exists():
        return False
    watched = [run.path / ".progress.json", *run.path.glob(f"step_*/{GROWING}"), *run.path.glob("step_*/weights/curve.jsonl")]
    return any(time.time() - _stamp(path)[1] / 1e9 < FRESH for path in watched)


def _lock_is_held(path: Path) -> bool:
    """From the kernel's own list of locks, so that the lock need not be touched; False where there is no such list."""
    try:
        told = path.stat()
        held = Path("/proc/locks").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    name = f"{os.major(told.st_dev):02x}:{os.minor(told.st_dev):02x}:{told.st_ino}"
    return any(name in line.split() for line in held)
