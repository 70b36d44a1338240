"""The policy and the verifier of a replay, which answer from a run's record, and what it means to differ from one.

It may import ``agents.record``, ``policy``, ``store``, ``tasks.base`` and ``trajectory``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .agents.record import MACHINE
from .errors import SiaError
from .policy.sample import Sample
from .store import Run, data_dir
from .tasks.base import Score, Solution, Verifier
from .trajectory import Trajectory

LEFT_OUT = (*MACHINE, "created")
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Departure:
    """The first place where a replay and its record are not the same."""

    step: int  # 0: the run as a whole
    file: str  # within the run's folder
    event: int | None  # of a trajectory; a line of a file of lines
    field: str
    recorded: Any
    now: Any

    def __str__(self) -> str:
        where = (
            f"{self.file}"
            + (f", event {self.event}" if self.event is not None else "")
            + (f", {self.field}" if self.field else "")
        )
        return f"departs at step {self.step}: {where}: recorded {_short(self.recorded)}, now {_short(self.now)}"


class Departed(SiaError):
    """The replay asked its policy for something that is not on record."""

    def __init__(self, departure: Departure):
        super().__init__(str(departure))
        self.departure = departure


class RecordedPolicy:
    """Gives back the texts of a recorded execution, in order, where it is asked what was asked then."""

    tokenizer = model = None

    def __init__(self, run: Run, step: int):
        self.run, self.step, self.name = run, step, f"record of {run.path.name}"
        self.file = f"step_{step:03d}/trajectory.jsonl"
        tau = Trajectory.read(run.path / self.file)
        self._asked = {e.id: e.data for e in tau.of("sample")}
        self._left = tau.of("response")
        self._longest: dict[Any, int] = {}

    def longest(self, segments: Sequence[tuple[str, ...]]) -> int:
        """As the run's own policy counts it."""
        config, key = self.run.config, tuple(segments)
        if key not in self._longest:
            if config.policy_url:
                from .policy.endpoint import longest

                self._longest[key] = longest(segments)
            else:
                from .policy.grammar import Grammar
                from .policy.model import open_tokenizer

                self._longest[key] = Grammar(key, open_tokenizer(config.policy, data_dir=data_dir())).longest
        return self._longest[key]

    def sample(
        self,
        messages: list[dict[str, str]],
        n: int = 1,
        *,
        temperature: float = 1.0,
        max_tokens: int = 160,
        segments: Sequence[tuple[str, ...]] | None = None,
        seed: int = 0,
    ) -> list[Sample]:
        """The next ``n`` recorded texts.

        Raises:
            Departed: the question is not the recorded one, or the record is at its end.
        """
        now = {"messages": messages, "temperature": temperature, "grammar": segments is not None}
        out = []
        for _ in range(n):
            if not self._left:
                raise Departed(Departure(self.step, self.file, None, "response", "no more of them", now))
            event = self._left.pop(0)
            asked = event.data["sample"]
            then = self._asked[asked]
            for name, value in now.items():
                if then[name] != value:
                    raise Departed(Departure(self.step, self.file, asked, name, then[name], value))
            d = event.data
            logprob = float("nan") if d["logprob"] is None else d["logprob"]
            out.append(Sample(d["text"], d["tokens"], (), logprob, d["stop"]))
        return out


class RecordedVerifier:
    """Asks the verifier, and gives back the recorded figures where it says the same up to TOLERANCE.

    Without a verifier (``real`` None) the recorded figures are given back unasked: what they rest on may be another processor.
    """

    def __init__(self, run: Run, real: Verifier | None):
        self.run, self.real, self.step = run, real, 0
        self.asked = 0
        self.largest = 0.0  # difference between two figures
        self.differing: set[str] = set()  # solutions whose figures differ at all
        self.shown: list[tuple[int, str]] = []  # step and name of what F is shown today and was not then
        self._known: dict[str, dict[str, Any]] = {}
        for g in run.executed():
            for e in Trajectory.read(run.step(g) / "trajectory.jsonl").of("verdict"):
                self._known.setdefault(e.data["solution_id"], e.data)

    def score(self, solution: Solution) -> Score:
        """The verdict; where it departs, the trajectory will.

        Raises:
            Departed: no verifier is asked, and there is no such verdict on record.
        """
        then = self._known.get(solution.id)
        if self.real is None:
            if then is None:
                file = f"step_{self.step:03d}/trajectory.jsonl"
                raise Departed(Departure(self.step, file, None, "evaluate", "no such solution", solution.text))
            return Score(then["score"], then["valid"], then["reason"], then["metrics"], solution_id=solution.id)
        score = self.real.score(solution)
        self.asked += 1
        if then is None:
            return score
        now = {"score": score.value, "valid": score.valid, "reason": score.reason, "metrics": dict(score.metrics)}
        if self.near({k: then[k] for k in now}, now, solution.id):
            return replace(score, value=then["score"], metrics=then["metrics"])
        return score

    def paired_se(self, a: str, b: str) -> float:
        """The noise."""
        then = self.run.metrics(self.step)["noise"]
        if self.real is None:
            return then
        now = self.real.paired_se(a, b)
        return then if self.near(then, now, a) else now

    def near(self, then: Any, now: Any, name: str) -> bool:
        """Whether two figures or records of some are the same up to TOLERANCE; counts those that are not equal."""
        if difference(then, now) is None:
            return True
        if difference(then, now, within=TOLERANCE) is not None:
            return False
        self.differing.add(name)
        self.largest = max(self.largest, _largest(then, now))
        return True


def _largest(then: Any, now: Any) -> float:
    if isinstance(then, dict):
        return max((_largest(then[k], now[k]) for k in then if k not in LEFT_OUT), default=0.0)
    if isinstance(then, list):
        return max((_largest(a, b) for a, b in zip(then, now, strict=True)), default=0.0)
    return abs(then - now) if isinstance(then, int | float) else 0.0


def difference(then: Any, now: Any, where: str = "", *, within: float = 0.0) -> tuple[str, Any, Any] | None:
    """The first place where two pieces of plain data differ, with both values; times and sandboxes' names are left out.

    Numbers that are not whole count as equal where they differ by no more than ``within``.
    """
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*then, *now]):
            if key in LEFT_OUT:
                continue
            if key not in then or key not in now:
                return f"{where}.{key}".lstrip("."), then.get(key, "nothing"), now.get(key, "nothing")
            if found := difference(then[key], now[key], f"{where}.{key}", within=within):
                return found
        return None
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        each = (difference(a, b, f"{where}[{n}]", within=within) for n, (a, b) in enumerate(zip(then, now, strict=True)))
        return next((found for found in each if found), None)
    if isinstance(then, float) and isinstance(now, float) and abs(then - now) <= within:
        return None
    same = then == now and isinstance(then, bool) == isinstance(now, bool)
    return None if same else (where.lstrip("."), then, now)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"
