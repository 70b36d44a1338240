"""What a language model sees of a trajectory: a digest that fits a limit, with the ids of the events it tells of.

Texts of the policy and the scaffold stand as JSON strings on one line, so that none can pass for a heading; a text or
a section that is cut says so. A pure function of the view, without times, so that the same run gives the same prompt.

It may import ``agents.base``, ``agents.rewards`` and ``trajectory``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ..trajectory import Event, Trajectory, text_sha
from .base import View
from .rewards import gain_a_call

TEXT, EXAMPLE = 600, 300  # characters of a text shown on its own, and of one among several
EXAMPLES, GROUPS, ENDS = 3, 12, 5
TOLD = ("algorithm", "steps", "stopped", "note", "before", "after", "verifier_calls", "tokens")  # of a weight update's result
SHARES = {  # of what is left when the section's turn comes
    "Measurements": 0.3, "Earlier steps": 0.3, "The policy's rewards and the two levers": 0.4, "Algorithms of a weight update": 0.3,
    "Errors, limits and the program's log": 0.4, "Failures": 0.5, "Best and worst": 0.6, "Progress of the score": 0.6,
    "The prompt": 1.0,
}  # fmt: skip


def digest(view: View, max_chars: int) -> str:
    """Markdown of at most ``max_chars`` characters on τ_g, E_g and the history."""
    tau = view.trajectory
    bodies = (
        _measurements(view), _history(view), _levers(view), _menu(view), _told(tau), _failures(tau), _ends(tau), _progress(tau), _prompt(tau),
    )  # fmt: skip
    out, left = "", max_chars
    for (title, share), lines in zip(SHARES.items(), bodies, strict=True):
        head = f"### {title}\n"
        body = _fit(lines, int(left * share) - len(head) - 1)
        if body:
            out += head + body + "\n"
            left = max_chars - len(out)
    return out


def quote(value: Any, most: int = TEXT) -> str:
    """``value`` as one line of JSON, cut with a note where it is longer than ``most`` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    note = f" [{len(text) - most} more characters]" if len(text) > most else ""
    return json.dumps(text[:most], ensure_ascii=False) + note


def _fit(lines: Iterable[str], room: int) -> str:
    """As many whole lines as fit, with a note of what is left out; empty where not even one does."""
    lines, kept, used = list(lines), [], 0
    for i, line in enumerate(lines):
        tail = f"[{len(lines) - i} more lines left out]" if i < len(lines) - 1 else ""
        if used + len(line) + 1 + (len(tail) + 1 if tail else 0) > room:
            rest = f"[{len(lines) - i} more lines left out]"
            if used + len(rest) <= room:
                kept.append(rest)
            break
        kept.append(line)
        used += len(line) + 1
    return "\n".join(kept)


def _ids(events: list[Event], most: int = 8) -> str:
    return " ".join(f"#{e.id}" for e in events[:most]) + (f" and {len(events) - most} more" if len(events) > most else "")


def _measurements(view: View) -> Iterable[str]:
    skip = ("solutions", "solution", "backend")
    counted: dict[str, int] = {}
    for e in view.trajectory:
        counted[e.kind] = counted.get(e.kind, 0) + 1
    yield f"step {view.step}, {view.steps_left} left after it"
    yield "events: " + ", ".join(f"{kind} {n}" for kind, n in sorted(counted.items()))
    if view.trajectory.damaged:
        yield f"lines of the trajectory that could not be read: {len(view.trajectory.damaged)}"
    for name, value in sorted(view.metrics.items()):
        if name not in skip:
            plain = {k: v for k, v in value.items() if k != "seconds"} if name == "used" and isinstance(value, dict) else value
            yield f"{name}: {quote(plain) if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, sort_keys=True)[:TEXT]}"
    if view.metrics.get("solution"):
        yield f"submitted: {quote(view.metrics['solution'])}"


def _history(view: View) -> Iterable[str]:
    for s in reversed(view.history):
        fate = "kept" if s.accepted else "rolled back"
        yield (
            f"step {s.step} ({s.action}): score {s.score:.4f}, noise {s.noise:.4f}, {fate}; "
            f"edits: {', '.join(s.edits) or 'none'}; {s.note[:EXAMPLE]}"
        )


def _levers(view: View) -> Iterable[str]:
    r = view.rewards
    if r:
        yield (
            f"rewards of the policy's own answers in this step (an answer that cannot be read has 0): {r['n']:.0f} known, "
            f"mean {r['mean']:.4f}, standard deviation {r['sd']:.4f}, best {r['best']:.4f}, skew {r['skew']:.2f}, "
            f"{r['zero_share']:.0%} are 0, {r['levels']:.0f} different values over {r['scored']:.0f} different solutions"
        )
        yield f"different among the answers that could be read: {r['distinct_share']:.0%}"
        yield f"answers are masked to the space of solutions: {'yes' if view.structured else 'no'}"
    for name in ("harness", "weights") if "weights" in view.allowed else ():
        lever = view.levers.get(name)
        if lever is None:
            yield f"{name}: never tried"
            continue
        yield (
            f"{name}: tried {lever['tries']:.0f} times, kept {lever['kept']:.0f}; the last try gained {lever['last_gain']:+.4f} "
            f"(noise {lever['last_noise']:.4f}) for {lever['last_verifier_calls']:.0f} verifier calls and "
            f"{lever['last_tokens']:.0f} tokens: {100 * gain_a_call(lever):.2f} noise units per 100 calls"
        )
    if view.budget_left:
        yield "left of the run's budget: " + ", ".join(f"{k.replace('_', ' ')} {v:.0f}" for k, v in view.budget_left.items())
    if "weights" in view.allowed:
        yield f"of a weight step's verifier calls and tokens, training may spend {view.weight_share:.0%}; a repeat is free"
    if view.training is not None:
        plain = {k: v for k, v in view.training.items() if k in TOLD}
        yield f"last weight update (before, after: mean score of the policy's samples): {json.dumps(plain, ensure_ascii=False)}"


