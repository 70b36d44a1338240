"""The picture of the lesson on writing a scaffold: what each execution's verdicts were, in their order."""

from __future__ import annotations

from typing import Any

from .drawing import drawing
from .writing import Attempt

COLOURS, MARKS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "os^D"


def search(first: Attempt, attempts: dict[str, Attempt]) -> Any:
    """Scores of verdicts over verifier calls with the best so far as a line, by attempt; A_1's answer as a dotted line."""
    with drawing() as plt:
        fig, ax = plt.subplots(figsize=(5.6, 3.2))
        ax.axhline(first.metrics["score"], color="#444444", linewidth=0.9, linestyle=":")
        ax.text(0.6, first.metrics["score"], "what A_1 submits", color="#444444", fontsize=8, va="bottom")
        for (name, attempt), colour, mark in zip(attempts.items(), COLOURS, MARKS, strict=False):
            verdicts = attempt.reading.verdicts if attempt.trajectory is not None else []
            scores = [v.score for v in verdicts]
            if not scores:
                continue
            best = [max(scores[: i + 1]) for i in range(len(scores))]
            calls = range(1, len(scores) + 1)
            ax.plot(calls, scores, mark, color=colour, markersize=4, alpha=0.6)
            ax.step(calls, best, where="post", color=colour)
            ax.text(len(scores) + 0.3, best[-1], name, color=colour, va="center", fontsize=8)
        ax.set(title="Verdicts in their order, best so far as a line", xlabel="verdict", ylabel="macro accuracy on dev")
        ax.set_xlim(0.5, None)
    return fig
