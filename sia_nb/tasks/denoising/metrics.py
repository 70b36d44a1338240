"""How well a denoised matrix predicts the molecules held out: OpenProblems' measures and the Poisson loss as it should be.

Notation: train, test [n cells, g genes] the molecules of the two parts of a split (``split``), Y the prediction in train's
scale, m = Σ test / Σ train.

    mse                   mean over entries of (L(Y) − L(test))², L(A) = log(1 + 10⁴ A / row sums of A)
    poisson               mean of m Y − test · log(m Y + 10⁻⁶), the Poisson loss of the test molecules up to a constant
    poisson_openproblems  mean of test − m Y · log(test + 10⁻⁶): the arguments of the loss swapped, as it was published

Each is normalised to 0 for the train molecules as they are ("none") and 1 for the test molecules ("perfect"):

    norm = (none − loss) / (none − perfect)

OpenProblems' perfect prediction of the swapped loss is test scaled by m like any other, so that published figures compare; the
right loss has its lowest value at m Y = test. May be imported by anything of the task; imports numpy and scipy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from .split import Split

TARGET = 1e4  # molecules a cell in mse
EPS = 1e-6  # in both Poisson losses
BLOCK = 1 << 20  # entries that are worked on at a time
LOSSES = ("mse", "poisson", "poisson_openproblems")


def logged(counts: np.ndarray) -> np.ndarray:
    """L(A): cells scaled to ``TARGET``, then log(1 + x); a cell without counts stays 0. float64 [n, g]."""
    totals = counts.sum(axis=1, dtype=np.float64, keepdims=True)
    return np.log1p(counts * (TARGET / np.where(totals == 0, 1.0, totals)))


def poisson_loss(rate: np.ndarray, count: np.ndarray) -> np.ndarray:
    """rate − count · log(rate + 10⁻⁶), entry by entry."""
    return rate - count * np.log(rate + EPS)


def normalised(loss: float, none: float, perfect: float) -> float:
    """(none − loss) / (none − perfect): 0 for the counts as they are, 1 for the test molecules, not clipped."""
    return (none - loss) / (none - perfect)


def ratio_influence(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Each cell's influence on Σ top / Σ bottom: (top − ratio · bottom) / mean(bottom), float [n], mean 0."""
    return (top - top.sum() / bottom.sum() * bottom) / bottom.mean()


def mean_se(influence: np.ndarray) -> float:
    """Standard error of an estimate from the influences of independent cells; 0 for a single cell."""
    n = len(influence)
    return float(np.std(influence, ddof=1) / np.sqrt(n)) if n > 1 else 0.0


@dataclass(frozen=True)
class Measures:
    """A prediction's losses cell by cell, with those of no denoising and of a perfect one on the same split."""

    cells: dict[str, np.ndarray]  # name of a loss → float64 [n], mean over genes
    none: dict[str, np.ndarray]
    perfect: dict[str, np.ndarray]

    def loss(self, name: str) -> float:
        """Mean over cells of ``mse``, ``poisson`` or ``poisson_openproblems``."""
        return float(self.cells[name].mean())

    def norm(self, name: str) -> float:
        """The loss ``name`` normalised."""
        return normalised(self.loss(name), float(self.none[name].mean()), float(self.perfect[name].mean()))

    def influence(self, name: str) -> np.ndarray:
        """Each cell's influence on ``norm(name)``, float64 [n]."""
        return ratio_influence(self.none[name] - self.cells[name], self.none[name] - self.perfect[name])

    @property
    def mse(self) -> float:
        """Mean squared error of logarithms."""
        return self.loss("mse")

    @property
    def mse_norm(self) -> float:
        """The normalised mse, not clipped; below 0 where a prediction is worse than the counts themselves."""
        return self.norm("mse")

    @property
    def poisson(self) -> float:
        """The Poisson loss of the test molecules."""
        return self.loss("poisson")

    @property
    def poisson_norm(self) -> float:
        """The normalised Poisson loss, with the arguments in their right order."""
        return self.norm("poisson")

    @property
    def poisson_norm_openproblems(self) -> float:
        """The normalised Poisson loss with its arguments swapped, as OpenProblems publishes it."""
        return self.norm("poisson_openproblems")

    def figures(self) -> dict[str, float]:
        """mse, mse_norm, poisson, poisson_norm, poisson_norm_openproblems."""
        names = ("mse", "mse_norm", "poisson", "poisson_norm", "poisson_norm_openproblems")
        return {name: getattr(self, name) for name in names}


