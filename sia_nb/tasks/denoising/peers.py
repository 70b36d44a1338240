"""Methods to compare with: raw counts, gene means, MAGIC, ALRA, KNN smoothing; short implementations of our own.

MAGIC is van Dijk et al. 2018 through magic-impute; ALRA is Linderman et al. 2022 (a low-rank approximation, its values near 0 set
to 0); KNN smoothing is Wagner, Yan and Yanai 2018 (sums over nearest cells, in steps). Normalisations as OpenProblems has them:
library size, then a square root or logarithm; *reversed*, the transform first. The reversed order's inverse as published leaves a
cell's values too small by its sum of transformed counts; mse does not notice, the swapped Poisson measure gains by it, and the
right one falls. So methods whose published output is not in train's scale stand in ``table`` twice: as published, and scaled so
that each cell's total is train's.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from .metrics import PUBLISHED, Yardstick

if TYPE_CHECKING:
    from .split import Split

SCALED = ", scaled to train"


def raw(train: sp.csr_matrix) -> sp.csr_matrix:
    """The counts as they are."""
    return train.astype(np.float64)


def gene_means(train: sp.csr_matrix) -> np.ndarray:
    """Every cell the same profile, the genes' shares of all counts, times its own total."""
    share = np.asarray(train.sum(axis=0), dtype=np.float64).ravel() / train.sum()
    return np.outer(np.asarray(train.sum(axis=1)).ravel(), share)


def scaled(prediction: np.ndarray | sp.csr_matrix, train: sp.csr_matrix) -> np.ndarray:
    """The prediction with each cell's total as in train."""
    prediction = np.asarray(prediction.toarray() if sp.issparse(prediction) else prediction, dtype=np.float64)
    totals = prediction.sum(axis=1)
    return prediction * (np.asarray(train.sum(axis=1)).ravel() / np.where(totals == 0, 1.0, totals))[:, None]


def _library(matrix: sp.csr_matrix) -> tuple[sp.csr_matrix, np.ndarray]:
    totals = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    return sp.csr_matrix(sp.diags(1 / np.where(totals == 0, 1.0, totals)) @ matrix), totals


def normalise(train: sp.csr_matrix, reverse: bool) -> tuple[sp.csr_matrix, np.ndarray]:
    """Square root and library size 1, in this order where ``reverse``, else the other way round; and the library sizes."""
    train = train.astype(np.float64)
    if reverse:
        return _library(train.sqrt())
    shares, totals = _library(train)
    return shares.sqrt(), totals


def magic(train: sp.csr_matrix, *, reverse: bool = False, solver: str = "exact") -> np.ndarray:
    """MAGIC at magic-impute's defaults; ``reverse``: OpenProblems' reversed normalisation, its inverse as published."""
    from magic import MAGIC

    values, totals = normalise(train, reverse)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smooth = MAGIC(solver=solver, verbose=False, random_state=0).fit_transform(values, genes="all_genes")
    return np.square(np.asarray(smooth)) * totals[:, None]


def alra(train: sp.csr_matrix, *, reverse: bool = False) -> np.ndarray:
    """ALRA on square roots of library-normalised counts."""
    values, totals = normalise(train, reverse)
    return np.square(low_rank(values.toarray())) * totals[:, None]


def rank(singular: np.ndarray) -> int:
    """ALRA's choice: the last singular value whose gap to the next is 6 standard deviations above those of the tail."""
    gaps = singular[:-1] - singular[1:]
    tail = gaps[int(0.8 * len(singular)) - 1 :]
    large = np.flatnonzero(gaps > tail.mean() + 6 * tail.std(ddof=1))
    return int(large.max()) + 1 if large.size else 1


