"""The batched product: o[i, j] is the sum over k of left[i, k] right[j, k], for every channel of every x."""

import triton
import triton.language as tl

PRECISION = tl.constexpr("tf32")


@triton.jit
def product_kernel(
    left, right, o, row_stride, batch_stride, channel_stride, o_row_stride, o_batch_stride, o_channel_stride,
    N: tl.constexpr, H: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, STAGES: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """One program: a tile [ROWS, COLUMNS] of o for one channel; GROUP tiles of rows share their columns in the cache."""
    tl.extra.cuda.gdc_launch_dependents()
    tl.extra.cuda.gdc_wait()
    channel = tl.program_id(1)
    across = (channel // H).to(tl.int64) * batch_stride + (channel % H).to(tl.int64) * channel_stride
    down, wide = tl.cdiv(N, ROWS), tl.cdiv(N, COLUMNS)
    group = tl.program_id(0) // (GROUP * wide)
    height = tl.minimum(down - group * GROUP, GROUP)
    i = (group * GROUP + tl.program_id(0) % (GROUP * wide) % height) * ROWS + tl.arange(0, ROWS)
    j = (tl.program_id(0) % (GROUP * wide) // height) * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    left += across + i[:, None].to(tl.int64) * row_stride
    right += across + j[None, :].to(tl.int64) * row_stride
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for k0 in tl.range(0, N, DEPTH, num_stages=STAGES):
        if N % DEPTH == 0:
            a = tl.load(left + k0 + k[None, :], mask=(i < N)[:, None], other=0.0)
            b = tl.load(right + k0 + k[:, None], mask=(j < N)[None, :], other=0.0)
        else:
            rest = N - k0
            a = tl.load(left + k0 + k[None, :], mask=(i < N)[:, None] & (k < rest)[None, :], other=0.0)
            b = tl.load(right + k0 + k[:, None], mask=(j < N)[None, :] & (k < rest)[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    o += (channel // H).to(tl.int64) * o_batch_stride + (channel % H).to(tl.int64) * o_channel_stride
    to = o + i[:, None].to(tl.int64) * o_row_stride + j[None, :]
    tl.store(to, total.to(o.dtype.element_ty), mask=(i < N)[:, None] & (j < N)[None, :])
