r"""Finding a text in the events of a file, without making Python objects of them.

What is searched is an event's ``data`` as compact JSON, keys and all, letters in either case. The text is looked for as JSON
would write it, so that a quote, a new line or a backslash copied from a response is found; a match never begins inside an
escape (``n`` is not found in ``\n``). Used by ``events`` only.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable

import numpy as np

BLOCK = 8 << 20  # bytes read at once
GAP = 1 << 16  # bytes between two events that are skipped and not read

Match = tuple[int, int]  # where it begins and ends; begins at -1 where there is none
Finder = Callable[[bytes], Callable[[int], Match]]


def escaped(text: str) -> str:
    """The text as it stands inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def finder(text: str) -> Finder:
    """A function of a block of bytes that gives a function: the first match at or after a position."""
    needle = escaped(text)
    if all(len(cases(letter)) == 1 for letter in needle if not letter.isascii()):
        small = needle.encode("utf-8", "replace").lower()  # of bytes: touches ASCII letters alone

        def plain(block: bytes) -> Callable[[int], Match]:
            hay = block.lower()
            return lambda position: (hit := hay.find(small, position), hit + len(small))

        return plain
    pattern = re.compile(b"".join(b"(?:%s)" % b"|".join(map(re.escape, cases(letter))) for letter in needle))

    def cased(block: bytes) -> Callable[[int], Match]:
        return lambda position: found.span() if (found := pattern.search(block, position)) else (-1, -1)

    return cased


def cases(letter: str) -> list[bytes]:
    """A letter and its other cases, in UTF-8; of an ASCII letter only ASCII, and no case that takes two letters."""
    same = {c for c in (letter, letter.lower(), letter.upper()) if len(c) == 1 and (c.isascii() or not letter.isascii())}
    return sorted(c.encode("utf-8", "replace") for c in same)


def matches(
    text: str, rows: np.ndarray, start: np.ndarray, length: np.ndarray, data: np.ndarray, read: Callable[[int, int], bytes]
) -> np.ndarray:
    """Which of ``rows`` hold the text: an array of booleans, one a row.

    Args:
        rows: row numbers, ascending.
        start, length, data: columns of the whole log.
        read: bytes of the file from an offset, so many.
    """
    found = np.zeros(len(rows), bool)
    where, begin, end = finder(text), start[rows], start[rows] + length[rows]
    first = begin + np.maximum(data[rows], 0)
    i = 0
    while i < len(rows):
        stop = max(i + 1, int(np.searchsorted(end, begin[i] + BLOCK, "right")))
        gaps = np.flatnonzero(begin[i + 1 : stop] - end[i : stop - 1] > GAP)
        stop = i + 1 + int(gaps[0]) if len(gaps) else stop
        base = int(begin[i])
        block = read(base, int(end[stop - 1]) - base)
        found[i:stop] = _in_block(where(block), block, (first[i:stop] - base).tolist(), (end[i:stop] - base - 1).tolist())
        i = stop
    for n in np.flatnonzero(data[rows] < 0).tolist():  # written otherwise: brought into the form that is searched
        found[n] = _in_line(where, read(int(begin[n]), int(end[n] - begin[n])))
    return found


def _in_block(at: Callable[[int], Match], block: bytes, first: list[int], end: list[int]) -> list[bool]:
    """For each stretch of the block, from its first byte to the one before its end, whether a match lies in it."""
    out = [False] * len(first)
    i = position = 0
    last = len(first) - 1
    while i <= last:
        hit, stop = at(position if position > first[i] else first[i])
        if hit < 0:
            break
        if i < last and first[i + 1] <= hit:  # the next row is the likeliest
            i += 1
            if i < last and first[i + 1] <= hit:
                i = bisect_right(first, hit, i) - 1
        position = hit + 1
        if stop > end[i]:
            i += hit >= end[i]
        elif block.find(b"\\", hit - 5 if hit > 5 else 0, hit) < 0 or not _inside_escape(block, hit):
            out[i] = True
            i += 1
    return out


def _inside_escape(block: bytes, position: int) -> bool:
    r"""Whether a byte stands behind the backslash of its escape: the ``n`` of ``\n``, any of the five of ``\u001f``."""
    for back in range(1, 6):
        n = end = position - back + 1  # an escape's backslash would stand just before it
        if back > 1 and block[end : end + 1] != b"u":
            continue
        while n > 0 and block[n - 1] == 0x5C:
            n -= 1
        if (end - n) % 2 == 1:
            return True
    return False


def _in_line(where: Finder, line: bytes) -> bool:
    try:
        raw = json.loads(line.decode("utf-8", "replace"))
    except ValueError:  # the file was written anew since the line was indexed
        return False
    block = json.dumps(dict(raw["data"]), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return _in_block(where(block), block, [0], [len(block)])[0]
