"""The paper's tables from run folders, as CSV and as Markdown; ours and the paper's side by side."""

from __future__ import annotations

from pathlib import Path

from ..store import results_dir, write_atomic
from . import collect
from .figures import gather
from .paper import ARM_NAMES, PAPER, TITLES

COLUMNS = ["task", "source", "initial", "previous", "H", "W+H", "seeds"]


def table_3(
    tasks: list[str], *, profile: str = "", out: Path | None = None, also: Path | None = None
) -> tuple[str, dict[str, Path]]:
    """Table 3: for each task the initial score, the previous best, SIA-H and SIA-W+H. Returns Markdown and the files.

    Raises:
        StoreError: a task has no finished run and no reference run.
    """
    rows = []
    for task in tasks:
        ours, reference = gather(task, profile, also)
        paper = PAPER[task]
        rows.append(
            {"task": task, "source": "paper", "initial": paper["baseline"], "previous": paper["previous"], "seeds": ""}
            | {a: paper[a] for a in ("H", "W+H")}
        )
        for group in (ours, reference):
            if group:
                rows.append(_row(task, group))
    lines = [
        "| task | source | initial | previous best | " + f"{ARM_NAMES['H']} | {ARM_NAMES['W+H']} | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        cells = [TITLES[r["task"]], r["source"], *(_show(r[k]) for k in COLUMNS[2:6]), str(r["seeds"])]
        lines.append("| " + " | ".join(cells) + " |")
    folder = out or results_dir() / "figures"
    paths = {"csv": folder / "table3.csv", "md": folder / "table3.md"}
    collect.write_csv(paths["csv"], [{k: _show(v) if isinstance(v, tuple) else v for k, v in r.items()} for r in rows], COLUMNS)
    write_atomic(paths["md"], "\n".join(lines) + "\n")
    return "\n".join(lines), paths


def _row(task: str, group: list[collect.Finished]) -> dict:
    metric = PAPER[task]["metric"]
    row = {"task": task, "source": group[0].source, "previous": "", "seeds": len(group)}
    for key, arm in (("initial", "baseline"), ("H", "H"), ("W+H", "W+H")):
        values = [v for _, v in collect.arm_values(group, arm, metric)]
        row[key] = collect.interval(values) if values else ""
    return row


def _show(value) -> str:
    if isinstance(value, tuple):
        mean, low, high = value
        return f"{mean:.3f}" if low != low else f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
