"""What the agents were asked and answered: ``agent_calls.jsonl``, appended and synced line by line.

Four kinds of line: ``begin`` (a language-model call about to be made), ``end`` (its answer, on disk before it is
used), ``result`` (what an agent of any kind returned, beside fingerprints of what it was given) and ``unusable`` (the
answers since the last result led nowhere and are not to be used again). A call that was cut off has a ``begin`` and no
``end``; what it may have cost counts against the cap for good. No header and no key is ever among them.

It may import ``agents.base``, ``budget``, ``errors`` and ``trajectory``.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..budget import Caps, Ledger, Spent
from ..errors import BudgetExceeded, StoreError
from ..trajectory import Trajectory
from .base import Decision, Improvement, View

FORMAT = 1
EVENTS = ("begin", "end", "result", "unusable")
MACHINE = ("seconds", "backend", "sandbox", "logprob")  # differ between machines or runs of one seed


def sha(value: Any) -> str:
    """16 hex digits of the SHA-256 of plain JSON data."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, sort_keys=True).encode()).hexdigest()[:16]


def _steady(value: Any) -> Any:
    """``value`` as plain data without what may differ between two runs of one seed."""
    if isinstance(value, dict):
        return {str(k): _steady(v) for k, v in value.items() if k not in MACHINE}
    if isinstance(value, list | tuple):
        return [_steady(v) for v in value]
    return value


def _fingerprint(trajectory: Trajectory) -> str:
    return sha([[e.id, e.kind, _steady(e.data)] for e in trajectory])


def write_inputs(spec: str, reference: str) -> dict[str, Any]:
    """Fingerprints of what M is given, by name."""
    return {"spec": sha(spec), "reference": sha(reference)}


def view_inputs(view: View) -> dict[str, Any]:
    """Fingerprints of what F is given, by name; times and the names of sandboxes are left out."""
    out: dict[str, Any] = {"task": view.task, "step": view.step, "seed": view.seed, "steps_left": view.steps_left}
    out |= {"allowed": list(view.allowed), "algorithms": list(view.algorithms)}
    out |= {"spec": sha(view.spec), "scaffold": sha(view.scaffold), "incumbent": sha(view.incumbent)}
    out["trajectory"] = _fingerprint(view.trajectory)
    out |= {f"metrics.{k}": sha(v) for k, v in sorted(_steady(view.metrics).items())}
    out["history"] = sha([_steady(asdict(s)) for s in view.history])
    if "weights" in view.allowed:  # with one lever these follow from the rest or are not there
        names = ("menu", "rewards", "levers", "budget_left", "weight_share", "training", "structured")
        out |= {name: sha(_steady(getattr(view, name))) for name in names}
    return out


