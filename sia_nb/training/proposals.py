"""What a policy proposes by itself: its likeliest answer, then samples, until enough distinct solutions are found.

Used by ``transfer`` and by the best-of-N control.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .problem import Problem, Start
from .rollouts import derived

if TYPE_CHECKING:
    from ..policy.sampling import Policy

BATCH = 64  # samples asked for at once


@dataclass(frozen=True)
class Batch:
    """What one request to the policy came to."""

    solutions: tuple[str, ...]  # distinct, and in no batch before
    samples: int
    tokens: int


def proposals(
    policy: Policy,
    problem: Problem,
    start: Start,
    *,
    wanted: int,
    most: int,
    temperature: float,
    seed: int,
    before: tuple[Batch, ...] = (),
) -> Iterator[Batch]:
    """The batches after ``before``, until ``wanted`` distinct solutions are found or ``most`` samples drawn.

    The n-th batch depends on ``seed`` and n alone, so what a kill interrupted goes on with the batches that are known. A
    policy that writes the same few texts again and again is asked ``most`` times and yields fewer than ``wanted``.
    """
    texts = list(dict.fromkeys(s for batch in before for s in batch.solutions))
    samples, number = sum(b.samples for b in before), len(before)
    while len(texts) < wanted and samples < most:
        greedy = samples == 0
        drawn = policy.sample(
            start.messages, 1 if greedy else min(wanted, BATCH, most - samples), segments=problem.segments,
            seed=derived(seed, number), temperature=0.0 if greedy else temperature, max_tokens=problem.max_tokens,
        )  # fmt: skip
        found = [s for s in problem.read([d.text for d in drawn]) if s is not None]
        new = tuple(s for s in dict.fromkeys(found) if s not in texts)[: wanted - len(texts)]
        texts += new
        samples, number = samples + len(drawn), number + 1
        yield Batch(new, len(drawn), sum(d.tokens for d in drawn))
