"""Small hand-made run folders for the tests of what people look at."""

import json

from sia_nb.config import make_config
from sia_nb.store import Run, write_json

METRICS = {"lawbench": "top1", "denoising": "mse_norm", "trimul": "speedup", "trimul_cuda": "score"}


def a_run(
    results, seed, value, *, arm="H", profile="smoke", where="runs", base=0.2, name="", more=(), solution="{}", **overrides
):
    """A finished run of one step, with this value on the sealed test; ``more`` are its answer's other sealed figures."""
    task = overrides.get("task", "lawbench")
    folder = results / where / (name or f"{task}-{profile}-{arm}-{seed}-{value}")
    run = Run.create(make_config(profile, seed=seed, arm=arm, **overrides), folder)
    result = lambda v, calls, more=(): (
        {"solution": "{}", "solution_id": f"{arm}{seed}", "dev": v, "test": {METRICS[task]: v} | dict(more)}
        | {"verifier_calls": calls, "tokens": 10 * calls}
    )
    arms = {"baseline": result(base, 8, more and dict(more) | {"passes_right": 1.0}), arm: result(value, 24, more)}
    write_json(run.path / "report.json", {"task": task, "seed": seed, "metric": METRICS[task], "arms": arms})
    a_step(run, 1, value, solution=solution)
    return run


def a_step(run, g, score, *, action="init", algorithm="", parent=0, accepted=True, verdicts=(), rollouts=(), solution="{}"):
    """An executed step; with ``rollouts``, the weight update before it. A verdict is a score, or an event's whole data."""
    folder = run.step(g)
    calls = len(verdicts) + sum(r["cached"] is False for r in rollouts)
    metrics = {"step": g, "score": score, "noise": 0.004, "accepted": accepted, "incumbent": g if accepted else parent}
    metrics |= {"solution": solution, "valid": True}
    write_json(folder / "metrics.json", metrics | {"note": "", "used": {"verifier_calls": calls, "tokens": 80}, "solutions": []})
    origin = {"action": action, "parent": parent, "edits": [], "author": "playbook", "weights": 0, "algorithm": algorithm}
    write_json(folder / "origin.json", origin)
    (folder / "scaffold").mkdir()
    (folder / "scaffold" / "agent.py").write_text("x = 1\n")
    data = [v if isinstance(v, dict) else {"score": v, "valid": True, "solution_id": ""} for v in verdicts]
    events = [{"id": n, "kind": "verdict", "seconds": 0.0, "data": d} for n, d in enumerate(data)]
    (folder / "trajectory.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    if rollouts:
        (folder / "weights").mkdir()
        (folder / "weights" / "rollouts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rollouts))
    write_json(folder / "run.done.json", {"files": {}})


def a_verdict(name, mse_norm, poisson_norm, swapped, *, gate=0.5, valid=True):
    """The data of a verdict event of the denoising task."""
    metrics = {"mse_norm": mse_norm, "poisson_norm": poisson_norm, "poisson_norm_openproblems": swapped, "gate": gate}
    metrics["passes"] = float(poisson_norm >= gate)
    return {"score": mse_norm, "valid": valid, "solution_id": name, "metrics": metrics}


def a_rollout(score, *, step=1, solution="{}", valid=True, cached=False, text="{}", source="policy", advantage=0.0):
    """One line of rollouts.jsonl."""
    return (
        {"step": step, "group": 0, "row": 0, "text": text, "tokens": 9, "logprob": -3.0, "solution": solution, "reward": score}
        | {"score": score, "valid": valid, "reason": "", "advantage": advantage, "source": source, "parent": None}
        | {"cached": cached, "solution_id": "x"}
    )


def a_line(step, mean, **more):
    """One line of curve.jsonl."""
    line = {"step": step, "reward_mean": mean, "reward_q10": mean - 0.1, "reward_q50": mean, "reward_q90": mean + 0.1}
    line |= {"reward_max": mean + 0.2, "best": mean + 0.2, "validity": 1.0, "zero_share": 0.0, "distinct": 0.75, "entropy": 0.5}
    line |= {"collapsed": 0, "loss": 0.1, "grad_norm": 1.5, "kl": None, "objective": {"ratio": 1.0}, "verifier_calls": 8 * step}
    return line | {"tokens": 80 * step, "notes": [], "seconds": 1.0} | more


def a_result(before, after, *, se=0.01, n=16, algorithm="grpo", stopped="done"):
    """A result.json with these mean scores before and after."""
    group = lambda mean: {"mean": mean, "se": se, "n": n}
    result = {"algorithm": algorithm, "steps": 2, "stopped": stopped, "note": "all steps are done", "best": None}
    return result | {"before": group(before), "after": group(after), "verifier_calls": 16, "tokens": 160, "solutions": []}


def trained(run, g, result, lines):
    """Lay down what the weight update before step g left, beside its rollouts."""
    folder = run.step(g) / "weights"
    write_json(folder / "result.json", result)
    (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
