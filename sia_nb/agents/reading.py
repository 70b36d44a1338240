"""A trajectory as rows that can be counted: answers, verdicts with their origin, budget.

It may import ``trajectory`` only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..trajectory import Trajectory, text_sha

SPEC_FAILURES = ("unparsable", "unknown_field", "missing_field", "bad_value", "syntax", "no_entry")


@dataclass(frozen=True)
class Answer:
    """One response of the policy and what became of it."""

    event: int
    text: str
    kind: str  # "ok", "no_json", "broken_json" or "truncated"
    solution: str | None
    logprob: float | None
    extracted: bool  # the scaffold tried to read it


@dataclass(frozen=True)
class Judged:
    """One verdict with the state of the search when it came."""

    event: int
    solution: str
    score: float
    valid: bool
    failure: str
    again: bool  # remembered or asked for before in this execution
    by_policy: bool  # the solution stands in an answer; otherwise the scaffold's code made it
    best_before: float | None  # the best valid score of this execution until then
    logprob: float | None


def _kind(text: str, stop: str, read: bool) -> str:
    if read:
        return "ok"
    if "{" not in text:
        return "truncated" if stop == "length" and not text.strip() else "no_json"
    return "truncated" if stop == "length" and "}" not in text[text.rfind("{") :] else "broken_json"


class Reading:
    """The rows of one trajectory."""

    def __init__(self, trajectory: Trajectory, metrics: dict[str, Any]):
        extracted: dict[str, str | None] = {}
        for event in trajectory.of("extract"):
            extracted[str(event.data.get("text_sha"))] = event.data.get("solution") if event.data.get("ok") else None
        self.answers: list[Answer] = []
        for event in trajectory.of("response"):
            text = str(event.data.get("text", ""))
            sha = text_sha(text)
            solution = extracted.get(sha)
            kind = _kind(text, str(event.data.get("stop", "end")), solution is not None)
            self.answers.append(Answer(event.id, text, kind, solution, event.data.get("logprob"), sha in extracted))
        by_policy = {answer.solution: answer.logprob for answer in self.answers if answer.solution is not None}
        asked = {event.id: str(event.data.get("solution", "")) for event in trajectory.of("evaluate")}
        self.verdicts: list[Judged] = []
        best: float | None = None
        for event in trajectory.of("verdict"):
            data = event.data
            if data.get("final"):  # the verdict on a submission that the scaffold never had scored
                continue
            solution, score, valid = asked.get(data.get("evaluate"), ""), float(data.get("score", 0.0)), bool(data.get("valid"))
            again = bool(data.get("cached") or data.get("repeat"))
            self.verdicts.append(
                Judged(
                    event.id,
                    solution,
                    score,
                    valid,
                    str(data.get("failure") or ""),
                    again,
                    solution in by_policy,
                    best,
                    by_policy.get(solution),
                )
            )
            if valid and (best is None or score > best):
                best = score
        self.best = best
        start, end = trajectory.of("start"), trajectory.of("end")
        self.budget: dict[str, float] = dict((start[0].data.get("budget") if start else None) or metrics.get("budget") or {})
        self.used: dict[str, float] = dict((end[-1].data.get("used") if end else None) or metrics.get("used") or {})
        self.end = end[-1] if end else None
        self.limits = trajectory.of("limit")
        self.errors = trajectory.of("error")
        self.crashes = [event for event in trajectory.of("log") if event.data.get("kind") == "crash"]
        self.submits = trajectory.of("submit")
        self.samples = trajectory.of("sample")

    @property
    def fresh(self) -> list[Judged]:
        """The verdicts that cost a verifier call."""
        return [v for v in self.verdicts if not v.again]

    def left(self, what: str) -> float:
        """The share of a budget that was left at the end, 0 to 1; 0 where nothing is known of it."""
        cap = float(self.budget.get(what) or 0.0)
        return max(0.0, 1.0 - float(self.used.get(what, cap)) / cap) if cap > 0 else 0.0


def fields_of(solution: str) -> dict[str, str]:
    """A spec's fields with their values as JSON text; empty for anything else."""
    try:
        spec = json.loads(solution)
    except (ValueError, RecursionError):
        return {}
    return {str(k): json.dumps(v, ensure_ascii=False, sort_keys=True) for k, v in spec.items()} if isinstance(spec, dict) else {}
