"""LayerNorm over the hidden channels of o, the gate and the output projection in one launch."""

import triton
import triton.language as tl

PRECISION = tl.constexpr("tf32")


@triton.jit
def output_kernel(
    o, gate, scale, shift, last, y, N,
    row_stride, batch_stride, channel_stride, gate_row_stride, gate_batch_stride, gate_channel_stride, gate_column_stride,
    C: tl.constexpr, H: tl.constexpr, HIDDEN: tl.constexpr, EPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One program: ROWS positions j of one row i of one o in the batch; last [.., HIDDEN], y [B, N, N, C]."""
    tl.extra.cuda.gdc_wait()
    j = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    i, b = tl.program_id(1), tl.program_id(2)
    h = tl.arange(0, HIDDEN)
    inside = (h < H)[:, None] & (j < N)[None, :]
    o += i.to(tl.int64) * row_stride + b.to(tl.int64) * batch_stride
    gate += i.to(tl.int64) * gate_row_stride + b.to(tl.int64) * gate_batch_stride
    value = tl.load(o + h[:, None].to(tl.int64) * channel_stride + j[None, :], mask=inside, other=0.0).to(tl.float32)
    gates = gate + h[:, None].to(tl.int64) * gate_channel_stride + j[None, :] * gate_column_stride
    gates = tl.load(gates, mask=inside, other=0.0).to(tl.float32)
    centred = value - (tl.sum(value, 0) / H)[None, :]
    if HIDDEN != H:
        centred = tl.where((h < H)[:, None], centred, 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 0) / H + EPS)
    factor, added = tl.load(scale + h, mask=h < H, other=0.0), tl.load(shift + h, mask=h < H, other=0.0)
    gated = (centred * inverse[None, :] * factor[:, None] + added[:, None]) * gates
    rows = tl.trans(gated.to(last.dtype.element_ty))
    column = tl.arange(0, COLUMNS)
    y += ((b * N + i).to(tl.int64) * N + j)[:, None] * C
    for c in tl.range(0, C, COLUMNS, num_stages=STAGES):
        weight = tl.load(last + (c + column)[None, :] * HIDDEN + h[:, None])
        total = tl.dot(rows, weight, input_precision=PRECISION)
        tl.store(y + (c + column)[None, :], total, mask=(j < N)[:, None] & (c + column < C)[None, :])
