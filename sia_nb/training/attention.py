"""Attention of many rows to one prompt, with gradients into the prompt's keys and values.

The softmax of a row's token runs over the prompt and over the row's own earlier tokens. On a CPU the two parts are
computed apart by the blockwise kernel (Dao 2023), which gives each part's output and log-sum-exp; the parts are joined
by these, and going back each part gets the joint output and log-sum-exp, as ring attention does it (Liu et al. 2023).
So the prompt is never copied for a row, and no matrix of probabilities is kept. Tokens that several rows begin with
are held once. In bfloat16 the way back is ``dense``, two and a half times faster than the kernel where the processor
multiplies bfloat16 matrices. Elsewhere than on a CPU rows are padded for torch's own attention.
Imported by ``forward`` only.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_NEVER = 1e4  # a log-sum-exp so large that every probability is 0
_BLOCK = 1536  # queries whose probabilities are held at a time
_HELD = 2**20  # probabilities held at a time; about what a core's second cache takes


class Prompt:
    """Takes the keys and values of a prompt, computed in one go: per layer [KV heads, P, head size]."""

    def __init__(self) -> None:
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
        """Causal attention; q [1, heads, P, D], k and v [1, KV heads, P, D]."""
        self.keys.append(k[0])
        self.values.append(v[0])
        if q.device.type == "cpu":
            return _Causal.apply(q, k, v, scaling)
        return scaled_dot_product_attention(q, _per_head(k, q), _per_head(v, q), is_causal=True, scale=scaling)

    def leaves(self) -> Prompt:
        """The same numbers cut off from the graph, to gather the gradients of several micro-batches."""
        out = Prompt()
        out.keys = [k.detach().requires_grad_() for k in self.keys]
        out.values = [v.detach().requires_grad_() for v in self.values]
        return out


class Rows:
    """Rows behind a prompt. T distinct tokens, ``paths[r][i]`` of which is row r's i-th."""

    def __init__(self, prompt: Prompt, paths: list[list[int]], device: torch.device):
        self.prompt = prompt
        rows, longest = len(paths), max(map(len, paths))
        first: dict[int, int] = {}  # where each token stands first, in the padded rows
        for r, path in enumerate(paths):
            for i, token in enumerate(path):
                first.setdefault(token, r * longest + i)
        self.shape = (rows, longest)
        self.path = torch.tensor([t for p in paths for t in p + [0] * (longest - len(p))], device=device)
        self.first = torch.tensor([first[t] for t in range(len(first))], device=device)
        lengths = torch.tensor([len(p) for p in paths], device=device)
        self.padding = (torch.arange(longest, device=device)[None] >= lengths[:, None])[:, None, :, None]

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
        """Attention of the tokens to the prompt and to what their row has before; q [1, heads, T, D], k, v [1, KV heads, T, D]."""
        pk, pv = self.prompt.keys[layer], self.prompt.values[layer]
        if q.device.type == "cpu":
            return _Joined.apply(q[0], k[0], v[0], pk, pv, self, scaling)[None]
        return self.padded(q, k, v, pk, pv, scaling)

    def padded(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pk: torch.Tensor, pv: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """The same by torch's attention over padded rows."""
        rows, longest = self.shape
        q, k, v = (self.spread(x[0]) for x in (q, k, v))
        k = torch.cat([pk.expand(rows, -1, -1, -1), k], 2)
        v = torch.cat([pv.expand(rows, -1, -1, -1), v], 2)
        mask = torch.ones(longest, k.shape[2], dtype=torch.bool, device=q.device).tril(pk.shape[1])
        return self.gather(scaled_dot_product_attention(q, _per_head(k, q), _per_head(v, q), attn_mask=mask, scale=scaling))[None]

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """[heads, T, D] -> [rows, heads, longest, D]; behind a row's end stands any token's value."""
        return x.index_select(1, self.path).unflatten(1, self.shape).transpose(0, 1)

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, heads, longest, D] -> [heads, T, D], of each token where it stands first."""
        return x.transpose(0, 1).flatten(1, 2).index_select(1, self.first)

    def place(self, x: torch.Tensor) -> torch.Tensor:
        """The transpose of ``gather``: each token's value where it stands first, zeros elsewhere."""
        out = x.new_zeros(x.shape[0], self.path.shape[0], x.shape[2]).index_copy_(1, self.first, x)
        return out.unflatten(1, self.shape).transpose(0, 1)

    def add(self, x: torch.Tensor) -> torch.Tensor:
        """The transpose of ``spread``: the sum over all places of each token."""
        x = x.transpose(0, 1).flatten(1, 2)
        return x.new_zeros(x.shape[0], self.first.shape[0], x.shape[2]).index_add_(1, self.path, x)


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        out, total = _part(q, k, v, True, scale)
        ctx.save_for_backward(q, k, v, out, total)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return *_part_back(grad, *ctx.saved_tensors, True, ctx.scale), None


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pk: torch.Tensor, pv: torch.Tensor, rows: Rows, scale: float
    ) -> torch.Tensor:
        old, old_sum = _part(q[None], pk[None], pv[None], False, scale)
        own, own_sum = _part(rows.spread(q), rows.spread(k), rows.spread(v), True, scale)
        own, own_sum = rows.gather(own), rows.gather(own_sum[..., None])
        old, old_sum = old[0], old_sum[0, ..., None]
        total = torch.logaddexp(old_sum, own_sum)
        out = (old * (old_sum - total).exp_() + own * (own_sum - total).exp_()).to(q.dtype)
        ctx.save_for_backward(q, k, v, pk, pv, out, total)
        ctx.rows, ctx.scale = rows, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        q, k, v, pk, pv, out, total = ctx.saved_tensors
        rows, scale = ctx.rows, ctx.scale
        old, dpk, dpv = _part_back(grad[None], q[None], pk[None], pv[None], out[None], total[None, ..., 0], False, scale)
        sums = rows.spread(total).masked_fill(rows.padding, _NEVER)[..., 0]
        own, dk, dv = _part_back(rows.place(grad), *map(rows.spread, (q, k, v, out)), sums, True, scale)
        return old[0] + rows.gather(own), rows.add(dk), rows.add(dv), dpk[0], dpv[0], None, None


