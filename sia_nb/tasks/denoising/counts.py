"""Counts of scanpy's pbmc68k_reduced, recovered from the logarithms that it ships.

700 peripheral blood mononuclear cells and 765 variable genes of the 68,000 cells of Zheng et al. 2017 (10x Genomics). ``raw``
holds x = log(1 + s_c · n) for n molecules, with a scale s_c for each cell and some rounding. Every cell has genes counted once,
so the smallest exp(x) − 1 of a cell is its s_c.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ...errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sp

COUNTS_SHA = "cbfe0b4212a4f41a3a0141deb25a54e0bd51ea845f9dcf79b8523a57efa0fde8"
ROUNDING = 0.25  # a recovered count lies at most so far from a whole number


def pbmc68k() -> tuple[sp.csr_matrix, list[str], list[str]]:
    """The counts, int32 csr [700, 765], with the names of cells and genes.

    Raises:
        DataError: scanpy's copy is not the one we know.
    """
    import warnings
    from importlib.metadata import version

    import scanpy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = scanpy.datasets.pbmc68k_reduced().raw.to_adata()
    counts = from_logs(raw.X)
    found = fingerprint(counts)
    if found != COUNTS_SHA:
        raise DataError(
            f"denoising: pbmc68k_reduced of scanpy {version('scanpy')}: the recovered counts have SHA-256 {found}, expected "
            f"{COUNTS_SHA}. Install the scanpy of requirements.lock."
        )
    return counts, list(map(str, raw.obs_names)), list(map(str, raw.var_names))


def from_logs(logs: sp.csr_matrix | np.ndarray) -> sp.csr_matrix:
    """Counts n from x = log(1 + s_c · n), float [cells, genes], where every cell has a gene with n = 1.

    Raises:
        DataError: a value is negative or not finite, or a cell's values are no multiples of its smallest.
    """
    import numpy as np
    import scipy.sparse as sp

    logs = sp.csr_matrix(logs, copy=True)
    logs.eliminate_zeros()
    if not np.all(np.isfinite(logs.data)) or np.any(logs.data < 0):
        raise DataError("denoising: logarithms of counts hold a negative or non-finite value, so no counts can be recovered.")
    ratios = np.expm1(logs.data.astype(np.float64))
    filled = np.flatnonzero(np.diff(logs.indptr))
    scales = np.minimum.reduceat(ratios, logs.indptr[filled]) if len(filled) else ratios
    ratios /= np.repeat(scales, np.diff(logs.indptr)[filled])
    whole = np.rint(ratios)
    off = np.abs(ratios - whole)
    if off.size and off.max() > ROUNDING:
        row = int(np.searchsorted(logs.indptr, int(off.argmax()), side="right") - 1)
        raise DataError(
            f"denoising: cell {row} holds {ratios[off.argmax()]:.3f} times its smallest value where a whole number was expected, "
            "so no counts can be recovered."
        )
    return sp.csr_matrix((whole.astype(np.int32), logs.indices, logs.indptr), shape=logs.shape)


def fingerprint(counts: sp.csr_matrix) -> str:
    """SHA-256 over the shape and the sorted entries, the same on every machine."""
    import numpy as np

    from .split import canonical

    counts = canonical(counts)
    digest = hashlib.sha256(repr(tuple(map(int, counts.shape))).encode())
    for part in (counts.indptr, counts.indices, counts.data):
        digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
    return digest.hexdigest()
