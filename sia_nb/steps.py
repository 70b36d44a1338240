"""What the phases share: a run's policy, verifier and agents, what its steps have found and spent.

It may import everything but ``phases`` and ``loop``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from .agents.base import StepSummary
from .budget import Ledger
from .config import RunConfig
from .errors import ConfigError, ModelError, StoreError
from .store import Run, data_dir, read_json, read_lines, write_atomic, write_json
from .tasks import get_task
from .tasks.base import Task, Verifier
from .trajectory import Trajectory

# -- what the steps have found ---------------------------------------------------------------------


def trajectory(run: Run, step: int) -> Trajectory:
    """τ_g as recorded."""
    return Trajectory.read(run.step(step) / "trajectory.jsonl")


def rollouts(run: Run, step: int) -> list[dict[str, Any]]:
    """The training rollouts of a step that a weight update made; empty for any other step."""
    return read_lines(run.step(step) / "weights" / "rollouts.jsonl") if run.done(step, "train") else []


def _ranked(best: dict[str, float]) -> list[dict[str, Any]]:
    """Solutions with their scores, best first, ties by text."""
    return [{"solution": text, "score": score} for text, score in sorted(best.items(), key=lambda kv: (-kv[1], kv[0]))]


def trained_solutions(run: Run, step: int) -> list[dict[str, Any]]:
    """The distinct valid solutions of a step's training rollouts, best first."""
    return _ranked({r["solution"]: r["score"] for r in rollouts(run, step) if r["valid"]})


def archive(run: Run, before: int, most: int = 32) -> list[dict[str, Any]]:
    """The run's best distinct valid solutions of the steps before ``before``, and of the training that made that step."""
    best: dict[str, float] = {}
    for g in run.executed():
        if g < before:
            best |= {s["solution"]: s["score"] for s in run.metrics(g)["solutions"]}
    best |= {s["solution"]: s["score"] for s in trained_solutions(run, before)}
    return _ranked(best)[:most]


def scored_before(run: Run, step: int) -> set[str]:
    """Ids of the solutions that this run had scored before step g's execution: repeats are not counted."""
    ids = set()
    for g in [g for g in run.executed() if g < step]:
        ids |= {e.data["solution_id"] for e in trajectory(run, g).of("verdict") if e.data.get("solution_id")}
    for g in range(1, step + 1):
        ids |= {r["solution_id"] for r in rollouts(run, g) if r["solution_id"]}
    return ids


def history(run: Run, upto: int) -> tuple[StepSummary, ...]:
    """One summary for each executed step up to and including ``upto``."""
    out = []
    for g in [g for g in run.executed() if g <= upto]:
        m, o = run.metrics(g), run.origin(g)
        used = {k: m["used"][k] for k in ("verifier_calls", "tokens")}
        edits = tuple(o["edits"]) or ((o["algorithm"],) if o.get("algorithm") else ())
        out.append(StepSummary(g, o["action"], m["score"], m["noise"], m["accepted"], edits, used, m["note"]))
    return tuple(out)


def lever_records(steps: tuple[StepSummary, ...]) -> dict[str, dict[str, float]]:
    """What each lever was tried for and gained: tries, kept, and of its last try the gain over the incumbent, its noise and cost."""
    out: dict[str, dict[str, float]] = {}
    best = None
    for s in steps:
        if best is not None and s.action in ("harness", "weights"):
            old = out.get(s.action, {"tries": 0, "kept": 0})
            out[s.action] = {
                "tries": old["tries"] + 1, "kept": old["kept"] + s.accepted, "last_gain": s.score - best,
                "last_noise": s.noise, "last_verifier_calls": s.used["verifier_calls"], "last_tokens": s.used["tokens"],
            }  # fmt: skip
        if s.accepted:
            best = s.score
    return out


def budget_left(run: Run, step: int) -> dict[str, float]:
    """Steps after ``step`` and what they may spend."""
    left = run.config.steps - step
    return {"steps": left, "verifier_calls": left * run.config.verifier_calls, "tokens": left * run.config.tokens}


def incumbent(run: Run, step: int) -> int:
    """The step that the loop goes on from after step g."""
    return run.metrics(step)["incumbent"]


def latest_step(run: Run) -> int:
    """The newest executed step, for notebooks run by hand.

    Raises:
        ConfigError: none has been executed.
    """
    steps = run.executed()
    if not steps:
        raise ConfigError(f"{run.path.name}: no step has been executed yet; run 02_run_generation first")
    return steps[-1]


# -- what a phase opens ----------------------------------------------------------------------------


def prepare_data(run: Run) -> dict[str, Any]:
    """The task's data, fetched and checked if need be; its checksums go into run.json."""
    info = get_task(run.config.task).fetch(data_dir(), seed=run.config.seed)
    if run.info["data"] != info["files"]:
        if run.info["data"]:
            raise StoreError(
                f"{run.path / 'run.json'}: the run was made with other data (checksums differ); restore it or start a new run"
            )
        run.update(data=info["files"])
    return info


