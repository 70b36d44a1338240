"""Gates: which predictions count, by a Poisson measure beside mse_norm, which a shrink of low values alone can raise.

A hard gate rejects what is under its threshold. A soft one, the loop's, has a price instead:

    z = mse_norm − PRICE · max(0, threshold − p)                with p the measure
    value = z where z ≥ KNEE, else KNEE / (1 + (KNEE − z) / TAIL)

so that a cold start gets a signal however far below it is, and the value never reaches 0, which is an invalid solution's. The price is
that of the trade: on the front of what was tried on blood cells mse_norm falls by about 2 for each unit that p rises, so at
less than that it pays to stay below the gate, and at far more the first solution that passes is a trap.

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
PRICE = 4.0  # in mse_norm, of one unit of the measure below the gate
KNEE, TAIL = 0.02, 0.5  # of what is worth next to nothing
KINDS = {"poisson_norm": "poisson", "poisson_norm_openproblems": "poisson_openproblems", "none": ""}


def clipped(mse_norm: float) -> float:
    """mse_norm within [0, 1]."""
    return min(1.0, max(0.0, mse_norm))


def priced(z: float) -> tuple[float, float]:
    """Value and slope of mse_norm less its price: z itself, or a tail above 0 where z is below ``KNEE``."""
    if z >= KNEE:
        return z, 1.0
    share = 1 / (1 + (KNEE - z) / TAIL)
    return KNEE * share, KNEE / TAIL * share**2


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
        soft: take a price off instead of rejecting.

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
        passes = p >= threshold - slack
        if self.soft:
            value, steep = priced(m if passes else m - PRICE * (threshold - p))
            cost = 0.0 if passes else PRICE
            return Verdict(passes, threshold, p, value, steep * (slope + cost * measures.influence(loss)))
        if passes:
            return Verdict(True, threshold, p, clipped(m), slope)
        return Verdict(False, threshold, p, 0.0, 0 * slope, f"gate: {self.measure} {p:.3f} < {threshold:.3f}")


def published() -> Gate:
    """TTT-Discover's rule: 0.97 of the swapped measure, hard."""
    return Gate("poisson_norm_openproblems", PUBLISHED_THRESHOLD)


def right(reference: Measures, *, margin: float = 0.0, soft: bool = False) -> Gate:
    """No worse than the reference, MAGIC at its defaults, on the same split."""
    return Gate("poisson_norm", soft=soft, reference=reference, margin=margin)
