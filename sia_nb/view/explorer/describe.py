"""An event in words: one line of a table, and the parts that a reader looks at.

Whatever an event holds, of whatever type, is shown and never trusted. Used by ``events`` and ``model``.
"""

from __future__ import annotations

import json
from typing import Any

LINE = 200  # characters of a summary
TEXT = 200_000  # characters of a text that are handed over at once
ITEMS = 1_000  # entries of a list or an object that are handed over
SAID = ("text", "solution", "reason", "message", "what", "kind", "error")


def summary(kind: str, data: dict[str, Any]) -> str:
    """An event's data in at most ``LINE`` characters and one line."""
    if kind == "verdict":
        score, valid = data.get("score"), data.get("valid")
        said = f"{score:.4f}" if type(score) in (int, float) else str(score)
        return one_line(said if valid else f"invalid: {data.get('reason') or data.get('failure')}")
    if kind == "sample":
        messages = data.get("messages")
        last = messages[-1].get("content") if isinstance(messages, list) and messages and isinstance(messages[-1], dict) else ""
        grammar = ", grammar" if data.get("grammar") else ""
        return one_line(f"{data.get('n')} texts at temperature {data.get('temperature')}{grammar}: {str(last)[:LINE]}")
    if kind == "start":
        return one_line(
            ", ".join(f"{k} {data[k]}" for k in ("task", "instance", "seed", "sandbox") if data.get(k) not in (None, ""))
        )
    if kind == "extract" and not data.get("ok"):
        return one_line(f"no solution found{': ' if data.get('error') else ''}{data.get('error') or ''}")
    if kind == "limit":
        return one_line(f"{data.get('what')}: {data.get('detail')}")
    if kind == "log":
        rest = {k: v for k, v in data.items() if k != "kind"}
        return one_line(f"{data.get('kind')}{' ' + _dump(rest) if rest else ''}")
    said = next((data[k] for k in SAID if data.get(k)), None)
    return one_line(said if isinstance(said, str) else _dump(data if said is None else said))


def one_line(text: str) -> str:
    """White space, new lines and control characters become single blanks; cut at ``LINE`` characters."""
    whole = len(text) <= 8 * LINE
    flat = " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text[: 8 * LINE]).split())
    return flat if whole and len(flat) <= LINE else flat[: LINE - 1] + "…"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def shorten(value: Any, path: str, cut: dict[str, int]) -> Any:
    """``value`` with long texts, lists and objects cut; ``cut`` is told the full length of each by its path."""
    if isinstance(value, str):
        if len(value) > TEXT:
            cut[path] = len(value)
            return value[:TEXT]
        return value
    if isinstance(value, list):
        if len(value) > ITEMS:
            cut[path] = len(value)
        return [shorten(v, f"{path}.{n}", cut) for n, v in enumerate(value[:ITEMS])]
    if isinstance(value, dict):
        if len(value) > ITEMS:
            cut[path] = len(value)
        return {str(k): shorten(v, f"{path}.{k}", cut) for k, v in list(value.items())[:ITEMS]}
    return value


def find(value: Any, path: str) -> str | None:
    """The text at a path such as ``event.data.messages.0.content``; JSON where it is no text; None where there is none."""
    while path:
        if isinstance(value, dict):
            name = next((k for k in value if path == k or path.startswith(f"{k}.")), None)  # a key may hold a dot
            if name is None:
                return None
            value, path = value[name], path[len(name) + 1 :]
        elif isinstance(value, list):
            head, _, path = path.partition(".")
            if not head.isdecimal() or int(head) >= len(value):
                return None
            value = value[int(head)]
        else:
            return None
    return value if isinstance(value, str) else _dump(value)


def clean(value: Any) -> Any:
    """``value`` as JSON that any reader takes: no nan or infinity, no half of a surrogate pair, keys that are texts."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {clean(str(k)): clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    return value
