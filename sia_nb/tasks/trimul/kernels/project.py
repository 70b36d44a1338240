"""LayerNorm, the five projections, gates and mask in one launch: rows of x stay in registers from norm to product."""

import triton
import triton.language as tl

from .finish import finish_projection

PRECISION = tl.constexpr("tf32")


@triton.jit(do_not_specialize=["B"])
def project_kernel(
    x, mask, scale, shift, joined, joined_tiles, sides, gate, sides_tiles, gate_tiles,
    N, B, row_stride, batch_stride, side_stride, channel_stride, gate_row_stride, gate_batch_stride,
    C: tl.constexpr, H: tl.constexpr, EPS: tl.constexpr, JOINED: tl.constexpr, CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr, STAGES: tl.constexpr, TILES: tl.constexpr,
    RIGHT: tl.constexpr, LOADS: tl.constexpr,
):  # fmt: skip
    """One program: ROWS positions k of one row i of one x in the batch; x [B, N, N, C], joined [JOINED, CHANNELS].

    With RIGHT, rows are the right operand of the product, read from shared memory, and k runs along its columns.
    With LOADS, weights come by the tensor memory accelerator.
    """
    tl.extra.cuda.gdc_launch_dependents()
    k0 = tl.program_id(0) * ROWS
    i, b = tl.program_id(1), tl.program_id(2)
    k = k0 + tl.arange(0, ROWS)
    row = (b * N + i).to(tl.int64) * N
    c = tl.arange(0, CHUNK)
    COUNT: tl.constexpr = CHANNELS // CHUNK
    chunks = ()
    for n in tl.static_range(COUNT):
        at = x + (row + k)[:, None] * C + (n * CHUNK + c)[None, :]
        if CHANNELS == C:
            chunk = tl.load(at, mask=(k < N)[:, None], other=0.0)
        else:
            chunk = tl.load(at, mask=(k < N)[:, None] & (n * CHUNK + c < C)[None, :], other=0.0)
        chunks = chunks + (chunk,)
    sums = chunks[0]
    for n in tl.static_range(1, COUNT):
        sums += chunks[n]
    mean = tl.sum(sums, 1) / C
    m = tl.load(mask + row + k, mask=k < N, other=0.0)
    squared = ()
    for n in tl.static_range(COUNT):
        centred = chunks[n] - mean[:, None]
        if CHANNELS != C:
            centred = tl.where((n * CHUNK + c < C)[None, :], centred, 0.0)
        squared = squared + (centred * centred,)
    squares = squared[0]
    for n in tl.static_range(1, COUNT):
        squares += squared[n]
    inverse = tl.rsqrt(tl.sum(squares, 1) / C + EPS)
    rows = ()
    for n in tl.static_range(COUNT):
        inside = n * CHUNK + c < C
        factor = tl.load(scale + n * CHUNK + c, mask=inside, other=0.0)
        added = tl.load(shift + n * CHUNK + c, mask=inside, other=0.0)
        normed = (chunks[n] - mean[:, None]) * inverse[:, None] * factor[None, :] + added[None, :]
        rows = rows + (normed.to(joined.dtype.element_ty),)

    tl.extra.cuda.gdc_wait()
    sides += i.to(tl.int64) * row_stride + b.to(tl.int64) * batch_stride
    gate += i.to(tl.int64) * gate_row_stride + b.to(tl.int64) * gate_batch_stride
    column = tl.arange(0, 2 * PAIRS)
    for first in tl.range(0, JOINED, 2 * PAIRS, num_stages=STAGES):
        total = tl.zeros([2 * PAIRS, ROWS] if RIGHT else [ROWS, 2 * PAIRS], tl.float32)
        for n in tl.static_range(COUNT):
            if LOADS:
                weight = joined_tiles.load([first, n * CHUNK])
            else:
                weight = tl.load(joined + (first + column)[:, None] * CHANNELS + (n * CHUNK + c)[None, :])
            if RIGHT:
                total = tl.dot(weight, tl.trans(rows[n]), total, input_precision=PRECISION)
            else:
                total = tl.dot(rows[n], tl.trans(weight), total, input_precision=PRECISION)
        finish_projection(
            total, m, first // 2, sides, gate, sides_tiles, gate_tiles, (i * 2 * B + b) * H, (i * B + b) * H, k0, N, B,
            side_stride, channel_stride, H, ROWS, PAIRS, TILES, RIGHT,
        )  # fmt: skip
