"""Run by a test in a process of its own: TriMul's CUDA programs by Triton's interpreter, or their kernels compiled for Hopper.

``interpret``: JSON [[spec, inputs' keywords], ...] on standard input; prints each one's largest error as a share of the
tolerance. ``compile``: JSON [[spec, c], ...]; prints each kernel's shared memory, in bytes, as ptxas took it. ``order``: the
same; prints what of each kernel may overlap with its neighbours on the stream.
"""

import importlib.util
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from sia_nb.tasks.trimul.compile_cuda import compile_spec

TANH = 'tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [{}], tl.float32, True, 1)'

FENCE = 'tl.inline_asm_elementwise("fence.acq_rel.gpu; fence.proxy.async; mov.b32 $0, 0;", "=r,r", [k], tl.int32, False, 1)'

# What orders overlapping launches: the interpreter runs one after the other.
WAIT, START, AHEAD = "tl.extra.cuda.gdc_wait()", "tl.extra.cuda.gdc_launch_dependents()", ", launch_pdl=True"


def load(source: str, folder: str, number: int):
    """The program as a module; Triton reads the source of its kernels from a file."""
    path = Path(folder) / f"program_{number}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Replayable:
    """A kernel whose launch by the interpreter gives what a compiled one gives: something to run again by addresses."""

    function, packed_metadata = "function", "metadata"

    def __init__(self, kernel, memory):
        self.kernel, self.memory, self.runs = kernel, memory, 0

    def __getitem__(self, grid):
        def launch(*args, **options):
            self.kernel[grid](*args, **options)
            self.memory |= {a.data_ptr(): a for a in args if hasattr(a, "data_ptr")}
            return self

        return launch

    def run(self, x, y, z, stream, function, metadata, info, enter, leave, *args):
        assert (stream, function, metadata, info, enter, leave) == (17, "function", "metadata", None, None, None)
        self.runs += 1
        self.kernel[x, y, z](*(self.memory.get(a, a) if type(a) is int else a for a in args))


def interpret(cases, folder):
    """Errors of whole programs. Where launches are kept, the second call's, on other inputs and with spoilt memory."""
    import torch
    from trimul_oracle import inputs, oracle, worst

    errors = []
    for number, (spec, keywords) in enumerate(cases):
        source = compile_spec(spec)
        if spec["sigmoid"] != "exp" and spec["project"] == "triton":
            arguments = [x for x in ("0.5 * x", "x", "second") if TANH.format(x) in source]
            assert arguments == (["0.5 * x"] if spec["sigmoid"] == "tanh" else ["x", "second"])
            for x in arguments:  # one instruction of the hardware, which the interpreter does not have
                source = source.replace(TANH.format(x), f"(2 * tl.sigmoid(2 * ({x})) - 1)")
        by_rows = spec["project"] == "triton" and spec["norm"] != "fused" and spec["wide_program"] != "tile"
        assert (FENCE in source) == by_rows
        source = source.replace(FENCE, "pass")  # it means nothing to the interpreter
        for text, none in ((WAIT, "pass"), (START, "pass"), (AHEAD, "")):
            source = source.replace(text, none)
        module = load(source, folder, number)
        x, mask, weights = inputs(**keywords)
        if hasattr(module, "PLANS"):
            errors.append(replayed(module, inputs(**{**keywords, "seed": 100}), (x, mask, weights), torch, oracle, worst))
        else:
            errors.append(worst(module.trimul(x, mask, weights), oracle(x, mask, weights)))
    return errors


def replayed(module, first, second, torch, oracle, worst):
    """The larger error of two calls, the second of which replays the launches of the first."""
    memory, empty_like = {}, torch.empty_like
    names = [name for name in vars(module) if name.endswith("_kernel")]
    kernels = [Replayable(getattr(module, name), memory) for name in names]
    vars(module).update(zip(names, kernels, strict=True))

    def noted(like):
        y = empty_like(like)
        memory[y.data_ptr()] = y
        return y

    torch._C._cuda_getCurrentRawStream = lambda device: 17
    error = worst(module.trimul(*first), oracle(*first))
    assert module.PLANS and not any(k.runs for k in kernels)
    for kept in module.KEPT.values():
        kept.fill_(float("nan"))
    backwards = dict(reversed(second[2].items()))  # the order of the weights must not matter
    memory |= {t.data_ptr(): t for t in (*second[:2], *second[2].values())}
    torch.empty_like = noted
    try:
        y = module.trimul(*second[:2], backwards)
    finally:
        torch.empty_like = empty_like
    assert sum(k.runs for k in kernels) >= 3
    return max(error, worst(y, oracle(*second)))


