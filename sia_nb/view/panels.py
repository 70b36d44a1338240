"""What the figures are composed of, each drawn from plain data: the arms' bars, the runs' progress, the levers' rows.

Ours are filled bars with a 95 % interval over seeds and a dot a run, the committed reference runs stand behind in grey,
the paper's values are hollow diamonds and its previous state of the art a dashed line.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from . import collect
from .paper import ARM_NAMES, ARMS, METRICS, PAPER, TIMED, WHOLE_SCALE, setting

COLOURS = {"baseline": "#999999", "H": "#0072B2", "W": "#E69F00", "W+H": "#009E73"}
VERMILION = "#D55E00"
LABEL = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
HATCHES = {"baseline": "", "H": "//", "W": "\\\\", "W+H": "xx"}
LINES = {"H": "-", "W": ":", "W+H": "--"}
LEVERS = {"init": COLOURS["baseline"], "harness": COLOURS["H"], "weights": COLOURS["W"]}
BADGES = {"init": "$A_1$", "harness": "H", "weights": "W"}


def limits(values: list[float], metric: str = "") -> tuple[float, float]:
    """The y axis for these values: from 0 to 1 for a metric drawn whole, else from 0 (or the lowest) with room for labels."""
    if metric in WHOLE_SCALE:
        return 0.0, 1.0
    known = [v for v in values if not math.isnan(v)]
    low, high = min([0.0, *known]), max([0.0, *known])
    span = (high - low) or 1.0
    return (low - 0.05 * span if low < 0 else 0.0), high + 0.18 * span


def empty_from_data(ax: Any, *, title: str, words: str) -> None:
    """A panel for what cannot be drawn, which says so."""
    ax.set(title=title, xticks=[], yticks=[])
    ax.text(0.5, 0.5, words, ha="center", va="center", color=VERMILION, transform=ax.transAxes)


def panel_from_data(ax: Any, *, task: str, rows: list[dict], title: str, lost: Sequence[Any] = ()) -> None:
    """One panel: arms on the x axis. ``rows`` are the task's, as ``collect.rows`` makes them; ``lost`` the ``health.Gap``s:
    how many runs an arm lacks is written over its bar."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    arms = [a for a in ARMS if any(r["arm"] == a for r in rows) or any(gap.arm == a for gap in lost)]
    metric, handles = PAPER[task]["metric"], []
    low, high = limits([float(r[k]) for r in rows for k in ("value", "high", "low") if r.get(k, "") != ""], metric)
    above = 0.02 * (high - low)
    alone = not any(r["source"] == "ours" for r in rows)  # the committed runs are what is shown, not a background
    for source, width, alpha in (("reference", 0.8, 0.55 if alone else 0.25), ("ours", 0.5, 1.0)):
        for x, arm in enumerate(arms):
            group = [r for r in rows if r["arm"] == arm and r["source"] == source]
            if not group:
                continue
            mean, singles = group[0], group[1:] or group[:1]
            behind = source == "reference" and not alone
            colour, hatch = ("#666666", "") if behind else (COLOURS[arm], HATCHES[arm])
            ax.bar(x, mean["value"], width, color=colour, alpha=alpha, hatch=hatch, edgecolor="white", linewidth=0)
            shift = 0.33 if source == "reference" else 0.0
            if not math.isnan(mean["low"]):
                err = [[mean["value"] - mean["low"]], [mean["high"] - mean["value"]]]
                ax.errorbar(x + shift, mean["value"], yerr=err, color="black", capsize=3, linewidth=1)
            for s in singles:
                mark = (
                    {"marker": "x", "markersize": 5, "color": VERMILION} if s["passes"] == 0 else {"marker": ".", "markersize": 4}
                )
                ax.plot(x + shift, s["value"], **{"color": "black", "alpha": 0.7, "linestyle": "", **mark})
            if not behind:
                seeds = "1 seed" if mean["seeds"] == 1 else f"{mean['seeds']} seeds"
                missing = sum(gap.arm == arm for gap in lost)
                seeds += f",\n{missing} lost" if missing else ""
                top = mean["value"] if math.isnan(mean["high"]) else max(mean["value"], mean["high"])
                place = (x - 0.05, above) if alone else (x, top + above)  # over the bar the paper's marks are in the way
                ax.text(*place, f"{mean['value']:.3f}\n{seeds}", ha="center", va="bottom", fontsize=8, bbox=LABEL)
    for x, arm in enumerate(arms):
        paper = [r for r in rows if r["arm"] == arm and r["source"] == "paper"]
        if paper:
            ax.plot(x - 0.42, paper[0]["value"], "D", markerfacecolor="white", markeredgecolor=VERMILION, markersize=7, zorder=5)
        if not any(r["arm"] == arm and r["source"] != "paper" for r in rows):
            words = "not readable" if any(gap.arm == arm for gap in lost) else "no run of ours"
            ax.text(x, above, words, ha="center", va="bottom", fontsize=7.5, color="#777777", rotation=90)
    data = f", {setting(task)}" if setting(task) else ""
    previous = [r for r in rows if r["arm"] == "previous"]
    if previous:
        ax.axhline(previous[0]["value"], linestyle="--", color=VERMILION, linewidth=1)
        handles.append(Line2D([], [], linestyle="--", color=VERMILION, label=f"previous state of the art (paper{data})"))
    hollow = {"marker": "D", "linestyle": "", "markerfacecolor": "none", "markeredgecolor": VERMILION}
    if "absent" in PAPER[task]:
        handles.append(Line2D([], [], linestyle="", label=PAPER[task]["absent"]))
    else:
        handles.append(Line2D([], [], label=f"paper's SIA (120 B model{data})", **hollow))
    if any(r["passes"] == 0 and r["seeds"] == 1 for r in rows):
        handles.append(
            Line2D([], [], marker="x", linestyle="", color=VERMILION, label="a run whose answer fails the right gate here")
        )
    if any(r["source"] == "reference" for r in rows):
        behind = [r for r in rows if r["source"] == "reference"]
        n, calls = (max(float(r[key] or 0) for r in behind) for key in ("seeds", "verifier_calls"))
        label = f"committed runs, {n:.0f} seed{'s' if n > 1 else ''}, at most {calls:.0f} calls used"
        handles.append(Patch(color=COLOURS["H"] if alone else "#666666", alpha=0.55 if alone else 0.25, label=label))
    ylabel = on(METRICS[metric], task, next(r["hardware"] for r in rows if r["source"] != "paper"))
    ax.set(title=title, ylabel=ylabel, ylim=(low, high), xlim=(-0.6, len(arms) - 0.4), xticks=range(len(arms)))
    ax.set_xticklabels([ARM_NAMES[a] for a in arms])
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.1), fontsize=7.5, ncols=1)


