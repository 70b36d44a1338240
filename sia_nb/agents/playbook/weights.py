"""The playbook's weight update: its algorithm, its size, the prose and the evidence of the decision.

It may import ``agents.base``, ``agents.reading``, ``agents.rewards`` and the playbook's rules.
"""

from __future__ import annotations

from ..base import Decision, View
from ..reading import Reading
from ..rewards import proposals
from .algorithms import choose_algorithm
from .sizing import size

SHOWN = 16  # event ids a decision cites at most: half of them the highest rewards, half the lowest


def weights_decision(view: View, rule: str, why: str) -> Decision:
    """The decision for a weight update that ``rule`` called for; its full rule is ``rule``/the algorithm's rule."""
    choice = choose_algorithm(view)
    sized = size(view, choice.algorithm)
    prose = f"{why} {_rewards(view)} So `{choice.algorithm}`: {choice.why}. {sized.why[:1].upper()}{sized.why[1:]}"
    return Decision("weights", prose, evidence(view), choice.algorithm, sized.hyperparameters, f"{rule}/{choice.rule}")


def evidence(view: View) -> tuple[int, ...]:
    """Events behind the statistics of the rewards: the highest and the lowest where there are many."""
    events = {p.event: p.reward for p in proposals(Reading(view.trajectory, view.metrics))}
    ranked = sorted(events, key=lambda event: (-events[event], event))
    if len(ranked) > SHOWN:
        ranked = ranked[: SHOWN // 2] + ranked[-SHOWN // 2 :]
    return tuple(sorted(ranked))


def _rewards(view: View) -> str:
    r = view.rewards
    where = "" if view.scaffold == view.incumbent else " (under the scaffold that was rolled back)"
    return (
        f"The policy's {r['n']:.0f} answers with a reward in this step{where}: mean {r['mean']:.4f}, standard deviation {r['sd']:.4f}, "
        f"best {r['best']:.4f}, skew {r['skew']:.2f}, {r['zero_share']:.0%} of them 0; "
        f"{r['distinct_share']:.0%} of all answers differ."
    )
