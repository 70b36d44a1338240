"""Checks of the exercises on honest evaluation: each looks at an answer and says what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..view.collect import interval
from . import honest_evaluation as lesson
from .answers import Wrong, called, judged, number, numbers, shown

Function = Callable[..., Any]
SE = 0.2
BEST_OF = {2: 1 / math.sqrt(math.pi), 10: 1.53875, 100: 2.50759, 1: 0.0}  # expected best of k standard normal values


@judged
def check_noise(function: Function) -> str:
    """Exercise 1: by how much the best of k equally good programs looks better than it is, k and the standard error given."""
    for k, wanted in BEST_OF.items():
        first, *others = (number(called(function, k, SE)) / SE for _ in range(4))
        again = max(others, key=lambda value: abs(value - first))
        told = f"for k = {k} and a standard error of {SE:g} it gives {first * SE:.4f}, expected about {wanted * SE:.4f}"
        if abs(first - again) > 0.15:
            raise Wrong(f"for k = {k} two calls give {first * SE:.4f} and {again * SE:.4f}: average over many repeats")
        if abs(first - wanted) <= 0.06:
            continue
        if k == 1:
            raise Wrong(f"{told}: nothing is chosen, so nothing looks better than it is")
        if abs(first - math.sqrt(2 * math.log(k))) < 0.02:
            raise Wrong("√(2 ln k) is what it grows like for huge k; for these k it is too much. Simulate it")
        if abs(first - wanted / SE) < 0.2:
            raise Wrong("your noise has standard deviation 1; it must have the standard error that is given")
        if abs(first - wanted * SE) < 0.03 or abs(first - wanted / math.sqrt(SE)) < 0.1:
            raise Wrong("your noise has the wrong width: a standard error is a standard deviation already, not a variance")
        if abs(first) < 0.03:
            raise Wrong("your average is 0: take the best of the k in each repeat, then the mean over repeats")
        raise Wrong(told)
    return "the best of 100 equally good programs looks 2.5 standard errors better than it is"


@judged
def check_optimism(function: Function, halves: lesson.Halves | None = None) -> str:
    """Exercise 2: mean over choices of the cells of the winner's value on dev less its value on the rest."""
    dev, rest = np.array([[0.3, 0.1], [0.2, 0.4]]), np.array([[0.1, 0.3], [0.25, 0.2]])
    sets = [(dev, rest)] + ([(halves.dev, halves.rest)] if halves else [])
    for d, r in sets:
        found, column = number(called(function, d, r)), np.arange(d.shape[1])
        won = d.argmax(axis=0)
        wanted = (d[won, column] - r[won, column]).mean()
        if np.isclose(found, wanted, atol=1e-9):
            continue
        for value, message in (
            ((d.max(axis=0) - r.max(axis=0)).mean(), "r.max() chooses by the rest as well: a seal is there so that nobody can"),
            ((d[r.argmax(axis=0), column] - r.max(axis=0)).mean(), "you choose by the rest; choose by dev"),
            (-wanted, "the sign is turned: optimism is dev − rest"),
            ((d - r).mean(), "that is the mean over all programs; nothing was chosen. Take the winner of each column"),
            (d.max() - r[np.unravel_index(d.argmax(), d.shape)], "one winner for all columns: choose anew in each"),
            (d[won, column].mean(), "that is what the winner has on dev; subtract what it has on the rest"),
            (r[won, column].mean(), "that is what the winner has on the rest; subtract it from what it has on dev"),
        ):
            if np.isclose(found, value, atol=1e-9):
                raise Wrong(message)
        raise Wrong(f"for dev {d.tolist()} and rest {r.tolist()} it gives {found:.4g}, expected {wanted:.4g}" if d is dev
                    else f"right for two columns; for the run's programs it gives {found:.5f}, expected {wanted:.5f}")  # fmt: skip
    return "chosen by one set of cells and read on another"


