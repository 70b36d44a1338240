"""The Meta- and the Feedback-Agent as language models: prompts, forced tool calls, checks, repair rounds, retries.

What differs between providers is in a ``Transport`` (``claude``, ``openai_compatible``): it builds a request body,
sends it once, and says of an error whether it passes. Everything else is here.

It may import ``agents.base``, ``agents.digest``, ``agents.tools``, ``budget``, ``errors``, ``patience`` and ``scaffold.contract``.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Protocol

from ..budget import Price, dollars
from ..errors import AgentError
from ..patience import Slow, within
from ..scaffold.contract import CONTRACT
from .base import Decision, Improvement, Recorder, View
from .digest import digest
from .tools import WRITE, Tool, Unusable, clean, decide_tool, read_decision, read_scaffold

log = logging.getLogger(__name__)
CHARS_A_TOKEN = 3  # a cautious mean over code, English and Chinese


@dataclass(frozen=True)
class Options:
    """How patiently and how largely the model is asked."""

    max_tokens: int = 16_000  # of one answer
    digest_tokens: int = 30_000  # of the trajectory's digest, by estimate
    attempts: int = 6  # tries of one call, the first included
    first_wait: float = 1.0  # seconds before the second try; doubles from there
    deadline: float = 900.0  # seconds of one try, however slowly its answer drips in
    longest_wait: float = 120.0  # seconds; a server that asks for more is given up
    repairs: int = 2  # rounds in which the model is shown what is wrong with its answer
    prices: Mapping[str, Price] | None = None  # laid over budget.PRICES
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)


@dataclass(frozen=True)
class Reply:
    """One answer, in no provider's form."""

    tool: str | None  # which tool was called; None for an answer in prose
    arguments: Any  # its parsed arguments, or None where they are no JSON
    cut: bool  # ended at max_tokens
    raw: dict[str, Any]  # the provider's message, plain data
    usage: dict[str, int]  # input_tokens, output_tokens, cache_read_tokens, cache_write_tokens


