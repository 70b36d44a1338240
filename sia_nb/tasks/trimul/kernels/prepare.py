"""The weights in the products' number format: the five projections as one matrix, and the output's."""

import triton
import triton.language as tl


@triton.jit
def prepare_kernel(
    left_proj, left_gate, right_proj, right_gate, out_gate, to_out, joined, last, C, H,
    JOINED: tl.constexpr, CHANNELS: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    RIGHT: tl.constexpr, HALVED: tl.constexpr,
):  # fmt: skip
    """Rows of joined [JOINED, CHANNELS], with HALVED half as large, then of last [.., HIDDEN]; zero beyond the weights' sizes.

    Rows 2q and 2q + 1 of joined are projection and gate of channel q of left and right (with RIGHT, rows that are 8
    apart), so that one thread holds both of a product; then come two halves of the output gate's channels, likewise.
    """
    tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    if tl.program_id(0) * ROWS < JOINED:
        if RIGHT:
            second = row // 8 % 2 == 1
            pair = row // 16 * 8 + row % 8
        else:
            second = row % 2 == 1
            pair = row // 2
        half = (H + 1) // 2
        channel = tl.where(pair < 2 * H, pair % H, pair - 2 * H + tl.where(second, half, 0))
        of_gate = (pair >= 2 * H) & (pair - 2 * H < half) & (channel < H)
        of_left = pair < H
        of_right = (pair >= H) & (pair < 2 * H)
        at = channel[:, None] * C + column[None, :]
        inside = (column < C)[None, :]
        value = tl.load(left_proj + at, mask=inside & (of_left & ~second)[:, None], other=0.0)
        value += tl.load(left_gate + at, mask=inside & (of_left & second)[:, None], other=0.0)
        value += tl.load(right_proj + at, mask=inside & (of_right & ~second)[:, None], other=0.0)
        value += tl.load(right_gate + at, mask=inside & (of_right & second)[:, None], other=0.0)
        value += tl.load(out_gate + at, mask=inside & of_gate[:, None], other=0.0)
        if HALVED:
            value *= 0.5
        to = joined + row[:, None] * CHANNELS + column[None, :]
        tl.store(to, value.to(joined.dtype.element_ty), mask=(column < CHANNELS)[None, :])
    else:
        at_last = row - JOINED
        known = (at_last < C)[:, None] & (column < H)[None, :]
        weight = tl.load(to_out + at_last[:, None] * H + column[None, :], mask=known, other=0.0)
        place = last + at_last[:, None] * HIDDEN + column[None, :]
        tl.store(place, weight.to(last.dtype.element_ty), mask=(column < HIDDEN)[None, :])
