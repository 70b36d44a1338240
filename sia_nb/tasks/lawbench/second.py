"""The second level: from the base models' held-out scores to one class for each text.

Compiled solutions carry these functions as they stand here; nothing of the kit is named. Scores are
lists of [n, k] arrays, one for each base model; every text is scored by itself, never by what share of
a batch a class gets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def plain_sum(new: list[np.ndarray]) -> np.ndarray:
    """Sum of the models' scores, each text's row first brought to mean 0 and deviation 1."""
    total = np.zeros(new[0].shape)
    for scores in new:
        centred = scores - scores.mean(axis=1, keepdims=True)
        total += centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-12)
    return total


def scaled(held: list[np.ndarray], new: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stacks [models, n, k] with row mean 0, each model divided by its held-out deviation."""
    out: list[list[np.ndarray]] = [[], []]
    for h, s in zip(held, new, strict=True):
        h, s = h - h.mean(axis=1, keepdims=True), s - s.mean(axis=1, keepdims=True)
        deviation = max(float(h.std()), 1e-12)
        out[0].append(h / deviation)
        out[1].append(s / deviation)
    return np.stack(out[0]), np.stack(out[1])


def conditional_logit(
    held: np.ndarray, new: np.ndarray, y: np.ndarray, w: np.ndarray, strength: float, by_class: bool
) -> tuple[np.ndarray, np.ndarray]:
    """P(class c) ∝ exp(Σ_m (t_m + v_mc) score_mc + b_c), fitted on held-out scores by penalised likelihood.

    b (and v where ``by_class``) are drawn to 0 by a Gaussian prior of variance ``strength``. Where not
    ``by_class`` the models share one t, so what is learned is the bias. Returns logits of held and new.
    """
    from scipy.optimize import minimize

    m, n, k = held.shape
    w = w / w.sum() * n
    target = np.zeros((n, k))
    target[np.arange(n), y] = 1

    def unpack(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        t = p[:m] if by_class else np.repeat(p[:1], m)
        head = m if by_class else 1
        v = p[head + k :].reshape(m, k) if by_class else np.zeros((m, k))
        return t, p[head : head + k], v

    def logits(p: np.ndarray, scores: np.ndarray) -> np.ndarray:
        t, b, v = unpack(p)
        return np.einsum("mnk,mk->nk", scores, t[:, None] + v) + b

    def loss(p: np.ndarray) -> tuple[float, np.ndarray]:
        t, b, v = unpack(p)
        z = logits(p, held)
        z -= z.max(axis=1, keepdims=True)
        e = np.exp(z)
        e /= e.sum(axis=1, keepdims=True)
        value = -(w * np.log(np.maximum(e[np.arange(n), y], 1e-300))).sum() + ((b**2).sum() + (v**2).sum()) / (2 * strength)
        slope = (e - target) * w[:, None]
        per = np.einsum("mnk,nk->mk", held, slope)
        gradient = [per.sum(axis=1) if by_class else per.sum(keepdims=True).ravel(), slope.sum(axis=0) + b / strength]
        if by_class:
            gradient.append((per + v / strength).ravel())
        return value, np.concatenate(gradient)

    start = np.zeros((m + k + m * k) if by_class else 1 + k)
    start[: m if by_class else 1] = 1 / m
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 60}).x
    return logits(best, held), logits(best, new)


def rerank(
    held: np.ndarray,
    new: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    strength: float,
    top: int = 6,
    bins: int = 255,
    logit: Callable[..., tuple[np.ndarray, np.ndarray]] = conditional_logit,
) -> np.ndarray:
    """A boosted judge of the first few classes of each text; returns scores [new, k].

    The candidates come from the conditional logit by class. What the judge sees of a candidate: its logit, its
    distance to the best logit, its rank, and each model's score and distance to that model's best.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    logit_held, logit_new = logit(held, new, y, w, strength, by_class=True)

    def candidates(logits: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(-logits, axis=1, kind="stable")[:, :top]
        columns = [np.tile(np.arange(order.shape[1]), (len(order), 1))]
        for s in [logits, *scores]:
            picked = np.take_along_axis(s, order, axis=1)
            columns += [picked, picked - s.max(axis=1, keepdims=True)]
        return order, np.stack(columns, axis=-1)

    order, seen = candidates(logit_held, held)
    hit = order == y[:, None]
    judge = HistGradientBoostingClassifier(
        max_iter=60,
        max_leaf_nodes=8,
        max_bins=bins,
        learning_rate=0.1,
        l2_regularization=1 / strength,
        early_stopping=False,
        random_state=0,
    )
    judge.fit(seen.reshape(-1, seen.shape[-1]), hit.ravel(), sample_weight=np.repeat(w, order.shape[1]))
    order, seen = candidates(logit_new, new)
    odds = judge.decision_function(seen.reshape(-1, seen.shape[-1])).reshape(order.shape)
    out = logit_new - logit_new.max() - 1e6
    np.put_along_axis(out, order, odds, axis=1)
    return out
