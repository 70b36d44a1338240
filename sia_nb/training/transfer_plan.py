"""What a transfer study compares, and on what. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ConfigError
from ..tasks.base import Task, find_instance
from .hyper import Hyper

GRID = (0, 1, 8, 64)
FIRST = 8  # samples of the trained policy that its local search starts from
SAVED = 4  # saved solutions that the other local search starts from
PATIENCE = 8  # a policy is asked for at most so many samples for each distinct one that is wanted

ARMS = {
    "trained": "trained policy",
    "untrained": "untrained policy (same mask)",
    "trained_then_search": "trained policy then local search",  # from its first FIRST
    "search": "local search from scratch",
    "search_from_saved": "local search from saved solutions",  # of the SAVED nearest training instances
    "random": "uniform draws",
}


@dataclass(frozen=True)
class Plan:
    """One study."""

    name: str
    task: str
    policy: str  # the base policy's name
    train: tuple[str, ...]  # instances
    held_out: tuple[str, ...]
    seeds: tuple[int, ...]  # each is one training
    searches: int  # runs of every arm on each held-out instance, a seed
    calls: int  # distinct verifier calls of a run at most
    hyper: Hyper

    def check(self, task: Task) -> None:
        """Raise ``ConfigError`` where an instance is not the task's, or is both trained on and held out, or a number is off."""
        for name in (*self.train, *self.held_out):
            find_instance(task, name)
        both = sorted(set(self.train) & set(self.held_out))
        if both or not self.train or not self.held_out:
            raise ConfigError(
                f"transfer: instances trained on and held out: {', '.join(both) or 'one of the two lists is empty'}; expected two "
                "lists without a common name"
            )
        for name, value in (("seeds", len(self.seeds)), ("searches", self.searches), ("calls", self.calls)):
            if value < 1:
                raise ConfigError(f"transfer: {name}: {value}; expected at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return json.loads(json.dumps({**asdict(self), "hyper": self.hyper.model_dump()}))
