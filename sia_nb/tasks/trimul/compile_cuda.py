"""A CUDA spec as readable PyTorch and Triton: ``project``, ``product``, ``output``, and ``trimul`` over them.

Each of the three parts is PyTorch or a Triton kernel of ``kernels/``; between them go left, right, gate and o as
views [B, H, I, K] of whatever memory layout the spec names, so that any part of one kind fits any of the other.
The weights are prepared at every call, since a caller may change them in place between calls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

KERNELS = Path(__file__).parent / "kernels"
MAX_CHUNK = 128  # channels of x that one product takes at a time; a power of two, as Triton's tiles are

HEAD = '''"""The triangular multiplicative update on a GPU: {title}."""

import torch
import torch.nn.functional as F
'''

TRITON_HEAD = """
import triton
import triton.language as tl
{imports}
DTYPE = tl.constexpr(tl.{format})
PRECISION = tl.constexpr("{precision}")
"""

EAGER_PROJECT = {
    "separate": '''
def project(x, mask, w):
    """left, right and the output's gate as [B, H, I, K]; x [B, N, N, C]."""
    x = F.layer_norm(x, x.shape[-1:], w["norm.weight"], w["norm.bias"], EPS){to}
    mask = mask[..., None]{to}
    left = F.linear(x, w["left_proj"]{to}) * mask * torch.sigmoid(F.linear(x, w["left_gate"]{to}))
    right = F.linear(x, w["right_proj"]{to}) * mask * torch.sigmoid(F.linear(x, w["right_gate"]{to}))
    gate = torch.sigmoid(F.linear(x, w["out_gate"]{to}))
    return left.permute(0, 3, 1, 2).contiguous(), right.permute(0, 3, 1, 2).contiguous(), gate.permute(0, 3, 1, 2)
''',
    "joined": '''
