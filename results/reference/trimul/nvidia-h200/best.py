"""The triangular multiplicative update on a GPU: float16; projections Triton, with the norm where narrow; product cublas; output triton."""

import torch
import torch.nn.functional as F

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

DTYPE = tl.constexpr(tl.float16)
PRECISION = tl.constexpr("tf32")

EPS = 1e-5


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


@triton.jit
def sigmoid(x):
    """The sigmoid of 2 x, likewise."""
    return 0.5 * tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1) + 0.5


@triton.jit
def gated(first, second):
    """2 first times the sigmoid of 2 second: one multiplication with addition after the tangent."""
    return first * tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [second], tl.float32, True, 1) + first


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


WEIGHTS = (
    "norm.weight", "norm.bias", "left_proj", "left_gate", "right_proj", "right_gate", "out_gate",
    "to_out_norm.weight", "to_out_norm.bias", "to_out",
)  # fmt: skip
KEPT, PLANS, NOTED = {}, {}, []


def launch(kernel, grid, *args, **options):
    """Launch ``kernel``, compiled for these arguments at the first call, and note what was launched.

    With launch_pdl a kernel begins once every program of the kernel before has begun, and waits by itself for that kernel's
    end before it touches what another of this call writes. A call's first kernel begins after all that the stream held
    before, so that inputs may be read and kept memory overwritten at once. A wait is for one kernel only: each must have
    waited before it ends, then those before it have ended too.
    """
    NOTED.append((kernel[grid](*args, **options), grid, args))


def memory(name, *shape, like):
    """Uninitialised memory of the products' number format, kept for the next call of this shape; never a result's.

    So that calls of one shape must follow each other, on one stream.
    """
    kept = KEPT.get((name, shape, like.device))
    if kept is None:
        kept = KEPT[name, shape, like.device] = torch.empty(shape, dtype=torch.float16, device=like.device)
    return kept


def plan_of(noted, given, y):
    """The noted launches as steps for ``replay``: their fixed arguments, and the places of those that are given anew."""
    steps = []
    for compiled, grid, args in noted:
        if compiled == "cublas":
            steps.append((None, None, None, args, ()))
            continue
        places = [(place, index) for place, arg in enumerate(args) for index, t in enumerate([*given, y]) if arg is t]
        fixed = [arg.data_ptr() if isinstance(arg, torch.Tensor) else arg for arg in args]
        head = (compiled.function, compiled.packed_metadata, None, None, None)  # no hooks
        steps.append((compiled.run, grid, head, fixed, places))
    return steps


def replay(plan, x, pointers):
    """The launches of an earlier call of this shape on the arguments now given, past the look-ups of Triton's JIT."""
    y = torch.empty_like(x)
    pointers.append(y.data_ptr())
    stream = torch._C._cuda_getCurrentRawStream(x.get_device())
    for run, grid, head, args, places in plan:
        if run is None:
            torch.bmm(args[0], args[1], out=args[2])
            continue
        for place, index in places:
            args[place] = pointers[index]
        run(*grid, stream, *head, *args)
    return y


