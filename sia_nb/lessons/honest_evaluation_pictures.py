"""The pictures of the lesson on honest evaluation, from the tables of ``honest_evaluation``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..view.collect import interval
from .drawing import drawing

ARMS = {"H": ("#0072B2", "o"), "W": ("#E69F00", "s"), "W+H": ("#009E73", "^")}
WAYS = {
    "random": ("random draws", "#777777", ":"),
    "search": ("local search", "#0072B2", "-"),
    "untrained": ("untrained policy", "#E69F00", "--"),
    "trained": ("trained policy", "#D55E00", "-."),
    "trained_then_search": ("trained, then search", "#009E73", "-"),
}


def reports(tables: dict[str, pd.DataFrame]) -> Any:
    """Dev against the sealed test for the answers that the runs chose, a panel a task; on the line the two agree."""
    with drawing() as plt:
        fig, axes = plt.subplots(1, len(tables), figsize=(3.6 * len(tables), 3.3), squeeze=False)
        for ax, (task, table) in zip(axes[0], tables.items(), strict=True):
            for arm, part in table.groupby("arm"):
                colour, mark = ARMS[arm]
                bars = ax.errorbar(
                    part["dev"], part["test"], part["test_se"], fmt=mark, color=colour, markersize=5, linewidth=0.8
                )
                bars.set_label(arm)
            ends = [table[["dev", "test"]].min().min(), table[["dev", "test"]].max().max()]
            ax.plot(ends, ends, color="#444444", linewidth=0.8)
            ax.set(title=task, xlabel="dev, on which it was chosen", ylabel="sealed test (bar: ± 1 SE)")
            ax.grid(True, axis="both")
            ax.legend(fontsize=8)
        fig.tight_layout()
    return fig


def selection(table: pd.DataFrame) -> Any:
    """Left: what the winner seems to be worth and is worth, for the smallest dev; right: its optimism for each size of dev."""
    with drawing() as plt:
        fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
        small = table[table["cells"] == table["cells"].min()]
        for column, colour, line, label in (
            ("dev", "#D55E00", "-", "where it was chosen"),
            ("rest", "#0072B2", "--", "on the other cells"),
        ):
            left.plot(small["k"], small[column], line, marker="o", markersize=4, color=colour, label=label)
        left.set(
            title=f"Best of k by {small['cells'].iloc[0]} cells", xscale="log", xlabel="k programs", ylabel="value of the winner"
        )
        left.legend(fontsize=8)
        for (cells, part), colour, mark in zip(
            table.groupby("cells"), ("#D55E00", "#E69F00", "#009E73", "#0072B2"), "o^sv", strict=False
        ):
            right.plot(part["k"], part["optimism"], marker=mark, markersize=4, color=colour, label=f"{cells} cells")
        right.axhline(0, color="#444444", linewidth=0.6)
        right.set(title="Optimism", xscale="log", xlabel="k programs", ylabel="chosen − other cells")
        right.legend(fontsize=8)
        fig.tight_layout()
    return fig


def seeds(tables: dict[str, pd.DataFrame], value: str = "test") -> Any:
    """Each arm's seeds on the sealed test with the mean's 95 % interval (Student's t), a panel a task."""
    with drawing() as plt:
        fig, axes = plt.subplots(1, len(tables), figsize=(3.6 * len(tables), 3), squeeze=False)
        for ax, (task, table) in zip(axes[0], tables.items(), strict=True):
            for x, (arm, (colour, mark)) in enumerate(ARMS.items()):
                values = list(table.loc[table["arm"] == arm, value])
                mean, low, high = interval(values)
                ax.plot([x, x], [low, high], color=colour)
                ax.plot([x - 0.12, x + 0.12], [mean, mean], color=colour)
                ax.plot(np.full(len(values), x + 0.2), values, mark, color=colour, markersize=4)
            ax.set_xticks(range(len(ARMS)), ARMS)
            ax.set(title=task, xlim=(-0.5, len(ARMS) - 0.3), ylabel="sealed test")
        fig.text(0.01, -0.04, "bar: mean and 95 % interval of 3 seeds; points: the seeds", fontsize=7)
        fig.tight_layout()
    return fig


def budgets(table: pd.DataFrame, drawn: dict[int, pd.DataFrame], arm: str = "H") -> Any:
    """Best so far against distinct calls: the runs of an arm and random search on the same cells, a panel a seed."""
    with drawing() as plt:
        fig, axes = plt.subplots(1, len(drawn), figsize=(3 * len(drawn), 2.9), sharey=True, squeeze=False)
        for ax, (seed, random) in zip(axes[0], drawn.items(), strict=True):
            own = table[(table["arm"] == arm) & (table["seed"] == seed)]
            ax.step(own["call"], own["best"], where="post", color="#0072B2", label="the loop, H")
            ax.step(random["call"], random["best"], where="post", color="#777777", linestyle="--", label="random search")
            ax.set(title=f"seed {seed}", xlabel="distinct calls", xlim=(0, max(own["call"].max(), random["call"].max())))
        axes[0][0].set_ylabel("best value on dev so far")
        axes[0][-1].legend(fontsize=8, loc="lower right")
        fig.tight_layout()
    return fig


def transfer(table: pd.DataFrame) -> Any:
    """Best so far on held-out instances against calls: the mean over instances, with the 95 % interval over seeds."""
    with drawing() as plt:
        fig, ax = plt.subplots(figsize=(5.2, 3.3))
        for arm, (label, colour, line) in WAYS.items():
            part = table[table["arm"] == arm]
            wide = part.groupby(["call", "seed"])["best"].mean().unstack()
            mean, low, high = np.array([interval(list(row)) for row in wide.to_numpy()]).T
            ax.fill_between(wide.index, low, high, color=colour, alpha=0.15, linewidth=0)
            ax.plot(wide.index, mean, color=colour, linestyle=line, label=label)
        ax.set(
            title="Charges that no one has trained on", xscale="log", xlabel="verifier calls", ylabel="best macro accuracy on dev"
        )
        ax.legend(fontsize=7.5)
        fig.text(0.01, -0.04, f"band: 95 % interval over {wide.shape[1]} seeds", fontsize=7)
    return fig
