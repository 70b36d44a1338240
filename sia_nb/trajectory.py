"""The trajectory τ_g: every prompt, response, tool call, tool result and answer of one execution.

One JSON object a line, appended by the host-side gateway and flushed at once, so that a kill loses at
most the line being written. Paper §3.3.

Events have ``id`` (0, 1, 2, … in order), ``kind``, ``seconds`` (wall time since the start; the only
field two runs of one seed may differ in) and ``data``:

| kind | data | written by |
|---|---|---|
| start | format, task, instance, scaffold (sha256), seed, budget, sandbox | gateway |
| sample | messages, n, temperature, max_tokens, grammar (bool) | gateway |
| response | sample (event id), index, text, tokens, stop ("end" or "length"), logprob | gateway |
| extract | text_sha (of the response text), ok, solution, error | the runner inside the sandbox |
| evaluate | solution (text), dialect | gateway |
| verdict | evaluate (event id), solution_id, score, valid, reason, failure, metrics, cached, repeat | gateway |
| log | kind, and whatever the scaffold says | the scaffold |
| submit | solution (text), solution_id, score | gateway |
| limit | what (verifier_calls, tokens, seconds, memory, processes, output, message), detail | gateway |
| error | where, message, traceback (of the scaffold's own code) | gateway or runner |
| end | reason ("returned", "crashed", "killed", "no_submission", …), used (budget) | gateway |

``verdict.failure`` is one word where not valid: unparsable, unknown_field, missing_field, bad_value,
syntax, no_entry, crash, timeout, memory, wrong_shape, refused, or one of ``tasks.base.REJECTED``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import StoreError

FORMAT = 1
KINDS = ("start", "sample", "response", "extract", "evaluate", "verdict", "log", "submit", "limit", "error", "end")


@dataclass(frozen=True)
class Event:
    """One line of a trajectory."""

    id: int
    kind: str
    seconds: float
    data: dict[str, Any]


class TrajectoryWriter:
    """Appends events to one JSONL file; each line is on its way to the disk when ``write`` returns."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._file = open(self.path, "w", encoding="utf-8")
        self._next = 0
        self._t0 = time.monotonic()

    def write(self, kind: str, /, **data: Any) -> int:
        """Append one event; returns its id.

        Raises:
            StoreError: the disk is full or the folder went away.
        """
        assert kind in KINDS, kind
        event = {"id": self._next, "kind": kind, "seconds": round(time.monotonic() - self._t0, 3), "data": data}
        try:
            self._file.write(json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n")
            self._file.flush()
        except OSError as error:
            raise StoreError(
                f"trajectory: cannot append to {self.path}: {error.strerror}. Free some space and resume the run."
            ) from error
        self._next += 1
        return event["id"]

    def close(self) -> None:
        """Close the file; further writes are an error."""
        try:
            self._file.close()
        except OSError as error:
            raise StoreError(
                f"trajectory: cannot finish {self.path}: {error.strerror}. Free some space and resume the run."
            ) from error


# What a line that holds no event raises when it is read as one.
NO_EVENT = (ValueError, KeyError, TypeError, OverflowError, RecursionError)


class Trajectory:
    """A recorded trajectory, read whole. ``damaged`` lists the numbers of lines that are no event."""

    def __init__(self, events: list[Event], damaged: list[int] | None = None):
        self.events = events
        self.damaged = damaged or []
        self._by_id = {e.id: e for e in events}

    @classmethod
    def read(cls, path: Path) -> Trajectory:
        """Read a file; damaged lines are passed over and remembered, never a crash.

        Raises:
            StoreError: there is no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise StoreError(f"trajectory: {path} does not exist; the step has not been executed yet.")
        events, damaged = [], []
        with open(path, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    raw = json.loads(line)
                    events.append(Event(int(raw["id"]), str(raw["kind"]), float(raw["seconds"]), dict(raw["data"])))
                except NO_EVENT:
                    damaged.append(number)
        return cls(events, damaged)

    def of(self, *kinds: str) -> list[Event]:
        """The events of these kinds, in order."""
        return [e for e in self.events if e.kind in kinds]

    def __getitem__(self, event_id: int) -> Event:
        return self._by_id[event_id]

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def digest(self) -> str:
        """SHA-256 over all events without their times: equal for two runs of one seed."""
        h = hashlib.sha256()
        for e in self.events:
            h.update(json.dumps([e.id, e.kind, e.data], ensure_ascii=False, sort_keys=True).encode())
        return h.hexdigest()


def text_sha(text: str) -> str:
    """16 hex digits that name a text in an ``extract`` event."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
