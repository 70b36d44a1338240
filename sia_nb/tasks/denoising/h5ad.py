"""Counts out of an h5ad file, or a message that says why it holds none. anndata is loaded inside the function."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError, nearest

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sp

MOST = 2**31 - 1  # int32


def read_counts(
    path: Path, *, keep: tuple[str, str] = ("", ""), strict: bool = True
) -> tuple[sp.csr_matrix, list[str], list[str]]:
    """The counts of an h5ad file, whatever their layout in it: dense, csr, csc.

    They stand in ``layers["counts"]`` where there is such a layer; else in ``raw.X`` or ``X``, the first of the two that holds
    nothing but whole numbers from 0.

    Args:
        path: the file.
        keep: a column of ``obs`` and a value of it: only these cells are read, and only they are checked.
        strict: refuse cells and genes without a count, and gene names that stand twice. Turn it off where the filters follow
            and names play no part.

    Returns:
        int32 csr [cells, genes] with sorted columns, names of cells, names of genes.

    Raises:
        DataError: no such file; truncated or no h5ad; no counts; a negative, fractional, non-finite or too large count; no
            cell, gene or count at all; an empty cell or gene; a name twice. The message names the place and the value.
    """
    data = _open(Path(path))
    if keep[0]:
        data = _rows(data, path, *keep)
    counts, genes = _choose(data, path)
    cells = list(map(str, data.obs_names))
    if not counts.nnz:
        raise DataError(f"denoising: {path}: {counts.shape[0]} cells x {counts.shape[1]} genes without a single count.")
    _unique(path, "cell", cells)
    if strict:
        _unique(path, "gene", genes)
        for axis, what, names in ((1, "cell", cells), (0, "gene", genes)):
            _filled(path, what, names, counts.sum(axis=axis))
    return counts, cells, genes


def _open(path: Path) -> Any:
    """The file as an AnnData."""
    import warnings

    import anndata
    import h5py

    if not path.is_file():
        raise DataError(f"denoising: {path}: no such file. Give the path of an h5ad file.")
    try:
        with h5py.File(path) as file:
            parts = set(file)
    except OSError as error:
        raise DataError(
            f"denoising: {path} is truncated or no HDF5 file ({path.stat().st_size:,} bytes; {error}). Get it again."
        ) from error
    if not {"obs", "var"} <= parts:
        raise DataError(f"denoising: {path} is no h5ad file: it holds {sorted(parts)}, expected obs, var and X or layers.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that stand twice, among others: they are checked here
            return anndata.read_h5ad(path)
    except Exception as error:  # damaged HDF5 raises nearly anything
        line = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"denoising: {path} is damaged or no h5ad file ({line[0]}). Get it again.") from error


def _rows(data: Any, path: Path, column: str, value: str) -> Any:
    """The cells whose ``column`` is ``value``."""
    if column not in data.obs:
        raise DataError(f"denoising: {path}: obs has no column '{column}'.{nearest(column, data.obs)} Found: {list(data.obs)}.")
    found = data.obs[column].astype(str)
    if not (found == value).any():
        raise DataError(f"denoising: {path}: no cell has {column} = '{value}'. Found: {sorted(set(found))[:20]}.")
    return data[(found == value).to_numpy()]


def _choose(data: Any, path: Path) -> tuple[sp.csr_matrix, list[str]]:
    """The first matrix that holds counts, and the names of its genes."""
    places = {}
    if "counts" in data.layers:
        places["layers['counts']"] = (data.layers["counts"], data.var_names)
    else:
        if data.raw is not None:
            places["raw.X"] = (data.raw.X, data.raw.var_names)
        if data.X is not None:
            places["X"] = (data.X, data.var_names)
    problems = []
    for place, (matrix, genes) in places.items():
        genes = list(map(str, genes))
        counts, problem = _counts(matrix, list(map(str, data.obs_names)), genes)
        if counts is not None:
            return counts, genes
        problems.append(f"{place}: {problem}")
    raise DataError(
        f"denoising: {path} holds no counts: {'; '.join(problems) or 'neither X nor layers[counts] is there'}. Put whole numbers "
        "from 0 into layers['counts']."
    )


def _counts(matrix: Any, cells: list[str], genes: list[str]) -> tuple[sp.csr_matrix | None, str]:
    """``matrix`` as int32 csr, or None and the first thing that is wrong with it."""
    import numpy as np
    import scipy.sparse as sp

    if np.dtype(matrix.dtype).kind not in "iuf":
        return None, f"values of type {matrix.dtype}, expected numbers"
    try:
        if sp.issparse(matrix):
            matrix.check_format(full_check=True)  # a bad index would crash the conversion
            matrix = matrix.tocsr(copy=True)
            matrix.sum_duplicates()
        else:
            matrix = sp.csr_matrix(np.asarray(matrix))
    except ValueError as error:
        return None, f"damaged ({error})"
    values = matrix.data
    with np.errstate(invalid="ignore"):
        for what, bad in (
            ("not finite", ~np.isfinite(values)),
            ("negative", values < 0),
            ("no whole number", values != np.rint(values)),
            ("too large", values > MOST),
        ):
            if bad.any():
                at = int(bad.argmax())
                row = int(np.searchsorted(matrix.indptr, at, side="right")) - 1
                column = int(matrix.indices[at])
                where = f"cell '{cells[row]}' (row {row}), gene '{genes[column]}' (column {column})"
                return None, f"{what}: {values[at]:g} at {where}, and so {int(bad.sum()):,} of {values.size:,} values"
    counts = sp.csr_matrix((values.astype(np.int32), matrix.indices, matrix.indptr), shape=matrix.shape)
    counts.eliminate_zeros()
    counts.sort_indices()
    return counts, ""


def _unique(path: Path, what: str, names: list[str]) -> None:
    """Raise ``DataError`` where a name stands twice."""
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        if first.setdefault(name, row) != row:
            raise DataError(
                f"denoising: {path}: {what} name '{name}' stands twice, at {first[name]} and {row}; {len(names) - len(set(names))} "
                "names in all repeat an earlier one. Make them unique (AnnData's obs_names_make_unique, var_names_make_unique)."
            )


def _filled(path: Path, what: str, names: list[str], totals: np.ndarray) -> None:
    """Raise ``DataError`` where a cell or gene has no count."""
    import numpy as np

    empty = np.flatnonzero(np.asarray(totals).ravel() == 0)
    if empty.size:
        raise DataError(
            f"denoising: {path}: {empty.size} of {len(names)} {what}s have no count, the first is '{names[empty[0]]}' (number "
            f"{empty[0]}). Drop them (scanpy's pp.filter_{what}s)."
        )
