"""An index over one ``trajectory.jsonl``: opened once, followed while it grows, filtered, sorted and searched.

``EventLog`` keeps columns of numbers (``columns``) and leaves the text on the disk; ``refresh`` reads only what was appended.
The file is read by offset and never mapped: a step that is executed again may cut it short at any time, and a mapped page
that is gone ends the process. Rows are numbered 0, 1, 2, … in the order of the file; an event's own ``id`` is another thing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, StoreError, nearest
from ...trajectory import NO_EVENT
from .columns import Table, parse
from .describe import summary
from .search import matches

BLOCK = 1 << 19  # bytes read at once
PRINT = 512  # bytes kept of both ends of what was read, to notice that it was written anew
SORTS = {"id": None, "reward": "reward", "seconds": "seconds", "tokens": "tokens"}
WORDS = ("kind", "failure", "instance")


class EventLog:
    """The events of one trajectory.

    Args:
        path: the file.
        whole: it is finished, so a last line without an end is damaged, or an event, and not one that is being written.

    Raises:
        StoreError: there is no such file, or it cannot be read.
    """

    def __init__(self, path: Path, whole: bool = False):
        self.path, self.whole = Path(path), whole
        self.generation = 0  # how often the file was found written anew: row numbers of before mean nothing then
        self._file: Any = None
        self._forget()
        self.refresh()

    def _forget(self) -> None:
        self.table = Table()
        self._end = 0  # bytes taken in
        self._seen: tuple[int, ...] = ()
        self._head = self._tail = b""

    def __len__(self) -> int:
        return len(self.table)

    @property
    def damaged(self) -> list[int]:
        """Numbers of the lines, from 1, that hold no event."""
        return self.table.damaged

    @property
    def pending(self) -> int:
        """Bytes of a last line that has no end yet."""
        return self._seen[2] - self._end

    @property
    def version(self) -> tuple[int, int]:
        """Changes whenever rows are added or numbered anew."""
        return self.generation, len(self)

    def close(self) -> None:
        """Close the file; the next refresh opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # -- following -------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Take in what was appended since; a file that was replaced or written anew is read from its start.

        Returns:
            Whether anything changed. A file that is gone for a moment changes nothing.

        Raises:
            StoreError: it was never there, or cannot be read.
        """
        try:
            told = os.stat(self.path)
            now = (told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, self.whole)
            if self._file is not None and now == self._seen:
                return False
            if self._file is None or now[:2] != self._seen[:2]:
                file = open(self.path, "rb", buffering=0)
                self.close()
                self._file = file
        except FileNotFoundError:
            if self._seen:
                return False
            raise StoreError(f"trajectory: {self.path} does not exist; the step has not been executed yet.") from None
        except OSError as error:
            raise StoreError(
                f"trajectory: {self.path} cannot be read: {error.strerror}. Check the file and its rights."
            ) from None
        if self._seen and not self._goes_on(told.st_size):
            self.generation += 1
            self._forget()
        before = (len(self), len(self.damaged), self.generation, self._end)
        self._take(told.st_size)
        self._seen = now
        self._head = self._head if len(self._head) == PRINT else self._read(0, min(PRINT, self._end))
        self._tail = self._read(max(0, self._end - PRINT), min(PRINT, self._end))
        return before != (len(self), len(self.damaged), self.generation, self._end) or before[3] == 0

    def _goes_on(self, size: int) -> bool:
        """Whether the file still begins with what was taken in."""
        if size < self._end:
            return False
        tail = self._read(max(0, self._end - PRINT), min(PRINT, self._end))
        return tail == self._tail and self._read(0, len(self._head)) == self._head

    def _take(self, size: int) -> None:
        """Index whole lines up to ``size``; a longer line than a block is read to its end."""
        position, parts = self._end, []
        while position < size:
            block = self._read(position, min(BLOCK, size - position))
            if not block:
                break
            position += len(block)
            cut = block.rfind(b"\n") + 1
            if cut:
                whole = b"".join([*parts, block[:cut]])
                self.table.append(whole, self._end)
                self._end += len(whole)
                block, parts = block[cut:], []
            if block:
                parts.append(block)
        if parts and self.whole:
            rest = b"".join(parts)
            self.table.append(rest, self._end)
            self._end += len(rest)

    def _read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end of the file."""
        parts = []
        while size > 0 and (part := os.pread(self._file.fileno(), size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    # -- choosing --------------------------------------------------------------------------------------

    def select(
        self,
        kinds: Collection[str] = (),
        text: str = "",
        instance: str = "",
        failure: str = "",
        failed: bool | None = None,
        reward: Sequence[float | None] = (None, None),
        sort: str = "id",
        descending: bool = False,
    ) -> np.ndarray:
        """The numbers of the rows that meet all of these, in the order asked for.

        Args:
            kinds: of these kinds; empty: of any.
            text: holds this text (``search`` says how).
            instance, failure: has this word; empty: any.
            failed: only what went wrong, or (False) only the rest.
            reward: lowest and highest score, both included; None is no bound. With a bound, rows without a score are out.
            sort: "id" (the order of the file), "reward", "seconds" or "tokens"; rows without the value come last either way.

        Raises:
            ConfigError: a filter of a wrong type, or an unknown order.
        """
        t, keep = self.table, np.ones(len(self), bool)
        low, high = _bounds(reward)
        if not isinstance(sort, str) or sort not in SORTS:
            raise ConfigError(
                f"sort: {sort!r} is no order of events; expected one of {', '.join(SORTS)}.{nearest(str(sort), SORTS)}"
            )
        if not isinstance(kinds, list | tuple | set | frozenset) or not all(isinstance(k, str) for k in kinds):
            raise ConfigError(f"kinds: {kinds!r}; expected a list of kinds of events, such as ['response', 'verdict']")
        for name, value in (("text", text), ("instance", instance), ("failure", failure)):
            if not isinstance(value, str):
                raise ConfigError(f"{name}: {value!r}; expected a text")
        if failed not in (None, True, False):
            raise ConfigError(f"failed: {failed!r}; expected true, false or null")
        if kinds:
            keep &= np.isin(t["kind"], [c for c in (t.code("kind", k) for k in kinds) if c is not None])
        for name, value in (("instance", instance), ("failure", failure)):
            if value:
                code = t.code(name, value)
                keep &= (t[name] == code) if code is not None else False
        if failed is not None:
            keep &= t["failed"] == bool(failed)
        if low is not None:
            keep &= t["reward"] >= low  # false for nan
        if high is not None:
            keep &= t["reward"] <= high
        rows = np.flatnonzero(keep)
        if text:
            rows = rows[matches(text, rows, t["start"], t["length"], t["data"], self._read)]
        return self._sorted(rows, SORTS[sort], descending)

    def _sorted(self, rows: np.ndarray, column: str | None, descending: bool) -> np.ndarray:
        if column is None:
            return rows[::-1] if descending else rows
        values = self.table[column][rows].astype(float)
        values[values == -1] = np.nan if column == "tokens" else -1
        order = np.argsort(-values if descending else values, kind="stable")  # nan last either way
        return rows[order]

    def counts(self, column: str) -> dict[str, int]:
        """Word → events that have it, of "kind", "failure" or "instance", in order of first appearance; "" is left out."""
        counted = np.bincount(self.table[column], minlength=len(self.table.words[column])).tolist()
        return {word: n for word, n in zip(self.table.words[column], counted, strict=False) if word and n}

    # -- reading ---------------------------------------------------------------------------------------

    def event(self, number: int) -> dict[str, Any]:
        """The event in row ``number``, whole: id, kind, seconds, data.

        Raises:
            ConfigError: there is no such row. StoreError: the file was written anew meanwhile.
        """
        if type(number) not in (int, np.int64) or not 0 <= number < len(self):
            raise ConfigError(f"n: {number!r} is no row of {self.path.name}; expected a number from 0 to {len(self) - 1}")
        line = self._read(int(self.table["start"][number]), int(self.table["length"][number]))
        try:
            event_id, kind, seconds, data = parse(line.decode("utf-8", "replace"))
        except NO_EVENT:
            raise StoreError(f"trajectory: {self.path} was written anew while it was read; refresh and look again.") from None
        return {"id": event_id, "kind": kind, "seconds": seconds, "data": data}

    def rows(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """What a table shows of these rows: n, id, kind, seconds, summary, reward, valid, failure, instance, tokens.

        Raises:
            ConfigError, StoreError: as ``event``.
        """
        t, out = self.table, []
        for n in map(int, numbers):
            event = self.event(n)
            reward, valid, tokens = float(t["reward"][n]), int(t["valid"][n]), int(t["tokens"][n])
            row = {"n": n, "id": event["id"], "kind": event["kind"], "seconds": event["seconds"]}
            row |= {"summary": summary(event["kind"], event["data"]), "reward": None if reward != reward else reward}
            row |= {"valid": None if valid < 0 else bool(valid), "failed": bool(t["failed"][n])}
            row |= {w: t.words[w][t[w][n]] for w in ("failure", "instance")}
            out.append(row | {"tokens": None if tokens < 0 else tokens})
        return out

    def row_of(self, event_id: int) -> int | None:
        """The row of the event with this id, the last where several have it; None where none has."""
        found = np.flatnonzero(self.table["id"] == event_id)
        return int(found[-1]) if len(found) else None

    def linked(self, number: int) -> list[int]:
        """The rows that belong to row ``number``: what led to it and what came of it, in the order of the file.

        A sample has its responses; a response its sample; responses and extractions of one text, and extractions,
        evaluations and submissions of one solution, belong together; a verdict to its evaluation.
        """
        t = self.table
        kind, event_id, ref = t.words["kind"][t["kind"][number]], t["id"][number], t["ref"][number]
        found = np.zeros(len(self), bool)
        of = lambda kind, column, values: (t["kind"] == t.code("kind", kind)) & np.isin(t[column], values)
        answers = [t["answer"][number]]
        if kind == "sample":
            found |= of("response", "ref", [event_id])
        elif kind == "verdict":
            evaluations = of("evaluate", "id", [ref])
            found |= evaluations
            answers = t["answer"][evaluations]
        elif kind == "response":
            extracts = of("extract", "text", [t["text"][number]])
            found |= of("sample", "id", [ref]) | extracts
            answers = t["answer"][extracts]
        answers = np.setdiff1d(answers, [0])
        evaluations = of("evaluate", "answer", answers)
        found |= evaluations | of("verdict", "ref", t["id"][evaluations])
        found |= of("submit", "answer", answers) | of("extract", "answer", answers)
        found[number] = True
        extracts = found & (t["kind"] == t.code("kind", "extract"))
        found |= of("response", "text", t["text"][extracts])
        found[number] = False
        return np.flatnonzero(found).tolist()


def _bounds(reward: Any) -> tuple[float | None, float | None]:
    """The two bounds of a filter by reward."""
    try:
        low, high = (None if bound is None else float(bound) for bound in reward)
    except (TypeError, ValueError):
        raise ConfigError(f"reward: {reward!r}; expected two numbers, the lowest and the highest, or null for no bound") from None
    return low, high
