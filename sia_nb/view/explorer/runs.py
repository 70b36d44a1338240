"""Run folders as plain data: which there are and how they stand, a run's steps, decisions and ledger. Used by ``model``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import StoreError
from ...store import Run
from . import files
from .describe import summary
from .events import EventLog
from .files import number, table

LEVERS = {"init": "start", "harness": "H", "weights": "W"}


def describe(name: str, folder: Path) -> dict[str, Any]:
    """One line of the list of runs; a folder that cannot be read is a line too, with the reason as its note."""
    row: dict[str, Any] = {"name": name, "task": "", "arm": "", "seed": None, "agent": "", "steps": 0, "state": "damaged"}
    row |= {"score": None, "report": None, "note": ""}
    try:
        run = files.open_run(folder)
    except StoreError as error:
        return row | {"note": str(error)}
    config, info = run.config, run.info
    row |= {"task": config.task, "arm": config.arm, "seed": config.seed, "agent": config.agent, "planned": config.steps}
    row |= {"profile": config.profile, "instance": config.instance, **{k: str(info.get(k, "")) for k in ("created", "hardware")}}
    notes = [str(n) for n in info.get("notices") or []]
    try:
        done = [g for g in files.numbered(run) if files.executed(run, g)]
        row["steps"] = len(done)
        if done:
            row["score"] = number(table(run.step(incumbent(run, done[-1])) / "metrics.json").get("score"))
        row["report"] = report(run)
        row["state"] = "running" if files.live(run) else "finished" if row["report"] else "unfinished"
    except StoreError as error:
        notes.append(str(error))
    if row["state"] == "unfinished":
        notes.append(f"{row['steps']} of {config.steps} steps are done: `python -m sia_nb resume {folder.name}` goes on.")
    return row | {"note": " ".join(notes)}


def report(run: Run) -> dict[str, Any] | None:
    """report.json: what the sealed test said; None before it was opened.

    Raises:
        StoreError: it is damaged.
    """
    return table(run.path / "report.json") or None


def incumbent(run: Run, g: int) -> int:
    """The step that the loop goes on from after step g; g itself where that is not known.

    Raises:
        StoreError: the step's metrics are damaged.
    """
    found = table(run.step(g) / "metrics.json").get("incumbent")
    return found if type(found) is int and found in files.numbered(run) else g


# -- steps -----------------------------------------------------------------------------------------------


def steps(run: Run) -> dict[str, Any]:
    """A row a step, and what is damaged: {"steps", "damaged"}."""
    damaged: list[dict[str, Any]] = []
    entries, bad = files.lines(run.path / "ledger.jsonl")
    damaged += [{"g": None, "message": f"{run.path / 'ledger.jsonl'}, line {n} is damaged; it is left out."} for n in bad]
    out, best = [], None
    for g in files.numbered(run):
        row: dict[str, Any] = {"g": g, "lever": "", "algorithm": "", "score": None, "se": None, "best": best, "incumbent": False}
        row |= {"rolled_back": False, "verifier_calls": None, "tokens": None, "rule": "", "note": "", "edits": [], "parent": 0}
        row |= {"author": "", "valid": None, "solution": None, "done": files.executed(run, g)}
        row["events"] = files.count_lines(files.trajectory_path(run, g))
        spent = [_amounts(e) for e in entries if e.get("step") == g]
        row |= {name: sum(e[name] for e in spent) for name in ("seconds", "dollars")}
        for read in (_origin, _rule, _metrics):
            try:
                row |= read(run, g)
            except StoreError as error:
                damaged.append({"g": g, "message": str(error)})
        if row["incumbent"] and row["score"] is not None:
            best = row["score"]
        out.append(row | {"best": best})
    return {"steps": out, "damaged": damaged}


def _origin(run: Run, g: int) -> dict[str, Any]:
    """What made the step; of one that is being trained only the lever and the algorithm are known."""
    o = table(run.step(g) / "origin.json")
    if not o:
        hyper = table(run.step(g) / "weights" / "hyper.json")
        return {"lever": "W", "algorithm": str(hyper.get("algorithm", ""))} if hyper else {}
    told = {"lever": LEVERS.get(str(o.get("action")), str(o.get("action", ""))), "algorithm": str(o.get("algorithm") or "")}
    edits = o.get("edits")
    told["edits"] = [str(e) for e in edits] if isinstance(edits, list) else []
    return told | {"parent": number(o.get("parent")) or 0, "author": str(o.get("author", ""))}


def _rule(run: Run, g: int) -> dict[str, Any]:
    """The rule of the decision that made step g, which stands in the step before."""
    return {"rule": str(table(run.step(g - 1) / "decision.json").get("rule") or "") if g > 1 else ""}


def _metrics(run: Run, g: int) -> dict[str, Any]:
    m = table(run.step(g) / "metrics.json")
    if not m:
        return {}
    used = m.get("used") if isinstance(m.get("used"), dict) else {}
    told = {
        "score": number(m.get("score")),
        "se": number(m.get("noise")),
        "valid": m.get("valid"),
        "note": str(m.get("note", "")),
    }
    told |= {"incumbent": bool(m.get("accepted")), "rolled_back": not m.get("accepted"), "solution": m.get("solution")}
    return told | {k: number(used.get(k)) for k in ("verifier_calls", "tokens")}


# -- decisions -------------------------------------------------------------------------------------------


def decision(run: Run, g: int, log: EventLog | None) -> dict[str, Any]:
    """The answer to ``decision``: F's choice after step g, with the events of step g that it cites; None before it chose.

    Raises:
        StoreError: decision.json is damaged.
    """
    d = table(run.step(g) / "decision.json")
    told = {"improvement": files.text(run.step(g) / "improvement.md")}
    if not d:
        return told | {"decision": None}
    cited = d.get("evidence") if isinstance(d.get("evidence"), list) else []
    hyper = d.get("hyperparameters") if isinstance(d.get("hyperparameters"), dict) else {}
    words = {key: str(d.get(key) or "") for key in ("action", "algorithm", "rule", "rationale")}
    evidence = [_cited(g, e, log) for e in cited if type(e) is int]
    return told | {"decision": words | {"hyperparameters": hyper, "evidence": evidence}}


def _cited(g: int, event_id: int, log: EventLog | None) -> dict[str, Any]:
    n = log.row_of(event_id) if log else None
    if log is None or n is None:
        return {"g": g, "event": event_id, "n": None, "kind": "missing", "text": "no such event in the trajectory"}
    event = log.event(n)
    return {"g": g, "event": event_id, "n": n, "kind": event["kind"], "text": summary(event["kind"], event["data"])}


# -- ledger ----------------------------------------------------------------------------------------------

AMOUNTS = ("seconds", "input_tokens", "output_tokens", "sampled_tokens", "verifier_calls", "dollars")


def _amounts(entry: dict[str, Any]) -> dict[str, float]:
    return {name: number(entry.get("tokens" if name == "sampled_tokens" else name)) or 0 for name in AMOUNTS}


def ledger(run: Run) -> dict[str, Any]:
    """The answer to ``ledger``: what each phase spent, in order of first appearance, and the sum.

    Input tokens hold those written to and read from a cache; ``unpriced`` counts entries whose price is not known.
    """
    entries, bad = files.lines(run.path / "ledger.jsonl")
    nothing = dict.fromkeys(AMOUNTS, 0) | {"unpriced": 0, "entries": 0}
    phases: dict[str, dict[str, Any]] = {}
    for entry in entries:
        row = phases.setdefault(str(entry.get("phase", "?")), dict(nothing))
        for name, amount in _amounts(entry).items():
            row[name] += amount
        row["input_tokens"] += sum(number(entry.get(f"cache_{way}_tokens")) or 0 for way in ("write", "read"))
        row["unpriced"] += entry.get("dollars") is None
        row["entries"] += 1
    total = {name: sum(row[name] for row in phases.values()) for name in nothing}
    return {"phases": [{"phase": phase, **row} for phase, row in phases.items()], "total": total, "damaged": bad}
