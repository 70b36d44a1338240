"""MAGIC's graph of cells and diffusion over it: magic-impute 3.0 on graphtools 2.1, in scipy and scikit-learn.

The kernel is alpha-decaying: K(i, j) = exp(-(d(i, j) / s_i)^decay) for j among the 3 knn nearest cells of i and i itself,
s_i the distance to the knn-th, weights under 1e-4 dropped; then (K + K') / 2, no anisotropy, rows scaled to sum 1
(Moon et al., Nature Biotechnology 2019; van Dijk et al., Cell 2018). Imported by the engine only.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

SEED = 0  # of the randomised SVD; the compiled source passes it to MAGIC
THRESHOLD = 1e-4
DENSE = 2048  # up to so many cells the operator is a dense matrix: BLAS is quicker than a sparse product


def components(x: sp.csr_matrix, pcs: int) -> tuple[np.ndarray | sp.csr_matrix, np.ndarray | None]:
    """Cells in principal components [n, pcs] and the components [pcs, g]; ``x`` itself and None where it has no more.

    As graphtools does for sparse data: truncated SVD without centring, randomised (Halko et al. 2011), here seeded.
    """
    if min(x.shape) <= pcs:
        return x, None
    svd = TruncatedSVD(pcs, random_state=SEED).fit(x)
    return svd.transform(x), svd.components_


def neighbours(points: np.ndarray | sp.csr_matrix, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distances to the ``count`` nearest cells, itself first, and their numbers, both [n, count]."""
    return NearestNeighbors(n_neighbors=count).fit(points).kneighbors(points)


def operator(distances: np.ndarray, indices: np.ndarray, knn: int, decay: float) -> np.ndarray | sp.csr_matrix:
    """The diffusion operator P, float32 [n, n], from ``neighbours`` of at least min(3 knn, n - 1) + 1 cells."""
    cells = len(distances)
    width = min(3 * knn, cells - 1) + 1
    d, to = distances[:, :width], indices[:, :width]
    bandwidth = d[:, knn].astype(np.float32)[:, None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        weights = np.exp(-np.power(d / bandwidth, decay))
    weights[np.isnan(weights)] = 1  # copies of one cell: no distance at no bandwidth
    weights[weights < THRESHOLD] = 0
    kernel = sp.csr_matrix((weights.ravel(), to.ravel(), np.arange(cells + 1) * width), (cells, cells))
    p = normalize((kernel + kernel.T) / 2, "l1", axis=1).astype(np.float32)
    return p.toarray() if cells <= DENSE else p


def diffuse(p: np.ndarray | sp.csr_matrix, values: np.ndarray, steps: int) -> np.ndarray:
    """P^steps values, float32 [n, m]."""
    for _ in range(steps):
        values = p @ values
    return values
