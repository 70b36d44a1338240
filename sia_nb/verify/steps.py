"""Checks of a step: the trajectory's order, the metrics worked out from it, the decision, and a weight update's sums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..agents.record import STOPPED
from ..store import Run, read_json
from ..tasks.base import Solution
from ..trajectory import KINDS, Event, Trajectory
from .findings import Findings

REFERS = {"response": ("sample", "sample"), "verdict": ("evaluate", "evaluate")}


def all_steps(run: Run, found: Findings) -> None:
    """Every step in turn."""
    steps = run.steps()
    if steps != list(range(1, len(steps) + 1)):
        found.fault("run folder", "steps", f"are {steps}; expected 1, 2, … without a gap")
    results = _results(run, found)
    for g in steps:
        name = f"step_{g:03d}"
        if (run.step(g) / "train.done.json").exists():
            _training(run, g, f"{name}/weights", found)
        if (run.step(g) / "run.done.json").exists():
            events = _trajectory(run, g, f"{name}/trajectory.jsonl", found)
            if events is not None:
                _metrics(run, g, events, f"{name}/metrics.json", found)
        _origin(run, g, results, f"{name}/origin.json", found)
        if (run.step(g) / "decision.done.json").exists():
            _decision(run, g, results, f"{name}/decision.json", found)


def _results(run: Run, found: Findings) -> dict[tuple[str, int], Any]:
    """What the agents returned, by purpose and step; A_1 as of step 0."""
    out = {}
    for e in found.lines("agent_calls.jsonl"):
        if e.get("event") == "result":
            out[e["purpose"], 0 if e["purpose"] == "write" else e["inputs"]["step"]] = e["output"]
    return out


def _trained(run: Run, g: int) -> dict[str, Any]:
    done = (run.step(g) / "train.done.json").exists()
    return read_json(run.step(g) / "weights" / "result.json") if done else {"verifier_calls": 0, "tokens": 0}


def _trajectory(run: Run, g: int, name: str, found: Findings) -> Trajectory | None:
    tau = Trajectory.read(run.path / name)
    for number in tau.damaged:
        found.fault(name, f"line {number}", "is no event")
    found.same(name, "id", [e.id for e in tau], list(range(len(tau))), "their order")
    if not tau.events or tau.events[0].kind != "start" or tau.events[-1].kind != "end":
        found.fault(name, "", "does not begin with a start and end with an end")
        return None
    before = 0.0
    for e in tau:
        if e.kind not in KINDS:
            found.fault(name, f"event {e.id}: kind", f"is {e.kind!r}; expected one of {', '.join(KINDS)}")
        if e.seconds < before:
            found.fault(name, f"event {e.id}: seconds", f"is {e.seconds}, before the event before it")
        before = e.seconds
        if e.kind in REFERS:
            key, kind = REFERS[e.kind]
            found.checked += 1
            if not any(o.id == e.data[key] and o.kind == kind for o in tau.events[: e.id]):
                found.fault(name, f"event {e.id}: {key}", f"is {e.data[key]}, which is no {kind} before it")
    start, trained = tau.events[0].data, _trained(run, g)
    config = run.config
    source = hashlib.sha256(run.scaffold(g).encode("utf-8", "replace")).hexdigest()
    found.same(name, "start.scaffold", start["scaffold"], source, "scaffold/agent.py")
    found.same(name, "start.seed", start["seed"], config.seed * 1000 + g, "run.json")
    found.same(name, "start.task", start["task"], config.task, "run.json")
    left = {k: getattr(config, k) - trained[k] for k in ("verifier_calls", "tokens")} | {"seconds": config.seconds}
    found.same(name, "start.budget", start["budget"], left, "run.json")
    return tau


def _first(verdicts: list[Event], solution_id: str) -> Event | None:
    return next((v for v in verdicts if v.data["solution_id"] == solution_id), None)


def _metrics(run: Run, g: int, tau: Trajectory, name: str, found: Findings) -> None:
    m = found.json(name)
    if m is None:
        return
    verdicts, trained = tau.of("verdict"), _trained(run, g)
    asked = [v for v in verdicts if not v.data.get("final")]
    failures: dict[str, int] = {}
    for v in verdicts:
        if not v.data["valid"]:
            failures[v.data["failure"]] = failures.get(v.data["failure"], 0) + 1
    read = [e.data["ok"] for e in tau.of("extract")]
    counts = {
        "samples": len(tau.of("sample")), "responses": len(tau.of("response")), "extracted": sum(read),
        "not_extracted": len(read) - sum(read), "evaluations": len(asked), "repeats": sum(v.data["repeat"] for v in asked),
        "valid": sum(v.data["valid"] for v in verdicts), "failures": failures, "submissions": len(tau.of("submit")),
        "refused": sum(e.data["what"] == "message" for e in tau.of("limit")),
    }  # fmt: skip
    for key, value in counts.items():
        found.same(name, f"counts.{key}", m["counts"].get(key), value, "trajectory.jsonl")
    used = {
        "verifier_calls": sum(not v.data["repeat"] for v in asked),
        "tokens": sum(e.data["tokens"] for e in tau.of("response")),
    }
    found.same(f"step_{g:03d}/trajectory.jsonl", "end.used", tau.events[-1].data["used"], used, "the events before it")
    for key, value in used.items():
        found.same(name, f"used.{key}", m["used"][key], value + trained[key], "trajectory.jsonl")
    found.same(name, "step", m["step"], g, "the folder's name")
    for key in ("verifier_calls", "tokens", "seconds"):
        found.same(name, f"budget.{key}", m["budget"][key], getattr(run.config, key), "run.json")
    _score(run, g, tau, m, name, found)
    _solutions(run, g, verdicts, m, name, found)
    _kept(run, g, m, name, found)


def _score(run: Run, g: int, tau: Trajectory, m: dict[str, Any], name: str, found: Findings) -> None:
    """The score is the last submission's, or the best of the training that made the step where that is better."""
    submits = tau.of("submit")
    sent = submits[-1].data["solution_id"] if submits else ""
    verdict = _first(tau.of("verdict"), sent) if sent else None
    value = {"score": verdict.data["score"], "valid": verdict.data["valid"]} if verdict else {"score": 0.0, "valid": False}
    trained = _found_in_training(run, g)
    if trained and (not value["valid"] or trained[0][0] > value["score"]):
        value, sent = {"score": trained[0][0], "valid": True}, Solution("spec", trained[0][1]).id
    for key, expected in value.items():
        found.same(name, key, m[key], expected, "trajectory.jsonl")
    if m["valid"]:
        ids = [Solution(d, m["solution"]).id for d in ("spec", "code")]
        found.checked += 1
        if m["solution_id"] not in ids:
            found.fault(name, "solution_id", f"is {m['solution_id']!r}, not the solution's")
        if not trained:
            found.same(name, "solution_id", m["solution_id"], sent, "the last submission")


