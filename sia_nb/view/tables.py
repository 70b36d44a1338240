"""The paper's tables from run folders, as CSV and as Markdown; ours and the paper's side by side."""

from __future__ import annotations

from pathlib import Path

from . import collect, markdown
from .figures import gather, title_of
from .paper import ARM_NAMES, ARMS, PAPER, SHORT, TIMED, has_values, setting, title


def table_3(
    tasks: list[str] | None = None, *, profile: str = "", out: Path | None = None, also: Path | None = None
) -> tuple[str, dict[str, Path]]:
    """Table 3: for each task the initial score, the previous best, and what each set of levers reached, at equal budget.

    The paper's has no arm that updates weights alone. Where times are measured a line names its hardware. Returns Markdown
    and the files; the CSV has the columns of all figures, a row an arm. ``tasks``: by default all that have runs.

    Raises:
        StoreError: a task has no finished run and no reference run.
    """
    tasks = tasks or collect.tasks_with_runs(profile=profile, also=also)
    head = ["task", "metric", "source", "initial", "previous best", *(ARM_NAMES[a] for a in ARMS[1:]), "seeds"]
    lines, notes, rows = markdown.head(head), [], []
    for task in tasks:
        ours, reference = gather(task, profile, also)
        rows += collect.rows(task, ours, reference)
        paper = PAPER[task]
        metric = SHORT.get(paper["metric"], paper["metric"])
        if has_values(task):
            cells = [_show(paper.get(a, "")) for a in ("baseline", "previous", *ARMS[1:])]
            lines.append(markdown.line([title(task, setting(task)), metric, "paper", *cells, ""]))
        for group in (ours, reference):
            if group:
                values = {a: collect.arm_values(group, a, paper["metric"]) for a in ARMS}
                cells = {a: _show(collect.interval([v for _, v in found])) if found else "" for a, found in values.items()}
                cells = [cells["baseline"], "", *(cells[a] for a in ARMS[1:])]
                where = title_of(task, group) + (f", {group[0].hardware}" if task in TIMED else "")
                lines.append(markdown.line([where, metric, group[0].source, *cells, _seeds(values)]))
                notes += collect.disagreements(group, paper["metric"])
    whole = "\n".join([*lines, *(f"\n{note}." for note in notes)])
    return collect.write_table("table3", whole, rows, out=out)


def _seeds(values: dict[str, list]) -> str:
    """``3`` where all arms have as many, else each arm's."""
    counts = {a: len(found) for a, found in values.items() if found}
    if len(set(counts.values())) == 1:
        return str(next(iter(counts.values())))
    return ", ".join(f"{ARM_NAMES[a]} {n}" for a, n in counts.items())


def _show(value) -> str:
    if isinstance(value, tuple):
        return markdown.interval(value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)
