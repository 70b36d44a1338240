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
                f"<b>{html.escape(str(m.get('role')))}</b><pre style='white-space:pre-wrap'>{html.escape(str(m.get('content')))}</pre>"
                for m in value
            )
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
            body = f"<pre style='white-space:pre-wrap'>{html.escape(shown)}</pre>"
        parts.append(f"<details open><summary>{html.escape(key)}</summary>{body}</details>")
    return f"<h4>event {event.id}: {html.escape(event.kind)} at {event.seconds:.2f} s</h4>{''.join(parts)}"


def steps_html(run: Run) -> str:
    """The run's steps as an HTML table."""
    head = "".join(f"<th>{h}</th>" for h in ("step", "dev", "noise", "kept", "calls", "tokens", "change", "note"))
    body = ""
    for r in steps_table(run):
        cells = [
            r["step"],
            f"{r['score']:.4f}",
            f"{r['noise']:.4f}",
            "yes" if r["kept"] else "no",
            f"{r['verifier_calls']:.0f}",
            f"{r['tokens']:.0f}",
        ]
        body += "<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in [*cells, r["change"], r["note"]]) + "</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"


def inspect_trajectory(run: Run, step: int) -> Any:
    """An ipywidgets box: filter by kind and text, a list of events, the chosen one in full beside it."""
    import ipywidgets as w

    trajectory = Trajectory.read(run.step(step) / "trajectory.jsonl")
    kinds = sorted({e.kind for e in trajectory})
    kind = w.Dropdown(options=["all kinds", *kinds], description="kind")
    text = w.Text(placeholder="search", description="text", continuous_update=False)
    events = w.Select(options=rows(trajectory), rows=18, layout=w.Layout(width="48%"))
    pane = w.HTML(layout=w.Layout(width="52%", max_height="380px", overflow="auto"))

    def refill(_: Any = None) -> None:
        events.options = rows(trajectory, () if kind.value == "all kinds" else (kind.value,), text.value)

    def choose(_: Any = None) -> None:
        pane.value = detail(trajectory[events.value]) if events.value is not None else "no event matches"

    kind.observe(refill, "value")
    text.observe(refill, "value")
    events.observe(choose, "value")
    choose()
    return w.VBox([w.HBox([kind, text]), w.HBox([events, pane])])


def show_scaffold(run: Run, step: int) -> Any:
    """A_g's source and its diff to the parent, in two tabs."""
    import ipywidgets as w

    pre = lambda s: w.HTML(f"<pre style='white-space:pre-wrap;max-height:420px;overflow:auto'>{html.escape(s)}</pre>")
    tabs = w.Tab([pre(scaffold_diff(run, step)), pre(run.scaffold(step))])
    tabs.titles = ("diff to its parent", "agent.py")
    return tabs
