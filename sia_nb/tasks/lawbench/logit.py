"""``second.conditional_logit`` in float32, a block of texts at a time and two blocks side by side.

What the loop's verdicts use. Blocks are of one size whatever the machine and are added up in order, so
that no bit depends on the number of cores. Imported by ``fast`` only.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.optimize import minimize

BLOCK = 192
STEPS = 60


def conditional_logit(
    held: np.ndarray, new: np.ndarray, y: np.ndarray, w: np.ndarray, strength: float, by_class: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Logits [n, k] of held and [m, k] of new texts; arguments as ``second.conditional_logit``."""
    m, n, k = held.shape
    held, new = held.astype(np.float32), new.astype(np.float32)
    w = (w / w.sum() * n).astype(np.float32)
    head = m if by_class else 1
    blocks = [np.arange(i, min(i + BLOCK, n)) for i in range(0, n, BLOCK)]
    parts = [(np.ascontiguousarray(held[:, b]), y[b], w[b], np.arange(len(b))) for b in blocks]

    def unpack(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope = p[:m, None] + p[head + k :].reshape(m, k) if by_class else np.full((m, k), p[0])
        return slope.astype(np.float32), p[head : head + k].astype(np.float32)

    def logits(scores: np.ndarray, slope: np.ndarray, b: np.ndarray) -> np.ndarray:
        z = scores[0] * slope[0] + b
        for s, v in zip(scores[1:], slope[1:], strict=True):
            z += s * v
        return z

    def block(part: tuple, slope: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        scores, own, weight, row = part
        z = logits(scores, slope, b)
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
        value = -float((weight * np.log(np.maximum(z[row, own], 1e-30))).sum(dtype=float))
        z[row, own] -= 1
        z *= weight[:, None]
        per = np.stack([np.einsum("nk,nk->k", s, z) for s in scores])
        return value, z.sum(axis=0), per

    with ThreadPoolExecutor(2) as pool:

        def loss(p: np.ndarray) -> tuple[float, np.ndarray]:
            slope, b = unpack(p)
            found = list(pool.map(lambda part: block(part, slope, b), parts))
            value, to_b, per = (np.sum([f[i] for f in found], axis=0, dtype=float) for i in range(3))
            prior = p[head:]
            gradient = [per.sum(axis=1) if by_class else per.sum(keepdims=True).ravel(), to_b]
            flat = np.concatenate([*gradient, per.ravel()] if by_class else gradient)
            flat[head:] += prior / strength
            return float(value + (prior**2).sum() / (2 * strength)), flat

        start = np.zeros((m + k + m * k) if by_class else 1 + k)
        start[:head] = 1 / m
        best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
    return logits(held, *unpack(best)), logits(new, *unpack(best))
