"""Which of the six algorithms a weight update takes: written rules over the policy's rewards, the first that holds.

The menu's "chosen when" column (``training.hyper.MENU``) in numbers. Two entries of it are read narrowly here. Step
rewards do not exist in these tasks, so ``ppo`` is for rewards that nearly every answer earns after an update that came
apart: its clipped ratio and learned baseline bound the next one. ``dpo`` is for verdicts that rank and do no more:
many different solutions share three or four scores; with two, pass and fail, a mean is as good as a ranking.

It may import ``agents.base``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..base import View

COLD = 0.9  # share of zero rewards from which on there is next to nothing to compare
DENSE = 0.1  # share of zero rewards up to which nearly every answer earns something
SKEWED = 1.0  # skew above which a few rewards stand far above the rest
RANKS = (3, 4)  # so many different scores are a ranking
UNSTABLE = ("entropy_collapse", "non_finite")  # how an update stops that came apart


@dataclass(frozen=True)
class Numbers:
    """What the rules look at."""

    rewards: dict[str, float]  # rewards.policy_rewards
    undone: bool  # the last weight update was rolled back
    stopped: str  # why it stopped; "" where there was none


@dataclass(frozen=True)
class Rule:
    """A row of the menu: the algorithms it calls for, best first."""

    name: str
    algorithms: tuple[str, ...]
    holds: Callable[[Numbers], bool]
    why: Callable[[Numbers], str]


def _ranks(n: Numbers) -> bool:
    low, high = RANKS
    return low <= n.rewards["levels"] <= high and n.rewards["scored"] >= 3 * n.rewards["levels"]


RULES: tuple[Rule, ...] = (
    Rule(
        "dense_rewards_stability",
        ("ppo", "reinforce_kl", "grpo"),
        lambda n: n.stopped in UNSTABLE and n.rewards["zero_share"] <= DENSE,
        lambda n: f"the last update stopped as {n.stopped} though {1 - n.rewards['zero_share']:.0%} of the answers earn a reward: "
        "stability binds, and clipped steps with a learned baseline bound the next one",
    ),
    Rule(
        "cold_start",
        ("bon_bc", "entropic", "grpo"),
        lambda n: n.rewards["zero_share"] >= COLD,
        lambda n: f"only {1 - n.rewards['zero_share']:.0%} of the rewards are above 0: the few good answers are imitated",
    ),
    Rule(
        "risk_of_regression",
        ("reinforce_kl", "grpo"),
        lambda n: n.undone,
        lambda n: "the last weight update was rolled back: a KL term keeps the next one near the base policy",
    ),
    Rule(
        "ranks_only",
        ("dpo", "grpo"),
        _ranks,
        lambda n: f"{n.rewards['scored']:.0f} different solutions share {n.rewards['levels']:.0f} scores, "
        "which rank them and say little more: pairs of a better and a worse one are learned from",
    ),
    Rule(
        "right_skewed",
        ("entropic", "grpo"),
        lambda n: n.rewards["skew"] > SKEWED,
        lambda n: f"the rewards are skewed to the right ({n.rewards['skew']:.2f}): few are far above the rest, and the best count",
    ),
    Rule(
        "terminal_verifier",
        ("grpo", "reinforce_kl"),
        lambda n: True,
        lambda n: f"the rewards vary about their mean without a long tail (skew {n.rewards['skew']:.2f}), "
        "and one verdict at the end scores an answer",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """An algorithm with the rule that called for it."""

    algorithm: str
    rule: str
    why: str


def numbers(view: View) -> Numbers:
    """The rules' numbers of a view."""
    tries = [step for step in view.history if step.action == "weights"]
    return Numbers(view.rewards, bool(tries) and not tries[-1].accepted, str((view.training or {}).get("stopped", "")))


def choose_algorithm(view: View) -> Choice:
    """The first rule's first algorithm that the run permits; where it permits none of them, its own first."""
    n = numbers(view)
    rule = next(r for r in RULES if r.holds(n))
    for name in rule.algorithms:
        if name in view.algorithms:
            instead = "" if name == rule.algorithms[0] else f"; `{rule.algorithms[0]}` is not permitted in this run"
            return Choice(name, rule.name, rule.why(n) + instead)
    other = view.algorithms[0]
    return Choice(other, rule.name, f"{rule.why(n)}; the run permits only {', '.join(f'`{a}`' for a in view.algorithms)}")
