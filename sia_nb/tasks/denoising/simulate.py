"""Single-cell counts with known truth: cell types, library sizes, negative-binomial noise, dropout.

A gamma–Poisson hierarchy as in Splatter (Zappia, Phipson and Oshlack 2017), reduced to what the task needs:

    q_g        gene g's share of the molecules, log-normal
    q_kg       q_g times a fold change of cell type k, log-normal, for a share of the genes; normalised over g
    L_c        library size, log-normal with median ``depth``
    λ_cg       L_c q_kg for a cell c of type k: the rates, what denoising should recover
    X_cg       Poisson(λ_cg · Gamma(mean 1, variance φ)), so Var X = λ + φ λ², with φ the ``dispersion``
    dropout    X_cg is set to 0 with probability δ / (1 + λ_cg), with δ the ``dropout``: it takes weakly expressed genes first
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sp

SHARE_SPREAD = 1.2  # standard deviation of log q_g
LIBRARY_SPREAD = 0.35  # of log L_c
FOLD_SPREAD = 1.0  # of the log fold changes
FOLD_SHARE = 0.3  # of the genes that a cell type changes


@dataclass(frozen=True)
class Simulated:
    """Counts and their truth."""

    counts: sp.csr_matrix  # int32 [cells, genes]
    rates: np.ndarray  # float64 [cells, genes]: λ, the expected counts before dropout
    types: np.ndarray  # int [cells]: the cell type of each cell, from 0


def simulate(cells: int, genes: int, types: int, *, depth: float, dispersion: float, dropout: float, seed: int) -> Simulated:
    """Draw a data set.

    Args:
        cells, genes, types: how many, at least 1; at most as many types as cells.
        depth: median library size in molecules, above 0.
        dispersion: φ of Var X = λ + φ λ², at least 0 (0: Poisson).
        dropout: δ, in [0, 1).
        seed: equal seeds give equal sets.

    Raises:
        ConfigError: an argument is out of range.
    """
    import numpy as np
    import scipy.sparse as sp

    for name, value, good in (
        ("cells", cells, cells >= 1),
        ("genes", genes, genes >= 1),
        ("types", types, 1 <= types <= max(cells, 1)),
        ("depth", depth, 0 < depth < float("inf")),
        ("dispersion", dispersion, 0 <= dispersion < float("inf")),
        ("dropout", dropout, 0 <= dropout < 1),
    ):
        if not good:
            raise ConfigError(f"simulate: {name}: {value} is out of range; see the documentation of simulate")
    rng = np.random.RandomState(seed)
    shares = np.exp(rng.normal(0, SHARE_SPREAD, genes))
    folds = np.exp(rng.normal(0, FOLD_SPREAD, (types, genes)) * (rng.random_sample((types, genes)) < FOLD_SHARE))
    profiles = shares * folds
    profiles /= profiles.sum(axis=1, keepdims=True)
    of = np.concatenate([np.arange(types), rng.randint(0, types, cells - types)])  # every type has a cell
    rng.shuffle(of)
    libraries = depth * np.exp(rng.normal(0, LIBRARY_SPREAD, cells))
    rates = libraries[:, None] * profiles[of]
    noisy = rates * rng.gamma(1 / dispersion, dispersion, rates.shape) if dispersion else rates
    counts = rng.poisson(noisy)
    counts[rng.random_sample(rates.shape) < dropout / (1 + rates)] = 0
    return Simulated(sp.csr_matrix(counts.astype(np.int32)), rates, of)
