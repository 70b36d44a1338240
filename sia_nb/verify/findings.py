"""What a check of a run has found. It may import ``errors`` and ``store``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..store import read_json, read_lines


@dataclass(frozen=True)
class Fault:
    """One thing that does not hold."""

    file: str  # within the run's folder
    field: str  # which part of it; "" for the whole file
    what: str  # what was found and what was expected

    def __str__(self) -> str:
        return f"{self.file}{f': {self.field}' if self.field else ''}: {self.what}"


@dataclass
class Findings:
    """The faults so far, and how much was looked at."""

    root: Path
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checked: int = 0  # single comparisons

    def fault(self, file: str, where: str, what: str) -> None:
        """Note what does not hold; each once."""
        found = Fault(file, where, what)
        if found not in self.faults:
            self.faults.append(found)

    def same(self, file: str, where: str, found: Any, expected: Any, source: str) -> bool:
        """Compare; ``source`` says where the expectation comes from."""
        self.checked += 1
        if found == expected:
            return True
        self.fault(file, where, f"is {_short(found)}, but {source} says {_short(expected)}")
        return False

    def json(self, name: str) -> Any:
        """The JSON of a file, None and a fault where it cannot be read or is no object."""
        return self._read(name, read_json, dict)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The objects of a file of lines; a damaged file is a fault and has none."""
        out = self._read(name, read_lines, list) or []
        if out and not (self.root / name).read_bytes().endswith(b"\n"):
            self.fault(name, f"line {len(out) + 1}", "has no end")
        return out

    def _read(self, name: str, read: Callable[[Path], Any], kind: type) -> Any:
        try:
            value = read(self.root / name)
        except (StoreError, UnicodeDecodeError) as error:
            self.fault(name, "", str(error).replace(str(self.root) + "/", "").split(". ")[0])
            return None
        if not isinstance(value, kind) or kind is list and not all(isinstance(v, dict) for v in value):
            self.fault(name, "", f"holds no {'objects' if kind is list else 'object'}")
            return None
        return value


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text)} characters)"