def prepare(w):
    """The five projections as one matrix and the output's, both in the products' number format and padded with zeros."""
    h, c = w["left_proj"].shape
    channels = padded_channels(c)
    joined = memory("joined", -(-(4 * h + 2 * ((h + 1) // 2)) // 256) * 256, channels, like=w["to_out"])
    last = memory("last", -(-c // 128) * 128, max(16, triton.next_power_of_2(h)), like=w["to_out"])
    block = 64
    grid = ((len(joined) + len(last)) // 16, -(-max(joined.shape[1], last.shape[1]) // block), 1)
    launch(
        prepare_kernel, grid, w["left_proj"], w["left_gate"], w["right_proj"], w["right_gate"], w["out_gate"], w["to_out"],
        joined, last, c, h, len(joined), channels, last.shape[1], 16, block, True, True, num_warps=4,
    )  # fmt: skip
    return joined, last


def padded_channels(c):
    """Channels of x, filled up to whole chunks of at most 128."""
    return -(-c // 128) * 128 if c > 128 else max(16, triton.next_power_of_2(c))


def sides_memory(x, h):
    """Memory of left and right [N, 2, B, H, N] and of the gate [N, B, H, N]: a row i holds all channels."""
    b, n = x.shape[:2]
    return memory("sides", n, 2, b, h, n, like=x), memory("gate", n, b, h, n, like=x)


def views(sides, gate):
    """left, right and gate as [B, H, I, K]."""
    return sides[:, 0].permute(1, 2, 0, 3), sides[:, 1].permute(1, 2, 0, 3), gate.permute(1, 2, 0, 3)


def strides(b, h, n):
    """Strides of row, batch, side and channel in left and right, then of row and batch in the gate."""
    return 2 * b * h * n, h * n, b * h * n, n, b * h * n, h * n


def used_rows(h, pairs):
    """Rows of the joined weights that hold something, in whole steps of 2 pairs."""
    return -(-(4 * h + 2 * ((h + 1) // 2)) // (2 * pairs)) * 2 * pairs


def tile_stores(sides, gate, rows, pairs):
    """Descriptors by which whole tiles [channels, k] of left and right, and of the gate, are stored."""
    n = gate.shape[-1]
    return [TensorDescriptor(t, [t.numel() // n, n], [n, 1], [pairs, rows]) for t in (sides, gate)]


def tile_loads(matrix, rows, columns):
    """The descriptor by which whole tiles of a matrix are loaded."""
    return TensorDescriptor(matrix, list(matrix.shape), [matrix.shape[1], 1], [rows, columns])


def project(x, mask, w, joined):
    """left, right and the output's gate as [B, H, I, K]; x [B, N, N, C]."""
    (b, n, _, c), (h, _) = x.shape, w["left_proj"].shape
    channels = padded_channels(c)
    sides, gate = sides_memory(x, h)
    rows, pairs, warps, stages = (128, 64, 4, 2) if c > 128 else (64, 32, 4, 2)
    tiles = n % 8 == 0 and h % pairs == 0
    side_tiles, gate_tiles = tile_stores(sides, gate, rows, pairs) if tiles else (None, None)
    if c > 128:
        normed = memory("normed", b, n, n, channels, like=x)
        total, power = b * n * n, triton.next_power_of_2(channels)
        block = max(1, 4096 // power)
        launch(
            normalise_kernel, (-(-total // block), 1, 1), x, w["norm.weight"], w["norm.bias"], normed, total, c, EPS,
            channels, power, block, num_warps=4, launch_pdl=True,
        )  # fmt: skip
        chunk = min(channels, 64)
        launch(
            project_normed_kernel, (-(-n // rows) * (used_rows(h, pairs) // (2 * pairs)), n, b), normed, tile_loads(normed.flatten(0, 2), rows, chunk), mask,
            joined, tile_loads(joined, 2 * pairs, chunk), sides, gate, side_tiles, gate_tiles, n, b, *strides(b, h, n), h, used_rows(h, pairs), channels,
            chunk, rows, pairs, stages, tiles, True, True, num_warps=warps, launch_pdl=True,
        )  # fmt: skip
    else:
        chunk = min(channels, 128)
        launch(
            project_kernel, (-(-n // rows), n, b), x, mask, w["norm.weight"], w["norm.bias"], joined, tile_loads(joined, 2 * pairs, chunk), sides, gate,
            side_tiles, gate_tiles, n, b, *strides(b, h, n), c, h, EPS, used_rows(h, pairs), channels, chunk,
            rows, pairs, stages, tiles, True, True, num_warps=warps, maxnreg=168, launch_pdl=True,
        )  # fmt: skip
    return views(sides, gate)


def product(left, right):
    """o [B, H, I, J]: for every channel, the sum over k of left[i, k] right[j, k]."""
    o = memory("o", left.shape[2], *left.shape[:2], left.shape[2], like=left).permute(1, 2, 0, 3)
    factors = left.flatten(0, 1), right.flatten(0, 1).mT, o.flatten(0, 1)
    torch.bmm(factors[0], factors[1], out=factors[2])
    NOTED.append(("cublas", None, factors))
    return o


def output(o, gate, w, last):
    """y [B, N, N, C] float32 of o and gate [B, H, N, N]."""
    b, h, n, _ = o.shape
    c = len(w["to_out"])
    y = torch.empty(b, n, n, c, device=o.device)
    (batch, channel, row, _), (g_batch, g_channel, g_row, g_column) = o.stride(), gate.stride()
    rows, columns, warps, stages = (64, 128, 4, 1)
    launch(
        output_kernel, (-(-n // rows), n, b), o, gate, w["to_out_norm.weight"], w["to_out_norm.bias"], last, y, n,
        row, batch, channel, g_row, g_batch, g_channel, g_column, c, h, last.shape[1], EPS, rows, columns, stages, num_warps=warps, launch_pdl=True,
    )  # fmt: skip
    return y


@torch.no_grad()
def trimul(x, mask, weights):
    """y [B, N, N, C] of x [B, N, N, C] and mask [B, N, N]."""
    given = [t.contiguous() for t in (x, mask, *(weights[name] for name in WEIGHTS))]
    pointers = [t.data_ptr() for t in given]
    plain = len(set(pointers)) == len(pointers) and not any(pointer % 16 for pointer in pointers)
    key = (x.shape, len(weights["left_proj"]), x.get_device())
    if plain and key in PLANS:
        return replay(PLANS[key], given[0], pointers)
    x, mask, *rest = given
    weights = dict(zip(WEIGHTS, rest, strict=True))
    NOTED.clear()
    joined, last = prepare(weights)
    left, right, gate = project(x, mask, weights, joined)
    o = product(left, right)
    y = output(o, gate, weights, last)
    if plain and all(compiled is not None for compiled, _, _ in NOTED):  # None: from Triton's interpreter
        PLANS[key] = plan_of(NOTED, given, y)
    NOTED.clear()
    return y
