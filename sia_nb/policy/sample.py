"""What every policy gives back. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One continuation of a prompt."""

    text: str  # without the end token
    tokens: int  # how many were written, the end token included
    token_ids: tuple[int, ...]
    logprob: float  # sum over the tokens, in nats, of the distribution drawn from (temperature 1 where it was 0)
    stop: str  # "end": the end token was written; "length": max_tokens were
    logprobs: tuple[float, ...] = ()  # one for each of token_ids, 0.0 where the grammar forces it; they add up to logprob