def _menu(view: View) -> Iterable[str]:
    if "weights" in view.allowed:
        for name in view.algorithms:
            yield f"{name}: chosen when {view.menu[name]}" if name in view.menu else name


def _told(tau: Trajectory) -> Iterable[str]:
    for e in [*tau.of("error"), *tau.of("limit"), *tau.of("end"), *tau.of("log")]:
        yield f"#{e.id} {e.kind}: {quote({k: v for k, v in e.data.items() if k != 'used'}, 4 * TEXT)}"


def _failures(tau: Trajectory) -> Iterable[str]:
    texts: dict[str, Event] = {}
    for e in tau.of("response"):
        texts.setdefault(text_sha(str(e.data.get("text", ""))), e)
    asked = {e.id: e for e in tau.of("evaluate")}
    groups: dict[str, list[tuple[Event, str]]] = {}
    for e in tau.of("extract"):
        if not e.data.get("ok"):
            source = texts.get(str(e.data.get("text_sha")))
            shown = (
                f"the response #{source.id} {quote(source.data.get('text', ''), EXAMPLE)}" if source else "a text not on record"
            )
            groups.setdefault(f"extract failed: {quote(e.data.get('error') or 'nothing found', 120)}", []).append((e, shown))
    for e in tau.of("verdict"):
        if not e.data.get("valid"):
            source = asked.get(e.data.get("evaluate"))
            shown = f"reason {quote(e.data.get('reason', ''), EXAMPLE)}"
            shown += f", solution #{source.id} {quote(source.data.get('solution', ''), EXAMPLE)}" if source else ""
            groups.setdefault(f"verdict not valid: {quote(e.data.get('failure') or 'unnamed', 60)}", []).append((e, shown))
    cut = [e for e in tau.of("response") if e.data.get("stop") == "length"]
    if cut:
        groups["response cut off at max_tokens"] = [(e, quote(str(e.data.get("text", ""))[-EXAMPLE:])) for e in cut]
    repeats = [e for e in tau.of("verdict") if e.data.get("repeat")]
    if repeats:
        groups["a solution evaluated again"] = [(e, f"score {e.data.get('score')}") for e in repeats]
    ranked = sorted(groups.items(), key=lambda kv: (-len(kv[1]), kv[1][0][0].id))
    for name, cases in ranked[:GROUPS]:
        yield f"{len(cases)} × {name}: {_ids([e for e, _ in cases])}"
        for e, shown in cases[:EXAMPLES]:
            yield f"  #{e.id} {shown}"
    if len(ranked) > GROUPS:
        yield f"[{len(ranked) - GROUPS} rarer kinds left out]"


def _scored(tau: Trajectory) -> list[Event]:
    return [e for e in tau.of("verdict") if e.data.get("valid") and isinstance(e.data.get("score"), int | float)]


def _ends(tau: Trajectory) -> Iterable[str]:
    asked = {e.id: e for e in tau.of("evaluate")}
    first: dict[str, Event] = {}
    for e in _scored(tau):
        first.setdefault(str(e.data.get("solution_id") or e.id), e)
    ranked = sorted(first.values(), key=lambda e: (-e.data["score"], e.id))
    worst = ranked[max(ENDS, len(ranked) - ENDS) :]
    if ranked:
        yield f"{len(ranked)} distinct valid solutions"
    for name, events in (("best", ranked[:ENDS]), ("worst", worst)):
        for e in events:
            source = asked.get(e.data.get("evaluate"))
            yield f"{name}: #{e.id} score {e.data['score']:.4f} {quote(source.data.get('solution', '') if source else '')}"


def _progress(tau: Trajectory) -> Iterable[str]:
    best = float("-inf")
    for n, e in enumerate(tau.of("verdict"), 1):
        score = e.data.get("score")
        if e.data.get("valid") and isinstance(score, int | float) and score > best:
            best = score
            yield f"verdict {n} (#{e.id}): best {best:.4f}"


def _prompt(tau: Trajectory) -> Iterable[str]:
    shown = None
    for e in tau.of("sample"):
        messages = e.data.get("messages")
        if messages == shown:
            continue
        shown = messages
        asked = {k: e.data.get(k) for k in ("n", "temperature", "max_tokens", "grammar")}
        yield f"#{e.id} sample {json.dumps(asked)[:TEXT]}"
        for m in messages if isinstance(messages, list) else []:
            if isinstance(m, dict):
                yield f"  {quote(str(m.get('role', '')), 20)}: {quote(m.get('content', ''), 4 * TEXT)}"
