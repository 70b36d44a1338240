"""How far a long job is, and how long the rest may take: parts of several kinds, each with a pace of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Clock:
    """Counts parts done.

    Args:
        tell: told (what was done, share of the estimated time that is behind, seconds left) after each part.
        guess: seconds that a part of each kind takes, until one has been timed.
    """

    def __init__(self, tell: Callable[[str, float, float], None] | None = None, guess: Mapping[str, float] | None = None):
        self._tell, self._guess = tell, dict(guess or {})
        self._total: dict[str, int] = {}
        self._left: dict[str, int] = {}
        self._took: dict[str, list[float]] = {}
        self.start()

    def plan(self, parts: Mapping[str, int]) -> None:
        """How many parts of each kind there are."""
        self._total, self._left, self._took = dict(parts), dict(parts), {kind: [] for kind in parts}
        self.start()

    def start(self) -> None:
        """The part in hand begins now."""
        self._since = time.monotonic()

    def skip(self, kind: str, parts: int) -> None:
        """These are done already, or not needed."""
        self._left[kind] -= parts

    def left(self, kind: str) -> int:
        """How many parts of a kind are not done yet."""
        return self._left[kind]

    def done(self, kind: str, what: str) -> None:
        """The part in hand is done; the next begins."""
        self._left[kind] -= 1
        self._took[kind].append(time.monotonic() - self._since)
        self.start()
        if self._tell is not None:
            total = self.seconds(self._total)
            self._tell(what, 1 - self.seconds(self._left) / total if total else 1.0, self.seconds(self._left))

    def seconds(self, parts: Mapping[str, int]) -> float:
        """How long these parts take at the pace so far."""
        return sum(n * self._pace(kind) for kind, n in parts.items())

    def _pace(self, kind: str) -> float:
        took = self._took.get(kind)
        return sum(took) / len(took) if took else self._guess.get(kind, 0.0)
