"""The two tools that the language models are made to call, and how their arguments become decisions and scaffolds.

The decision's schema is generated: actions and algorithms from the view, hyperparameters from ``training.hyper.Hyper``.

It may import ``agents.base``, ``errors``, ``scaffold.contract`` and ``training.hyper``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, nearest
from ..scaffold.contract import ScaffoldError, check
from ..training.hyper import Hyper, make_hyper
from .base import Decision, Improvement, View

OPEN = (  # the hyperparameters that an agent chooses; the rest belongs to the machine or to the algorithm's definition
    "steps", "groups", "group_size", "learning_rate", "temperature", "kl", "clip", "epochs", "beta", "best", "dpo_beta",
    "start", "mutation", "reward",
)  # fmt: skip


@dataclass(frozen=True)
class Tool:
    """A function that the model is made to call."""

    name: str
    description: str
    schema: dict[str, Any]


class Unusable(Exception):
    """An answer that breaks the schema or the contract; the message is for the model."""


def clean(text: str) -> str:
    """Without lone surrogates, which no request can carry."""
    return text.encode("utf-8", "replace").decode()


_STRINGS = {"type": "array", "items": {"type": "string"}}
WRITE = Tool(
    "write_scaffold",
    "Hand over a complete agent.py.",
    {
        "type": "object",
        "properties": {
            "report": {"type": "string", "description": "markdown: the analysis and the changes"},
            "scaffold": {"type": "string", "description": "the whole source of agent.py"},
            "edits": {**_STRINGS, "description": "short names of the changes"},
        },
        "required": ["report", "scaffold", "edits"],
    },
)


def _actions(view: View) -> list[str]:
    return [a for a in view.allowed if a != "weights" or view.algorithms]


def hyper_schema() -> dict[str, Any]:
    """JSON schema of the hyperparameters in ``OPEN``: types, ranges and descriptions as ``Hyper`` declares them."""
    declared = Hyper.model_json_schema()["properties"]
    kept = {name: {k: v for k, v in declared[name].items() if k not in ("title", "default")} for name in OPEN}
    return {
        "type": "object",
        "description": "with action weights only; what is left out takes the algorithm's default",
        "properties": kept,
        "additionalProperties": False,
    }


def decide_tool(view: View) -> Tool:
    """The decision's schema, with only what this run permits."""
    properties: dict[str, Any] = {"action": {"type": "string", "enum": _actions(view)}}
    if "weights" in _actions(view):
        properties["algorithm"] = {
            "type": "string", "enum": list(view.algorithms), "description": "with action weights only",
        }  # fmt: skip
        properties["hyperparameters"] = hyper_schema()
    properties["rationale"] = {"type": "string"}
    properties["evidence"] = {"type": "array", "items": {"type": "integer"}, "description": "ids of trajectory events"}
    required = ["action", "rationale", "evidence"]
    return Tool("decide", "Choose the next action.", {"type": "object", "properties": properties, "required": required})


def read_decision(arguments: dict[str, Any], view: View) -> Decision:
    """The decision in a tool call; evidence that is not in the trajectory is dropped, and the rationale says so.

    Raises:
        Unusable: it breaks the schema.
    """
    action, why = arguments.get("action"), arguments.get("rationale")
    if action not in _actions(view):
        raise Unusable(f"action is {json.dumps(action)[:80]}; expected one of {', '.join(_actions(view))}.")
    if not isinstance(why, str) or not why.strip():
        raise Unusable("rationale is missing; expected prose.")
    cited = arguments.get("evidence")
    if not isinstance(cited, list):
        raise Unusable("evidence is missing; expected a list of event ids.")
    known = {e.id for e in view.trajectory}
    good = [c for c in cited if type(c) is int and c in known]
    bad = [c for c in cited if not (type(c) is int and c in known)]
    if bad:
        why = f"{why.rstrip()}\n\n(Dropped from the evidence, as no such event is in the trajectory: {json.dumps(bad)[:200]}.)"
    algorithm, hyper = None, {}
    if action == "weights":
        algorithm, hyper = arguments.get("algorithm"), arguments.get("hyperparameters", {})
        if algorithm not in view.algorithms:
            raise Unusable(f"algorithm is {json.dumps(algorithm)[:80]}; expected one of {', '.join(view.algorithms)}.")
        if not isinstance(hyper, dict):
            raise Unusable("hyperparameters is not an object.")
        _check_hyper(algorithm, hyper)
    return Decision(action, why, tuple(dict.fromkeys(good)), algorithm, hyper)


def _check_hyper(algorithm: str, hyper: dict[str, Any]) -> None:
    for name in hyper:
        if name not in OPEN:
            raise Unusable(
                f"hyperparameter {json.dumps(name)[:80]} is not open to you; expected only {', '.join(OPEN)}.{nearest(name, OPEN)}"
            )
    try:
        make_hyper(algorithm, **hyper)
    except ConfigError as error:
        raise Unusable(str(error)) from None


def read_scaffold(arguments: dict[str, Any], before: str = "") -> Improvement:
    """The scaffold in a tool call.

    Raises:
        Unusable: it breaks the schema or the contract, or is the same as ``before``.
    """
    source, report, edits = arguments.get("scaffold"), arguments.get("report"), arguments.get("edits", [])
    if not isinstance(source, str) or not source.strip():
        raise Unusable("scaffold is missing; expected the source of agent.py.")
    if not isinstance(report, str):
        raise Unusable("report is missing; expected markdown.")
    if not isinstance(edits, list) or not all(isinstance(e, str) for e in edits):
        raise Unusable("edits is not a list of names.")
    source = _unfenced(source)
    try:
        source.encode()
        check(source)
    except UnicodeEncodeError:
        raise Unusable("scaffold holds a lone surrogate; expected valid Unicode.") from None
    except ScaffoldError as error:
        raise Unusable(f"{error}.") from None
    if source.strip() == before.strip():
        raise Unusable("scaffold is the same as before; expected a change.")
    return Improvement(clean(report), source, tuple(clean(e) for e in edits))


def _unfenced(source: str) -> str:
    """Without a code fence around it, and with a line's end."""
    lines = source.strip().splitlines()
    if len(lines) >= 2 and lines[0].startswith("```") and lines[-1].strip() == "```":
        source = "\n".join(lines[1:-1])
    return source.rstrip() + "\n"
