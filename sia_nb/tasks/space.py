"""The declared, typed space of a task's *spec* solutions: one line of strict JSON.

A space is a flat record of fields, each with a finite list of values in a meaningful order. That is
enough to parse strictly, to describe to a language model, to mask decoding to it, to draw from it
and to walk from one point to a neighbour.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from ..errors import InvalidSolution, nearest


@dataclass(frozen=True)
class Field:
    """One field of a spec."""

    name: str
    values: tuple[Any, ...]  # JSON scalars, in their natural order where they have one
    doc: str  # one line for the agents and the policy
    ordered: bool = False  # neighbours of a value are the adjacent ones
    kind: Literal["parameter", "structure", "post-processing"] = "parameter"  # what a change of it is counted as

    @property
    def tokens(self) -> tuple[str, ...]:
        """The values as JSON text."""
        return tuple(json.dumps(v, ensure_ascii=False) for v in self.values)


def _same(a: Any, b: Any) -> bool:
    """Equal and of one JSON type: ``true`` is not 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


class Space:
    """A flat typed record of ``Field``s; its members are dicts with exactly these keys."""

    def __init__(self, fields: list[Field]):
        self.fields = tuple(fields)
        self.names = tuple(f.name for f in fields)

    def parse(self, text: str) -> dict[str, Any]:
        """The spec in ``text``, which must be one JSON object and nothing else.

        Raises:
            InvalidSolution: kind ``unparsable``, ``unknown_field``, ``missing_field`` or ``bad_value``.
        """
        try:
            value = json.loads(text, object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            raise InvalidSolution("unparsable", f"not one line of JSON: {error}") from None
        if not isinstance(value, dict):
            raise InvalidSolution("unparsable", f"expected a JSON object, got {type(value).__name__}")
        for name in value:
            if name not in self.names:
                raise InvalidSolution("unknown_field", f"field '{name}' is not in the space.{nearest(name, self.names)}")
        spec = {}
        for field in self.fields:
            if field.name not in value:
                raise InvalidSolution(
                    "missing_field", f"field '{field.name}' is missing; expected one of {', '.join(field.tokens)}"
                )
            match = [v for v in field.values if _same(v, value[field.name])]
            if not match:
                raise InvalidSolution(
                    "bad_value",
                    f"field '{field.name}' is {json.dumps(value[field.name], ensure_ascii=False)}; expected one of {', '.join(field.tokens)}",
                )
            spec[field.name] = match[0]
        return spec

    def dump(self, spec: dict[str, Any]) -> str:
        """The one canonical line of a spec: fields in order, no spaces."""
        return json.dumps({n: spec[n] for n in self.names}, ensure_ascii=False, separators=(",", ":"))

    def segments(self) -> list[tuple[str, ...]]:
        """The space as a grammar: alternating literal and choice segments; their concatenation is ``dump``.

        A literal is a tuple with one string.
        """
        out: list[tuple[str, ...]] = []
        for i, field in enumerate(self.fields):
            out.append((("{" if i == 0 else ",") + json.dumps(field.name, ensure_ascii=False) + ":",))
            out.append(field.tokens)
        out.append(("}",))
        return out

    def random(self, rng: Random) -> dict[str, Any]:
        """A uniform draw, field by field."""
        return {f.name: rng.choice(f.values) for f in self.fields}

    def changed(self, spec: dict[str, Any], rng: Random) -> dict[str, Any]:
        """A copy of ``spec`` with one or two fields at another value, each drawn uniformly."""
        free = [f for f in self.fields if len(f.values) > 1]
        child = dict(spec)
        for field in rng.sample(free, min(rng.choice((1, 2)), len(free))):
            now = json.dumps(spec[field.name])
            child[field.name] = rng.choice([v for v in field.values if json.dumps(v) != now])
        return child

    def describe(self) -> str:
        """A table of the fields for a prompt: name, values, meaning."""
        return "\n".join(f"{f.name}: {' | '.join(f.tokens)}  ({f.doc})" for f in self.fields)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The space as plain data, as a scaffold sees it: {field: {values, ordered, doc}}."""
        return {f.name: {"values": list(f.values), "ordered": f.ordered, "doc": f.doc} for f in self.fields}

    @property
    def size(self) -> int:
        """How many specs there are."""
        n = 1
        for f in self.fields:
            n *= len(f.values)
        return n


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"field '{key}' stands twice")
        seen[key] = value
    return seen
