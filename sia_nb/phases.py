"""What the notebooks call: one function a phase of the loop (paper §3.3).

    init_scaffold      A_1 = M(U, R)
    run_generation     execute A_g with π_θ in a sandbox, record τ_g, score E_g, keep or roll back
    feedback_decision  F(A_g, τ_g, E_g, U): choose, and for a harness update write A_{g+1}
    report             open the sealed test, once a run

Each works on a run folder, does nothing if it has already been done, and can be killed at any instant: a
phase counts once its completion mark is written, and is done again from its start otherwise.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .agents.base import Decision, StepSummary, View
from .budget import Ledger
from .config import make_config
from .errors import ConfigError, StoreError
from .scaffold.contract import Budget
from .store import Run, data_dir, read_json, results_dir, write_atomic, write_json
from .tasks import get_task
from .tasks.base import Solution, Task, Verifier
from .trajectory import Event, Trajectory

PROMOTED = 5  # how many of the best by the loop's verdict get the full verdict before the report


def open_run(run_dir: str = "", *, task: str = "lawbench", profile: str = "smoke", seed: int = 0, **overrides: Any) -> Run:
    """The run at ``run_dir``; if that is empty, the run with these parameters (made if it is not there yet).

    Raises:
        ConfigError: a bad parameter. StoreError: ``run_dir`` is no run folder.
    """
    if run_dir:
        return Run(Path(run_dir))
    return Run.create(make_config(profile, task=task, seed=seed, **overrides))


# -- phase 1 -----------------------------------------------------------------------------------------


def init_scaffold(run: Run) -> str:
    """A_1 = M(U, R): the Meta-Agent writes the first scaffold. Returns its source.

    Raises:
        AgentError: the Meta-Agent gave no program that meets the contract.
    """
    if run.done(1, "init"):
        return run.scaffold(1)
    task, started = get_task(run.config.task), time.monotonic()
    with _agents(run, task) as (meta, _):
        source = meta.write(task.spec_text(), task.reference())
        author = meta.kind
    _place_scaffold(run, 1, source, {"action": "init", "parent": 0, "edits": [], "author": author})
    _spend(run, 1, "init", seconds=time.monotonic() - started)
    run.finish(1, "init", [run.step(1) / "scaffold" / "agent.py", run.step(1) / "origin.json"])
    return source


# -- phase 2 -----------------------------------------------------------------------------------------


def run_generation(run: Run, step: int = 1) -> dict[str, Any]:
    """Execute A_g in the sandbox, record τ_g, and return E_g. Needs the phase before; runs it for step 1.

    E_g holds: score (best of the submitted solution on dev), valid, reason, solution, noise (paired standard
    error of the difference to the incumbent), accepted, incumbent (the step that the loop goes on from), note,
    counts, used, budget, solutions (the best distinct valid ones).
    """
    if run.done(step, "run"):
        return run.metrics(step)
    if step == 1:
        init_scaffold(run)
    from .scaffold.execute import execute

    config, folder = run.config, run.step(step)
    source = run.scaffold(step)  # before anything heavy: a step that is not there yet fails at once
    task = get_task(config.task)
    budget = Budget(verifier_calls=config.verifier_calls, tokens=config.tokens, seconds=config.seconds)
    workdir = folder / "work"
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir(parents=True)
    tau = folder / ".trajectory.jsonl.tmp"
    seen = {"verdict": 0}

    def on_event(event: Event) -> None:
        if event.kind == "verdict":
            seen["verdict"] += 1
            run.progress(f"step {step}: verifier call {seen['verdict']}", seen["verdict"], budget.verifier_calls)

    prepare_data(run)
    with _verifier(run, task) as verifier:
        execution = execute(
            source,
            task=task,
            policy=_policy(run),
            verifier=verifier,
            budget=budget,
            seed=config.seed * 1000 + step,
            archive=archive(run, before=step),
            scored=scored_before(run, step),
            workdir=workdir,
            trajectory_path=tau,
            trusted=run.origin(step)["author"] == "playbook",
            unsafe=config.unsafe_no_sandbox,
            instance=config.instance or None,
            on_event=on_event,
        )
        metrics = {
            "step": step,
            "score": execution.score,
            "valid": execution.valid,
            "reason": execution.reason,
            "solution": execution.solution,
            "solution_id": task.parse(execution.solution).id if execution.valid else "",
            "counts": execution.counts,
            "used": execution.used,
            "budget": {"verifier_calls": budget.verifier_calls, "tokens": budget.tokens, "seconds": budget.seconds},
            "solutions": execution.solutions[:32],
            "backend": execution.backend,
        }
        metrics |= _keep_or_roll_back(run, step, metrics, verifier)
    run.notice(execution.notice)
    tau.replace(folder / "trajectory.jsonl")
    write_json(folder / "metrics.json", metrics)
    shutil.rmtree(workdir, ignore_errors=True)
    _spend(run, step, "run", **execution.used)
    run.finish(step, "run", [folder / "trajectory.jsonl", folder / "metrics.json"])
    return metrics


def _keep_or_roll_back(run: Run, step: int, metrics: dict[str, Any], verifier: Verifier) -> dict[str, Any]:
    """Whether A_g becomes the incumbent: it must beat it by more than the dev split's noise."""
    before = [g for g in run.executed() if g < step]
    if not before:
        return {"noise": 0.0, "accepted": True, "incumbent": step, "note": "the first scaffold"}
    incumbent = run.metrics(before[-1])["incumbent"]
    best = run.metrics(incumbent)
    gain = metrics["score"] - best["score"]
    if not metrics["valid"]:
        return {
            "noise": 0.0,
            "accepted": False,
            "incumbent": incumbent,
            "note": f"rolled back to step {incumbent}: {metrics['reason']}",
        }
    if metrics["solution_id"] == best["solution_id"]:
        noise = 0.0
    elif best["valid"]:
        noise = verifier.paired_se(metrics["solution_id"], best["solution_id"])
    else:
        noise = 0.0
    accepted = gain > noise
    comparison = f"{gain:+.4f} against step {incumbent}, noise {noise:.4f}"
    note = f"kept: {comparison}" if accepted else f"rolled back to step {incumbent}: {comparison}"
    return {"noise": noise, "accepted": accepted, "incumbent": step if accepted else incumbent, "note": note}


