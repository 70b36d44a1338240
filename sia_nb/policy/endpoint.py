"""A policy served elsewhere: any server that speaks OpenAI's chat completions (vLLM, SGLang, llama.cpp and the like).

The same ``sample`` as the local policy. A grammar goes to the server as a regular expression, in the way that
``mode`` names. Imports openai only when a policy is made.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError, ModelError, nearest
from ..patience import Slow, within
from .sample import Sample

MODES = {
    "structured_outputs": lambda regex: {"structured_outputs": {"regex": regex}},  # vLLM from 0.10
    "guided_regex": lambda regex: {"guided_regex": regex},  # vLLM before
    "regex": lambda regex: {"regex": regex},  # SGLang
}
RETRIED = (408, 409, 429, 500, 502, 503, 504, 529)


class EndpointPolicy:
    """Samples from ``model`` on the server at ``base_url``.

    Attributes:
        tokenizer, model: None; there are no weights here to train.
    """

    tokenizer = None
    model = None

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key: str = "POLICY_API_KEY",
        mode: str = "structured_outputs",
        many: bool = True,
        timeout: float = 600.0,
        tries: int = 5,
        wait: float = 1.0,
    ):
        """Connects lazily.

        Args:
            key: the environment variable that holds the API key; servers without one need none.
            mode: how the server takes a regular expression, one of ``MODES``.
            many: ask for all n choices in one request; False: one request each, with seeds seed, seed + 1, …
            timeout: seconds a request may take, however slowly its answer drips in.
            tries: how often a request is tried where the server is busy or cannot be reached.
            wait: seconds before the second try; doubled each time, at most 60.

        Raises:
            ConfigError: an unknown mode, or no URL.
        """
        if mode not in MODES:
            raise ConfigError(f"policy: mode '{mode}' is not known; known modes: {', '.join(MODES)}.{nearest(mode, MODES)}")
        if not base_url:
            raise ConfigError("policy: the server's base URL is empty; expected one like http://localhost:8000/v1.")
        import openai

        self.name = model
        self._url, self._key, self._mode, self._many, self._tries, self._wait = base_url, key, mode, many, tries, wait
        self._open = lambda: openai.OpenAI(
            base_url=base_url, api_key=os.environ.get(key) or "none", timeout=timeout, max_retries=0
        )
        self._client, self._deadline = self._open(), timeout

    def longest(self, segments: Sequence[tuple[str, ...]]) -> int:
        """An upper bound on the tokens of the grammar's longest text: its bytes in UTF-8, and the end token."""
        return longest(segments)

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
        """``n`` continuations of ``messages``. ``logprob`` is the server's, NaN where it gives none; no token ids.

        Raises:
            ModelError: the server refuses, cannot be reached, or gave a text that is not in the grammar.
        """
        pattern = regex(segments) if segments is not None else None
        common: dict[str, Any] = {
            "model": self.name,
            "messages": messages,
            "temperature": temperature,
            "max_tokens": max_tokens if segments is None else max(max_tokens, sum(max(map(len, s)) for s in segments)),
            "logprobs": True,
        }
        if pattern is not None:
            common["extra_body"] = MODES[self._mode](pattern)
        out: list[Sample] = []
        while len(out) < n:
            ask = n - len(out) if self._many else 1
            answer = self._ask({**common, "n": ask, "seed": seed + len(out)})
            got = [_sample(choice, answer, len(answer.choices)) for choice in answer.choices[:ask]]
            if not got:
                raise ModelError(f"policy: the server at {self._url} gave an answer without choices.")
            for one in got:
                if pattern is not None and one.stop == "end" and not re.fullmatch(pattern, one.text):
                    raise ModelError(
                        f"policy: the server at {self._url} passed over the grammar (mode '{self._mode}'): {one.text[:120]!r}. "
                        f"Name the mode that it understands: {', '.join(MODES)}."
                    )
            out += got
        return out

    def _ask(self, request: dict[str, Any]) -> Any:
        """One request, tried again with growing waits where that may help."""
        import openai

        for attempt in range(1, self._tries + 1):
            try:
                create = self._client.chat.completions.create
                answer = within(self._deadline, create, give_up=self._hang_up, **request)
                if isinstance(getattr(answer, "choices", None), list):
                    return answer
                raise ValueError("no choices")
            except (Slow, ValueError, openai.APIResponseValidationError) as error:
                if attempt == self._tries:
                    what = str(error) if isinstance(error, Slow) else "what it sends is no chat completion"
                    raise ModelError(
                        f"policy: the server at {self._url} gave no answer that can be read ({attempt} tries): {what}. "
                        "See whether the URL is that of an OpenAI-compatible server, with its /v1."
                    ) from error
                pause = 0.0
            except openai.APIStatusError as error:
                if error.status_code not in RETRIED:
                    raise ModelError(self._refusal(error.status_code, error.message)) from error
                if attempt == self._tries:
                    raise ModelError(
                        f"policy: the server at {self._url} answered {error.status_code} {attempt} times; "
                        f"it is overloaded or down: {error.message}"
                    ) from error
                asked = error.response.headers.get("retry-after", "")
                pause = float(asked) if asked.replace(".", "", 1).isdigit() else 0.0
            except openai.APIConnectionError as error:
                if attempt == self._tries:
                    raise ModelError(
                        f"policy: no server answers at {self._url} ({attempt} tries): {error.__cause__ or error}. "
                        "Start it, or mend the URL."
                    ) from error
                pause = 0.0
            time.sleep(min(60.0, max(pause, self._wait * 2 ** (attempt - 1))))
        raise ModelError("policy: tries must be at least 1.")

    def _hang_up(self) -> None:
        self._client.close()
        self._client = self._open()

    def _refusal(self, status: int, message: str) -> str:
        where = f"policy: the server at {self._url} refused the request ({status}): {message}."
        if status in (401, 403):
            return f"{where} Set {self._key} to a valid key."
        if status == 404:
            return f"{where} It may not serve '{self.name}', or the URL lacks its /v1."
        return f"{where} With a grammar, see whether it takes mode '{self._mode}' (others: {', '.join(MODES)})."


def longest(segments: Sequence[tuple[str, ...]]) -> int:
    """An upper bound on the tokens of the grammar's longest text: its bytes in UTF-8, and the end token."""
    return 1 + sum(max(len(choice.encode("utf-8")) for choice in part) for part in segments)


def regex(segments: Sequence[tuple[str, ...]]) -> str:
    """The grammar of ``segments`` as a regular expression in the subset that all engines share."""
    return "".join(_escape(s[0]) if len(s) == 1 else "(" + "|".join(map(_escape, s)) + ")" for s in segments)


def _escape(text: str) -> str:
    return re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\1", text)


def _sample(choice: Any, answer: Any, choices: int) -> Sample:
    entries = getattr(choice.logprobs, "content", None) or []
    used = answer.usage.completion_tokens if answer.usage else 0
    tokens = len(entries) or -(-used // choices)
    logprob = sum(e.logprob for e in entries) if entries else float("nan")
    stop = "length" if choice.finish_reason == "length" else "end"
    return Sample(choice.message.content or "", tokens, (), logprob, stop)
