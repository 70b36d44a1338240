"""One event in full: its prompt, response, answer, tool calls, verdict, and the events that belong to it. Used by ``model``."""

from __future__ import annotations

from typing import Any

from .describe import find, shorten, summary
from .events import EventLog

MOST_LINKED = 500  # related events that are listed


def detail(log: EventLog, n: int) -> dict[str, Any]:
    """The answer to ``event``.

    ``cut`` says of each text that was cut how long it is, by its path in the answer; ``text`` of this module reads on.

    Raises:
        ConfigError: no such row. StoreError: the file was written anew meanwhile.
    """
    whole, total = _whole(log, n)
    cut: dict[str, int] = {}
    out = {key: shorten(value, key, cut) for key, value in whole.items()}
    if total > MOST_LINKED:
        cut["linked"] = total
    return out | {"n": n, "cut": cut}


def text(log: EventLog, n: int, field: str) -> str | None:
    """The whole text at a path such as ``response`` or ``prompt.0.content`` of an event's answer; None where there is none."""
    return find(_whole(log, n)[0], field)


def _whole(log: EventLog, n: int) -> tuple[dict[str, Any], int]:
    event = log.event(n)
    numbers = log.linked(n)
    linked = [log.event(m) | {"n": m} for m in _nearest(numbers, n)]
    everything = sorted([event | {"n": n}, *linked], key=lambda e: e["n"])
    of = lambda kind: [e for e in everything if e["kind"] == kind]
    kind, data = event["kind"], event["data"]
    sample = event if kind == "sample" else next(iter(of("sample")), None)
    if sample is None and (responses := of("response")):  # an answer's prompt is that of the response it came from
        row = log.row_of(responses[0]["data"].get("sample", -1)) if type(responses[0]["data"].get("sample")) is int else None
        sample = log.event(row) if row is not None else None
    prompt = sample["data"].get("messages") if sample and isinstance(sample["data"].get("messages"), list) else None
    response = event if kind == "response" else None if kind == "sample" else next(iter(of("response")), None)
    extract = event if kind == "extract" else next((e for e in of("extract") if e["data"].get("ok")), None)
    verdict = event if kind == "verdict" else next(iter(of("verdict")), None)
    answer = (
        data.get("solution")
        if kind in ("extract", "evaluate", "submit")
        else extract["data"].get("solution")
        if extract
        else None
    )
    if kind == "verdict" and answer is None:
        answer = next((e["data"].get("solution") for e in of("evaluate")), None)
    return {
        "event": event,
        "prompt": prompt,
        "response": response["data"].get("text") if response else None,
        "answer": answer if kind != "sample" else None,
        "tool_calls": [] if kind == "sample" else _tool_calls(everything, data),
        "verdict": verdict["data"] if verdict else None,
        "linked": [{"n": e["n"], "id": e["id"], "kind": e["kind"], "summary": summary(e["kind"], e["data"])} for e in linked],
    }, len(numbers)


def _nearest(numbers: list[int], n: int) -> list[int]:
    """At most ``MOST_LINKED`` of the rows, those nearest to ``n``, in order."""
    return sorted(sorted(numbers, key=lambda m: abs(m - n))[:MOST_LINKED])


def _tool_calls(events: list[dict[str, Any]], data: dict[str, Any]) -> list[dict[str, Any]]:
    """What was called with the answer, each with its result, and what a response of a chat model itself asks to be called."""
    verdicts = {e["data"].get("evaluate"): e["data"] for e in events if e["kind"] == "verdict"}
    own = (
        [call for call in data.get("tool_calls", []) if isinstance(call, dict)]
        if isinstance(data.get("tool_calls"), list)
        else []
    )
    called = [
        {"n": e["n"], "name": e["kind"], "arguments": e["data"], "result": verdicts.get(e["id"])}
        for e in events
        if e["kind"] in ("evaluate", "submit")
    ]
    return own + called
