"""Controls: what the same verifier calls come to without the loop. Each arm proposes solutions in its own way,

    random      uniform draws from the task's space, field by field
    local       (1+1) local search from the task's fallback: one or two fields of the best so far are changed, a tie moves on
    best_of_n   the untrained policy's own answers to the playbook's first prompt, masked to the task's space: the likeliest
                first, then samples at the training's temperature

and has as many *distinct* verdicts of the same verifier on the same dev data as a run of that profile and seed may ask for;
what is proposed again costs nothing, as in a run. Then it reports as a run does (``sealed_report``): the best by the full
verdict on dev opens the sealed test, once. As a run's first answer does, the task's fallback stands in where nothing that was
found holds by the full verdict, or is better. The other control, a run that trains on shuffled rewards, is a run:
``python -m sia_nb run --arm W --control shuffled_rewards``.

    results/controls/<task>/<hardware>/<arm>-s<seed>/      where calls are not the profile's: <arm>-<calls>-s<seed>
      plan.json       what is asked for; the same plan goes on where it stopped
      drawn.jsonl     best_of_n: what each request to the policy came to
      calls.jsonl     a line a distinct verdict: call, solution, score, valid, best so far
      seal.json       that the sealed test is opened, and for which solution
      control.json    what it came to, with provenance; written last

May import everything but ``loop`` and ``phases``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from .config import CONTROLS as ARMS
from .config import RunConfig
from .errors import ConfigError, InvalidSolution, StoreError, nearest
from .sealed_report import EXAMINED, PROMOTED, log_opening, open_seal, opened_for, promoted
from .steps import verifier_for
from .store import alone, data_dir, hardware, machine_name, provenance, read_json, read_lines, results_dir, write_json
from .study import scaffold, teller
from .tasks import get_task
from .tasks.base import Task, Verifier
from .training.clock import Clock
from .training.hyper import Hyper
from .training.searchers import Searcher, climb, follow, listed, uniform
from .training.transfer_plan import PATIENCE

FORMAT = 1
PUBLISHED = ("plan.json", "calls.jsonl", "seal.json", "control.json")
GUESS = {"draw": 40.0, "verdict": 1.0, "full verdict": 5.0}  # seconds of a part, for the first estimate
TELL_EVERY = 2.0  # seconds between two lines of progress


def parse_arms(text: str) -> list[str]:
    """The arms in ``text``: names with commas between, or ``all``.

    Raises:
        ConfigError: an unknown arm, or one named twice.
    """
    names = list(ARMS) if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name.startswith("shuffled"):
            raise ConfigError(f"arms: '{name}' is a run of its own: `python -m sia_nb run --arm W --control shuffled_rewards`")
        if name not in ARMS:
            raise ConfigError(f"arms: '{name}' is not known; expected 'all' or some of {', '.join(ARMS)}.{nearest(name, ARMS)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"arms: '{text}' names an arm twice")
    return names


def budget(config: RunConfig) -> int:
    """The verifier calls that a run of this config may make."""
    return config.steps * config.verifier_calls


class Control:
    """One control on its way: an arm with a task, an instance and a seed.

    Args:
        config: task, instance, seed, policy and, where ``calls`` is 0, how many calls.
        calls: distinct verdicts at most.

    Raises:
        ConfigError: an unknown arm, too few calls, or best_of_n with a policy on a server, whose answers cannot be masked.
        StoreError: the folder holds a control of another plan.
    """

    def __init__(self, arm: str, config: RunConfig, calls: int = 0, echo: Callable[[str], None] = print):
        parse_arms(arm)
        if calls < 0:
            raise ConfigError(f"calls: {calls}; expected at least 1, or 0 for as many as a run of the profile has")
        if arm == "best_of_n" and config.policy_url:
            raise ConfigError(
                f"policy_url: '{config.policy_url}'; best_of_n masks the policy's answers to the task's space, which needs a local policy"
            )
        self.arm, self.config, self.calls, self.echo = arm, config, calls or budget(config), echo
        self.task: Task = get_task(config.task)
        usual = "" if self.calls == budget(config) else f"-{self.calls}"
        where = "" if config.profile == "cpu" else f"-{config.profile}"
        instance = f"-{config.instance}" if config.instance else ""
        name = f"{arm}{where}{instance}{usual}-s{config.seed}"
        self.folder = results_dir() / "controls" / config.task / machine_name(hardware()) / name
        self.plan = {
            "format": FORMAT, "task": config.task, "instance": config.instance, "arm": arm, "seed": config.seed,
            "profile": config.profile, "calls": self.calls,
        }  # fmt: skip
        if arm == "best_of_n":
            self.plan |= {"policy": config.policy, "temperature": Hyper().temperature, "most_samples": PATIENCE * self.calls}
        known = self.folder / "plan.json"
        if known.exists() and read_json(known) != self.plan:
            raise StoreError(f"{known} is of a control with other parameters; delete {self.folder}, or set SIA_RESULTS")

    def run(self) -> dict[str, Any]:
        """Do what is left of it; what control.json holds.

        Raises:
            DataError, ModelError, StoreError: as they come; a second call goes on.
        """
        path = self.folder / "control.json"
        if path.exists():
            return read_json(path)
        with alone(self.folder, "name another arm or seed"):
            if not (self.folder / "plan.json").exists():
                write_json(self.folder / "plan.json", self.plan)
            data = self.task.fetch(data_dir(), seed=self.config.seed)["files"]
            requests = 1 + math.ceil(PATIENCE * self.calls / 64) if self.arm == "best_of_n" else 0
            self._clock, self._told = Clock(self._tell, GUESS), 0.0
            self._clock.plan({"draw": requests, "verdict": self.calls, "full verdict": PROMOTED + 2})
            with _Log(self.folder / "calls.jsonl") as self._log, verifier_for(self.config, self.task) as verifier:
                proposed = self._search(verifier)
                return self._report(verifier, proposed, data)

    # -- proposing and scoring -----------------------------------------------------------------------
    def _search(self, verifier: Verifier) -> dict[str, Any]:
        """Make the calls; what was proposed for them: samples, tokens and, of a policy, its number format and seconds."""
        rng, space = Random(f"control/{self.config.task}/{self.arm}/{self.config.seed}"), self.task.space
        asked = {"samples": 0, "tokens": 0, "seconds": 0.0}
        if self.arm == "best_of_n":
            batches = self._draw(verifier)
            asked = {k: sum(b[k] for b in batches) for k in asked} | {"dtype": batches[-1]["dtype"]}
            searcher = listed([s for batch in batches for s in batch["solutions"]])
        elif self.arm == "local":
            searcher = climb(space, rng, [self.task.fallback().text])
        else:
            searcher = uniform(space, rng)
        seen = [0]
        self._clock.start()
        curve = follow(_counted(searcher, seen), lambda text: self._value(verifier, text), self.calls)
        self._clock.skip("verdict", self.calls - curve.distinct)
        return asked if self.arm == "best_of_n" else asked | {"samples": seen[0]}

    def _value(self, verifier: Verifier, text: str) -> float:
        """The loop's verdict, from calls.jsonl where it stands there."""
        line = self._log.lines.get(text)
        if line is not None:
            self._clock.skip("verdict", 1)
            return line["score"]
        began = time.monotonic()
        told: dict[str, Any] = {"call": len(self._log.lines) + 1, "solution": text}
        try:
            verdict = verifier.score(self.task.parse(text))
            told |= {"solution_id": verdict.solution_id, "score": verdict.value if verdict.valid else 0.0, "valid": verdict.valid}
            told |= {"reason": verdict.reason} if verdict.reason else {}
            cached = verdict.cached
        except InvalidSolution as error:
            told |= {"solution_id": "", "score": 0.0, "valid": False, "reason": f"{error.kind}: {error}"}
            cached = False
        told["best"] = max([told["score"], *(one["score"] for one in self._log.lines.values())])
        self._log.add(told | {"cached": cached, "seconds": round(time.monotonic() - began, 3)})
        self._clock.done("verdict", f"{self._name}: call {told['call']} of {self.calls}, best {told['best']:.4f}")
        return told["score"]

    def _draw(self, verifier: Verifier) -> list[dict[str, Any]]:
        """The policy's batches, drawn where they are not on file."""
        from .policy import adapter
        from .policy.model import load
        from .training.proposals import Batch, proposals
        from .training.scaffolded import ScaffoldProblem

        with _Log(self.folder / "drawn.jsonl", key="batch") as log:
            before = tuple(Batch(tuple(b["solutions"]), b["samples"], b["tokens"]) for b in log.lines.values())
            found, samples = sum(len(b.solutions) for b in before), sum(b.samples for b in before)
            if found < self.calls and samples < PATIENCE * self.calls:
                config = self.config
                policy = load(config.policy, data_dir=data_dir(), dtype=config.dtype, threads=config.threads)
                problem = ScaffoldProblem(
                    scaffold(self.task), self.task, verifier, segments=self.task.space.segments(), max_tokens=160, calls=0,
                    instances=[config.instance] if config.instance else (), trusted=True, unsafe=config.unsafe_no_sandbox,
                )  # fmt: skip
                (start,) = problem.starts(1, "restart", Random(0))
                self._clock.start()
                began = time.monotonic()
                with adapter.merged(policy):
                    for batch in proposals(
                        policy, problem, start, wanted=self.calls, most=PATIENCE * self.calls,
                        temperature=Hyper().temperature, seed=_seed(self.config), before=before,
                    ):  # fmt: skip
                        found += len(batch.solutions)
                        samples += batch.samples
                        took, began = time.monotonic() - began, time.monotonic()
                        dtype = str(policy.model.dtype).removeprefix("torch.")
                        line = {"batch": len(log.lines), **asdict(batch), "seconds": round(took, 3), "dtype": dtype}
                        log.add(line)
                        self._clock.done("draw", f"{self._name}: {found} distinct answers in {samples} samples")
            self._clock.skip("draw", self._clock.left("draw"))
            return list(log.lines.values())

    # -- the report ----------------------------------------------------------------------------------
    def _report(self, verifier: Verifier, proposed: dict[str, Any], data: dict[str, str]) -> dict[str, Any]:
        calls = list(self._log.lines.values())
        ranked = sorted((c for c in calls if c["valid"]), key=lambda c: (-c["score"], c["solution"]))[:EXAMINED]
        began = time.monotonic()
        self._clock.start()

        def tell(done: int) -> None:
            if done and self._clock.left("full verdict") > 1:
                self._clock.done("full verdict", f"{self._name}: full verdict {done} of {min(PROMOTED, len(ranked))}")

        found = [self.task.parse(c["solution"]) for c in ranked]
        best, full = promoted(verifier, found, self.task.fallback(), tell, opened_for(self.folder, self.arm))
        log_opening(self.folder, {self.arm: best})
        sealed = open_seal(self.task, verifier, best, full)
        seconds = proposed["seconds"] + sum(c["seconds"] for c in calls) + time.monotonic() - began
        result = {
            **self.plan,
            "used": len(calls),
            "cached": sum(c["cached"] for c in calls),
            "valid": sum(c["valid"] for c in calls),
            **{k: proposed[k] for k in ("samples", "tokens", "dtype") if k in proposed},
            "metric": self.task.report_metric,
            "loop_best": calls[-1]["best"] if calls else 0.0,
            "fallback": best is not None and best not in found,
            **sealed,
            "seconds": round(seconds, 1),
            "data": data,
            "provenance": provenance(),
        }
        write_json(self.folder / "control.json", result)
        return result

    @property
    def _name(self) -> str:
        return f"{self.config.task} {self.arm} seed {self.config.seed}"

    def _tell(self, what: str, share: float, left: float) -> None:
        if time.monotonic() - self._told >= TELL_EVERY:
            self._told = time.monotonic()
            teller(self.echo)(what, share, left)


