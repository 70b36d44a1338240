"""The five projections of a tile of rows, one step of columns after the other, and with NORM the rows' LayerNorm before."""

import triton
import triton.language as tl

from .finish import finish_projection

PRECISION = tl.constexpr("tf32")


@triton.jit(do_not_specialize=["B"])
def project_rows_kernel(
    x, scale, shift, normed, normed_tiles, mask, joined, joined_tiles, sides, gate, sides_tiles, gate_tiles,
    N, B, row_stride, batch_stride, side_stride, channel_stride, gate_row_stride, gate_batch_stride,
    C: tl.constexpr, H: tl.constexpr, EPS: tl.constexpr, JOINED: tl.constexpr, CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr, STAGES: tl.constexpr,
    TILES: tl.constexpr, RIGHT: tl.constexpr, LOADS: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """One program: every so many-th tile of ROWS positions k of one (b, i), with all of joined's rows.

    With NORM, normed has ROWS rows for each program, which writes them and reads them again from the cache, while others
    beside it multiply. Without, normed is [B, N, N, CHANNELS], and one loop goes over steps and chunks, so that the next
    step's loads are under way while a step is finished; that takes more registers.
    """
    tl.extra.cuda.gdc_launch_dependents()
    DOWN = tl.cdiv(N, ROWS)
    CHUNKS: tl.constexpr = CHANNELS // CHUNK
    tile = tl.program_id(0)
    while tile < DOWN * N * B:
        k0 = tile % DOWN * ROWS
        i, b = tile // DOWN % N, tile // DOWN // N
        k = k0 + tl.arange(0, ROWS)
        row = (b * N + i).to(tl.int64) * N
        place = (b * N + i) * N + k0
        if NORM:
            place = tl.program_id(0) * ROWS
            for r in tl.range(0, ROWS, BLOCK):
                to = normed + (place + r).to(tl.int64) * CHANNELS
                normalise_rows(x + (row + k0 + r) * C, N - k0 - r, scale, shift, to, C, EPS, CHANNELS, PART, BLOCK)
            if LOADS:  # what ordinary stores wrote becomes visible to the tensor memory accelerator
                tl.inline_asm_elementwise("fence.acq_rel.gpu; fence.proxy.async; mov.b32 $0, 0;", "=r,r", [k], tl.int32, False, 1)
            tl.debug_barrier()
        tl.extra.cuda.gdc_wait()
        m = tl.load(mask + row + k, mask=k < N, other=0.0)
        to_sides = sides + i.to(tl.int64) * row_stride + b.to(tl.int64) * batch_stride
        to_gate = gate + i.to(tl.int64) * gate_row_stride + b.to(tl.int64) * gate_batch_stride
        at_side, at_gate = (i * 2 * B + b) * H, (i * B + b) * H
        total = tl.zeros([2 * PAIRS, ROWS] if RIGHT else [ROWS, 2 * PAIRS], tl.float32)
        if NORM:
            for first in tl.range(0, JOINED, 2 * PAIRS):
                total = tl.zeros([2 * PAIRS, ROWS] if RIGHT else [ROWS, 2 * PAIRS], tl.float32)
                for n in tl.range(0, CHANNELS, CHUNK, num_stages=STAGES):
                    total = add_chunk(
                        total, normed, normed_tiles, joined, joined_tiles, place, first, n, N - k0,
                        CHANNELS, CHUNK, ROWS, PAIRS, RIGHT, LOADS,
                    )  # fmt: skip
                finish_projection(
                    total, m, first // 2, to_sides, to_gate, sides_tiles, gate_tiles, at_side, at_gate, k0, N, B,
                    side_stride, channel_stride, H, ROWS, PAIRS, TILES, RIGHT,
                )  # fmt: skip
        else:
            for step in tl.range(0, JOINED // (2 * PAIRS) * CHUNKS, num_stages=STAGES):
                first, n = step // CHUNKS * 2 * PAIRS, step % CHUNKS * CHUNK
                total = add_chunk(
                    total, normed, normed_tiles, joined, joined_tiles, place, first, n, N - k0,
                    CHANNELS, CHUNK, ROWS, PAIRS, RIGHT, LOADS,
                )  # fmt: skip
                if n == CHANNELS - CHUNK:
                    finish_projection(
                        total, m, first // 2, to_sides, to_gate, sides_tiles, gate_tiles, at_side, at_gate, k0, N, B,
                        side_stride, channel_stride, H, ROWS, PAIRS, TILES, RIGHT,
                    )  # fmt: skip
                    total = tl.zeros([2 * PAIRS, ROWS] if RIGHT else [ROWS, 2 * PAIRS], tl.float32)
        tile += tl.num_programs(0)


@triton.jit
def add_chunk(
    total, normed, normed_tiles, joined, joined_tiles, place, first, n, many,
    CHANNELS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr, RIGHT: tl.constexpr,
    LOADS: tl.constexpr,
):  # fmt: skip
    """total plus the product of normed's rows from ``place`` on, of which ``many`` exist, and joined's from ``first`` on."""
    if LOADS:  # rows beyond those are others', and are not stored
        rows = normed_tiles.load([place, n])
        weight = joined_tiles.load([first, n])
    else:
        c = n + tl.arange(0, CHUNK)
        row = tl.arange(0, ROWS)
        at = normed + (place.to(tl.int64) + row)[:, None] * CHANNELS + c[None, :]
        rows = tl.load(at, mask=(row < many)[:, None], other=0.0)
        weight = tl.load(joined + (first + tl.arange(0, 2 * PAIRS))[:, None] * CHANNELS + c[None, :])
    if RIGHT:
        return tl.dot(weight, tl.trans(rows), total, input_precision=PRECISION)
    else:
        return tl.dot(rows, tl.trans(weight), total, input_precision=PRECISION)


@triton.jit
def normalise_rows(
    x, many, scale, shift, normed, C: tl.constexpr, EPS: tl.constexpr, CHANNELS: tl.constexpr, PART: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """normed [BLOCK, CHANNELS] of the first ``many`` rows of x [BLOCK, C], others as of zeros, PART channels at a time."""
    row = tl.arange(0, BLOCK)
    c = tl.arange(0, PART)
    COUNT: tl.constexpr = CHANNELS // PART
    parts = ()
    for n in tl.static_range(COUNT):
        inside = (row < many)[:, None] & (n * PART + c < C)[None, :]
        part = tl.load(x + row[:, None] * C + (n * PART + c)[None, :], mask=inside, other=0.0, eviction_policy="evict_first")
        parts = parts + (part,)
    sums = parts[0]
    for n in tl.static_range(1, COUNT):
        sums += parts[n]
    mean = tl.sum(sums, 1) / C
    squared = ()
    for n in tl.static_range(COUNT):
        centred = parts[n] - mean[:, None]
        if CHANNELS != C:
            centred = tl.where((n * PART + c < C)[None, :], centred, 0.0)
        squared = squared + (centred * centred,)
    squares = squared[0]
    for n in tl.static_range(1, COUNT):
        squares += squared[n]
    inverse = tl.rsqrt(tl.sum(squares, 1) / C + EPS)
    for n in tl.static_range(COUNT):
        inside = n * PART + c < C
        factor = tl.load(scale + n * PART + c, mask=inside, other=0.0)
        added = tl.load(shift + n * PART + c, mask=inside, other=0.0)
        value = (parts[n] - mean[:, None]) * inverse[:, None] * factor[None, :] + added[None, :]
        tl.store(normed + row[:, None] * CHANNELS + (n * PART + c)[None, :], value.to(normed.dtype.element_ty))