def read_calls(path: Path) -> list[dict[str, Any]]:
    """The lines of an ``agent_calls.jsonl``; a last line that a kill tore is passed over.

    Raises:
        StoreError: there is no such file, it cannot be read, or a line other than the last is damaged.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise StoreError(f"agent calls: cannot read {path}: {error.strerror}. Expected the record of an earlier run.") from error
    return _parse(path, raw)[0]


def _parse(path: Path, raw: bytes) -> tuple[list[dict[str, Any]], int]:
    """The entries and how many bytes of the file are whole lines."""
    entries, whole, lines = [], 0, raw.split(b"\n")
    lines.pop()  # what follows the last line's end is torn or empty
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if entry["event"] not in EVENTS or type(entry["call"]) is not int:
                raise ValueError(entry["event"])
            entries.append(entry)
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise StoreError(
                f"agent calls: line {number} of {path} is damaged: {line[:60]!r}. Restore the file or start a new run."
            ) from None
        whole += len(line) + 1
    return entries, whole


class AgentRecorder:
    """A ``Recorder`` on one file; opening an existing one goes on with it.

    ``phase`` and ``step`` say where in the run the next calls belong; they go into the ledger.
    """

    def __init__(self, path: Path, ledger: Ledger | None = None, caps: Caps | None = None):
        """Open or begin a record.

        Args:
            ledger: is told of each call's cost; its own caps are checked before each call.
            caps: on this record's calls alone; only ``dollars`` can bind.

        Raises:
            StoreError: the file cannot be read or written, or is damaged before its last line.
        """
        self.path, self.ledger, self.caps = Path(path), ledger, caps
        self.phase, self.step = "", 0
        self._lock = threading.RLock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+") as f:
                f.seek(0)
                self.entries, whole = _parse(self.path, f.read())
                f.truncate(whole)
        except OSError as error:
            raise StoreError(f"agent calls: cannot open {path}: {error.strerror}. Check the folder and its rights.") from error
        self._next = 1 + max((e["call"] for e in self.entries), default=-1)
        self._waiting = self._unused()
        if ledger is not None:
            self._settle(ledger)

    def begin(self, purpose: str, request: dict[str, Any], most: float | None = 0.0) -> int:
        """Note a call about to be made; returns its number.

        Args:
            most: US dollars that it can cost at most; None where the price is not known. What calls on the way, and
                calls that were cut off, can cost at most counts as spent.

        Raises:
            BudgetExceeded: a cap is spent, or this call could pass it. StoreError: the disk is full or the folder went away.
        """
        with self._lock:
            ahead = Spent(dollars=self.committed() + (most or 0.0))
            if self.ledger is not None:
                self.ledger.check(ahead)
            if self.caps is not None:
                self.caps.check(self.spent(), ahead)
            more = {"phase": self.phase, "step": self.step, "most": most}
            return self._number("begin", purpose=purpose, **more, request_sha=sha(request), request=request)

    def end(self, number: int, response: dict[str, Any], usage: dict[str, float]) -> None:
        """Note a call's answer before it is used; ``usage["dollars"]`` is None where the price is not known."""
        with self._lock:
            entry = {"event": "end", "call": number, "response": response, "usage": usage}
            self._append(entry)
            if self.ledger is not None:
                self._charge(self.ledger, entry)

    def recall(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to this very request that was on disk when a kill came before it was used; each is given once."""
        found = next((e for e in self._waiting if e["request_sha"] == sha(request)), None)
        if found is None:
            return None
        self._waiting.remove(found)
        return found["message"]

    def unusable(self) -> None:
        """Say that the answers since the last result led nowhere: the next try asks anew."""
        with self._lock:
            self._waiting = []
            self._number("unusable")

    def committed(self) -> float:
        """US dollars that calls without an answer, on the way or cut off, can have cost at most."""
        ended = {e["call"] for e in self.entries if e["event"] == "end"}
        return sum(e.get("most") or 0.0 for e in self.entries if e["event"] == "begin" and e["call"] not in ended)

    def _unused(self) -> list[dict[str, Any]]:
        """Answers that a kill left unused: those after the last result."""
        begun = {e["call"]: e["request_sha"] for e in self.entries if e["event"] == "begin"}
        out: list[dict[str, Any]] = []
        for e in self.entries:
            if e["event"] in ("result", "unusable"):
                out = []
            elif e["event"] == "end" and "message" in e["response"] and e["call"] in begun:
                out.append({"request_sha": begun[e["call"]], "message": e["response"]["message"]})
        return out

    def _settle(self, ledger: Ledger) -> None:
        """Put into the ledger what a kill kept out of it: calls that have ended and are not there."""
        known = {e["call"] for e in ledger.entries if "call" in e}
        for entry in self.entries:
            if entry["event"] == "end" and entry["call"] not in known:
                self._charge(ledger, entry)

    def _charge(self, ledger: Ledger, entry: dict[str, Any]) -> None:
        begun = next(e for e in self.entries if e["event"] == "begin" and e["call"] == entry["call"])
        usage = entry["usage"]
        tokens = {k: v for k, v in usage.items() if k.endswith("_tokens")}
        # the phase counts its own wall time, which holds this call's
        ledger.add(
            begun.get("phase", self.phase), begun.get("step", self.step), f"agent {begun['purpose']}", dollars=usage.get("dollars"),
            call=entry["call"], agent_seconds=usage.get("seconds", 0.0), **tokens,
        )  # fmt: skip

    def result(self, purpose: str, inputs: dict[str, Any], output: Any) -> None:
        """Note what an agent returned."""
        with self._lock:
            self._waiting = []
            self._number("result", purpose=purpose, format=FORMAT, inputs_sha=sha(inputs), inputs=inputs, output=output)

    @property
    def results(self) -> list[dict[str, Any]]:
        """The ``result`` lines so far, in order."""
        return [e for e in self.entries if e["event"] == "result"]

    @property
    def interrupted(self) -> list[int]:
        """Numbers of calls that began and never ended: killed on the way, their cost unknown."""
        ended = [e["call"] for e in self.entries if e["event"] == "end"]
        return [e["call"] for e in self.entries if e["event"] == "begin" and e["call"] not in ended]

    def spent(self) -> Spent:
        """Dollars of all calls on record."""
        costs = [e["usage"].get("dollars") for e in self.entries if e["event"] == "end"]
        return Spent(dollars=sum(c for c in costs if c is not None), unpriced=sum(c is None for c in costs))

    def _number(self, event: str, **fields: Any) -> int:
        number = self._next
        self._append({"event": event, "call": number, **fields})
        self._next += 1
        return number

    def _append(self, entry: dict[str, Any]) -> None:
        try:
            line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:  # a lone surrogate must come back as it was
            line = json.dumps(entry, ensure_ascii=True, separators=(",", ":")).encode()
        try:
            with open(self.path, "ab") as f:
                f.write(line + b"\n")
                f.flush()
                os.fsync(f.fileno())
        except OSError as error:
            raise StoreError(
                f"agent calls: cannot append to {self.path}: {error.strerror}. Free some space and resume the run."
            ) from error
        self.entries.append(json.loads(line))


class Recorded:
    """A Meta- or Feedback-Agent of any kind whose results are recorded; what is on record is not asked again.

    So a run that was killed after an answer and before its completion mark resumes with that same answer.
    """

    def __init__(self, agent: Any, recorder: AgentRecorder):
        self.agent, self.recorder = agent, recorder
        self.kind, self.model = agent.kind, agent.model
        self.author = getattr(agent, "author", agent.kind)

    def write(self, spec: str, reference: str) -> str:
        """See ``MetaAgent.write``."""
        return self._once("write", "init", 1, write_inputs(spec, reference), lambda: self.agent.write(spec, reference))

    def decide(self, view: View) -> Decision:
        """See ``FeedbackAgent.decide``."""
        ask = lambda: self.agent.decide(view).to_dict()
        return to_decision(self._once("decide", "decision", view.step, view_inputs(view), ask))

    def improve(self, view: View) -> Improvement:
        """See ``FeedbackAgent.improve``."""
        ask = lambda: asdict(self.agent.improve(view))
        return to_improvement(self._once("improve", "decision", view.step, view_inputs(view), ask))

    def _once(self, purpose: str, phase: str, step: int, inputs: dict[str, Any], ask: Any) -> Any:
        key = sha(inputs)
        found = next((e for e in self.recorder.results if e["purpose"] == purpose and e["inputs_sha"] == key), None)
        if found is None:
            self.recorder.phase, self.recorder.step = phase, step
            try:
                output = ask()
            except BudgetExceeded as error:
                if phase == "init":  # without a scaffold there is nothing to stop with
                    raise
                output = {STOPPED: str(error)}
            self.recorder.result(purpose, inputs, output)
            found = self.recorder.results[-1]
        return unless_stopped(found["output"])


STOPPED = "stopped_by_budget"  # in place of an output: a cap came before the answer


def unless_stopped(output: Any) -> Any:
    """A recorded output.

    Raises:
        BudgetExceeded: it says that a cap came before the answer.
    """
    if isinstance(output, dict) and STOPPED in output:
        raise BudgetExceeded(output[STOPPED])
    return output


def to_decision(data: dict[str, Any]) -> Decision:
    """The ``Decision`` of its plain data."""
    return Decision(**{**data, "evidence": tuple(data["evidence"])})


def to_improvement(data: dict[str, Any]) -> Improvement:
    """The ``Improvement`` of its plain data."""
    return Improvement(data["report"], data["scaffold"], tuple(data["edits"]))
