"""The picture of the lesson on writing a scaffold: what each execution's verdicts were, in their order."""

from __future__ import annotations

from typing import Any

from .drawing import drawing
from .writing import Attempt

POLICY, CODE = "#0072B2", "#D55E00"


def search(first: Attempt, attempts: dict[str, Attempt]) -> Any:
    """A panel an attempt: scores of its verdicts in their order, the best so far as a line; A_1's answer dotted.

    Circles are solutions that the policy wrote, squares those that the scaffold's code made.
    """
    with drawing() as plt:
        fig, axes = plt.subplots(1, len(attempts), figsize=(3.2 * len(attempts), 2.9), sharey=True, sharex=True, squeeze=False)
        for ax, (name, attempt) in zip(axes[0], attempts.items(), strict=True):
            verdicts = attempt.reading.verdicts if attempt.trajectory is not None else []
            for ours, mark, colour in ((True, "o", POLICY), (False, "s", CODE)):
                part = [(i, v.score) for i, v in enumerate(verdicts, 1) if v.by_policy == ours]
                ax.plot(*zip(*part, strict=True) if part else ([], []), mark, color=colour, markersize=4, linestyle="")
            best = [max(v.score for v in verdicts[: i + 1]) for i in range(len(verdicts))]
            ax.step(range(1, len(best) + 1), best, where="post", color="#444444", linewidth=1)
            ax.axhline(first.metrics["score"], color="#444444", linewidth=0.9, linestyle=":")
            ax.set(title=name if verdicts else f"{name}: no verdict", xlabel="verdict")
        axes[0][0].set_ylabel("macro accuracy on dev")
        said = (("o", POLICY, "by the policy"), ("s", CODE, "by your code"))
        handles = [plt.Line2D([], [], marker=m, linestyle="", color=c, markersize=4) for m, c, _ in said]
        handles += [plt.Line2D([], [], color="#444444", linewidth=1), plt.Line2D([], [], color="#444444", linestyle=":")]
        labels = [*(text for _, _, text in said), "best so far", "what A_1 submits"]
        fig.legend(handles, labels, loc="lower center", ncols=4, fontsize=8, bbox_to_anchor=(0.5, -0.1))
    return fig
