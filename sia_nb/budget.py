"""What a run spends: an append-only ledger, caps on it, and the price of the agents' language models.

It may import ``errors`` only.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .errors import BudgetExceeded, ConfigError, StoreError, nearest

PRICED = "2026-11"  # when the table was last checked


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float
    cache_write: float  # entries that live five minutes
    cache_read: float


PRICES = {
    "claude-opus-4-6": Price(5.0, 25.0, 6.25, 0.50),
    "claude-sonnet-4-6": Price(3.0, 15.0, 3.75, 0.30),
    "claude-haiku-4-5": Price(1.0, 5.0, 1.25, 0.10),
}


def dollars(
    model: str,
    *,
    input_tokens: int = 0,
    output_tokens: int = 0,
    cache_write_tokens: int = 0,
    cache_read_tokens: int = 0,
    prices: Mapping[str, Price] | None = None,
) -> float | None:
    """The cost of a call in US dollars; None where the model's price is not known, which is not the same as 0.

    Args:
        model: its name; one with a date after it (``claude-haiku-4-5-20251001``) has the price of the plain name.
        input_tokens: those neither written to nor read from the cache.
        prices: laid over the table ``PRICES``.
    """
    table = {**PRICES, **(prices or {})}
    stem, _, tail = model.rpartition("-")
    price = table.get(model) or (table.get(stem) if tail.isdigit() and len(tail) == 8 else None)
    if price is None:
        return None
    parts = (
        input_tokens * price.input,
        output_tokens * price.output,
        cache_write_tokens * price.cache_write,
        cache_read_tokens * price.cache_read,
    )
    return sum(parts) / 1e6


def read_prices(path: Path | str) -> dict[str, Any]:
    """A table of prices of the user's own: {"dated": "2027-01", "models": {name: {"input": 3.0, "output": 15.0}}}.

    US dollars per million tokens; ``cache_write`` and ``cache_read`` are the price of the input where they are left out.

    Returns:
        The table as plain data with all four prices of each model.

    Raises:
        ConfigError: no such file, or a bad entry; names the file, the model and field, what was found and expected.
    """
    where = f"prices: {path}"
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}; expected a JSON file.") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is no JSON: {error}.") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("models"), dict) or not isinstance(raw.get("dated"), str):
        raise ConfigError(f'{where}: expected {{"dated": "{PRICED}", "models": {{name: {{"input": …, "output": …}}}}}}.')
    known = [f.name for f in fields(Price)]
    models = {}
    for model, given in raw["models"].items():
        if not isinstance(given, dict):
            raise ConfigError(f"{where}: model '{model}' is {given!r:.60}; expected an object with {', '.join(known)}.")
        for name, value in given.items():
            if name not in known:
                raise ConfigError(
                    f"{where}: model '{model}': field '{name}' is not known.{nearest(name, known)} Known: {', '.join(known)}."
                )
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ConfigError(
                    f"{where}: model '{model}': {name} is {value!r:.60}; expected US dollars per million tokens, at least 0."
                )
        for name in ("input", "output"):
            if name not in given:
                raise ConfigError(f"{where}: model '{model}': '{name}' is missing.")
        models[model] = {n: float(given.get(n, given["input"])) for n in known}
    return {"dated": raw["dated"], "models": models}


@dataclass(frozen=True)
class Spent:
    """A sum of ledger entries."""

    verifier_calls: int = 0
    tokens: int = 0  # sampled by the policy
    seconds: float = 0.0  # wall time
    dollars: float = 0.0  # of the entries whose price is known
    unpriced: int = 0  # entries whose price is not known

    def __add__(self, other: Spent) -> Spent:
        return Spent(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True)
class Caps:
    """Caps on a whole run; None is no cap. Each is named as the parameter that raises it."""

    verifier_calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    dollars: float | None = None

    def check(self, spent: Spent, ahead: Spent | None = None) -> None:
        """Raise where a cap is reached, or could be passed by what is on the way.

        Args:
            ahead: what is on the way or about to begin can cost at most.

        Raises:
            BudgetExceeded: names the cap, what was spent, what is ahead and the parameter to raise.
        """
        for name, cap in asdict(self).items():
            value, more = getattr(spent, name), getattr(ahead, name) if ahead else 0
            if cap is not None and (value >= cap or value + more > cap):
                show = (lambda x: f"${x:.2f}") if name == "dollars" else (lambda x: f"{x:g}")
                next_one = f", and what is ahead may take {show(more)}" if value < cap else ""
                raise BudgetExceeded(
                    f"budget: {name.replace('_', ' ')}: {show(value)} of {show(cap)} are spent{next_one}. "
                    f"A run with a higher '{name}' can go further."
                )


class Ledger:
    """``ledger.jsonl``: one line for each thing that cost something, flushed to the disk at once.

    A last line that a kill tore is dropped when the file is opened again.
    """

    def __init__(self, path: Path, caps: Caps | None = None):
        """Open or begin a ledger.

        Raises:
            StoreError: the file cannot be read or written, or a line other than the last is damaged.
        """
        self.path, self.caps = Path(path), caps or Caps()
        self.entries: list[dict[str, Any]] = []
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+") as f:
                fcntl.flock(f, fcntl.LOCK_EX)  # a line that another process is writing is not torn
                f.seek(0)
                f.truncate(self._read(f.read()))
        except OSError as error:
            raise StoreError(f"ledger: cannot open {self.path}: {error.strerror}. Check the folder and its rights.") from error

    def _read(self, raw: bytes) -> int:
        """Take in the entries; returns how many bytes of the file are whole lines."""
        lines = raw.split(b"\n")
        whole = len(raw) - len(lines.pop())
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                _spent(entry), entry["phase"], entry["step"]
                self.entries.append(entry)
            except (ValueError, TypeError, KeyError, AttributeError):
                if number == len(lines):
                    return whole - len(line) - 1
                raise StoreError(
                    f"ledger: line {number} of {self.path} is damaged: {line[:60]!r}. Restore the file or start a new run."
                ) from None
        return whole

    def add(
        self,
        phase: str,
        step: int,
        what: str,
        *,
        verifier_calls: int = 0,
        tokens: int = 0,
        seconds: float = 0.0,
        dollars: float | None = 0.0,
        **more: Any,
    ) -> None:
        """Append an entry; ``dollars=None`` says that the price is not known. ``more`` is kept beside it.

        Raises:
            StoreError: the disk is full or the folder went away.
        """
        entry = {"phase": phase, "step": step, "what": what, "verifier_calls": verifier_calls, "tokens": tokens}
        entry |= {"seconds": round(seconds, 3), "dollars": dollars, **more}
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"
        try:
            with open(self.path, "ab") as f:
                fcntl.flock(f, fcntl.LOCK_EX)
                f.write(line.encode("utf-8", "replace"))
                f.flush()
                os.fsync(f.fileno())
        except OSError as error:
            raise StoreError(
                f"ledger: cannot append to {self.path}: {error.strerror}. Free some space and resume the run."
            ) from error
        self.entries.append(entry)

    def total(self, phase: str | None = None, step: int | None = None) -> Spent:
        """The sum over all entries, or those of one phase, one step, or both."""
        chosen = [e for e in self.entries if phase in (None, e["phase"]) and step in (None, e["step"])]
        return sum(map(_spent, chosen), Spent())

    def by_phase(self) -> dict[str, Spent]:
        """Phase → sum, in order of first appearance."""
        return {phase: self.total(phase) for phase in dict.fromkeys(e["phase"] for e in self.entries)}

    def check(self, ahead: Spent | None = None) -> None:
        """Raise where a cap on the whole run is reached, or could be passed by what is ``ahead``.

        Raises:
            BudgetExceeded: names the cap, what was spent and the parameter to raise.
        """
        self.caps.check(self.total(), ahead)


def _spent(entry: dict[str, Any]) -> Spent:
    cost = entry["dollars"]
    return Spent(
        int(entry["verifier_calls"]), int(entry["tokens"]), float(entry["seconds"]),
        0.0 if cost is None else float(cost), int(cost is None),
    )  # fmt: skip
