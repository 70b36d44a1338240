"""What the trainer needs from the world: start states with prompts, solutions read out of texts, and their rewards.

Imports no torch. ``rollouts.ScaffoldProblem`` is the real one; the tests have a small one with a known optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol


@dataclass(frozen=True)
class Start:
    """A state that a group of rollouts starts from."""

    key: str  # names the state: equal keys are equal prompts
    messages: list[dict[str, str]]  # the prompt, as chat messages
    parent: dict[str, Any] | None = None  # {"solution", "score"} to improve on; None: write from scratch
    instance: str = ""  # of the task


@dataclass(frozen=True)
class Reward:
    """What one rollout earned."""

    value: float  # what is learned from; higher is better
    valid: bool
    reason: str = ""  # why it is not valid
    cached: bool = False  # it cost no verifier call
    solution_id: str = ""
    score: float = 0.0  # the verifier's; 0.0 where not valid
    metrics: dict[str, float] = field(default_factory=dict)  # the verdict's named dev figures


class OutOfCalls(Exception):
    """The verifier calls are spent.

    Attributes:
        rewards: one for each solution asked about, None where a call for it was not to be had.
    """

    def __init__(self, rewards: Sequence[Reward | None] = ()):
        super().__init__("the verifier calls of this weight update are spent")
        self.rewards = list(rewards)


class Problem(Protocol):
    """A source of start states and rewards. Every method is deterministic given its arguments and ``state()``."""

    segments: tuple[tuple[str, ...], ...] | None  # the grammar of masked decoding, where the scaffold asks for it
    max_tokens: int  # of one answer without a grammar

    def starts(self, n: int, kind: str, rng: Random) -> list[Start]:
        """``n`` start states; ``kind`` is "restart", "incumbent" or "puct"."""

    def read(self, texts: list[str]) -> list[str | None]:
        """The solution in each text, None where there is none."""

    def mutate(self, start: Start, n: int, rng: Random) -> list[str]:
        """``n`` texts made from the start's parent (the best known solution where it has none) by code mutation."""

    def rewards(self, start: Start, solutions: list[str | None]) -> list[Reward]:
        """The reward of each solution; None earns 0.0 and is not valid.

        Raises:
            OutOfCalls: the verifier calls ended before the solutions did.
        """

    def result(self, start: Start, rewards: list[Reward]) -> None:
        """Is told what the group of ``start`` earned, failures included."""

    def state(self) -> dict[str, Any]:
        """All that changes while training, as plain JSON data: it goes into the checkpoint."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a ``state()``."""
