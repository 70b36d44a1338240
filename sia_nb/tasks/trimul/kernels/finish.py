"""What follows a step of the projections: gates, mask and the stores of left, right and the output's gate."""

import triton
import triton.language as tl

from .gates import gated
from .gates import sigmoid_exp as sigmoid

DTYPE = tl.constexpr(tl.float16)


@triton.jit
def finish_projection(
    total, m, first_pair, sides, gate, sides_tiles, gate_tiles, side_row, gate_row, k0, N, B, side_stride, channel_stride,
    H: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr, TILES: tl.constexpr, RIGHT: tl.constexpr,
):  # fmt: skip
    """Gate, mask and store total, whose 2 PAIRS columns (rows with RIGHT) belong to pairs first_pair + 0 .. PAIRS - 1.

    sides and gate point at this (b, i), channel 0, k 0; m [ROWS] is the mask. With TILES, whole tiles go out by the
    tensor memory accelerator, to rows side_row + channel (right stands B H rows after left) and gate_row + channel.
    """
    HALF: tl.constexpr = (H + 1) // 2
    SIDE_TILES: tl.constexpr = TILES and H % PAIRS == 0
    GATE_TILES: tl.constexpr = TILES and H % (2 * PAIRS) == 0
    if RIGHT:
        split = tl.trans(tl.reshape(total, [PAIRS // 8, 2, 8, ROWS]), 0, 2, 3, 1)
        first, second = tl.split(split)
        first, second = tl.reshape(first, [PAIRS, ROWS]), tl.reshape(second, [PAIRS, ROWS])
        m = m[None, :]
    else:
        first, second = tl.split(tl.reshape(total, [ROWS, PAIRS, 2]))
        m = m[:, None]
    pair = first_pair + tl.arange(0, PAIRS)
    k = k0 + tl.arange(0, ROWS)
    if first_pair < 2 * H:
        value = (gated(first, second) * m).to(DTYPE)
        if SIDE_TILES:
            row = side_row + (first_pair // H) * B * H + first_pair % H
            sides_tiles.store([row, k0], value if RIGHT else tl.trans(value))
        else:
            place = (pair // H) * side_stride + (pair % H) * channel_stride
            _store(sides, value, place, pair < 2 * H, k, N, RIGHT)
    if first_pair + PAIRS > 2 * H:
        channel = pair - 2 * H
        one, two = sigmoid(first).to(DTYPE), sigmoid(second).to(DTYPE)
        if GATE_TILES:
            row = gate_row + first_pair - 2 * H
            gate_tiles.store([row, k0], one if RIGHT else tl.trans(one))
            gate_tiles.store([row + HALF, k0], two if RIGHT else tl.trans(two))
        else:
            held = (channel >= 0) & (channel < HALF)
            _store(gate, one, channel * channel_stride, held, k, N, RIGHT)
            _store(gate, two, (channel + HALF) * channel_stride, held & (channel + HALF < H), k, N, RIGHT)


@triton.jit
def _store(to, value, place, held, k, N, RIGHT: tl.constexpr):
    """value[k, channel] (transposed with RIGHT) to ``to + place[channel] + k``, where held and k < N."""
    if RIGHT:
        tl.store(to + place[:, None] + k[None, :], value, mask=held[:, None] & (k < N)[None, :])
    else:
        tl.store(to + place[None, :] + k[:, None], value, mask=held[None, :] & (k < N)[:, None])
