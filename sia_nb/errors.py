"""The errors a user can meet. Each message says what, where, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SiaError(Exception):
    """Base of all errors that are the user's or the outside's to mend. Never shown as a traceback."""


class ConfigError(SiaError):
    """A parameter, profile, task or option that is unknown, of the wrong type or out of range."""


class DataError(SiaError):
    """A data file that is missing, truncated or altered."""


class ModelError(SiaError):
    """A model that is missing offline, damaged, or does not fit what is asked of it."""


class SandboxError(SiaError):
    """No sandbox can run what was asked, or the sandbox itself failed."""


class BudgetExceeded(SiaError):
    """A cap on verifier calls, tokens, seconds or dollars is spent."""


class TrainingError(SiaError):
    """Rewards, groups or log-probabilities from which no weight update can be computed."""


class AgentError(SiaError):
    """The Meta- or Feedback-Agent could not be reached or gave no usable answer."""


class StoreError(SiaError):
    """A run folder that is in use, damaged, full or not writable."""


class InvalidSolution(SiaError):
    """A text that is no solution of the task. ``kind`` is one word: the failure mode.

    Kinds: ``unparsable`` (no JSON object or no code), ``unknown_field``, ``missing_field``,
    ``bad_value``, ``syntax`` (code that does not parse), ``no_entry`` (code without the required
    function).
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the known name nearest to ``word``, else an empty string."""
    hit = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f" Did you mean '{hit[0]}'?" if hit else ""
