"""The pictures of the lesson on reading a trajectory: an execution's events in their lanes, and what became of the answers."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..agents.reading import SPEC_FAILURES
from ..trajectory import Event, Trajectory
from . import reading
from .drawing import drawing

LANES = ("sample", "response", "extract", "evaluate", "verdict", "submit", "end")
FATES = (  # of an answer: colour and hatching
    ("unreadable", "#D55E00", "//"),
    ("refused", "#E69F00", ".."),
    ("repeats", "#CC79A7", "xx"),
    ("scored", "#009E73", ""),
)


def _colour(event: Event) -> str:
    """Vermilion where something failed, pink for a repeat, green for a new valid verdict, else grey."""
    d = event.data
    if event.kind == "extract" and not d["ok"]:
        return "#D55E00"
    if event.kind == "verdict" and not d.get("final"):
        if d["failure"] in SPEC_FAILURES:
            return "#E69F00"
        return "#CC79A7" if d["repeat"] else "#009E73"
    return "#777777"


def lanes(trajectories: dict[str, Trajectory]) -> Any:
    """A panel an execution: events by id, a lane a kind; colours as ``FATES``, other events grey."""
    with drawing() as plt:
        fig, axes = plt.subplots(1, len(trajectories), figsize=(3.1 * len(trajectories), 2.5), sharey=True, squeeze=False)
        for ax, (name, tau) in zip(axes[0], trajectories.items(), strict=True):
            shown = [e for e in tau if e.kind in LANES]
            bad = [_colour(e) in ("#D55E00", "#E69F00") for e in shown]
            for failed, mark in ((False, "o"), (True, "X")):
                part = [e for e, b in zip(shown, bad, strict=True) if b == failed]
                ax.scatter(
                    [e.id for e in part],
                    [LANES.index(e.kind) for e in part],
                    c=[_colour(e) for e in part],
                    marker=mark,
                    s=22,
                    linewidths=0,
                )
            ax.set(title=name, xlabel="event id", yticks=range(len(LANES)), yticklabels=LANES, ylim=(len(LANES) - 0.5, -0.5))
        handles = [plt.Line2D([], [], marker="X" if h in ("//", "..") else "o", linestyle="", color=c) for _, c, h in FATES]
        fig.legend(handles, [f for f, _, _ in FATES], loc="lower center", ncols=4, fontsize=8, bbox_to_anchor=(0.5, -0.14))
    return fig


def fates(table: pd.DataFrame, title: str) -> Any:
    """What became of the answers by step, stacked; the step's score is written above.

    Args:
        table: ``reading.by_step`` of a run whose solutions all come from the policy's answers.
    """
    scored = table["verdicts"] - table["refused"] - table["repeats"]
    parts = {**{f: table[f] for f, _, _ in FATES[:3]}, "scored": scored}
    with drawing() as plt:
        fig, ax = plt.subplots(figsize=(5.4, 3))
        base = pd.Series(0, index=table.index)
        for fate, colour, hatch in FATES:
            ax.bar(table.index, parts[fate], bottom=base, color=colour, hatch=hatch, edgecolor="white", width=0.7, label=fate)
            base = base + parts[fate]
        for step, score in table["score"].items():
            ax.text(step, base[step] + 0.15, f"{score:.2f}", ha="center", fontsize=7.5)
        ax.set(title=title, xlabel="step (its score above the bar)", ylabel="answers", ylim=(0, base.max() * 1.12))
        ax.set_xticks(list(table.index))
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def cases() -> Any:
    """``lanes`` of the lesson's three cases."""
    return lanes({f"case {letter}": reading.trajectory(letter) for letter in reading.CASES})