def low_rank(values: np.ndarray, k: int = 0, most: int = 100, seed: int = 0) -> np.ndarray:
    """ALRA's completion of a matrix A ≥ 0 [n, g] by rank k; 0: chosen by ``rank`` among ``most`` singular values.

    In the rank-k approximation a gene's values up to the magnitude of its most negative one are 0; the rest gets the mean and
    spread of the gene's values in A; what was above 0 in A and would be lost is kept.
    """
    from sklearn.utils.extmath import randomized_svd

    u, s, vt = randomized_svd(values, min(most, min(values.shape) - 1), random_state=seed, n_iter=10)
    k = k or rank(s)
    low = (u[:, :k] * s[:k]) @ vt[:k]
    kept = np.where(low > np.abs(low.min(axis=0)), low, 0.0)

    def moments(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        there = matrix > 0
        count = np.maximum(there.sum(axis=0), 1)
        mean = matrix.sum(axis=0) / count
        return mean, np.sqrt((there * (matrix - mean) ** 2).sum(axis=0) / np.maximum(count - 1, 1))

    (mean, spread), (wanted_mean, wanted_spread) = moments(kept), moments(values)
    fit = (spread > 0) & (wanted_spread > 0)
    factor = np.where(fit, wanted_spread / np.where(fit, spread, 1.0), 1.0)
    offset = np.where(fit, wanted_mean - mean * factor, 0.0)
    out = np.where(kept > 0, kept * factor + offset, 0.0)
    out[out < 0] = 0.0
    return np.where((values > 0) & (out == 0), values, out)


def knn_smoothing(train: sp.csr_matrix, k: int = 10, pcs: int = 10, seed: int = 0) -> np.ndarray:
    """Sums of each cell's counts and those of its k nearest cells; found in steps of 1, 3, 7 … neighbours.

    In each step the sums so far are brought to their median total, Freeman–Tukey transformed, √x + √(x + 1), and reduced to
    ``pcs`` components. The result is larger than train by a factor of k + 1.
    """
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    counts = np.asarray(train.toarray(), dtype=np.float64)
    k = min(k, counts.shape[0] - 1)
    out = counts
    for step in range(1, int(np.ceil(np.log2(k + 1))) + 1):
        totals = out.sum(axis=1, keepdims=True)
        level = out * (np.median(totals) / np.where(totals == 0, 1.0, totals))
        values = np.sqrt(level) + np.sqrt(level + 1)
        near = PCA(min(pcs, *values.shape), random_state=seed, svd_solver="randomized").fit_transform(values)
        found = NearestNeighbors(n_neighbors=min(2**step - 1, k) + 1).fit(near).kneighbors(near, return_distance=False)
        out = (
            counts[found].sum(axis=1)
            if counts.size * found.shape[1] < 1 << 26
            else np.stack([counts[f].sum(axis=0) for f in found])
        )
    return out


METHODS: dict[str, Any] = {
    "raw counts": raw,
    "gene means": gene_means,
    "MAGIC": magic,
    "MAGIC, reversed normalisation": lambda train: magic(train, reverse=True),
    "ALRA, square root": alra,
    "ALRA, square root, reversed": lambda train: alra(train, reverse=True),
    "KNN smoothing": knn_smoothing,
}
OFF_SCALE = ("MAGIC, reversed normalisation", "ALRA, square root, reversed", "KNN smoothing")


def table(split: Split) -> list[dict[str, Any]]:
    """A row for each method on this split, and for each that only has published scores.

    Returns:
        Dicts of method, mse, mse_norm, poisson, poisson_norm, poisson_norm_openproblems (None where not run here) and
        published: data set → (mse_norm, poisson_norm_openproblems).
    """
    yardstick, rows = Yardstick(split), []

    def row(method: str, prediction: Any) -> dict[str, Any]:
        figures = yardstick.measure(prediction).figures() if prediction is not None else {}
        names = ("mse", "mse_norm", "poisson", "poisson_norm", "poisson_norm_openproblems")
        published = {data: scores[method] for data, scores in PUBLISHED.items() if method in scores}
        return {"method": method, **{n: figures.get(n) for n in names}, "published": published}

    for method, run in METHODS.items():
        prediction = run(split.train)
        rows.append(row(method, prediction))
        if method in OFF_SCALE:
            rows.append(row(method + SCALED, scaled(prediction, split.train)))
    known = {m for scores in PUBLISHED.values() for m in scores}
    return rows + [row(method, None) for method in sorted(known - set(METHODS))]