def publish(control: Control) -> Path:
    """Copy a finished control to results/reference/controls/<task>/<hardware>/, to be committed.

    Raises:
        StoreError: it is not finished.
    """
    if not (control.folder / "control.json").exists():
        raise StoreError(f"{control.folder} is not finished: the same command without --publish goes on")
    return publish_folder(control.folder)


def publish_folder(folder: Path) -> Path:
    """Copy what is committed of a finished control, wherever its folder controls/<task>/<hardware>/<name> stands."""
    target = results_dir() / "reference" / "controls" / Path(*folder.parts[-3:])
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in PUBLISHED:
        shutil.copy(folder / name, target / name)
    return target


def _seed(config: RunConfig) -> int:
    from .training.rollouts import derived

    return derived("control", config.task, config.seed)


def _counted(searcher: Searcher, seen: list[int]) -> Searcher:
    """``searcher``; ``seen[0]`` counts what it proposes, repeats included."""
    with contextlib.suppress(StopIteration):
        solution = next(searcher)
        while True:
            seen[0] += 1
            solution = searcher.send((yield solution))


class _Log:
    """A JSONL file that is added to line by line; what a kill left of a line is dropped."""

    def __init__(self, path: Path, key: str = "solution"):
        self.path, self.key = path, key
        self.lines: dict[Any, dict[str, Any]] = {}

    def __enter__(self) -> _Log:
        try:
            self._file = open(self.path, "ab+")
            self._file.seek(0)
            self._file.truncate(self._file.read().rfind(b"\n") + 1)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror}; check the disk and its rights") from error
        try:
            self.lines = {line[self.key]: line for line in read_lines(self.path)}
        except (KeyError, TypeError, StoreError) as error:
            raise StoreError(f"{self.path} is damaged ({error}); delete {self.path.parent} and run it again") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, line: dict[str, Any]) -> None:
        """Append a line, to stay."""
        try:
            self._file.write((json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n").encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(f"{self.path}: cannot append: {error.strerror}; free some space and run it again") from error
        self.lines[line[self.key]] = line
