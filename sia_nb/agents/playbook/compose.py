"""Which edits, on which parent: the choice behind A_{g+1} = F(A_g, τ_g, E_g, U).

An edit's use is the summed weight of the findings it answers; edits are taken greedily, and a finding
answered once counts no more for the next one. A combination that was rolled back on a parent is not
tried on it again. Edits of a rolled-back step that did no harm stay in the next combination: what they
mend is mended in that step's trajectory, so no finding calls for them any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...scaffold.contract import ScaffoldError, check
from ..base import StepSummary, View
from .diagnose import Finding
from .edits import BY_NAME, EDITS, Edit
from .tuning import tuning

LIMIT = 2  # edits chosen in one step; what they build on comes on top
LEAST = 0.05  # summed weight of findings below which an edit is not worth its risk


@dataclass(frozen=True)
class Plan:
    """A composed scaffold and how it came about."""

    source: str
    edits: tuple[Edit, ...]
    answered: tuple[Finding, ...]
    basis: str  # which parent, in prose


def since_accepted(history: tuple[StepSummary, ...]) -> list[StepSummary]:
    """The harness steps rolled back since the incumbent's scaffold was accepted, oldest first.

    Weight updates, kept or not, leave the scaffold as it is and are passed over.
    """
    out: list[StepSummary] = []
    for step in reversed(history):
        if step.action == "weights":
            continue
        if step.accepted:
            break
        out.append(step)
    return out[::-1]


def plan(view: View, findings: list[Finding]) -> Plan:
    """The edits for the next scaffold, composed."""
    failed = since_accepted(view.history)
    barred = {frozenset(step.edits) for step in failed}
    carried = _carried(view, failed)
    source, done = view.incumbent, []
    for name in carried:
        edit = BY_NAME.get(name)
        if edit is not None and edit.applicable(source):
            source = edit.apply(source)
            done.append(edit)
    kept = len(done)
    basis = "The edits go on top of the scaffold that ran."
    if failed:
        again = f", with {', '.join(f'`{e.name}`' for e in done)} again, which did no harm" if done else ""
        which = "last step" if failed[-1] is view.history[-1] else "last change of the scaffold"
        basis = f"The {which} was rolled back: the edits go on top of the best scaffold so far{again}."
    source, answered = _greedy(source, findings, done, barred)
    if len(done) == kept:
        for edit in tuning(source, findings):
            if frozenset(e.name for e in [*done, edit]) not in barred:
                source = edit.apply(source)
                answered = [f for f in findings if f.name in edit.calls]
                done.append(edit)
                break
    if len(done) == kept:
        return Plan(view.incumbent, (), (), basis)
    return Plan(source, tuple(done), tuple(answered), basis)


def _carried(view: View, failed: list[StepSummary]) -> tuple[str, ...]:
    """The edits of the last rolled-back step, unless it scored below the incumbent by more than the noise."""
    kept = [step for step in view.history if step.accepted]
    if not failed or not kept:
        return ()
    incumbent = kept[-1].score
    for step in reversed(failed):
        if step.score >= incumbent - step.noise:
            return step.edits
    return ()


def _with_needs(edit: Edit, source: str) -> list[Edit]:
    """The edit after those it builds on that the source lacks."""
    out: list[Edit] = []
    for name in edit.needs:
        if BY_NAME[name].applicable(source):
            out += [e for e in _with_needs(BY_NAME[name], source) if e not in out]
    return [*out, edit]


def _apply(chain: list[Edit], source: str) -> str | None:
    """The source with the edits, or None where code by another hand lacks a place that one of them needs."""
    try:
        for edit in chain:
            source = edit.apply(source)
        check(source)
    except (LookupError, ScaffoldError):
        return None
    return source


def _greedy(source: str, findings: list[Finding], done: list[Edit], barred: set[frozenset[str]]) -> tuple[str, list[Finding]]:
    """Add to ``done`` up to ``LIMIT`` edits by their use; returns the new source and the findings answered."""
    open_weight = {f.name: f.weight for f in findings}
    answered: set[str] = set()
    for _ in range(LIMIT):
        ranked = []
        for edit in EDITS:
            use = sum(open_weight[name] * share for name, share in edit.calls.items() if name in open_weight)
            if use > LEAST and edit.applicable(source):
                chain = _with_needs(edit, source)
                if frozenset(e.name for e in [*done, *chain]) not in barred:
                    ranked.append((use, chain))
        if not ranked:
            break
        ranked.sort(key=lambda entry: -entry[0])
        chain, changed = next(((c, new) for _, c in ranked if (new := _apply(c, source)) is not None), ([], None))
        if changed is None:
            break
        source = changed
        done += chain
        for edit in chain:
            for name, share in edit.calls.items():
                if name in open_weight:
                    answered.add(name)
                    open_weight[name] *= 1 - share
    return source, [f for f in findings if f.name in answered]
