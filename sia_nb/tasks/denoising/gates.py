"""Gates: which predictions count, by a Poisson measure beside mse_norm, which a shrink of low values alone can raise.

A hard gate rejects what is under its threshold. A soft one, the loop's, multiplies instead:

    value = mse_norm                                          where the gate is passed
            ½ · mse_norm · clip(1 − (threshold − p) / s, 0, 1)²   otherwise, with p the measure and s = max(|threshold|, 0.1)

so that a cold start gets a signal (for a threshold of at least 0.1 the bracket is p / threshold), and yet a passing answer
beats a failing one of the same mse_norm at least twice over. mse_norm is clipped to [0, 1] in it.

Two thresholds are in use. "published": TTT-Discover's 0.97 of the swapped measure. "right": MAGIC's own ``poisson_norm`` on the
same split; 0.97 of the right measure is out of reach for any method. On the loop's cells a solution must be above MAGIC's by one
paired standard error, so that most of what passes there passes on other cells too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import ConfigError, nearest
from .metrics import Measures, mean_se

PUBLISHED_THRESHOLD = 0.97
MARGIN = 1.0  # paired standard errors above MAGIC's measure on the loop's cells
LARGEST = 0.05  # margin; only predictions far below any threshold have larger errors
SLACK = 5e-4  # two ways to compute MAGIC differ by less
LEAST_SCALE = 0.1
KINDS = {"poisson_norm": "poisson", "poisson_norm_openproblems": "poisson_openproblems", "none": ""}


def clipped(mse_norm: float) -> float:
    """mse_norm within [0, 1]."""
    return min(1.0, max(0.0, mse_norm))


@dataclass(frozen=True)
class Verdict:
    """What a gate makes of a prediction."""

    passes: bool
    threshold: float
    measure: float
    value: float
    influence: np.ndarray  # each cell's influence on the value, the threshold taken as given, float64 [n]
    reason: str = ""  # why a hard gate rejects it


@dataclass(frozen=True)
class Gate:
    """A measure with its threshold.

    Args:
        measure: poisson_norm, poisson_norm_openproblems or none.
        threshold: at least so much passes; for MAGIC's own value give ``reference``.
        reference: a prediction's measures on the same split; its measure is then the threshold.
        margin: paired standard errors that a solution must be above the reference's measure.
        soft: multiply instead of rejecting.

    Raises:
        ConfigError: no such measure.
    """

    measure: str = "poisson_norm"
    threshold: float = 0.0
    soft: bool = False
    reference: Measures | None = None
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.measure not in KINDS:
            raise ConfigError(
                f"gate: '{self.measure}' is no measure; expected one of {', '.join(KINDS)}.{nearest(self.measure, KINDS)}"
            )

    def judge(self, measures: Measures) -> Verdict:
        """The verdict on a prediction."""
        m, slope = measures.mse_norm, measures.influence("mse")
        if self.measure == "none":
            return Verdict(True, 0.0, 0.0, clipped(m), slope)
        loss = KINDS[self.measure]
        p, threshold, slack = measures.norm(loss), self.threshold, 0.0
        if self.reference is not None:
            gap = measures.influence(loss) - self.reference.influence(loss)
            threshold, slack = self.reference.norm(loss) + min(self.margin * mean_se(gap), LARGEST), SLACK
        if p >= threshold - slack:
            return Verdict(True, threshold, p, clipped(m), slope)
        if not self.soft:
            return Verdict(False, threshold, p, 0.0, 0 * slope, f"gate: {self.measure} {p:.3f} < {threshold:.3f}")
        scale = max(abs(threshold), LEAST_SCALE)
        near = min(1.0, max(0.0, 1 - (threshold - p) / scale))
        influence = 0.5 * near**2 * slope + clipped(m) * near / scale * measures.influence(loss)
        return Verdict(False, threshold, p, 0.5 * clipped(m) * near**2, influence)


def published() -> Gate:
    """TTT-Discover's rule: 0.97 of the swapped measure, hard."""
    return Gate("poisson_norm_openproblems", PUBLISHED_THRESHOLD)


def right(reference: Measures, *, margin: float = 0.0, soft: bool = False) -> Gate:
    """No worse than the reference, MAGIC at its defaults, on the same split."""
    return Gate("poisson_norm", soft=soft, reference=reference, margin=margin)
