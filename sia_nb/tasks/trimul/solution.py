"""The spaces of TriMul solutions, one for each kind of device; and a solution's text read and checked.

A solution is a typed spec (compiled by ``compile_cpu`` or ``compile_cuda``) or free Python that defines
``trimul(x, mask, weights)``. Imports no torch, so that prompts and grammars can be made without it.

Symbols: x [B, N, N, C] float32, mask [B, N, N], H hidden channels; left, right [b, i, k, h]; o[b, i, j, h] =
sum over k of left[b, i, k, h] right[b, j, k, h].
"""

from __future__ import annotations

import ast
from typing import Any

from ...errors import InvalidSolution
from ..base import Solution
from ..space import Field, Space

ENTRY = "trimul"
ARGUMENTS = ("x", "mask", "weights")
MAX_BYTES = 200_000

SPACE = Space(
    [
        Field(
            "passes",
            ("torch", "cpp", "fused", "whole"),
            "norms, gates, mask: PyTorch's; own C++, one pass each; its passes with the products in bfloat16 tiles inside: "
            "then only product and formats matter, and all but bfloat16 and x2 mean x3; or so with the product over k too, "
            "always x3, in one call",
            kind="structure",
        ),
        Field(
            "projections",
            ("separate", "sides", "joined"),
            "five products, one a side and the gate's, or one of all five",
            kind="structure",
        ),
        Field(
            "layout",
            ("last", "moved", "first"),
            "channels last; moved first when stored; or first from the product on",
            kind="structure",
        ),
        Field("product", ("einsum", "matmul"), "how o is summed over k", kind="structure"),
        Field(
            "gate",
            ("sigmoid", "glu", "compiled"),
            "sides' gates: two operations, one (for joined products), or one with the mask by torch.compile, which takes long",
            kind="structure",
        ),
        Field("mask", ("always", "needed"), "multiply by the mask always, or only where it is not all ones", kind="structure"),
        Field("in_place", (False, True), "gates and mask overwrite the projections", kind="structure"),
        Field("rows", (0, 4, 8, 16, 32, 64), "rows i at a time through projections and output, to stay in cache; 0: all", True),
        Field(
            "out_norm",
            ("layer_norm", "stepwise"),
            "norm of o: one operation with channels last, or mean and variance",
            kind="structure",
        ),
        Field(
            "format",
            ("float32", "bfloat16", "float16", "bfloat16x2", "bfloat16x3"),
            "number format of the projections; bfloat16 uses up most of the tolerance, x2 and x3 sum so many such products",
        ),
        Field("product_format", ("float32", "float16"), "number format of left, right and o"),
        Field(
            "output_format",
            ("float32", "float16", "bfloat16x2", "bfloat16x3"),
            "number format of the output's product; bfloat16 would miss the tolerance",
        ),
    ]
)

FALLBACK = {
    "passes": "torch",
    "projections": "separate",
    "layout": "last",
    "product": "einsum",
    "gate": "sigmoid",
    "mask": "always",
    "in_place": False,
    "rows": 0,
    "out_norm": "layer_norm",
    "format": "float32",
    "product_format": "float32",
    "output_format": "float32",
}

SPACE_CUDA = Space(
    [
        Field("format", ("float32", "tf32", "float16"), "number format of products and of what is kept between them"),
        Field(
            "project",
            ("separate", "joined", "triton"),
            "norm, projections, gates, mask: five products, one, or own kernels",
            kind="structure",
        ),
        Field(
            "norm",
            ("fused", "separate", "wide"),
            "own kernel of the first norm: none, always, or only for C > 128",
            kind="structure",
        ),
        Field(
            "operand",
            ("left", "right", "wide"),
            "x is its products' left operand, from registers, or right, from shared memory, or right only for C > 128",
            kind="structure",
        ),
        Field(
            "layout",
            ("maps", "rows", "tiles"),
            "left, right as [B, H, i, k], as [i, B, H, k], or that by hardware tile stores",
            kind="structure",
        ),
        Field(
            "loads",
            ("pointers", "tiles"),
            "operands of the projections by ordinary loads, or by hardware tile loads",
            kind="structure",
        ),
        Field(
            "sigmoid",
            ("exp", "tanh", "halved"),
            "the gates' sigmoid by exponential or by the hardware's tanh, or that with the halving of its argument in the weights",
            kind="structure",
        ),
        Field("narrow_rows", (32, 64, 128), "rows of x in one tile where C <= 128", True),
        Field("narrow_pairs", (16, 32, 64, 128), "pairs of projection and gate in one tile", True),
        Field("narrow_warps", (4, 8), "warps of a tile", True),
        Field("narrow_stages", (1, 2, 3, 4), "tiles of weights in flight", True),
        Field("narrow_chunk", (32, 64, 128), "channels of x that one step of the product takes", True),
        Field("narrow_resident", (0, 2, 3, 4), "registers for so many programs on a multiprocessor; 0: free", True),
        Field("wide_rows", (32, 64, 128, 256), "the same four where C > 128", True),
        Field("wide_pairs", (16, 32, 64, 128), "pairs", True),
        Field("wide_warps", (4, 8, 16), "warps", True),
        Field("wide_stages", (1, 2, 3, 4), "stages", True),
        Field(
            "wide_program",
            ("tile", "rows", "norm"),
            "where the norm is apart and C > 128, a program does one tile, all tiles of its rows, or their norm as well",
            kind="structure",
        ),
        Field(
            "wide_resident", (0, 1, 2, 3, 4), "programs on each multiprocessor, which walk over the rows; 0: one for each", True
        ),
        Field("product", ("cublas", "triton"), "the batched product over k", kind="structure"),
        Field("product_tile", ("64x64", "128x64", "128x128", "128x256"), "tile of o in an own product", True),
        Field("product_stages", (2, 3, 4), "tiles in flight in an own product", True),
        Field("output", ("torch", "triton"), "norm of o, gate and output product: PyTorch or one own kernel", kind="structure"),
        Field("output_rows", (16, 32, 64, 128), "rows of o in one tile", True),
        Field("output_columns", (32, 64, 128), "channels of y in one step", True),
        Field("output_warps", (4, 8), "warps of a tile", True),
        Field("output_stages", (1, 2, 3), "tiles of weights in flight", True),
        Field("compiled", (False, True), "the PyTorch parts through torch.compile", kind="structure"),
        Field(
            "launch",
            ("jit", "direct", "ahead"),
            "launch own kernels through Triton's JIT, or past it with memory kept between calls, or that with each begun before "
            "the one before it has ended (Hopper on)",
            kind="structure",
        ),
    ]
)

