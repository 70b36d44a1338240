"""Answers that name things: dicts with the keys that an exercise asks for, and lists of event ids."""

from __future__ import annotations

from typing import Any

from .answers import Wrong


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
            raise Wrong(
                f"{what}: {str(number)[:60]!r} is of type {type(number).__name__}; an event is named by its id, a whole number"
            )
        if number not in known:
            raise Wrong(f"{what}: there is no event {number}; ids go from {min(known)} to {max(known)}")
    return list(value)
