"""Widgets to look at a run in a notebook: steps, scaffold and diff, decision, and the trajectory with a filter.

The rows are made by plain functions; the widgets only show them. All text is escaped.
"""

from __future__ import annotations

import html
import json
from typing import Any

from ..store import Run
from ..trajectory import Event, Trajectory
from .text import scaffold_diff, steps_table

STILL = 100  # events of a trajectory that are shown where no kernel is


def rows(trajectory: Trajectory, kinds: tuple[str, ...] = (), text: str = "") -> list[tuple[str, int]]:
    """(label, event id) of the events of these kinds (all if empty) whose data hold ``text``, for a list to choose from."""
    out = []
    for e in trajectory:
        data = json.dumps(e.data, ensure_ascii=False)
        if (not kinds or e.kind in kinds) and text.lower() in data.lower():
            out.append((f"{e.id:5} {e.seconds:7.1f}s  {e.kind:9} {summary(e)}", e.id))
    return out


def summary(event: Event) -> str:
    """An event in at most 80 characters."""
    d = event.data
    if event.kind == "verdict":
        text = f"{d['score']:.4f}" if d["valid"] else f"invalid: {d['reason']}"
    elif event.kind == "sample":
        text = f"n={d['n']} T={d['temperature']}{' grammar' if d['grammar'] else ''}"
    else:
        text = next((str(d[k]) for k in ("text", "solution", "reason", "message", "what", "kind") if d.get(k)), "")
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:79] + "…"


def detail(event: Event) -> str:
    """An event as escaped HTML."""
    parts = []
    for key, value in event.data.items():
        if key == "messages" and isinstance(value, list):
            body = "".join(
                f"<b>{html.escape(str(m.get('role')))}</b><pre style='font-family:monospace;white-space:pre-wrap'>{html.escape(str(m.get('content')))}</pre>"
                for m in value
            )
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
            body = f"<pre style='font-family:monospace;white-space:pre-wrap'>{html.escape(shown)}</pre>"
        parts.append(f"<details open><summary>{html.escape(key)}</summary>{body}</details>")
    return f"<h4>event {event.id}: {html.escape(event.kind)} at {event.seconds:.2f} s</h4>{''.join(parts)}"


def table_html(head: tuple[str, ...], body: list[tuple], bold: Any = None) -> str:
    """An HTML table; every cell is escaped, floats get four significant digits, rows whose first cell is ``bold`` stand out."""
    show = lambda c: f"{c:.4g}" if isinstance(c, float) else str(c)
    lines = "<tr>" + "".join(f"<th style='text-align:left'>{html.escape(h)}</th>" for h in head) + "</tr>"
    for row in body:
        weight = ";font-weight:bold" if bold is not None and row[0] == bold else ""
        cells = "".join(f"<td style='text-align:left{weight}'>{html.escape(show(c))}</td>" for c in row)
        lines += f"<tr>{cells}</tr>"
    return f"<table>{lines}</table>"


def steps_html(run: Run) -> str:
    """The run's steps as an HTML table."""
    head = ("step", "lever", "dev", "noise", "kept", "calls", "tokens", "change", "note")
    body = []
    for r in steps_table(run):
        numbers = (f"{r['score']:.4f}", f"{r['noise']:.4f}", "yes" if r["kept"] else "no")
        body.append((r["step"], r["lever"], *numbers, f"{r['verifier_calls']:.0f}", f"{r['tokens']:.0f}", r["change"], r["note"]))
    return table_html(head, body)


REWARDS = {  # of the policy's own proposals in a step
    "n": "answers with a known reward",
    "mean": "their mean reward",
    "sd": "standard deviation",
    "skew": "skew (above 0: most are poor, a few are great)",
    "best": "the best",
    "zero_share": "share of zero rewards",
    "distinct_share": "share of different solutions",
}
LEVERS = ("harness", "weights")
GAINS = {  # of a lever
    "tries": "tries",
    "kept": "kept",
    "last_gain": "last gain",
    "last_noise": "its noise",
    "last_verifier_calls": "its verifier calls",
    "last_tokens": "its tokens",
}


