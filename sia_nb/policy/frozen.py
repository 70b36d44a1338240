"""Linear layers for sampling, where a product has few rows and its cost is the reading of the weights.

What does not change in between is held in the layout and number format that the products read; layers of one input are
one product. Imported by ``adapter``, ``decode`` and ``sampling``; imports torch alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import linear

FEW = 32  # rows of a product that the layout is chosen for
LARGEST = 2**25  # numbers of a weight that is copied: all of the embedded model's, none of a billion's or more
TOGETHER = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
)  # layers of one module that are given one and the same input


@dataclass
class Layer:
    """A linear layer, and the LoRA update s B A of its weight where it has one: apart, or in the weight already."""

    base: torch.nn.Linear
    a: torch.Tensor | None = None  # [rank, in]
    b: torch.Tensor | None = None  # [out, rank]
    scale: float = 1.0
    merged: torch.Tensor | None = None  # [out, in]: what stands in for the layer's own weight

    @property
    def weight(self) -> torch.Tensor:
        """[out, in], without gradient."""
        return self.base.weight.detach() if self.merged is None else self.merged


class Frozen:
    """Layers of one input, LoRA layers all or none, whose weights stay as they are: the same numbers, sooner.

    On a CPU weights are laid out once as oneDNN's products read them: in bfloat16 ``linear`` does that at every call, and in
    float32 its products of a few rows take up to twice as long, as weights come from memory row by row. The
    layers' weights and their A then are one matrix [ΣO + Σr, in], their B the blocks of another. Elsewhere, and for large
    weights, there can be one layer only (``can_join``).
    """

    def __init__(self, *layers: Layer):
        first = layers[0]
        weights = [x.weight for x in layers]
        dtype = first.weight.dtype
        self.ends = torch.tensor([0, *(w.shape[0] for w in weights)]).cumsum(0).tolist()
        self.packed = self.up = self.down = None
        if can_join(*layers):
            downs = [x.a.detach().to(dtype) for x in layers if x.a is not None]
            self.product = torch.ops.mkldnn._linear_pointwise.default
            self.packed = torch.ops.mkldnn._reorder_linear_weight(torch.cat([*weights, *downs]), FEW)
        else:
            (self.weight,) = weights
            self.down = None if first.a is None else first.a.detach().to(dtype).T.contiguous()
        if first.a is not None:
            self.up = torch.block_diag(*((x.b.detach() * x.scale).to(dtype).T for x in layers))
        self.bias = _joined_bias(layers, 0 if self.up is None or self.packed is None else self.up.shape[0])
        self.kept: tuple[torch.Tensor, int, torch.Tensor] | None = None

    def __call__(self, x: torch.Tensor, part: int = 0) -> torch.Tensor:
        """The output of layer ``part``; the other layers' are kept for the calls that follow with the same ``x``."""
        if len(self.ends) == 2:
            return self.all(x)
        if self.kept is None or self.kept[0] is not x or self.kept[1] != x._version:
            self.kept = (x, x._version, self.all(x))
        return self.kept[2][..., self.ends[part] : self.ends[part + 1]]

    def all(self, x: torch.Tensor) -> torch.Tensor:
        """The outputs of all the layers side by side, [..., ΣO]."""
        if self.packed is not None and self.up is None:
            return self.product(x, self.packed, self.bias, "none", [], "")
        flat = x.reshape(-1, x.shape[-1])
        if self.packed is None:
            out = linear(flat, self.weight, self.bias)
            low = None if self.down is None else flat @ self.down
        else:
            both = self.product(flat, self.packed, self.bias, "none", [], "")
            out, low = both[:, : self.ends[-1]], both[:, self.ends[-1] :]
        if self.up is not None:
            out.addmm_(low, self.up)
        return out.view(*x.shape[:-1], -1)


def joined(*modules: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that gives the outputs of modules of one input side by side, by their one product where they have it."""
    products = [getattr(m, "frozen", None) or vars(m).get("forward") for m in modules]
    owners = {p.func if isinstance(p, partial) else p for p in products}
    owner = owners.pop()
    if not owners and isinstance(owner, Frozen):
        return owner.all
    return modules[0] if len(modules) == 1 else lambda x: torch.cat([m(x) for m in modules], -1)


def can_join(*layers: Layer) -> bool:
    """Whether the layers can be one product, as oneDNN reads it; one layer can always be frozen."""
    weights = [x.weight for x in layers]
    return (
        sum(w.numel() for w in weights) <= LARGEST
        and {w.device.type for w in weights} == {"cpu"}
        and len({x.a is None for x in layers}) == 1
        and len({(w.shape[1], w.dtype) for w in weights}) == 1
        and _has_products_of(weights[0].dtype)
    )


def _has_products_of(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there, and multiplies this number format on this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _joined_bias(layers: tuple[Layer, ...], more: int) -> torch.Tensor | None:
    """The layers' biases one after another, then ``more`` zeros; None where no layer has one."""
    if all(x.base.bias is None for x in layers):
        return None
    like = layers[0].base.weight.detach()
    parts = [like.new_zeros(x.base.weight.shape[0]) if x.base.bias is None else x.base.bias.detach() for x in layers]
    return torch.cat([*parts, like.new_zeros(more)])
