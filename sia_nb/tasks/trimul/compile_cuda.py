"""A CUDA spec as readable PyTorch and Triton: ``project``, ``product``, ``output``, and ``trimul`` over them.

Each of the three parts is PyTorch or a Triton kernel of ``kernels/``. The weights are prepared at every call, since a
caller may change them in place between calls. In float16, o must stay below 65,504: at the benchmark's sizes it stays
below some hundreds.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from . import cuda_parts as parts

KERNELS = Path(__file__).parent / "kernels"
MAX_CHUNK = 128  # channels of x that one product takes at a time; a power of two, as Triton's tiles are
MOST_FUSED = 512  # channels of x whose rows fit on the chip beside the weights; beyond, the norm is a launch of its own
REGISTERS = 65_536  # of a multiprocessor
RIGHT = {"left": "False", "right": "True", "wide": "c > 128"}


def kernel_source(name: str, ahead: bool = False) -> str:
    """The functions of one kernel file, without its imports; what orders launches that overlap only with ``ahead``."""
    text = (KERNELS / f"{name}.py").read_text()
    lines = text[text.index("@triton.jit") :].splitlines(keepends=True)
    return "\n" + "".join(line for line in lines if ahead or "gdc_" not in line)


def compile_spec(spec: dict[str, Any]) -> str:
    """The Python module that ``spec`` (of ``solution.SPACE_CUDA``) stands for; it defines ``trimul`` and runs by itself."""
    own = {part for part in ("project", "product", "output") if spec[part] == "triton"}
    spec = {**spec, "launch": spec["launch"] if {"project", "output"} <= own else "jit"}
    fields = _fields(spec)
    layout = "rows" if "project" in own and spec["layout"] != "maps" else "maps"
    source = [parts.HEAD.format(title=_title(spec))]
    if own:
        tiles = "project" in own and "tiles" in (spec["layout"], spec["loads"])
        imports = "from triton.tools.tensor_descriptor import TensorDescriptor\n" if tiles else ""
        source.append(parts.TRITON_HEAD.format(imports=imports, **fields))
    source.append("EPS = 1e-5\n" + ("torch._dynamo.config.recompile_limit = 64\n" if spec["compiled"] else ""))
    source += _kernels(spec, own)
    source.append(parts.LAUNCH[spec["launch"]].format(**fields))
    if own & {"project", "output"}:
        source.append(parts.PREPARE.format(**fields))
    source.append(_project(spec, fields, layout))
    source.append(parts.PRODUCT[spec["product"]].format(o=parts.O_MEMORY[layout], **fields))
    tile = (spec["output_rows"], spec["output_columns"], spec["output_warps"], spec["output_stages"])
    source.append(parts.OUTPUT.format(tile=tile, **fields) if "output" in own else parts.EAGER_OUTPUT.format(**fields))
    if spec["compiled"]:
        source += [f"{part} = torch.compile({part})\n" for part in ("project", "output") if part not in own]
    source.append(_trimul(spec, own))
    return _spaced("\n".join(source))


def _fields(spec: dict[str, Any]) -> dict[str, Any]:
    """What the texts of ``cuda_parts`` are filled in with."""
    dtype = {"tf32": "float32"}.get(spec["format"], spec["format"])
    low = dtype != "float32"
    chunk = spec["narrow_chunk"]
    rows, columns = map(int, spec["product_tile"].split("x"))
    return {
        "format": dtype,
        "precision": "ieee" if spec["format"] == "float32" else "tf32",
        "to": f".to(torch.{dtype})" if low else "",
        "back": ".float()" if low else "",
        "chunk": MAX_CHUNK,
        "right": RIGHT[spec["operand"]],
        "loads": spec["loads"] == "tiles",
        "halved": spec["project"] == "triton" and spec["sigmoid"] == "halved",
        "joined_tiles": "tile_loads(joined, 2 * pairs, chunk)" if spec["loads"] == "tiles" else None,
        "normed_tiles": "tile_loads(normed.flatten(0, 2), rows, chunk)" if spec["loads"] == "tiles" else None,
        "limit": _limit(spec, "wide"),
        "narrow_limit": _limit(spec, "narrow"),
        "narrow_chunk": MAX_CHUNK if chunk == MAX_CHUNK else f"{chunk} if c <= 128 else {MAX_CHUNK}",
        "rows_tiles": "tile_loads(normed.view(-1, channels), rows, chunk)" if spec["loads"] == "tiles" else None,
        "note": parts.NOTE if spec["launch"] != "jit" else "",
        "ahead": parts.AHEAD if spec["launch"] == "ahead" else "",
        "rows": rows,
        "columns": columns,
        "depth": 64 if low else 32,
        "stages": spec["product_stages"],
        "warps": 8 if rows * columns > 128 * 64 else 4,
    }


def _title(spec: dict[str, Any]) -> str:
    """One line on what the program does."""
    norm = {"fused": "with the norm", "separate": "norm apart", "wide": "with the norm where narrow"}[spec["norm"]]
    project = f"Triton, {norm}" if spec["project"] == "triton" else spec["project"]
    compiled = ", compiled" if spec["compiled"] else ""
    return f"{spec['format']}; projections {project}; product {spec['product']}; output {spec['output']}{compiled}"


def _kernels(spec: dict[str, Any], own: set[str]) -> list[str]:
    """The kernels that the own parts launch."""
    source = partial(kernel_source, ahead=spec["launch"] == "ahead")
    out = [source("prepare")] if own & {"project", "output"} else []
    if "project" in own:
        out += [*_gates(spec["sigmoid"]), source("finish")]
        walks = _walks(spec)
        out += [] if walks and spec["norm"] == "wide" and spec["wide_program"] == "norm" else [source("normalise")]
        out += [] if walks and spec["norm"] == "wide" else [source("project_normed")]
        out += [source("project_rows")] if walks else []
        out += [source("project")] if spec["norm"] != "separate" else []
    return out + [source(part) for part in ("product", "output") if part in own]


def _gates(way: str) -> list[str]:
    """The functions ``sigmoid`` and ``gated`` by that way."""
    gates = kernel_source("gates").split("\n\n\n")
    names = {f"sigmoid_{way}": "sigmoid", "gated_halved" if way == "halved" else "gated": "gated"}
    chosen = [next(g for g in gates if f"def {name}(" in g).strip().replace(name, new) for name, new in names.items()]
    return [f"\n{text.replace('sigmoid_exp', 'sigmoid')}\n" for text in chosen]


def _project(spec: dict[str, Any], fields: dict[str, Any], layout: str) -> str:
    """The functions of the first part."""
    if spec["project"] != "triton":
        return parts.EAGER_PROJECT[spec["project"]].format(**fields)
    fused, normed = parts.FUSED.format(**fields), (parts.NORMALISE + parts.NORMED).format(**fields)
    apart = {"fused": MOST_FUSED, "wide": 128, "separate": 0}[spec["norm"]]  # the channels beyond which the norm is
    wide = _by_rows(spec, fields) if _walks(spec) else normed
    narrow = fused if apart else (parts.NORMALISE + parts.NORMED).format(**fields | {"limit": ""})
    body = f"    if c > {apart or 128}:\n{_indented(wide)}    else:\n{_indented(narrow)}" if wide != narrow else normed
    tiles = spec["layout"] == "tiles"
    shapes = {kind: tuple(spec[f"{kind}_{name}"] for name in ("rows", "pairs", "warps", "stages")) for kind in ("narrow", "wide")}
    head = parts.SIDES[layout] + parts.USED_ROWS + (parts.TILE_STORES if tiles else "")
    head += parts.TILE_LOADS if spec["loads"] == "tiles" else ""
    head += parts.PROCESSORS if _walks(spec) and spec["wide_resident"] else ""
    return head + parts.PROJECT.format(tiles=parts.TILES_ON if tiles else parts.TILES_OFF, norm=body, **shapes)


def _walks(spec: dict[str, Any]) -> bool:
    """Whether, for C > 128, a program does all tiles of its rows."""
    return spec["norm"] != "fused" and spec["wide_program"] != "tile"


def _limit(spec: dict[str, Any], kind: str) -> str:
    """The launch's limit of registers such that so many programs as the spec says find room beside each other."""
    warps, resident = spec[f"{kind}_warps"], spec[f"{kind}_resident"]
    return f", maxnreg={max(64, min(255, REGISTERS // (32 * warps * resident) // 8 * 8))}" if resident else ""


