"""The contracts of the Meta-Agent M and the Feedback-Agent F (paper §3.2, §5.2).

    A_1 = M(U, R)
    decide:  (A_g, τ_g, E_g, U) → harness | weights | stop
    improve: A_{g+1} = F(A_g, τ_g, E_g, U)

Every language-model call an agent makes goes through a ``Recorder``, which writes it down before the
answer is used; the replay agent reads that file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from ..trajectory import Trajectory

ACTIONS = ("harness", "weights", "stop")


@dataclass(frozen=True)
class StepSummary:
    """What the history says of one earlier step."""

    step: int
    action: str  # "init", "harness" or "weights": what produced the scaffold or weights that this step executed
    score: float  # best valid dev score submitted in the step
    noise: float  # standard error of that score's difference to the incumbent's
    accepted: bool  # kept as the incumbent; False: rolled back
    edits: tuple[str, ...]  # names of the edits that this step's scaffold added over its parent
    used: dict[str, float]  # verifier_calls, tokens, seconds of the step
    note: str = ""  # why it was kept or rolled back


@dataclass(frozen=True)
class View:
    """All that F may see. Nothing in it comes from the sealed test."""

    task: str  # task name
    spec: str  # U
    step: int  # g
    scaffold: str  # A_g's source
    incumbent: str  # the best accepted scaffold's source (equal to ``scaffold`` where g was accepted)
    trajectory: Trajectory  # τ_g
    metrics: dict[str, Any]  # E_g: score, valid, reason, counts (samples, extracted, verdicts, failures), used, budget
    history: tuple[StepSummary, ...]
    steps_left: int
    allowed: tuple[str, ...] = ("harness", "stop")  # the actions this run permits
    algorithms: tuple[str, ...] = ()  # the weight-update algorithms this run permits
    seed: int = 0
    menu: dict[str, str] = field(default_factory=dict)  # algorithm → "chosen when", of training.hyper.MENU
    # of the policy's own proposals in the scaffold that a weight update would train through, which is the incumbent where A_g was
    # rolled back: rewards.of_proposals
    rewards: dict[str, float] = field(default_factory=dict)
    # "harness", "weights", where tried: tries, kept, last_gain (over the incumbent), last_noise, last_verifier_calls, last_tokens
    levers: dict[str, dict[str, float]] = field(default_factory=dict)
    budget_left: dict[str, float] = field(default_factory=dict)  # of the whole run: steps, verifier_calls, tokens
    weight_share: float = 0.75  # share of a weight step's verifier calls and tokens that training may spend
    training: dict[str, Any] | None = None  # the last weight update's result.json (training.trainer.Result); None: none yet
    structured: bool = False  # that scaffold's last sample asked for a grammar: every answer is a solution


@dataclass(frozen=True)
class Decision:
    """F's choice at one step."""

    action: Literal["harness", "weights", "stop"]
    rationale: str  # prose for a reader
    evidence: tuple[int, ...] = ()  # ids of the trajectory events it rests on
    algorithm: str | None = None  # with "weights"
    hyperparameters: dict[str, Any] = field(default_factory=dict)  # with "weights": make_hyper(algorithm, **hyperparameters)
    rule: str = ""  # the playbook's rule by name; "" for a language model

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class Improvement:
    """F's two artefacts of a harness update."""

    report: str  # markdown: analysis and the proposed changes
    scaffold: str  # A_{g+1}, the source of agent.py
    edits: tuple[str, ...] = ()  # short names of the changes made


class MetaAgent(Protocol):
    """Writes the first scaffold."""

    kind: str
    model: str

    def write(self, spec: str, reference: str) -> str:
        """A_1 = M(U, R): the source of ``agent.py``.

        Raises:
            AgentError: it could not be reached or gave no program that meets the contract.
        """


class FeedbackAgent(Protocol):
    """Reads a step and chooses what comes next."""

    kind: str
    model: str

    def decide(self, view: View) -> Decision:
        """The next action, one of ``view.allowed``."""

    def improve(self, view: View) -> Improvement:
        """The improvement report and A_{g+1}."""


class Recorder(Protocol):
    """Where an agent's language-model calls are written down and budgeted."""

    def begin(self, purpose: str, request: dict[str, Any], most: float | None = 0.0) -> int:
        """Note a call about to be made, which costs at most so many US dollars (None: not known); returns its number.

        Raises BudgetExceeded where a cap is spent or this call could pass it."""

    def end(self, number: int, response: dict[str, Any], usage: dict[str, float]) -> None:
        """Note its answer before it is used. usage: input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, dollars, seconds."""

    def recall(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The provider's message that answered this very request before a kill, and was never used; else None."""

    def unusable(self) -> None:
        """Say that the answers since the last result led nowhere."""
