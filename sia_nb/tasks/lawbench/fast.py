"""A spec's predictions on shared data in a second or two: what the verdicts and the report run.

The same methods as the compiled source, with three differences in the arithmetic: float32; products of
sparse matrices taken apart into frequent features (dense, BLAS) and rare ones (sparse); and the SVC
solved for all classes at once on the kernel (see ``svc``). A quick engine, the loop's, takes three short
cuts besides: at most ``counts.QUICK_TEXTS`` fitted texts a class, SVCs that stop early, and a float32
second level. Imported by the worker only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.linalg import cho_factor, cho_solve, lapack

from . import features, models, second
from .counts import atoms_of, load, quick_rows
from .logit import conditional_logit
from .solution import Base, bases

FREQUENT = 100
QUICK, QUICK_FOLD = (20, 5e-3), (8, 5e-3)
QUICK_BINS = 63
PRECISE, PRECISE_FOLD = (100, 1e-3), (80, 1e-3)


class Recent:
    """A small memory of the last results by key."""

    def __init__(self, size: int):
        self.size = size
        self._items: OrderedDict[Any, Any] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """The remembered value, or ``make()``."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
        value = make()
        with self._lock:
            self._items[key] = value
            while len(self._items) > self.size:
                self._items.popitem(last=False)
        return value


