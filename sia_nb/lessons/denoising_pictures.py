"""The pictures of the lesson on the measures of denoising, from the tables of ``denoising``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from . import denoising
from .drawing import drawing

COLOURS = {
    "B cells": "#0072B2",
    "monocytes": "#D55E00",
    "killer cells": "#009E73",
    "cytotoxic T": "#E69F00",
    "helper T": "#56B4E9",
    "dendritic": "#CC79A7",
    "other": "#bbbbbb",
}


def best_guesses(library: float = 60) -> Any:
    """The best prediction under mse against the expected count, and where the two are the same."""
    rate = np.geomspace(0.003, 30, 80)
    with drawing() as plt:
        fig, ax = plt.subplots(figsize=(4.6, 3.4))
        ax.loglog(rate, rate, color="#999999", linewidth=1)
        ax.text(0.02, 0.03, "the expected count", color="#777777", rotation=38, fontsize=8, ha="center", va="bottom")
        ax.loglog(rate, denoising.best_guess(rate, library), color="#0072B2")
        ax.text(0.35, 0.012, "best to predict\nunder mse", color="#0072B2", fontsize=8)
        ax.set(
            title="mse pays for guessing low",
            xlabel=f"expected test molecules, of {library:g} in the cell",
            ylabel="molecules",
            ylim=(5e-5, 40),
        )
    return fig


def sweep(table: pd.DataFrame, threshold: float) -> Any:
    """mse_norm and both Poisson measures against the power; ``threshold``: the right gate, MAGIC's own measure."""
    from ..tasks.denoising.gates import PUBLISHED_THRESHOLD

    lines = (
        ("mse_norm", "mse_norm", "#0072B2", "o-", 0),
        ("poisson_norm", "Poisson, right", "#009E73", "s-", 0),
        ("poisson_norm_openproblems", "Poisson, swapped", "#D55E00", "^--", 0.06),
    )
    with drawing() as plt:
        fig, ax = plt.subplots(figsize=(6.4, 3.8))
        for column, label, colour, style, lift in lines:
            ax.plot(table["power"], table[column], style, color=colour, markersize=4)
            ax.text(table["power"].iloc[-1] + 0.12, table[column].iloc[-1] + lift, label, color=colour, va="center", fontsize=8)
        for value, colour, label, drop in (
            (threshold, "#009E73", "right gate: as good as MAGIC", -0.06),
            (PUBLISHED_THRESHOLD, "#D55E00", "published gate: 0.97", -0.06),
        ):
            ax.axhline(value, color=colour, linewidth=0.8, linestyle=":")
            ax.text(4.5, value + drop, label, color=colour, fontsize=7.5, ha="center", va="top")
        ax.axhline(0, color="#444444", linewidth=0.6)
        ax.set(title="MAGIC raised to a power", xlabel="power", ylabel="normalised measure, 1 is best", xlim=(0.5, 7.7))
    return fig


def markers(made: dict[str, Any]) -> Any:
    """Marker genes by cell type, a panel a matrix: colour the mean log value, size the share of cells where it is seen."""
    genes = [g for kind in denoising.MARKERS.values() for g in kind if g in next(iter(made.values())).var_names]
    types = [t for t in COLOURS if t != "other"]
    with drawing() as plt:
        fig, axes = plt.subplots(1, len(made), figsize=(1.3 + 2.5 * len(made), 2.7), sharey=True, squeeze=False)
        for ax, (name, cells) in zip(axes[0], made.items(), strict=True):
            for y, kind in enumerate(types):
                x = np.asarray(cells[(cells.obs["type"] == kind).to_numpy(), genes].X)
                ax.scatter(
                    range(len(genes)),
                    [y] * len(genes),
                    s=4 + 70 * (x > np.log(2)).mean(axis=0),
                    c=x.mean(axis=0),
                    cmap="viridis_r",
                    vmin=0,
                    vmax=6,
                    linewidths=0,
                )
            ax.set_title(name, fontsize=9)
            ax.set_xticks(range(len(genes)), genes, rotation=90, fontsize=7)
            ax.set_yticks(range(len(types)), types, fontsize=8)
            ax.set(ylim=(-0.6, len(types) - 0.4), xlim=(-0.6, len(genes) - 0.4))
            ax.grid(False)
        bar = fig.colorbar(plt.cm.ScalarMappable(plt.Normalize(0, 6), "viridis_r"), ax=axes[0].tolist(), pad=0.015)
        bar.set_label("mean log value", fontsize=8)
    return fig


def embeddings(made: dict[str, Any]) -> Any:
    """The cells' embedding, a panel a matrix, coloured by the type that their authors gave them."""
    with drawing() as plt:
        fig, axes = plt.subplots(1, len(made), figsize=(2.7 * len(made), 3), squeeze=False)
        for ax, (name, cells) in zip(axes[0], made.items(), strict=True):
            for kind, colour in reversed(COLOURS.items()):
                own = (cells.obs["type"] == kind).to_numpy()
                ax.scatter(*cells.obsm["X_tsne"][own].T, s=5, color=colour, label=kind, linewidths=0)
            ax.set_title(name, fontsize=9)
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            for spine in ax.spines.values():
                spine.set_visible(False)
        handles, labels = axes[0][0].get_legend_handles_labels()
        fig.legend(handles[::-1], labels[::-1], loc="lower center", ncols=7, fontsize=7.5, markerscale=2, handletextpad=0.1)
        fig.subplots_adjust(bottom=0.14, wspace=0.05)
    return fig