def why_html(view: Any, decision: Any) -> str:
    """What a decision rested on: its rule, the policy's rewards, what each lever last gained, the budget left, the menu.

    Args:
        view: what the Feedback-Agent saw (``phases.feedback_view``).
        decision: what it chose.
    """
    chosen = [("action", decision.action), ("rule", decision.rule or "none: a language model chose")]
    if decision.action == "weights":
        chosen += [("algorithm", decision.algorithm), *sorted(decision.hyperparameters.items())]
    parts = [("What was chosen", table_html(("", ""), chosen))]
    if not view.algorithms:
        return _sections(parts) + "<p>This run permits harness updates only: there was no lever to choose.</p>"
    parts.append(("The policy's rewards in this step", _numbers(REWARDS, view.rewards)))
    tried = {lever: record for lever, record in view.levers.items() if record["tries"]}
    gains = [(lever, *(tried[lever][k] if lever in tried else "never tried" * (k == "tries") for k in GAINS)) for lever in LEVERS]
    parts.append(("What each lever last gained", table_html(("lever", *GAINS.values()), gains)))
    if view.training:
        parts.append(("The last weight update", table_html(("", ""), _trained(view.training))))
    head = tuple(k.replace("_", " ") for k in view.budget_left)
    parts.append(("The budget left", table_html(head, [tuple(view.budget_left.values())])))
    menu = [(name, view.menu[name]) for name in view.algorithms]
    parts.append(("The menu", table_html(("algorithm", "chosen when"), menu, bold=decision.algorithm)))
    return _sections(parts)


def _sections(parts: list[tuple[str, str]]) -> str:
    return "".join(f"<h4>{title}</h4>{body}" for title, body in parts)


def _trained(result: dict[str, Any]) -> list[tuple]:
    show = lambda of: f"{of['mean']:.4f}, standard error {of['se']:.4f}, n = {of['n']}"
    means = [
        ("mean score of the first samples", show(result["before"])),
        ("mean score of the last samples", show(result["after"])),
    ]
    return [(k, result[k]) for k in ("algorithm", "steps")] + means + [("stopped", result["note"])]


def _numbers(names: dict[str, str], values: dict[str, float]) -> str:
    return table_html(("", ""), [(said, values[key]) for key, said in names.items()]) if values else "<p>None were seen.</p>"


def inspect_trajectory(run: Run, step: int) -> Any:
    """An ipywidgets box: filter by kind and text, a list of events, the chosen one in full beside it.

    Where no kernel is, as in exported HTML, the first ``STILL`` events stand there to be unfolded.
    """
    import ipywidgets as w

    trajectory = Trajectory.read(run.step(step) / "trajectory.jsonl")
    kinds = sorted({e.kind for e in trajectory})
    kind = w.Dropdown(options=["all kinds", *kinds], description="kind")
    text = w.Text(placeholder="search", description="text", continuous_update=False)
    events = w.Select(options=rows(trajectory), rows=18, layout=w.Layout(width="48%"))
    pane = w.HTML(layout=w.Layout(width="52%", max_height="380px", overflow="auto"))

    def refill(_: Any = None) -> None:
        events.options = rows(trajectory, () if kind.value == "all kinds" else (kind.value,), text.value)
        if events.options and events.index is None:  # after a search that found nothing, Select chooses nothing by itself
            events.index = 0

    def choose(_: Any = None) -> None:
        pane.value = detail(trajectory[events.value]) if events.value is not None else "no event matches"

    kind.observe(refill, "value")
    text.observe(refill, "value")
    events.observe(choose, "value")
    choose()
    return _also_still(w.VBox, [w.HBox([kind, text]), w.HBox([events, pane])], _events_html(trajectory))


def _events_html(trajectory: Trajectory) -> str:
    shown = "".join(
        f"<details><summary><code>{html.escape(label)}</code></summary>{detail(trajectory[event_id])}</details>"
        for label, event_id in rows(trajectory)[:STILL]
    )
    more = len(trajectory) - STILL
    return shown + (f"<p>… and {more} more events; run the notebook to see them.</p>" if more > 0 else "")


def _also_still(kind: type, children: list[Any], still: str) -> Any:
    """A widget that carries the same as HTML: nothing of ipywidgets can be drawn where there is neither a kernel nor a network."""

    class Shown(kind):
        def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
            return {**super()._repr_mimebundle_(**options), "text/html": still}

    return Shown(children)


def show_scaffold(run: Run, step: int) -> Any:
    """A_g's source and its diff to the parent, in two tabs; one below the other where no kernel is."""
    import ipywidgets as w

    pre = lambda s: (
        f"<pre style='font-family:monospace;white-space:pre-wrap;max-height:420px;overflow:auto'>{html.escape(s)}</pre>"
    )
    parts = {"diff to its parent": pre(scaffold_diff(run, step)), "agent.py": pre(run.scaffold(step))}
    tabs = _also_still(w.Tab, [w.HTML(body) for body in parts.values()], _sections(list(parts.items())))
    tabs.titles = tuple(parts)
    return tabs
