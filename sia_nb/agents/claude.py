"""The Messages API by way of the Anthropic SDK: forced tool calls, a cached system prefix, usage with the cache's part.

Imported only when an agent of this kind is made; the SDK only when it first asks. Retries are ``llm.Caller``'s.
"""

from __future__ import annotations

from typing import Any

from ..errors import AgentError
from .llm import Reply, Transient, api_key, status_error
from .tools import Tool


class Claude:
    """A ``Transport``."""

    kind = "claude"

    def __init__(self, model: str, *, base_url: str = "", key_variable: str = "ANTHROPIC_API_KEY", timeout: float = 600.0):
        """``base_url``: empty for the SDK's own; ``timeout``: seconds of one try."""
        self.model, self.base_url, self.key_variable, self.timeout = model, base_url, key_variable, timeout
        self._client: Any = None

    def body(self, prefix: str, user: str, tools: list[Tool], force: str, max_tokens: int) -> dict[str, Any]:
        """The request; the cache reaches over the tools and the prefix."""
        return {
            "model": self.model,
            "max_tokens": max_tokens,
            "system": [{"type": "text", "text": prefix, "cache_control": {"type": "ephemeral"}}],
            "tools": [{"name": t.name, "description": t.description, "input_schema": t.schema} for t in tools],
            "tool_choice": {"type": "tool", "name": force},
            "messages": [{"role": "user", "content": user}],
        }

    def repaired(self, body: dict[str, Any], reply: Reply, error: str) -> dict[str, Any]:
        """The conversation so far, and the error as the result of each call in it."""
        said = reply.raw.get("content") or [{"type": "text", "text": "(nothing)"}]
        calls = [b["id"] for b in said if b.get("type") == "tool_use"]
        back: list[dict[str, Any]] = [
            {"type": "tool_result", "tool_use_id": i, "content": error, "is_error": True} for i in calls
        ] or [{"type": "text", "text": error}]
        turns = [{"role": "assistant", "content": said}, {"role": "user", "content": back}]
        return {**body, "messages": [*body["messages"], *turns]}

    def send(self, body: dict[str, Any]) -> Reply:
        """See ``Transport.send``."""
        import anthropic

        try:
            message = self._connect().messages.create(**body)
        except anthropic.APIStatusError as error:
            text = error.api_message or error.message
            raise status_error(self.kind, self.key_variable, error.status_code, text, error.response.headers) from None
        except anthropic.APIConnectionError as error:
            cause = type(error.__cause__).__name__ if error.__cause__ else type(error).__name__
            raise Transient(f"the connection failed ({cause})") from None
        except (anthropic.APIError, ValueError) as error:
            raise Transient(f"the answer is not of the Messages API ({type(error).__name__})") from None
        try:
            return _reply(message.model_dump(mode="json", exclude_none=True))
        except (AttributeError, KeyError, TypeError):
            raise Transient("the answer is not of the Messages API") from None

    def read(self, raw: dict[str, Any]) -> Reply:
        """See ``Transport.read``."""
        return _reply(raw)

    def hang_up(self) -> None:
        """See ``Transport.hang_up``."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connect(self) -> Any:
        if self._client is None:
            import anthropic

            try:
                self._client = anthropic.Anthropic(
                    api_key=api_key(self.key_variable), base_url=self.base_url or None, timeout=self.timeout, max_retries=0
                )
            except (anthropic.AnthropicError, ValueError, TypeError):
                raise AgentError(
                    f"{self.kind}: cannot set up a client for the base URL '{self.base_url}'; expected http(s)://…"
                ) from None
        return self._client


def _reply(raw: dict[str, Any]) -> Reply:
    usage = raw["usage"]
    call = next((b for b in raw["content"] if b["type"] == "tool_use"), None)
    said = [{k: b[k] for k in ("type", "text", "id", "name", "input") if k in b} for b in raw["content"]]
    kept = {k: raw[k] for k in ("id", "model", "stop_reason") if k in raw}
    return Reply(
        tool=call["name"] if call else None,
        arguments=call["input"] if call else None,
        cut=raw.get("stop_reason") == "max_tokens",
        raw={**kept, "content": said, "usage": usage},
        usage={
            "input_tokens": usage["input_tokens"],
            "output_tokens": usage["output_tokens"],
            "cache_read_tokens": usage.get("cache_read_input_tokens", 0),
            "cache_write_tokens": usage.get("cache_creation_input_tokens", 0),
        },
    )
