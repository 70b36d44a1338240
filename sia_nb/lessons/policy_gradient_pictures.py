"""The pictures of the lesson on the policy gradient, from the tables of ``policy_gradient``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from . import policy_gradient as lesson
from .drawing import drawing

LOOKS = {  # name in a table → label, colour, line
    "none": ("no baseline", "#D55E00", "-"),
    "leave_one_out": ("others' mean", "#0072B2", "--"),
    "group_normalised": ("GRPO", "#009E73", "-."),
    "entropic": ("entropic, adaptive β", "#CC79A7", "-"),
}


def _look(name: str, place: int) -> tuple[str, str, str]:
    spare = (("#E69F00", ":"), ("#56B4E9", (0, (5, 1))), ("#000000", "-"))[place % 3]
    return LOOKS.get(name, (name, *spare))


def spread(offset: float = 1.0, *, size: int = 16, seed: int = 0) -> Any:
    """Histograms of the gradient's estimate, with no baseline and with the others' mean, and the truth."""
    bandit = lesson.ladder(offset=offset)
    truth = np.linalg.norm(lesson.exact_gradient(np.zeros(len(bandit.means)), bandit.means))
    found = {name: lesson.estimates(bandit, name, size=size, seed=seed) for name in lesson.METHODS[:2]}
    edge = max(abs(v).max() for v in found.values())
    with drawing() as plt:
        fig, axes = plt.subplots(2, 1, figsize=(5, 3.6), sharex=True)
        for place, (ax, (name, values)) in enumerate(zip(axes, found.items(), strict=True)):
            label, colour, _ = _look(name, place)
            ax.hist(values, bins=np.linspace(-edge, edge, 90), color=colour, alpha=0.8)
            ax.axvline(truth, color="black", linewidth=1)
            ax.set_yticks([])
            ax.text(0.02, 0.78, f"{label}: {values.mean():.3f} ± {values.std():.3f}", transform=ax.transAxes, color=colour)
        axes[0].set_title(f"Estimates from {size} rollouts, rewards raised by {offset:g}")
        axes[1].set_xlabel("estimate along the true gradient (line: the truth)")
    return fig


def learning(tables: dict[str, pd.DataFrame], value: str = "value", label: str = "expected reward") -> Any:
    """Learning curves, a panel a table: the mean over seeds with its 95 % interval, and single seeds behind it."""
    from ..view.collect import interval

    with drawing() as plt:
        fig, axes = plt.subplots(1, len(tables), figsize=(1.2 + 3.6 * len(tables), 3.3), sharey=True, squeeze=False)
        for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
            for place, (name, part) in enumerate(table.groupby("method", sort=False)):
                text, colour, line = _look(name, place)
                wide = part.pivot(index="step", columns="seed", values=value)
                mean, low, high = np.array([interval(list(row)) for row in wide.to_numpy()]).T
                ax.plot(wide.index, wide.to_numpy(), color=colour, linewidth=0.4, alpha=0.3)
                ax.fill_between(wide.index, low, high, color=colour, alpha=0.2, linewidth=0)
                ax.plot(wide.index, mean, color=colour, linestyle=line, linewidth=1.8, label=text)
            ax.set(title=title, xlabel="step", ylim=(-0.03, 1.03))
            ax.legend(fontsize=7.5, loc="best")
        axes[0][0].set_ylabel(label)
        fig.text(0.01, -0.07, f"thin: single seeds; band: 95 % interval of the mean, {wide.shape[1]} seeds", fontsize=7)
    return fig


def group(rewards: np.ndarray) -> Any:
    """One group's rewards and what each method makes of them, as bars; best rollout first."""
    rewards = np.sort(np.asarray(rewards, dtype=np.float64))[::-1]
    with drawing() as plt:
        fig, axes = plt.subplots(1, 4, figsize=(9, 2.4))
        axes[0].bar(range(len(rewards)), rewards, color="#777777")
        axes[0].set(title="rewards", xlabel="rollout, best first")
        for place, (ax, name) in enumerate(zip(axes[1:], lesson.METHODS[1:], strict=True)):
            label, colour, _ = _look(name, place)
            made = lesson.advantages(name)(rewards[None])[0]
            ax.bar(range(len(rewards)), made, color=colour)
            ax.axhline(0, color="#444444", linewidth=0.6)
            ax.set(title=label, xlabel="rollout, best first")
        axes[1].set_ylabel("advantage")
        fig.tight_layout()
    return fig


def utilities(highest: float = 8.0) -> Any:
    """What the safe and the risky answer are worth under the entropic utility, against β."""
    beta, bandit = np.linspace(0.01, highest, 200), lesson.safe_or_risky()
    with drawing() as plt:
        fig, ax = plt.subplots(figsize=(4.4, 3))
        for answer, label, colour in (
            (lesson.SAFE, "safe: always 0.5", "#0072B2"),
            (lesson.RISKY, "risky: 1 in a fifth", "#D55E00"),
        ):
            worth = lesson.utility(beta, bandit, answer)
            ax.plot(beta, worth, color=colour)
            ax.text(highest, worth[-1] + 0.02, label, color=colour, fontsize=8, ha="right", va="bottom")
        ax.set(title="What an answer is worth", xlabel="β", ylabel="(1/β) log E[exp(β R)]", ylim=(0, 1))
    return fig
