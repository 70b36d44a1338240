"""The gateway: a scaffold's only way out. It serves ``env``, keeps the budget and writes the trajectory itself.

Whatever comes from the child is hostile. A message that is out of order, of an unknown method or of the wrong shape
is refused and recorded as a ``limit`` event with ``what="message"``; one that leaves the stream unreadable ends the
execution, and so does a flood. Nothing that the child sends can become another kind of event than the one its
method stands for, and scores, budgets and event ids are the host's alone.

It may import ``contract``, ``runner`` (for the wire format), ``errors``, ``tasks.base`` and ``trajectory``.
"""

from __future__ import annotations

import math
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import InvalidSolution
from ..tasks.base import REJECTED, Score, Solution, Task, Verifier
from ..trajectory import TrajectoryWriter
from .contract import Budget
from .runner import Channel, MessageError

MAX_N, MAX_TOKENS, MAX_TEMPERATURE = 256, 1024, 2.0
MAX_PROMPT, MAX_SOLUTION, MAX_LOG = 200_000, 64_000, 64_000  # characters
MAX_MESSAGES, MAX_RECEIVED, MAX_REFUSED = 20_000, 64 << 20, 20
GRACE = 5.0  # seconds a scaffold has after its time is up, to submit what it holds
ROLES = ("system", "user", "assistant")
FAILURES = ("crash", "timeout", "memory", "wrong_shape", "refused", *REJECTED, *(
    "unparsable", "unknown_field", "missing_field", "bad_value", "syntax", "no_entry"
))  # fmt: skip


class Policy(Protocol):
    """What the gateway asks of a policy; each sampled text has .text, .tokens, .stop and .logprob."""

    def sample(
        self,
        messages: list[dict[str, str]],
        n: int,
        *,
        temperature: float,
        max_tokens: int,
        segments: list[tuple[str, ...]] | None,
        seed: int,
    ) -> list[Any]:
        """``n`` texts of at most ``max_tokens`` tokens each; with ``segments``, whole texts of the grammar."""

    def longest(self, segments: list[tuple[str, ...]]) -> int:
        """Tokens of the longest text of a grammar."""


class Refused(Exception):
    """A message that breaks the protocol: recorded, answered with an error."""


class BadValue(Exception):
    """An argument out of range: told to the scaffold as a ValueError, and the execution goes on."""


class Exhausted(Exception):
    """A cap of the budget is spent."""


@dataclass
class Counts:
    """What an execution did, for the metrics."""

    samples: int = 0  # env.sample calls answered
    responses: int = 0  # texts sampled
    extracted: int = 0  # extract calls that gave a solution
    not_extracted: int = 0
    evaluations: int = 0  # env.evaluate calls answered
    repeats: int = 0  # of those, of a solution known in this run
    valid: int = 0  # of those, valid
    failures: dict[str, int] = field(default_factory=dict)  # of those not valid, by failure
    submissions: int = 0
    refused: int = 0  # messages that broke the protocol


