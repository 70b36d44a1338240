"""Linear layers for sampling, where a product has few rows and its cost is the reading of the weights.

What does not change in between is held in the layout and number format that the products read. Imported by ``adapter``,
``lora`` and ``sampling``; imports torch alone.
"""

from __future__ import annotations

import torch
from torch.nn.functional import linear

FEW = 32  # rows of a product that the layout is chosen for
LARGEST = 2**25  # numbers of a weight that is copied: all of the embedded model's, none of a billion's or more


class Frozen:
    """A LoRA layer, or a plain linear one where ``a`` is None, whose weights stay as they are: the same bits, sooner.

    On a CPU a bfloat16 weight is laid out once as oneDNN's matrix units read it, which ``linear`` does at every call.
    """

    def __init__(self, base: torch.nn.Linear, a: torch.Tensor | None = None, b: torch.Tensor | None = None, scale: float = 1.0):
        weight = base.weight.detach()
        self.weight, self.bias = weight, base.bias
        self.packed = _packed(weight)
        self.down = None if a is None else a.detach().to(weight.dtype).T.contiguous()
        self.up = None if b is None else (b.detach() * scale).to(weight.dtype).T.contiguous()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if self.packed is not None:
            out = torch.ops.mkldnn._linear_pointwise(flat, self.packed, self.bias, "none", [], "")
        else:
            out = linear(flat, self.weight, self.bias)
        if self.down is not None:
            out.addmm_(flat @ self.down, self.up)
        return out.view(*x.shape[:-1], -1)


def _packed(weight: torch.Tensor) -> torch.Tensor | None:
    """A bfloat16 weight as oneDNN's products read it, a copy; None where it is large or torch has no such layout for it here."""
    if (
        weight.numel() > LARGEST
        or weight.device.type != "cpu"
        or weight.dtype != torch.bfloat16
        or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight, FEW)
