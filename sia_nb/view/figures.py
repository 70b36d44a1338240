"""The paper's figures from run folders: SVG, PDF and PNG, with the CSV they are drawn from beside them.

``*_from_data`` draw from plain data; ``figure_1``, ``figure_2b`` and ``figure_4`` gather it first. Ours are filled bars
with a 95 % interval over seeds and a dot a run, the committed reference runs stand behind in grey, the paper's values
are hollow diamonds and its previous state of the art a dashed line.
"""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

from ..store import commit, results_dir
from . import collect
from .collect import Finished
from .paper import ARM_NAMES, ARMS, METRICS, PAPER, TITLES

STYLE = str(Path(__file__).with_name("sia.mplstyle"))
COLOURS = {"baseline": "#999999", "H": "#0072B2", "W": "#E69F00", "W+H": "#009E73"}
LABEL = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
HATCHES = {"baseline": "", "H": "//", "W": "\\\\", "W+H": "xx"}
LINES = {"H": "-", "W": ":", "W+H": "--"}
LEVERS = {"init": COLOURS["baseline"], "harness": COLOURS["H"], "weights": COLOURS["W"]}
BADGES = {"init": "$A_1$", "harness": "H", "weights": "W"}


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


def figure_2b(task: str = "lawbench", *, profile: str = "", out: Path | None = None, also: Path | None = None) -> dict[str, Path]:
    """Figure 2(b) from real runs: which lever was pulled before each step, whether it was kept, and the score along it.

    Raises:
        StoreError: no finished run and no reference run.
    """
    plt = _pyplot()
    ours, reference = gather(task, profile, also)
    used = ours or reference
    steps = collect.step_rows(used)
    runs = [
        {"label": f"{ARM_NAMES[f.arm]}\nseed {f.seed}", "steps": [r for r in steps if r["run"] == f.run.path.name]} for f in used
    ]
    longest = max(len(r["steps"]) for r in runs)
    with plt.style.context(STYLE):
        fig, ax = plt.subplots(figsize=(1.6 + 0.62 * max(longest, 6), 0.8 + len(runs)))
        interleaving_from_data(ax, runs, title=f"{TITLES[task]}: which lever, and what it did to dev")
        _provenance(fig, used)
        return _save(fig, "fig2b", steps, out, columns=collect.STEP_COLUMNS)


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
        used = ours or reference
        progress_from_data(right, [{"arm": f.arm, "seed": f.seed, **collect.curve(f.run)} for f in used])
        _provenance(fig, used)
        files = _save(fig, "fig4", rows, out)
    files["progress"] = files["csv"].with_name("fig4_progress.csv")
    collect.write_csv(files["progress"], collect.progress_rows(used))
    return files


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
            ax.plot(x - 0.36, paper[0]["value"], "D", markerfacecolor="none", markeredgecolor="#D55E00", markersize=7)
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
        behind = [r for r in rows if r["source"] == "reference"]
        n, calls = (max(float(r[key] or 0) for r in behind) for key in ("seeds", "verifier_calls"))
        label = f"committed reference runs, {n:.0f} seeds of {calls:.0f} verifier calls"
        handles.append(Patch(color="#666666", alpha=0.25, label=label))
    ax.set(title=title, ylabel=ylabel, ylim=(0, 1), xlim=(-0.6, len(arms) - 0.4), xticks=range(len(arms)))
    ax.set_xticklabels([ARM_NAMES[a] for a in arms])
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.1), fontsize=7.5, ncols=1)


def progress_from_data(ax: Any, curves: list[dict]) -> None:
    """Dev over verifier calls, training's included: verdicts faint, a thin step line a run, a thick one for an arm's mean.

    ``curves`` holds for each run ``arm``, ``seed`` and the lists of ``collect.curve``.
    """
    from matplotlib.lines import Line2D

    handles = []
    for arm in [a for a in ARMS if any(c["arm"] == a for c in curves)]:
        group, colour = [c for c in curves if c["arm"] == arm], COLOURS[arm]
        lines = [collect.running_best(c["score"]) for c in group]
        for c, running in zip(group, lines, strict=True):
            ax.plot(c["calls"], c["score"], ".", color=colour, markersize=2.5, alpha=0.25, markeredgewidth=0, zorder=1)
            thin = {"linewidth": 0.7, "alpha": 0.6} if len(group) > 1 else {"linewidth": 1.6}
            ax.step(c["calls"], running, where="post", color=colour, linestyle=LINES[arm], zorder=2, **thin)
            for end, score, kept, action in zip(c["step_end"], c["step_score"], c["accepted"], c["action"], strict=True):
                shape, edge = "D" if action == "weights" else "o", {"markersize": 4.5, "markeredgewidth": 0.9}
                ax.plot(end, score, shape, color=colour, markerfacecolor=colour if kept else "white", zorder=3, **edge)
        if len(group) > 1:
            common = min(map(len, lines))
            mean = [sum(line[n] for line in lines) / len(lines) for n in range(common)]
            ax.step(range(1, common + 1), mean, where="post", color=colour, linestyle=LINES[arm], linewidth=2, zorder=2.5)
        seeds = f"mean of {len(group)} seeds" if len(group) > 1 else f"seed {group[0]['seed']}"
        label = f"{ARM_NAMES[arm]}, best so far, {seeds}"
        handles.append(Line2D([], [], color=colour, linestyle=LINES[arm], linewidth=2, label=label))
    mark = lambda shape, face, label: Line2D(
        [], [], color="#444444", marker=shape, linestyle="", markersize=4.5, label=label, markerfacecolor=face
    )
    handles += [mark("o", "#444444", "step after a harness update"), mark("D", "#444444", "step after a weight update")]
    handles.append(mark("o", "white", "hollow: rolled back"))
    ax.set(
        title="(b) the runs",
        xlabel="verifier calls, training included",
        ylabel="macro accuracy on dev, the loop's verdict",
        ylim=(0, 1),
    )
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.13), fontsize=7.5, ncols=2)


