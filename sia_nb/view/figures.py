"""The paper's figures from run folders: SVG, PDF and PNG, with the CSV they are drawn from beside them.

``*_from_data`` draw from plain data; ``figure_1`` and ``figure_4`` gather it first. Ours are filled bars with a
95 % interval over seeds and a dot a run, the committed reference runs stand behind in grey, the paper's values are
hollow diamonds and its previous state of the art a dashed line.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..store import commit, results_dir
from . import collect
from .collect import Finished
from .paper import ARM_NAMES, ARMS, METRICS, PAPER, TITLES

STYLE = str(Path(__file__).with_name("sia.mplstyle"))
COLOURS = {"baseline": "#999999", "H": "#0072B2", "W": "#E69F00", "W+H": "#009E73"}
LABEL = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
HATCHES = {"baseline": "", "H": "//", "W": "\\\\", "W+H": "xx"}


def figure_1(tasks: list[str], *, profile: str = "", out: Path | None = None, also: Path | None = None) -> dict[str, Path]:
    """Figure 1, a panel a task: sealed-test score of each arm. Returns the files written, by suffix.

    Raises:
        StoreError: no finished run and no reference run of any of the tasks.
    """
    plt = _pyplot()
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(1, len(tasks), figsize=(4.2 * len(tasks), 3.6), squeeze=False)
        rows, used = [], []
        for ax, task in zip(axes[0], tasks, strict=True):
            ours, reference = gather(task, profile, also)
            rows += collect.rows(task, ours, reference)
            used += ours or reference
            panel_from_data(
                ax, rows=[r for r in rows if r["task"] == task], title=TITLES[task], ylabel=METRICS[PAPER[task]["metric"]]
            )
        _provenance(fig, used)
        return _save(fig, "fig1", rows, out)


def figure_4(*, profile: str = "", out: Path | None = None, also: Path | None = None) -> dict[str, Path]:
    """Figure 4: LawBench in full: the arms on the sealed test, and dev over the verifier calls of each run.

    Raises:
        StoreError: no finished run and no reference run.
    """
    plt, task = _pyplot(), "lawbench"
    ours, reference = gather(task, profile, also)
    with plt.style.context(STYLE):
        fig, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.8), width_ratios=(1, 1.35))
        rows = collect.rows(task, ours, reference)
        panel_from_data(left, rows=rows, title="(a) " + TITLES[task], ylabel=METRICS[PAPER[task]["metric"]])
        progress_from_data(right, [(f, collect.curve(f.run)) for f in (ours or reference)])
        _provenance(fig, ours or reference)
        return _save(fig, "fig4", rows, out)


def gather(task: str, profile: str = "", also: Path | None = None) -> tuple[list[Finished], list[Finished]]:
    """(our finished runs, the reference runs) of a task; ``also`` names a run that is kept elsewhere.

    Raises:
        StoreError: there are neither.
    """
    from ..errors import StoreError

    ours = collect.finished(task, profile=profile, also=also)
    reference = collect.finished(task, source="reference")
    if not ours and not reference:
        raise StoreError(
            f"no finished run of '{task}'{' in profile ' + profile if profile else ''}: `python -m sia_nb run --task {task}` makes one"
        )
    return ours, reference


def panel_from_data(ax: Any, *, rows: list[dict], title: str, ylabel: str) -> None:
    """One panel: arms on the x axis. ``rows`` as ``collect.rows`` makes them."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    arms = [a for a in ARMS if any(r["arm"] == a for r in rows)]
    handles = []
    for source, width, alpha in (("reference", 0.8, 0.25), ("ours", 0.5, 1.0)):
        for x, arm in enumerate(arms):
            group = [r for r in rows if r["arm"] == arm and r["source"] == source]
            if not group:
                continue
            mean, singles = group[0], group[1:] or group[:1]
            colour = "#666666" if source == "reference" else COLOURS[arm]
            hatch = "" if source == "reference" else HATCHES[arm]
            ax.bar(x, mean["value"], width, color=colour, alpha=alpha, hatch=hatch, edgecolor="white", linewidth=0)
            shift = 0.3 if source == "reference" else 0.0
            if not math.isnan(mean["low"]):
                err = [[mean["value"] - mean["low"]], [mean["high"] - mean["value"]]]
                ax.errorbar(x + shift, mean["value"], yerr=err, color="black", capsize=3, linewidth=1)
            ax.plot([x + shift] * len(singles), [s["value"] for s in singles], ".", color="black", markersize=4, alpha=0.6)
            if source == "ours" or not any(r["source"] == "ours" for r in rows):
                seeds = "1 seed" if mean["seeds"] == 1 else f"{mean['seeds']} seeds"
                top = mean["value"] if math.isnan(mean["high"]) else max(mean["value"], mean["high"])
                ax.text(x, top + 0.02, f"{mean['value']:.3f}\n{seeds}", ha="center", va="bottom", fontsize=8, bbox=LABEL)
    for x, arm in enumerate(arms):
        paper = [r for r in rows if r["arm"] == arm and r["source"] == "paper"]
        if paper:
            ax.plot(x - 0.32, paper[0]["value"], "D", markerfacecolor="none", markeredgecolor="#D55E00", markersize=7)
        if not any(r["arm"] == arm and r["source"] != "paper" for r in rows):
            ax.text(x, 0.02, "no run of ours", ha="center", va="bottom", fontsize=7.5, color="#777777", rotation=90)
    previous = [r for r in rows if r["arm"] == "previous"]
    if previous:
        ax.axhline(previous[0]["value"], linestyle="--", color="#D55E00", linewidth=1)
        handles.append(Line2D([], [], linestyle="--", color="#D55E00", label="previous state of the art (paper)"))
    handles.append(
        Line2D(
            [], [], marker="D", linestyle="", markerfacecolor="none", markeredgecolor="#D55E00", label="paper's SIA (120 B model)"
        )
    )
    if any(r["source"] == "reference" for r in rows):
        n = max(r["seeds"] for r in rows if r["source"] == "reference")
        handles.append(Patch(color="#666666", alpha=0.25, label=f"committed reference runs, {n} seeds"))
    ax.set(title=title, ylabel=ylabel, ylim=(0, 1), xlim=(-0.6, len(arms) - 0.4), xticks=range(len(arms)))
    ax.set_xticklabels([ARM_NAMES[a] for a in arms])
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.1), fontsize=7.5, ncols=1)


