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
_HEAD, _DATA = b'{"id":', b',"data":{'
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
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        kept, ids, kinds, seconds, datas = [], [], [], [], []
        for n, raw_line in enumerate(lines):
            line = raw_line.decode("utf-8", "replace")
            try:
                event, end = _scan(line, 0)
                number, kind, time, data = event["id"], event["kind"], event["seconds"], event["data"]
                usual = type(number) is int and type(kind) is str and type(time) is float and type(data) is dict
                if end != len(line) or not usual or not 0 <= number <= _INT64:
                    number, kind, time, data = parse(line)
            except (StopIteration, ValueError, KeyError, TypeError, OverflowError, RecursionError):
                try:
                    number, kind, time, data = parse(line)
                except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                    self.damaged.append(self.lines + n + 1)
                    continue
            kept.append(n)
            ids.append(number)
            kinds.append(kind)
            seconds.append(time)
            datas.append(data)
        self.lines += len(lines)
        if kept:
            length = np.array([len(line) for line in lines], np.int64)
            start = np.cumsum(length + 1) - length - 1
            columns = {"start": offset + start[kept], "length": length[kept], "id": ids, "seconds": seconds}
            columns["data"] = _data_offsets(block, [lines[n] for n in kept], start[kept], length[kept])
            self._extend(columns | self._numbers(kinds, datas))

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
        out["instance"] = self._instances(kinds, datas)
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

    def _instances(self, kinds: list[str], datas: list[dict[str, Any]]) -> np.ndarray:
        """An event's own instance, else the one that the execution's start names."""
        out = np.full(len(kinds), self._instance, COLUMNS["instance"])
        for n in [n for n, data in enumerate(datas) if "instance" in data]:
            named = datas[n]["instance"]
            code = self._code_for("instance", named) if isinstance(named, str) else 0
            if kinds[n] == "start":
                self._instance = code
                out[n:] = code
            elif code:
                out[n] = code
        return out


def _data_offsets(block: bytes, lines: list[bytes], start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Where the data begin in each line that is written as the gateway writes it; -1 in any other."""
    found = np.array([line.find(_DATA) for line in lines], np.int32)  # no text holds it: its quotes would be escaped
    raw = np.frombuffer(block, np.uint8)
    usual = (found > 0) & (length > len(_HEAD) + 2)
    for n, byte in enumerate(_HEAD):
        usual &= raw[start + np.minimum(n, length - 1)] == byte
    usual &= (raw[start + length - 1] == ord("}")) & (raw[start + length - 2] == ord("}"))
    if b"\\u" in block or b"\\/" in block:  # letters in a form that the gateway does not write
        usual &= [not (b"\\u" in line or b"\\/" in line) for line in lines]
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
