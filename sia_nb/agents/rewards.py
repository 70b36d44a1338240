"""The rewards of the policy's own proposals in one trajectory: what the choice between the two levers rests on.

A reward is what training would give an answer: its verdict's score, and 0 where the verdict is not valid or no
solution could be read. Answers that were read and never scored have no reward. Where the scaffold screens answers
before it has them scored, the rewards are those of the screened ones, and training will meet worse.

Pure Python. It may import ``agents.reading`` and ``trajectory``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..trajectory import Trajectory
from .reading import Reading

LEAST_NOISE = 1e-3  # of a gain whose noise is not known: the first valid answer, say, has nothing to be paired with


@dataclass(frozen=True)
class Proposal:
    """One answer of the policy with a known reward."""

    event: int  # id of its verdict, or of the response where no solution could be read
    reward: float
    solution: str | None


def proposals(reading: Reading) -> list[Proposal]:
    """The policy's answers with a known reward, in order; an answer given twice counts twice, as in a group."""
    judged: dict[str, Proposal] = {}
    for v in reading.verdicts:
        judged.setdefault(v.solution, Proposal(v.event, v.score if v.valid else 0.0, v.solution))
    out = []
    for answer in reading.answers:
        if answer.solution in judged:
            out.append(judged[answer.solution])
        elif answer.solution is None and answer.extracted:
            out.append(Proposal(answer.event, 0.0, None))
    return out


def of_proposals(trajectory: Trajectory, metrics: dict[str, Any]) -> dict[str, float]:
    """Statistics of the policy's own proposals in one trajectory; all 0 where there are none.

    Returns:
        n: answers with a known reward. zero_share: of them, those with a reward of 0 or less. mean, best.
        sd: with n − 1. skew: Fisher–Pearson, m₃ / m₂^1.5, 0 without spread. levels: different rewards among them.
        scored: different solutions among them. distinct_share: different solutions among all answers that could be
        read, scored or not.
    """
    reading = Reading(trajectory, metrics)
    known = proposals(reading)
    rewards = [p.reward for p in known]
    n = len(rewards)
    mean = sum(rewards) / n if n else 0.0
    squares = sum((r - mean) ** 2 for r in rewards)
    spread = (squares / n) ** 0.5 if n else 0.0
    flat = spread <= 1e-9
    read = [a.solution for a in reading.answers if a.solution is not None]
    return {
        "n": n,
        "zero_share": sum(r <= 0 for r in rewards) / n if n else 0.0,
        "mean": mean,
        "sd": 0.0 if flat or n < 2 else (squares / (n - 1)) ** 0.5,
        "skew": 0.0 if flat else sum(((r - mean) / spread) ** 3 for r in rewards) / n,
        "best": max(rewards, default=0.0),
        "levels": len({round(r, 9) for r in rewards}),
        "scored": len({p.solution for p in known if p.solution is not None}),
        "distinct_share": len(set(read)) / len(read) if read else 0.0,
    }


def gain_a_call(lever: dict[str, float] | None) -> float:
    """A lever's last gain in units of its noise for each verifier call; 0 where it is no more than the noise.

    Args:
        lever: one of ``View.levers``, None where it was never tried.
    """
    if not lever or lever["last_gain"] <= lever["last_noise"]:
        return 0.0
    return lever["last_gain"] / max(lever["last_noise"], LEAST_NOISE) / max(1.0, lever["last_verifier_calls"])


def structured(trajectory: Trajectory) -> bool:
    """The last sample asked for a grammar."""
    samples = trajectory.of("sample")
    return bool(samples and samples[-1].data.get("grammar"))
