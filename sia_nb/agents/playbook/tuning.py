"""Edits of a scaffold's module constants, by what the trajectory shows of the search's balance."""

from __future__ import annotations

from .diagnose import Finding
from .edits import Edit
from .surgery import constant, set_constant

# constant, finding, factor, lowest, highest, what the new value means
MOVES: tuple[tuple[str, str, float, float, float, str], ...] = (
    ("BATCH", "search_beats_policy", 0.5, 2, 64, "fewer of the policy's answers are scored in a round"),
    ("LOCAL", "policy_beats_search", 0.5, 2, 64, "fewer changes of the best are scored in a round"),
    ("TEMPERATURE", "low_diversity", 1.3, 0.2, 2.0, "answers are sampled hotter, so that fewer are alike"),
    ("TEMPERATURE", "broken_json", 0.7, 0.3, 2.0, "answers are sampled cooler, so that more can be read"),
    ("TEMPERATURE", "bad_value", 0.7, 0.3, 2.0, "answers are sampled cooler, so that more are valid"),
    ("MAX_TOKENS", "truncated", 2.0, 16, 640, "answers may be longer"),
    ("OVERSAMPLE", "tokens_first", 0.5, 1, 16, "fewer answers are sampled for each one that is scored"),
    ("PARENTS", "flat", 3.0, 1, 3, "changes start from several of the best solutions"),
    ("TWO_FIELDS", "flat", 2.0, 0.05, 0.6, "more changes move two fields at once"),
    ("POOL", "flat", 2.0, 4, 48, "the most promising change is picked from a larger pool"),
    ("LONG_STEP", "flat", 2.0, 0.05, 0.6, "more changes go further than to a neighbouring value"),
    ("POOL", "search_beats_policy", 2.0, 4, 48, "the most promising change is picked from a larger pool"),
    ("OVERSAMPLE", "unused_tokens", 2.0, 1, 16, "more answers are sampled for each one that is scored"),
    ("LOCAL", "rising", 1.5, 2, 32, "a round has more changes of the best"),
)


def _moved(old: float, factor: float, low: float, high: float) -> float | int:
    new = min(high, max(low, old * factor))
    return round(new) if isinstance(old, int) else round(new, 3)


def tuning(source: str, findings: list[Finding]) -> list[Edit]:
    """The changes of constants that the findings call for, the most called for first."""
    weight = {f.name: f.weight for f in findings}
    out: list[tuple[float, Edit]] = []
    for name, finding, factor, low, high, meaning in MOVES:
        old = constant(source, name)
        if old is None or finding not in weight:
            continue
        new = _moved(old, factor, low, high)
        if new == old:
            continue
        edit = Edit(
            f"{name}={new}",
            {finding: 0.5},
            f"`{name}` goes from {old} to {new}: {meaning}.",
            f"a weaker `{finding}`" if finding != "rising" else "the same rise with more of it",
            lambda text, name=name, new=new: set_constant(text, name, new),
            lambda text, name=name, new=new: constant(text, name) == new,
            lambda text, name=name: constant(text, name) is not None,
        )
        out.append((weight[finding], edit))
    return [edit for _, edit in sorted(out, key=lambda entry: -entry[0])]