def open_verifier(run: Run, task: Task) -> contextlib.AbstractContextManager[Verifier]:
    """V on the run's instance."""
    return verifier_for(run.config, task)


@contextlib.contextmanager
def verifier_for(config: RunConfig, task: Task) -> Iterator[Verifier]:
    """V as a run of this config has it; its worker processes end with the context."""
    cache = data_dir() / "cache" / task.name
    verifier = task.verifier(
        data_dir(), cache, seed=config.seed, unsafe_no_sandbox=config.unsafe_no_sandbox, instance=config.instance
    )
    try:
        yield verifier
    finally:
        verifier.close()


_POLICIES: dict[tuple, Any] = {}


def open_policy(run: Run, weights: int = 0) -> Any:
    """π_θ, loaded once a process, wearing the adapter that step ``weights`` trained (0: none).

    Raises:
        ModelError: the model or the adapter is missing or damaged.
    """
    c = run.config
    dtype = run.info.get("dtype", c.dtype)  # "auto" is measured at the run's first step, and kept
    key = (c.policy, c.policy_url, dtype, c.threads)
    if key not in _POLICIES:
        if c.policy_url:
            from .policy.endpoint import EndpointPolicy

            _POLICIES[key] = EndpointPolicy(c.policy_url, c.policy, key=c.policy_key)
        else:
            from .policy.model import load

            _POLICIES[key] = load(c.policy, data_dir=data_dir(), dtype=dtype, threads=c.threads)
    policy = _POLICIES[key]
    if dtype == "auto" and not c.policy_url:
        measured = str(policy.model.dtype).removeprefix("torch.")
        run.update(dtype=measured)
        _POLICIES[(c.policy, c.policy_url, measured, c.threads)] = policy
    if not c.policy_url:
        from .policy import adapter

        if weights:
            adapter.load(policy, run.step(weights) / "weights" / "adapter")
        else:
            adapter.detach(policy)
    return policy


@contextlib.contextmanager
def sampling(policy: Any) -> Iterator[None]:
    """Sample from a local policy with its weights as sampling reads them fastest, its adapter included.

    Raises:
        ModelError: memory ran out meanwhile.
    """
    if getattr(policy, "model", None) is None:
        yield
        return
    from .policy import adapter
    from .training.learner import short_of_memory

    try:
        with adapter.merged(policy):
            yield
    except (MemoryError, RuntimeError) as error:
        if not short_of_memory(error):
            raise
        raise ModelError(
            f"policy: memory does not suffice to sample from '{policy.name}': {str(error)[:200]}. Free some, or take a smaller model "
            "or a server (policy_url), and resume the run."
        ) from error


@contextlib.contextmanager
def open_run_agents(run: Run, task: Task) -> Iterator[Any]:
    """The pair (M, F)."""
    from .agents import open_agents

    with open_agents(run, task) as pair:
        yield pair


# -- what a phase leaves ---------------------------------------------------------------------------


def place_scaffold(run: Run, g: int, source: str, origin: dict[str, Any]) -> None:
    """Write A_g and where it came from."""
    origin = {"weights": 0, "algorithm": "", **origin}
    if run.done(g, "run"):
        if run.scaffold(g) == source and run.origin(g) == origin:
            return
        raise StoreError(f"{run.step(g)} has been executed already; its scaffold cannot change")
    write_atomic(run.step(g) / "scaffold" / "agent.py", source)
    write_json(run.step(g) / "origin.json", origin)


def spent(run: Run, step: int, phase: str) -> bool:
    """Whether a phase's entry is in the ledger: it is written last, so that all else of the phase is there then."""
    entries = Ledger(run.path / "ledger.jsonl").entries
    return any(e["phase"] == phase and e["step"] == step and e["what"] == "phase" for e in entries)


def spend(run: Run, step: int, phase: str, **amounts: float) -> None:
    """One ledger entry a phase and step: a phase done again after a kill is not counted twice."""
    if not spent(run, step, phase):
        Ledger(run.path / "ledger.jsonl").add(phase, step, "phase", **amounts)


def worn(run: Run, step: int) -> int:
    """The step whose adapter the policy wears in step g; 0 for the base model."""
    return int(run.origin(step).get("weights", 0))


def trusted(run: Run, step: int) -> bool:
    """Whether A_g is the kit's own work: written by the playbook in this very run, and not taken from a record."""
    return run.config.agent == "playbook" and run.origin(step)["author"] == "playbook"


def training_summary(run: Run, step: int) -> dict[str, Any] | None:
    """What the weight update that made step g came to; None for any other step."""
    return read_json(run.step(step) / "weights" / "result.json") if run.done(step, "train") else None
