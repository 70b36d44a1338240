"""How large a weight update is: hyperparameters from the verifier calls and tokens that training may spend.

It may import ``agents.base`` and the playbook's ``surgery`` and ``algorithms``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..base import View
from .algorithms import COLD
from .surgery import constant, found

GROUPS = (32, 16, 12, 8, 4)  # group sizes tried; entropic's adaptive beta needs at least 4
LARGE = 12  # a group of so many is worth more than a third step: in smaller ones a mean and a best are mostly luck, and on a CPU
# a step takes about as long for twelve rows as for eight
STEPS = 6  # optimisation steps that are worth more than a larger group
FEW = 8  # steps under which rollouts are used twice, and which are too few for states to be reused
MOST_STEPS = 50  # TTT-Discover's
WALK = 8e-3  # learning rate × updates: Adam moves a weight by about its rate an update; 24 × 3.3e-4 learned
RATES = (3e-4, 1e-3)
REPEATS = 0.25  # share of rollouts that cost a verifier call, at least: repeats are free, but never counted on alone
MUTE = 0.5  # share of answers that earn nothing from which on half of a group is written by code mutation
ALIKE = 0.6  # share of different answers under which a KL term is to keep the policy from collapsing
SEVERAL_EPOCHS = ("grpo", "ppo", "bon_bc", "dpo")  # bounded on rollouts that are no longer the policy's own


@dataclass(frozen=True)
class Size:
    """Hyperparameters and the sentence that explains them."""

    hyperparameters: dict[str, Any]
    why: str


def rollouts_for(view: View, mutation: float) -> tuple[int, int, int]:
    """(rollouts, verifier calls, tokens) that one weight update can pay for.

    A rollout of the policy costs its tokens, and a verifier call where its solution is new: in the share of answers
    that differed in this step, at least ``REPEATS``. One by code mutation costs a call and no tokens.
    """
    left, budget = view.budget_left, view.metrics["budget"]
    calls, tokens = (
        int(view.weight_share * min(budget[name], left.get(name, budget[name]))) for name in ("verifier_calls", "tokens")
    )
    responses = view.trajectory.of("response")
    written = sum(float(e.data.get("tokens", 0)) for e in responses) / max(1, len(responses))
    fresh = max(REPEATS, view.rewards["distinct_share"])
    by_calls = calls / (mutation + (1 - mutation) * fresh)
    by_tokens = tokens / max(1.0, (1 - mutation) * written)
    return int(min(by_calls, by_tokens)), calls, tokens


def mutation_share(view: View) -> float:
    """Half of a group by code mutation where most of the policy's answers earn nothing, or the best known solution is out
    of its reach; else none.

    Out of reach: above the policy's best by more than the standard deviation of its rewards. Trained on its own
    children alone, a policy fell behind a search in code; on groups mixed half and half it did not.
    """
    best = max((s.score for s in view.history if s.accepted), default=0.0)
    far = view.rewards["best"] + view.rewards["sd"] < best
    return 0.5 if far or view.rewards["zero_share"] >= MUTE else 0.0


def size(view: View, algorithm: str) -> Size:
    """The hyperparameters of one update, by rule.

    - ``group_size``: the largest that leaves ``STEPS`` steps, or two where it is at most ``LARGE``; after a cold start
      the largest that leaves two, as a group without a single reward teaches nothing.
    - ``steps``: what the rollouts give, at most ``MOST_STEPS``; what is left then goes into ``groups``.
    - ``epochs``: two where there are fewer than ``FEW`` steps and the objective is bounded on rollouts used again.
    - ``learning_rate``: ``WALK`` / (steps × epochs), within ``RATES``: few steps are larger.
    - ``kl``: 0.1 where the answers are mostly alike (grpo, entropic); otherwise the algorithm's default.
    - ``start``: where the program's prompt shows earlier solutions, states reused by PUCT from ``FEW`` steps on,
      the incumbent below; a plain restart otherwise.
    - ``temperature``: the one at which the program samples, where that is known of the program that goes on.
    """
    mutation = mutation_share(view)
    rollouts, calls, tokens = rollouts_for(view, mutation)
    cold = view.rewards["zero_share"] >= COLD
    group = next((g for g in GROUPS if rollouts // g >= (2 if cold or g <= LARGE else STEPS)), GROUPS[-1])
    groups = max(1, rollouts // (group * MOST_STEPS))
    steps = max(1, min(MOST_STEPS, rollouts // (group * groups)))
    epochs = 2 if algorithm == "ppo" or (steps < FEW and algorithm in SEVERAL_EPOCHS) else 1
    rate = min(RATES[1], max(RATES[0], WALK / (steps * epochs)))
    shown = found(view.incumbent, "build_prompt", r".*\bstate(\[|\.get\()['\"](best|parent)['\"]")
    chosen: dict[str, Any] = {
        "steps": steps,
        "groups": groups,
        "group_size": group,
        "learning_rate": float(f"{rate:.2g}"),
        "epochs": epochs,
        "start": ("puct" if steps >= FEW else "incumbent") if shown else "restart",
        "mutation": mutation,
    }
    temperature = _temperature(view)
    if temperature is not None:
        chosen["temperature"] = min(3.0, max(0.1, temperature))
    if algorithm in ("grpo", "entropic") and view.rewards["distinct_share"] < ALIKE:
        chosen["kl"] = 0.1
    shape = f"{steps} steps of {groups} × {group}" if groups > 1 else f"{steps} steps of {group}"
    why = (
        f"{calls} verifier calls and {tokens} tokens are open to training: {shape} rollouts at a learning rate of "
        f"{chosen['learning_rate']:g}, from {_START[chosen['start']]}"
    )
    if mutation:
        why += (
            f"; half of each group by code mutation, as {view.rewards['zero_share']:.0%} of the policy's answers earn nothing and its "
            f"best is {view.rewards['best']:.4f}"
        )
    if "kl" in chosen:
        why += f"; a KL term of {chosen['kl']:g}, as only {view.rewards['distinct_share']:.0%} of the answers differ"
    return Size(chosen, why + ".")


def _temperature(view: View) -> float | None:
    """A rolled-back program's samples say nothing of the incumbent's, so its constant goes first."""
    named = constant(view.incumbent, "TEMPERATURE")
    if isinstance(named, int | float) and not isinstance(named, bool):
        return float(named)
    samples = view.trajectory.of("sample")
    return float(samples[-1].data.get("temperature", 1.0)) if samples and view.scaffold == view.incumbent else None


_START = {"restart": "plain restarts", "incumbent": "the best known solution", "puct": "states reused by PUCT"}
