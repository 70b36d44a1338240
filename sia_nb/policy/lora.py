"""A LoRA linear layer as two matrix products more than the plain one, forward and backward.

y = x Wᵀ + b + s (x Aᵀ) Bᵀ (Hu et al. 2021). PEFT's own layer copies the activations to the adapter's float32 and back and
adds the update in a pass of its own; here the products run in the base model's number format, in which the matrix
units are fast, and the update is added where the product is written. A and B themselves stay float32, and so do
their gradients. Imported by ``adapter`` only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
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
        base = self.base_layer
        if self.disable_adapters:
            return linear(x, base.weight, base.bias)
        (name,) = self.active_adapters
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        return _Product.apply(x, base.weight, base.bias, a, b, self.scaling[name])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any, a: torch.Tensor, b: torch.Tensor, scale: float
    ) -> Any:
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.to(x.dtype).T
        out = linear(flat, weight, bias).addmm_(low, (b * scale).to(x.dtype).T)
        ctx.save_for_backward(flat, low, weight, a, b)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        flat, low, weight, a, b = ctx.saved_tensors
        out = grad.reshape(-1, grad.shape[-1])
        down = out @ (b * ctx.scale).to(out.dtype)
        into = (out @ weight).addmm_(down, a.to(out.dtype)).view(*grad.shape[:-1], -1) if ctx.needs_input_grad[0] else None
        return into, None, None, (down.T @ flat).to(a.dtype), (out.T @ low).to(b.dtype) * ctx.scale, None
