"""The paper's figures from run folders: SVG, PDF and PNG, with the CSV they are drawn from beside them.

Each function gathers the runs, has ``panels`` draw them and writes the files. Every task has its own figure, called as in
the paper: Figure 4 for LawBench, Figure 5 for TriMul (one for each kind of device), Figure 6 for denoising.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import StoreError
from ..store import commit, results_dir
from . import collect, health, panels
from .collect import Finished
from .paper import ARM_NAMES, ARMS, FIGURES, PAPER, title

STYLE = str(Path(__file__).with_name("sia.mplstyle"))


def figure_1(
    tasks: list[str] | None = None, *, profile: str = "", out: Path | None = None, also: Path | None = None
) -> dict[str, Path]:
    """Figure 1, a panel a task: sealed-test score of each arm. Returns the files written, by suffix.

    Args:
        tasks: by default all that have runs.
        profile: of our runs; empty: that of each task's newest.
        out: where the files go; by default results/figures.
        also: a run kept elsewhere.

    Raises:
        StoreError: no finished run and no reference run of a task.
    """
    if not tasks:
        drawable = collect.tasks_with_runs(profile=profile, also=also)
        tasks = [t for t in PAPER if t in drawable or health.gaps(t)]
    plt = pyplot()
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(1, len(tasks), figsize=(4.4 * len(tasks), 3.6), squeeze=False, gridspec_kw={"wspace": 0.3})
        rows, used = [], []
        for ax, task in zip(axes[0], tasks, strict=True):
            try:
                ours, reference = gather(task, profile, also)
            except StoreError:
                if len(tasks) == 1 or not health.gaps(task):
                    raise
                panels.empty_from_data(ax, title=title(task), words=f"{len(health.gaps(task))} runs, none of which\ncan be read")
                continue
            mine = collect.rows(task, ours, collect.comparable(task, ours, reference))
            lost = health.gaps(task)
            panels.panel_from_data(ax, task=task, rows=mine, title=title_of(task, ours or reference), lost=lost)
            rows += mine
            used += ours or reference
        provenance(fig, used, tasks)
        return save(fig, "fig1", rows, out)


def figure_2b(task: str = "lawbench", *, profile: str = "", out: Path | None = None, also: Path | None = None) -> dict[str, Path]:
    """Figure 2(b) from real runs: which lever was pulled before each step, whether it was kept, and the score along it.

    Raises:
        StoreError: no finished run and no reference run.
    """
    plt = pyplot()
    ours, reference = gather(task, profile, also)
    used = ours or reference
    steps = collect.step_rows(used)
    runs = [
        {"label": f"{ARM_NAMES[f.arm]}\nseed {f.seed}", "steps": [r for r in steps if r["run"] == f.run.path.name]} for f in used
    ]
    runs += [{"label": f"{ARM_NAMES.get(g.arm, '')}\nseed {g.seed}", "steps": [], "lost": g.short} for g in health.gaps(task)]
    longest = max(len(r["steps"]) for r in runs)
    with plt.style.context(STYLE):
        fig, ax = plt.subplots(figsize=(1.6 + 0.62 * max(longest, 6), 0.8 + len(runs)))
        panels.interleaving_from_data(ax, runs, title=f"{title_of(task, used)}: which lever, and what it did to dev")
        provenance(fig, used)
        return save(fig, f"fig2b_{task}", steps, out, columns=collect.STEP_COLUMNS)


def figure_task(task: str, *, profile: str = "", out: Path | None = None, also: Path | None = None) -> dict[str, Path]:
    """The task's own figure (Figure 4, 5 or 6): the arms on the sealed test, and dev over the verifier calls of each run.

    Raises:
        StoreError: no finished run and no reference run.
    """
    from ..tasks import get_task

    plt, (name, _) = pyplot(), FIGURES[task]
    ours, reference = gather(task, profile, also)
    used = ours or reference
    with plt.style.context(STYLE):
        fig, (left, right) = plt.subplots(1, 2, figsize=(9.8, 3.8), width_ratios=(1, 1.35), gridspec_kw={"wspace": 0.3})
        rows = collect.rows(task, ours, collect.comparable(task, ours, reference))
        panels.panel_from_data(left, task=task, rows=rows, title=f"(a) {title_of(task, used)}", lost=health.gaps(task))
        curves = [{"arm": f.arm, "seed": f.seed, **collect.curve(f.run)} for f in used]
        label = panels.on(f"{get_task(task).metric},\nthe loop's verdict", task, used[0].hardware)
        panels.progress_from_data(right, curves, ylabel=label, metric=PAPER[task]["metric"])
        provenance(fig, used)
        files = save(fig, name, rows, out)
    files["progress"] = files["csv"].with_name(f"{name}_progress.csv")
    collect.write_csv(files["progress"], collect.progress_rows(used))
    return files


def gather(task: str, profile: str = "", also: Path | None = None) -> tuple[list[Finished], list[Finished]]:
    """(our finished runs, the committed runs beside them) of a task; ``also`` names a run that is kept elsewhere.

    Raises:
        StoreError: there are neither.
    """
    ours = collect.finished(task, profile=profile, also=also)
    reference = collect.committed(task, ours, profile)
    if not ours and not reference:
        lost = "".join(f"\nnot readable: {gap.why}" for gap in health.gaps(task))
        raise StoreError(
            f"no finished run of '{task}'{' in profile ' + profile if profile else ''}: `python -m sia_nb run --task {task}` makes one{lost}"
        )
    return ours, reference


def title_of(task: str, used: list[Finished]) -> str:
    """The panel's title: the task, and the instance that the runs were made on."""
    return title(task, used[0].run.config.instance)


