"""The pictures of the lesson on the loop: a run with its levers and roll-backs, and a gain with two kinds of noise."""

from __future__ import annotations

from typing import Any

from ..store import Run
from . import loop
from .drawing import drawing

LEVERS = {"A_1": ("#444444", "D"), "H": ("#0072B2", "s"), "W": ("#D55E00", "o")}


def run(run: Run, *, revealed: bool, first: int = 2) -> Any:
    """Scores with their noise by step, a mark a lever; where ``revealed``, kept ones filled and the incumbent as a line.

    Args:
        first: the step to begin with; A_1 lies far below the rest.
    """
    table = loop.steps(run).loc[first:]
    best = loop.incumbents(run)
    with drawing() as plt:
        fig, ax = plt.subplots(figsize=(5.8, 3.2))
        for g, row in table.iterrows():
            colour, mark = LEVERS[row["lever"]]
            kept = best[g] == g
            fill = colour if kept and revealed else "white"
            ax.errorbar(g, row["score"], row["noise"], color=colour, capsize=3, linewidth=1, zorder=2)
            ax.plot(g, row["score"], mark, color=colour, markerfacecolor=fill, markersize=8, zorder=3)
            ax.annotate(
                row["lever"],
                (g, row["score"] + row["noise"]),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=colour,
            )
        if revealed:
            heights = [_score(run, best[g]) for g in table.index]
            ax.step(table.index, heights, where="post", color="#009E73", zorder=1)
            ax.annotate(
                "incumbent",
                (table.index[-1], heights[-1]),
                (6, 0),
                textcoords="offset points",
                color="#009E73",
                fontsize=8,
                va="center",
            )
        title = "filled: kept, hollow: rolled back" if revealed else "which are kept?"
        ax.set(title=f"Steps {first} to {table.index[-1]}; {title}", xlabel="step", ylabel="macro accuracy on dev, ± noise")
        ax.set_xticks(list(table.index))
        ax.margins(x=0.12, y=0.15)
    return fig


def _score(run: Run, step: int) -> float:
    """The score of a step."""
    return float(run.metrics(step)["score"])


def noise(pair: loop.Pair) -> Any:
    """The gain of one answer over another, ± one standard error, paired and as if unpaired."""
    found = loop.intervals(pair)
    with drawing() as plt:
        fig, ax = plt.subplots(figsize=(5.4, 1.9))
        for y, ((name, error), colour) in enumerate(zip(found.items(), ("#0072B2", "#D55E00"), strict=True)):
            ax.errorbar(pair.gain, y, xerr=error, fmt="o", color=colour, capsize=4)
            ax.text(pair.gain, y - 0.18, f"{name}: ± {error:.4f}", color=colour, ha="center", fontsize=8)
        ax.axvline(0, color="#444444", linewidth=0.8)
        ax.set(
            title=f"Gain of step {pair.steps[0]} over step {pair.steps[1]}",
            xlabel="difference of macro accuracy on dev",
            yticks=[],
            ylim=(1.5, -0.6),
        )
        ax.grid(False)
    return fig
