"""Attention of many rows to one prompt, with gradients into the prompt's keys and values.

The softmax of a row's token runs over the prompt and over the row's own earlier tokens. On a CPU the two parts are
computed apart by the blockwise kernel (Dao 2023), which gives each part's output and log-sum-exp; the parts are joined
by these, and going back each part gets the joint output and log-sum-exp, as ring attention does it (Liu et al. 2023).
So the prompt is never copied for a row, and no matrix of probabilities is kept. Elsewhere rows are padded and the
prompt is repeated by view for torch's own attention. Imported by ``forward`` only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Prompt:
    """Takes the keys and values of a prompt, computed in one go: per layer [KV heads, P, head size]."""

    def __init__(self) -> None:
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
        """Causal attention; q [1, heads, P, D], k and v [1, KV heads, P, D]."""
        self.keys.append(k[0])
        self.values.append(v[0])
        k, v = _per_head(k, q), _per_head(v, q)
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)

    def leaves(self) -> Prompt:
        """The same numbers cut off from the graph, to gather the gradients of several micro-batches."""
        out = Prompt()
        out.keys = [k.detach().requires_grad_() for k in self.keys]
        out.values = [v.detach().requires_grad_() for v in self.values]
        return out


class Rows:
    """Rows packed one after another behind a prompt.

    Attributes:
        layers: how many layers have attended; fewer than the decoder's mean that it does not ask us.
    """

    def __init__(self, prompt: Prompt, lengths: list[int], device: torch.device):
        self.prompt = prompt
        self.layers = 0
        self.shape = (len(lengths), max(lengths))
        self.row = torch.tensor([r for r, n in enumerate(lengths) for _ in range(n)], device=device)
        self.within = torch.tensor([i for n in lengths for i in range(n)], device=device)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
        """Attention of the packed tokens to the prompt and to their own row; q [1, heads, T, D], k, v [1, KV heads, T, D]."""
        self.layers += 1
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
        out = scaled_dot_product_attention(q, _per_head(k, q), _per_head(v, q), attn_mask=mask, scale=scaling)
        return self.gather(out)[None]

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """[heads, T, D] packed -> [rows, heads, longest, D], zeros behind each row's end."""
        rows, longest = self.shape
        out = x.new_zeros(rows, longest, x.shape[0], x.shape[2])
        out[self.row, self.within] = x.transpose(0, 1)
        return out.transpose(1, 2)

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of ``spread``."""
        return x.transpose(1, 2)[self.row, self.within].transpose(0, 1)


class _Joined(torch.autograd.Function):
    """Heads that share keys are laid one behind another as more queries, so no key is copied for them."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pk: torch.Tensor, pv: torch.Tensor, rows: Rows, scale: float
    ) -> torch.Tensor:
        heads, tokens, size = q.shape
        kv = k.shape[0]
        mask = _causal(rows.shape[1], heads // kv)
        old, old_sum = _FORWARD(q.reshape(1, kv, -1, size), pk[None], pv[None], 0.0, False, attn_mask=None, scale=scale)
        q32, k32, v32 = (rows.spread(x.float()) for x in (q, k, v))
        own, own_sum = _FORWARD(_grouped(q32, kv), k32.contiguous(), v32.contiguous(), 0.0, False, attn_mask=mask, scale=scale)
        old, old_sum = old.reshape(heads, tokens, size).float(), old_sum.reshape(heads, tokens, 1)
        own = rows.gather(own.reshape(own.shape[0], heads, -1, size))
        own_sum = rows.gather(own_sum.reshape(own_sum.shape[0], heads, -1, 1))
        total = torch.logaddexp(old_sum, own_sum)
        out = (old * (old_sum - total).exp_() + own * (own_sum - total).exp_()).to(q.dtype)
        ctx.save_for_backward(q, k, v, pk, pv, out, total)
        ctx.rows, ctx.scale = rows, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        q, k, v, pk, pv, out, total = ctx.saved_tensors
        rows, scale = ctx.rows, ctx.scale
        heads, tokens, size = q.shape
        kv = k.shape[0]
        mask = _causal(rows.shape[1], heads // kv)
        wide = [x.reshape(1, kv, -1, size) for x in (grad, q)]
        dq, dpk, dpv = _BACKWARD(
            wide[0], wide[1], pk[None], pv[None], out.reshape(1, kv, -1, size), total.reshape(1, kv, -1), 0.0, False,
            attn_mask=None, scale=scale,
        )  # fmt: skip
        g32, q32, k32, v32, o32 = (rows.spread(x.float()) for x in (grad, q, k, v, out))
        sums = rows.spread(total)
        dq_own, dk, dv = _BACKWARD(
            _grouped(g32, kv), _grouped(q32, kv), k32.contiguous(), v32.contiguous(), _grouped(o32, kv),
            _grouped(sums, kv)[..., 0], 0.0, False, attn_mask=mask, scale=scale,
        )  # fmt: skip
        dq_own = rows.gather(dq_own.reshape(dq_own.shape[0], heads, -1, size))
        dq = (dq.reshape(heads, tokens, size) + dq_own).to(q.dtype)
        return dq, rows.gather(dk).to(k.dtype), rows.gather(dv).to(v.dtype), dpk[0], dpv[0], None, None


def _grouped(x: torch.Tensor, kv: int) -> torch.Tensor:
    """[rows, heads, L, D] -> [rows, KV heads, heads/KV heads x L, D]."""
    return x.reshape(x.shape[0], kv, -1, x.shape[3])


def _causal(longest: int, group: int) -> torch.Tensor:
    """An additive causal mask for ``group`` blocks of queries, [1, 1, group x longest, longest]."""
    hidden = torch.ones(longest, longest, dtype=torch.bool).triu(1).repeat(group, 1)
    return torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[None, None]


def _per_head(x: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Keys or values once for each head of ``q``."""
    return x.repeat_interleave(q.shape[1] // x.shape[1], 1)
