"""Log-probabilities over a whole vocabulary by two products with the head in place of three, and without its logits.

Imported by ``forward`` only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

PLACES = 256  # places at which the whole vocabulary's logits are held at a time


class Chosen(torch.autograd.Function):
    """log softmax((h Wᵀ + b) / T) at the chosen tokens, [M] float32; h [M, H], W [V, H] and b [V] constant, chosen [M].

    Its gradient with regard to h is (W[chosen] - softmax · W) / T, which the forward pass has all it takes for. So it is
    computed there, PLACES at a time, and kept as [M, H]: logits are neither kept nor computed again, as under ``checkpoint``.
    """

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: Any, chosen: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        logp = states.new_empty(len(states), dtype=torch.float32)
        slopes = torch.empty_like(states) if wanted else None
        room = states.new_empty(min(PLACES, len(states)), len(weight))  # for all pieces: fresh pages take longer than a pass
        for start in range(0, len(states), PLACES):
            at = slice(start, start + PLACES)
            some, token = states[at], chosen[at, None]
            out = room[: len(some)]
            torch.mm(some, weight.T, out=out) if bias is None else torch.addmm(bias, some, weight.T, out=out)
            logits = out.float()
            if temperature != 1:
                logits /= temperature
            logits -= logits.amax(-1, keepdim=True)
            own = logits.gather(1, token)
            total = logits.exp_().sum(-1, keepdim=True)
            logp[at] = (own - total.log())[:, 0]
            if wanted:
                logits.scatter_add_(1, token, -total)  # before the product, where 1 - p keeps its digits in every format
                slopes[at] = (logits.to(weight.dtype) @ weight) / (total * -temperature)
        if wanted:
            ctx.save_for_backward(slopes)
        return logp

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (slopes,) = ctx.saved_tensors
        return grad[:, None].to(slopes.dtype) * slopes, None, None, None, None
