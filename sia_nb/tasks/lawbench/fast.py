"""A spec's predictions on shared data in a second or two: what the verdicts and the report run.

The same methods as the compiled source, with three differences in the arithmetic: float32; products of
sparse matrices taken apart into frequent features (dense, BLAS) and rare ones (sparse); and the SVC
solved for all classes at once on the kernel (see ``svc``). Imported by the worker only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.linalg import cho_factor, cho_solve, lapack

from . import features, models, second
from .counts import atoms_of, load
from .solution import Base, bases

FREQUENT = 100
QUICK = (16, 8, 5e-3)
PRECISE = (100, 80, 1e-3)


class Recent:
    """A small memory of the last results by key."""

    def __init__(self, size: int):
        self.size = size
        self._items: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """The remembered value, or ``make()``."""
        if key not in self._items:
            while len(self._items) >= self.size:
                self._items.popitem(last=False)
            self._items[key] = make()
        self._items.move_to_end(key)
        return self._items[key]


class Engine:
    """Predictions of specs from one folder of counts; remembers weighted views, kernels and base scores."""

    def __init__(self, folder: Path, y: np.ndarray):
        self.folder, self.y = folder, y
        self._atoms = Recent(5)
        self._weighted = Recent(4)
        self._kernels = Recent(6)
        self._scores = Recent(64)

    def predict(self, spec: dict[str, Any], precise: bool = False) -> np.ndarray:
        """Class numbers of the new texts, int [m]; ``precise``: SVCs are solved to the end."""
        members, level2 = bases(spec), spec["level2"]
        if level2 == "none":
            return second.plain_sum([self.base(b, False, precise)[1] for b in members]).argmax(axis=1)
        pairs = [self.base(b, True, precise) for b in members]
        held, new = second.scaled([h for h, _ in pairs], [s for _, s in pairs])
        w = models.class_weights(self.y, spec["weight"])[self.y]
        if level2 == "rerank":
            scores = second.rerank(held, new, self.y, w, spec["strength2"])
        else:
            _, scores = second.conditional_logit(held, new, self.y, w, spec["strength2"], level2 == "stack")
        return scores.argmax(axis=1)

    def base(self, b: Base, held: bool, precise: bool) -> tuple[np.ndarray, np.ndarray]:
        """Held-out and new scores of one base model; ``held`` and ``precise`` make a difference to the SVC only."""
        if b.model != "svc":
            held, precise = True, False
        return self._scores.get((b, held, precise), lambda: self._fit(b, held, precise))

    def _fit(self, b: Base, held: bool, precise: bool) -> tuple[np.ndarray, np.ndarray]:
        if b.model == "nb":
            return naive_bayes(*self.weighted(b), self.y, b.weight, b.strength)
        K, N = self._kernels.get(
            (b.view, b.tf, b.idf, b.min_df, b.select), lambda: kernel(*map(features.unit_rows, self.weighted(b)))
        )
        w = models.class_weights(self.y, b.weight)[self.y].astype(np.float32)
        if b.model == "ridge":
            return ridge(K, N, self.y, w, b.strength)
        if b.model == "centroid":
            return models.centroid(K, N, self.y, b.strength)
        if b.model == "knn":
            return models.knn(K, N, self.y, w, b.strength)
        return svc(K, N, self.y, models.class_weights(self.y, b.weight), b.strength, held, PRECISE if precise else QUICK)

    def weighted(self, b: Base) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """The weighted features of a view, train and dev."""
        return self._weighted.get((b.view, b.tf, b.idf, b.min_df, b.select), lambda: self._weigh(b))

    def _weigh(self, b: Base) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        parts = [self._atoms.get(a, lambda a=a: load(self.folder, a, len(self.y))) for a in atoms_of(b.view)]
        train, new = (sp.hstack(side, format="csr") if len(parts) > 1 else side[0] for side in zip(*parts, strict=True))
        columns = features.chosen_columns(train, self.y, b.min_df, b.select)
        if len(columns) < train.shape[1]:
            train, new = pick(train, columns), pick(new, columns)
        return features.weigh(train, new, b.tf, b.idf)


def pick(x: sp.csr_matrix, columns: np.ndarray) -> sp.csr_matrix:
    """x[:, columns] for sorted columns, without building an index of every entry."""
    place = np.full(x.shape[1], -1, np.int32)
    place[columns] = np.arange(len(columns), dtype=np.int32)
    to = place[x.indices]
    keep = to >= 0
    ends = np.concatenate([[0], np.cumsum(keep)])[x.indptr]
    return sp.csr_matrix((x.data[keep], to[keep], ends), (x.shape[0], len(columns)))


def halves(train: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Frequent and rare columns of ``train``."""
    df = np.bincount(train.indices, minlength=train.shape[1])
    return np.flatnonzero(df >= FREQUENT), np.flatnonzero((df < FREQUENT) & (df > 0))


