"""From a trajectory to findings: which failure modes it shows, how much they weigh and which events show them.

Pure: the same trajectory, metrics and history give the same findings. Paper §3.3 (F is to diagnose
failure modes in τ_g rather than react to summary statistics).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...tasks.base import REJECTED
from ...trajectory import Trajectory
from ..base import StepSummary
from ..reading import SPEC_FAILURES, Reading, fields_of

SHOWN = 8  # event ids a finding cites at most


@dataclass(frozen=True)
class Finding:
    """One thing that a trajectory shows."""

    name: str
    weight: float  # 0 (harmless) to 1 (nothing else matters)
    prose: str  # one sentence with its numbers
    evidence: tuple[int, ...] = ()  # ids of events in the trajectory, at most ``SHOWN``
    count: int = 0  # how many events there are in all


def _finding(name: str, weight: float, prose: str, events: Sequence[int]) -> Finding:
    return Finding(name, round(max(0.0, min(1.0, weight)), 4), prose, tuple(events[:SHOWN]), len(events))


def diagnose(trajectory: Trajectory, metrics: dict[str, Any], history: Sequence[StepSummary] = ()) -> list[Finding]:
    """The findings, heaviest first; equal weights by name."""
    reading = Reading(trajectory, metrics)
    found = [
        *_answers(reading),
        *_verdicts(reading),
        *_budget(reading),
        *_progress(reading, history),
        *_policy(reading),
        *_ending(reading),
    ]
    return sorted(found, key=lambda f: (-f.weight, f.name))


def _answers(reading: Reading) -> list[Finding]:
    """Answers from which no solution could be read, and solutions that were no member of the space."""
    total = len(reading.answers)
    if not total:
        return []
    told = {
        "no_json": "hold no JSON object at all",
        "broken_json": "hold a JSON object that cannot be read",
        "truncated": "were cut off by max_tokens before their object ended",
    }
    found = []
    for kind, words in told.items():
        events = [a.event for a in reading.answers if a.kind == kind]
        if events:
            found.append(_finding(kind, len(events) / total, f"{len(events)} of {total} answers {words}", events))
    judged = [v for v in reading.verdicts if v.by_policy]
    for kind in SPEC_FAILURES:
        events = [v.event for v in judged if v.failure == kind]
        if events:
            prose = f"{len(events)} of {len(judged)} scored answers were refused as `{kind}`"
            found.append(_finding("broken_json" if kind == "unparsable" else kind, len(events) / len(judged), prose, events))
    return found


def _verdicts(reading: Reading) -> list[Finding]:
    """Repeats, and failures inside the verifier."""
    total = len(reading.verdicts)
    if not total:
        return []
    found = []
    again = [v.event for v in reading.verdicts if v.again]
    if again:
        found.append(
            _finding("repeats", len(again) / total, f"{len(again)} of {total} verdicts were on solutions scored before", again)
        )
    for name, kinds, words in (
        ("verifier_timeout", ("timeout",), "ran out of the verifier's time"),
        ("verifier_crash", ("crash", "memory", "wrong_shape", "refused", *REJECTED), "failed in the verifier"),
    ):
        events = [v.event for v in reading.verdicts if v.failure in kinds]
        if events:
            found.append(_finding(name, len(events) / total, f"{len(events)} of {total} solutions {words}", events))
    return found


def _budget(reading: Reading) -> list[Finding]:
    """What was left, and which cap ended the execution."""
    end = [reading.end.id] if reading.end else []
    found = []
    for what, name, least in (("verifier_calls", "unused_calls", 0.1), ("tokens", "unused_tokens", 0.5)):
        left = reading.left(what)
        if left >= least:
            words = f"{left:.0%} of the {what.replace('_', ' ')} ({reading.used.get(what, 0):.0f} of {reading.budget[what]:.0f} used) were left"
            found.append(_finding(name, left if what == "verifier_calls" else 0.4 * left, words, end))
    spent = [e.id for e in reading.limits if e.data.get("what") == "tokens"]
    if spent and reading.left("verifier_calls") > 0:
        found.append(_finding("tokens_first", 0.9, "the tokens were spent before the verifier calls", spent))
    late = [e.id for e in reading.limits if e.data.get("what") == "seconds"]
    if late:
        found.append(_finding("out_of_time", 0.8, "the execution ran into its wall-clock cap", late))
    return found


def _progress(reading: Reading, history: Sequence[StepSummary]) -> list[Finding]:
    """How the best score moved within the execution and over the steps."""
    found = []
    fresh = reading.fresh
    gains = [i for i, v in enumerate(fresh) if v.valid and (v.best_before is None or v.score > v.best_before)]
    if len(fresh) >= 6 and gains:
        still = len(fresh) - 1 - gains[-1]
        if still >= max(4, len(fresh) // 3):
            prose = f"the last {still} of {len(fresh)} verdicts brought nothing over {fresh[gains[-1]].score:.4f}"
            found.append(_finding("flat", still / len(fresh), prose, [v.event for v in fresh[gains[-1] :]]))
        else:
            prose = f"the best, {fresh[gains[-1]].score:.4f}, came {still} verdicts before the end: the search was still rising"
            found.append(_finding("rising", 0.3, prose, [fresh[i].event for i in gains]))
    earlier = [h.score for h in history if h.step != (history[-1].step if history else 0)]
    here = history[-1].score if history else 0.0
    if earlier and here < max(earlier):
        prose = f"this step submitted {here:.4f}, an earlier one {max(earlier):.4f}"
        found.append(_finding("restarted", 0.9, prose, [e.id for e in reading.submits]))
    return found


def _rank_correlation(xs: list[float], ys: list[float]) -> float:
    """Spearman's, ties by their order of appearance averaged."""

    def ranks(values: list[float]) -> list[float]:
        order = sorted(values)
        return [(order.index(v) + len(order) - 1 - order[::-1].index(v)) / 2 for v in values]

    a, b = ranks(xs), ranks(ys)
    ma, mb = sum(a) / len(a), sum(b) / len(b)
    over = sum((x - ma) * (y - mb) for x, y in zip(a, b, strict=True))
    under = (sum((x - ma) ** 2 for x in a) * sum((y - mb) ** 2 for y in b)) ** 0.5
    return over / under if under else 0.0