def _by_rows(spec: dict[str, Any], fields: dict[str, Any]) -> str:
    """The launches of such programs."""
    own, resident, programs = spec["wide_program"] == "norm", spec["wide_resident"], "-(-n // rows) * n * b"
    programs = f"min({programs}, {resident} * processors(x))" if resident else programs
    normed = parts.OWN_ROWS if own else parts.NORMALISE.format(**fields)
    return parts.ROWS.format(programs=programs, normed=normed, norm=own, **fields)


def _trimul(spec: dict[str, Any], own: set[str]) -> str:
    """The entry point."""
    body = "    joined, last = prepare(weights)\n" if own & {"project", "output"} else ""
    body += f"    left, right, gate = project(x, mask, weights{', joined' if 'project' in own else ''})\n"
    body += "    o = product(left, right)\n"
    result = f"output(o, gate, weights{', last' if 'output' in own else ''})"
    if spec["launch"] != "jit":
        body = parts.DIRECT + body + parts.REMEMBER.format(result=result)
    else:
        body = (parts.CONTIGUOUS if own else "") + body + f"    return {result}\n"
    if spec["format"] == "tf32":
        body = parts.TF32.format(body=_indented(body))
    return parts.TRIMUL.format(body=body)


def _indented(text: str) -> str:
    return "".join("    " + line + "\n" for line in text.splitlines())


def _spaced(text: str) -> str:
    """Two blank lines around each top-level definition, and no more than one elsewhere."""
    out: list[str] = []
    inside = False  # of a definition
    for line in text.splitlines():
        top = bool(line) and not line[0].isspace() and not line.startswith(")")
        starts = line.startswith(("def ", "@"))
        if top and (starts or inside) and not (out and out[-1].startswith("@")):
            while out and not out[-1]:
                out.pop()
            out += ["", ""]
        inside = (inside and not top) or starts
        if line or (out and out[-1]):
            out.append(line)
    return "\n".join(out).strip() + "\n"