def shared_memory(built, ahead):
    return built.metadata.shared


def order(built, ahead):
    """Whether the kernel is launched ahead and lets the next be; loads by pointer before its wait (None: has none), and stores."""
    ptx = built.asm["ptx"]
    early = ptx[: ptx.find("griddepcontrol.wait")] if "griddepcontrol.wait" in ptx else None
    stores = ("st.global", "cp.async.bulk.tensor", "wgmma.mma", "mma.sync")
    return {
        "ahead": ahead,
        "starts": "griddepcontrol.launch_dependents" in ptx,
        "loads": early and early.count("ld.global"),
        "stores": early and sum(early.count(s) for s in stores),
    }


def hopper(cases, folder, told):
    """What ``told`` says of every kernel of the programs, compiled for compute capability 9.0 without a GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    H, N = 128, 256
    shared = []
    for number, (spec, c) in enumerate(cases):
        module = load(compile_spec(spec), folder, number)
        number_format = {"float16": "fp16"}.get(spec["format"], "fp32")
        taken = {}

        def recorded(kernel, *args, num_warps, maxnreg=None, launch_pdl=False):
            names = kernel.arg_names
            signature, constants, divisible = {}, {}, []  # noqa: B023
            for name, value, parameter in zip(names, args, kernel.params, strict=True):
                if parameter.is_constexpr or value is None or value == 1:
                    signature[name], constants[(names.index(name),)] = "constexpr", value
                elif isinstance(value, int):
                    signature[name] = "i32"
                    divisible += [name] if value % 16 == 0 else []
                elif isinstance(value, Pointer):
                    signature[name] = f"*{value.kind}"
                    divisible.append(name)
                else:
                    signature[name] = f"tensordesc<{number_format}{value.block_shape}>"  # noqa: B023
            attrs = {(names.index(name),): [["tt.divisibility", 16]] for name in divisible}
            source = ASTSource(kernel, signature, constants, attrs)
            options = {"num_warps": num_warps, "maxnreg": maxnreg, "launch_pdl": launch_pdl}
            built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
            taken[kernel.fn.__name__] = told(built, launch_pdl)  # noqa: B023

        run_abstractly(module, recorded, spec, number_format, N, c, H)
        shared.append(taken)
    return shared


class Pointer:
    """Stands for a tensor's memory: all that compiling asks of it is its number format."""

    def __init__(self, kind):
        self.kind = kind


def run_abstractly(module, recorded, spec, number_format, n, c, h):
    """Call the program's own launches on tensors without memory, each launch handed to ``recorded``."""
    import torch

    def launch(kernel, grid, *args, **options):
        args = [Pointer("fp16" if a.dtype == torch.float16 else "fp32") if isinstance(a, torch.Tensor) else a for a in args]
        recorded(kernel, *args, **options)

    module.launch = launch
    meta = {"device": "meta"}
    names = ("left_proj", "left_gate", "right_proj", "right_gate", "out_gate")
    weights = {name: torch.empty(h, c, **meta) for name in names} | {"to_out": torch.empty(c, h, **meta)}
    for name, size in (("norm", c), ("to_out_norm", h)):
        weights |= {f"{name}.weight": torch.empty(size, **meta), f"{name}.bias": torch.empty(size, **meta)}
    module.trimul(torch.empty(1, n, n, c, **meta), torch.empty(1, n, n, **meta), weights)


if __name__ == "__main__":
    os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp())
    with tempfile.TemporaryDirectory() as folder:
        ways = {"interpret": interpret, "compile": partial(hopper, told=shared_memory), "order": partial(hopper, told=order)}
        result = ways[sys.argv[1]](json.load(sys.stdin), folder)
    print(json.dumps(result))
