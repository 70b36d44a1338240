"""All figures and tables of the tasks that have runs, one after the other: ``python -m sia_nb figures``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import ConfigError, StoreError, nearest
from . import changes, collect, figures, front, peers, tables
from .paper import FIGURES, GATED, PAPER


def draw(
    tasks: list[str] | None = None, *, profile: str = "", out: Path | None = None, echo: Callable[[str], None] = print
) -> None:
    """Draw everything and say where it lies. ``tasks``: by default all that have runs.

    Raises:
        ConfigError: an unknown task. StoreError: no finished run and no reference run of a task, or of any.
    """
    for task in tasks or ():
        if task not in PAPER:
            raise ConfigError(f"task: '{task}' has no figures.{nearest(task, PAPER)} Known: {', '.join(PAPER)}.")
    tasks = tasks or collect.tasks_with_runs(profile=profile)
    where = {"profile": profile, "out": out}
    echo(f"Figure 1: {figures.figure_1(tasks, **where)['svg']} (and pdf, png, csv)")
    for task in tasks:
        echo(f"Figure 2(b), {task}: {figures.figure_2b(task, **where)['svg']} (and pdf, png, csv)")
        echo(f"{FIGURES[task][1]}: {figures.figure_task(task, **where)['svg']} (and pdf, png, csv)")
    echo(f"Table 3:\n{tables.table_3(tasks, **where)[0]}")
    for task in tasks:
        for name, picture, words in extras(task, **where):
            echo(f"{name}, {task}: {picture}" if picture else f"{name}, {task}:\n{words}")


def extras(
    task: str, *, profile: str = "", out: Path | None = None, also: Path | None = None
) -> Iterator[tuple[str, Path | None, str]]:
    """(name, picture, Markdown) of what a task with a gate has beside the paper's figures; nothing for another task.

    A front or table that the runs hold no data for is told in words.
    """
    if task not in GATED:
        return
    where = {"profile": profile, "out": out, "also": also}
    for name, make in (
        ("The front of the two measures", lambda: (front.figure_front(task, **where)["png"], "")),
        ("Known methods on the sealed cells", lambda: (None, peers.table(task, **where)[0])),
        ("Which kind of change each lever made", lambda: (None, changes.table(task, **where)[0])),
    ):
        try:
            yield (name, *make())
        except StoreError as error:
            yield name, None, f"not there: {error}"
