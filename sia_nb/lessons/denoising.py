"""The lesson on the measures of single-cell denoising: its data, its experiments, as tables.

Everything is computed here from scanpy's blood cells and from simulated counts whose truth is known. ``denoising_pictures``
draws the tables, ``denoising_checks`` looks at a learner's answers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..tasks.denoising import gates
from ..tasks.denoising.counts import pbmc68k
from ..tasks.denoising.engine import Engine
from ..tasks.denoising.metrics import TARGET, Yardstick
from ..tasks.denoising.peers import gene_means, magic
from ..tasks.denoising.simulate import simulate
from ..tasks.denoising.solution import FALLBACK
from ..tasks.denoising.split import Split, molecular, stream, tidy

MARKERS = {
    "B cells": ("CD79A", "MS4A1"),
    "monocytes": ("LYZ", "S100A8"),
    "killer cells": ("NKG7", "GNLY"),
    "T cells": ("CD3D", "IL7R"),
}
TYPES = {
    "CD19+ B": "B cells",
    "CD14+ Monocyte": "monocytes",
    "CD56+ NK": "killer cells",
    "CD8+ Cytotoxic T": "cytotoxic T",
    "CD4+/CD25 T Reg": "helper T",
    "Dendritic": "dendritic",
}
POWERS = (0.7, 0.85, 1, 1.2, 1.5, 2, 3, 4, 6)
NEAR = 15  # neighbours whose labels are compared


@dataclass(frozen=True)
class Blood:
    """Blood cells with a molecular split of their own, and the labels that their authors gave them."""

    split: Split
    labels: pd.Series  # bulk label of each cell
    genes: list[str]


def blood(seed: int = 0) -> Blood:
    """All 700 cells of ``pbmc68k_reduced`` with a split that no run uses."""
    import scanpy

    counts, cells, genes = pbmc68k()
    split = molecular(counts, stream("lesson", seed))
    seen = np.flatnonzero(np.asarray(split.train.sum(axis=0)).ravel())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = scanpy.datasets.pbmc68k_reduced().obs["bulk_labels"].loc[cells]
    return Blood(split.take(np.arange(len(cells)), seen), labels.astype(str), [genes[g] for g in seen])


# -- one gene ----------------------------------------------------------------------------------------


def expected_log(rate: np.ndarray, library: float) -> np.ndarray:
    """E log(1 + 10⁴ N / D) for N ~ Poisson(rate) test molecules in a cell of D = ``library``, the same shape as ``rate``."""
    from scipy.stats import poisson

    rate = np.asarray(rate, dtype=np.float64)
    n = np.arange(int(poisson.ppf(1 - 1e-12, max(float(rate.max()), 1e-9))) + 2)
    return (poisson.pmf(n, rate[..., None]) * np.log1p(TARGET * n / library)).sum(axis=-1)


def best_guess(rate: np.ndarray, library: float) -> np.ndarray:
    """The count that is best to predict under mse where ``rate`` is expected: exp(E log(1 + x)) − 1, back on the scale of counts."""
    return np.expm1(expected_log(rate, library)) * library / TARGET


# -- simulated cells, whose truth is known --------------------------------------------------------------


def truth_and_distortions(cells: int = 400, genes: int = 600, seed: int = 0) -> pd.DataFrame:
    """How the *true* rates score as a prediction, and what distortions of them score.

    Returns:
        Columns prediction, mse_norm, poisson_norm, poisson_norm_openproblems, error (root mean squared error to the true rates,
        of the root of the rates' mean square).
    """
    made = simulate(cells, genes, 6, depth=600, dispersion=0.05, dropout=0.0, seed=seed)
    split, truth = _with_truth(made.counts, made.rates, seed)
    flat = np.full_like(truth, 1.0)
    rows = [
        ("the truth", truth),
        *((f"the truth, rounded to {step:g}", _kept(np.rint(truth / step) * step)) for step in (1, 2, 4, 8)),
        *((f"the truth to the power {p:g}", _level(truth**p, truth)) for p in (1.2, 1.5, 2, 3)),
        ("best guess for each rate", _per_cell(best_guess, truth, split)),
        ("gene means", gene_means(split.train)),
        ("the same count everywhere", _level(flat, truth)),
        ("the counts themselves", split.train),
    ]
    return _measured(split, rows, truth)


def _with_truth(counts: sp.csr_matrix, rates: np.ndarray, seed: int) -> tuple[Split, np.ndarray]:
    """A split and the rates of its train molecules, on the cells and genes that the filters leave."""
    from ..tasks.denoising.split import TRAIN_SHARE, enough

    rng = stream("lesson simulated", seed)
    split = molecular(counts, rng)
    cells, genes = enough(counts)
    seen = genes[np.asarray(split.train[cells][:, genes].sum(axis=0)).ravel() > 0]
    return tidy(split), TRAIN_SHARE * rates[np.ix_(cells, seen)]


def _level(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """``values`` with every cell's total as in ``like``."""
    return values * (like.sum(axis=1) / values.sum(axis=1))[:, None]


def _kept(values: np.ndarray) -> np.ndarray:
    """A cell that lost everything keeps a trace, so that it can be scaled."""
    return np.where(values.sum(axis=1, keepdims=True) > 0, values, 1e-6)


def _per_cell(guess: Callable[[np.ndarray, float], np.ndarray], truth: np.ndarray, split: Split) -> np.ndarray:
    """``guess`` of the test's rates in each cell, on train's scale."""
    share = float(split.test.sum()) / float(split.train.sum())
    libraries = np.maximum(np.asarray(split.test.sum(axis=1)).ravel(), 1)
    return np.stack([guess(share * row, float(size)) for row, size in zip(truth, libraries, strict=True)]) / share


def _measured(split: Split, rows: list[tuple[str, Any]], truth: np.ndarray | None = None) -> pd.DataFrame:
    yardstick, out = Yardstick(split), []
    for name, prediction in rows:
        figures = yardstick.measure(prediction).figures()
        row = {"prediction": name} | {k: figures[k] for k in ("mse_norm", "poisson_norm", "poisson_norm_openproblems")}
        if truth is not None:
            dense = prediction.toarray() if sp.issparse(prediction) else prediction
            row["error"] = float(np.sqrt(((dense - truth) ** 2).mean() / (truth**2).mean()))
        out.append(row)
    return pd.DataFrame(out)


# -- real cells --------------------------------------------------------------------------------------


def gate_of(split: Split) -> gates.Gate:
    """The right gate: no worse a Poisson measure than MAGIC's on the same split."""
    return gates.right(Yardstick(split).measure(magic(split.train)))


def sweep(data: Blood, powers: tuple[float, ...] = POWERS) -> pd.DataFrame:
    """MAGIC raised to a power, each cell brought back to its total.

    Returns:
        Columns prediction, power, mse_norm, poisson_norm, poisson_norm_openproblems, passes_right, passes_published.
    """
    y = smoothed(data, FALLBACK)
    predictions = [raised(y, p) for p in powers]
    table = _measured(data.split, [(f"MAGIC to the power {p:g}", q) for p, q in zip(powers, predictions, strict=True)])
    table.insert(1, "power", powers)
    yardstick, right = Yardstick(data.split), gate_of(data.split)
    for name, gate in (("passes_right", right), ("passes_published", gates.published())):
        table[name] = [gate.judge(yardstick.measure(q)).passes for q in predictions]
    return table


def smoothed(data: Blood, spec: dict[str, Any]) -> np.ndarray:
    """What a spec makes of the cells, float64 [n, g]."""
    return Engine().denoise(data.split.train, spec).astype(np.float64)


def raised(y: np.ndarray, power: float) -> np.ndarray:
    """The hack: values raised to a power, each cell brought back to its total."""
    return _level(np.maximum(y, 1e-12) ** power, y)


def predictions(data: Blood, spec: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
    """What biology is looked at with: counts, MAGIC, MAGIC shrunk by a high power, and a spec of the task's space if one is given."""
    y = smoothed(data, FALLBACK)
    out = {"counts": data.split.train.toarray().astype(np.float64), "MAGIC": y, "MAGIC to the power 4": raised(y, 4)}
    return out | ({"your spec": smoothed(data, spec)} if spec else {})


def annotated(data: Blood, prediction: np.ndarray) -> Any:
    """An AnnData of log-normalised values with the cells' labels, components and an embedding (t-SNE, seeded)."""
    import anndata
    import scanpy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = anndata.AnnData(np.asarray(prediction, dtype=np.float32))
        cells.var_names = data.genes
        cells.obs["type"] = pd.Categorical([TYPES.get(label, "other") for label in data.labels])
        cells.obs["label"] = pd.Categorical(data.labels.to_numpy())
        scanpy.pp.normalize_total(cells, target_sum=TARGET)
        scanpy.pp.log1p(cells)
        scanpy.pp.pca(cells, n_comps=20, random_state=0)
        scanpy.tl.tsne(cells, use_rep="X_pca", random_state=0)
    return cells


def biology(data: Blood, made: dict[str, Any]) -> pd.DataFrame:
    """What is left of the cells' types in each denoised matrix.

    Args:
        made: name → what ``annotated`` returns.

    Returns:
        Columns prediction; neighbours (share of a cell's NEAR nearest cells with its label; labels were given to the
        counts, so they are no ground truth); marker_gap (mean log value of marker genes in their own type minus all other
        cells); marker_cells (share of marker genes' own cells in which they can still be seen, above 1 in 10⁴);
        genes (share of all genes that are seen in at least one cell in a hundred).
    """
    from sklearn.neighbors import NearestNeighbors

    rows = []
    for name, cells in made.items():
        labels = cells.obs["label"].to_numpy()
        near = NearestNeighbors(n_neighbors=NEAR + 1).fit(cells.obsm["X_pca"]).kneighbors(return_distance=False)[:, :NEAR]
        gaps, seen = [], []
        for kind, genes in MARKERS.items():
            own = cells.obs["type"].isin(["cytotoxic T", "helper T"] if kind == "T cells" else [kind]).to_numpy()
            for gene in (g for g in genes if g in data.genes):
                x = np.asarray(cells[:, gene].X).ravel()
                gaps.append(x[own].mean() - x[~own].mean())
                seen.append((x[own] > np.log(2)).mean())
        visible = (np.asarray(cells.X) > np.log(2)).mean(axis=0) > 0.01
        rows.append((name, (labels[near] == labels[:, None]).mean(), np.mean(gaps), np.mean(seen), visible.mean()))
    return pd.DataFrame(rows, columns=["prediction", "neighbours", "marker_gap", "marker_cells", "genes"])