def archive(run: Run, before: int, most: int = 32) -> list[dict[str, Any]]:
    """The run's best distinct valid solutions of the steps before ``before``, best first."""
    best: dict[str, float] = {}
    for g in run.executed():
        if g < before:
            for s in run.metrics(g)["solutions"]:
                best[s["solution"]] = s["score"]
    ranked = sorted(best.items(), key=lambda kv: (-kv[1], kv[0]))
    return [{"solution": text, "score": score} for text, score in ranked[:most]]


def scored_before(run: Run, step: int) -> set[str]:
    """Ids of the solutions that earlier steps of this run had scored: repeats are not counted."""
    ids = set()
    for g in run.executed():
        if g < step:
            ids |= {e.data["solution_id"] for e in trajectory(run, g).of("verdict") if e.data.get("solution_id")}
    return ids


# -- phase 3 -----------------------------------------------------------------------------------------


def feedback_decision(run: Run, step: int = 1) -> Decision:
    """F reads A_g, τ_g and E_g and chooses; a harness update also writes A_{g+1} and its report.

    Needs the execution of step g; runs it for step 1.
    """
    folder = run.step(step)
    if run.done(step, "decision"):
        return Decision(**read_json(folder / "decision.json"))
    if step == 1:
        run_generation(run, 1)
    view, started = feedback_view(run, step), time.monotonic()
    task = get_task(run.config.task)
    with _agents(run, task) as (_, feedback):
        decision = feedback.decide(view)
        written = [folder / "decision.json"]
        if decision.action == "harness":
            improvement = feedback.improve(view)
            write_atomic(folder / "improvement.md", improvement.report)
            parent = step if view.metrics["accepted"] else view.metrics["incumbent"]
            origin = {"action": "harness", "parent": parent, "edits": list(improvement.edits), "author": feedback.kind}
            _place_scaffold(run, step + 1, improvement.scaffold, origin)
            written += [
                folder / "improvement.md",
                run.step(step + 1) / "scaffold" / "agent.py",
                run.step(step + 1) / "origin.json",
            ]
    write_json(folder / "decision.json", decision.to_dict())
    _spend(run, step, "decision", seconds=time.monotonic() - started)
    run.finish(step, "decision", written)
    return decision


def feedback_view(run: Run, step: int) -> View:
    """All that F may see after step g."""
    metrics, task = run.metrics(step), get_task(run.config.task)
    return View(
        task=task.name,
        spec=task.spec_text(),
        step=step,
        scaffold=run.scaffold(step),
        incumbent=run.scaffold(metrics["incumbent"]),
        trajectory=trajectory(run, step),
        metrics=metrics,
        history=history(run, step),
        steps_left=run.config.steps - step,
        allowed=("harness", "stop"),
        seed=run.config.seed * 1000 + step,
    )


def history(run: Run, upto: int) -> tuple[StepSummary, ...]:
    """One summary for each executed step up to and including ``upto``."""
    out = []
    for g in [g for g in run.executed() if g <= upto]:
        m, o = run.metrics(g), run.origin(g)
        used = {k: m["used"][k] for k in ("verifier_calls", "tokens")}
        out.append(StepSummary(g, o["action"], m["score"], m["noise"], m["accepted"], tuple(o["edits"]), used, m["note"]))
    return tuple(out)


def trajectory(run: Run, step: int) -> Trajectory:
    """τ_g as recorded."""
    return Trajectory.read(run.step(step) / "trajectory.jsonl")