def pyplot() -> Any:
    """matplotlib.pyplot, on a backend that needs no screen."""
    import matplotlib

    if matplotlib.get_backend().lower() not in ("inline", "module://matplotlib_inline.backend_inline"):
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def provenance(fig: Any, used: list[Finished], tasks: list[str] | None = None) -> None:
    """A small line under everything: profile, budget, seeds, hardware, commits; then what a reader has to know of the runs,
    and in another colour the runs of these tasks (by default those of ``used``) that are left out, each with its file."""
    commits = sorted({f.run.info["commit"] for f in used})
    machines = sorted({f.run.info["hardware"] for f in used})
    profiles = sorted({f"{f.run.config.profile} profile, {f.run.config.agent} agents, {f.run.config.policy}" for f in used})
    notices = Counter(n for f in used for n in set(f.run.info["notices"]))
    lines = [
        f"{'; '.join(profiles)} · {_budgets(used)} · {_seeds(used)} · {'; '.join(machines)}",
        f"runs at commit {', '.join(commits)}, drawn at {head()}",
        *(text if n == len(used) else f"{n} of the {len(used)} runs: {text}" for text, n in sorted(notices.items())),
    ]
    tasks = tasks or sorted({f.run.config.task for f in used})
    for task in tasks:
        lines += collect.disagreements([f for f in used if f.run.config.task == task], PAPER[task]["metric"])
    caption(fig, lines, [f"left out: {gap.short}" for task in tasks for gap in health.gaps(task)])


def caption(fig: Any, lines: list[str], warnings: list[str] | None = None) -> None:
    """Small text under everything that is drawn, wrapped to the figure's width; warnings below it in another colour."""
    frame = _frame(fig)
    bottom = frame.y0 / fig.get_figheight()  # below the legends, wherever they ended
    gap = 0.11 / fig.get_figheight()  # of 0.11 inches
    width = int(fig.get_figwidth() / 0.048)  # characters of this size
    wrap = lambda told: [part for line in told for part in textwrap.wrap(line, width)]
    style = {"fontsize": 6, "va": "top"}
    texts = [fig.text(0.01, bottom - gap, "\n".join(wrap(lines)), color="#555555", **style)]
    if warnings:
        lower = bottom - gap - 0.1 * (len(wrap(lines)) + 0.5) / fig.get_figheight()
        texts.append(fig.text(0.01, lower, "\n".join(wrap(warnings)), color=panels.VERMILION, **style))
    inches = fig.dpi_scale_trans.inverted()
    _FRAMES[fig] = frame.union([frame, *(text.get_window_extent().transformed(inches) for text in texts)])


_FRAMES: WeakKeyDictionary = WeakKeyDictionary()  # of figures whose caption has been set: to measure one again takes a draw


def _frame(fig: Any) -> Any:
    """What is drawn of a figure, as a box in inches."""
    if fig not in _FRAMES:
        fig.draw_without_rendering()
        return fig.get_tightbbox()
    return _FRAMES[fig]


@lru_cache(1)
def head() -> str:
    """The checked-out commit, asked for once a process."""
    return commit()


def _budgets(used: list[Finished]) -> str:
    """``8 steps × 26 verifier calls and 12,000 tokens``, of each task where they differ."""
    told = {}
    for f in used:
        c = f.run.config
        budget = f"{c.steps} steps × {c.verifier_calls} verifier calls and {c.tokens:,} tokens"
        told.setdefault(budget, []).append(c.task)
    if len(told) == 1:
        return next(iter(told))
    return "; ".join(f"{', '.join(dict.fromkeys(tasks))} {budget}" for budget, tasks in told.items())


def _seeds(used: list[Finished]) -> str:
    """``seeds 0, 1, 2`` where all arms of all tasks have the same, else each task's, and each arm's where its arms differ."""
    seeds: dict[str, dict[str, str]] = {}
    for f in sorted(used, key=lambda f: (f.run.config.task, ARMS.index(f.arm), f.seed)):
        arms = seeds.setdefault(f.run.config.task, {})
        arms[f.arm] = f"{arms[f.arm]}, {f.seed}" if f.arm in arms else f"seeds {f.seed}"
    told = []
    for task, arms in seeds.items():
        name = f"{task} " if len(seeds) > 1 else ""
        same = len(set(arms.values())) == 1
        told += [name + min(arms.values())] if same else [f"{name}{ARM_NAMES[arm]} {words}" for arm, words in arms.items()]
    every = {words for arms in seeds.values() for words in arms.values()}
    return every.pop() if len(every) == 1 else "; ".join(told)


def save(fig: Any, name: str, rows: list[dict], out: Path | None, columns: list[str] | None = None) -> dict[str, Path]:
    """Write the figure as SVG, PDF and PNG and its rows as CSV, and close it; returns the files by suffix."""
    folder = out or results_dir() / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {s: folder / f"{name}.{s}" for s in ("svg", "pdf", "png", "csv")}
    frame = _frame(fig).padded(0.1)  # once for the three: bbox "tight" would draw the figure twice for each
    for suffix in ("svg", "pdf", "png"):
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
        packed = {"pil_kwargs": {"compress_level": 3}} if suffix == "png" else {}  # 6 takes three times as long for a tenth less
        fig.savefig(paths[suffix], metadata=metadata, bbox_inches=frame, **packed)
    collect.write_csv(paths["csv"], rows, columns)
    pyplot().close(fig)
    return paths
