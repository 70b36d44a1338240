"""How the checks of these lessons speak: an answer is right, or ``Wrong`` with a sentence that tells the learner why.

A check prints its finding and returns whether the answer is right, so that a notebook with open exercises still runs to its end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


class Wrong(Exception):
    """An answer that is not right; its text tells the learner why."""


def judged(check: Callable[..., str]) -> Callable[..., bool]:
    """A check that prints "right: …" with what ``check`` returns, or "not yet: …" where it raises ``Wrong``."""

    @functools.wraps(check)
    def told(*arguments: Any, **named: Any) -> bool:
        try:
            text, right = check(*arguments, **named), True
        except Wrong as wrong:
            text, right = str(wrong), False
        print(("right: " if right else "not yet: ") + text)
        return right

    return told


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a learner's function returns.

    Raises:
        Wrong: it is no function, it raised, or it returned nothing.
    """
    if not callable(function):
        raise Wrong(f"expected a function, got {type(function).__name__}; keep the `def` line and fill in what it returns")
    try:
        value = function(*arguments)
    except Exception as error:  # a learner's code may raise anything
        raise Wrong(f"your function raised {type(error).__name__}: {error}") from error
    if value is None or value is Ellipsis:
        raise Wrong("your function returns nothing yet; let it return its result")
    return value


def dictionary(value: Any, keys: list[Any], what: str) -> dict[Any, Any]:
    """A learner's dict with these keys, none left open (``...`` or None).

    Raises:
        Wrong: no dict, a key too many or too few, or one still open; the text names it.
    """
    if not isinstance(value, dict):
        raise Wrong(f"{what}: expected a dict, got {type(value).__name__}")
    if extra := [k for k in value if k not in keys]:
        raise Wrong(f"{what}: {extra[0]!r} is not asked for; the keys are {', '.join(map(repr, keys))}")
    if missing := [k for k in keys if value.get(k, ...) in (..., None)]:
        raise Wrong(f"{what}: {missing[0]!r} is still open ({len(missing)} of {len(keys)} are)")
    return value


def event_ids(value: Any, known: set[int], what: str) -> list[int]:
    """A learner's list of event ids of one trajectory.

    Raises:
        Wrong: no list of whole numbers, or an id that the trajectory does not have.
    """
    if not isinstance(value, (list, tuple, set, range)):
        raise Wrong(f"{what}: expected a list of event ids, got {type(value).__name__}")
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int):
            raise Wrong(f"{what}: {str(number)[:60]!r} is a {type(number).__name__}; an event is named by its id, a whole number")
        if number not in known:
            raise Wrong(f"{what}: there is no event {number}; ids go from {min(known)} to {max(known)}")
    return list(value)
