"""Edits of the module constants of a scaffold, by what the trajectory shows of the search's balance."""

from __future__ import annotations

from .diagnose import Finding
from .edits import Edit
from .surgery import constant, set_constant


def _set(name: str, value: float | int, calls: dict[str, float], sentence: str, expect: str) -> Edit:
    return Edit(
        f"{name}={value}",
        calls,
        sentence,
        expect,
        lambda source: set_constant(source, name, value),
        lambda source: constant(source, name) == value,
    )


def tuning(source: str, findings: list[Finding]) -> list[Edit]:
    """The changes of constants that the findings call for, the most called for first."""
    weight = {f.name: f.weight for f in findings}
    out: list[tuple[float, Edit]] = []
    temperature = constant(source, "TEMPERATURE")
    if temperature is not None and temperature < 2.0 and "low_diversity" in weight:
        value = round(min(2.0, temperature * 1.3), 2)
        edit = _set("TEMPERATURE", value, {"low_diversity": 1.0}, f"Answers are sampled at temperature {value}.", "more distinct answers")
        out.append((weight["low_diversity"], edit))
    return [edit for _, edit in sorted(out, key=lambda entry: (-entry[0], entry[1].name))]
