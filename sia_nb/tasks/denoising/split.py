"""The molecular split and the filters of OpenProblems' denoising benchmark, version 1.

Molecules, not cells, are split (molecular cross-validation, Batson, Royer and Webber 2019): of the X[c, g] molecules of gene g
counted in cell c, train gets Binomial(X[c, g], 0.9) and test the rest, so that both count the same cells and are independent
given the true rates where counts are Poisson. With the same counts and seed ``benchmark`` gives OpenProblems' own split: the
same filters in the same order, and the same draws of numpy's frozen legacy generator. That one draws for every entry, zeros
too; ``molecular``, which the kit's own splits are made with, draws for what was counted only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sp

TRAIN_SHARE = 0.9
BLOCK = 256  # rows that are dense at a time
MIN_CELLS = 1  # a gene is kept where so many cells have it
MIN_COUNTS = 2  # a cell is kept where it has so many counts


@dataclass(frozen=True)
class Split:
    """Molecules of the same cells and genes in two parts, int32 csr [cells, genes] each."""

    train: sp.csr_matrix
    test: sp.csr_matrix

    def take(self, cells: np.ndarray, genes: np.ndarray) -> Split:
        """The part of these rows and columns."""
        return Split(self.train[cells][:, genes], self.test[cells][:, genes])


def stream(*words: object) -> np.random.RandomState:
    """A generator of its own for a purpose named by words; numpy's legacy one, whose draws never change between versions."""
    import numpy as np

    digest = hashlib.sha256(" ".join(map(str, ("denoising", *words))).encode()).digest()
    return np.random.RandomState(int.from_bytes(digest[:4], "big"))


def draw(counts: sp.csr_matrix, share: float, rng: np.random.RandomState) -> sp.csr_matrix:
    """Binomial(counts, share), molecule by molecule, in the order of rows and columns; a count of 0 takes no draw."""
    import scipy.sparse as sp

    counts = canonical(counts)
    kept = rng.binomial(counts.data, share).astype(counts.data.dtype)
    out = sp.csr_matrix((kept, counts.indices.copy(), counts.indptr.copy()), shape=counts.shape)
    out.eliminate_zeros()
    return out


def molecular(counts: sp.csr_matrix, rng: np.random.RandomState, share: float = TRAIN_SHARE) -> Split:
    """Split molecules: train ~ Binomial(counts, share), test = counts − train.

    Args:
        counts: int [cells, genes].
        rng: a ``RandomState``.
        share: of the molecules that train gets on average, in (0, 1).
    """
    train = draw(counts, share, rng)
    return Split(train, canonical(canonical(counts) - train))


def enough(counts: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Row and column numbers that the filters keep: genes with at least 1 cell, then cells with at least 2 counts."""
    import numpy as np

    counts = canonical(counts)
    genes = np.flatnonzero(np.bincount(counts.indices, minlength=counts.shape[1]) >= MIN_CELLS)
    totals = np.asarray(counts[:, genes].sum(axis=1)).ravel()
    return np.flatnonzero(totals >= MIN_COUNTS), genes


def tidy(split: Split) -> Split:
    """The filters on a split's whole counts, then without the genes that have no train count."""
    import numpy as np

    split = split.take(*enough(split.train + split.test))
    seen = np.flatnonzero(np.bincount(split.train.indices, minlength=split.train.shape[1]))
    return split.take(np.arange(split.train.shape[0]), seen)


def benchmark(counts: sp.csr_matrix, seed: int = 0) -> Split:
    """All cells as OpenProblems prepares them: filters, split with this seed, genes without a train count dropped.

    Takes time and draws in proportion to cells times genes.
    """
    import numpy as np
    import scipy.sparse as sp

    cells, genes = enough(counts)
    counts, rng = canonical(counts)[cells][:, genes], np.random.RandomState(seed)
    blocks = (counts[i : i + BLOCK].toarray() for i in range(0, len(cells), BLOCK))
    drawn = [sp.csr_matrix(rng.binomial(block, TRAIN_SHARE)) for block in blocks]
    train = sp.vstack(drawn, format="csr", dtype=counts.dtype) if drawn else counts
    return tidy(Split(train, canonical(counts - train)))


def canonical(counts: sp.csr_matrix) -> sp.csr_matrix:
    """A csr copy with sorted columns, nothing twice and no stored zero."""
    import scipy.sparse as sp

    out = sp.csr_matrix(counts, copy=True)
    out.sum_duplicates()
    out.eliminate_zeros()
    return out
