"""A CPU spec with own C++: norms, gates and mask as one pass over memory each, the products PyTorch's ("cpp"); or with the
projections' and the output's products inside these passes ("fused"), so that nothing but the sides, the output's gate and o
is stored between them; or with the product over k as well, all in one call ("whole").

The C++ stands in ``kernels/*.cpp`` and in the program, which builds it with the machine's g++ when it is loaded, or
finds it built by an earlier one of the same folder of temporary files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .cpu_formats import SPLIT, SPLIT_TEXT, cast_to

KERNELS = Path(__file__).parent / "kernels"
KINDS = {"float32": 0, "bfloat16": 1, **SPLIT}  # of rows that ``normalise`` writes; others are cast from float32
PRODUCT = {"einsum": 'torch.einsum("bhik,bhjk->bhij", left, right)', "matmul": "torch.matmul(left, right.mT)"}

HEAD = '''"""The triangular multiplicative update on a CPU: {format}, product by {product} in {product_format}, output in {output_format}; {rest} in C++."""

import ctypes
import hashlib
import os
import subprocess
import tempfile

import torch
import torch.nn.functional as F

SOURCE = r"""
{source}"""
FLAGS = (
    "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-fopenmp",
    "-shared", "-fPIC",
)  # fmt: skip


def build():
    """SOURCE as a library, built once in a folder of temporary files."""
    name = hashlib.sha256(" ".join((SOURCE, *FLAGS)).encode()).hexdigest()[:16]
    path = os.path.join(tempfile.gettempdir(), "passes_" + name)
    if not os.path.exists(path + ".so"):
        with open(path + ".cpp", "w") as file:
            file.write(SOURCE)
        subprocess.run(["g++", *FLAGS, "-o", path + ".part", path + ".cpp"], check=True)
        os.replace(path + ".part", path + ".so")
    return ctypes.CDLL(path + ".so")


LIBRARY = build()


def run(name, *args):
    """Call a function of the library: tensors by address, numbers as long."""
    call = getattr(LIBRARY, name)
    call(*(ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else ctypes.c_long(a) for a in args))


'''
BODY = '''@torch.no_grad()
def trimul(x, mask, weights):
    """y [B, N, N, C] of x [B, N, N, C] and mask [B, N, N]."""
    x, mask, w = x.contiguous(), mask.contiguous(), {{name: weight.contiguous() for name, weight in weights.items()}}
    (batch, n, _, c), h = x.shape, len(w["left_proj"])
    joined = torch.cat([w[name] for name in ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")])
    rows = torch.empty(batch * n * n, {width}, dtype=torch.{stored})
    run("normalise", x, w["norm.weight"], w["norm.bias"], rows, batch * n * n, c, {kind})
    p = F.linear({rows}, {joined}){wide}
    sides = torch.empty(batch, 2 * h, n, n)
    run("gate", p, mask, sides, batch, n * n, h, {low})
    left, right = sides{to_product}.split(h, 1)
    o = ({product}){from_product}.contiguous()
    rows = torch.empty(batch, n, n, h)
    run("finish", o, p, w["to_out_norm.weight"], w["to_out_norm.bias"], rows, batch, n * n, h, {low})
    return F.linear({out_rows}, {out_weight}){out_wide}
'''
FUSED = '''@torch.no_grad()
def trimul(x, mask, weights):
    """y [B, N, N, C] of x [B, N, N, C] and mask [B, N, N]."""
    x, mask, w = x.contiguous(), mask.contiguous(), {{name: weight.contiguous() for name, weight in weights.items()}}
    (batch, n, _, c), h = x.shape, len(w["left_proj"])
    projections = [w[name] for name in ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")]
    sides, gates = torch.empty(batch, 2 * h, n, n), torch.empty(batch, h, n, n, dtype=torch.int16)
    norm = w["norm.weight"], w["norm.bias"]
    run("project", x, *norm, mask, *projections, sides, gates, batch, n * n, c, h, {products})
    left, right = sides{to_product}.split(h, 1)
    o = ({product}){from_product}.contiguous()
    y, norm = torch.empty_like(x), (w["to_out_norm.weight"], w["to_out_norm.bias"])
    run("output", o, gates, *norm, w["to_out"], y, batch, n * n, h, c, {out_products})
    return y
'''
WHOLE = '''@torch.no_grad()
def trimul(x, mask, weights):
    """y [B, N, N, C] of x [B, N, N, C] and mask [B, N, N]."""
    x, mask, w = x.contiguous(), mask.contiguous(), {{name: weight.contiguous() for name, weight in weights.items()}}
    (batch, n, _, c), h = x.shape, len(w["left_proj"])
    projections = [w[name] for name in ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")]
    norm, out = (w["norm.weight"], w["norm.bias"]), (w["to_out_norm.weight"], w["to_out_norm.bias"], w["to_out"])
    y = torch.empty_like(x)
    run("whole", x, *norm, mask, *projections, *out, y, batch, n, c, h, {products}, {out_products})
    return y
'''
SOURCES = {
    "cpp": ("numbers", "passes"), "fused": ("numbers", "tiles", "fused", "two_passes"), "whole": ("numbers", "tiles", "fused", "whole"),
}  # fmt: skip
PRODUCTS = {"bfloat16": 1, "bfloat16x2": 2}  # of bfloat16 tiles in a fused product; 3 for all formats that are as good


def compile_spec(spec: dict[str, Any]) -> str:
    """The Python module that ``spec`` (of ``solution.SPACE``, its ``passes`` not "torch") stands for."""
    own, out, between = spec["format"], spec["output_format"], spec["product_format"]
    source = "\n".join((KERNELS / f"{n}.cpp").read_text(encoding="utf-8") for n in SOURCES[spec["passes"]])
    products = {"products": PRODUCTS.get(own, 3), "out_products": PRODUCTS.get(out, 3)}  # in fused products
    if spec["passes"] == "whole":
        said = {"product": "tiles", "product_format": "bfloat16x3", "rest": "all of it"}
        return HEAD.format(**{**spec, **said}, source=source) + WHOLE.format(**products)
    fused = spec["passes"] == "fused"
    head = HEAD.format(source=source, rest="all else" if fused else "the rest", **spec)
    product = {
        "to_product": "" if between == "float32" else f".to(torch.{between})",
        "from_product": "" if between == "float32" else ".float()",
        "product": PRODUCT[spec["product"]],
    }
    if fused:
        return head + FUSED.format(**products, **product)
    kind = KINDS.get(own, 0)
    same = lambda value, number_format, weight=False: (
        value if number_format == "float32" else cast_to(value, number_format, weight)
    )
    return (
        head
        + (SPLIT_TEXT if {own, out} & set(SPLIT) else "")
        + BODY.format(
            width=f"{kind} * c" if kind > 1 else "c",
            stored="bfloat16" if kind else "float32",
            kind=kind,
            rows="rows" if own in KINDS else cast_to("rows", own),
            joined=same("joined", own, True),
            wide="" if own in KINDS else ".float()",
            low=int(kind > 0),
            out_rows=same("rows", out),
            out_weight=same('w["to_out"]', out, True),
            out_wide="" if out == "float32" else ".float()",
            **product,
        )
    )
