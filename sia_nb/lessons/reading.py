"""The lesson on reading a trajectory: committed runs, their events as a table, and what went wrong in them, counted.

All of it is read from results/reference/lessons, which a new study leaves as it is. Ways to fail, of one execution:

    unreadable  answers of the policy that were handed to ``extract`` and gave no solution
    refused     solutions that were handed to the verifier and are none of the space (no valid spec)
    repeats     verdicts on solutions that the run had scored before
    unused      verifier calls left at the end
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from .. import phases
from ..agents.base import Decision
from ..agents.playbook.diagnose import diagnose
from ..agents.playbook.edits import BY_NAME
from ..agents.reading import SPEC_FAILURES, Reading
from ..steps import history
from ..store import Run, find_run, read_json
from ..trajectory import Event, Trajectory, text_sha
from ..view.inspect import summary

MODES = ("unreadable", "refused", "repeats", "unused")
CASES = {  # by letter: a step of a committed run
    "A": ("lawbench-H-cpu-playbook-s0-c548c2", 1),
    "B": ("lawbench-W-cpu-playbook-s0-4ced76", 4),
    "C": ("lawbench-W-cpu-playbook-s1-04fa34", 8),
}
LINKS = {  # which findings of the Feedback-Agent's diagnosis belong to a way to fail
    "unreadable": ("no_json", "broken_json", "truncated"),
    "refused": ("unknown_field", "missing_field", "bad_value"),
    "repeats": ("repeats",),
    "unused": ("unused_calls",),
}


def case(letter: str) -> tuple[Run, int]:
    """The run and the step of a case."""
    name, step = CASES[letter]
    return find_run(name, committed=True), step


def trajectory(letter: str) -> Trajectory:
    """The trajectory of a case."""
    return phases.trajectory(*case(letter))


def events(tau: Trajectory, *kinds: str) -> pd.DataFrame:
    """A row an event, of these kinds (all if none are named): id, kind, what it says in short."""
    rows = [{"id": e.id, "kind": e.kind, "says": says(e)} for e in tau if not kinds or e.kind in kinds]
    return pd.DataFrame(rows, columns=["id", "kind", "says"]).set_index("id")


def says(event: Event) -> str:
    """An event in one short line."""
    d = event.data
    if event.kind in ("start", "end"):
        return ", ".join(f"{k} {v:g}" for k, v in d["budget" if event.kind == "start" else "used"].items())
    if event.kind == "extract" and not d["ok"]:
        return f"nothing read in text {d['text_sha']}"
    marks = [word for word in ("repeat", "final") if event.kind == "verdict" and d.get(word)]
    return summary(event) + "".join(f" ({word})" for word in marks)


def unreadable(tau: Trajectory) -> list[int]:
    """Ids of the responses that ``extract`` was given and could not read, in order."""
    read = {e.data["text_sha"]: e.data["ok"] for e in tau.of("extract")}
    return [e.id for e in tau.of("response") if read.get(text_sha(e.data["text"])) is False]


def failures(tau: Trajectory) -> dict[str, int]:
    """How often an execution failed in each of ``MODES``; the verdict that the host asked for (``final``) is left out."""
    asked = [e for e in tau.of("verdict") if not e.data.get("final")]
    start, end = tau.of("start")[0], tau.of("end")[-1]
    return {
        "unreadable": len(unreadable(tau)),
        "refused": sum(e.data["failure"] in SPEC_FAILURES for e in asked),
        "repeats": sum(e.data["repeat"] for e in asked),
        "unused": int(start.data["budget"]["verifier_calls"] - end.data["used"]["verifier_calls"]),
    }


def by_step(run: Run) -> pd.DataFrame:
    """The failures of each step, with its answers, verdicts and score."""
    rows = []
    for g in run.executed():
        tau = phases.trajectory(run, g)
        asked = [e for e in tau.of("verdict") if not e.data.get("final")]
        more = {"answers": len(tau.of("response")), "verdicts": len(asked), "score": run.metrics(g)["score"]}
        rows.append({"step": g, **failures(tau), **more})
    return pd.DataFrame(rows).set_index("step")


def decision(run: Run, step: int) -> Decision:
    """What the Feedback-Agent chose after a step, as recorded."""
    return Decision(**read_json(run.step(step) / "decision.json"))


def evidence_for(run: Run, step: int) -> dict[str, set[int]]:
    """For each edit that a harness update made: which of the events that the decision cites call for it.

    An edit is called for by findings; the diagnosis is made anew from the trajectory, and each finding names its events.
    """
    cited = set(decision(run, step).evidence)
    found = {f.name: set(f.evidence) for f in diagnose(phases.trajectory(run, step), run.metrics(step), history(run, step))}
    edits = [name for name in run.origin(step + 1)["edits"] if name in BY_NAME]
    return {name: cited & {i for f in BY_NAME[name].calls for i in found.get(f, ())} for name in edits}


def edits() -> pd.DataFrame:
    """The edits that the exercise offers, each with what it changes."""
    offered = ("examples", "mend_answers", "remember", "structured_output", "submit_as_found", "use_whole_budget")
    return pd.DataFrame({"what it changes": {name: BY_NAME[name].sentence for name in offered}})


def answers_to(edit: str) -> list[str]:
    """The ways to fail that an edit answers."""
    return [mode for mode, names in LINKS.items() if any(BY_NAME[edit].calls.get(n, 0) >= 0.5 for n in names)]


def share(tau: Trajectory, mode: str) -> tuple[int, int]:
    """How many of how many: of the answers, of the verdicts, or of the verifier calls."""
    reading = Reading(tau, {})
    tried = sum(a.extracted for a in reading.answers)
    of = {"unreadable": tried, "refused": len(reading.verdicts), "repeats": len(reading.verdicts)}
    return failures(tau)[mode], int(of.get(mode, reading.budget["verifier_calls"]))


def example(tau: Trajectory, mode: str) -> Any:
    """An event that shows a way to fail, or None."""
    if mode == "unreadable":
        return next((tau[i] for i in unreadable(tau)), None)
    if mode == "unused":
        return tau.of("end")[-1]
    bad = (lambda d: d["failure"] in SPEC_FAILURES) if mode == "refused" else (lambda d: d["repeat"])
    return next((e for e in tau.of("verdict") if not e.data.get("final") and bad(e.data)), None)