@judged
def check_paired_se(function: Function, a: np.ndarray, b: np.ndarray, noise: float) -> str:
    """Exercise 3: the standard error of a difference on the same cells, from each cell's influence on the two values.

    Args:
        a, b: influences of the two programs [n]; noise: what the run recorded for them.
    """
    small = np.array([0.2, -0.1, 0.4, -0.5]), np.array([0.1, 0.0, 0.1, -0.2])
    for x, y in (small, (a, b)):
        found, n = number(called(function, x, y)), len(x)
        gap, apart = x - y, math.hypot(x.std(ddof=1), y.std(ddof=1))
        wanted = gap.std(ddof=1) / math.sqrt(n)
        if np.isclose(found, wanted, rtol=2e-4):
            continue
        for value, message in (
            (
                apart / math.sqrt(n),
                "that adds two errors as if each program had cells of its own. Take the difference cell by cell first",
            ),
            (gap.std(ddof=1), "that is the spread of a cell's difference; the mean over n cells has a √n-th of it"),
            (gap.var(ddof=1) / n, "that is the variance of the mean; take the root"),
            (gap.std() / math.sqrt(n), "use ddof=1: the mean is estimated from the same cells"),
            (abs(x.std(ddof=1) - y.std(ddof=1)) / math.sqrt(n), "subtract the influences, not their spreads"),
        ):
            if np.isclose(found, value, rtol=2e-4):
                raise Wrong(message)
        raise Wrong(f"for {shown(x[:4])} and {shown(y[:4])}{'' if n == 4 else ', …'} it gives {found:.4g}, expected {wanted:.4g}")
    if not np.isclose(wanted, noise, rtol=1e-3):
        raise Wrong(f"your function is right, but this machine finds {wanted:.6f} where the run recorded {noise:.6f}")
    apart = math.hypot(a.std(ddof=1), b.std(ddof=1)) / math.sqrt(len(a))
    return f"{wanted:.4f}, as the run recorded it; with cells of its own for each program it would be {apart:.4f}"


@judged
def check_interval(function: Function) -> str:
    """Exercise 4: the 95 % interval (low, high) of the mean of a few seeds."""
    from scipy.stats import t

    for values in (np.array([0.1, 0.2, 0.6]), np.array([0.8, 0.79, 0.77, 0.81, 0.8])):
        low, high = numbers(called(function, values), (2,))
        mean, wanted, _ = interval(list(values))
        half, n, sd = mean - wanted, len(values), values.std(ddof=1)
        if low > high:
            raise Wrong("low and high are the wrong way round")
        if not np.isclose(low + high, 2 * mean):
            raise Wrong(f"the middle of your interval of {shown(values)} is {(low + high) / 2:.4g}, the mean is {mean:.4g}")
        found = (high - low) / 2
        if np.isclose(found, half, rtol=1e-3):
            continue
        for value, message in (
            (
                1.96 * sd / math.sqrt(n),
                f"1.96 is for many values. With {n} the spread itself is uncertain: t has {t.ppf(0.975, n - 1):.2f}",
            ),
            (t.ppf(0.975, n - 1) * sd, "that is where single seeds lie; the mean of n has a √n-th of the spread"),
            (t.ppf(0.975, n - 1) * values.std() / math.sqrt(n), "use ddof=1 in the standard deviation"),
            (t.ppf(0.95, n - 1) * sd / math.sqrt(n), "2.5 % are outside on each side: t.ppf(0.975, …)"),
            (t.ppf(0.975, n) * sd / math.sqrt(n), "n values have n − 1 degrees of freedom"),
            (sd / math.sqrt(n), "that is one standard error to each side; multiply by Student's t"),
        ):
            if np.isclose(found, value, rtol=5e-3):
                raise Wrong(message)
        raise Wrong(f"for {shown(values)} it gives ± {found:.4g}, expected ± {half:.4g}")
    share, normal = lesson.coverage(function, 3), lesson.coverage(_with_196, 3)
    return f"of three seeds it holds the true mean {share:.0%} of the time; with 1.96 it would be {normal:.0%}"


def _with_196(values: np.ndarray) -> tuple[float, float]:
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean() - half, values.mean() + half


@judged
def check_best_at(function: Function, asked: list[tuple[str, float]]) -> str:
    """Exercise 5: the best value among the first ``calls`` distinct programs of a list of (program, value)."""
    tried = [("a", 0.1), ("a", 0.1), ("b", 0.3), ("a", 0.1), ("c", 0.2), ("d", 0.9)]
    for calls, wanted in ((1, 0.1), (2, 0.3), (3, 0.3), (4, 0.9), (9, 0.9)):
        found = number(called(function, list(tried), calls))
        if np.isclose(found, wanted):
            continue
        text = f"after {calls} distinct calls of {tried} it gives {found:g}, expected {wanted:g}"
        if np.isclose(found, max(v for _, v in tried[:calls])):
            raise Wrong(f"{text}: you count a program that came before. It costs no call, the verdict is remembered")
        if np.isclose(found, 0.9):
            raise Wrong(f"{text}: that looks past the budget")
        if np.isclose(found, list(dict(tried).values())[min(calls, 4) - 1]):
            raise Wrong(f"{text}: that is the last program's value; take the best so far")
        raise Wrong(text)
    first = dict.fromkeys(program for program, _ in asked)
    values = dict(reversed(asked))  # a program's first value
    for calls in (1, len(first) // 2, len(first)):
        wanted = max(values[p] for p in list(first)[:calls])
        found = number(called(function, list(asked), calls))
        if not np.isclose(found, wanted):
            raise Wrong(
                f"right for a short list; after {calls} distinct calls of the run it gives {found:.4f}, expected {wanted:.4f}"
            )
    return f"the run asked {len(asked)} times for {len(first)} distinct programs"
