"""Ways to propose solutions one after the other, and the curve of the best so far over distinct verifier calls.

A searcher is a generator: it yields a solution's text and is sent its value. What it yields again is answered from
memory and costs no call. Pure Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from math import log
from random import Random

from ..tasks.space import Space

Searcher = Generator[str, float, None]
STUBBORN = 1000  # repeats in a row after which a searcher is taken to have nothing new


@dataclass(frozen=True)
class Curve:
    """What a searcher came to.

    Attributes:
        best: best[k] is the value of the best of the first k distinct solutions; best[0] that of the first one, which
            is what would be submitted without any verdict. A searcher that ends early keeps its last value.
        distinct: how many distinct solutions were scored.
    """

    best: tuple[float, ...]
    distinct: int


def follow(searcher: Searcher, value: Callable[[str], float], calls: int) -> Curve:
    """Let ``searcher`` make up to ``calls`` distinct verifier calls (one at least)."""
    known: dict[str, float] = {}
    best: list[float] = []
    repeats = 0
    try:
        solution = next(searcher)
        while len(known) < max(1, calls) and repeats < STUBBORN:
            repeats = repeats + 1 if solution in known else 0
            if solution not in known:
                known[solution] = value(solution)
                best.append(max([known[solution], *best[-1:]]))
            if len(known) < max(1, calls):
                solution = searcher.send(known[solution])
    except StopIteration:
        pass
    searcher.close()
    if not best:
        raise ValueError("a searcher proposed nothing")
    best += best[-1:] * (calls - len(best))
    return Curve((best[0], *best[:calls]), len(known))


def listed(solutions: Iterable[str]) -> Searcher:
    """The solutions in their order."""
    for solution in solutions:  # noqa: UP028 - a list's iterator cannot be sent the values
        yield solution


def uniform(space: Space, rng: Random) -> Searcher:
    """Uniform draws, field by field."""
    while True:
        yield space.dump(space.random(rng))


def climb(space: Space, rng: Random, starts: Iterable[str]) -> Searcher:
    """(1+1) hill climbing: score ``starts``, then change one or two fields of the best so far; a tie moves on."""
    best, top = "", float("-inf")
    for solution in starts:
        value = yield solution
        if value > top:
            best, top = solution, value
    while True:
        child = space.dump(space.changed(space.parse(best), rng))
        value = yield child
        if value >= top:
            best, top = child, value


def distance(a: str, b: str) -> float:
    """How far two descriptions of instances lie apart: the mean difference of the logarithms of the numbers in them, in order.

    So a search that carries solutions over knows of an instance what a policy reads in its prompt.
    """
    one, two = (([float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)]) for text in (a, b))
    if not one or len(one) != len(two):
        return float("inf")
    return sum(abs(log(max(x, 1e-9)) - log(max(y, 1e-9))) for x, y in zip(one, two, strict=True)) / len(one)
