"""What follows a step of the projections: gates, mask and the stores of left, right and the output's gate."""

import triton
import triton.language as tl

from .gates import sigmoid_exp as sigmoid

DTYPE = tl.constexpr(tl.float16)


@triton.jit
def finish_projection(
    total, m, first_pair, sides, gate, sides_tiles, gate_tiles, side_row, gate_row, k0, N, B, side_stride, channel_stride,
    H: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Gate, mask and store total [ROWS, 2 PAIRS], whose columns 2q, 2q + 1 belong to pair first_pair + q.

    sides and gate point at this (b, i), channel 0, k 0; m [ROWS] is the mask. With TILES, whole tiles go out by the
    tensor memory accelerator, to rows side_row + channel (right stands B H rows after left) and gate_row + channel.
    """
    HALF: tl.constexpr = (H + 1) // 2
    SIDE_TILES: tl.constexpr = TILES and H % PAIRS == 0
    GATE_TILES: tl.constexpr = TILES and H % (2 * PAIRS) == 0
    first, second = tl.split(tl.reshape(total, [ROWS, PAIRS, 2]))
    pair = first_pair + tl.arange(0, PAIRS)
    k = k0 + tl.arange(0, ROWS)
    inside = (k < N)[:, None]
    if first_pair < 2 * H:
        value = (first * sigmoid(second) * m[:, None]).to(DTYPE)
        if SIDE_TILES:
            row = side_row + (first_pair // H) * B * H + first_pair % H
            sides_tiles.store([row, k0], tl.trans(value))
        else:
            to = sides + ((pair // H) * side_stride + (pair % H) * channel_stride)[None, :] + k[:, None]
            tl.store(to, value, mask=inside & (pair < 2 * H)[None, :])
    if first_pair + PAIRS > 2 * H:
        channel = pair - 2 * H
        if GATE_TILES:
            row = gate_row + first_pair - 2 * H
            gate_tiles.store([row, k0], tl.trans(sigmoid(first).to(DTYPE)))
            gate_tiles.store([row + HALF, k0], tl.trans(sigmoid(second).to(DTYPE)))
        else:
            inside = inside & ((channel >= 0) & (channel < HALF))[None, :]
            to = gate + (channel * channel_stride)[None, :] + k[:, None]
            tl.store(to, sigmoid(first).to(DTYPE), mask=inside)
            tl.store(to + HALF * channel_stride, sigmoid(second).to(DTYPE), mask=inside & (channel + HALF < H)[None, :])
