"""The rollouts of one training step: a group of G texts for each start state, read, scored and told of.

A group may mix the policy's texts with ones made by code mutation of the parent. Those are off-policy: their tokens are
the grammar's path of the text, their log-probability under the policy of the moment stands for the one they were drawn
with (importance ratio 1 on the first pass), so they act as behaviour cloning weighted by the advantage. Each says so in
its ``source``. Whether that helps differs from setting to setting, as measurements have shown.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import TrainingError
from . import devices
from .hyper import Hyper
from .problem import OutOfCalls, Problem, Reward, Start
from .scaffolded import ScaffoldProblem

__all__ = [
    "Rolled", "Rollout", "ScaffoldProblem", "derived", "figures", "lines", "most_tokens", "mutations", "sample", "score", "shuffle"
]  # fmt: skip

if TYPE_CHECKING:
    from ..policy.sampling import Policy


@dataclass
class Rollout:
    """One text of a group."""

    text: str
    ids: tuple[int, ...]  # its tokens, the end token included where it was written
    source: str  # "policy", or "mutation" for one that code mutation wrote
    logprob: float | None = None  # of the distribution drawn from; None for a mutation
    choices: int = 0  # its tokens that were not forced
    solution: str | None = None
    reward: Reward | None = None  # None: the verifier calls ended before
    advantage: float | None = None  # mean over its choices; None where its group taught nothing


@dataclass
class Rolled:
    """A start state and its group."""

    start: Start
    prompt_ids: list[int]
    rollouts: list[Rollout]

    @property
    def scored(self) -> list[Rollout]:
        """Those that have a reward."""
        return [r for r in self.rollouts if r.reward is not None]

    def scored_part(self) -> Rolled:
        """The same group without the rollouts that have none."""
        return Rolled(self.start, self.prompt_ids, self.scored)


def derived(*parts: Any) -> int:
    """A 63-bit seed from any values that print alike when they are alike."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def mutations(hyper: Hyper) -> int:
    """How many of a group are written by code mutation."""
    return round(hyper.mutation * hyper.group_size)


def most_tokens(policy: Policy, problem: Problem, hyper: Hyper) -> int:
    """The tokens that a step's sampling may take at most."""
    longest = policy.longest(problem.segments) if problem.segments else problem.max_tokens
    return hyper.groups * (hyper.group_size - mutations(hyper)) * longest


def sample(
    policy: Policy, problem: Problem, hyper: Hyper, step: int, seed: int, team: devices.Alone = devices.ALONE
) -> list[Rolled]:
    """Draw a step's groups and read their solutions; no verifier call is made.

    The random numbers of group g are those of (seed, step, g), so no generator's state needs to be kept.

    Raises:
        ModelError: a prompt and its answer are longer than the model's context.
    """
    grammar = policy.grammar(problem.segments) if problem.segments else None
    starts = problem.starts(hyper.groups, hyper.start, Random(derived(seed, step, "starts")))
    how = {"temperature": hyper.temperature, "max_tokens": problem.max_tokens, "segments": problem.segments}
    asks = [
        {"messages": start.messages, "n": hyper.group_size - mutations(hyper), "seed": derived(seed, step, g), **how}
        for g, start in enumerate(starts)
    ]
    groups = []
    for g, (start, drawn) in enumerate(zip(starts, devices.sample(team, policy, asks), strict=True)):
        rollouts = [Rollout(s.text, tuple(s.token_ids), "policy", s.logprob) for s in drawn]
        for text in problem.mutate(start, mutations(hyper), Random(derived(seed, step, g, "mutation"))):
            ids = grammar.encode(text) if grammar else _free_ids(policy, text)
            rollouts.append(Rollout(text, tuple(ids), "mutation"))
        for r in rollouts:
            r.choices = sum(len(grammar.allowed(s)) > 1 for s in grammar.walk(r.ids)[:-1]) if grammar else len(r.ids)
        groups.append(Rolled(start, policy.prompt_ids(start.messages), rollouts))
    everything = [r for group in groups for r in group.rollouts]
    for rollout, solution in zip(everything, problem.read([r.text for r in everything]), strict=True):
        rollout.solution = solution
    return groups