def _part(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [B, heads, N, D] and float32 log-sum-exp [B, heads, N] of queries [B, heads, N, D]; k, v [B, KV heads, M, D]."""
    # Without a causal mask, heads that share keys may stand one behind another as more queries, which the kernel does sooner.
    grouped = q if causal else q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])
    out, total = _FORWARD(grouped, k, v, 0.0, causal, attn_mask=None, scale=scale)
    return out.reshape(q.shape), total.reshape(q.shape[:3])


def _part_back(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, total: torch.Tensor, causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of q, k, v through ``_part``, given an output and log-sum-exp of which this part may be a share only."""
    kv = k.shape[1]
    if q.dtype == torch.bfloat16 and math.frexp(scale)[0] == 0.5:  # a power of two, which scales q exactly
        flat = [x.reshape(q.shape[0] * kv, -1, q.shape[3]) for x in (grad, q, k, v, out)]
        dq, dk, dv = dense(*flat, total.reshape(flat[1].shape[:2]), causal, scale)
        return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape)
    grouped = q
    if not causal:
        grad, grouped, out, total = (x.reshape(x.shape[0], kv, -1, *x.shape[3:]) for x in (grad, q, out, total))
    dq, dk, dv = _BACKWARD(grad, grouped, k, v, out, total, 0.0, causal, attn_mask=None, scale=scale)
    return dq.reshape(q.shape), dk, dv


def dense(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, total: torch.Tensor, causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """The way back by bfloat16 matrix products; grad, q, out [B, N, D], k, v [B, M, D], total [B, N]; N is M or a multiple.

    With p = exp(s qk - total) and δ = Σ grad·out: dv = pᵀ grad, ds = p (grad vᵀ - δ), dq = s ds k, dk = s dsᵀ q. A product
    is rounded to bfloat16 when it is written, which would spoil p if total were taken off afterwards. So it is taken off
    within the product, as three more columns that add up to it: what is rounded then is log p, which is small where p is
    not. δ likewise.
    """
    tokens, size = k.shape[1:]
    delta = (grad.float() * out.float()).sum(-1)
    more, rest = -tokens % 32, -(size + 4) % 32
    last = torch.cat([-k.new_ones(tokens, 3), k.new_zeros(tokens, 1 + rest)], 1).expand(k.shape[0], -1, -1)
    keys, values = pad(torch.cat([k, last], -1), (0, 0, 0, more)), pad(torch.cat([v, last], -1), (0, 0, 0, more))
    keys[:, tokens:, size + 3] = -_NEVER
    scaled = q * scale
    one, rest_ = k.new_ones(*q.shape[:2], 1), k.new_zeros(*q.shape[:2], rest)
    queries = torch.cat([scaled, _pieces(total), one, rest_], -1)
    grads = torch.cat([grad, _pieces(delta), one, rest_], -1)
    hidden = torch.ones(tokens, keys.shape[1], dtype=torch.bool).triu(1).repeat(q.shape[1] // tokens, 1) if causal else None
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(k, dtype=torch.float32)
    short = pad(k, (0, 0, 0, more))
    block = min(_BLOCK, q.shape[1])
    several = max(1, _HELD // (block * keys.shape[1]))
    for b in range(0, q.shape[0], several):
        whole = b if several == 1 else slice(b, b + several)  # plain products of large matrices need no copies
        for n in range(0, q.shape[1], block):
            some = slice(n, n + block)
            at = (whole, some)
            p = (queries[at] @ keys[whole].mT).exp_()
            if hidden is not None:
                p.masked_fill_(hidden[some], 0.0)
            dv[whole] += (p.mT @ grad[at])[..., :tokens, :]
            ds = (grads[at] @ values[whole].mT).mul_(p)
            dq[at] = ds @ short[whole]
            dk[whole] += (ds.mT @ scaled[at])[..., :tokens, :]
    return dq * scale, dk.to(k.dtype), dv.to(v.dtype)


def _pieces(x: torch.Tensor) -> torch.Tensor:
    """Three bfloat16 numbers that add up to each float32 one, along a new last dimension."""
    out = []
    for _ in range(3):
        out.append(x.bfloat16())
        x = x - out[-1].float()
    return torch.stack(out, -1)


def _per_head(x: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Keys or values [B, KV heads, M, D] once for each head of ``q``."""
    return x.repeat_interleave(q.shape[1] // x.shape[1], 1)