class Gateway:
    """Serves one execution on one connection.

    The budget counts

    - a verifier call for each ``evaluate`` of a solution not scored before in this run, and for each text that is no
      solution at all (it has no id to be remembered by);
    - the tokens that the policy sampled; a call for more than is left gets fewer texts; the last is cut short, or, with
      a grammar, left out where the longest text it allows would not fit;
    - seconds of wall time, the policy's and the verifier's included.

    Args:
        task_info: ``env.task``.
        policy, verifier, task: see their protocols.
        budget: the caps.
        seed: of the policy's sampling and of ``env.random``.
        archive: ``env.archive``.
        writer: where events go.
        scored: ids of the solutions scored before in this run; grows. That the verifier remembers a solution from
            another run changes nothing here: equal seeds take equal decisions whatever the cache holds.
    """

    def __init__(
        self,
        task_info: dict[str, Any],
        policy: Policy,
        verifier: Verifier,
        task: Task,
        budget: Budget,
        seed: int,
        archive: list[dict[str, Any]],
        writer: TrajectoryWriter,
        scored: set[str] | None = None,
    ):
        self.task_info, self.policy, self.verifier, self.task = task_info, policy, verifier, task
        self.budget, self.seed, self.archive, self.writer = budget, seed, archive, writer
        self.scored = set() if scored is None else scored
        self.counts = Counts()
        self.verifier_calls = self.tokens = 0
        self.verdicts: dict[str, Score] = {}  # by solution id, in order of evaluation
        self.solutions: dict[str, str] = {}  # their texts
        self.submission: str | None = None
        self.ended = ""  # "returned", "crashed" or "killed" once serve is through
        self.silent_end = False  # the child closed the connection without a word
        self._start = time.monotonic()
        self._served = self._start
        self._messages = 0
        self._limits_said: set[str] = set()
        self._methods: dict[str, Callable[[dict[str, Any]], Any]] = {
            "hello": self._hello, "budget": lambda _: self.left(), "sample": self._sample, "evaluate": self._evaluate,
            "log": self._log, "submit": self._submit, "extract": self._extract, "error": self._error, "done": self._done,
        }  # fmt: skip

    # --- budget ---------------------------------------------------------------------------------------------------
    def used(self) -> dict[str, float]:
        """What was spent so far."""
        seconds = round(time.monotonic() - self._start, 3)
        return {"verifier_calls": self.verifier_calls, "tokens": self.tokens, "seconds": seconds}

    def left(self) -> dict[str, float]:
        """What is left, never below 0."""
        used = self.used()
        return {name: max(0, getattr(self.budget, name) - used[name]) for name in used}

    def _spent(self, what: str) -> Exhausted:
        cap = getattr(self.budget, what)
        if what not in self._limits_said:
            self._limits_said.add(what)
            self.writer.write("limit", what=what, detail=f"all {cap:g} are spent")
        return Exhausted(f"{what}: all {cap:g} of this execution are spent")

    def _check_time(self) -> None:
        if time.monotonic() - self._start >= self.budget.seconds:
            raise self._spent("seconds")

    # --- serving --------------------------------------------------------------------------------------------------
    def serve(self, sock: socket.socket) -> str:
        """Answer until the scaffold is done, breaks the stream, or has used its time; returns how it ended.

        Raises:
            SiaError: the policy, the verifier or the disk failed; not the scaffold's doing.
        """
        sock.settimeout(GRACE)
        channel = Channel(sock)
        grace = min(GRACE, self.budget.seconds)
        while not self.ended:
            try:
                deadline = max(self._start + self.budget.seconds, self._served + grace)
                message = channel.receive(deadline)
            except TimeoutError:
                self._spent("seconds")
                self.ended = "killed"
                break
            except MessageError as error:
                self._message(f"unreadable: {error}")
                self.ended = "killed"
                break
            if message is None:
                self.ended, self.silent_end = "crashed", True
                break
            self._messages += 1
            if self._messages > MAX_MESSAGES or channel.received > MAX_RECEIVED:
                self._message(f"a flood: more than {MAX_MESSAGES} messages or {MAX_RECEIVED >> 20} MB")
                self.ended = "killed"
                break
            answer = self._answer(message)  # an error of the host's own disk is not the child's
            try:
                channel.send(answer)
            except TimeoutError:
                self._message("the scaffold does not read its answers")
                self.ended = "killed"
            except OSError:
                pass  # the child is gone: the next receive tells
            self._served = time.monotonic()
            if self.counts.refused > MAX_REFUSED:
                self.ended = "killed"
        if self.ended == "returned":
            self._expect_silence(channel)
        return self.ended

    def _expect_silence(self, channel: Channel) -> None:
        try:
            late = channel.receive(time.monotonic() + 1.0)
        except TimeoutError:
            return
        except MessageError:
            late = {}
        if late is not None:
            self._message("a message after the end")

    def _message(self, detail: str) -> None:
        self.counts.refused += 1
        self.writer.write("limit", what="message", detail=detail)

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        number = message.get("id")
        if type(number) is not int or number != self._messages:
            self._message("forged id")
            self.ended = "killed"
            return {"id": 0, "error": "Refused", "message": "forged id"}
        try:
            method = message.get("method")
            if not isinstance(method, str) or method not in self._methods:
                raise Refused(f"unknown method {str(method)[:60]!r}")
            return {"id": number, "value": self._methods[method](message)}
        except Refused as refused:
            self._message(str(refused))
            return {"id": number, "error": "Refused", "message": f"refused: {refused}"}
        except BadValue as error:
            return {"id": number, "error": "ValueError", "message": str(error)}
        except Exhausted as error:
            return {"id": number, "error": "BudgetExhausted", "message": str(error)}

    # --- methods --------------------------------------------------------------------------------------------------
    def _hello(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"task": self.task_info, "archive": self.archive, "seed": self.seed}

    def _sample(self, message: dict[str, Any]) -> list[str]:
        messages, n, temperature, most, grammar = (
            message.get(k) for k in ("messages", "n", "temperature", "max_tokens", "grammar")
        )
        if problem := chat_problem(messages):
            raise BadValue(f"env.sample: {problem}")
        n = _integer("n", n, 1, MAX_N)
        most = _integer("max_tokens", most, 1, MAX_TOKENS)
        if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 <= temperature <= MAX_TEMPERATURE:
            raise BadValue(f"env.sample: temperature is {temperature!r}; expected a number from 0 to {MAX_TEMPERATURE:g}")
        if grammar not in (None, "solution"):
            raise BadValue(f"env.sample: grammar is {grammar!r}; expected None or 'solution'")
        self._check_time()
        segments = self.task.space.segments() if grammar else None
        whole = self.policy.longest(segments) if grammar else 1  # a masked text is never cut short
        if self.tokens + whole > self.budget.tokens:
            raise self._spent("tokens")
        number, self.counts.samples = self.counts.samples, self.counts.samples + 1
        event = self.writer.write(
            "sample", messages=messages, n=n, temperature=float(temperature), max_tokens=most, grammar=grammar is not None
        )
        texts: list[str] = []
        batch = 0
        while len(texts) < n and self.tokens + whole <= self.budget.tokens:
            left = self.budget.tokens - self.tokens
            drawn = self.policy.sample(
                messages,
                min(n - len(texts), max(1, left // max(whole, 1 if grammar else most))),
                temperature=float(temperature),
                max_tokens=max(whole, min(most, left)),
                segments=segments,
                seed=(self.seed * 1_000_003 + number * 1009 + batch) % 2**63,
            )
            batch += 1
            for one in drawn:
                text = one.text.encode("utf-8", "replace").decode("utf-8")
                self.tokens += int(one.tokens)
                self.counts.responses += 1
                self.writer.write(
                    "response", sample=event, index=len(texts), text=text, tokens=int(one.tokens), stop=one.stop,
                    logprob=float(one.logprob) if math.isfinite(one.logprob) else None,
                )  # fmt: skip
                texts.append(text)
        if len(texts) < n:
            self._spent("tokens")
        return texts

    def _evaluate(self, message: dict[str, Any]) -> dict[str, Any]:
        text = _text("evaluate", message.get("solution"))
        self._check_time()
        try:
            solution = self.task.parse(text)
        except InvalidSolution as error:
            solution, score = None, Score(0.0, False, f"{error.kind}: {error}")
        repeat = solution is not None and solution.id in self.scored
        if not repeat and self.verifier_calls >= self.budget.verifier_calls:
            raise self._spent("verifier_calls")
        event = self.writer.write("evaluate", solution=text, dialect=solution.dialect if solution else "")
        self.verifier_calls += not repeat
        if solution is not None:
            score = self._score(solution)
        self.counts.evaluations += 1
        self.counts.repeats += repeat
        return self._verdict(event, solution, score, repeat)

    def _score(self, solution: Solution) -> Score:
        score = self.verifier.score(solution)
        self.scored.add(solution.id)
        self.verdicts.setdefault(solution.id, score)
        self.solutions.setdefault(solution.id, solution.text)
        return score

    def _verdict(self, event: int, solution: Solution | None, score: Score, repeat: bool, **more: Any) -> dict[str, Any]:
        failure = ""
        if score.valid:
            self.counts.valid += 1
        else:
            failure = score.reason.partition(":")[0].strip()
            failure = failure if failure in FAILURES else "crash"
            self.counts.failures[failure] = self.counts.failures.get(failure, 0) + 1
        verdict = {"score": score.value, "valid": score.valid, "reason": score.reason, "failure": failure}
        verdict |= {"metrics": dict(score.metrics), "cached": repeat}
        self.writer.write(
            "verdict", evaluate=event, solution_id=solution.id if solution else "", **verdict, repeat=repeat, **more
        )
        return verdict

    def _log(self, message: dict[str, Any]) -> None:
        kind, data = message.get("kind"), message.get("data")
        if not isinstance(kind, str) or not isinstance(data, dict) or "kind" in data:
            raise Refused("log needs a kind and data by name")
        if len(kind) > 100 or len(repr(data)) > MAX_LOG:
            raise BadValue(f"env.log: more than {MAX_LOG} characters")
        self.writer.write("log", kind=kind, **data)

    def _submit(self, message: dict[str, Any]) -> None:
        text = _text("submit", message.get("solution"))
        try:
            solution = self.task.parse(text)
        except InvalidSolution:
            solution = None
        known = self.verdicts.get(solution.id) if solution else Score(0.0, False)
        value = None if known is None else known.value
        self.submission = text
        self.counts.submissions += 1
        self.writer.write("submit", solution=text, solution_id=solution.id if solution else "", score=value)

    def _extract(self, message: dict[str, Any]) -> None:
        sha, ok, solution, error = (message.get(k) for k in ("text_sha", "ok", "solution", "error"))
        good = isinstance(sha, str) and re.fullmatch("[0-9a-f]{16}", sha) and isinstance(ok, bool) and isinstance(error, str)
        if not good or ok != isinstance(solution, str) or not (solution is None or isinstance(solution, str)):
            raise Refused("a malformed extract report")
        self.counts.extracted += ok
        self.counts.not_extracted += not ok
        solution = solution[:MAX_SOLUTION] if ok else None
        self.writer.write("extract", text_sha=sha, ok=ok, solution=solution, error=error[:2000])

    def _error(self, message: dict[str, Any]) -> None:
        where, text, lines = (message.get(k) for k in ("where", "message", "traceback"))
        if where not in ("import", "run") or not isinstance(text, str) or not isinstance(lines, str):
            raise Refused("a malformed error report")
        self.writer.write("error", where=where, message=text[:2000], traceback=lines[:8000])
        self.ended = "crashed"

    def _done(self, _: dict[str, Any]) -> None:
        self.ended = "returned"

    # --- the end --------------------------------------------------------------------------------------------------
    def judge(self) -> tuple[Score, str | None]:
        """The verdict on the last submission and its canonical text (None where it is no solution).

        A submission that was never evaluated is scored once, uncounted; its ``evaluate`` and ``verdict`` events say
        ``final``. No submission gives score 0 and the reason ``no_submission``.
        """
        if self.submission is None:
            return Score(0.0, False, "no_submission"), None
        try:
            solution = self.task.parse(self.submission)
        except InvalidSolution as error:
            return Score(0.0, False, f"{error.kind}: {error}"), None
        if solution.id not in self.verdicts:
            event = self.writer.write("evaluate", solution=self.submission, dialect=solution.dialect, final=True)
            repeat = solution.id in self.scored
            self._verdict(event, solution, self._score(solution), repeat, final=True)
        return self.verdicts[solution.id], solution.text

    def found(self) -> list[dict[str, Any]]:
        """The valid solutions of this execution, best first; of equals, the one found first."""
        valid = [{"solution": self.solutions[i], "score": s.value} for i, s in self.verdicts.items() if s.valid]
        return sorted(valid, key=lambda s: -s["score"])


def chat_problem(messages: Any) -> str:
    """ "" where ``messages`` is a list of {"role", "content"} of a sensible size, else what is wrong with it."""
    if not isinstance(messages, list) or not 1 <= len(messages) <= 64:
        return "messages: expected a list of 1 to 64 {'role', 'content'} dicts"
    for m in messages:
        if (
            not isinstance(m, dict)
            or set(m) != {"role", "content"}
            or m["role"] not in ROLES
            or not isinstance(m["content"], str)
        ):
            return f"messages: each is {{'role': one of {', '.join(ROLES)}, 'content': str}}; got {repr(m)[:80]}"
    if sum(len(m["content"]) for m in messages) > MAX_PROMPT:
        return f"messages: more than {MAX_PROMPT} characters"
    return ""


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise BadValue(f"env.sample: {name} is {repr(value)[:40]}; expected an integer from {low} to {high}")
    return value


def _text(method: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadValue(f"env.{method}: the solution is a {type(value).__name__}; expected a str")
    if len(value) > MAX_SOLUTION:
        raise BadValue(f"env.{method}: the solution has {len(value)} characters; at most {MAX_SOLUTION} are allowed")
    return value
