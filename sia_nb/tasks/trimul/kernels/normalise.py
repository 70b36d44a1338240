"""LayerNorm over the channels of x, stored in the products' number format."""

import triton
import triton.language as tl


@triton.jit
def normalise_kernel(
    x, scale, shift, normed, TOTAL, C, EPS: tl.constexpr, CHANNELS: tl.constexpr, POWER: tl.constexpr, ROWS: tl.constexpr
):
    """normed [TOTAL, CHANNELS] of x [TOTAL, C]; channels beyond C are zero."""
    tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, POWER)
    inside = (row < TOTAL)[:, None] & (c < C)[None, :]
    value = tl.load(x + row[:, None] * C + c[None, :], mask=inside, other=0.0)
    value = tl.where((c < C)[None, :], value - (tl.sum(value, 1) / C)[:, None], 0.0)
    value = value / tl.sqrt(tl.sum(value * value, 1) / C + EPS)[:, None]
    value = value * tl.load(scale + c, mask=c < C, other=0.0)[None, :] + tl.load(shift + c, mask=c < C, other=0.0)[None, :]
    tl.extra.cuda.gdc_wait()  # for the weights, which the launch after this one takes as ready
    to = normed + row[:, None] * CHANNELS + c[None, :]
    tl.store(to, value.to(normed.dtype.element_ty), mask=(row < TOTAL)[:, None] & (c < CHANNELS)[None, :])
