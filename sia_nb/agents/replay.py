"""Agents that repeat the recorded answers of an earlier run, in order and without a network.

Each answer is given back bit for bit. Where this run's question is not the recorded one, the runs have parted: that
is an error which says where, or with ``strict=False`` a warning.

It may import ``agents.base``, ``agents.record``, ``errors`` and ``store``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..errors import AgentError, StoreError
from ..store import read_json
from .base import Decision, Improvement, View
from .record import read_calls, to_decision, to_improvement, unless_stopped, view_inputs, write_inputs

log = logging.getLogger(__name__)


class Tape:
    """The recorded results of one run and how far they have been played."""

    def __init__(self, source: Path, *, start: int = 0, strict: bool = True):
        """Read a record.

        Args:
            source: a run folder or its ``agent_calls.jsonl``.
            start: how many results this run has played already, before it was resumed.

        Raises:
            StoreError: no such record, or a damaged one. AgentError: it holds no results.
        """
        source = Path(source)
        self.path = source / "agent_calls.jsonl" if source.is_dir() else source
        self.strict, self.position = strict, start
        self.author = _author(self.path.parent)
        self.results = [e for e in read_calls(self.path) if e["event"] == "result"]
        if not self.results:
            raise AgentError(f"replay: {self.path} holds no agent's results; name the folder of a run that has taken a step.")

    def next(self, purpose: str, inputs: dict[str, Any]) -> Any:
        """The next recorded output.

        Raises:
            AgentError: the record is at its end, or the question differs (strict).
            BudgetExceeded: in the recorded run a cap came before the answer.
        """
        if self.position >= len(self.results):
            raise AgentError(
                f"replay: {purpose} is asked, but all {len(self.results)} results of {self.path} are used. "
                "Give this run no more steps than the recorded one, or go on with another agent."
            )
        entry = self.results[self.position]
        where = f"replay: call {entry['call']} of {self.path}"
        if entry["purpose"] != purpose:
            raise AgentError(f"{where} is '{entry['purpose']}', but this run asks for '{purpose}'; the runs have parted.")
        names = list(dict.fromkeys([*entry["inputs"], *inputs]))
        missing = "absent"
        for name in names:
            was, now = entry["inputs"].get(name, missing), inputs.get(name, missing)
            if was != now:
                message = f"{where} ('{purpose}') departs in '{name}': recorded {was}, now {now}."
                if self.strict:
                    raise AgentError(
                        f"{message} Use the recorded run's parameters, data and versions, or replay with strict=False."
                    )
                log.warning("%s The recorded answer is used all the same.", message)
                break
        self.position += 1
        return unless_stopped(entry["output"])


def _author(folder: Path) -> str:
    """The kind of agent that wrote the recorded run's first scaffold."""
    try:
        return str(read_json(folder / "step_001" / "origin.json")["author"])
    except (StoreError, KeyError, TypeError):
        return "replay"


class ReplayMetaAgent:
    """Repeats the recorded ``write``."""

    kind = "replay"

    def __init__(self, tape: Tape):
        self.tape, self.model = tape, f"replay of {tape.path.parent.name}"
        self.author = tape.author  # so that what is written says the same; it is not trusted for it

    def write(self, spec: str, reference: str) -> str:
        """The recorded A_1."""
        return self.tape.next("write", write_inputs(spec, reference))


class ReplayFeedbackAgent:
    """Repeats the recorded ``decide`` and ``improve``."""

    kind = "replay"

    def __init__(self, tape: Tape):
        self.tape, self.model = tape, f"replay of {tape.path.parent.name}"
        self.author = tape.author  # so that what is written says the same; it is not trusted for it

    def decide(self, view: View) -> Decision:
        """The recorded decision."""
        return to_decision(self.tape.next("decide", view_inputs(view)))

    def improve(self, view: View) -> Improvement:
        """The recorded report and A_{g+1}."""
        return to_improvement(self.tape.next("improve", view_inputs(view)))
