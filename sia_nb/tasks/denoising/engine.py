"""A spec's denoised counts in some hundredths of a second: what the verdicts and the report run.

The same arithmetic as the compiled source, in float32 from the diffusion on. Components, neighbours, operators and
diffused states are shared between specs that have them in common, in bounded memory; a result does not depend on what
was asked before. Above ``graph.DENSE`` cells no matrix of cells by cells is dense.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from . import graph, postprocess
from .solution import SPACE, check_cells

KNN = max(next(f for f in SPACE.fields if f.name == "knn").values)
STEPS = next(f for f in SPACE.fields if f.name == "t").values
FORWARD = {"sqrt": np.sqrt, "log": np.log1p}
BACK = {"sqrt": np.square, "log": np.expm1}


def size(value: Any) -> int:
    """Bytes of the arrays in ``value``."""
    if isinstance(value, tuple):
        return sum(map(size, value))
    if sp.issparse(value):
        return value.data.nbytes + value.indices.nbytes + value.indptr.nbytes
    return value.nbytes if isinstance(value, np.ndarray) else 0


class Memory:
    """The last results by key, as many as fit into a number of bytes, and always the last one."""

    def __init__(self, limit: int):
        self.limit, self.held = limit, 0
        self._items: OrderedDict[Any, tuple[Any, int]] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """The remembered value, or ``make()``."""
        if key not in self._items:
            value = make()
            self._items[key] = value, size(value)
            self.held += self._items[key][1]
            while self.held > self.limit and len(self._items) > 1:
                self.held -= self._items.popitem(last=False)[1][1]
        self._items.move_to_end(key)
        return self._items[key][0]


class Engine:
    """Denoised counts of specs; remembers what they share.

    Args:
        memory: bytes that remembered arrays may take.
    """

    def __init__(self, memory: int = 1 << 30):
        self._memory = Memory(memory)

    @property
    def held(self) -> int:
        """Bytes remembered now."""
        return self._memory.held

    def denoise(self, train: sp.csr_matrix, spec: dict[str, Any]) -> np.ndarray:
        """Expected molecules in ``train``'s scale, float32 [n, g], at least 0; ``train`` is not changed.

        Raises:
            InvalidSolution: bad_value, more neighbours asked for than there are cells.
        """
        train = sp.csr_matrix(train)
        check_cells(spec, train.shape[0])
        name = fingerprint(train)
        how = spec["normalisation"]
        reverse = spec["reversed"] and how in FORWARD
        shared = (name, how, reverse)
        x, size_factors = self._memory.get((*shared, "normalised"), lambda: normalised(train, how, reverse))
        y = np.maximum(self._smoothed(shared, x, spec), np.float32(0))
        with np.errstate(over="ignore", invalid="ignore"):
            y = restored(y, size_factors, how, reverse)
            return self._processed(name, train, y, spec)

    def _smoothed(self, shared: tuple[Any, ...], x: sp.csr_matrix, spec: dict[str, Any]) -> np.ndarray:
        """MAGIC's answer in the normalised scale, float32 [n, g]; may be negative where approximate."""
        pcs, knn, decay, t = (spec[n] for n in ("pcs", "knn", "decay", "t"))
        reduced = lambda: self._memory.get((*shared, pcs), lambda: graph.components(x, pcs))
        width = min(3 * KNN + 1, x.shape[0])
        near = lambda: self._memory.get((*shared, pcs, "near"), lambda: graph.neighbours(reduced()[0], width))
        key = (*shared, pcs, knn, decay)
        p = lambda: self._memory.get(key, lambda: graph.operator(*near(), knn, decay))
        if spec["solver"] == "exact" or min(x.shape) <= pcs:
            return self._diffused((*key, "exact"), p, lambda: x, t)
        axes = reduced()[1]
        return self._diffused((*key, "approximate"), p, lambda: reduced()[0], t) @ axes.astype(np.float32)

    def _diffused(self, key: tuple[Any, ...], p: Callable[[], Any], start: Callable[[], Any], t: int) -> np.ndarray:
        """P^t start, by way of every smaller number of steps in the space: the same bits in whatever order they are asked."""
        before = max((s for s in STEPS if s < t), default=0)

        def further() -> np.ndarray:
            values = self._diffused(key, p, start, before) if before else dense(start())
            return graph.diffuse(p(), values, t - before)

        return self._memory.get((*key, t), further)

    def _processed(self, name: str, train: sp.csr_matrix, y: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
        """``y`` after the spec's post-processing, in the order of its fields."""
        cells, genes = self._memory.get((name, "sums"), lambda: sums(train))
        if spec["blend"]:
            y = postprocess.blend(y, self._memory.get((name, "counts"), lambda: dense(train)), spec["blend"])
        y = postprocess.match_sums(y, cells, genes, spec["rescale"])
        if spec["power"] != 1:
            y = y ** spec["power"]
        if spec["shrink"]:
            y = postprocess.shrink(y, spec["shrink"], spec["keep"])
        if spec["clip"]:
            y = np.maximum(y, spec["clip"])
        if spec["round"] != "none":
            y = postprocess.round_to(y, spec["round"])
        return postprocess.match_sums(y, cells, genes, spec["calibrate"])


def fingerprint(train: sp.csr_matrix) -> str:
    """Names a matrix by its content."""
    digest = hashlib.blake2b(repr((train.shape, train.dtype.str)).encode(), digest_size=16)
    for part in (train.data, train.indices, train.indptr):
        digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()


def dense(x: Any) -> np.ndarray:
    """``x`` as a float32 array."""
    return (x.astype(np.float32).toarray() if sp.issparse(x) else x.astype(np.float32)).astype(np.float32, copy=False)


def sums(train: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Molecules of every cell [n] and of every gene [g]."""
    return tuple(np.asarray(train.sum(axis=a, dtype=np.float64)).ravel() for a in (1, 0))


def normalised(train: sp.csr_matrix, how: str, reverse: bool) -> tuple[sp.csr_matrix, np.ndarray]:
    """What the graph is built on, float64 [n, g], and the cells' size factors [n], library sizes over their median.

    ``reverse``: the transform comes first and the size is the sum of transformed counts.
    """
    x = train.astype(np.float64)
    if how == "none":
        return x, np.ones(x.shape[0])
    change = FORWARD.get(how, lambda v: v)
    if reverse:
        x.data = change(x.data)
    library = np.asarray(x.sum(axis=1)).ravel()
    factors = np.where(library > 0, library, 1) / np.median(library[library > 0])
    x = (sp.diags(1 / factors) @ x).tocsr()
    if not reverse:
        x.data = change(x.data)
    return x, factors


def restored(y: np.ndarray, factors: np.ndarray, how: str, reverse: bool) -> np.ndarray:
    """``normalised`` undone, on the scale of counts."""
    factors, back = factors.astype(y.dtype)[:, None], BACK.get(how, lambda v: v)
    return back(y * factors) if reverse else back(y) * factors