def progress_from_data(ax: Any, curves: list[tuple[Any, dict]]) -> None:
    """Dev over verifier calls: each verdict in faint grey, the running best as a step line, each step's fate marked."""
    colours = [c["color"] for c in __import__("matplotlib").rcParams["axes.prop_cycle"]]
    for n, (finished, c) in enumerate(curves):
        colour, best, running = colours[n % len(colours)], 0.0, []
        for score in c["score"]:
            best = max(best, score)
            running.append(best)
        ax.plot(c["calls"], c["score"], ".", color="#bbbbbb", markersize=3, zorder=1)
        ax.step(c["calls"], running, where="post", color=colour, linewidth=1.4, label=f"seed {finished.seed}", zorder=2)
        for end, score, kept in zip(c["step_end"], c["step_score"], c["accepted"], strict=True):
            face = colour if kept else "white"
            ax.plot(end, score, "o" if kept else "X", color=colour, markerfacecolor=face, markersize=6, zorder=3)
    ax.plot([], [], "o", color="black", label="step kept")
    ax.plot([], [], "X", color="black", markerfacecolor="white", label="step rolled back")
    ax.set(title="(b) the runs", xlabel="verifier calls", ylabel="macro accuracy on dev, the loop's verdict", ylim=(0, 1))
    ax.legend(loc="lower right", fontsize=7.5)


def _pyplot() -> Any:
    import matplotlib

    if matplotlib.get_backend().lower() not in ("inline", "module://matplotlib_inline.backend_inline"):
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _provenance(fig: Any, used: list[Finished]) -> None:
    """A small line: commit, runs, hardware, seeds."""
    commits = sorted({f.run.info["commit"] for f in used})
    machines = sorted({f.run.info["hardware"] for f in used})
    profiles = sorted({f"{f.run.config.profile} profile, {f.run.config.agent} agents, {f.run.config.policy}" for f in used})
    notices = sorted({n for f in used for n in f.run.info["notices"]})
    seeds = ", ".join(str(f.seed) for f in used)
    lines = [
        f"{'; '.join(profiles)} · seeds {seeds} · {'; '.join(machines)}",
        f"runs at commit {', '.join(commits)}, drawn at {commit()}",
        *notices,
    ]
    fig.text(0.01, -0.2, "\n".join(lines), fontsize=6, color="#555555", va="top")


def _save(fig: Any, name: str, rows: list[dict], out: Path | None) -> dict[str, Path]:
    folder = out or results_dir() / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {s: folder / f"{name}.{s}" for s in ("svg", "pdf", "png", "csv")}
    for suffix in ("svg", "pdf", "png"):
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
        fig.savefig(paths[suffix], metadata=metadata)
    collect.write_csv(paths["csv"], rows)
    _pyplot().close(fig)
    return paths
