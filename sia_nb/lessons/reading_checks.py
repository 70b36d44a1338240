"""Checks of the exercises on reading a trajectory: each looks at an answer and says what is wrong with it, naming an event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..agents.playbook.edits import BY_NAME
from ..errors import nearest
from ..steps import trajectory
from ..store import find_run
from ..trajectory import Trajectory, text_sha
from . import reading
from .answers import Wrong, called, judged
from .checking import dictionary, event_ids

TRIED = (  # the steps on which a learner's functions are tried; the second has answers that were never handed to extract
    ("lawbench-H-cpu-playbook-s0-c548c2", 1),
    ("lawbench-H-cpu-playbook-s0-c548c2", 2),
    ("lawbench-W-cpu-playbook-s0-4ced76", 4),
    ("lawbench-W-cpu-playbook-s1-04fa34", 2),
    ("lawbench-W-cpu-playbook-s1-04fa34", 8),
)
ASKED = {  # what each kind of event says
    "start": "says what the execution may spend",
    "sample": "is what was asked of the policy",
    "extract": "is the attempt to read an answer",
    "evaluate": "is what was handed to the verifier",
    "verdict": "is what the verifier said",
    "submit": "is the scaffold's answer",
    "end": "says what was spent",
}


def _tried() -> list[tuple[str, Trajectory]]:
    return [(f"{name}, step {g}", trajectory(find_run(name, committed=True), g)) for name, g in TRIED]


@judged
def check_unreadable(function: Callable[[Trajectory], Any]) -> str:
    """Exercise 1: ids of the responses that were handed to extract and could not be read."""
    count = 0
    for where, tau in _tried():
        got = event_ids(called(function, tau), {e.id for e in tau}, where)
        wanted = reading.unreadable(tau)
        for number in got:
            if number not in wanted:
                raise Wrong(f"{where}: {_why_not(tau, number)}")
        if missed := [i for i in wanted if i not in got]:
            raise Wrong(f"{where}: response {missed[0]} was handed to extract, which read nothing in it; it is not in your list")
        if len(got) != len(set(got)):
            raise Wrong(f"{where}: an id stands twice in your list; equal texts have one text_sha, and each response its own id")
        count += len(got)
    return f"{count} unreadable answers in {len(TRIED)} steps"


def _why_not(tau: Trajectory, number: int) -> str:
    """Why an event is no unreadable response."""
    event = tau[number]
    if event.kind != "response":
        return f"event {number} is of kind '{event.kind}', which {ASKED.get(event.kind, 'is no answer')}; name the response"
    tries = [e for e in tau.of("extract") if e.data["text_sha"] == text_sha(event.data["text"])]
    if not tries:
        return (
            f"response {number} was never handed to extract (the budget ended before): nobody tried to read it, so it is not "
            "unreadable. Look for an extract event with its text_sha and ok false"
        )
    gave = reading.says(tries[0])[:60]
    return f"response {number} was read: extract {tries[0].id} gave {gave}. The verdict says whether that is valid"


@judged
def check_failures(function: Callable[[Trajectory], Any]) -> str:
    """Exercise 2: the counts of all four ways to fail."""
    for where, tau in _tried():
        got = dictionary(called(function, tau), list(reading.MODES), where)
        wanted = reading.failures(tau)
        for mode in reading.MODES:
            if got[mode] != wanted[mode]:
                raise Wrong(f"{where}: '{mode}' is {got[mode]!r}, expected {wanted[mode]}. {_miscounted(tau, mode, got[mode])}")
    return f"four counts on each of {len(TRIED)} steps"


def _miscounted(tau: Trajectory, mode: str, got: Any) -> str:
    """What was probably counted instead."""
    verdicts = tau.of("verdict")
    final = [e for e in verdicts if e.data.get("final")]
    own = [e for e in verdicts if not e.data.get("final")]
    start, end = tau.of("start")[0], tau.of("end")[-1]
    cap, used = (e.data[k]["verifier_calls"] for e, k in ((start, "budget"), (end, "used")))
    if mode == "unreadable":
        return "Count what exercise 1 finds"
    if mode == "refused":
        if got == reading.failures(tau)["refused"] + len(reading.unreadable(tau)):
            return "An answer that could not be read never reached the verifier; it is not refused"
        return "Count the verdicts that are not valid, by their `failure`"
    if mode == "repeats":
        if final and got == sum(e.data["repeat"] for e in verdicts):
            return f"Verdict {final[0].id} is marked `final`: the host scored what was submitted; the scaffold did not ask for it"
        return "A verdict says itself whether the run had scored that solution before: its `repeat`"
    if got == cap - len(own) and any(e.data["repeat"] for e in own):
        return f"A repeat costs no call; event {end.id} says what was used: {used:.0f} of {cap:.0f}"
    if final and got == cap - len(verdicts):
        return f"Verdict {final[0].id} is marked `final`: the host asked for it, and it costs no call"
    return f"Event {start.id} says what might be spent, {cap:.0f}, event {end.id} what was, {used:.0f}"


@judged
def check_evidence(letter: str, answer: Any) -> str:
    """Exercise 3: for each edit that followed a step, the cited events that call for it."""
    run, step = reading.case(letter)
    tau, wanted = reading.trajectory(letter), reading.evidence_for(run, step)
    cited = set(reading.decision(run, step).evidence)
    answer = dictionary(answer, list(wanted), "evidence")
    given = {edit: set(event_ids(answer[edit], {e.id for e in tau}, edit)) for edit in wanted}
    for edit, ids in given.items():
        for number in sorted(ids - wanted[edit]):
            other = next((name for name, theirs in wanted.items() if number in theirs), "")
            if other:
                raise Wrong(f"{edit}: event {number} ({_shows(tau, number)}) calls for `{other}`: {_sentence(other)}")
            kind = tau[number].kind
            more = "" if number in cited else "; the decision does not cite it"
            raise Wrong(f"{edit}: event {number} is of kind '{kind}', which {ASKED.get(kind, 'is an answer')}{more}")
        if missed := sorted(wanted[edit] - ids):
            raise Wrong(f"{edit}: event {missed[0]} ({_shows(tau, missed[0])}) calls for it, too, and the decision cites it")
    return f"all {len(cited)} events that the decision cites stand with the edit that they call for"


def _shows(tau: Trajectory, number: int) -> str:
    return f"{tau[number].kind}: {reading.says(tau[number])[:60]}"


def _sentence(edit: str) -> str:
    return BY_NAME[edit].sentence


@judged
def check_diagnosis(worst: Any, cure: Any) -> str:
    """Exercise 4: by case, the way to fail that most answers come to, and an edit that answers it."""
    letters = list(reading.CASES)
    worst, cure = dictionary(worst, letters, "worst"), dictionary(cure, letters, "cure")
    offered = list(reading.edits().index)
    for letter in letters:
        tau, said = reading.trajectory(letter), worst[letter]
        if said not in reading.MODES:
            raise Wrong(
                f"case {letter}: {said!r} is no way to fail; they are {', '.join(reading.MODES)}.{nearest(said, reading.MODES)}"
            )
        counted = {m: reading.share(tau, m) for m in reading.MODES[:3]}
        real = max(counted, key=lambda m: counted[m][0])
        if said == "unused":
            left, cap = reading.share(tau, "unused")
            raise Wrong(
                f"case {letter}: {left} of {cap} calls are left, true, but that is a consequence: what became of the answers?"
            )
        if said != real:
            n, of = counted[said]
            shown = reading.example(tau, real)
            raise Wrong(
                f"case {letter}: {n} of {of} are '{said}'; there is more of something else: see event {shown.id}, a {shown.kind}"
            )
        if cure[letter] not in offered:
            raise Wrong(
                f"case {letter}: {cure[letter]!r} is none of the edits: {', '.join(offered)}.{nearest(cure[letter], offered)}"
            )
        if real not in reading.answers_to(cure[letter]):
            shown = reading.example(tau, real)
            raise Wrong(
                f"case {letter}: `{cure[letter]}` would not have helped. {_sentence(cure[letter])} But look at event {shown.id}: "
                f"{_shows(tau, shown.id)}"
            )
    return "three scaffolds, three reasons to fail, and for each an edit that a person would make"
