"""A CPU spec as readable PyTorch: ``prepare`` the weights, ``project``, ``product``, ``output``, and ``trimul`` over them.

The weights are prepared at every call, since a caller may change them in place between calls.
"""

from __future__ import annotations

from typing import Any

from . import compile_cpp
from .cpu_formats import SPLIT, SPLIT_TEXT, cast_to, dtype

PROJECTIONS = ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")
MOVED_TEXT = '''def moved(values):
    """values [B, I, K, H] as [B, H, I, K]: copied a matrix at a time, for which PyTorch has its fastest transposition."""
    batch, i, k, h = values.shape
    out = values.new_empty(batch, h, i, k)
    for to, rows in zip(out.flatten(2), values.flatten(1, 2)):
        to.copy_(rows.contiguous().t())
    return out


'''


class _Lines:
    """Source text under construction: an indent and a list of lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.indent = 0

    def __call__(self, *lines: str) -> None:
        self.lines += ["    " * self.indent + line if line else "" for line in lines]

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def compile_spec(spec: dict[str, Any]) -> str:
    """The Python module that ``spec`` (of ``solution.SPACE``) stands for; it defines ``trimul`` and runs by itself."""
    if spec["passes"] != "torch":
        return compile_cpp.compile_spec(spec)
    out = _Lines()
    tricks = [f"projections {spec['projections']}", f"channels {spec['layout']}", f"product by {spec['product']}"]
    tricks += [f"{spec['rows']} rows at a time"] if spec["rows"] else []
    tricks += [f"{spec['format']}, product in {spec['product_format']}, output in {spec['output_format']}"] + [
        "gates compiled"
    ] * (spec["gate"] == "compiled")
    out(f'"""The triangular multiplicative update on a CPU: {"; ".join(tricks)}."""', "")
    out("import torch", "import torch.nn.functional as F", "", f"EPS = {1e-5}", "", "")
    if {spec["format"], spec["output_format"]} & set(SPLIT):
        out(*SPLIT_TEXT.splitlines())
    if spec["layout"] == "moved" or (spec["layout"] == "last" and spec["product"] == "matmul"):
        out(*MOVED_TEXT.splitlines())
    _prepare(out, spec)
    _project(out, spec)
    _product(out, spec)
    _output(out, spec)
    _trimul(out, spec)
    return out.text()


def _prepare(out: _Lines, spec: dict[str, Any]) -> None:
    """Joined and cast copies of the weights."""
    out("def prepare(weights):", '    """The weights as the products want them: joined, and in the products\' number format."""')
    out.indent += 1
    out("w = dict(weights)")
    if spec["projections"] == "joined":
        out(f"w['joined'] = torch.cat([w[name] for name in {PROJECTIONS}])".replace("'", '"'))
    elif spec["projections"] == "sides":
        out('w["left"] = torch.cat([w["left_proj"], w["left_gate"]])')
        out('w["right"] = torch.cat([w["right_proj"], w["right_gate"]])')
    if spec["format"] != "float32":
        out(f"for name in {_products(spec)}:".replace("'", '"'))
        out(f"    w[name] = {cast_to('w[name]', spec['format'], True)}")
    if spec["output_format"] != "float32":
        out('w["to_out"] = ' + cast_to('w["to_out"]', spec["output_format"], True))
    out("return w", "", "")
    out.indent -= 1


def _products(spec: dict[str, Any]) -> tuple[str, ...]:
    """Names of the weights that the projections multiply by."""
    return {"joined": ("joined",), "sides": ("left", "right", "out_gate"), "separate": PROJECTIONS}[spec["projections"]]


