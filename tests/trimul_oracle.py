"""An independent oracle for the triangular multiplicative update: numpy, float64, one equation a line; and inputs for it."""

import numpy as np
import torch

ATOL = RTOL = 2e-2


def sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))


def layer_norm(x, scale, shift):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + shift


def oracle(x, mask, weights):
    """y [B, N, N, C] in float64."""
    x, mask = x.double().numpy(), mask.double().numpy()[..., None]
    w = {name: value.double().numpy() for name, value in weights.items()}
    x = layer_norm(x, w["norm.weight"], w["norm.bias"])
    left = x @ w["left_proj"].T * mask * sigmoid(x @ w["left_gate"].T)
    right = x @ w["right_proj"].T * mask * sigmoid(x @ w["right_gate"].T)
    o = np.zeros((*x.shape[:3], left.shape[-1]))
    for k in range(x.shape[1]):
        o += left[:, :, None, k] * right[:, None, :, k]
    o = layer_norm(o, w["to_out_norm.weight"], w["to_out_norm.bias"]) * sigmoid(x @ w["out_gate"].T)
    return o @ w["to_out"].T


def inputs(n, b=1, c=128, h=128, *, seed=0, cauchy=False, masked=False):
    """x, mask and weights on the CPU, drawn as the benchmark draws them."""
    g = torch.Generator().manual_seed(seed)
    x = torch.empty(b, n, n, c).cauchy_(0, 2, generator=g) if cauchy else torch.randn(b, n, n, c, generator=g)
    mask = torch.randint(0, 2, (b, n, n), generator=g).float() if masked else torch.ones(b, n, n)
    names = ("left_proj", "left_gate", "right_proj", "right_gate", "out_gate")
    weights = {name: torch.randn(h, c, generator=g) / h**0.5 for name in names}
    for name, size in (("norm", c), ("to_out_norm", h)):
        weights[f"{name}.weight"] = torch.randn(size, generator=g)
        weights[f"{name}.bias"] = torch.randn(size, generator=g)
    weights["to_out"] = torch.randn(c, h, generator=g) / h**0.5
    return x, mask, weights


def worst(y, expected):
    """The largest error of y as a share of the tolerance; inf where y is not finite float32 of the right shape."""
    if y.dtype != torch.float32 or tuple(y.shape) != expected.shape or not bool(y.isfinite().all()):
        return float("inf")
    return float((np.abs(y.double().numpy() - expected) / (ATOL + RTOL * np.abs(expected))).max())
