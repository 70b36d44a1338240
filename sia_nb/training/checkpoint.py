"""Checkpoints of a weight update: one folder a step, written whole or not at all.

A checkpoint is written under a temporary name, flushed to the disk, renamed, and only then are older ones removed; a kill
at any instant leaves at least one good one. ``state.json`` names the other files with their SHA-256.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import StoreError, TrainingError
from ..store import sha256

FORMAT = 1
STATE = "state.json"


def save(root: Path, step: int, state: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Write the checkpoint of ``step`` and remove the older ones.

    Args:
        root: the folder of the checkpoints.
        state: plain JSON data.
        write: puts everything else (weights, optimiser) into the folder that it is given.

    Raises:
        StoreError: the disk is full or not writable; the checkpoint before is still there.
    """
    target, temporary = root / f"step_{step:06d}", root / f".step_{step:06d}.tmp"
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write(temporary)
        files = {str(f.relative_to(temporary)): sha256(f) for f in sorted(temporary.rglob("*")) if f.is_file()}
        text = json.dumps({"format": FORMAT, "step": step, "files": files, "state": state}, ensure_ascii=False)
        (temporary / STATE).write_text(text, encoding="utf-8")
        for path in [*temporary.rglob("*"), temporary]:
            _flush(path)
        if target.exists():  # a damaged one that ``latest`` passed over
            shutil.rmtree(target)
        os.replace(temporary, target)
        _flush(root)
    except OSError as error:
        raise StoreError(
            f"checkpoint: {target} cannot be written: {error.strerror or error}. Free some space and call it again; the "
            "checkpoint before is kept."
        ) from error
    for old in root.iterdir():
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    return target


def latest(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest good checkpoint's folder and state; None where there is none at all.

    Raises:
        TrainingError: there are checkpoints, and every one is damaged.
    """
    if not root.is_dir():
        return None
    folders = sorted((p for p in root.iterdir() if p.name.startswith("step_")), reverse=True)
    wrong = []
    for folder in folders:
        try:
            read = json.loads((folder / STATE).read_text(encoding="utf-8"))
            if read["format"] != FORMAT:
                raise ValueError(f"format {read['format']}, expected {FORMAT}")
            for name, digest in read["files"].items():
                if sha256(folder / name) != digest:
                    raise ValueError(f"{name} was truncated or altered")
            return folder, read["state"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            wrong.append(f"{folder}: {error}")
    if wrong:
        raise TrainingError(f"checkpoint: no good one is left ({'; '.join(wrong)}). Delete {root} to begin anew.")
    return None


def _flush(path: Path) -> None:
    """fsync of a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
