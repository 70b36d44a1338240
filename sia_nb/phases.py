"""What the notebooks call: one function a phase of the loop (paper §3.3).

    init_scaffold      A_1 = M(U, R)
    run_generation     execute A_g with π_θ in a sandbox, record τ_g, score E_g, keep or roll back
    feedback_decision  F(A_g, τ_g, E_g, U): choose, and for a harness update write A_{g+1}
    weight_update      train π_θ's adapter through A_g by the algorithm that F chose (``weights``)
    report             open the sealed test, once a run

Each works on a run folder, does nothing if it has already been done, and can be killed at any instant: a
phase counts once its completion mark is written, and is done again from its start otherwise.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from .agents import rewards
from .agents.base import Decision, View
from .config import make_config
from .errors import BudgetExceeded, StoreError
from .scaffold.contract import Budget
from .scaffold.folders import remove_tree
from .sealed_report import EXAMINED, PROMOTED, log_opening, open_seal, opened_for, promoted
from .steps import (
    archive,
    budget_left,
    history,
    latest_step,
    lever_records,
    open_policy,
    open_run_agents,
    open_verifier,
    place_scaffold,
    prepare_data,
    sampling,
    scored_before,
    spend,
    spent,
    trained_solutions,
    training_summary,
    trajectory,
    trusted,
    worn,
)
from .store import Run, hardware, keeps, read_json, results_dir, write_atomic, write_json
from .tasks import get_task
from .tasks.base import Verifier
from .training.hyper import ALGORITHMS, MENU
from .trajectory import Event
from .weights import weight_update

__all__ = [
    "archive",
    "feedback_decision",
    "feedback_view",
    "history",
    "init_scaffold",
    "latest_step",
    "open_run",
    "report",
    "run_generation",
    "runs_dir",
    "scored_before",
    "trajectory",
    "weight_update",
]

ALLOWED = {"H": ("harness", "stop"), "W": ("weights", "stop"), "W+H": ("harness", "weights", "stop")}


def open_run(run_dir: str = "", *, task: str = "lawbench", profile: str = "smoke", seed: int = 0, **overrides: Any) -> Run:
    """The run at ``run_dir``; if that is empty, the run with these parameters (made if it is not there yet).

    Raises:
        ConfigError: a bad parameter. StoreError: ``run_dir`` is no run folder.
    """
    if run_dir:
        return Run(Path(run_dir))
    return Run.create(make_config(profile, task=task, seed=seed, **overrides))


# -- phase 1 -----------------------------------------------------------------------------------------


@keeps
def init_scaffold(run: Run) -> str:
    """A_1 = M(U, R): the Meta-Agent writes the first scaffold. Returns its source.

    Raises:
        AgentError: the Meta-Agent gave no program that meets the contract.
    """
    if run.done(1, "init"):
        return run.scaffold(1)
    task, started = get_task(run.config.task), time.monotonic()
    with open_run_agents(run, task) as (meta, _):
        source = meta.write(task.spec_text(), task.reference())
        author = meta.author
    place_scaffold(run, 1, source, {"action": "init", "parent": 0, "edits": [], "author": author})
    spend(run, 1, "init", seconds=time.monotonic() - started)
    run.finish(1, "init", [run.step(1) / "scaffold" / "agent.py", run.step(1) / "origin.json"])
    return source


# -- phase 2 -----------------------------------------------------------------------------------------


@keeps
def run_generation(run: Run, step: int = 1, *, policy: Any = None, verifier: Verifier | None = None) -> dict[str, Any]:
    """Execute A_g in the sandbox, record τ_g, and return E_g. Needs the phase before; runs it for step 1.

    E_g holds: score (best of the submitted solution on dev), valid, reason, solution, noise (paired standard
    error of the difference to the incumbent), accepted, incumbent (the step that the loop goes on from), note,
    counts, used, budget, solutions (the best distinct valid ones).

    Args:
        policy, verifier: in place of the config's; a replay's.
    """
    if run.done(step, "run"):
        return run.metrics(step)
    if step == 1:
        init_scaffold(run)
    from .scaffold.execute import execute

    config, folder = run.config, run.step(step)
    source = run.scaffold(step)  # before anything heavy: a step that is not there yet fails at once
    task = get_task(config.task)
    training = training_summary(run, step)
    trained = {k: training[k] if training else 0 for k in ("verifier_calls", "tokens")}
    budget = Budget(
        verifier_calls=config.verifier_calls - trained["verifier_calls"],
        tokens=config.tokens - trained["tokens"],
        seconds=config.seconds,
    )
    workdir, record = folder / "work", [folder / "trajectory.jsonl", folder / "metrics.json"]
    remove_tree(workdir)
    # killed just before the mark: done again, its seconds would not be the ledger's
    if spent(run, step, "run") and all(file.exists() for file in record):
        run.finish(step, "run", record)
        return run.metrics(step)
    workdir.mkdir(parents=True)
    tau = folder / ".trajectory.jsonl.tmp"
    seen = {"verdict": 0}

    def on_event(event: Event) -> None:
        if event.kind == "verdict":
            seen["verdict"] += 1
            run.progress(f"step {step}: verifier call {seen['verdict']}", seen["verdict"], budget.verifier_calls)

    prepare_data(run)
    weights = worn(run, step)
    policy = policy or open_policy(run, weights)
    with contextlib.nullcontext(verifier) if verifier else open_verifier(run, task) as verifier, sampling(policy):
        execution = execute(
            source,
            task=task,
            policy=policy,
            verifier=verifier,
            budget=budget,
            seed=config.seed * 1000 + step,
            archive=archive(run, before=step),
            scored=scored_before(run, step),
            workdir=workdir,
            trajectory_path=tau,
            trusted=trusted(run, step),
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
            "used": {k: v + trained.get(k, 0) for k, v in execution.used.items()},
            "budget": {"verifier_calls": config.verifier_calls, "tokens": config.tokens, "seconds": config.seconds},
            "solutions": _merged(execution.solutions, trained_solutions(run, step))[:32],
            "weights": weights,
            "backend": execution.backend,
        }
        metrics |= _best_of_training(run, step, metrics)
        metrics |= _keep_or_roll_back(run, step, metrics, verifier)
    run.notice(execution.notice)
    tau.replace(folder / "trajectory.jsonl")
    write_json(folder / "metrics.json", metrics)
    remove_tree(workdir)
    spend(run, step, "run", **execution.used)
    run.finish(step, "run", record)
    return metrics


def _best_of_training(run: Run, step: int, metrics: dict[str, Any]) -> dict[str, Any]:
    """The best training rollout, where it beats what the execution submitted: its verifier calls are the step's too."""
    found = trained_solutions(run, step)
    if not found or (metrics["valid"] and found[0]["score"] <= metrics["score"]):
        return {}
    solution = get_task(run.config.task).parse(found[0]["solution"])
    best = {"score": found[0]["score"], "valid": True, "reason": "found in training"}
    return best | {"solution": solution.text, "solution_id": solution.id}


