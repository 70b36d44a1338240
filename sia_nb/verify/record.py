"""Checks of what belongs to the whole run: hashes, provenance, agents' calls, the ledger and the report."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from datetime import datetime
from typing import Any

from ..agents.record import EVENTS, _fingerprint, _steady, sha
from ..errors import InvalidSolution
from ..store import FORMAT, TRIMMED, Run, read_json, sha256
from ..tasks import get_task
from ..tasks.base import Solution
from ..trajectory import Trajectory
from .findings import Findings

HEX = re.compile("[0-9a-f]{64}")


def hashes(run: Run, found: Findings) -> None:
    """Every file is what its phase's mark and the manifest say, and none is there that neither names."""
    there, trimmed, named = run.record(), bool(run.info.get("trimmed")), set()
    for name in [n for n in there if n.endswith(".done.json")]:
        mark = found.json(name)
        if mark is None:
            continue
        found.same(name, "phase", mark.get("phase"), name.rsplit("/", 1)[-1].removesuffix(".done.json"), "the file's name")
        named |= {name, *_compare(run, found, name, mark.get("files"), trimmed)}
    for name in there:
        if name.startswith("step_") and name not in named:
            phase = "a phase that has not ended" if not (run.path / "report.json").exists() else "no phase"
            if (run.path / "report.json").exists():
                found.fault(name, "", f"belongs to {phase}: no mark names it")
    if (run.path / "manifest.json").exists():
        manifest = found.json("manifest.json")
        if manifest is not None:
            found.same("manifest.json", "format", manifest.get("format"), FORMAT, "this version")
            whole = json.dumps(manifest, ensure_ascii=False, indent=1) + "\n"
            names = list(manifest.get("files") or {})
            if (run.path / "manifest.json").read_text(encoding="utf-8") != whole or names != sorted(names):
                found.fault("manifest.json", "", "was altered: it is not as the kit writes it")
            listed = _compare(run, found, "manifest.json", manifest.get("files"), trimmed)
            for name in there:
                if name not in listed:
                    found.fault(name, "", "is not in manifest.json")
    elif (run.path / "report.json").exists():
        found.notes.append("no manifest.json: files outside the steps are held by their arithmetic alone")


def _compare(run: Run, found: Findings, where: str, files: Any, trimmed: bool) -> set[str]:
    if not isinstance(files, dict):
        found.fault(where, "files", "is no object of names and SHA-256")
        return set()
    for name, digest in files.items():
        path = run.path / name
        found.checked += 1
        if not path.is_file():
            if not (trimmed and set(TRIMMED) & set(name.split("/"))):
                found.fault(name, "", f"is missing, but {where} names it")
        elif sha256(path) != digest:
            found.fault(name, "", f"was altered: its SHA-256 is not the one in {where}")
    return set(files)


def provenance(run: Run, found: Findings) -> None:
    """What a number needs to be traced is there and makes sense."""
    info = run.info
    for name in ("commit", "hardware", "platform", "created"):
        if not isinstance(info.get(name), str) or not info[name]:
            found.fault("run.json", name, f"is {info.get(name)!r}; expected a text")
    for name in ("python", "sia_nb"):
        if not isinstance(info.get("versions", {}).get(name), str):
            found.fault("run.json", f"versions.{name}", "is missing")
    try:
        datetime.fromisoformat(str(info.get("created")))
    except ValueError:
        found.fault("run.json", "created", f"is {info.get('created')!r}; expected a date and time")
    if run.executed() and not info.get("data") and get_task(run.config.task).data_files:
        found.fault("run.json", "data", "names no checksum of the data")
    for name, digest in (info.get("data") or {}).items():
        found.checked += 1
        if not HEX.fullmatch(str(digest)):
            found.fault("run.json", f"data.{name}", f"is {digest!r}; expected a SHA-256")


