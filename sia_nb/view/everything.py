"""All figures and tables of the tasks that have runs: ``python -m sia_nb figures``.

Each is a job of its own, so that they are drawn side by side where there are cores. What cannot be read is left out of what
is drawn, and is told at the end as an error that names the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, StoreError, nearest
from ..store import results_dir
from . import changes, collect, controls, diagrams, figures, front, health, levers, peers, setup_tables, tables, transfer
from .paper import FIGURES, GATED, PAPER


@dataclass(frozen=True)
class Job:
    """One thing to draw: a name, what makes it, and whether it is a table (words) or a figure (a file)."""

    name: str
    make: str  # key of MAKERS
    arguments: dict[str, Any] = field(default_factory=dict)


def _figure(files: dict[str, Path]) -> str:
    return f"{files['svg']} (and pdf, png, csv)"


def _levers(task: str, **where: Any) -> str:
    drawn = _figure(levers.figure_levers(task, **where))
    folder = where["out"] or results_dir() / "figures"
    made = [
        f"{name}: {folder / f'{key}_{task}.md'}" for key, (name, _) in zip(levers.KEYS, levers.tables(task, **where), strict=True)
    ]
    return "\n".join([drawn, *made])


def _extras(task: str, **where: Any) -> str:
    told = [f"{name}: {picture}" if picture else f"{name}:\n{words}" for name, picture, words in extras(task, **where)]
    return "\n".join(told)


MAKERS: dict[str, Callable[..., str]] = {
    "figure_1": lambda **a: _figure(figures.figure_1(**a)),
    "figure_2a": lambda **a: _figure(diagrams.figure_2a(**a)),
    "figure_2b": lambda **a: _figure(figures.figure_2b(**a)),
    "figure_3": lambda **a: _figure(diagrams.figure_3(**a)),
    "figure_task": lambda **a: _figure(figures.figure_task(**a)),
    "levers": _levers,
    "extras": _extras,
    "controls": lambda **a: "\n" + controls_words(**a),
    "transfer": lambda **a: _figure(transfer.transfer_figure(**a)[0]),
    "transfers": lambda **a: "\n" + transfer.table(**a)[0],
    "table_1": lambda **a: "\n" + setup_tables.table_1(**a)[0],
    "table_2": lambda **a: "\n" + setup_tables.table_2(**a)[0],
    "table_3": lambda **a: "\n" + tables.table_3(**a)[0],
}


def draw(
    tasks: list[str] | None = None, *, profile: str = "", out: Path | None = None, echo: Callable[[str], None] = print,
    jobs: int = 1, clock: Callable[[str, float], None] | None = None,
) -> None:  # fmt: skip
    """Draw everything and say where it lies. ``tasks``: by default all that have runs; the transfer studies with them.

    Args:
        jobs: how many processes draw.
        clock: told of each job's name and seconds.

    Raises:
        ConfigError: an unknown task. StoreError: no finished run and no reference run of a task, or of any; or, after all
            that can be drawn has been, files that cannot be read.
    """
    for task in tasks or ():
        if task not in PAPER:
            raise ConfigError(f"task: '{task}' has no figures.{nearest(task, PAPER)} Known: {', '.join(PAPER)}.")
    wanted, lost = plan(tasks, profile=profile, out=out), []
    with ProcessPoolExecutor(min(jobs, len(wanted))) if jobs > 1 else nullcontext() as pool:
        for job, (words, trouble, seconds) in zip(wanted, (pool.map if pool else map)(_run, wanted), strict=True):
            echo(f"{job.name}: {words or 'not drawn'}")
            lost += [trouble] if trouble else []
            if clock:
                clock(job.name, seconds)
    lost += [gap.why for task in tasks or PAPER for gap in health.gaps(task)]
    lost += [] if tasks else [words for path in transfer.studies() if (words := transfer.trouble(path))]
    lost += controls.trouble()
    if lost:
        told = "\n".join(f"  {words}" for words in lost)
        raise StoreError(f"the figures are drawn without what cannot be read, and say so:\n{told}")


def _run(job: Job) -> tuple[str, str, float]:
    """(what was drawn, why nothing could be, seconds); what one figure lacks does not keep the others from being drawn."""
    start = time.perf_counter()
    try:
        return MAKERS[job.make](**job.arguments), "", time.perf_counter() - start
    except StoreError as error:
        return "", f"{job.name}: {error}", time.perf_counter() - start


def plan(tasks: list[str] | None = None, *, profile: str = "", out: Path | None = None) -> list[Job]:
    """What ``draw`` draws, in its order.

    Raises:
        StoreError: no finished run and no reference run of any task.
    """
    drawable = tasks or collect.tasks_with_runs(profile=profile)
    where, tested = {"profile": profile, "out": out}, controls.tasks_with_controls()
    wanted = [Job("Figure 1", "figure_1", {"tasks": tasks, **where})]
    for task in drawable:
        wanted.append(Job(f"Figure 2(b), {task}", "figure_2b", {"task": task, **where}))
        wanted.append(Job(FIGURES[task][1], "figure_task", {"task": task, **where}))
        wanted.append(Job(f"What each lever changed, {task}", "levers", {"task": task, **where}))
        if task in GATED:
            wanted.append(Job(f"Beside the figures, {task}", "extras", {"task": task, **where}))
        if task in tested:
            wanted.append(Job(f"Controls, {task}", "controls", {"task": task, **where}))
    every = {"tasks": drawable, **where}
    wanted += [Job("Figure 2(a)", "figure_2a", every), Job("Figure 3", "figure_3", every)]
    if not tasks:
        studies = [path for path in transfer.studies() if not transfer.trouble(path)]
        wanted += [Job(f"Transfer study {p.stem}", "transfer", {"path": p, "out": out}) for p in studies]
        wanted += [Job("Transfer studies", "transfers", {"paths": studies, "out": out})] if studies else []
    return wanted + [Job(f"Table {n}", f"table_{n}", every) for n in (1, 2, 3)]


def controls_words(task: str, **where: Any) -> str:
    """The table of the controls beside the arms, or why there is none."""
    try:
        return controls.table(task, **where)[0]
    except StoreError as error:
        return f"not there: {error}"


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
