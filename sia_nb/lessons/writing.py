"""The lesson on writing a scaffold: a bench that runs a learner's agent.py as the loop would run it.

A run of two steps on a subset of LawBench's charges: step 1 is A_1, written by the Meta-Agent and executed once; each attempt is
step 2 of a copy of that run, with the learner's file as A_2. Everything goes through ``phases``: the same sandbox, the same
gateway, the same budget, the same rule of what is kept. Nothing is opened that the loop may not see: the sealed test stays shut.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import phases
from ..agents.reading import Reading
from ..config import make_config
from ..errors import SiaError
from ..steps import place_scaffold
from ..store import Run
from ..trajectory import Trajectory

INSTANCE = "alike-16x8"


@dataclass(frozen=True)
class Attempt:
    """What came of one execution of a scaffold; without a ``trajectory`` it was not executed, and ``error`` says why."""

    source: str
    metrics: dict[str, Any] = field(default_factory=dict)  # E_g as ``phases.run_generation`` returns it
    trajectory: Trajectory | None = None
    error: str = ""

    @property
    def reading(self) -> Reading:
        """The trajectory as rows that can be counted."""
        return Reading(self.trajectory, self.metrics)

    def __repr__(self) -> str:
        if self.trajectory is None:
            return f"not executed: {self.error}"
        m = self.metrics
        return (
            f"score {m['score']:.3f}, {m['used']['verifier_calls']:.0f} of {m['budget']['verifier_calls']} verifier calls, "
            f"{m['used']['tokens']:.0f} of {m['budget']['tokens']} tokens, {len(self.trajectory)} events; {m['note']}"
        )


class Bench:
    """A_1 executed, and a place beside it for a learner's scaffolds; its folders go when it does.

    Args:
        verifier_calls, tokens: what an execution may spend.
        seed: of the split, of the sampling and of ``env.random``.
        instance: a subset of the charges, by name.

    Raises:
        ConfigError: no such instance, or a budget out of range. ModelError, DataError: `make data model` has not run.
    """

    def __init__(self, *, verifier_calls: int = 16, tokens: int = 2400, seed: int = 0, instance: str = INSTANCE):
        self._folder = tempfile.TemporaryDirectory(prefix="sia-lesson-")
        config = make_config(
            "smoke", task="lawbench", instance=instance, steps=2, verifier_calls=verifier_calls, tokens=tokens, seed=seed
        )
        self.run = Run.create(config, Path(self._folder.name) / "a1")
        metrics = phases.run_generation(self.run, 1)
        self.first = Attempt(self.run.scaffold(1), metrics, phases.trajectory(self.run, 1))
        self.attempts: list[Attempt] = []

    def attempt(self, source: str) -> Attempt:
        """Execute ``source`` as A_2 in the sandbox; whatever it does is on record. A bad scaffold is no error."""
        path = Path(self._folder.name) / f"attempt_{len(self.attempts) + 1}"
        shutil.copytree(self.run.path, path, ignore=shutil.ignore_patterns(".*"))
        run = Run(path)
        try:
            place_scaffold(run, 2, source, {"action": "harness", "parent": 1, "edits": ["by hand"], "author": "hand"})
            made = Attempt(source, phases.run_generation(run, 2), phases.trajectory(run, 2))
        except SiaError as error:
            made = Attempt(source, error=str(error))
        self.attempts.append(made)
        return made

    def close(self) -> None:
        """Remove the folders."""
        self._folder.cleanup()


def task_state(bench: Bench) -> dict[str, Any]:
    """What ``build_prompt`` is handed at least: the task, nothing found yet."""
    from ..scaffold.execute import task_info
    from ..tasks import get_task

    return {"task": task_info(get_task("lawbench"), bench.run.config.instance), "best": [], "parent": None}