def calls(run: Run, found: Findings) -> None:
    """Questions and answers are those whose fingerprints stand beside them, and the steps' are among them."""
    name = "agent_calls.jsonl"
    entries = found.lines(name)
    numbers = [e.get("call") for e in entries if e.get("event") != "end"]
    found.same(name, "call", numbers, sorted(set(numbers)), "their order")
    begun: dict[int, dict[str, Any]] = {}
    for line, e in enumerate(entries, 1):
        where = f"line {line}"
        if e.get("event") not in EVENTS:
            found.fault(name, where, f"event is {e.get('event')!r}; expected one of {', '.join(EVENTS)}")
        elif e["event"] == "begin":
            begun[e["call"]] = e
            found.same(name, f"{where}: request_sha", e["request_sha"], sha(e["request"]), "the request")
        elif e["event"] == "end" and e["call"] not in begun:
            found.fault(name, f"{where}: call", f"{e['call']} ends and has not begun")
        elif e["event"] == "result":
            found.same(name, f"{where}: inputs_sha", e["inputs_sha"], sha(e["inputs"]), "the inputs")
            if e["purpose"] != "write":
                _question(run, found, name, where, e["inputs"])


def _question(run: Run, found: Findings, name: str, where: str, inputs: dict[str, Any]) -> None:
    """What F was given at a step is what the step's files hold."""
    g = inputs["step"]
    if g not in run.executed():
        found.fault(name, f"{where}: inputs.step", f"is {g}, a step that was not executed")
        return
    metrics = run.metrics(g)
    now = {"scaffold": sha(run.scaffold(g)), "incumbent": sha(run.scaffold(metrics["incumbent"]))}
    now["trajectory"] = _fingerprint(Trajectory.read(run.step(g) / "trajectory.jsonl"))
    now |= {f"metrics.{k}": sha(v) for k, v in _steady(metrics).items()}
    now |= {"seed": run.config.seed * 1000 + g, "steps_left": run.config.steps - g, "task": run.config.task}
    for key, value in now.items():
        found.same(name, f"{where}: inputs.{key}", inputs.get(key), value, f"step {g}")


def ledger(run: Run, found: Findings) -> None:
    """Each phase stands there once with what its own files say it spent, and each call of an agent with its cost."""
    name = "ledger.jsonl"
    entries = found.lines(name)
    spent: dict[tuple[str, int], dict[str, Any]] = {}
    for line, e in enumerate(entries, 1):
        if e["what"] == "phase":
            if (e["phase"], e["step"]) in spent:
                found.fault(name, f"line {line}", f"phase '{e['phase']}' of step {e['step']} stands there twice")
            spent[e["phase"], e["step"]] = e
        for key in ("verifier_calls", "tokens", "seconds"):
            if isinstance(e[key], bool) or not isinstance(e[key], int | float) or not 0 <= e[key] < math.inf:
                found.fault(name, f"line {line}: {key}", f"is {e[key]!r}; expected a number of at least 0")
    due = {}
    for g in run.executed():
        used, trained = run.metrics(g)["used"], {"verifier_calls": 0, "tokens": 0}
        if (run.step(g) / "train.done.json").exists():
            trained = {k: read_json(run.step(g) / "weights" / "result.json")[k] for k in trained}
            due["train", g] = trained
        due["run", g] = {k: v - trained.get(k, 0) for k, v in used.items()}
    due |= {("decision", g): {} for g in run.executed() if (run.step(g) / "decision.done.json").exists()}
    due |= {("init", 1): {}} if (run.step(1) / "init.done.json").exists() else {}
    due |= {("report", run.executed()[-1]): {}} if (run.path / "report.json").exists() and run.executed() else {}
    for (phase, g), amounts in due.items():
        entry = spent.pop((phase, g), None)
        if entry is None:
            found.fault(name, "", f"has no entry of phase '{phase}' of step {g}")
            continue
        for key, value in amounts.items():
            value = round(value, 3) if key == "seconds" else value
            found.same(name, f"{phase}, step {g}: {key}", entry[key], value, f"step_{g:03d}")
    if (run.path / "report.json").exists():
        for phase, g in spent:
            found.fault(name, f"{phase}, step {g}", "stands there, but no such phase has ended")
    ends = {e["call"]: e["usage"] for e in found.lines("agent_calls.jsonl") if e["event"] == "end"}
    listed = Counter(e["call"] for e in entries if "call" in e)
    for call, times in listed.items():
        if times > 1 or call not in ends:
            found.fault(name, f"call {call}", "stands there twice" if times > 1 else "is not in agent_calls.jsonl")
    for call, usage in ends.items():
        entry = next((e for e in entries if e.get("call") == call), None)
        if entry is None:
            found.fault(name, f"call {call}", "is missing, but agent_calls.jsonl says that it ended")
            continue
        for key in ("dollars", *[k for k in usage if k.endswith("_tokens")]):
            found.same(name, f"call {call}: {key}", entry.get(key), usage.get(key), "agent_calls.jsonl")