def project(x, mask, w):
    """left, right and the output's gate as [B, H, I, K]; x [B, N, N, C]."""
    h = len(w["left_proj"])
    joined = torch.cat([w[name] for name in ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")]){to}
    x = F.layer_norm(x, x.shape[-1:], w["norm.weight"], w["norm.bias"], EPS){to}
    p = F.linear(x, joined)
    sides = F.glu(p[..., : 4 * h], -1) * mask[..., None]{to}
    left, right = sides.permute(0, 3, 1, 2).contiguous().split(h, 1)
    return left, right, p[..., 4 * h :].sigmoid().permute(0, 3, 1, 2)
''',
}

EAGER_OUTPUT = '''
def output(o, gate, w):
    """y [B, N, N, C] float32 of o and gate [B, H, N, N]."""
    o = F.layer_norm(o.permute(0, 2, 3, 1).float(), o.shape[1:2], w["to_out_norm.weight"], w["to_out_norm.bias"], EPS)
    o = (o * gate.permute(0, 2, 3, 1)){to}
    return F.linear(o, w["to_out"]{to}){back}
'''

LAUNCH = {
    "jit": '''
def launch(kernel, grid, key, *args, **options):
    """Launch ``kernel``, compiled for these arguments at the first call."""
    kernel[grid](*args, **options)


def memory(key, *shape, like):
    """Uninitialised memory of the products' number format."""
    return torch.empty(shape, dtype=torch.{format}, device=like.device)
''',
    "direct": '''
PLANS, KEPT = {{}}, {{}}


def launch(kernel, grid, key, *args, **options):
    """Launch ``kernel``; after the first call of a key, through what was compiled for it, past the JIT's look-ups.

    ``key`` holds all that the JIT compiles for: shapes, device, and that every pointer is aligned to 16 bytes. None where
    one is not: then the JIT decides.
    """
    plan = PLANS.get((kernel, key)) if key else None
    if plan is None:
        plan = kernel[grid](*args, **options)
        if key and plan is not None:  # None from Triton's interpreter, which compiles nothing
            PLANS[kernel, key] = plan
        return
    stream = torch._C._cuda_getCurrentRawStream(key[-1])
    plan.run(*grid, stream, plan.function, plan.packed_metadata, None, None, None, *args)


def memory(key, *shape, like):
    """Uninitialised memory of the products' number format, kept for the next call of this shape; never a result's."""
    kept = KEPT.get((key, shape, like.device))
    if kept is None:
        kept = KEPT[key, shape, like.device] = torch.empty(shape, dtype=torch.{format}, device=like.device)
    return kept
''',
}

PREPARE = '''
def prepare(w, key):
    """The five projections as one matrix and the output's, both in the products' number format and padded with zeros."""
    h, c = w["left_proj"].shape
    channels = padded_channels(c)
    joined = memory("joined", -(-(4 * h + 2 * ((h + 1) // 2)) // 256) * 256, channels, like=w["to_out"])
    last = memory("last", -(-c // 128) * 128, max(16, triton.next_power_of_2(h)), like=w["to_out"])
    block = 64
    grid = ((len(joined) + len(last)) // 16, -(-max(joined.shape[1], last.shape[1]) // block), 1)
    launch(
        prepare_kernel, grid, key, w["left_proj"], w["left_gate"], w["right_proj"], w["right_gate"], w["out_gate"], w["to_out"],
        joined, last, c, h, len(joined), channels, last.shape[1], 16, block, {right}, num_warps=4,
    )  # fmt: skip
    return joined, last


def padded_channels(c):
    """Channels of x, filled up to whole chunks of at most {chunk}."""
    return -(-c // {chunk}) * {chunk} if c > {chunk} else max(16, triton.next_power_of_2(c))
'''

SIDES = {
    "rows": '''
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
''',
    "maps": '''
def sides_memory(x, h):
    """Memory of left and right [2, B, H, N, N] and of the gate [B, H, N, N]: a map of its own for every channel."""
    b, n = x.shape[:2]
    return memory("sides", 2, b, h, n, n, like=x), memory("gate", b, h, n, n, like=x)


def views(sides, gate):
    """left, right and gate as [B, H, I, K]."""
    return sides[0], sides[1], gate


def strides(b, h, n):
    """Strides of row, batch, side and channel in left and right, then of row and batch in the gate."""
    return n, h * n * n, b * h * n * n, n * n, n, h * n * n
''',
}

TILE_STORES = {
    "jit": '''
def tile_stores(sides, gate, rows, pairs):
    """Descriptors by which whole tiles [channels, k] of left and right, and of the gate, are stored."""
    n = gate.shape[-1]
    return [TensorDescriptor(t, [t.numel() // n, n], [n, 1], [pairs, rows]) for t in (sides, gate)]
''',
    "direct": '''
TILES = {}


def tile_stores(sides, gate, rows, pairs):
    """Descriptors by which whole tiles [channels, k] of left and right, and of the gate, are stored; kept as the memory is."""
    n = gate.shape[-1]
    key = (sides.data_ptr(), gate.data_ptr(), n, rows, pairs)
    if key not in TILES:
        TILES[key] = [TensorDescriptor(t, [t.numel() // n, n], [n, 1], [pairs, rows]) for t in (sides, gate)]
    return TILES[key]
''',
}

PROJECT = '''
def project(x, mask, w, joined, key):
    """left, right and the output's gate as [B, H, I, K]; x [B, N, N, C]."""
    (b, n, _, c), (h, _) = x.shape, w["left_proj"].shape
    channels = padded_channels(c)
    sides, gate = sides_memory(x, h)
    rows, pairs, warps, stages = {wide} if c > 128 else {narrow}
{tiles}{norm}    return views(sides, gate)
'''

TILES_ON = """    tiles = n % 8 == 0 and h % pairs == 0
    side_tiles, gate_tiles = tile_stores(sides, gate, rows, pairs) if tiles else (None, None)
"""
TILES_OFF = "    tiles, side_tiles, gate_tiles = False, None, None\n"

FUSED = """    launch(
        project_kernel, (-(-n // rows), n, b), key, x, mask, w["norm.weight"], w["norm.bias"], joined, sides, gate,
        side_tiles, gate_tiles, n, b, *strides(b, h, n), c, h, EPS, used_rows(h, pairs), channels, min(channels, {chunk}),
        rows, pairs, stages, tiles, {right}, num_warps=warps,
    )  # fmt: skip
"""
NORMED = """    normed = memory("normed", b, n, n, channels, like=x)
    total, power = b * n * n, triton.next_power_of_2(channels)
    block = max(1, 4096 // power)
    launch(
        normalise_kernel, (-(-total // block), 1, 1), key, x, w["norm.weight"], w["norm.bias"], normed, total, c, EPS,
        channels, power, block, num_warps=4,
    )  # fmt: skip
    launch(
        project_normed_kernel, (-(-n // rows) * (used_rows(h, pairs) // (2 * pairs)), n, b), key, normed, mask, joined, sides,
        gate, side_tiles, gate_tiles, n, b, *strides(b, h, n), h, used_rows(h, pairs), channels, min(channels, 64),
        rows, pairs, stages, tiles, {right}, num_warps=warps,
    )  # fmt: skip
"""
USED_ROWS = '''
def used_rows(h, pairs):
    """Rows of the joined weights that hold something, in whole steps of 2 pairs."""
    return -(-(4 * h + 2 * ((h + 1) // 2)) // (2 * pairs)) * 2 * pairs
'''

CUBLAS = '''
def product(left, right, key):
    """o [B, H, I, J]: for every channel, the sum over k of left[i, k] right[j, k]."""
    o = {o}
    torch.bmm(left.flatten(0, 1), right.flatten(0, 1).mT, out=o.flatten(0, 1))
    return o
'''
TRITON_PRODUCT = '''
def product(left, right, key):
    """o [B, H, I, J]: for every channel, the sum over k of left[i, k] right[j, k]."""
    o = {o}
    b, h, n, _ = left.shape
    (batch, channel, row, _), (o_batch, o_channel, o_row, _) = left.stride(), o.stride()
    grid = (-(-n // {rows}) * -(-n // {columns}), b * h, 1)
    launch(
        product_kernel, grid, key, left, right, o, row, batch, channel, o_row, o_batch, o_channel, n, h,
        {rows}, {columns}, {depth}, {stages}, 8, num_warps={warps},
    )  # fmt: skip
    return o
'''
O_MEMORY = {
    "rows": 'memory("o", left.shape[2], *left.shape[:2], left.shape[2], like=left).permute(1, 2, 0, 3)',
    "maps": 'memory("o", *left.shape, like=left)',
}

OUTPUT = '''
def output(o, gate, w, last, key):
    """y [B, N, N, C] float32 of o and gate [B, H, N, N]."""
    b, h, n, _ = o.shape
    c = len(w["to_out"])
    y = torch.empty(b, n, n, c, device=o.device)
    (batch, channel, row, _), (g_batch, g_channel, g_row, g_column) = o.stride(), gate.stride()
    rows, columns, warps, stages = {tile}
    launch(
        output_kernel, (-(-n // rows), n, b), key, o, gate, w["to_out_norm.weight"], w["to_out_norm.bias"], last, y, n,
        row, batch, channel, g_row, g_batch, g_channel, g_column, c, h, last.shape[1], EPS, rows, columns, stages, num_warps=warps,
    )  # fmt: skip
    return y
'''


def kernel_source(name: str) -> str:
    """The functions of one kernel file, without its imports."""
    text = (KERNELS / f"{name}.py").read_text()
    return "\n" + text[text.index("@triton.jit") :]


def compile_spec(spec: dict[str, Any]) -> str:
    """The Python module that ``spec`` (of ``solution.SPACE_CUDA``) stands for; it defines ``trimul`` and runs by itself."""
    dtype = {"tf32": "float32"}.get(spec["format"], spec["format"])
    fields = {"format": dtype, "precision": "ieee" if spec["format"] == "float32" else "tf32", "chunk": MAX_CHUNK}
    fields["to"] = "" if dtype == "float32" else f".to(torch.{dtype})"
    fields["right"] = {"left": "False", "right": "True", "wide": "c > 128"}[spec["operand"]]
    fields["back"] = "" if dtype == "float32" else ".float()"
    own_project, own_product, own_output = (spec[part] == "triton" for part in ("project", "product", "output"))
    layout = "rows" if own_project and spec["layout"] != "maps" else "maps"
    tiles = own_project and spec["layout"] == "tiles"
    any_kernel = own_project or own_product or own_output
    parts = [HEAD.format(title=_title(spec))]
    if any_kernel:
        imports = "from triton.tools.tensor_descriptor import TensorDescriptor\n" if tiles else ""
        parts.append(TRITON_HEAD.format(imports=imports, **fields).lstrip("\n"))
    parts.append("EPS = 1e-5\n" + ("torch._dynamo.config.recompile_limit = 64\n" if spec["compiled"] else ""))
    if own_project or own_output:
        parts.append(kernel_source("prepare"))
    if own_project:
        gates = kernel_source("gates").split("\n\n\n")
        parts.append(next(g for g in gates if f"sigmoid_{spec['sigmoid']}" in g).replace(f"sigmoid_{spec['sigmoid']}", "sigmoid"))
        parts.append(kernel_source("finish"))
        if spec["norm"] != "fused":
            parts += [kernel_source("normalise"), kernel_source("project_normed")]
        if spec["norm"] != "separate":
            parts.append(kernel_source("project"))
    parts += [kernel_source("product")] if own_product else []
    parts += [kernel_source("output")] if own_output else []
    parts.append(LAUNCH[spec["launch"]].format(**fields))
    if own_project or own_output:
        parts.append(PREPARE.format(**fields))
    parts.append(_project(spec, fields, layout, tiles))
    o = O_MEMORY[layout]
    if own_product:
        rows, columns = map(int, spec["product_tile"].split("x"))
        parts.append(
            TRITON_PRODUCT.format(
                o=o,
                rows=rows,
                columns=columns,
                depth=64 if dtype != "float32" else 32,
                stages=spec["product_stages"],
                warps=8 if rows * columns > 128 * 64 else 4,
            )  # fmt: skip
        )
    else:
        parts.append(CUBLAS.format(o=o))
    if own_output:
        tile = (spec["output_rows"], spec["output_columns"], spec["output_warps"], spec["output_stages"])
        parts.append(OUTPUT.format(tile=tile))
    else:
        parts.append(EAGER_OUTPUT.format(**fields))
    if spec["compiled"]:
        for part, own in (("project", own_project), ("output", own_output)):
            parts += [] if own else [f"{part} = torch.compile({part})\n"]
    parts.append(_trimul(spec, own_project, own_output))
    return _spaced("\n".join(parts))


def _title(spec: dict[str, Any]) -> str:
    """One line on what the program does."""
    project = f"Triton, norm {spec['norm'].replace('_', ' ')}" if spec["project"] == "triton" else spec["project"]
    compiled = ", compiled" if spec["compiled"] else ""
    return f"{spec['format']}; projections {project}; product {spec['product']}; output {spec['output']}{compiled}"


def _project(spec: dict[str, Any], fields: dict[str, Any], layout: str, tiles: bool) -> str:
    """The functions of the first part."""
    if spec["project"] != "triton":
        return EAGER_PROJECT[spec["project"]].format(**fields)
    fused, normed = FUSED.format(**fields), NORMED.format(**fields)
    if spec["norm"] == "wide":
        indent = lambda text: "".join("    " + line + "\n" for line in text.splitlines())
        body = "    if c > 128:\n" + indent(normed) + "    else:\n" + indent(fused)
    else:
        body = fused if spec["norm"] == "fused" else normed
    shapes = {
        kind: (spec[f"{kind}_rows"], spec[f"{kind}_pairs"], spec[f"{kind}_warps"], spec[f"{kind}_stages"])
        for kind in ("narrow", "wide")
    }
    head = SIDES[layout] + USED_ROWS + (TILE_STORES[spec["launch"]] if tiles else "")
    return head + PROJECT.format(tiles=TILES_ON if tiles else TILES_OFF, norm=body, **shapes)


def _trimul(spec: dict[str, Any], own_project: bool, own_output: bool) -> str:
    """The entry point."""
    out = ["\n@torch.no_grad()", "def trimul(x, mask, weights):"]
    out.append('    """y [B, N, N, C] of x [B, N, N, C] and mask [B, N, N]."""')
    if spec["launch"] == "direct":
        out += [
            "    pointers = (x, mask, *weights.values())",
            "    aligned = not any(t.data_ptr() % 16 for t in pointers)",
            '    key = (*x.shape, len(weights["left_proj"]), x.get_device()) if aligned else None',
        ]
    else:
        out.append("    key = None")
    body = []
    if own_project or own_output:
        body.append("joined, last = prepare(weights, key)")
    body.append(f"left, right, gate = project(x, mask, weights{', joined, key' if own_project else ''})")
    body.append("o = product(left, right, key)")
    body.append(f"return output(o, gate, weights{', last, key' if own_output else ''})")
    if spec["format"] == "tf32":
        out += ["    kept = torch.backends.cuda.matmul.allow_tf32", "    torch.backends.cuda.matmul.allow_tf32 = True"]
        out += ["    try:", *("        " + line for line in body)]
        out += ["    finally:", "        torch.backends.cuda.matmul.allow_tf32 = kept"]
    else:
        out += ["    " + line for line in body]
    return "\n".join(out) + "\n"


def _spaced(text: str) -> str:
    """Two blank lines before each top-level definition, and no more anywhere."""
    out: list[str] = []
    for line in text.splitlines():
        starts = line.startswith(("def ", "@", "class "))
        if starts and not (out and out[-1].startswith("@")):
            while out and not out[-1]:
                out.pop()
            out += ["", ""]
        if line or (out and out[-1]):
            out.append(line)
    return "\n".join(out).strip() + "\n"