def on(words: str, task: str, hardware: str) -> str:
    """An axis label that, where times are measured, names what they were measured on: the GPUs, or the CPU and its cores.

    ``hardware`` is a run's whole line, as in its provenance.
    """
    if task not in TIMED:
        return words
    parts = re.sub(r"\((R|TM)\)", "", hardware, flags=re.IGNORECASE).split(", ")
    gpus = [part for part in parts if " × " in part]
    return "\n".join([words, *textwrap.wrap(", ".join(gpus if gpus and task.endswith("_cuda") else parts[:2]), 46)])


def progress_from_data(ax: Any, curves: list[dict], *, ylabel: str, metric: str = "top1") -> None:
    """Dev over verifier calls, training's included: verdicts faint, a thin step line a run, a thick one for an arm's mean.

    ``curves`` holds for each run ``arm``, ``seed`` and the lists of ``collect.curve``; ``metric`` sets the scale.
    """
    from matplotlib.lines import Line2D

    handles = []
    for arm in [a for a in ARMS if any(c["arm"] == a for c in curves)]:
        group, colour = [c for c in curves if c["arm"] == arm], COLOURS[arm]
        lines = [collect.running_best(c) for c in group]
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
    ylim = limits([v for c in curves for v in (*c["score"], *c["step_score"])], metric)
    ax.set(title="(b) the runs", xlabel="verifier calls, training included", ylabel=ylabel, ylim=ylim)
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.13), fontsize=7.5, ncols=2)


def interleaving_from_data(ax: Any, runs: list[dict], *, title: str = "") -> None:
    """A row a run: a badge a step for the lever pulled before it, filled where kept, hollow where rolled back.

    The score runs along the badges, on one scale for all rows. Each run has ``label`` and ``steps``; a step has ``step``,
    ``action`` (init, harness or weights), ``algorithm``, ``accepted`` and ``value``. A run with ``lost`` has none, and says that.
    """
    from matplotlib.lines import Line2D

    values = [s["value"] for r in runs for s in r["steps"]]
    low, span = min(values), (max(values) - min(values)) or 1.0
    for row, run in enumerate(runs):
        base, steps = len(runs) - 1 - row, run["steps"]
        height = lambda v, base=base: base + 0.48 + 0.26 * (v - low) / span
        ax.axhline(base, color="#dddddd", linewidth=0.8)
        if "lost" in run:
            words = "\n".join(textwrap.wrap(f"not readable: {run['lost']}", 90))
            ax.text(0.6, base + 0.5, words, va="center", fontsize=6.5, color=VERMILION)
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
