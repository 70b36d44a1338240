"""When the playbook turns to the weights, and with which algorithm: by the rewards of the policy's own proposals."""

from __future__ import annotations

from dataclasses import dataclass

from ..base import StepSummary, View
from .reading import Reading

STALLED = 2  # harness steps without a gain above the noise, after which the other lever has its turn


@dataclass(frozen=True)
class WeightMove:
    """A weight update with the reason for its algorithm."""

    algorithm: str
    rule: str
    why: str
    evidence: tuple[int, ...]


def stalled(history: tuple[StepSummary, ...], action: str | None = None) -> int:
    """How many of the last steps (of one kind of action, where named) brought no gain."""
    count = 0
    for step in reversed(history):
        if step.accepted or (action is not None and step.action != action):
            break
        count += 1
    return count


def weight_move(view: View) -> WeightMove | None:
    """The weight update that the rewards call for, or None where the harness should go on.

    Rewards are the verdicts on the policy's proposals, 0 where not valid. Without spread among them no
    algorithm of the menu has a gradient.
    """
    if "weights" not in view.allowed or not view.algorithms or stalled(view.history, "harness") < STALLED:
        return None
    own = [v for v in Reading(view.trajectory, view.metrics).verdicts if v.by_policy]
    rewards = [v.score if v.valid else 0.0 for v in own]
    if len(rewards) < 4 or max(rewards) - min(rewards) <= 1e-9:
        return None
    mean = sum(rewards) / len(rewards)
    spread = (sum((r - mean) ** 2 for r in rewards) / len(rewards)) ** 0.5
    skew = sum(((r - mean) / spread) ** 3 for r in rewards) / len(rewards)
    positive = sum(r > 0 for r in rewards) / len(rewards)
    weights = [step for step in view.history if step.action == "weights"]
    if weights and not weights[-1].accepted:
        rule, names, why = (
            "risk_of_regression",
            ("reinforce_kl",),
            "the last weight update was rolled back: stay near the base policy",
        )
    elif positive <= 0.1:
        rule, names, why = "cold_start", ("bon_bc", "entropic"), f"only {positive:.0%} of the rewards are above 0"
    elif skew > 1.0:
        rule, names, why = (
            "right_skewed",
            ("entropic",),
            f"the rewards are skewed to the right ({skew:.2f}): few are far above the rest",
        )
    else:
        rule, names, why = (
            "terminal_verifier",
            ("grpo",),
            f"rewards vary (mean {mean:.4f}, spread {spread:.4f}) and a verdict is cheap",
        )
    algorithm = next((name for name in names if name in view.algorithms), view.algorithms[0])
    return WeightMove(algorithm, rule, why, tuple(v.event for v in own[:8]))
