"""The pictures of the lesson on fast kernels, from the tables of ``fast_kernels``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .drawing import drawing

COLOURS = {"project": "#0072B2", "product": "#D55E00", "output": "#009E73"}
MARKS = {"project": "o", "product": "^", "output": "s"}


def time_bars(table: pd.DataFrame) -> Any:
    """Milliseconds of each kind of operation, coloured by pass."""
    with drawing() as plt:
        fig, ax = plt.subplots(figsize=(6, 3.2))
        places = np.arange(len(table))[::-1]
        ax.barh(places, table["ms"], color=[COLOURS[p] for p in table["pass"]])
        for y, ms, share in zip(places, table["ms"], table["share"], strict=True):
            ax.text(ms, y, f" {share:.0%}", va="center", fontsize=8)
        ax.set_yticks(places, table["piece"])
        ax.set(
            title="Where the time of the eager update goes", xlabel="ms, the least of several", xlim=(0, 1.12 * table["ms"].max())
        )
        ax.grid(True, axis="x")
        ax.grid(False, axis="y")
        handles = [plt.Rectangle((0, 0), 1, 1, color=c) for c in COLOURS.values()]
        ax.legend(handles, COLOURS, title="pass", fontsize=8, loc="lower right")
    return fig


def roofline(table: pd.DataFrame, rates: dict[str, float]) -> Any:
    """The roof from measured rates, and under it the three passes of the eager update as they were measured."""
    with drawing() as plt:
        fig, ax = plt.subplots(figsize=(5.6, 3.6))
        ridge = rates["matmul"] / rates["copy"]
        ends = min(table["intensity"].min(), ridge) / 4, max(table["intensity"].max(), ridge) * 4
        x = np.geomspace(*ends, 200)
        ax.loglog(x, np.minimum(rates["matmul"], x * rates["copy"]) / 1e9, color="black", linewidth=1.4)
        ax.axvline(ridge, color="#999999", linestyle=":", linewidth=0.8)
        ax.text(ends[0] * 1.3, ends[0] * rates["copy"] / 1e9, f"memory: {rates['copy'] / 1e9:.1f} GB/s", fontsize=8)
        ax.text(ends[1], rates["matmul"] / 1e9 * 1.15, f"arithmetic: {rates['matmul'] / 1e9:.0f} GFLOP/s", fontsize=8, ha="right")
        for row in table.itertuples():
            colour = COLOURS[row[1]]
            ax.plot([row.intensity] * 2, [row.GFLOP_s, row.roof_GFLOP_s], color=colour, linewidth=0.8, linestyle="--")
            ax.plot(
                row.intensity,
                row.GFLOP_s,
                MARKS[row[1]],
                color=colour,
                markersize=7,
                label=f"{row[1]}: {row.times_floor:.1f} times its floor",
            )
        ax.set(title="Roofline of this machine", xlabel="operations a byte", ylabel="GFLOP/s")
        ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.45, -0.17), ncols=3, columnspacing=1, handletextpad=0.2)
        ax.grid(True, axis="both")
    return fig
