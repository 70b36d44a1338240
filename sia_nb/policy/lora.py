"""A LoRA linear layer as two matrix products more than the plain one, forward and backward.

y = x Wᵀ + b + s (x Aᵀ) Bᵀ (Hu et al. 2021). PEFT's own layer copies the activations to the adapter's float32 and back and
adds the update in a pass of its own; here the products run in the base model's number format, in which the matrix
units are fast, and the update is added where the product is written. A and B themselves stay float32, and so do
their gradients. Imported by ``adapter`` and ``training.fused``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


class LoraLinear(Linear):
    """PEFT's layer with the same parameters and the same numbers in float32; dropout and variants are not supported.

    Attributes:
        frozen: stands in for the layer while its weights do not change, without gradients.
    """

    frozen: Callable[[torch.Tensor], torch.Tensor] | None = None

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.frozen is not None:
            return self.frozen(x)
        if self.disable_adapters:
            return linear(x, self.base_layer.weight, self.base_layer.bias)
        return products(x, self)[0]


def products(x: torch.Tensor, *layers: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    """The outputs of linear layers that are given one input; one function of all where each is trained with LoRA."""
    if not all(type(layer) is LoraLinear and layer.frozen is None and not layer.disable_adapters for layer in layers):
        return tuple(layer(x) for layer in layers)
    values, scales = [], []
    for layer in layers:
        (name,) = layer.active_adapters
        base = layer.base_layer
        values += [base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight]
        scales.append(layer.scaling[name])
    return _Products.apply(x, scales, *values)


class _Products(torch.autograd.Function):
    """x [..., in] -> x Wᵢᵀ + bᵢ + sᵢ (x Aᵢᵀ) Bᵢᵀ of every layer i, given W, b, A, B of each in turn; W and b are constant.

    x Aᵀ and, on the way back, the gradients of x and of A are one product for all layers, with the Aᵢ one above another.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scales: list[float], *values: Any) -> Any:
        weights, biases, downs, ups = (values[i::4] for i in range(4))
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ _stacked(downs).to(x.dtype).T
        lows = low.split([a.shape[0] for a in downs], 1)
        outs = [
            linear(flat, w, bias).addmm_(part, (b * s).to(x.dtype).T)
            for w, bias, b, s, part in zip(weights, biases, ups, scales, lows, strict=True)
        ]
        ctx.save_for_backward(flat, low, *weights, *downs, *ups)
        ctx.scales = scales
        return tuple(out.view(*x.shape[:-1], -1) for out in outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        flat, low, *values = ctx.saved_tensors
        n = len(grads)
        weights, downs, ups = values[:n], values[n : 2 * n], values[2 * n :]
        ranks = [a.shape[0] for a in downs]
        outs = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        back = torch.empty_like(low)
        for part, out, b, s in zip(back.split(ranks, 1), outs, ups, ctx.scales, strict=True):
            torch.mm(out, (b * s).to(out.dtype), out=part)
        into = None
        if ctx.needs_input_grad[0]:
            into = outs[0] @ weights[0]
            for out, weight in zip(outs[1:], weights[1:], strict=True):
                into.addmm_(out, weight)
            into = into.addmm_(back, _stacked(downs).to(back.dtype)).view(*grads[0].shape[:-1], -1)
        to_downs = (back.T @ flat).to(downs[0].dtype).split(ranks)
        to_ups = [
            (out.T @ part).to(b.dtype) * s for out, part, b, s in zip(outs, low.split(ranks, 1), ups, ctx.scales, strict=True)
        ]
        return into, None, *(x for pair in zip(to_downs, to_ups, strict=True) for x in (None, None, *pair))


def _stacked(downs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The Aᵢ one above another, without a copy where there is one."""
    return torch.cat(tuple(downs)) if len(downs) > 1 else downs[0]