def _merged(*lists: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Distinct solutions of several lists, best first; of equals, the one named first."""
    best: dict[str, float] = {}
    for entry in (e for entries in lists for e in entries):
        best.setdefault(entry["solution"], entry["score"])
    return [{"solution": text, "score": score} for text, score in sorted(best.items(), key=lambda kv: -kv[1])]


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


# -- phase 3 -----------------------------------------------------------------------------------------


@keeps
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
    with open_run_agents(run, task) as (_, feedback):
        written, improvement = [folder / "decision.json"], None
        try:
            decision = feedback.decide(view)
            if decision.action == "harness":
                improvement = feedback.improve(view)
        except BudgetExceeded as error:  # the run ends with what it has
            decision = Decision("stop", str(error), rule="budget")
        if improvement is not None:
            write_atomic(folder / "improvement.md", improvement.report)
            parent = step if view.metrics["accepted"] else view.metrics["incumbent"]
            origin = {"action": "harness", "parent": parent, "edits": list(improvement.edits), "author": feedback.author}
            origin["weights"] = worn(run, parent)
            place_scaffold(run, step + 1, improvement.scaffold, origin)
            written += [
                folder / "improvement.md",
                run.step(step + 1) / "scaffold" / "agent.py",
                run.step(step + 1) / "origin.json",
            ]
    write_json(folder / "decision.json", decision.to_dict())
    spend(run, step, "decision", seconds=time.monotonic() - started)
    run.finish(step, "decision", written)
    return decision


def feedback_view(run: Run, step: int) -> View:
    """All that F may see after step g."""
    metrics, task, config, tau = run.metrics(step), get_task(run.config.task), run.config, trajectory(run, step)
    past = history(run, step)
    weights = "W" in config.arm
    # what a weight update would train through: after a step that was rolled back, not its scaffold but the incumbent's
    through = step if metrics["accepted"] else metrics["incumbent"]
    rollouts = tau if through == step else trajectory(run, through)
    trained = [s.step for s in past if s.action == "weights"]
    return View(
        task=task.name,
        spec=task.spec_text(),
        step=step,
        scaffold=run.scaffold(step),
        incumbent=run.scaffold(metrics["incumbent"]),
        trajectory=tau,
        metrics=metrics,
        history=past,
        steps_left=config.steps - step,
        allowed=ALLOWED[config.arm],
        algorithms=((config.algorithm,) if config.algorithm else ALGORITHMS) if weights else (),
        menu=MENU if weights else {},
        rewards=rewards.of_proposals(rollouts, run.metrics(through)) if weights else {},
        levers=lever_records(past) if weights else {},
        budget_left=budget_left(run, step) if weights else {},
        training=training_summary(run, trained[-1]) if trained else None,
        structured=rewards.structured(rollouts),
        weight_share=config.weight_share,
        seed=config.seed * 1000 + step,
    )


# -- the report --------------------------------------------------------------------------------------


@keeps
def report(run: Run) -> dict[str, Any]:
    """Open the sealed test, once a run: the baseline (A_1's answer) and the best by dev. Written to report.json.

    The best is chosen on dev alone: of all solutions that the run's steps found, the PROMOTED best by the loop's
    verdict that the full verdict holds valid are compared by it, and the best of those opens the test. What a verifier tells of
    known methods on the same data goes to peers.json; a method's package that is not installed costs that file alone.
    """
    path = run.path / "report.json"
    if path.exists():
        if not (run.path / "manifest.json").exists() and not run.info.get("trimmed"):
            run.write_manifest()
        return read_json(path)
    steps = run.executed()
    if not steps:
        raise StoreError(f"{run.path} has no executed step yet; run it first: python -m sia_nb resume {run.path.name}")
    if steps[-1] < run.config.steps and not _stopped(run, steps[-1]):
        raise StoreError(
            f"{run.path} has executed {steps[-1]} of {run.config.steps} steps; the sealed test is opened once, after the last: "
            f"python -m sia_nb resume {run.path.name}"
        )
    task, started = get_task(run.config.task), time.monotonic()
    prepare_data(run)
    first = run.metrics(steps[0])
    baseline = task.parse(first["solution"]) if first["valid"] else None
    found = [task.parse(s["solution"]) for s in archive(run, before=steps[-1] + 1, most=EXAMINED)]
    with open_verifier(run, task) as verifier:
        tell = lambda done: run.progress("report: full verdicts on dev", done, PROMOTED + 2)
        best, full = promoted(verifier, found, baseline, tell, opened_for(run.path, run.config.arm))
        log_opening(run.path, {"baseline": baseline, run.config.arm: best})
        sealed = {}
        for n, (arm, solution) in enumerate((("baseline", baseline), (run.config.arm, best))):
            run.progress("report: the sealed test", PROMOTED + n, PROMOTED + 2)
            sealed[arm] = open_seal(task, verifier, solution, full)
        if hasattr(verifier, "peers"):
            run.progress("report: known methods on the same data", PROMOTED + 2, PROMOTED + 2)
            try:
                write_json(run.path / "peers.json", verifier.peers())
            except ImportError as error:
                run.notice(
                    f"peers.json is not there: known methods on the same data need {error.name}, which is not installed here; "
                    "python -m pip install -r requirements.lock does, before the next run's report"
                )
        if (here := hardware()) != run.info["hardware"]:
            run.notice(f"the report was made on another machine than the run began on: {here}")
    used = [run.metrics(g)["used"] for g in steps]
    sealed["baseline"] |= {k: used[0][k] for k in ("verifier_calls", "tokens")}
    sealed[run.config.arm] |= {k: sum(u[k] for u in used) for k in ("verifier_calls", "tokens")}
    result = {
        "format": 1,
        "run": run.path.name,
        "task": task.name,
        "seed": run.config.seed,
        "metric": task.report_metric,
        "arms": sealed,
    }
    spend(run, steps[-1], "report", seconds=time.monotonic() - started)
    write_json(path, result)
    run.write_manifest()
    return result


def _stopped(run: Run, step: int) -> bool:
    return run.done(step, "decision") and read_json(run.step(step) / "decision.json")["action"] == "stop"


def runs_dir() -> Path:
    """Where new runs go."""
    return results_dir() / "runs"