def _found_in_training(run: Run, g: int) -> list[tuple[float, str]]:
    """Distinct valid solutions of the rollouts, best first, ties by text."""
    if not (run.step(g) / "train.done.json").exists():
        return []
    lines = (run.step(g) / "weights" / "rollouts.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    best = {r["solution"]: r["score"] for r in map(json.loads, lines) if r["valid"]}
    return [(score, text) for text, score in sorted(best.items(), key=lambda kv: (-kv[1], kv[0]))]


def _solutions(run: Run, g: int, verdicts: list[Event], m: dict[str, Any], name: str, found: Findings) -> None:
    """The best distinct valid solutions have the scores of their verdicts, and none is left out."""
    scores: dict[str, float] = {}
    for v in verdicts:
        if v.data["valid"] and v.data["solution_id"]:
            scores.setdefault(v.data["solution_id"], v.data["score"])
    for score, text in _found_in_training(run, g):
        scores.setdefault(Solution("spec", text).id, score)
    listed = []
    for n, entry in enumerate(m["solutions"]):
        which = next((i for d in ("spec", "code") if (i := Solution(d, entry["solution"]).id) in scores), None)
        if which is None:
            found.fault(name, f"solutions[{n}].solution", "has no valid verdict in trajectory.jsonl or rollouts.jsonl")
            continue
        found.same(name, f"solutions[{n}].score", entry["score"], scores[which], "its verdict")
        listed.append(entry["score"])
    found.same(name, "solutions", listed, sorted(scores.values(), reverse=True)[:32], "the verdicts, best first")


def _kept(run: Run, g: int, m: dict[str, Any], name: str, found: Findings) -> None:
    """Kept only if better than the incumbent by more than the noise."""
    if g == run.executed()[0]:
        expected = {"accepted": True, "incumbent": g, "noise": 0.0, "note": "the first scaffold"}
    else:
        incumbent = run.metrics(g - 1)["incumbent"]
        gain, noise = m["score"] - run.metrics(incumbent)["score"], m["noise"]
        kept = bool(m["valid"]) and gain > noise
        expected = {"accepted": kept, "incumbent": g if kept else incumbent}
        if m["valid"]:
            text = f"{gain:+.4f} against step {incumbent}, noise {noise:.4f}"
            expected["note"] = f"kept: {text}" if kept else f"rolled back to step {incumbent}: {text}"
    for key, value in expected.items():
        found.same(name, key, m[key], value, "the scores and the noise")


def _origin(run: Run, g: int, results: dict[tuple[str, int], Any], name: str, found: Findings) -> None:
    """A_g is what an agent wrote, or its parent where a weight update made the step."""
    origin, source = found.json(name), run.scaffold(g)
    if origin is None:
        return
    action, agent = origin["action"], f"step_{g:03d}/scaffold/agent.py"
    if g == 1:
        found.same(name, "action", action, "init", "the step's number")
        if ("write", 0) in results:
            found.same(agent, "", source, results["write", 0], "agent_calls.jsonl")
        return
    before = run.metrics(g - 1)
    decision = read_json(run.step(g - 1) / "decision.json")
    found.same(name, "action", action, decision["action"], f"step_{g - 1:03d}/decision.json")
    found.same(name, "parent", origin["parent"], before["incumbent"], f"step_{g - 1:03d}/metrics.json")
    if action == "harness" and ("improve", g - 1) in results:
        output = results["improve", g - 1]
        found.same(agent, "", source, output["scaffold"], "agent_calls.jsonl")
        found.same(name, "edits", origin["edits"], output["edits"], "agent_calls.jsonl")
        report = (run.step(g - 1) / "improvement.md").read_text(encoding="utf-8")
        found.same(f"step_{g - 1:03d}/improvement.md", "", report, output["report"], "agent_calls.jsonl")
    elif action == "weights":
        found.same(
            agent, "", source, run.scaffold(origin["parent"]), f"step {origin['parent']}, whose scaffold was trained through"
        )
        found.same(name, "weights", origin["weights"], g, "the step's number")
        found.same(name, "algorithm", origin["algorithm"], _trained(run, g).get("algorithm"), "weights/result.json")


def _decision(run: Run, g: int, results: dict[tuple[str, int], Any], name: str, found: Findings) -> None:
    said = found.json(name)
    if said is None:
        return
    returned = results.get(("decide", g))
    stopped = said.get("rule") == "budget" and said["action"] == "stop"
    if returned is None:
        found.fault(name, "", "is there, but agent_calls.jsonl holds no decision of this step")
    elif not stopped:
        for key in {*said, *returned}:
            found.same(name, key, said.get(key), returned.get(key), "agent_calls.jsonl")
    elif STOPPED not in returned and STOPPED not in (results.get(("improve", g)) or {}):
        found.fault(name, "rule", "is 'budget', but agent_calls.jsonl tells of no cap")
    ids = {e.id for e in Trajectory.read(run.step(g) / "trajectory.jsonl")}
    for number in said["evidence"]:
        found.checked += 1
        if number not in ids:
            found.fault(name, "evidence", f"cites event {number}, which the trajectory does not hold")


def _training(run: Run, g: int, name: str, found: Findings) -> None:
    """The result's sums are those of the rollouts and the curve."""
    result, rollouts, curve = (
        found.json(f"{name}/result.json"), found.lines(f"{name}/rollouts.jsonl"), found.lines(f"{name}/curve.jsonl")
    )  # fmt: skip
    if result is None:
        return
    sums = {
        "verifier_calls": sum(r["cached"] is False for r in rollouts),
        "tokens": sum(r["tokens"] for r in rollouts if r["source"] == "policy"),
    }
    for key, value in sums.items():
        found.same(f"{name}/result.json", key, result[key], value, "rollouts.jsonl")
        if curve:
            found.same(f"{name}/curve.jsonl", f"last line: {key}", curve[-1][key], value, "rollouts.jsonl")
    found.same(f"{name}/curve.jsonl", "step", [c["step"] for c in curve], list(range(1, len(curve) + 1)), "their order")
    found.same(f"{name}/result.json", "steps", result["steps"], len(curve), "curve.jsonl")
    best = max((r["score"] for r in rollouts if r["valid"]), default=None)
    found.same(f"{name}/result.json", "best.score", result["best"] and result["best"]["score"], best, "rollouts.jsonl")
    weights = Path(run.path / name / "adapter" / "adapter_model.safetensors")
    if weights.exists():
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        found.same(f"{name}/result.json", "adapter", result["adapter"], digest, "adapter_model.safetensors")
