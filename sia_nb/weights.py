"""The weight update as a phase: the policy's adapter is trained through the incumbent scaffold (paper §3.4).

    θ_{g+1} = argmax E_{y ~ π_θ(· | build_prompt)} [V(extract(y))],  by the algorithm that F chose after step g

The scaffold stays as it is. Training spends a share of step g+1's verifier calls and tokens, the execution of step
g+1 the rest, so that a step costs the same whichever lever made it. Of the wall-clock cap training has the same share, but
the execution keeps the whole: what it may do must not depend on how fast training was. Called by ``phases``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .agents.base import Decision
from .errors import ConfigError, StoreError
from .steps import (
    archive,
    incumbent,
    latest_step,
    open_policy,
    open_verifier,
    place_scaffold,
    prepare_data,
    scored_before,
    spend,
    training_summary,
    trajectory,
    trusted,
    worn,
)
from .store import Run, data_dir, keeps, read_json, write_json
from .tasks import get_task
from .training.hyper import Hyper, make_hyper

LAST_BREATH = 60  # seconds to wait for another process in the folder
OnStep = Callable[[dict[str, Any]], None]


@keeps
def weight_update(
    run: Run,
    step: int = 0,
    *,
    algorithm: str = "",
    hyperparameters: dict[str, Any] | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Train the adapter as F decided after ``step``; makes step g+1. Returns what training came to.

    With ``algorithm``, where F decided something else, an experiment beside the run: it trains through the incumbent
    of ``step`` into a folder under ``by_hand/`` and changes nothing of the run. The result names its ``folder``.

    Args:
        step: the step after which F chose; 0: the newest executed one, and the run is brought to a step whose answers
            can be read first where it has none yet.
        hyperparameters: laid over those that F chose.
        on_step: told of each line of curve.jsonl.

    Raises:
        ConfigError: F chose no weight update and no algorithm is named, or a bad hyperparameter.
        TrainingError, ModelError, StoreError: training failed; what was reached is kept and resumed from.
    """
    if not step:
        _bring_to_a_policy_that_answers(run)
        step = latest_step(run)
    decision = _decided(run, step)
    if decision is None or (algorithm and algorithm != decision.algorithm):
        if not algorithm:
            raise ConfigError(
                f"algorithm: empty, and after step {step} of {run.path.name} the Feedback-Agent chose no weight update; "
                "name an algorithm to train by hand beside the run"
            )
        chosen = choose(run, algorithm, hyperparameters or {})
        folder = by_hand(run, step, chosen)
        return {**_train(run, incumbent(run, step), step, chosen, folder, on_step), "folder": str(folder)}
    if run.done(step + 1, "train"):
        return {**(training_summary(run, step + 1) or {}), "folder": str(run.step(step + 1) / "weights")}
    parent, folder, started = incumbent(run, step), run.step(step + 1) / "weights", time.monotonic()
    begun = folder / "hyper.json"  # an update that was killed goes on as it began
    asked_for = {**decision.hyperparameters, **(hyperparameters or {})}
    chosen = (
        Hyper(**read_json(begun)) if begun.exists() else choose(run, run.config.algorithm or decision.algorithm or "", asked_for)
    )
    result = _train(run, parent, step, chosen, folder, on_step)
    before = run.origin(parent)
    origin = {"action": "weights", "parent": parent, "edits": [], "author": before["author"]}
    place_scaffold(run, step + 1, run.scaffold(parent), origin | {"weights": step + 1, "algorithm": chosen.algorithm})
    used = {k: result[k] for k in ("verifier_calls", "tokens")}
    spend(run, step + 1, "train", **used, seconds=time.monotonic() - started)
    parts = {f: f.relative_to(folder).parts for f in sorted(folder.rglob("*")) if f.is_file()}
    # hidden are the lock and what a kill left half written
    files = [f for f, names in parts.items() if names[0] != "checkpoint" and not any(n.startswith(".") for n in names)]
    run.finish(step + 1, "train", [*files, run.step(step + 1) / "scaffold" / "agent.py", run.step(step + 1) / "origin.json"])
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # it has served: some 120 MB
    return {**result, "folder": str(folder)}


def choose(run: Run, algorithm: str, hyperparameters: dict[str, Any]) -> Hyper:
    """The hyperparameters of an update: the agent's, under what the run's config fixes.

    Raises:
        ConfigError: a bad one; the message names it.
    """
    config = run.config
    fixed = {k: getattr(config, k) for k in ("group_size", "learning_rate") if getattr(config, k)}
    return make_hyper(algorithm, **{**hyperparameters, **fixed})