def _project(out: _Lines, spec: dict[str, Any]) -> None:
    """LayerNorm of x, projections, gates, mask."""
    first = spec["layout"] == "first"
    shape = "[B, I, K, H]" if spec["layout"] == "last" else "[B, H, I, K]"
    axis = "1" if first else "-1"
    if first:
        out("def linear(columns, weight):", '    """weight [O, C] times every column of columns [B, C, I, K]: [B, O, I, K]."""')
        out("    rows = torch.bmm(weight.expand(len(columns), -1, -1), columns.flatten(2))")
        out("    return rows.unflatten(2, columns.shape[2:])", "", "")
    compiled = spec["gate"] == "compiled"
    if compiled:
        out("@torch.compile(dynamic=True)", "def gated(values, gates, mask):")
        out('    """values sigmoid(gates) mask, in one pass."""')
        out(f"    return (values.float() * torch.sigmoid(gates.float()) * mask).to(torch.{spec['product_format']})", "", "")
    out("def project(x, mask, w):")
    out.indent += 1
    gate_shape = "[B, H, I, K]" if first else "[B, I, K, H]"
    out(f'"""left and right {shape} and the output\'s gate {gate_shape} of the rows x [B, I, K, C] with mask [B, I, K]."""')
    out('x = F.layer_norm(x, x.shape[-1:], w["norm.weight"], w["norm.bias"], EPS)')
    if spec["format"] != "float32":
        out(f"x = {cast_to('x', spec['format'])}")
    if first:
        out("x = x.permute(0, 3, 1, 2)")
    sigmoid = "sigmoid_()" if spec["in_place"] else "sigmoid()"
    cast = f".to(torch.{spec['product_format']})" if spec["product_format"] != dtype(spec["format"]) else ""

    def linear(name: str) -> str:
        return f'{"" if first else "F."}linear(x, w["{name}"])'

    def part(start: str, stop: str) -> str:
        return f"p[:, {start}:{stop}]" if first else f"p[..., {start}:{stop}]"

    def gated(name: str, values: str, gates: str) -> None:
        if compiled:
            out(f"{name} = gated({values}, {gates}, {'mask[:, None]' if first else 'mask[..., None]'})")
        elif spec["in_place"]:
            out(f"{name} = {values}{cast}.mul_({gates}{cast}.{sigmoid})")
        else:
            out(f"{name} = {values}{cast} * {gates}{cast}.{sigmoid}")

    if spec["projections"] == "joined":
        out('h = w["left_proj"].shape[0]', f"p = {linear('joined')}")
        if spec["gate"] == "glu":
            out(f"sides = F.glu({part('', '4 * h')}{cast}, {axis})")
        else:
            gated("sides", part("", "2 * h"), part("2 * h", "4 * h"))
        out(f"gate = {part('4 * h', '')}.{sigmoid}")
        _mask(out, spec, ("sides",))
        if spec["layout"] != "moved":
            out(f"left, right = sides.split(h, {axis})")
    else:
        if spec["projections"] == "sides" and spec["gate"] != "glu":
            out('h = w["left_proj"].shape[0]')
        for side in ("left", "right"):
            if spec["projections"] == "separate":
                out(f"values, gates = {linear(f'{side}_proj')}, {linear(f'{side}_gate')}")
                gated(side, "values", "gates")
            elif spec["gate"] == "glu":
                out(f"{side} = F.glu({linear(side)}{cast}, {axis})")
            else:
                out(f"p = {linear(side)}")
                gated(side, part("", "h"), part("h", ""))
        out(f"gate = {linear('out_gate')}.{sigmoid}")
        _mask(out, spec, ("left", "right"))
    if spec["layout"] == "moved":
        if spec["projections"] == "joined":
            out("left, right = moved(sides).split(h, 1)")
        else:
            out("left, right = moved(left), moved(right)")
    out("return left, right, gate", "", "")
    out.indent -= 1


def _mask(out: _Lines, spec: dict[str, Any], names: tuple[str, ...]) -> None:
    """Multiply ``names`` by the mask."""
    if spec["gate"] == "compiled":
        return  # done with the gates
    where = "mask[:, None]" if spec["layout"] == "first" else "mask[..., None]"
    cast = "" if spec["product_format"] == "float32" else f".to(torch.{spec['product_format']})"
    indent = "    " if spec["mask"] == "needed" else ""
    if indent:
        out("if not bool((mask == 1).all()):")
    for name in names:
        out(indent + (f"{name}.mul_({where}{cast})" if spec["in_place"] else f"{name} = {name} * {where}{cast}"))


