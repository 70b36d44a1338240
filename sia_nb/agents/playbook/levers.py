"""Which of the two levers has its turn: written rules over gains, noise, cost and rewards, each with a name.

Where both are permitted: the harness goes first, until it stalls or half of the steps are used; then the lever goes on
whose last try gained more for its cost; where neither gained anything, they take turns. Before that, ``barred`` says
whether training would have a signal at all.

It may import ``agents.base``, ``agents.rewards`` and the playbook's ``algorithms`` and ``sizing``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..base import StepSummary, View
from ..rewards import gain_a_call
from .algorithms import COLD
from .sizing import GROUPS, mutation_share, rollouts_for

STALLED = 2  # steps without a gain above the noise after which a run with nothing left to edit stops
HANDOVER = 1  # the same of the harness, after which the weights have their first turn
LEAST = 4  # rewards under which their statistics say nothing


@dataclass(frozen=True)
class Turn:
    """A lever and the rule that gives it the turn."""

    lever: Literal["harness", "weights"]
    rule: str
    why: str


def stalled(history: tuple[StepSummary, ...], action: str | None = None) -> int:
    """How many of the last steps (of one kind of action, where named) brought no gain."""
    count = 0
    for step in reversed(history):
        if step.accepted or (action is not None and step.action != action):
            break
        count += 1
    return count


def trainable(view: View) -> bool:
    """The run permits a weight update."""
    return "weights" in view.allowed and bool(view.algorithms)


def barred(view: View) -> Turn | None:
    """Why a weight update would have no signal now, or None.

    - ``first_structured_output``: the answers are free text and (nearly) none earns a reward, mostly since it cannot
      be read; masking them to the space of solutions is an edit of the harness and wakes both levers.
    - ``no_signal``: the last weight update stopped for want of a signal or of memory, and the harness, from which
      every rollout comes, is still the same.
    - ``no_spread``: fewer than ``LEAST`` rewards, or all of them equal: every algorithm's gradient is 0.
    - ``too_few_calls``: training could not pay for one group.
    """
    r = view.rewards
    if not view.structured and (r["n"] == 0 or r["zero_share"] >= COLD):
        read = f"{r['zero_share']:.0%} of the policy's {r['n']:.0f} answers earn nothing" if r["n"] else "no answer has a reward"
        return Turn("harness", "first_structured_output", f"The answers are not masked and {read}: training has no signal yet.")
    stopped = str((view.training or {}).get("stopped", ""))
    if stopped in ("no_signal", "out_of_memory") and not _harness_changed(view.history):
        why = f"The last weight update stopped as {stopped}, and the harness is the same since."
        return Turn("harness", "no_signal", why)
    if r["n"] < LEAST or r["sd"] <= 1e-9:
        why = f"The policy's {r['n']:.0f} rewards do not differ: no algorithm has a gradient."
        return Turn("harness", "no_spread", why)
    rollouts, calls, tokens = rollouts_for(view, mutation_share(view))
    if rollouts < GROUPS[-1]:
        why = f"{calls} verifier calls and {tokens} tokens, which training may spend, pay for {rollouts} rollouts: not one group."
        return Turn("harness", "too_few_calls", why)
    return None


def _harness_changed(history: tuple[StepSummary, ...]) -> bool:
    """A harness update was kept since the last weight update."""
    for step in reversed(history):
        if step.action == "weights":
            return False
        if step.action == "harness" and step.accepted:
            return True
    return False


def choose_lever(view: View) -> Turn:
    """The lever whose turn it is, where the run permits both and training has a signal."""
    harness, weights = view.levers.get("harness"), view.levers.get("weights")
    told = " ".join((_told("harness", harness), _told("weights", weights), *_learned(view)))
    if weights is None:
        if stalled(view.history, "harness") >= HANDOVER:
            return Turn("weights", "harness_stalled", told)
        if harness is not None and view.steps_left <= view.step:
            return Turn("weights", "weights_untried", f"{told} Half of the steps are used: the other lever is worth one.")
        return Turn("harness", "harness_first", f"{told} The harness still gains, and it decides what training would see.")
    by_harness, by_weights = gain_a_call(harness), gain_a_call(weights)
    if by_weights > by_harness:
        return Turn("weights", "weights_gained_more", told)
    if by_harness > by_weights:
        return Turn("harness", "harness_gained_more", told)
    if view.history[-1].action == "weights":
        return Turn("harness", "weights_stalled", f"{told} Neither gained: the turn goes over.")
    return Turn("weights", "harness_stalled", f"{told} Neither gained: the turn goes over.")


def _told(name: str, lever: dict[str, float] | None) -> str:
    if lever is None:
        return f"The {name} lever was never tried."
    return (
        f"The last {name} update gained {lever['last_gain']:+.4f} (noise {lever['last_noise']:.4f}) for "
        f"{lever['last_verifier_calls']:.0f} verifier calls, {100 * gain_a_call(lever):.1f} noise units per 100 calls."
    )


def _learned(view: View) -> list[str]:
    result = view.training or {}
    if "before" not in result or "after" not in result:
        return []
    before, after = (f"{result[when]['mean']:.4f} ± {result[when]['se']:.4f}" for when in ("before", "after"))
    return [f"It moved the mean score of the policy's samples from {before} to {after} (standard errors)."]
