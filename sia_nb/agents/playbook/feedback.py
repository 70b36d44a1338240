"""The playbook's Feedback-Agent: decide(A_g, τ_g, E_g, U) by named rules, A_{g+1} = F(A_g, τ_g, E_g, U) by edits.

``view.history`` is read as ending with step g itself, already accepted or rolled back.
"""

from __future__ import annotations

from dataclasses import replace

from ...scaffold.contract import check
from ..base import Decision, Improvement, View
from .compose import Plan, plan
from .diagnose import Finding, diagnose
from .levers import STALLED, Turn, barred, choose_lever, stalled, trainable
from .weights import weights_decision


class PlaybookFeedbackAgent:
    """Deterministic: the same view gives the same decision and the same edits."""

    kind = "playbook"
    model = "playbook"

    def __init__(self, task):
        self.task = task

    def decide(self, view: View) -> Decision:
        """The next action, one of ``view.allowed``, with the rule that chose it."""
        findings = diagnose(view.trajectory, view.metrics, view.history)
        seen = f"Seen first: {findings[0].prose}." if findings else "The trajectory shows no failure."
        chosen = plan(view, findings)
        turn = self._turn(view, chosen) if trainable(view) else None
        if turn is not None and turn.lever == "weights":
            return weights_decision(view, turn.rule, f"{turn.why} {seen}")
        if turn is not None and "harness" not in view.allowed:
            return Decision("stop", f"{turn.why} {seen} The harness is not open to change.", rule=f"{turn.rule}/nothing_left")
        by_edits = _harness_or_stop(view, findings, chosen, seen)
        if turn is None:
            return by_edits
        return replace(by_edits, rule=f"{turn.rule}/{by_edits.rule}", rationale=f"{turn.why} {by_edits.rationale}")

    def _turn(self, view: View, chosen: Plan) -> Turn:
        """The lever, of those permitted; a weight update without a signal only where nothing else is permitted."""
        bar = barred(view)
        if set(view.allowed) == {"weights"}:
            return Turn("weights", "only_action", "The run permits nothing but weight updates.")
        if bar is not None and "harness" not in view.allowed and bar.rule in ("first_structured_output", "no_spread"):
            why = f"{bar.why} The run permits weight updates alone: what code mutation writes into the groups is its signal."
            return Turn("weights", "only_lever", why)
        if bar is not None:
            return bar
        if "harness" not in view.allowed:
            return Turn("weights", "only_lever", "The run permits weight updates alone.")
        turn = choose_lever(view)
        if turn.lever == "harness" and not chosen.edits:
            return Turn("weights", "no_edit_left", f"{turn.why} No edit is left to try on this scaffold.")
        return turn

    def improve(self, view: View) -> Improvement:
        """The report and A_{g+1}; the incumbent as it is where no edit is called for."""
        findings = diagnose(view.trajectory, view.metrics, view.history)
        chosen = plan(view, findings)
        check(chosen.source)
        return Improvement(_report(view, findings, chosen), chosen.source, tuple(edit.name for edit in chosen.edits))


def _harness_or_stop(view: View, findings: list[Finding], chosen: Plan, seen: str) -> Decision:
    """The decision where the weights do not have the turn."""
    if "harness" in view.allowed and chosen.edits:
        names = " and ".join(f"`{edit.name}`" for edit in chosen.edits)
        cited = tuple(sorted({event for f in chosen.answered for event in f.evidence[:3]}))
        verb = "answers" if len(chosen.edits) == 1 else "answer"
        return Decision("harness", f"{seen} {names} {verb} what was seen.", cited, rule="edit_answers_finding")
    idle = stalled(view.history)
    if "stop" in view.allowed and ("harness" not in view.allowed or idle >= STALLED):
        why = f"No edit is left to try on this scaffold, and the last {idle} steps brought nothing."
        return Decision("stop", f"{seen} {why}", rule="nothing_left")
    return Decision("harness", f"{seen} No edit is called for; the same scaffold searches on.", rule="search_on")


def _cite(finding: Finding) -> str:
    more = f" and {finding.count - len(finding.evidence)} more" if finding.count > len(finding.evidence) else ""
    events = f" (events {', '.join(map(str, finding.evidence))}{more})" if finding.evidence else ""
    return f"- **{finding.name}**, weight {finding.weight:.2f}: {finding.prose}{events}."


def _report(view: View, findings: list[Finding], chosen: Plan) -> str:
    last = view.history[-1] if view.history else None
    lines = [f"# After step {view.step}: playbook", ""]
    if last is not None:
        fate = "kept" if last.accepted else "rolled back"
        lines += [f"Score {last.score:.4f} (noise {last.noise:.4f}), {fate}. {last.note}".rstrip(), ""]
        if last.action == "weights":
            lines += ["The step had new weights and the scaffold of the step before.", ""]
    lines += ["## What the trajectory shows", "", *([_cite(f) for f in findings] or ["Nothing amiss."]), ""]
    if not chosen.edits:
        return "\n".join(
            [*lines, "## What is changed", "", "Nothing: no edit is called for, and the search goes on from the archive.", ""]
        )
    lines += ["## What is changed, and why", "", chosen.basis, ""]
    for edit in chosen.edits:
        called = [f.name for f in findings if f.name in edit.calls]
        why = f" Called for by {', '.join(called)}." if called else ""
        lines.append(f"- `{edit.name}`: {edit.sentence}{why}")
    lines += ["", "## What to expect", "", *[f"- {edit.expect[:1].upper()}{edit.expect[1:]}." for edit in chosen.edits], ""]
    return "\n".join(lines)
