"""The transfer study on the real policy: which instances, how large, how long; called by the command line.

``training.transfer`` does the work; here it gets a task, a policy and a scaffold. The scaffold is the playbook's first
draft with its answers masked to the task's space, without which the small policy writes nothing valid.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .agents.playbook.meta import PlaybookMetaAgent
from .agents.playbook.operators import structured_output
from .errors import ConfigError, nearest
from .store import data_dir, results_dir
from .tasks import get_task
from .tasks.base import Task
from .training.clock import Clock
from .training.hyper import make_hyper


@dataclass(frozen=True)
class Size:
    """A study of one size."""

    instances: tuple[int, int]  # how many of the first are trained on and how many held-out ones are tried; 0: all
    seeds: int
    searches: int
    calls: int
    hyper: dict[str, Any]
    note: str


SIZES = {
    "smoke": Size((2, 1), 1, 1, 8, {"steps": 2, "group_size": 4}, "does everything work? about a minute"),
    "full": Size((0, 0), 5, 2, 64, {"steps": 24, "groups": 4, "group_size": 16, "kl": 0.01}, "what is published"),
}
SHORT = {"seeds": 3, "searches": 1, "calls": 8, "hyper": {"steps": 16, "groups": 2, "group_size": 8, "kl": 0.01}}
OWN: dict[tuple[str, str], dict[str, Any]] = {  # where a task's verdicts take longer, or its policies collapse sooner
    ("full", "denoising"): {"searches": 1, "hyper": SIZES["full"].hyper | {"kl": 0.05}},
    ("full", "trimul"): SHORT,
    ("full", "trimul_cuda"): SHORT,
}

# Seconds on two cores, for the first estimate; what is measured on the way takes their place.
PROMPT, ROLLOUT, SAMPLE, VERDICT = 5.0, 0.8, 0.2, 0.25


def make_plan(
    size: str = "smoke",
    *,
    task: str = "lawbench",
    name: str = "",
    algorithm: str = "grpo",
    policy: str = "smollm2-135m",
    seeds: int = 0,
    searches: int = 0,
    calls: int = 0,
    hyper: dict[str, Any] | None = None,
):
    """The plan of a size, with what is given laid over it.

    Raises:
        ConfigError: an unknown size, a task without held-out instances, or a bad hyperparameter.
    """
    from .training.transfer_plan import Plan

    if size not in SIZES:
        raise ConfigError(f"size: '{size}' is not known; known sizes: {', '.join(SIZES)}.{nearest(size, SIZES)}")
    known, chosen = get_task(task).instances, replace(SIZES[size], **OWN.get((size, task), {}))
    most = [n or None for n in chosen.instances]
    held_out = tuple(i.name for i in known if i.held_out and i.offline)[: most[1]]
    if not held_out:
        raise ConfigError(f"task: '{task}' has no held-out instances, so nothing can be carried over to any")
    return Plan(
        name=name or f"{task}-{size}",
        task=task,
        policy=policy,
        train=tuple(i.name for i in known[1:] if i.offline and not i.held_out)[: most[0]],
        held_out=held_out,
        seeds=tuple(range(seeds or chosen.seeds)),
        searches=searches or chosen.searches,
        calls=calls or chosen.calls,
        hyper=make_hyper(algorithm, **{**chosen.hyper, **(hyper or {})}),
    )


def parse_hyper(pairs: list[str]) -> dict[str, Any]:
    """Hyperparameters written as NAME=VALUE on a command line.

    Raises:
        ConfigError: a pair without a name or a value.
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if not name or not text:
            raise ConfigError(f"--set: '{pair}' is not NAME=VALUE, for example steps=16")
        try:
            out[name.replace("-", "_")] = json.loads(text)
        except ValueError:
            out[name.replace("-", "_")] = text
    return out


def pace(plan: Any) -> dict[str, float]:
    """Seconds that a training step, a policy's proposals for one search, and one search by all arms may take."""
    from .training.transfer_plan import ARMS

    hyper = plan.hyper
    return {
        "train": hyper.groups * (PROMPT + ROLLOUT * hyper.group_size),
        "draw": PROMPT + SAMPLE * plan.calls,
        "compare": VERDICT * plan.calls * len(ARMS),
    }


def announcement(plan: Any, seeds: int) -> str:
    """What ``seeds`` seeds of the plan spend, from the start."""
    hyper, one, runs = plan.hyper, pace(plan), len(plan.held_out) * plan.searches
    rollouts = hyper.steps * hyper.groups * hyper.group_size
    total = seeds * (hyper.steps * one["train"] + runs * (2 * one["draw"] + one["compare"]))
    return (
        f"{plan.name}: {seeds} × (training on {len(plan.train)} instances, at most {rollouts:,} verifier calls; then {runs} "
        f"searches by each arm on {len(plan.held_out)} held-out instances, {plan.calls} calls each). About {_span(total)} on two cores."
    )


def scaffold(task: Task) -> str:
    """The playbook's first draft, masked."""
    return structured_output(PlaybookMetaAgent(task).write(task.spec_text(), task.reference()))


def transfer_study(
    plan: Any,
    *,
    only: tuple[int, ...] = (),
    publish: bool = False,
    dtype: str = "auto",
    threads: int = 1,
    workers: int = 2,
    echo: Callable[[str], None] = print,
) -> Path | None:
    """Do what is left of ``plan`` under results/runs/transfer; the result's file once all is done, else None.

    Args:
        only: these seeds; several processes may do different ones of one plan.
        publish: also write results/reference/transfer/<name>.json.
        workers: verdicts side by side.

    Raises:
        ConfigError, DataError, ModelError, StoreError, TrainingError: as they come; a second call goes on.
    """
    from .training.transfer import Transfer

    task, folder = get_task(plan.task), results_dir() / "runs" / "transfer" / plan.name
    task.fetch(data_dir())

    def policy() -> Any:
        from .policy.model import load

        return load(plan.policy, data_dir=data_dir(), dtype=dtype, threads=threads)

    def verifier(name: str) -> Any:
        return task.verifier(data_dir(), data_dir() / "cache" / task.name, workers=workers, instance=name)

    study = Transfer(
        plan, task=task, policy=policy, source=scaffold(task), verifier=verifier, folder=folder, workers=workers,
        clock=Clock(teller(echo), pace(plan)),
    )  # fmt: skip
    echo(announcement(plan, len(only or plan.seeds)) + "\n")
    if study.run(only) is None:
        echo(f"the other seeds of '{plan.name}' are not finished yet")
        return None
    path = folder / "transfer.json"
    if publish:
        path = publish_transfer(path)
    return path


def publish_transfer(path: Path) -> Path:
    """Copy a finished study's <name>/transfer.json to results/reference/transfer/<name>.json, to be committed."""
    target = results_dir() / "reference" / "transfer" / f"{path.parent.name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(path, target))


def teller(echo: Callable[[str], None]) -> Callable[[str, float, float], None]:
    """What a ``Clock`` tells, as a line: how much is done, how long the rest may take, what was done last."""
    return lambda what, share, left: echo(f"{100 * share:3.0f} %  about {_span(left)} left  {what}")


def progress_line(line: str) -> None:
    """One line that is written over on a terminal; plain lines elsewhere."""
    end = "" if sys.stdout.isatty() else "\n"
    print(f"\r\033[K{line}" if not end else line, end=end, flush=True)


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
