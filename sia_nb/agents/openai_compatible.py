"""Chat completions by way of the OpenAI SDK, for any server that speaks them and supports forced tool calls.

Imported only when an agent of this kind is made; the SDK only when it first asks. Retries are ``llm.Caller``'s.
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import AgentError
from .llm import Reply, Transient, api_key, status_error
from .tools import Tool


class OpenAICompatible:
    """A ``Transport``."""

    kind = "openai_compatible"

    def __init__(self, model: str, *, base_url: str = "", key_variable: str = "OPENAI_API_KEY", timeout: float = 600.0):
        """``base_url``: ends in /v1 as a rule; with one, the key may be missing, as local servers ask for none."""
        self.model, self.base_url, self.key_variable, self.timeout = model, base_url, key_variable, timeout
        self._client: Any = None

    def body(self, prefix: str, user: str, tools: list[Tool], force: str, max_tokens: int) -> dict[str, Any]:
        """The request; servers cache a common prefix by themselves."""
        return {
            "model": self.model,
            "max_tokens": max_tokens,
            "messages": [{"role": "system", "content": prefix}, {"role": "user", "content": user}],
            "tools": [
                {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.schema}}
                for t in tools
            ],
            "tool_choice": {"type": "function", "function": {"name": force}},
        }

    def repaired(self, body: dict[str, Any], reply: Reply, error: str) -> dict[str, Any]:
        """The conversation so far, and the error as the result of each call in it."""
        calls = reply.raw.get("tool_calls") or []
        text = reply.raw.get("content") or ""
        if calls and all(_json(c["function"]["arguments"]) is not None for c in calls):
            turns = [{"role": "assistant", "content": text, "tool_calls": calls}]
            turns += [{"role": "tool", "tool_call_id": c["id"], "content": error} for c in calls]
        else:  # servers refuse a history whose arguments are no JSON
            said = text + "".join(c["function"]["arguments"] for c in calls)
            turns = [{"role": "assistant", "content": said or "(nothing)"}, {"role": "user", "content": error}]
        return {**body, "messages": [*body["messages"], *turns]}

    def send(self, body: dict[str, Any]) -> Reply:
        """See ``Transport.send``."""
        import openai

        try:
            answer = self._connect().chat.completions.create(**body)
        except openai.APIStatusError as error:
            text = _message(error.body) or error.message
            raise status_error(self.kind, self.key_variable, error.status_code, text, error.response.headers) from None
        except openai.APIConnectionError as error:
            cause = type(error.__cause__).__name__ if error.__cause__ else type(error).__name__
            raise Transient(f"the connection failed ({cause})") from None
        except (openai.OpenAIError, ValueError) as error:
            raise Transient(f"the answer is no chat completion ({type(error).__name__})") from None
        try:
            return _reply(answer.model_dump(mode="json", exclude_none=True))
        except (AttributeError, KeyError, TypeError, IndexError):
            raise Transient("the answer is no chat completion") from None

    def read(self, raw: dict[str, Any]) -> Reply:
        """See ``Transport.read``."""
        return _read(raw)

    def hang_up(self) -> None:
        """See ``Transport.hang_up``."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connect(self) -> Any:
        if self._client is None:
            import openai

            key = api_key(self.key_variable, needed=not self.base_url)
            try:
                self._client = openai.OpenAI(
                    api_key=key or "none", base_url=self.base_url or None, timeout=self.timeout, max_retries=0
                )
            except (openai.OpenAIError, ValueError, TypeError):
                raise AgentError(
                    f"{self.kind}: cannot set up a client for the base URL '{self.base_url}'; expected http(s)://…"
                ) from None
        return self._client


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _message(body: Any) -> str:
    if isinstance(body, dict):
        inner = body.get("error", body)
        return str(inner.get("message", "")) if isinstance(inner, dict) else str(inner)
    return ""


def _reply(raw: dict[str, Any]) -> Reply:
    choice = raw["choices"][0]
    message = choice["message"]
    calls = [
        {"id": c["id"], "type": "function", "function": {k: c["function"][k] for k in ("name", "arguments")}}
        for c in message.get("tool_calls") or []
    ]
    kept = {k: raw[k] for k in ("id", "model", "usage") if k in raw} | {"finish_reason": choice.get("finish_reason")}
    return _read({**kept, "content": message.get("content"), "tool_calls": calls})


def _read(raw: dict[str, Any]) -> Reply:
    calls, usage = raw["tool_calls"], raw.get("usage") or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Reply(
        tool=calls[0]["function"]["name"] if calls else None,
        arguments=_json(calls[0]["function"]["arguments"]) if calls else None,
        cut=raw["finish_reason"] == "length",
        raw=raw,
        usage={
            "input_tokens": usage.get("prompt_tokens", 0) - cached,
            "output_tokens": usage.get("completion_tokens", 0),
            "cache_read_tokens": cached,
        },
    )
