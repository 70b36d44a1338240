"""The five projections of rows normalised before, with gates and mask: a tiled product over the channels."""

import triton
import triton.language as tl

from .finish import finish_projection

PRECISION = tl.constexpr("tf32")


@triton.jit(do_not_specialize=["B"])
def project_normed_kernel(
    normed, normed_tiles, mask, joined, joined_tiles, sides, gate, sides_tiles, gate_tiles,
    N, B, row_stride, batch_stride, side_stride, channel_stride, gate_row_stride, gate_batch_stride,
    H: tl.constexpr, JOINED: tl.constexpr, CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr, STAGES: tl.constexpr, TILES: tl.constexpr,
    RIGHT: tl.constexpr, LOADS: tl.constexpr,
):  # fmt: skip
    """One program: ROWS positions k of one (b, i), 2 PAIRS rows of joined; normed [B, N, N, CHANNELS]."""
    tl.extra.cuda.gdc_launch_dependents()
    tl.extra.cuda.gdc_wait()
    STEPS: tl.constexpr = JOINED // (2 * PAIRS)
    first = (tl.program_id(0) % STEPS) * 2 * PAIRS
    k0 = tl.program_id(0) // STEPS * ROWS
    i, b = tl.program_id(1), tl.program_id(2)
    k = k0 + tl.arange(0, ROWS)
    row = (b * N + i).to(tl.int64) * N
    c = tl.arange(0, CHUNK)
    column = first + tl.arange(0, 2 * PAIRS)
    total = tl.zeros([2 * PAIRS, ROWS] if RIGHT else [ROWS, 2 * PAIRS], tl.float32)
    for n in tl.range(0, CHANNELS, CHUNK, num_stages=STAGES):
        if LOADS:  # rows beyond N are another i's, and are not stored
            rows = normed_tiles.load([(b * N + i) * N + k0, n])
            weight = joined_tiles.load([first, n])
        else:
            rows = tl.load(normed + (row + k)[:, None] * CHANNELS + (n + c)[None, :], mask=(k < N)[:, None], other=0.0)
            weight = tl.load(joined + column[:, None] * CHANNELS + (n + c)[None, :])
        if RIGHT:
            total = tl.dot(weight, tl.trans(rows), total, input_precision=PRECISION)
        else:
            total = tl.dot(rows, tl.trans(weight), total, input_precision=PRECISION)
    m = tl.load(mask + row + k, mask=k < N, other=0.0)
    sides += i.to(tl.int64) * row_stride + b.to(tl.int64) * batch_stride
    gate += i.to(tl.int64) * gate_row_stride + b.to(tl.int64) * gate_batch_stride
    finish_projection(
        total, m, first // 2, sides, gate, sides_tiles, gate_tiles, (i * 2 * B + b) * H, (i * B + b) * H, k0, N, B,
        side_stride, channel_stride, H, ROWS, PAIRS, TILES, RIGHT,
    )  # fmt: skip