FALLBACK_CUDA = {
    "format": "float32",
    "project": "separate",
    "norm": "separate",
    "operand": "left",
    "layout": "maps",
    "loads": "pointers",
    "sigmoid": "exp",
    "narrow_rows": 64,
    "narrow_pairs": 32,
    "narrow_warps": 4,
    "narrow_stages": 2,
    "narrow_chunk": 128,
    "narrow_resident": 0,
    "wide_rows": 64,
    "wide_pairs": 32,
    "wide_warps": 4,
    "wide_stages": 2,
    "wide_program": "tile",
    "wide_resident": 0,
    "product": "cublas",
    "product_tile": "128x128",
    "product_stages": 3,
    "output": "torch",
    "output_rows": 64,
    "output_columns": 64,
    "output_warps": 4,
    "output_stages": 2,
    "compiled": False,
    "launch": "jit",
}

SPACES = {"cpu": SPACE, "cuda": SPACE_CUDA}
FALLBACKS = {"cpu": FALLBACK, "cuda": FALLBACK_CUDA}


def device_of(spec: dict[str, Any]) -> str:
    """The kind of device whose space has exactly the fields of ``spec``: cpu or cuda.

    Raises:
        InvalidSolution: kind ``unknown_field``: neither has.
    """
    for device, space in SPACES.items():
        if set(spec) == set(space.names):
            return device
    raise InvalidSolution("unknown_field", f"fields {', '.join(spec)} are those of no space ({', '.join(SPACES)})")


def parse(text: str, device: str = "cpu") -> Solution:
    """The solution in ``text``: Python where a line starts with ``def``, ``import``, ``from`` or ``@``, else a spec for ``device``.

    Raises:
        InvalidSolution: unparsable, unknown_field, missing_field, bad_value, syntax or no_entry.
    """
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise InvalidSolution("unparsable", f"longer than {MAX_BYTES} bytes")
    if any(line.startswith(("def ", "import ", "from ", "@")) for line in text.splitlines()):
        return Solution("code", check_code(text))
    space = SPACES[device]
    return Solution("spec", space.dump(space.parse(text.strip())))


def check_code(text: str) -> str:
    """Free Python, its syntax and entry checked without running it; lines without trailing space."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise InvalidSolution("syntax", f"{getattr(error, 'msg', error)}{f' in line {line}' if line else ''}") from None
    signature = f"{ENTRY}({', '.join(ARGUMENTS)})"
    entries = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == ENTRY]
    if not entries:
        raise InvalidSolution("no_entry", f"no function '{signature}' at the top level")
    given = entries[-1].args
    required = len(given.posonlyargs + given.args) - len(given.defaults)
    most = len(given.posonlyargs + given.args)
    if not (required <= len(ARGUMENTS) <= most or (given.vararg and required <= len(ARGUMENTS))):
        raise InvalidSolution("no_entry", f"'{ENTRY}' must take {len(ARGUMENTS)} arguments: {', '.join(ARGUMENTS)}")
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def compile_solution(solution: Solution) -> str:
    """The readable Python that ``solution`` runs as; it defines ``trimul(x, mask, weights)`` and runs by itself."""
    if solution.dialect == "code":
        return solution.text
    from json import loads

    from . import compile_cpu, compile_cuda

    spec = loads(solution.text)
    return {"cpu": compile_cpu, "cuda": compile_cuda}[device_of(spec)].compile_spec(spec)
