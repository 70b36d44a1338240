"""One trajectory's lines as columns: where each event lies in the file, and the few numbers that it is filtered by.

A line becomes about 80 bytes of numbers, so that a million events take 80 MB; their text stays on the disk. What is read as an
event, and what counts as damaged, is as in ``trajectory.Trajectory.read``. Used by ``events`` only.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from ...trajectory import NO_EVENT

COLUMNS = {
    "start": "i8",  # byte offset of the line
    "length": "i8",  # bytes of the line, without its newline
    "data": "i4",  # byte offset of the data within the line; -1: not written as the gateway writes it
    "id": "i8",
    "kind": "u2",  # index into ``Table.words["kind"]``; so are failure and instance
    "seconds": "f8",
    "reward": "f8",  # score of a verdict or submission; nan where there is none
    "valid": "i1",  # 1 yes, 0 no, -1 does not apply
    "failed": "?",  # something went wrong here
    "failure": "u2",
    "instance": "u2",
    "tokens": "i8",  # -1 where there are none
    "ref": "i8",  # id of the sample of a response, of the evaluate of a verdict; -1
    "text": "u8",  # of a response and an extract: the number that names the response's text; 0 where there is none
    "answer": "i8",  # of an extract, evaluate and submit: the hash of the solution's text; 0 where there is none
}
MISSING = {"reward": np.nan, "valid": -1, "failed": False, "failure": 0, "tokens": -1, "ref": -1, "text": 0, "answer": 0}
SPENT = ("verifier_calls", "tokens")  # a budget that ran out as planned is no failure
MOST_WORDS = 60_000
_HEAD, _DATA = b'{"id":', b',"data":{'
_INT64 = 2**63 - 1
_scan = json.JSONDecoder().scan_once  # json.loads without its overhead of a microsecond a line


def text_number(text: Any) -> int:
    """The first 64 bits of a text's SHA-256, which ``trajectory.text_sha`` writes as hexadecimal digits; 0 for no text."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big") if isinstance(text, str) else 0


def parse(line: str) -> tuple[int, str, float, dict[str, Any]]:
    """(id, kind, seconds, data) of a line.

    Raises:
        One of ``NO_EVENT``: it holds no event.
    """
    raw = json.loads(line)
    number, seconds = int(raw["id"]), float(raw["seconds"])
    if not -_INT64 <= number <= _INT64:
        raise ValueError("an id out of range")
    return number, str(raw["kind"]), seconds, dict(raw["data"])