def by_hand(run: Run, step: int, chosen: Hyper) -> Path:
    """Where an update beside the run is kept: one folder for each choice of hyperparameters."""
    digest = hashlib.sha256(chosen.model_dump_json().encode()).hexdigest()[:6]
    return run.path / "by_hand" / f"step_{step:03d}-{chosen.algorithm}-{digest}"


def asked(run: Run, step: int) -> dict[str, Any]:
    """How A_g last asked its policy: masked, temperature and max_tokens, as recorded in τ_g."""
    samples = trajectory(run, step).of("sample")
    if not samples:
        return {"masked": False, "max_tokens": 160}
    last = samples[-1].data
    return {"masked": bool(last["grammar"]), "max_tokens": int(last["max_tokens"])}


def _train(run: Run, parent: int, step: int, chosen: Hyper, folder: Path, on_step: OnStep | None) -> dict[str, Any]:
    """Train through step ``parent``'s scaffold, from its adapter, with the budget of one step."""
    prepare_data(run)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        return _train_in(run, parent, step, chosen, folder, on_step)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder of an update; a process that was killed a moment ago may still be on its way out."""
    with open(folder / ".lock", "w") as lock:
        for left in range(LAST_BREATH, -1, -1):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if not left:
                    raise StoreError(f"{folder} is in use: another process trains there; wait for it or end it") from None
                time.sleep(1)
        yield


def _train_in(run: Run, parent: int, step: int, chosen: Hyper, folder: Path, on_step: OnStep | None) -> dict[str, Any]:
    from .policy import adapter
    from .training.devices import open_team
    from .training.scaffolded import ScaffoldProblem
    from .training.trainer import train

    config, task = run.config, get_task(run.config.task)
    how = asked(run, parent)
    calls = math.floor(config.verifier_calls * config.weight_share)
    tokens = math.floor(config.tokens * config.weight_share)
    if not (folder / "hyper.json").exists():
        write_json(folder / "hyper.json", chosen.model_dump())

    def tell(line: dict[str, Any]) -> None:
        run.progress(f"training step {line['step']} of {chosen.steps}", line["step"], chosen.steps)
        if on_step:
            on_step(line)

    policy = open_policy(run, worn(run, parent))
    if not worn(run, parent):
        adapter.attach(policy, rank=chosen.rank, seed=config.seed)
    dtype = "float32" if config.devices == 1 else str(policy.model.dtype).removeprefix("torch.")
    with (
        open_team(config.devices, config.policy, data_dir=data_dir(), dtype=dtype, threads=config.threads) as team,
        open_verifier(run, task) as verifier,
    ):
        problem = ScaffoldProblem(
            run.scaffold(parent),
            task=task,
            verifier=verifier,
            instances=[config.instance] if config.instance else (),
            segments=task.space.segments() if how["masked"] else None,
            max_tokens=how["max_tokens"],
            trusted=trusted(run, parent),
            unsafe=config.unsafe_no_sandbox,
            archive=archive(run, before=step + 1),
            scored=scored_before(run, step + 1),
            calls=calls,
        )
        result = train(
            policy, problem, chosen, folder=folder, seed=config.seed * 1000 + step, on_step=tell, tokens=tokens,
            seconds=config.seconds * config.weight_share, team=team,
            shuffled=config.control == "shuffled_rewards",
        )  # fmt: skip
    if result.stopped == "out_of_time":
        run.notice(f"the weight update after step {step} was cut short, so it depends on this machine's speed: {result.note}")
    return read_json(folder / "result.json")


def _decided(run: Run, step: int) -> Decision | None:
    """F's decision after ``step`` where it is a weight update."""
    if not run.done(step, "decision"):
        return None
    decision = Decision(**read_json(run.step(step) / "decision.json"))
    return decision if decision.action == "weights" else None


def _bring_to_a_policy_that_answers(run: Run) -> None:
    """By hand on a fresh run: go on by harness updates until the policy's answers can be read, or the steps are spent."""
    from .phases import feedback_decision, run_generation

    if not run.executed():
        run_generation(run, 1)
    while not asked(run, latest_step(run))["masked"] and latest_step(run) < run.config.steps:
        g = latest_step(run)
        if feedback_decision(run, g).action != "harness":
            return
        run_generation(run, g + 1)