# -- the report --------------------------------------------------------------------------------------


def report(run: Run) -> dict[str, Any]:
    """Open the sealed test, once a run: the baseline (A_1's answer) and the best by dev. Written to report.json.

    The best is chosen on dev alone: of all solutions that the run's steps found, the PROMOTED best by the loop's
    verdict are scored in full on dev, and the best of those opens the test.
    """
    path = run.path / "report.json"
    if path.exists():
        return read_json(path)
    steps = run.executed()
    if not steps:
        raise StoreError(f"{run.path} has no executed step yet; run it first: python -m sia_nb resume {run.path.name}")
    task, started = get_task(run.config.task), time.monotonic()
    prepare_data(run)
    first = run.metrics(steps[0])
    baseline = task.parse(first["solution"]) if first["valid"] else None
    candidates = [task.parse(s["solution"]) for s in archive(run, before=steps[-1] + 1, most=PROMOTED)]
    if baseline and baseline.id not in [c.id for c in candidates]:
        candidates.append(baseline)
    with _verifier(run, task) as verifier:
        full = {}
        for n, solution in enumerate(candidates):
            run.progress("report: full verdicts on dev", n, len(candidates) + 2)
            full[solution.id] = verifier.full(solution)
        best = max(candidates, key=lambda s: full[s.id].value) if candidates else None
        sealed = {}
        for n, (arm, solution) in enumerate((("baseline", baseline), (run.config.arm, best))):
            run.progress("report: the sealed test", len(candidates) + n, len(candidates) + 2)
            sealed[arm] = _open_seal(task, verifier, solution, full)
    spent = [run.metrics(g)["used"] for g in steps]
    sealed["baseline"] |= {k: spent[0][k] for k in ("verifier_calls", "tokens")}
    sealed[run.config.arm] |= {k: sum(s[k] for s in spent) for k in ("verifier_calls", "tokens")}
    result = {
        "format": 1,
        "run": run.path.name,
        "task": task.name,
        "seed": run.config.seed,
        "metric": task.report_metric,
        "arms": sealed,
    }
    _spend(run, steps[-1], "report", seconds=time.monotonic() - started)
    write_json(path, result)
    return result


def _open_seal(task: Task, verifier: Verifier, solution: Solution | None, full: dict[str, Any]) -> dict[str, Any]:
    if solution is None:
        return {"solution": None, "dev": 0.0, "test": {task.report_metric: 0.0}}
    return {
        "solution": solution.text,
        "solution_id": solution.id,
        "dev": full[solution.id].value,
        "test": verifier.seal(solution),
    }


# -- what the phases share -----------------------------------------------------------------------------


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


@contextlib.contextmanager
def _verifier(run: Run, task: Task) -> Iterator[Verifier]:
    verifier = task.verifier(
        data_dir(), data_dir() / "cache" / task.name, seed=run.config.seed, unsafe_no_sandbox=run.config.unsafe_no_sandbox
    )
    try:
        yield verifier
    finally:
        verifier.close()


_POLICIES: dict[tuple, Any] = {}


def _policy(run: Run):
    """π_θ, loaded once a process."""
    c = run.config
    key = (c.policy, c.policy_url, c.dtype, c.threads)
    if key not in _POLICIES:
        if c.policy_url:
            from .policy.endpoint import EndpointPolicy

            _POLICIES[key] = EndpointPolicy(c.policy_url, c.policy, key=c.policy_key)
        else:
            from .policy.model import load

            _POLICIES[key] = load(c.policy, data_dir=data_dir(), dtype=c.dtype, threads=c.threads)
    return _POLICIES[key]


@contextlib.contextmanager
def _agents(run: Run, task: Task):
    from .agents import open_agents

    with open_agents(run, task) as pair:
        yield pair


def _place_scaffold(run: Run, g: int, source: str, origin: dict[str, Any]) -> None:
    if run.done(g, "run"):
        raise StoreError(f"{run.step(g)} has been executed already; its scaffold cannot change")
    write_atomic(run.step(g) / "scaffold" / "agent.py", source)
    write_json(run.step(g) / "origin.json", origin)


def _spend(run: Run, step: int, phase: str, **amounts: float) -> None:
    """One ledger entry a phase and step: a phase done again after a kill is not counted twice."""
    ledger = Ledger(run.path / "ledger.jsonl")
    if not any(e["phase"] == phase and e["step"] == step and e["what"] == "phase" for e in ledger.entries):
        ledger.add(phase, step, "phase", **amounts)


def latest_step(run: Run) -> int:
    """The newest executed step, for notebooks run by hand.

    Raises:
        ConfigError: none has been executed.
    """
    steps = run.executed()
    if not steps:
        raise ConfigError(f"{run.path.name}: no step has been executed yet; run 02_run_generation first")
    return steps[-1]


def runs_dir() -> Path:
    """Where new runs go."""
    return results_dir() / "runs"