def report(run: Run, found: Findings) -> None:
    """What the report says follows from the steps; only the sealed figures themselves rest on its hash."""
    name = "report.json"
    if not (run.path / name).exists():
        found.notes.append("no report.json: the run is not finished")
        return
    said, config = found.json(name), run.config
    if said is None:
        return
    steps = run.executed()
    if not steps:
        found.fault(name, "", "is there, but no step was executed")
        return
    for key, value in (("format", FORMAT), ("task", config.task), ("seed", config.seed)):
        found.same(name, key, said.get(key), value, "run.json")
    if said.get("run") != run.path.name:
        found.notes.append(f"the folder is called {run.path.name}, but the run {said.get('run')}")
    found.same(name, "arms", sorted(said["arms"]), sorted({"baseline", config.arm}), "run.json")
    last = run.step(steps[-1]) / "decision.json"
    if steps[-1] < config.steps and not (last.exists() and read_json(last)["action"] == "stop"):
        found.fault(name, "", f"is there after {steps[-1]} of {config.steps} steps, and F did not stop")
    metrics = [run.metrics(g) for g in steps]
    first, known = metrics[0], {_identity(config.task, s["solution"]) for m in metrics for s in m["solutions"]}
    own, base = said["arms"][config.arm], said["arms"]["baseline"]
    expected = first["solution"] if first["valid"] else None
    found.same(name, "arms.baseline.solution", base["solution"], expected, "step_001/metrics.json")
    for arm, entry, used in (("baseline", base, [first["used"]]), (config.arm, own, [m["used"] for m in metrics])):
        for key in ("verifier_calls", "tokens"):
            found.same(name, f"arms.{arm}.{key}", entry[key], sum(u[key] for u in used), "the steps' metrics.json")
        value = entry["test"].get(said["metric"])
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            found.fault(name, f"arms.{arm}.test.{said['metric']}", f"is {value!r}; expected a number")
        if entry["solution"] is not None:
            ids = [Solution(d, entry["solution"]).id for d in ("spec", "code")]
            found.checked += 1
            if entry["solution_id"] not in ids:
                found.fault(name, f"arms.{arm}.solution_id", f"is {entry['solution_id']!r}, not the solution's")
    if (run.path / "seal.json").exists():  # written just before the sealed test was opened
        ids = {arm: entry.get("solution_id") for arm, entry in said["arms"].items()}
        found.same("seal.json", "solutions", read_json(run.path / "seal.json")["solutions"], ids, name)
    if own["solution"] not in (None, expected) and _identity(config.task, own["solution"]) not in known:
        found.fault(name, f"arms.{config.arm}.solution", "was found in none of the steps")
    if own["solution"] is not None and base["solution"] is not None and own["dev"] < base["dev"] and "reason" not in own:
        found.fault(name, f"arms.{config.arm}.dev", f"is {own['dev']}, below the baseline's {base['dev']}, which was compared")


def _identity(task: str, text: str) -> str:
    """The id of a solution however it is written, 0 or 0.0 say; its text where it is none."""
    try:
        return get_task(task).parse(text).id
    except InvalidSolution:
        return text