def _policy(reading: Reading) -> list[Finding]:
    """How good and how varied the policy's own proposals are, beside the code's."""
    found = []
    read = [a for a in reading.answers if a.solution is not None]
    if len(read) >= 6:
        distinct = len({a.solution for a in read})
        if distinct <= 0.6 * len(read):
            prose = f"only {distinct} of {len(read)} answers that could be read differ"
            found.append(_finding("low_diversity", 1 - distinct / len(read), prose, [a.event for a in read]))
    own = [v for v in reading.fresh if v.by_policy and v.valid]
    code = [v for v in reading.fresh if not v.by_policy and v.valid]
    below = [v for v in own if v.best_before is not None and v.score < v.best_before]
    if len(own) >= 4 and len(below) >= 0.75 * len(own):
        mean = sum(v.score for v in own) / len(own)
        prose = f"{len(below)} of {len(own)} proposals of the policy scored below the best at that moment (mean {mean:.4f})"
        found.append(_finding("policy_below_best", 0.7 * len(below) / len(own), prose, [v.event for v in below]))
    sure = [v for v in own if v.logprob is not None]
    if len(sure) >= 8:
        rho = _rank_correlation([float(v.logprob or 0.0) for v in sure], [v.score for v in sure])
        if rho < 0.2:
            prose = (
                f"how likely an answer was to the policy says nothing of its score (rank correlation {rho:.2f} over {len(sure)})"
            )
            found.append(_finding("policy_uninformed", 0.5, prose, [v.event for v in sure]))
    if len(own) >= 4 and len(code) >= 4:
        rates = [sum(v.best_before is not None and v.score > v.best_before for v in side) / len(side) for side in (own, code)]
        means = [sum(v.score for v in side) / len(side) for side in (own, code)]
        name, which = ("search_beats_policy", 1) if (rates[1], means[1]) > (rates[0], means[0]) else ("policy_beats_search", 0)
        prose = f"improvements per verdict: policy {rates[0]:.2f}, code {rates[1]:.2f}; mean score: policy {means[0]:.4f}, code {means[1]:.4f}"
        found.append(_finding(name, 0.5, prose, [v.event for v in (own, code)[which]]))
    found += _fields(reading)
    return found


def _fields(reading: Reading) -> list[Finding]:
    """Whether single fields explain the scores: the largest adjusted share of variance."""
    rows = [(fields_of(v.solution), v) for v in reading.fresh if v.valid]
    rows = [(spec, v) for spec, v in rows if spec]
    if len(rows) < 8:
        return []
    mean = sum(v.score for _, v in rows) / len(rows)
    total = sum((v.score - mean) ** 2 for _, v in rows)
    if total == 0.0:
        return []
    shares = []
    for name in sorted({n for spec, _ in rows for n in spec}):
        groups: dict[str, list[float]] = {}
        for spec, v in rows:
            groups.setdefault(spec.get(name, ""), []).append(v.score)
        within = sum(sum((s - sum(g) / len(g)) ** 2 for s in g) for g in groups.values())
        free = len(rows) - len(groups)
        if len(groups) > 1 and free > 0:
            shares.append((1 - (within / free) / (total / (len(rows) - 1)), name))
    top = sorted(shares, reverse=True)[:3]
    if not top or top[0][0] < 0.15:
        return []
    prose = "the score hangs on few fields: " + ", ".join(f"{name} explains {share:.0%} of its variance" for share, name in top)
    return [_finding("uneven_fields", 0.3 + 0.5 * top[0][0], prose, [v.event for _, v in rows])]


def _ending(reading: Reading) -> list[Finding]:
    """Crashes, kills and missing submissions."""
    found = []
    own = [e.id for e in reading.errors if e.data.get("where") not in ("gateway",)] + [e.id for e in reading.crashes]
    if own:
        last = reading.errors[-1].data.get("message", "") if reading.errors else reading.crashes[-1].data.get("error", "")
        found.append(_finding("scaffold_crash", 1.0, f"the scaffold itself failed: {str(last)[:200]}", own))
    if not reading.submits:
        found.append(_finding("no_submission", 1.0, "nothing was submitted", [reading.end.id] if reading.end else []))
    elif not any(v.valid for v in reading.verdicts):
        events = [e.id for e in reading.submits]
        found.append(_finding("fallback_submitted", 0.8, "no valid solution was found, and the fallback was submitted", events))
    return found
