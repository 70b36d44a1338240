"""What a spec does to the diffused values on the count scale; each a pure function of arrays [n cells, g genes].

The engine runs them in float32, a compiled source holds their text and runs them in float64.
"""

from __future__ import annotations

import numpy as np


def blend(y: np.ndarray, counts: np.ndarray, share: float) -> np.ndarray:
    """Posterior mean of a gamma-Poisson model (as SAVER's): prior mean ``y``, ``counts`` observed.

    The prior is worth (1 - share) / share molecules, so that an observation has the weight ``share`` where one molecule
    is expected, and more where more are.
    """
    prior = (1 - share) / share
    return y * ((counts + prior) / (y + prior))


def match_sums(y: np.ndarray, cells: np.ndarray, genes: np.ndarray, which: str) -> np.ndarray:
    """``y`` scaled so that its sums are the observed ones: by "gene", by "cell", or by gene and then by cell ("both")."""
    for axis, name, observed in ((0, "gene", genes), (1, "cell", cells)):
        if which in (name, "both"):
            now = y.sum(axis=axis, dtype=np.float64)
            ratio = np.divide(observed, now, out=np.ones_like(now), where=now > 0).astype(y.dtype)
            y = y * np.expand_dims(ratio, axis)
    return y


def shrink(y: np.ndarray, below: float, keep: float) -> np.ndarray:
    """Leave values far above ``below`` as they are and the share ``keep`` of those far below it: a Hill curve of order 2."""
    square = y * y
    return y * (keep + (1 - keep) * square / (square + below * below))


def round_to(y: np.ndarray, step: float) -> np.ndarray:
    """The nearest multiple of ``step``."""
    return np.rint(y / step) * step