def kernel(train: sp.csr_matrix, new: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Products of rows: train with train [n, n] and new with train [m, n], float32."""
    frequent, rare = halves(train)
    train, new = train.astype(np.float32), new.astype(np.float32)
    a, b = pick(train, frequent).toarray(), pick(new, frequent).toarray()
    s, t = pick(train, rare), pick(new, rare)
    turned = s.T.tocsr()
    return a @ a.T + (s @ turned).toarray(), b @ a.T + (t @ turned).toarray()


def ridge(K: np.ndarray, N: np.ndarray, y: np.ndarray, w: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """``models.ridge`` by Cholesky."""
    lower = lapack.spotrf(K + np.diag(1 / (np.float32(strength) * w)), lower=1, overwrite_a=1)[0]
    inverse = lapack.spotri(lower, lower=1, overwrite_c=1)[0]
    diagonal = np.diag(inverse).copy()
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    target = models.one_hot(y, np.float32)
    dual = inverse @ target
    return target - dual / diagonal[:, None], N @ dual


def svc(
    K: np.ndarray, N: np.ndarray, y: np.ndarray, weights: np.ndarray, strength: float, held: bool, effort: tuple[int, int, float]
) -> tuple[np.ndarray, np.ndarray]:
    """``models.svc`` for all classes at once.

    The squared hinge is majorised by a parabola of the same curvature at every text, so one step is a
    ridge regression whose matrix is the same for all classes and steps: one Cholesky, then accelerated
    steps (Nesterov's, restarted when they turn back) of two triangular solves. The bias is LIBLINEAR's: a constant feature. ``effort``: most
    steps on all texts, most steps on a fold, and the change of a step that is taken for standing still.
    """
    steps, fold_steps, still = effort
    K, N = K + np.float32(1), N + np.float32(1)
    solve = Squared(K, y, weights, strength)
    dual, f = solve(np.arange(len(y)), steps, still)
    scores = np.full(f.shape, np.float32(-1))
    if held:
        fold = models.folds(y)
        for i in range(models.FOLDS):
            rows, out = np.flatnonzero(fold != i), np.flatnonzero(fold == i)
            fold_dual, _ = solve(rows, fold_steps, still)
            part = K[np.ix_(out, rows)] @ fold_dual
            part[:, np.bincount(y[rows], minlength=len(weights)) == 0] = -1
            scores[out] = part
    return scores, N @ dual


class Squared:
    """The squared-hinge problem of every class against the rest on a kernel."""

    def __init__(self, K: np.ndarray, y: np.ndarray, weights: np.ndarray, strength: float):
        self.K, self.y, self.weights, self.strength = K, y, weights, np.float32(strength)

    def __call__(self, rows: np.ndarray, steps: int, still: float) -> tuple[np.ndarray, np.ndarray]:
        """Dual coefficients and train scores, both [len(rows), k], once a step changes the former
        by less than the share ``still``, at most ``steps``."""
        y, full = self.y[rows], len(rows) == len(self.y)
        own = self.weights[y].astype(np.float32)
        slack = 1 / (2 * self.strength * np.maximum(own, 1))
        K = self.K if full else self.K[np.ix_(rows, rows)]
        matrix = K + np.diag(slack)
        factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        sign = 2 * models.one_hot(self.y, np.float32)[rows] - 1
        pull = np.broadcast_to((1 / np.maximum(own, 1))[:, None], sign.shape).copy()
        pull[np.arange(len(y)), y] *= own
        f = sign
        look, dual, t = f, np.zeros_like(f), 1.0
        for _ in range(steps):
            dual_was, target = dual, look + pull * sign * np.maximum(0, 1 - sign * look)
            dual = cho_solve(factor, target, check_finite=False)
            step = target - slack[:, None] * dual
            ahead = (1 + np.sqrt(1 + 4 * t * t)) / 2
            look_was, look = look, step + np.float32((t - 1) / ahead) * (step - f)
            if np.vdot(look_was - step, step - f) > 0:
                ahead = 1.0
            moved = np.linalg.norm(dual - dual_was) / np.linalg.norm(dual)
            f, t = step, ahead
            if moved < still:
                break
        return dual, f


def naive_bayes(
    X: sp.csr_matrix, new: sp.csr_matrix, y: np.ndarray, weight: str, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """``models.naive_bayes`` without the dense log counts: log(c + a) = log a + log(1 + c / a), the latter sparse."""
    alpha = 1 / strength
    k = int(y.max()) + 1
    member = sp.csr_matrix((np.ones(len(y), np.float32), (y, np.arange(len(y)))), (k, len(y)))
    counts = (member @ X).tocsr()
    prior = np.log(np.bincount(y) * models.class_weights(y, weight))
    prior -= np.log(np.exp(prior).sum())
    mass, new_mass = (np.asarray(x.sum(axis=1)).ravel() for x in (X, new))
    total = np.asarray(counts.sum(axis=1)).ravel() + alpha * X.shape[1]
    gain = sp.csr_matrix((np.log1p(counts.data / alpha), counts.indices, counts.indptr), counts.shape)
    frequent, rare = halves(X)
    dense, sparse = pick(gain, frequent).toarray().T, pick(gain, rare).T.tocsr()

    def joint(x: sp.csr_matrix, m: np.ndarray) -> np.ndarray:
        product = pick(x, frequent) @ dense + (pick(x, rare) @ sparse).toarray()
        return prior + product + m[:, None] * (np.log(alpha) - np.log(total))

    held = joint(X, mass)
    rows = np.repeat(np.arange(len(y)), np.diff(X.indptr))
    counts.sort_indices()
    places = np.repeat(np.arange(k), np.diff(counts.indptr)) * X.shape[1] + counts.indices
    own_counts = counts.data[np.searchsorted(places, y[rows] * X.shape[1] + X.indices)]
    without = np.log(np.maximum(own_counts - X.data, 0) + alpha)
    own = np.bincount(rows, X.data * without, minlength=len(y)) - mass * np.log(total[y] - mass)
    held[np.arange(len(y)), y] = prior[y] + own
    return held / np.maximum(mass, 1)[:, None], joint(new, new_mass) / np.maximum(new_mass, 1)[:, None]