def _product(out: _Lines, spec: dict[str, Any]) -> None:
    """o from left and right."""
    last = spec["layout"] == "last"
    out("def product(left, right):")
    out(f'    """o {"[B, I, J, H]" if last else "[B, H, I, J]"}: the sum over k of left[i, k] right[j, k], for every channel."""')
    if spec["product"] == "einsum":
        out(f'    return torch.einsum("{"bikh,bjkh->bijh" if last else "bhik,bhjk->bhij"}", left, right)')
    elif last:
        out("    return torch.matmul(moved(left), moved(right).mT).permute(0, 2, 3, 1)")
    else:
        out("    return torch.matmul(left, right.mT)")
    out("", "")


def _output(out: _Lines, spec: dict[str, Any]) -> None:
    """LayerNorm of o, gate, output product."""
    shape = "[B, I, J, H]" if spec["layout"] == "last" else "[B, H, I, J]"
    gate_last = spec["layout"] != "first"
    low = spec["output_format"] != "float32"
    out("def output(o, gate, w):")
    out.indent += 1
    out(f'"""y [B, I, J, C] float32 of the rows o {shape}."""')
    stepwise_first = spec["out_norm"] == "stepwise" and not gate_last
    if spec["layout"] != "last" and not stepwise_first:
        out("o = o.permute(0, 2, 3, 1)")
    if not gate_last and not stepwise_first:
        out("gate = gate.permute(0, 2, 3, 1)")
    scale, shift = 'w["to_out_norm.weight"]', 'w["to_out_norm.bias"]'
    if spec["product_format"] != "float32":
        out("o = o.float()")
    if spec["out_norm"] == "layer_norm":
        out(f"o = F.layer_norm(o, o.shape[-1:], {scale}, {shift}, EPS)")
    else:
        axis, across = ("1", "[:, None, None]") if stepwise_first else ("-1", "")
        out(f"variance, mean = torch.var_mean(o, {axis}, correction=0, keepdim=True)")
        if spec["in_place"]:
            out("o = (o - mean).mul_(torch.rsqrt(variance + EPS))")
            out(f"o.mul_({scale}{across}).add_({shift}{across})")
        else:
            out(f"o = (o - mean) * torch.rsqrt(variance + EPS) * {scale}{across} + {shift}{across}")
    out("o = o.mul_(gate)" if spec["in_place"] else "o = o * gate")
    if stepwise_first:
        out("y_shape, o = o.shape[2:], o.flatten(2).mT")
    if low:
        out(f"o = {cast_to('o', spec['output_format'])}")
    back = ".float()" if low else ""
    if stepwise_first:
        out(f'y = torch.matmul(o, w["to_out"].mT){back}', "return y.unflatten(1, y_shape)")
    else:
        out(f'return F.linear(o, w["to_out"]){back}')
    out("", "")
    out.indent -= 1


def _trimul(out: _Lines, spec: dict[str, Any]) -> None:
    """The entry point, over all rows at once or some at a time."""
    out("@torch.no_grad()", "def trimul(x, mask, weights):", '    """y [B, N, N, C] of x [B, N, N, C] and mask [B, N, N]."""')
    out.indent += 1
    out("w = prepare(weights)")
    if not spec["rows"]:
        out("left, right, gate = project(x, mask, w)", "return output(product(left, right), gate, w)")
        return
    sides_last, gate_last = spec["layout"] == "last", spec["layout"] != "first"
    out("(batch, n), h = x.shape[:2], len(weights['left_proj'])".replace("'", '"'))
    first, last = "(batch, h, n, n)", "(batch, n, n, h)"
    sides, gates = last if sides_last else first, last if gate_last else first
    out(f"left, right = (torch.empty({sides}, dtype=torch.{spec['product_format']}) for _ in range(2))")
    out(f"gate, y = torch.empty({gates}, dtype=torch.{dtype(spec['format'])}), torch.empty_like(x)")
    side = "[:, i]" if sides_last else "[:, :, i]"
    gate = "[:, i]" if gate_last else "[:, :, i]"
    out(f"blocks = [slice(i, i + {spec['rows']}) for i in range(0, n, {spec['rows']})]", "for i in blocks:")
    out(f"    left{side}, right{side}, gate{gate} = project(x[:, i], mask[:, i], w)")
    out("o = product(left, right)", "for i in blocks:")
    out(f"    y[:, i] = output(o{side}, gate{gate}, w)", "return y")
