"""Rows of a table in Markdown. It may import nothing of the kit."""

from __future__ import annotations

from collections.abc import Iterable


def line(cells: Iterable[object]) -> str:
    """One row; a bar or a line's end within a cell does not end the cell."""
    return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"


def head(cells: Iterable[object]) -> list[str]:
    """The row of the columns' names, and the rule below it."""
    cells = list(cells)
    return [line(cells), "|" + "---|" * len(cells)]


def interval(value: tuple[float, float, float] | None) -> str:
    """A cell of (mean, low, high): the mean alone where there is no interval (NaN), nothing for None."""
    if value is None:
        return ""
    mean, low, high = value
    return f"{mean:.3f}" if low != low else f"{mean:.3f} [{low:.3f}, {high:.3f}]"
