"""The base models. Each returns scores of every class for the train texts, *held out*, and for the new texts.

Held out means: the score of a train text comes from a model that has not seen it. Ridge, nearest class
mean, naive Bayes and neighbours have that in closed form; the SVC takes three folds. Compiled solutions
carry these functions as they stand here; nothing of the kit is named.

Shapes: K [n, n] and N [m, n] are cosines of train with train and of new with train texts, y [n] holds
class numbers 0 … k-1, w [n] weights; results are [n, k] and [m, k].
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

FOLDS = 3


def class_weights(y: np.ndarray, kind: str) -> np.ndarray:
    """A weight for each class: 1, or mean class size / class size, or its square root."""
    size = np.bincount(y)
    return {"none": np.ones(len(size)), "sqrt": np.sqrt(size.mean() / size), "balanced": size.mean() / size}[kind]


def one_hot(y: np.ndarray, dtype: type = float) -> np.ndarray:
    """y as an [n, k] matrix of 0 and 1."""
    return np.eye(int(y.max()) + 1, dtype=dtype)[y]


def ridge(K: np.ndarray, N: np.ndarray, y: np.ndarray, w: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weighted ridge regression on the classes' indicators, penalty 1 / strength.

    Held out in closed form: f_i without i = y_i - a_i / [(K + penalty / w)^-1]_ii.
    """
    inverse = np.linalg.inv(K + np.diag((1 / (strength * w)).astype(K.dtype)))
    target = one_hot(y, K.dtype.type)
    dual = inverse @ target
    return target - dual / np.diag(inverse)[:, None], N @ dual


def centroid(K: np.ndarray, N: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosine to the class's mean, which is drawn towards the mean of all texts by 1 / strength pseudo-texts."""
    member = one_hot(y, K.dtype.type)
    n, size, pull = len(y), member.sum(axis=0), 1 / strength
    to_sum, to_mean = K @ member, K.mean(axis=1)
    mean_norm2, sum_mean = to_mean.mean(), member.T @ to_mean
    sum_norm2 = np.einsum("nk,nk->k", member, to_sum)
    norm = np.sqrt(np.maximum(sum_norm2 + 2 * pull * sum_mean + pull**2 * mean_norm2, 1e-30))
    held = (to_sum + pull * to_mean[:, None]) / norm
    own = (np.arange(n), y)
    pulled = to_sum[own] + pull * to_mean
    norm2 = norm[y] ** 2 - 2 * pulled + np.diag(K)
    held[own] = (pulled - np.diag(K)) / np.sqrt(np.maximum(norm2, 1e-9))
    held[own] = np.where(size[y] > 1, held[own], 0)
    return held, (N @ member + pull * N.mean(axis=1)[:, None]) / norm


def knn(K: np.ndarray, N: np.ndarray, y: np.ndarray, w: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Summed cosines of the nearest 5 / strength texts (1 to 100) of each class, weighted."""
    k = int(np.clip(round(5 / strength), 1, min(100, len(y) - 1)))
    member = one_hot(y, K.dtype.type)

    def vote(cosines: np.ndarray) -> np.ndarray:
        near = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(cosines, near, axis=1) * w[near]
        rows = np.repeat(np.arange(len(cosines)), k)
        votes = sp.csr_matrix((values.ravel(), (rows, near.ravel())), cosines.shape)
        return votes @ member

    alone = K.copy()
    np.fill_diagonal(alone, -1)
    return vote(alone), vote(N)


def naive_bayes(
    X: sp.csr_matrix, new: sp.csr_matrix, y: np.ndarray, weight: str, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial naive Bayes, smoothing 1 / strength; mean log likelihood per unit of feature mass.

    ``weight`` draws the prior from the class sizes ("none") to uniform ("balanced"). Held out in closed
    form: the text's own counts are taken off its class.
    """
    alpha = 1 / strength
    member = one_hot(y)
    size = member.sum(axis=0)
    prior = np.log(size * class_weights(y, weight))
    counts = np.asarray((sp.csr_matrix(member.T) @ X).todense())
    total = counts.sum(axis=1) + alpha * X.shape[1]
    log_counts = np.log(counts + alpha).T

    def mass(x: sp.csr_matrix) -> np.ndarray:
        return np.asarray(x.sum(axis=1)).ravel()

    def joint(x: sp.csr_matrix) -> np.ndarray:
        return prior - np.log(prior_sum) + x @ log_counts - mass(x)[:, None] * np.log(total)

    prior_sum = np.exp(prior).sum()
    held = joint(X)
    rows = np.repeat(np.arange(len(y)), np.diff(X.indptr))
    without = np.log(np.maximum(counts[y[rows], X.indices] - X.data, 0) + alpha)
    own = np.bincount(rows, X.data * without, minlength=len(y)) - mass(X) * np.log(total[y] - mass(X))
    held[np.arange(len(y)), y] = prior[y] - np.log(prior_sum) + own
    return held / np.maximum(mass(X), 1)[:, None], joint(new) / np.maximum(mass(new), 1)[:, None]


def folds(y: np.ndarray) -> np.ndarray:
    """A fold number for each text: its turn within its class, modulo the number of folds."""
    turn = np.empty(len(y), int)
    for c in range(int(y.max()) + 1):
        turn[y == c] = np.arange((y == c).sum())
    return turn % FOLDS


def svc(
    X: sp.csr_matrix, new: sp.csr_matrix, y: np.ndarray, weight: str, strength: float, need_held: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Linear support vector classifier, one class against the rest, squared hinge, C = strength."""
    from sklearn.svm import LinearSVC

    weights = dict(enumerate(class_weights(y, weight)))

    def fit(rows: np.ndarray, to: sp.csr_matrix) -> np.ndarray:
        present = np.unique(y[rows])
        model = LinearSVC(C=strength, class_weight={c: weights[c] for c in present}, random_state=0)
        scores = np.full((to.shape[0], len(weights)), -1.0)
        scores[:, present] = model.fit(X[rows], y[rows]).decision_function(to)
        return scores

    held = np.full((len(y), len(weights)), -1.0)
    if need_held:
        fold = folds(y)
        for f in np.unique(fold):
            held[fold == f] = fit(np.flatnonzero(fold != f), X[fold == f])
    return held, fit(np.arange(len(y)), new)
