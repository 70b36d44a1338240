"""The contracts between a task and the rest of the kit: Solution, Score, Verifier, Task."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ..errors import ConfigError, nearest
from .space import Space

# Words for answers that ran and yet cannot be scored, beside those of ``trajectory`` that any program can meet.
REJECTED = (
    *("not_a_matrix", "non_finite", "negative", "permuted", "peeked", "changed_input"),
    *("wrong", "wrong_type", "stale", "mask_ignored", "unfinished", "patched", "forged", "meddled", "other_stream", "timer"),
)


@dataclass(frozen=True)
class Solution:
    """What a policy writes: a spec (one line of strict JSON) or code (a Python module)."""

    dialect: Literal["spec", "code"]
    text: str  # canonical: a spec as Space.dump writes it, code without trailing space

    @property
    def id(self) -> str:
        """16 hex digits of the content's SHA-256; equal solutions have equal ids."""
        return hashlib.sha256(f"{self.dialect}\n{self.text}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Score:
    """A verdict on one solution on the dev split."""

    value: float  # the selection metric, higher is better; 0.0 where not valid
    valid: bool  # False: unparsable, crashed, timed out, or gave a wrong shape
    reason: str = ""  # why it is not valid, starting with one word and a colon ("timeout: 20 s")
    metrics: dict[str, float] = field(default_factory=dict)  # named dev figures, e.g. macro, top1, se
    details: dict[str, Any] = field(default_factory=dict)  # per-class results on dev only
    solution_id: str = ""
    seconds: float = 0.0  # wall time of the fit and the scoring; 0 where remembered
    cached: bool = False  # True: remembered by content hash, not run again

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class Instance:
    """One instance of a task; the description goes into the prompt."""

    name: str
    description: str
    held_out: bool = False
    offline: bool = True  # False: its data must be downloaded first, so a study takes it only by name


def find_instance(task: Task, name: str) -> Instance:
    """The task's instance called ``name``; its first, the paper's, where that is empty.

    Raises:
        ConfigError: there is none of that name; the message names the nearest.
    """
    known = {i.name: i for i in task.instances}
    if name and name not in known:
        raise ConfigError(
            f"instance: '{name}' is not known to task '{task.name}'.{nearest(name, known)} Known: {', '.join(known)}; "
            f"empty for {task.instances[0].name}."
        )
    return known[name] if name else task.instances[0]


class Verifier(Protocol):
    """V: scores solutions on dev; opens the sealed test only through ``seal``.

    A verifier may also have ``peers()``, which only ``report`` calls: what known methods are worth on the same data, as
    {"dev": rows, "sealed": rows}; a row holds "method", the measures by name (None for a method that was not run) and
    "published", the scores in the literature by data set. One whose verdicts are timings says so by ``timed = True``.
    """

    def score(self, solution: Solution) -> Score:
        """The verdict on dev, remembered by content hash. Never raises for a bad solution."""

    def paired_se(self, a: str, b: str) -> float:
        """Standard error of the difference value(a) − value(b) of two scored solution ids on dev."""

    def full(self, solution: Solution) -> Score:
        """The verdict on dev with nothing thinned or approximated; slower."""

    def seal(self, solution: Solution) -> dict[str, float]:
        """Fit on train + dev, score on the sealed test. Only ``report`` calls this.

        Returns the report metric and its companions, e.g. {"top1", "top1_se", "macro", "top1_without_copies", "n"}.
        """

    def close(self) -> None:
        """End the worker processes."""


class Task(Protocol):
    """A task: specification, space, data, verifier, reference."""

    name: str
    title: str
    metric: str  # selection metric, e.g. "macro accuracy on dev"
    report_metric: str  # what the sealed test reports, e.g. "top1"
    space: Space
    instances: tuple[Instance, ...]
    data_files: bool  # whether ``fetch`` prepares files; else inputs are drawn when they are needed

    def spec_text(self) -> str:
        """U: what the agents read (spec.md, with the space described)."""

    def reference(self) -> str:
        """R: the reference implementation shown to the Meta-Agent, as source text."""

    def fallback(self) -> Solution:
        """What a scaffold submits when it has found nothing: the reference at library defaults."""

    def parse(self, text: str) -> Solution:
        """The solution in ``text``: a spec line, or code (it has a line starting with 'def ' or 'import ').

        Raises:
            InvalidSolution: with the failure mode.
        """

    def compile(self, solution: Solution) -> str:
        """The readable Python that a solution runs as."""

    def fetch(self, data_dir: Path, seed: int = 0) -> dict[str, Any]:
        """Download, check, split and prepare what is not there yet; returns a report; its "files" are checksums by name.

        Raises:
            DataError: names the file, what was found and what was expected.
        """

    def verifier(
        self, data_dir: Path, cache_dir: Path, *, workers: int = 1, unsafe_no_sandbox: bool = False, instance: str = ""
    ) -> Verifier:
        """A verifier on prepared data, for one instance (empty: the first); starts its worker lazily.

        Raises:
            ConfigError: no such instance.
        """


class SpecTask:
    """What tasks with a declared space have in common: R is the fallback, a spec of the space, as a program."""

    space: Space
    default: dict[str, Any]  # R as a spec
    data_files = True

    def reference(self) -> str:
        """R as a program."""
        return self.compile(self.fallback())

    def fallback(self) -> Solution:
        """R as a spec."""
        return Solution("spec", self.space.dump(self.default))

    def compile(self, solution: Solution) -> str:
        """The Python that a solution stands for."""
        return solution.text if solution.dialect == "code" else self.compile_spec(self.space.parse(solution.text))

    def compile_spec(self, spec: dict[str, Any]) -> str:
        """The Python that a spec stands for; a task's own."""
        raise NotImplementedError
