"""Verdicts remembered by content hash, shared by the processes that use one folder.

One file a verdict, ``<first 32 digits of its key>.json``, with a checksum; a damaged one is removed and counts as none.
Under ``ids`` stands by what key each solution's verdict is remembered, so that any process can compare two of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError
from .files import Files, sha256
from .process import Failed

# Failures that a busy machine, or a sandbox that cannot start, may be behind.
FLEETING = ("timeout", "refused", "timer", "other_stream", "unfinished", "meddled")


class Memory:
    """What is known of solutions; safe to use from several threads and processes.

    Args:
        folder: where the verdicts stand.
        files: the task's.
        whole: whether an entry that did not fail holds all that belongs in it.
    """

    def __init__(self, folder: Path, files: Files, whole: Callable[[dict[str, Any]], bool]):
        self.folder, self.files, self.whole = Path(folder), files, whole
        self._known: dict[str, dict[str, Any]] = {}
        self._of: dict[str, dict[str, Any]] = {}  # by solution id

    def get(self, key: str, run: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], float, bool]:
        """The entry of a key, the seconds that it took, and whether it was remembered; ``run`` makes it where it is not.

        An entry is plain JSON data; where ``run`` raises ``Failed`` it is {"failed": "kind: message"}, which is
        remembered unless another try may end otherwise (``FLEETING``).
        """
        entry, seconds, cached = self._known.get(key) or self.load(key), 0.0, True
        if entry is None:
            with self._alone(key):
                entry = self.load(key)
                if entry is None:
                    cached, began = False, time.perf_counter()
                    entry = self._fresh(key, run)
                    seconds = time.perf_counter() - began
        self._known[key] = entry
        return entry, seconds, cached

    def note(self, name: str, solution_id: str, key: str) -> None:
        """Say that the verdict on a solution is remembered by ``key``; ``name`` stands for the solution on this data."""
        if solution_id not in self._of:
            self.files.write_json(self._note(name), {"id": solution_id, "key": key})
        self._of[solution_id] = self._known[key]

    def of(self, name: str, solution_id: str) -> dict[str, Any]:
        """The entry of a solution that was scored as valid, here or by another process with this folder.

        Raises:
            DataError: there is none.
        """
        if solution_id not in self._of:
            try:
                entry = self.load(self.files.read_json(self._note(name))["key"]) or {"failed": ""}
            except (OSError, ValueError, KeyError, TypeError, DataError):
                entry = {"failed": ""}
            if "failed" in entry:
                raise DataError(
                    f"{self.files.task}: no valid verdict on solution {solution_id} is remembered in {self.folder}. Call score() "
                    "on it before paired_se()."
                )
            self._of[solution_id] = entry
        return self._of[solution_id]

    def load(self, key: str) -> dict[str, Any] | None:
        """The entry on the disk; None where there is none or it is damaged."""
        path = self._path(key)
        try:
            raw = json.loads(path.read_bytes())
            entry = raw["entry"]
            whole = raw["key"] == key and raw["check"] == sha256(json.dumps(entry).encode())
            if whole and ("failed" in entry or self.whole(entry)):
                return entry
        except OSError:
            return None
        except (ValueError, KeyError, TypeError):
            pass
        path.unlink(missing_ok=True)
        return None

    def _path(self, key: str) -> Path:
        return self.folder / f"{key[:32]}.json"

    def _note(self, name: str) -> Path:
        return self.folder / "ids" / f"{sha256(name.encode())[:32]}.json"

    def _fresh(self, key: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            entry = run()
        except Failed as error:
            entry = {"failed": f"{error.kind}: {error}"}
        if entry.get("failed", "").partition(":")[0] not in FLEETING:
            self.files.write_json(self._path(key), {"key": key, "entry": entry, "check": sha256(json.dumps(entry).encode())})
        return entry

    @contextlib.contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """One process at a time works on a verdict: runs side by side ask for many of the same."""
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / key[:2], "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
