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