def interleaving_from_data(ax: Any, runs: list[dict], *, title: str = "") -> None:
    """A row a run: a badge a step for the lever pulled before it, filled where kept, hollow where rolled back.

    The score runs along the badges, on one scale for all rows. Each run has ``label`` and ``steps``; a step has ``step``,
    ``action`` (init, harness or weights), ``algorithm``, ``accepted`` and ``value``.
    """
    from matplotlib.lines import Line2D

    values = [s["value"] for r in runs for s in r["steps"]]
    low, span = min(values), (max(values) - min(values)) or 1.0
    for row, run in enumerate(runs):
        base, steps = len(runs) - 1 - row, run["steps"]
        height = lambda v, base=base: base + 0.49 + 0.32 * (v - low) / span
        ax.axhline(base, color="#dddddd", linewidth=0.8)
        incumbent = None
        for s in steps:
            colour, x = LEVERS[s["action"]], s["step"]
            filled = colour if s["accepted"] else "white"
            if incumbent:
                start = height(incumbent["value"])
                ax.plot([incumbent["step"], x - 1], [start] * 2, color="#999999", linewidth=0.8, zorder=1)
                style = "-" if s["accepted"] else ":"
                ax.plot([x - 1, x], [start, height(s["value"])], color=colour, linestyle=style, linewidth=1.5, zorder=2)
            ax.plot(x, height(s["value"]), "o", color=colour, markerfacecolor=filled, markersize=4.5, zorder=3)
            ax.text(x, height(s["value"]) + 0.07, f"{s['value']:.3f}", ha="center", va="bottom", fontsize=6.5)
            badge = {"boxstyle": "round,pad=0.25", "facecolor": filled, "edgecolor": colour, "linewidth": 1.2}
            ink = "white" if s["accepted"] and s["action"] != "weights" else "black"
            ax.text(x, base + 0.29, BADGES[s["action"]], ha="center", va="center", fontsize=8, color=ink, bbox=badge)
            if s["algorithm"]:
                ax.text(x, base + 0.03, s["algorithm"], ha="center", va="bottom", fontsize=6, color="#555555")
            if s["accepted"]:
                incumbent = s
    longest = max(s["step"] for r in runs for s in r["steps"])
    ax.set(title=title, xlabel="step", xlim=(0.4, longest + 0.6), ylim=(0, len(runs)), xticks=range(1, longest + 1))
    ax.set_yticks([len(runs) - 1 - n + 0.5 for n in range(len(runs))], [r["label"] for r in runs])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(False)
    square = lambda face, edge, label: Line2D(
        [], [], marker="s", linestyle="", markersize=8, label=label, markerfacecolor=face, markeredgecolor=edge
    )
    handles = [
        square(LEVERS["harness"], LEVERS["harness"], "harness update"),
        square(LEVERS["weights"], LEVERS["weights"], "weight update"),
    ]
    handles += [square("#888888", "#888888", "filled: kept"), square("white", "#888888", "hollow: rolled back")]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.42 / len(runs)), fontsize=7.5, ncols=4)


def _pyplot() -> Any:
    import matplotlib

    if matplotlib.get_backend().lower() not in ("inline", "module://matplotlib_inline.backend_inline"):
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _provenance(fig: Any, used: list[Finished]) -> None:
    """A small line under everything: profile, seeds, hardware, commits; then what a reader has to know of the runs."""
    commits = sorted({f.run.info["commit"] for f in used})
    machines = sorted({f.run.info["hardware"] for f in used})
    profiles = sorted({f"{f.run.config.profile} profile, {f.run.config.agent} agents, {f.run.config.policy}" for f in used})
    notices = sorted({n for f in used for n in f.run.info["notices"]})
    seeds = {arm: ", ".join(str(f.seed) for f in used if f.arm == arm) for arm in ARMS if any(f.arm == arm for f in used)}
    same = len(set(seeds.values())) == 1
    each = f"seeds {next(iter(seeds.values()))}" if same else "; ".join(f"{ARM_NAMES[a]} seeds {s}" for a, s in seeds.items())
    lines = [
        f"{'; '.join(profiles)} · {each} · {'; '.join(machines)}",
        f"runs at commit {', '.join(commits)}, drawn at {commit()}",
        *notices,
    ]
    for task in sorted({f.run.config.task for f in used}):
        lines += collect.disagreements([f for f in used if f.run.config.task == task], PAPER[task]["metric"])
    fig.canvas.draw()
    bottom = fig.get_tightbbox().y0 / fig.get_figheight()  # below the legends, wherever they ended
    width = int(fig.get_figwidth() / 0.048)  # characters of this size
    wrapped = [part for line in lines for part in textwrap.wrap(line, width)]
    fig.text(0.01, bottom - 0.03, "\n".join(wrapped), fontsize=6, color="#555555", va="top")


def _save(fig: Any, name: str, rows: list[dict], out: Path | None, columns: list[str] | None = None) -> dict[str, Path]:
    folder = out or results_dir() / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {s: folder / f"{name}.{s}" for s in ("svg", "pdf", "png", "csv")}
    for suffix in ("svg", "pdf", "png"):
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
        fig.savefig(paths[suffix], metadata=metadata)
    collect.write_csv(paths["csv"], rows, columns)
    _pyplot().close(fig)
    return paths
