"""What a run will take: by the reference machine's speed at first, then by what this machine's own runs of the task took.

It may import ``config`` and ``store`` only.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from .config import RunConfig
from .store import Run, data_dir, read_json, write_json

# Seconds that a notebook, a sampled token and a weight update, and by task a verifier call and a report, took on the machine of the
# reference runs; corrected by what this machine's own runs of the task took (data/cache/speed.json).
REFERENCE_SPEED = {"notebook": 4.0, "token": 0.003, "training": 80.0}
TASK_SPEED = {
    "lawbench": {"verifier_call": 1.2, "report": 60.0},
    "denoising": {"verifier_call": 0.3, "report": 6.0},
    "trimul": {"verifier_call": 3.0, "report": 70.0},
}
TOKENS_PER_CALL = 150.0
# By arm, in the reference runs: the share of the steps after the first that a weight update makes, and the share of a step's verifier
# calls that its execution spent (A_1, which arm W keeps, asks for prose and finds few solutions to score).
WEIGHT_STEPS = {"H": 0.0, "W": 1.0, "W+H": 0.35}
CALLS_SPENT = {"H": 0.9, "W": 0.15, "W+H": 0.6}
PRIOR = 120.0  # seconds of the reference machine that count as seen, so that one odd step says little


@dataclass
class Clock:
    """Estimates what a run of a task will take, and learns from each notebook.

    What is learnt is how the seconds taken compare with the reference machine's for the same work, in sum: which part of a step
    was slow cannot be told from its seconds, and a step that spent next to nothing says nothing of the price of a token.
    """

    task: str = "lawbench"
    seen: dict[str, list[float]] = field(default_factory=dict)  # "run", "training" → seconds taken, seconds by the reference

    @classmethod
    def load(cls, task: str) -> Clock:
        """This machine's own figures of the task where there are some."""
        with contextlib.suppress(Exception):
            seen = read_json(_speed_file())[task]
            return cls(task, {kind: [float(taken), float(expected)] for kind, (taken, expected) in seen.items()})
        return cls(task)

    def save(self) -> None:
        """Keep the figures for the next estimate; those of other tasks stay."""
        kept = {}
        with contextlib.suppress(Exception):
            kept = {task: seen for task, seen in read_json(_speed_file()).items() if isinstance(seen, dict)}
        own = {kind: [round(x, 3) for x in seen] for kind, seen in self.seen.items()}
        write_json(_speed_file(), kept | ({self.task: own} if own else {}))

    @property
    def speed(self) -> dict[str, float]:
        """Seconds on the reference machine."""
        return REFERENCE_SPEED | TASK_SPEED.get(self.task, TASK_SPEED["lawbench"])

    def _pace(self, kind: str) -> float:
        taken, expected = self.seen.get(kind, (0.0, 0.0))
        return max(0.2, (PRIOR + taken) / (PRIOR + expected))  # verdicts that another run left say nothing of the next run's

    def _work(self, verifier_calls: float, tokens: float) -> float:
        s = self.speed
        return s["notebook"] + verifier_calls * s["verifier_call"] + tokens * s["token"]

    def step(self, c: RunConfig) -> float:
        """Seconds of one 02_run_generation of this arm."""
        calls = c.verifier_calls * CALLS_SPENT[c.arm]
        return self._pace("run") * min(c.seconds, self._work(calls, min(c.tokens, calls * TOKENS_PER_CALL)))

    def training(self) -> float:
        """Seconds of one 04_grpo_training."""
        return self._pace("training") * self.speed["training"]

    def total(self, c: RunConfig, steps: int | None = None) -> float:
        """Seconds of the whole run, or of its last ``steps`` steps and the report."""
        steps = c.steps if steps is None else steps
        updates = WEIGHT_STEPS[c.arm] * min(steps, c.steps - 1)
        return steps * (self.speed["notebook"] + self.step(c)) + updates * self.training() + self.speed["report"]

    def learn(self, seconds: float, used: dict[str, float]) -> None:
        """Correct the estimate by one executed step."""
        self._blend("run", seconds, self._work(used["verifier_calls"], used["tokens"]))

    def learn_training(self, seconds: float) -> None:
        """Correct the estimate by one weight update."""
        self._blend("training", seconds, self.speed["training"])

    def _blend(self, kind: str, taken: float, expected: float) -> None:
        before = self.seen.get(kind, (0.0, 0.0))
        taken = min(taken, 10 * expected)  # a machine that slept meanwhile
        self.seen[kind] = [0.8 * old + new for old, new in zip(before, (taken, expected), strict=True)]


def _speed_file() -> Path:
    return data_dir() / "cache" / "speed.json"


def seconds_left(run: Run) -> float:
    """What the run will still take, by this machine's speed where it is known."""
    config = run.config
    return Clock.load(config.task).total(config, sum(not run.done(g, "run") for g in range(1, config.steps + 1)))
