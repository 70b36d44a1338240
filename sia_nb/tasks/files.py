"""How every task writes and checks its files. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError


def sha256(data: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Files:
    """A task's way to its files; its messages name the task and what to run to prepare its data."""

    task: str
    prepare: str  # the command that prepares the data, e.g. "make data"

    def write_atomic(self, path: Path, data: bytes) -> None:
        """Write through a temporary name and rename, so that a reader sees the old file or the whole new one.

        Raises:
            DataError: the disk is full or the folder is not writable.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise DataError(
                f"{self.task}: cannot write {path}: {error.strerror}. Free some space or choose another data folder."
            ) from error

    def write_json(self, path: Path, value: Any) -> str:
        """Write JSON atomically; returns the SHA-256 of what was written."""
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        self.write_atomic(path, data)
        return sha256(data)

    def read(self, path: Path, expected: str | None = None) -> bytes:
        """A file's bytes, their SHA-256 checked where one is given.

        Raises:
            DataError: the file is missing or altered.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{self.task}: {path} cannot be read ({error.strerror}). Run `{self.prepare}` to prepare it."
            ) from error
        if expected is not None and sha256(data) != expected:
            raise DataError(
                f"{self.task}: {path} was altered: found SHA-256 {sha256(data)}, expected {expected}. "
                f"Delete it and run `{self.prepare}` again."
            )
        return data

    def read_json(self, path: Path, expected: str | None = None) -> Any:
        """Read JSON, checking its SHA-256 where one is given.

        Raises:
            DataError: the file is missing, altered or cut short.
        """
        data = self.read(path, expected)
        try:
            return json.loads(data)
        except ValueError as error:
            raise DataError(
                f"{self.task}: {path} is cut short or damaged ({error}). Delete it and run `{self.prepare}` again."
            ) from error
