"""What a prediction must not be: not finite, negative, of another shape, permuted, or made from the test molecules.

*Permuted* (rows or columns in another order than train's). Cells: a prediction's deviations from the gene means should agree
with the same cell's train counts more than with other cells'. It is permuted where a cell's own agreement ranks like a random
cell's, though agreement with some cell is far beyond chance; a prediction without differences between cells, the gene means for
one, has nothing to permute. Genes: totals must rank like train's.

*Peeked*. Let t_a, t_b be the test counts of two entries. Given the true rates they are independent Poisson variables, and
train says nothing more of them, so for any pairing chosen by a function of train

    E (t_a − t_b)² = λ_a + λ_b + (λ_a − λ_b)²  ≥  E (t_a + t_b)

(overdispersed counts exceed it). Entries are paired with their neighbours in the order of the prediction, genes apart and cells
apart. A prediction that knows the test molecules puts equal counts side by side, and the sum over pairs of
(t_a − t_b)² − (t_a + t_b) falls below 0 by many standard errors: more agreement than any function of train can reach.

Both look at a sample of the cells and genes, seeded. May be imported by anything of the task.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from ..process import Failed
from .metrics import logged

SAMPLE_CELLS, SAMPLE_GENES = 200, 200
FLAT = 1e-4  # relative spread between cells below which there is nothing to permute
OWN_RANK = 0.45  # 0.5 by chance
BEYOND_CHANCE = 1.5  # times the best agreement with cells whose genes are shuffled
GENE_ORDER = 0.2  # rank correlation of the genes' totals, as a share of the highest that their ties allow
TELLING = 0.3  # a highest one below it says nothing: nearly all totals are the same
FEWEST = 20  # cells or genes that can tell
PEEKED = -6.0  # standard errors


def check(prediction: np.ndarray | sp.csr_matrix, train: sp.csr_matrix, test: sp.csr_matrix) -> None:
    """Pass a sound prediction; all arguments [n cells, g genes].

    Raises:
        Failed: kind wrong_shape, non_finite, negative, permuted or peeked.
    """
    if prediction.shape != train.shape:
        raise Failed("wrong_shape", f"expected {shape(train.shape)} (cells x genes), got {shape(prediction.shape)}")
    values = prediction.data if sp.issparse(prediction) else prediction
    total = values.sum(dtype=np.float64) if values.size else 0.0
    if not np.isfinite(total) and not np.isfinite(values).all():
        bad = values.size - int(np.isfinite(values).sum())
        raise Failed("non_finite", f"{bad} of {values.size} values are NaN or infinite")
    if values.size and (low := values.min()) < 0:
        raise Failed("negative", f"{int((values < 0).sum())} values are below 0, the lowest {low:.4g}; counts are not")
    rng = np.random.RandomState(0)
    n, g = train.shape
    cells = np.sort(rng.permutation(n)[:SAMPLE_CELLS])
    totals = np.asarray(test.sum(axis=0)).ravel()
    genes = np.sort(np.argsort(-totals, kind="stable")[:SAMPLE_GENES])
    part = dense(prediction[:, genes])
    _permuted_genes(prediction, train)
    _permuted_cells(part[cells], dense(train[:, genes][cells]), rng)
    _peeked(part.T, dense(train[:, genes]).T, dense(test[:, genes]).T, "cells of a gene")
    _peeked(dense(prediction[cells]), dense(train[cells]), dense(test[cells]), "genes of a cell")


def shape(of: Any) -> str:
    """A shape in words: 350 x 765."""
    return " x ".join(map(str, of)) or "a single number"


def dense(matrix: Any) -> np.ndarray:
    """The array of a dense or sparse matrix."""
    return np.asarray(matrix.toarray() if sp.issparse(matrix) else matrix)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, ties at their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _permuted_genes(prediction: np.ndarray | sp.csr_matrix, train: sp.csr_matrix) -> None:
    ours, theirs = (_ranks(np.asarray(m.sum(axis=0)).ravel()) for m in (prediction, train))
    if min(ours.std(), theirs.std()) == 0 or len(ours) < FEWEST:
        return
    r, best = (float(np.corrcoef(a, b)[0, 1]) for a, b in ((ours, theirs), (np.sort(ours), np.sort(theirs))))
    if best >= TELLING and r < GENE_ORDER * best:
        raise Failed("permuted", f"the genes' totals do not rank like train's (correlation {r:.2f}): are the columns in order?")


def _agreements(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Cosine between all rows of ``ours`` and all rows of ``theirs``."""
    norms = [np.linalg.norm(m, axis=1, keepdims=True) for m in (ours, theirs)]
    ours, theirs = (m / np.where(x == 0, 1.0, x) for m, x in zip((ours, theirs), norms, strict=True))
    return ours @ theirs.T


def _permuted_cells(prediction: np.ndarray, train: np.ndarray, rng: np.random.RandomState) -> None:
    ours, theirs = logged(prediction), logged(train)
    spread = np.abs(ours - ours.mean(axis=0)).mean()
    if len(ours) < FEWEST or spread <= FLAT * max(np.abs(ours).mean(), 1e-300):
        return
    ours, theirs = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    found = _agreements(ours, theirs)
    own = np.diagonal(found)[:, None]
    rank = float(((found > own) + 0.5 * (found == own)).mean())
    if rank < OWN_RANK:
        return
    best, chance = (f.max(axis=1).mean() for f in (found, _agreements(ours, theirs[:, rng.permutation(ours.shape[1])])))
    if best > BEYOND_CHANCE * chance:
        raise Failed("permuted", f"cells agree with other cells' counts as well as with their own (rank {rank:.2f} of 0 to 1)")


def _peeked(prediction: np.ndarray, train: np.ndarray, test: np.ndarray, where: str) -> None:
    """Compare each entry's test count with its neighbour's in the order of the prediction, rows apart."""
    top = float(prediction.max()) or 1.0
    for order in (prediction, prediction / (2.0 * top) + train):  # the second among entries of equal train counts
        excess = _excess(test, np.argsort(order, axis=1))
        spread = np.sqrt((excess**2).sum())
        if spread and (z := excess.sum() / spread) < PEEKED:
            raise Failed(
                "peeked",
                f"agrees with the held-out molecules more than any function of the train counts can ({z:.1f} SE, {where})",
            )


def _excess(test: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(t_a − t_b)² − (t_a + t_b) of neighbouring pairs, float64 [rows, columns // 2]."""
    test = np.take_along_axis(test, order, axis=1).astype(np.float64)
    last = 2 * (test.shape[1] // 2)
    a, b = test[:, 0:last:2], test[:, 1:last:2]
    return (a - b) ** 2 - (a + b)