class Yardstick:
    """Measures predictions of one split; holds the losses of no denoising and of a perfect one."""

    def __init__(self, split: Split):
        self.test = sp.csr_matrix(split.test, dtype=np.float64)
        self.shape = self.test.shape
        self.factor = float(self.test.sum()) / float(split.train.sum())
        self._kept: list[tuple[np.ndarray, ...]] | None = None
        self.none = self._losses(sp.csr_matrix(split.train, dtype=np.float64))
        self.perfect = self._losses(self.test)
        self.perfect["poisson"] = np.concatenate([poisson_loss(t, t).mean(axis=1) for t in self._blocks(self.test)])

    def measure(self, prediction: np.ndarray | sp.csr_matrix) -> Measures:
        """The measures of Y [n, g], dense or sparse: finite, not negative, in train's scale.

        Raises:
            ValueError: another shape.
        """
        if prediction.shape != self.shape:
            raise ValueError(f"the prediction has shape {prediction.shape}, expected {self.shape}")
        return self.recall(self._losses(prediction))

    def recall(self, cells: dict[str, np.ndarray]) -> Measures:
        """The measures behind losses cell by cell that were kept."""
        return Measures(cells, self.none, self.perfect)

    def _losses(self, prediction: np.ndarray | sp.csr_matrix) -> dict[str, np.ndarray]:
        parts: dict[str, list[np.ndarray]] = {name: [] for name in LOSSES}
        for y, (t, t_logged, t_log) in zip(self._blocks(prediction), self._tests(), strict=True):
            scaled = y * self.factor
            parts["mse"].append(((logged(y) - t_logged) ** 2).mean(axis=1))
            parts["poisson"].append(poisson_loss(scaled, t).mean(axis=1))
            parts["poisson_openproblems"].append((t - scaled * t_log).mean(axis=1))
        return {name: np.concatenate(found) for name, found in parts.items()}

    def _tests(self) -> Iterable[tuple[np.ndarray, ...]]:
        """test, L(test) and log(test + 10⁻⁶), block by block; kept where they are small."""
        if self._kept is not None:
            return self._kept
        made = ((t, logged(t), np.log(t + EPS)) for t in self._blocks(self.test))
        if self.shape[0] * self.shape[1] <= BLOCK:
            self._kept = list(made)
            return self._kept
        return made

    def _blocks(self, matrix: np.ndarray | sp.csr_matrix) -> Iterator[np.ndarray]:
        rows = max(1, BLOCK // max(1, self.shape[1]))
        for start in range(0, self.shape[0], rows):
            part = matrix[start : start + rows]
            yield np.asarray(part.toarray() if sp.issparse(part) else part, dtype=np.float64)


PANCREAS = {"mse": (0.304721, 0.0), "poisson_openproblems": (0.257575, 0.031739)}  # none and perfect, as published

PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {  # data set → method → mse_norm, poisson_norm_openproblems
    "pancreas": {
        "MAGIC, reversed normalisation": (0.2405, 0.977),
        "MAGIC": (0.239, 0.590),
        "ALRA, square root, reversed": (-0.012, 0.976),
        "DCA": (0.117, -0.076),
        "KNN smoothing": (0.091, -10.3),
    },
    "pbmc1k": {
        "MAGIC, reversed normalisation": (0.303, 0.977),
        "MAGIC": (0.304, 0.541),
        "ALRA, square root, reversed": (0.029, 0.976),
        "DCA": (0.195, -0.041),
        "KNN smoothing": (0.174, -9.4),
        "TTT-Discover": (0.432, 0.985),
    },
    "lung": {
        "MAGIC, reversed normalisation": (0.296, 0.985),
        "MAGIC": (0.296, 0.500),
        "ALRA, square root, reversed": (-0.041, 0.984),
        "DCA": (0.173, -0.034),
        "KNN smoothing": (0.138, -9.6),
        "TTT-Discover": (0.48, 0.99),
    },
}
