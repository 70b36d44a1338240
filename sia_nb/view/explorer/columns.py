"""One trajectory's lines as columns: where each event lies in the file, and the few numbers that it is filtered by.

A line becomes about 80 bytes of numbers, so that a million events take 80 MB; their text stays on the disk. What is read as an
event, and what counts as damaged, is as in ``trajectory.Trajectory.read``. Used by ``events`` only.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

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
_INT64 = 2**63 - 1
_scan = json.JSONDecoder().scan_once  # json.loads without its overhead of a microsecond a line


def text_number(text: Any) -> int:
    """The first 64 bits of a text's SHA-256, which ``trajectory.text_sha`` writes as hexadecimal digits; 0 for no text."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big") if isinstance(text, str) else 0


def parse(line: str) -> tuple[int, str, float, dict[str, Any]]:
    """(id, kind, seconds, data) of a line.

    Raises:
        ValueError, KeyError, TypeError, OverflowError, RecursionError: it holds no event.
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
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
        if not block.endswith(b"\n"):
            ends = np.append(ends, len(block))
        starts = np.concatenate(([0], ends[:-1] + 1))
        text = block.decode("utf-8", "replace")
        plain = "\\u" not in text and "\\/" not in text
        kept, ids, kinds, seconds, datas, begins = [], [], [], [], [], []
        for n, line in enumerate(text.split("\n")[: len(ends)]):
            try:
                event = _quick(line) or parse(line)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                self.damaged.append(self.lines + n + 1)
                continue
            kept.append(n)
            ids.append(event[0])
            kinds.append(event[1])
            seconds.append(event[2])
            datas.append(event[3])
            begins.append(_data_offset(line, plain))
        self.lines += len(ends)
        if kept:
            columns = {"start": offset + starts[kept], "length": (ends - starts)[kept], "data": begins}
            self._extend(columns | {"id": ids, "seconds": seconds} | self._numbers(kinds, datas))

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

    def _numbers(self, kinds: list[str], datas: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        """The columns that come from the kinds and data of events."""
        out = {name: np.full(len(kinds), value, COLUMNS[name]) for name, value in MISSING.items()}
        out["kind"] = np.array([self._code_for("kind", kind) for kind in kinds], COLUMNS["kind"])
        for kind in set(kinds):
            where = np.flatnonzero(out["kind"] == self._code_for("kind", kind))
            chosen = [datas[n] for n in where.tolist()]
            for name, values in self._of_kind(kind, chosen).items():
                out[name][where] = values
        out["instance"] = np.array(self._instances(kinds, datas), COLUMNS["instance"])
        return out

    def _of_kind(self, kind: str, datas: list[dict[str, Any]]) -> dict[str, list]:
        """The columns that events of one kind fill."""
        each = lambda convert, key: [convert(d.get(key)) for d in datas]
        if kind == "response":
            return {"tokens": each(_integer, "tokens"), "ref": each(_integer, "sample"), "text": each(text_number, "text")}
        if kind == "extract":
            valid = each(bool, "ok")
            out = {"valid": valid, "text": each(_hex, "text_sha"), "answer": each(_hash, "solution")}
            return out | self._failures(["" if ok else "not_extracted" for ok in valid])
        if kind == "evaluate":
            return {"answer": each(_hash, "solution")}
        if kind == "verdict":
            valid = each(bool, "valid")
            out = {"valid": valid, "reward": each(_real, "score"), "ref": each(_integer, "evaluate")}
            return out | self._failures(
                ["" if ok else str(d.get("failure") or "invalid") for ok, d in zip(valid, datas, strict=True)]
            )
        if kind == "submit":
            return {"reward": each(_real, "score"), "answer": each(_hash, "solution")}
        if kind == "limit":
            words = [str(d.get("what") or "limit") for d in datas]
            return self._failures(words) | {"failed": [word not in SPENT for word in words]}
        if kind == "error":
            return self._failures(["error"] * len(datas))
        if kind == "end":
            reasons = [str(d.get("reason", "returned")) for d in datas]
            return self._failures(["" if reason == "returned" else reason for reason in reasons])
        return {}

    def _failures(self, words: list[str]) -> dict[str, list]:
        return {"failed": [word != "" for word in words], "failure": [self._code_for("failure", word) for word in words]}

    def _instances(self, kinds: list[str], datas: list[dict[str, Any]]) -> list[int]:
        """An event's own instance, else the one that the execution's start names."""
        out = []
        for kind, data in zip(kinds, datas, strict=True):
            named = data.get("instance")
            code = self._code_for("instance", named) if isinstance(named, str) else None
            if kind == "start":
                self._instance = code or 0
            out.append(self._instance if code is None else code)
        return out


def _quick(line: str) -> tuple[int, str, float, dict[str, Any]] | None:
    """``parse`` of a line as the gateway writes it; None for any other."""
    try:
        raw, end = _scan(line, 0)
        number, kind, seconds, data = raw["id"], raw["kind"], raw["seconds"], raw["data"]
    except (StopIteration, KeyError, TypeError):
        return None
    good = end == len(line) and type(number) is int and type(kind) is str and type(seconds) is float and type(data) is dict
    return (number, kind, seconds, data) if good and 0 <= number <= _INT64 else None


def _data_offset(line: str, plain: bool) -> int:
    """Where the data begin in a line that is written as the gateway writes it; -1 in any other."""
    begin = line.find(',"data":{')  # quotes that are not escaped: no text of an event holds this
    good = begin > 0 and line.startswith('{"id":') and line.endswith("}}") and line[:begin].isascii()
    return begin + 8 if good and (plain or not ("\\u" in line or "\\/" in line)) else -1


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
