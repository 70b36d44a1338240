"""The weights in the products' number format: the five projections as one matrix, and the output's."""

import triton
import triton.language as tl


@triton.jit
def prepare_kernel(
    left_proj, left_gate, right_proj, right_gate, out_gate, to_out, joined, last, C, H,
    JOINED: tl.constexpr, CHANNELS: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Rows of joined [JOINED, CHANNELS], then of last [.., HIDDEN], zero beyond the weights' own sizes.

    Rows 2q and 2q + 1 of joined are projection and gate of channel q of left and right, so that a product holds both
    in one thread; after 4H rows come two halves of the output gate's channels in the same way.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    if tl.program_id(0) * ROWS < JOINED:
        second = row % 2 == 1
        pair = row // 2
        half = (H + 1) // 2
        channel = tl.where(row < 4 * H, pair % H, pair - 2 * H + tl.where(second, half, 0))
        of_gate = (row >= 4 * H) & (pair - 2 * H < half) & (channel < H)
        of_left = row < 2 * H
        of_right = (row >= 2 * H) & (row < 4 * H)
        at = channel[:, None] * C + column[None, :]
        inside = (column < C)[None, :]
        value = tl.load(left_proj + at, mask=inside & (of_left & ~second)[:, None], other=0.0)
        value += tl.load(left_gate + at, mask=inside & (of_left & second)[:, None], other=0.0)
        value += tl.load(right_proj + at, mask=inside & (of_right & ~second)[:, None], other=0.0)
        value += tl.load(right_gate + at, mask=inside & (of_right & second)[:, None], other=0.0)
        value += tl.load(out_gate + at, mask=inside & of_gate[:, None], other=0.0)
        to = joined + row[:, None] * CHANNELS + column[None, :]
        tl.store(to, value.to(joined.dtype.element_ty), mask=(column < CHANNELS)[None, :])
    else:
        row -= JOINED
        inside = (row < C)[:, None] & (column < H)[None, :]
        value = tl.load(to_out + row[:, None] * H + column[None, :], mask=inside, other=0.0)
        to = last + row[:, None] * HIDDEN + column[None, :]
        tl.store(to, value.to(last.dtype.element_ty), mask=(column < HIDDEN)[None, :])