class Table:
    """Columns that grow. ``table["id"]`` is the column so far; ``words`` turn the codes of a column into text."""

    def __init__(self) -> None:
        self._arrays = {name: np.empty(256, dtype) for name, dtype in COLUMNS.items()}
        self.words: dict[str, list[str]] = {"kind": [], "failure": [""], "instance": [""]}
        self._codes: dict[str, dict[str, int]] = {name: {w: n for n, w in enumerate(ws)} for name, ws in self.words.items()}
        self._instance = 0  # of the execution: what its start event says
        self.damaged: list[int] = []  # line numbers, from 1
        self.lines = 0
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name][: self.size]

    def code(self, column: str, word: str) -> int | None:
        """The code of a word, None where no event has it."""
        return self._codes[column].get(word)

    def _code_for(self, column: str, word: str) -> int:
        codes = self._codes[column]
        if word not in codes:
            word = word if len(codes) < MOST_WORDS else "…"  # so many words are not ours: one stands for the rest
            if word not in codes:
                codes[word] = len(codes)
                self.words[column].append(word)
        return codes[word]

    def append(self, block: bytes, offset: int) -> None:
        """Take in whole lines that stand at ``offset`` in the file; the last may lack its newline."""
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        kept, ids, kinds, seconds, begins = [], [], [], [], []
        filled: dict[str, tuple[list[int], list[tuple]]] = {kind: ([], []) for kind in FILLS}
        instances = []
        for n, raw_line in enumerate(lines):
            line = raw_line.decode("utf-8", "replace")
            try:
                event, end = _scan(line, 0)
                number, kind, time, data = event["id"], event["kind"], event["seconds"], event["data"]
                usual = type(number) is int and type(kind) is str and type(time) is float and type(data) is dict
                if end != len(line) or not usual or not 0 <= number <= _INT64:
                    number, kind, time, data = parse(line)
            except (StopIteration, *NO_EVENT):
                try:
                    number, kind, time, data = parse(line)
                except NO_EVENT:
                    self.damaged.append(self.lines + n + 1)
                    continue
            if kind in filled:  # nothing of an event is kept but these numbers: objects that live on cost more than their making
                where, rows = filled[kind]
                where.append(len(ids))
                rows.append(FILLS[kind][0](data))
            if "instance" in data:
                instances.append((len(ids), kind == "start", data["instance"]))
            kept.append(n)
            ids.append(number)
            kinds.append(kind)
            seconds.append(time)
            begins.append(raw_line.find(_DATA))
        self.lines += len(lines)
        if kept:
            length = np.array([len(line) for line in lines], np.int64)
            start = np.cumsum(length + 1) - length - 1
            columns = {"start": offset + start[kept], "length": length[kept], "id": ids, "seconds": seconds}
            columns["data"] = _data_offsets(block, lines, kept, np.array(begins, np.int32), start[kept], length[kept])
            columns["kind"] = [self._code_for("kind", kind) for kind in kinds]
            columns["instance"] = self._instances(len(ids), instances)
            self._extend(columns | self._fill(len(ids), filled))

    def _extend(self, columns: dict[str, Any]) -> None:
        need, have = self.size + len(columns["id"]), len(self._arrays["id"])
        if need > have:
            for name, dtype in COLUMNS.items():
                grown = np.empty(max(need, have + have // 2), dtype)
                grown[: self.size] = self[name]
                self._arrays[name] = grown
        for name in COLUMNS:
            self._arrays[name][self.size : need] = columns[name]
        self.size = need

    def _fill(self, size: int, filled: dict[str, tuple[list[int], list[tuple]]]) -> dict[str, np.ndarray]:
        """The columns that not every kind of event has."""
        out = {name: np.full(size, value, COLUMNS[name]) for name, value in MISSING.items()}
        for kind, (where, rows) in filled.items():
            if where:
                for name, values in zip(FILLS[kind][1], zip(*rows, strict=True), strict=True):
                    if name == "failure":
                        values = [self._code_for("failure", word) for word in values]
                    out[name][where] = values
        return out

    def _instances(self, size: int, named: list[tuple[int, bool, Any]]) -> np.ndarray:
        """An event's own instance, else the one that the execution's start names. ``named``: (place, whether a start, name)."""
        out = np.full(size, self._instance, COLUMNS["instance"])
        for n, starts, name in named:
            code = self._code_for("instance", name) if isinstance(name, str) else 0
            if starts:
                self._instance = code
                out[n:] = code
            elif code:
                out[n] = code
        return out


def _data_offsets(
    block: bytes, lines: list[bytes], kept: list[int], found: np.ndarray, start: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """Where the data begin in each kept line that is written as the gateway writes it; -1 in any other.

    ``found`` is where ``_DATA`` first stands in it; no text of an event holds that, as its quotes would be escaped.
    """
    raw = np.frombuffer(block, np.uint8)
    usual = (found > 0) & (length > len(_HEAD) + 2)
    for n, byte in enumerate(_HEAD):
        usual &= raw[start + np.minimum(n, length - 1)] == byte
    usual &= (raw[start + length - 1] == ord("}")) & (raw[start + length - 2] == ord("}"))
    if b"\\u" in block or b"\\/" in block:  # letters in a form that the gateway does not write
        usual &= [not (b"\\u" in lines[n] or b"\\/" in lines[n]) for n in kept]
    return np.where(usual, found + len(_DATA) - 1, -1)


def _integer(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= _INT64 else -1


def _real(value: Any) -> float:
    return float(value) if type(value) in (int, float) and abs(value) < 1e300 else np.nan


def _hash(value: Any) -> int:
    return hash(value) if isinstance(value, str) else 0


def _hex(value: Any) -> int:
    try:
        return int(value, 16) if isinstance(value, str) and len(value) == 16 else 0
    except ValueError:
        return 0


def _response(data: dict[str, Any]) -> tuple:
    return _integer(data.get("tokens")), _integer(data.get("sample")), text_number(data.get("text"))


def _extract(data: dict[str, Any]) -> tuple:
    ok = bool(data.get("ok"))
    return ok, not ok, "" if ok else "not_extracted", _hex(data.get("text_sha")), _hash(data.get("solution"))


def _evaluate(data: dict[str, Any]) -> tuple:
    return (_hash(data.get("solution")),)


def _verdict(data: dict[str, Any]) -> tuple:
    ok = bool(data.get("valid"))
    failure = "" if ok else str(data.get("failure") or "invalid")
    return ok, not ok, failure, _real(data.get("score")), _integer(data.get("evaluate"))


def _submit(data: dict[str, Any]) -> tuple:
    return _real(data.get("score")), _hash(data.get("solution"))


def _limit(data: dict[str, Any]) -> tuple:
    what = str(data.get("what") or "limit")
    return what not in SPENT, what


def _error(data: dict[str, Any]) -> tuple:
    return True, "error"


def _end(data: dict[str, Any]) -> tuple:
    reason = str(data.get("reason", "returned"))
    return (False, "") if reason in ("returned", "") else (True, reason)


FILLS = {  # kind → its numbers, and the columns that they go into
    "response": (_response, ("tokens", "ref", "text")),
    "extract": (_extract, ("valid", "failed", "failure", "text", "answer")),
    "evaluate": (_evaluate, ("answer",)),
    "verdict": (_verdict, ("valid", "failed", "failure", "reward", "ref")),
    "submit": (_submit, ("reward", "answer")),
    "limit": (_limit, ("failed", "failure")),
    "error": (_error, ("failed", "failure")),
    "end": (_end, ("failed", "failure")),
}