class Transient(Exception):
    """The server or the way to it failed in a manner that passes. ``wait``: the seconds it asks for."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


class Transport(Protocol):
    """A provider's interface. ``kind`` and ``model`` are the agents'."""

    kind: str
    model: str

    def body(self, prefix: str, user: str, tools: list[Tool], force: str, max_tokens: int) -> dict[str, Any]:
        """The request: ``prefix`` is what stays the same from call to call and is worth caching."""

    def repaired(self, body: dict[str, Any], reply: Reply, error: str) -> dict[str, Any]:
        """The request that goes on from an answer and what is wrong with it."""

    def send(self, body: dict[str, Any]) -> Reply:
        """Send once.

        Raises:
            Transient: worth another try. AgentError: not.
        """

    def read(self, raw: dict[str, Any]) -> Reply:
        """The answer whose ``Reply.raw`` was recorded."""

    def hang_up(self) -> None:
        """Close the connection: the answer has taken too long."""


def api_key(variable: str, *, needed: bool = True) -> str:
    """The key in an environment variable.

    Raises:
        AgentError: it is not set, or holds what no header can carry. The key itself is never shown.
    """
    key = os.environ.get(variable, "").strip()
    if not key and needed:
        raise AgentError(
            f"agent: no key; set the environment variable {variable}, or take the agent 'playbook', which needs none."
        )
    if not all("!" <= c <= "~" for c in key):
        raise AgentError(f"agent: the environment variable {variable} holds spaces or characters outside ASCII; expected a key.")
    return key


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait, or None."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def status_error(kind: str, variable: str, status: int, message: str, headers: Mapping[str, str]) -> Exception:
    """What a response with an error status means: ``Transient`` or ``AgentError``."""
    key = os.environ.get(variable, "").strip()
    shown = " ".join(message.split())[:500]
    shown = shown.replace(key, "[key]") if key else shown
    if status in (401, 403):
        return AgentError(
            f"{kind}: the server refused the key (HTTP {status}). Check the environment variable {variable}: it must hold a key "
            "that is valid for this server and model."
        )
    if status in (408, 409, 429) or status >= 500:
        return Transient(f"HTTP {status}: {shown}", retry_after(headers))
    if status == 404:
        return AgentError(f"{kind}: not found (HTTP 404): {shown}. Check the model's name and the server's base URL.")
    return AgentError(f"{kind}: the server did not accept the request (HTTP {status}): {shown}")


class Caller:
    """Makes recorded calls with retries and repair rounds."""

    def __init__(self, transport: Transport, recorder: Recorder, options: Options):
        self.transport, self.recorder, self.options = transport, recorder, options

    def ask(
        self, purpose: str, prefix: str, user: str, tools: list[Tool], force: str, use: Callable[[dict[str, Any]], Any]
    ) -> Any:
        """``use`` of the arguments with which the model called the tool ``force``; shows it what ``use`` rejects.

        Raises:
            AgentError: no server, no key, or no usable answer after the last repair round.
            BudgetExceeded: a cap is spent.
        """
        body = self.transport.body(clean(prefix), clean(user), tools, force, self.options.max_tokens)
        for attempt in range(self.options.repairs + 1):
            reply = self._call(purpose if attempt == 0 else f"{purpose} repair {attempt}", body)
            try:
                return use(_arguments(reply, force))
            except Unusable as error:
                wrong = str(error)
                body = self.transport.repaired(body, reply, f"That answer cannot be used: {wrong} Call {force} again.")
        self.recorder.unusable()
        raise AgentError(
            f"{self.transport.kind}: {self.transport.model} gave no usable answer to '{purpose}' in {self.options.repairs + 1} rounds; "
            f"the last one: {wrong} Try again, or take another model."
        )

    def _call(self, purpose: str, body: dict[str, Any]) -> Reply:
        known = self.recorder.recall(body)
        if known is not None:  # paid for and written down before a kill
            return self.transport.read(known)
        number, started = self.recorder.begin(purpose, body, self._most(body)), time.monotonic()
        tried: list[str] = []
        try:
            reply = self._persist(body, tried)
        except AgentError as error:
            self.recorder.end(number, {"error": str(error), "failed_tries": tried}, self._usage({}, started))
            raise
        self.recorder.end(number, {"message": reply.raw, "failed_tries": tried}, self._usage(reply.usage, started))
        return reply

    def _persist(self, body: dict[str, Any], tried: list[str]) -> Reply:
        o, wait = self.options, self.options.first_wait
        while True:
            try:
                return within(o.deadline, self.transport.send, body, give_up=self.transport.hang_up)
            except (Transient, Slow) as error:
                tried.append(str(error))
                asked = getattr(error, "wait", None)
                pause = min(wait, o.longest_wait) if asked is None else asked
                if len(tried) >= o.attempts or pause > o.longest_wait:
                    told = f"; it asks to wait {pause:g} s" if asked is not None else ""
                    raise AgentError(
                        f"{self.transport.kind}: no answer after {len(tried)} tries; the last: {error}{told}. "
                        "Check the connection and the server's status, and resume the run later."
                    ) from None
                log.warning("%s: %s; trying again in %g s", self.transport.kind, error, pause)
                o.sleep(pause)
                wait *= 2

    def _most(self, body: dict[str, Any]) -> float | None:
        """US dollars that a call can cost at most: a token has at least a byte, and the answer its limit."""
        sent = len(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")) + 1000  # what a provider adds for tools
        prices, model = self.options.prices, self.transport.model
        ways = [
            dollars(model, output_tokens=body["max_tokens"], prices=prices, **{k: sent})
            for k in ("input_tokens", "cache_write_tokens")
        ]
        return None if None in ways else max(ways)

    def _usage(self, tokens: dict[str, int], started: float) -> dict[str, Any]:
        names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
        counts = {n: int(tokens.get(n, 0)) for n in names}
        cost = dollars(self.transport.model, **counts, prices=self.options.prices) if tokens else 0.0
        return {**counts, "dollars": cost, "seconds": round(time.monotonic() - started, 3)}


def _arguments(reply: Reply, force: str) -> dict[str, Any]:
    if reply.cut:
        raise Unusable("it was cut off at the limit on its length. Be shorter.")
    if reply.tool != force:
        raise Unusable(f"expected a call of the tool {force}, got {f'one of {reply.tool}' if reply.tool else 'prose'}.")
    if not isinstance(reply.arguments, dict):
        raise Unusable("the tool's arguments are not a JSON object.")
    return reply.arguments


# -- the agents ----------------------------------------------------------------------------------------


def prompt(name: str) -> str:
    """A prompt of ``prompts/`` by name."""
    return (resources.files(__package__) / "prompts" / f"{name}.md").read_text("utf-8")


def _prefix(spec: str, reference: str = "") -> str:
    more = f"\n\n# The reference implementation\n\n```python\n{reference.rstrip()}\n```" if reference else ""
    return f"# The contract of agent.py\n\n{CONTRACT}\n# The task\n\n{spec.rstrip()}{more}\n"


class LLMMetaAgent:
    """M: one forced call of ``write_scaffold``."""

    def __init__(self, transport: Transport, recorder: Recorder, options: Options | None = None):
        self._caller = Caller(transport, recorder, options or Options())
        self.kind, self.model = transport.kind, transport.model

    def write(self, spec: str, reference: str) -> str:
        """A_1 = M(U, R); see ``MetaAgent.write``."""
        user = prompt("meta")
        return self._caller.ask("write", _prefix(spec, reference), user, [WRITE], WRITE.name, lambda a: read_scaffold(a).scaffold)


class LLMFeedbackAgent:
    """F: a forced call of ``decide``, and for a harness update one of ``write_scaffold``."""

    def __init__(self, transport: Transport, recorder: Recorder, options: Options | None = None):
        self._caller = Caller(transport, recorder, options or Options())
        self.kind, self.model = transport.kind, transport.model

    def decide(self, view: View) -> Decision:
        """See ``FeedbackAgent.decide``."""
        return self._ask("decide", view, "decide", lambda a: read_decision(a, view))

    def improve(self, view: View) -> Improvement:
        """See ``FeedbackAgent.improve``; the new scaffold departs from the incumbent."""
        return self._ask("improve", view, WRITE.name, lambda a: read_scaffold(a, view.incumbent))

    def _ask(self, purpose: str, view: View, force: str, use: Callable[[dict[str, Any]], Any]) -> Any:
        # both tools in both calls: what precedes the cached prefix must not change
        tools = [decide_tool(view), WRITE]
        user = f"{self._shown(view)}\n\n{prompt(f'feedback_{purpose}')}"
        return self._caller.ask(purpose, _prefix(view.spec), user, tools, force, use)

    def _shown(self, view: View) -> str:
        parts = [f"# The program that the run goes on from\n\n```python\n{view.incumbent.rstrip()}\n```"]
        if view.scaffold != view.incumbent:
            parts.append(f"# The program that was executed last and rolled back\n\n```python\n{view.scaffold.rstrip()}\n```")
        most = self._caller.options.digest_tokens * CHARS_A_TOKEN
        parts.append(f"# What its last execution did\n\n{digest(view, most)}")
        return "\n\n".join(parts)