def together(tasks: Iterable[Callable[[], Any]]) -> list[Any]:
    """The results of tasks that do not depend on each other, two at a time; each task has one thread, so no bit changes."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda task: task(), tasks))


class Engine:
    """Predictions of specs from one folder of counts; remembers weighted views, kernels and base scores.

    Args:
        folder: holds counts_<atom>.npz.
        y: class numbers of the fitted texts, int [n].
        quick: take the short cuts that the module's head names.
        subset: rows of the fitted and of the new texts; only these count, and their classes.
    """

    def __init__(self, folder: Path, y: np.ndarray, quick: bool = False, subset: tuple[np.ndarray, np.ndarray] | None = None):
        self.folder, self.quick, self._fitted = folder, quick, len(y)
        self.rows = np.arange(len(y)) if subset is None else subset[0]
        self.new_rows = None if subset is None else subset[1]
        if quick:
            self.rows = self.rows[quick_rows(y[self.rows].tolist())]
        self.classes, self.y = np.unique(y[self.rows], return_inverse=True)
        # A quick engine's are half as large, and a search comes back to its incumbent's views.
        self._atoms = Recent(5)
        self._weighted = Recent(8 if quick else 4)
        self._kernels = Recent(16 if quick else 6)
        self._scores = Recent(64)

    def predict(self, spec: dict[str, Any]) -> np.ndarray:
        """Class numbers of the new texts, int [m]."""
        return self.predict_by(bases(spec), spec["level2"], spec["strength2"], spec["weight"])

    def predict_by(self, members: list[Base], level2: str, strength2: float, weight: str) -> np.ndarray:
        """Class numbers of the new texts, int [m], by any base models and a second level over them."""
        return self.classes[self._scored(members, level2, strength2, weight).argmax(axis=1)]

    def _scored(self, members: list[Base], level2: str, strength2: float, weight: str) -> np.ndarray:
        """Scores of the new texts, [m, k]."""
        views = {b.features: b for b in members if b.model != "nb"}
        together(partial(self.kernel, b) for b in views.values())
        pairs = together(partial(self.base, b, level2 != "none") for b in members)
        if level2 == "none":
            return second.plain_sum([s for _, s in pairs])
        held, new = second.scaled([h for h, _ in pairs], [s for _, s in pairs])
        w = models.class_weights(self.y, weight)[self.y]
        quick: dict[str, Any] = {"bins": QUICK_BINS, "logit": conditional_logit} if self.quick else {}
        if level2 == "rerank":
            return second.rerank(held, new, self.y, w, strength2, **quick)
        return quick.get("logit", second.conditional_logit)(held, new, self.y, w, strength2, level2 == "stack")[1]

    def base(self, b: Base, held: bool) -> tuple[np.ndarray, np.ndarray]:
        """Held-out and new scores of one base model; ``held`` makes a difference to the SVC only."""
        held = held or b.model != "svc"
        return self._scores.get((b, held), lambda: self._fit(b, held))

    def _fit(self, b: Base, held: bool) -> tuple[np.ndarray, np.ndarray]:
        if b.model == "nb":
            return naive_bayes(*self.weighted(b), self.y, b.weight, b.strength)
        K, N = self.kernel(b)
        weights = models.class_weights(self.y, b.weight)
        w = weights[self.y].astype(np.float32)
        if b.model == "ridge":
            return ridge(K, N, self.y, w, b.strength)
        if b.model == "centroid":
            return models.centroid(K, N, self.y, b.strength)
        if b.model == "knn":
            return models.knn(K, N, self.y, w, b.strength)
        return svc(K, N, self.y, weights, b.strength, held, self.quick)

    def kernel(self, b: Base) -> tuple[np.ndarray, np.ndarray]:
        """The cosines of a view: train with train, new with train."""
        return self._kernels.get(b.features, lambda: kernel(*map(features.unit_rows, self.weighted(b))))

    def weighted(self, b: Base) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """The weighted features of a view, train and new."""
        return self._weighted.get(b.features, lambda: self._weigh(b))

    def _load(self, atom: str) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        train, new = load(self.folder, atom, self._fitted)
        if self.new_rows is not None:
            train, new = train[self.rows], new[self.new_rows]
            seen = np.flatnonzero(np.bincount(train.indices, minlength=train.shape[1]))
            return pick(train, seen), pick(new, seen)
        return train[self.rows] if self.quick else train, new

    def _weigh(self, b: Base) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        parts = [self._atoms.get(a, lambda a=a: self._load(a)) for a in atoms_of(b.view)]
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
    both = together([lambda: a @ a.T + (s @ turned).toarray(), lambda: b @ a.T + (t @ turned).toarray()])
    return both[0], both[1]


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
    K: np.ndarray, N: np.ndarray, y: np.ndarray, weights: np.ndarray, strength: float, held: bool, quick: bool
) -> tuple[np.ndarray, np.ndarray]:
    """``models.svc`` for all classes at once. The bias is LIBLINEAR's: a constant feature.

    Folds start from the scores of the fit on all texts; where ``quick``, they and it stop early.
    """
    K, N = K + np.float32(1), N + np.float32(1)
    effort, fold_effort = (QUICK, QUICK_FOLD) if quick else (PRECISE, PRECISE_FOLD)
    whole = Squared(K, y, weights, strength)
    half = len(weights) // 2
    sides = [np.arange(half), np.arange(half, len(weights))]
    dual = np.hstack(together(partial(whole.solve, *effort, classes=side) for side in sides))
    scores = np.full((len(y), len(weights)), np.float32(-1))
    if not held:
        return scores, N @ dual
    fold, f = models.folds(y), K @ dual

    def held_out(i: int) -> np.ndarray:
        rows, out = np.flatnonzero(fold != i), np.flatnonzero(fold == i)
        problem = Squared(K[np.ix_(rows, rows)], y[rows], weights, strength)
        part = K[np.ix_(out, rows)] @ problem.solve(*fold_effort, start=f[rows])
        part[:, np.bincount(y[rows], minlength=len(weights)) == 0] = -1
        return part

    for i, part in enumerate(together(partial(held_out, i) for i in range(models.FOLDS))):
        scores[fold == i] = part
    return scores, N @ dual


class Squared:
    """The squared-hinge problem of every class against the rest on a kernel.

    The squared hinge is majorised by a parabola of the same curvature at every text, so one step is a
    ridge regression whose matrix is the same for all classes and steps: one Cholesky, then accelerated
    steps (Nesterov's, restarted when they turn back) of two triangular solves.
    """

    def __init__(self, K: np.ndarray, y: np.ndarray, weights: np.ndarray, strength: float):
        self.y, self.classes = y, len(weights)
        self.own = weights[y].astype(np.float32)
        self.slack = 1 / (2 * np.float32(strength) * np.maximum(self.own, 1))
        self.factor = cho_factor(K + np.diag(self.slack), lower=True, overwrite_a=True, check_finite=False)

    def solve(self, steps: int, still: float, classes: np.ndarray | None = None, start: np.ndarray | None = None) -> np.ndarray:
        """Dual coefficients [n, classes], all classes where None, once a step changes them by less than the
        share ``still``, at most ``steps``; ``start``: scores to begin with."""
        sign, pull, slack = self._sides(classes)
        f = sign if start is None else start
        look, dual, t = f, np.zeros_like(f), 1.0
        for _ in range(steps):
            dual_was, target = dual, look + pull * np.maximum(0, 1 - sign * look)
            dual = cho_solve(self.factor, target, check_finite=False)
            step = target - slack * dual
            ahead = (1 + np.sqrt(1 + 4 * t * t)) / 2
            look_was, look = look, step + np.float32((t - 1) / ahead) * (step - f)
            if np.vdot(look_was - step, step - f) > 0:
                ahead = 1.0
            moved = np.linalg.norm(dual - dual_was) / np.linalg.norm(dual)
            f, t = step, ahead
            if moved < still:
                break
        return dual

    def _sides(self, classes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """+1 or -1, that times the share of the way to it that a step's target goes, and the slack."""
        mine = np.eye(self.classes, dtype=np.float32)[self.y]
        mine = mine if classes is None else mine[:, classes]
        sign, top = 2 * mine - 1, np.maximum(self.own, 1)[:, None]
        pull = np.where(mine > 0, self.own[:, None] / top, 1 / top)
        return sign, pull * sign, self.slack[:, None]


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
    found = np.searchsorted(places, y[rows] * X.shape[1] + X.indices)
    # A weight of 0 leaves no entry in counts: whatever is read for it is multiplied by 0 below.
    own_counts = np.append(counts.data, counts.data.dtype.type(0))[found]
    without = np.log(np.maximum(own_counts - X.data, 0) + alpha)
    own = np.bincount(rows, X.data * without, minlength=len(y)) - mass * np.log(total[y] - mass)
    held[np.arange(len(y)), y] = prior[y] + own
    return held / np.maximum(mass, 1)[:, None], joint(new, new_mass) / np.maximum(new_mass, 1)[:, None]
