"""The trained passes of a llama decoder in float32 on a CPU, with fewer passes over memory than transformers' modules take.

Matrix products are most of an update there, and the rest is bound by memory: a root-mean-square norm in six elementwise
operations, a rotary embedding in eight, and as many back. Here each is one function with its gradient written out. A
layer's products of one input are one function too (``policy.lora``), so that their gradients meet in one buffer, and a
residual sum's gradient is added where the norm's is written. Every other model, format and device goes through
``prefix.run``. Imported by ``forward`` only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..policy import prefix
from ..policy.decode import plain
from ..policy.lora import products

# isort: split
from transformers.models.llama.modeling_llama import LlamaModel


def run(model: Any, ids: list[int], positions: list[int], memory: Any) -> torch.Tensor:
    """``prefix.run``, with gradients: last hidden states of packed tokens, [T, H]."""
    decoder = model.get_decoder()
    if not fits(decoder):
        return prefix.run(model, ids, positions, memory)
    hidden = decoder.embed_tokens(torch.tensor(ids))
    cos, sin = (x[0, :, None] for x in decoder.rotary_emb(hidden, torch.tensor([positions])))
    layers = list(decoder.layers)
    normed = layers[0].input_layernorm(hidden)
    for i, layer in enumerate(layers):
        attention, mlp, norm = layer.self_attn, layer.mlp, layer.post_attention_layernorm
        following = layers[i + 1].input_layernorm if i + 1 < len(layers) else decoder.norm
        made = products(normed, attention.q_proj, attention.k_proj, attention.v_proj)
        q, k, v = (x.view(len(ids), -1, attention.head_dim) for x in made)
        q, k = Rotary.apply(q, cos, sin), Rotary.apply(k, cos, sin)
        mixed = memory.attend(i, *(x.transpose(0, 1)[None] for x in (q, k, v)), attention.scaling)
        (update,) = products(mixed[0].transpose(0, 1).flatten(1), attention.o_proj)
        hidden, normed = AddNorm.apply(hidden, update, norm.weight, norm.variance_epsilon)
        (update,) = products(Gated.apply(*products(normed, mlp.gate_proj, mlp.up_proj)), mlp.down_proj)
        hidden, normed = AddNorm.apply(hidden, update, following.weight, following.variance_epsilon)
    return normed


def fits(decoder: Any) -> bool:
    """Whether ``run`` is written for this decoder: llama's own, in float32 on a CPU, its norms constant."""
    if type(decoder) is not LlamaModel or not plain(decoder):
        return False
    norms = [decoder.norm, *(n for x in decoder.layers for n in (x.input_layernorm, x.post_attention_layernorm))]
    return not any(norm.weight.requires_grad for norm in norms)


class AddNorm(torch.autograd.Function):
    """x, u [T, H], w [H] -> h = x + u and w h / rms(h), with rms(h)² = mean(h²) + ε (Zhang & Sennrich 2019); w is constant.

    With r = 1 / rms(h) and g = w ∂y: ∂h = r g - h r³ mean(g h), to which the gradient of the sum itself is added.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, epsilon: float) -> Any:
        total = x + update
        length = torch.linalg.vector_norm(total, dim=-1, keepdim=True)  # a third of the time of a mean of squares
        scale = (length.square() / total.shape[-1] + epsilon).rsqrt()
        ctx.save_for_backward(total, scale, weight)
        ctx.set_materialize_grads(False)
        return total, (total * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Any, grad: Any) -> Any:
        total, scale, weight = ctx.saved_tensors
        if grad is None:
            return grad_total, grad_total, None, None
        into = grad * weight
        along = torch.linalg.vecdot(into, total)[:, None] * scale**3 / total.shape[-1]
        into.mul_(scale).addcmul_(total, along, value=-1)
        if grad_total is not None:
            into += grad_total
        return into, into, None, None


class Rotary(torch.autograd.Function):
    """x [T, heads, D], its halves (a, b) turned by the token's angles: (a cos - b sin, b cos + a sin) (Su et al. 2021).

    cos, sin [T, 1, D] hold the D / 2 angles twice, as llama has them; so the way back is the turn by minus the angles.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return _turn(grad, *ctx.saved_tensors, -1), None, None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: int) -> torch.Tensor:
    """By the angles, or back by them."""
    half = x.shape[-1] // 2
    out = torch.mul(x, cos, out=torch.empty(x.shape, dtype=x.dtype))  # contiguous, as the products around it are
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return out


class Gated(torch.autograd.Function):
    """g, u -> silu(g) u (Shazeer 2020); keeps the two and not silu(g)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        gate, up = ctx.saved_tensors
        opened = grad * up
        opened = torch.ops.aten.silu_backward.grad_input(opened, gate, grad_input=opened)
        return opened, torch.nn.functional.silu(gate).mul_(grad)
