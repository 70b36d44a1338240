"""The playbook's Feedback-Agent: decide(A_g, τ_g, E_g, U) by named rules, A_{g+1} = F(A_g, τ_g, E_g, U) by edits.

``view.history`` is read as ending with step g itself, already accepted or rolled back.
"""

from __future__ import annotations

from ...errors import AgentError
from ...scaffold.contract import check
from ..base import Decision, Improvement, StepSummary, View
from .compose import Plan, plan
from .diagnose import Finding, diagnose

STALLED = 2  # steps without a gain above the noise, after which the other lever has its turn


def stalled(history: tuple[StepSummary, ...]) -> int:
    """How many of the last steps brought no gain."""
    count = 0
    for step in reversed(history):
        if step.accepted:
            break
        count += 1
    return count


class PlaybookFeedbackAgent:
    """Deterministic: the same view gives the same decision and the same edits."""

    kind = "playbook"
    model = "playbook"

    def __init__(self, task):
        self.task = task

    def decide(self, view: View) -> Decision:
        """The next action, one of ``view.allowed``, with the rule that chose it."""
        findings = diagnose(view.trajectory, view.metrics, view.history)
        chosen = plan(view, findings)
        idle = stalled(view.history)
        seen = _seen(findings)
        if "harness" in view.allowed and chosen.edits:
            names = " and ".join(f"`{edit.name}`" for edit in chosen.edits)
            cited = tuple(sorted({e for f in chosen.answered for e in f.evidence[:3]}))
            return Decision("harness", f"{seen} {names} would answer that.", cited, rule="edit_answers_finding")
        if "stop" in view.allowed:
            why = f"No edit is left that has not been tried on this scaffold, and the last {idle} steps brought nothing."
            return Decision("stop", f"{seen} {why}", rule="nothing_left_to_edit")
        return Decision("harness", f"{seen} Stopping is not allowed: the scaffold stays as it is.", rule="no_choice")

    def improve(self, view: View) -> Improvement:
        """The report and A_{g+1}.

        Raises:
            AgentError: no edit applies to this scaffold; ``decide`` says stop then.
        """
        findings = diagnose(view.trajectory, view.metrics, view.history)
        chosen = plan(view, findings)
        if not chosen.edits:
            raise AgentError("playbook: no edit applies to this scaffold any more; take the decision 'stop' or another agent.")
        check(chosen.source)
        return Improvement(_report(view, findings, chosen), chosen.source, tuple(edit.name for edit in chosen.edits))


def _seen(findings: list[Finding]) -> str:
    return f"Seen first: {findings[0].prose}." if findings else "The trajectory shows no failure."


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
    lines += ["## What the trajectory shows", "", *([_cite(f) for f in findings] or ["Nothing amiss."]), ""]
    lines += ["## What is changed, and why", "", chosen.basis, ""]
    for edit in chosen.edits:
        called = [f.name for f in findings if f.name in edit.calls]
        why = f" Called for by {', '.join(called)}." if called else ""
        lines.append(f"- `{edit.name}`: {edit.sentence}{why}")
    lines += ["", "## What to expect", "", *[f"- {edit.expect[:1].upper()}{edit.expect[1:]}." for edit in chosen.edits], ""]
    return "\n".join(lines)
