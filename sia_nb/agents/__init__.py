"""The Meta-Agent and the Feedback-Agent: language models, the offline playbook, and replay.

``get_agents`` makes a pair; every pair's results are recorded. It may import ``scaffold.contract``, ``trajectory``,
``budget`` and ``errors``; the kinds are imported when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, nearest

if TYPE_CHECKING:
    from ..store import Run
    from ..tasks.base import Task
    from .base import FeedbackAgent, MetaAgent
    from .record import AgentRecorder

KINDS = ("playbook", "claude", "openai_compatible", "replay")
CLAUDE = "claude-sonnet-4-6"


def get_agents(
    kind: str,
    *,
    model: str = "",
    recorder: AgentRecorder,
    task: Task | None = None,
    base_url: str = "",
    key_variable: str = "",
    replay_of: str = "",
    strict: bool = True,
    **options: Any,
) -> tuple[MetaAgent, FeedbackAgent]:
    """The pair (M, F) of a kind, its results recorded.

    Args:
        kind: one of ``KINDS``.
        model: of the language model; empty for the kind's default.
        task: needed by the playbook.
        base_url, key_variable: of the server, and the environment variable with its key; empty for the defaults.
        replay_of: run folder (or its agent_calls.jsonl) that ``replay`` repeats; strict: stop where the runs part.
        options: of ``llm.Options``, for example ``attempts``, ``digest_tokens``, ``prices``.

    Raises:
        ConfigError: an unknown kind, or one that lacks what it needs.
        StoreError, AgentError: ``replay_of`` holds no usable record.
    """
    from .record import Recorded

    meta: Any
    feedback: Any
    if kind == "playbook":
        from .playbook import PlaybookFeedbackAgent, PlaybookMetaAgent

        if task is None:
            raise ConfigError("agent 'playbook' needs the task")
        meta, feedback = PlaybookMetaAgent(task), PlaybookFeedbackAgent(task)
    elif kind == "replay":
        from .replay import ReplayFeedbackAgent, ReplayMetaAgent, Tape

        if not replay_of:
            raise ConfigError("replay_of: empty, but agent is 'replay'; expected the folder of the run to repeat")
        tape = Tape(replay_of, start=len(recorder.results), strict=strict)
        meta, feedback = ReplayMetaAgent(tape), ReplayFeedbackAgent(tape)
    elif kind in ("claude", "openai_compatible"):
        from .llm import LLMFeedbackAgent, LLMMetaAgent, Options

        if kind == "claude":
            from .claude import Claude

            transport: Any = Claude(model or CLAUDE, base_url=base_url, key_variable=key_variable or "ANTHROPIC_API_KEY")
        else:
            from .openai_compatible import OpenAICompatible

            if not model:
                raise ConfigError("agent_model: empty, but agent is 'openai_compatible'; expected the served model's name")
            transport = OpenAICompatible(model, base_url=base_url, key_variable=key_variable or "OPENAI_API_KEY")
        chosen = Options(**options)
        meta, feedback = LLMMetaAgent(transport, recorder, chosen), LLMFeedbackAgent(transport, recorder, chosen)
    else:
        raise ConfigError(f"agent '{kind}' is unknown; expected one of {', '.join(KINDS)}.{nearest(kind, KINDS)}")
    return Recorded(meta, recorder), Recorded(feedback, recorder)


@contextmanager
def open_agents(run: Run, task: Task) -> Iterator[tuple[MetaAgent, FeedbackAgent]]:
    """The pair that a run's config names, recording into the run's folder."""
    from ..budget import Caps, Ledger, Price, dollars
    from .record import AgentRecorder

    config, options = run.config, {}
    if config.agent in ("claude", "openai_compatible"):
        options["prices"] = {n: Price(**p) for n, p in run.info.get("prices", {}).get("models", {}).items()}
        model = config.agent_model or CLAUDE
        if dollars(model, prices=options["prices"]) is None:
            run.notice(f"the price of '{model}' is not known, so the cap on dollars does not bind; --prices FILE names it")
    ledger = Ledger(run.path / "ledger.jsonl", Caps(dollars=config.dollars))
    recorder = AgentRecorder(run.path / "agent_calls.jsonl", ledger)
    server = {"base_url": config.agent_url, "key_variable": config.agent_key} if config.agent == "openai_compatible" else {}
    yield get_agents(
        config.agent, model=config.agent_model, recorder=recorder, task=task, replay_of=config.replay_of,
        strict=run.info.get("strict", True), **server, **options
    )  # fmt: skip
