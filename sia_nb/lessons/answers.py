"""How the checks of the lessons look at a learner's function and speak of it.

A check prints its finding and returns whether the answer is right, so that a notebook with open exercises still runs to its end.
Imports numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Wrong(Exception):
    """An answer that is not right; its text tells the learner why."""


def judged(check: Callable[..., str]) -> Callable[..., bool]:
    """A check that prints "right: …" with what ``check`` returns, or "not yet: …" where it raises ``Wrong``."""

    def told(*arguments: Any, **named: Any) -> bool:
        try:
            text, right = check(*arguments, **named), True
        except Wrong as wrong:
            text, right = str(wrong), False
        print(("right: " if right else "not yet: ") + text)
        return right

    told.__name__, told.__doc__ = check.__name__, check.__doc__
    return told


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a learner's function returns for copies of the arguments.

    Raises:
        Wrong: it raised, or returned nothing.
    """
    copies = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    try:
        with np.errstate(all="ignore"):
            value = function(*copies)
    except Exception as error:  # a learner's code may raise anything
        raise Wrong(f"your function raised {type(error).__name__}: {error}") from error
    if value is None or value is Ellipsis:
        raise Wrong("your function returns nothing yet; let it return its result")
    return value


def numbers(value: Any, shape: tuple[int, ...], what: str = "your function") -> np.ndarray:
    """A learner's value as float64 of a shape.

    Raises:
        Wrong: no numbers, or another shape.
    """
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Wrong(f"{what} gives {type(value).__name__}; expected {_shape(shape)}") from error
    if found.shape != shape:
        raise Wrong(f"{what} gives {_shape(found.shape)}; expected {_shape(shape)}")
    return found


def number(value: Any, what: str = "your function") -> float:
    """A learner's value as one number. Raises ``Wrong``: it is none."""
    return float(numbers(value, (), what))


def shown(values: Any) -> str:
    """A few numbers as text, short enough for one line."""
    return "[" + ", ".join(f"{v:.4g}" for v in np.ravel(values)) + "]"


def _shape(shape: tuple[int, ...]) -> str:
    return "one number" if not shape else "an array of shape " + " x ".join(map(str, shape))