def _free_ids(policy: Policy, text: str) -> list[int]:
    return [*policy.tokenizer(text, add_special_tokens=False)["input_ids"], policy.tokenizer.eos_token_id]


def score(groups: list[Rolled], problem: Problem, hyper: Hyper) -> bool:
    """Give every rollout its reward, group by group; False where the verifier calls ended before (the rest has none).

    Raises:
        TrainingError: a reward is not a finite number; names the solution.
    """
    for group in groups:
        ended = False
        solutions = [r.solution for r in group.rollouts]
        try:
            rewards: list[Reward | None] = list(problem.rewards(group.start, solutions))
        except OutOfCalls as out:
            ended = True
            rewards = out.rewards or [None] * len(solutions)
        for rollout, reward in zip(group.rollouts, rewards, strict=True):
            if reward is None:
                continue
            if not (math.isfinite(reward.value) and math.isfinite(reward.score)):
                raise TrainingError(
                    f"training: the verifier gave the reward {reward.value} (score {reward.score}) to the solution "
                    f"{rollout.solution!r}; expected a finite number. Mend the verifier; the last checkpoint is kept."
                )
            if hyper.reward == "improvement" and group.start.parent is not None:
                reward = replace(reward, value=max(0.0, reward.score - float(group.start.parent["score"])))
            rollout.reward = reward
        problem.result(group.start, [r.reward for r in group.scored])
        if ended:
            return False
    return True


def shuffle(groups: list[Rolled], step: int, seed: int) -> None:
    """Permute the rewards that are learned from among the valid rollouts of each group: the control in which a reward says
    nothing of its rollout. What the verifier said of a rollout (score, validity) stays with it.
    """
    for g, group in enumerate(groups):
        valid = [r for r in group.scored if r.reward.valid]
        values = [r.reward.value for r in valid]
        Random(derived(seed, step, g, "shuffle")).shuffle(values)
        for rollout, value in zip(valid, values, strict=True):
            rollout.reward = replace(rollout.reward, value=value)


def figures(groups: list[Rolled]) -> dict[str, Any]:
    """What the curve shows of a step's rollouts, the policy's own alone; None where none was scored.

    ``entropy`` is the mean of −log π over the choices sampled, in nats: an unbiased estimate of the policy's entropy a choice.
    ``collapsed`` counts the groups without two different rewards.
    """
    own = [r for g in groups for r in g.rollouts if r.source == "policy"]
    scored = [r.reward for r in own if r.reward is not None]
    values = [r.value for r in scored]
    low, middle, high = (float(q) for q in np.quantile(values, (0.1, 0.5, 0.9))) if values else (None, None, None)
    return {
        "reward_mean": float(np.mean(values)) if values else None,
        "reward_q10": low,
        "reward_q50": middle,
        "reward_q90": high,
        "reward_max": max(values, default=None),
        "validity": sum(r.valid for r in scored) / len(scored) if scored else None,
        "zero_share": sum(v == 0 for v in values) / len(values) if values else None,
        "distinct": len({r.text for r in own}) / len(own),
        "entropy": -sum(r.logprob for r in own) / max(1, sum(r.choices for r in own)),
        "collapsed": sum(len({r.reward.value for r in g.scored}) < 2 for g in groups),
    }


def lines(groups: list[Rolled], step: int) -> list[dict[str, Any]]:
    """The step's lines of rollouts.jsonl."""
    out = []
    for g, group in enumerate(groups):
        for row, r in enumerate(group.rollouts):
            told = r.reward
            out.append(
                {
                    "step": step, "group": g, "row": row, "instance": group.start.instance, "text": r.text,
                    "tokens": len(r.ids), "logprob": r.logprob, "solution": r.solution,
                    "solution_id": told.solution_id if told else "",
                    "reward": told.value if told else None, "score": told.score if told else None,
                    "valid": told.valid if told else None, "reason": told.reason if told else "out of verifier calls",
                    "advantage": r.advantage, "source": r.source, "parent": group.start.parent,
                    "cached": told.cached if told else None, "metrics": told.metrics if told else {},
                }
            )  # fmt: skip
    return out
