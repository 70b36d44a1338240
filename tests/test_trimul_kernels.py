"""TriMul's generated Triton kernels: right by Triton's interpreter on a CPU, and accepted by the compiler for Hopper."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from sia_nb.tasks.trimul.compile_cuda import KERNELS, compile_spec
from sia_nb.tasks.trimul.solution import FALLBACK_CUDA, SPACE_CUDA

OWN = {**FALLBACK_CUDA, "format": "float16", "project": "triton", "output": "triton"}
FUSED = {**OWN, "norm": "fused"}
# Every kernel in every form that is a different text or another branch of it.
VARIANTS = {
    "norm apart": OWN,
    "norm apart, x to the right, tiles": {**OWN, "operand": "right", "layout": "tiles", "loads": "tiles", "launch": "direct"},
    "fused, maps": {**FUSED, "sigmoid": "tanh"},
    "fused, rows, direct": {**FUSED, "layout": "rows", "launch": "direct"},
    "fused, tiles, x to the right": {
        **FUSED,
        "sigmoid": "halved",
        "layout": "tiles",
        "operand": "right",
        "narrow_pairs": 16,
        "wide_pairs": 16,
    },
    "fused, tiles, direct": {
        **FUSED,
        "narrow_chunk": 32,
        "narrow_resident": 2,
        "layout": "tiles",
        "loads": "tiles",
        "narrow_pairs": 16,
        "launch": "direct",
    },
    "fused where narrow": {**FUSED, "norm": "wide", "layout": "rows", "operand": "wide", "output_columns": 128},
    "own product, maps": {**FALLBACK_CUDA, "format": "float16", "project": "joined", "product": "triton"},
    "fused, ahead, own product": {
        **FUSED,
        "layout": "tiles",
        "loads": "tiles",
        "operand": "right",
        "product": "triton",
        "launch": "ahead",
    },
    "norm apart, ahead": {**OWN, "launch": "ahead"},
    "own product, rows, TF32": {**FUSED, "format": "tf32", "product": "triton", "layout": "rows", "product_tile": "64x64"},
}


# What a program does where C > 128, with shapes that fill its tiles of rows, that do not, and that are filled up with zeros.
WIDE = {
    **OWN,
    "sigmoid": "halved",
    "norm": "wide",
    "operand": "right",
    "layout": "tiles",
    "loads": "tiles",
    "wide_program": "norm",
    "wide_rows": 32,
}
WIDE_CASES = [
    ({**WIDE, "wide_resident": 2}, {"n": 40, "c": 136, "h": 32, "masked": True}),
    ({**WIDE, "operand": "left", "loads": "pointers", "layout": "maps"}, {"n": 5, "b": 2, "c": 136, "h": 24, "masked": True}),
    ({**WIDE, "wide_pairs": 16, "wide_resident": 3, "launch": "direct"}, {"n": 8, "c": 384, "h": 32, "cauchy": True}),
    ({**WIDE, "wide_program": "rows", "wide_resident": 1}, {"n": 8, "b": 2, "c": 768, "h": 32, "masked": True}),
    (
        {**WIDE, "norm": "separate", "wide_program": "rows", "loads": "pointers", "layout": "rows", "operand": "left"},
        {"n": 7, "c": 136, "h": 24, "masked": True},
    ),
    ({**WIDE, "norm": "separate", "wide_program": "rows", "launch": "direct"}, {"n": 6, "c": 16, "h": 16}),
    ({**WIDE, "launch": "ahead"}, {"n": 40, "c": 384, "h": 32, "masked": True}),
    ({**WIDE, "launch": "ahead"}, {"n": 33, "c": 128, "h": 32, "masked": True}),
    ({**WIDE, "wide_program": "rows", "launch": "ahead"}, {"n": 7, "b": 2, "c": 136, "h": 32, "masked": True}),
    ({**WIDE, "wide_program": "tile", "launch": "ahead"}, {"n": 16, "c": 384, "h": 32}),
    ({**WIDE, "wide_program": "tile", "wide_rows": 256}, {"n": 9, "c": 256, "h": 24, "masked": True}),
]


def call(what, cases, seconds=600):
    """The JSON that ``tests/trimul_kernels.py`` prints."""
    pytest.importorskip("triton", reason="needs triton, a dependency on x86-64 Linux")
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": str(int(what == "interpret"))}
    command = [sys.executable, str(here / "trimul_kernels.py"), what]
    done = subprocess.run(command, input=json.dumps(cases), env=env, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_kernel_is_right_by_tritons_interpreter():
    shapes = [{"n": 8, "b": 2, "c": 20, "h": 32}, {"n": 5, "c": 136, "h": 24}]
    cases = [[spec, {**shapes[i % 2], "masked": i % 3 > 0, "cauchy": i % 3 == 1}] for i, spec in enumerate(VARIANTS.values())]
    cases.append([VARIANTS["fused where narrow"], {"n": 5, "c": 144, "h": 16}])
    cases.append([VARIANTS["fused, tiles, x to the right"], {"n": 8, "c": 16, "h": 32, "masked": True}])
    errors = call("interpret", cases)
    assert all(error < 0.25 for error in errors), dict(zip(VARIANTS, errors, strict=False))


def test_every_way_through_wide_rows_is_right_by_tritons_interpreter():
    errors = call("interpret", WIDE_CASES)
    assert all(error < 0.25 for error in errors), errors


def test_every_kernel_compiles_for_hopper():
    tiled = {**FUSED, "layout": "tiles", "loads": "tiles", "operand": "right", "sigmoid": "tanh"}
    cases = [[VARIANTS["fused, rows, direct"], 384], [tiled, 128], [{**tiled, "operand": "left", "loads": "pointers"}, 128]]
    cases += [[VARIANTS["norm apart"], 384], [{**tiled, "norm": "separate", "product": "triton"}, 128]]
    cases += [[{**WIDE, "wide_rows": 128, "wide_pairs": 64, "wide_resident": 2}, 384]]
    cases += [[{**WIDE, "wide_program": "rows", "wide_rows": 256, "wide_warps": 8, "wide_stages": 3, "wide_resident": 1}, 384]]
    kernels = {"tile": {"normalise_kernel", "project_normed_kernel"}, "rows": {"normalise_kernel", "project_rows_kernel"}}
    kernels["norm"] = {"project_rows_kernel"}
    for (spec, _), shared in zip(cases, call("compile", cases), strict=True):
        expected = {"prepare_kernel", "output_kernel"}
        expected |= {"project_kernel"} if spec["norm"] == "fused" else kernels[spec["wide_program"]]
        expected |= {"product_kernel"} if spec["product"] == "triton" else set()
        assert set(shared) == expected
        assert max(shared.values()) < 227 * 1024  # what a block of an H100 may have


def test_launches_ahead_wait_before_they_store_and_programs_with_others_hold_no_order():
    best = {**WIDE, "wide_rows": 64, "narrow_resident": 2}
    chains = [({**best, "wide_program": "tile"}, 128), ({**best, "wide_program": "tile", "product": "triton"}, 384)]
    chains += [({**best, "wide_program": "rows"}, 384), ({**best, "wide_program": "norm"}, 384)]
    cases = [[{**spec, "launch": "ahead"}, c] for spec, c in chains]
    for (spec, c), kernels in zip(cases, call("order", cases), strict=True):
        first, *others = kernels  # in the order of their launches
        assert first == "prepare_kernel" and others[-1] == "output_kernel"
        assert kernels[first] == {"ahead": False, "starts": True, "loads": None, "stores": None}
        for name in others:
            assert kernels[name]["ahead"] and kernels[name]["starts"] == (name != "output_kernel")
            assert kernels[name]["stores"] == 0 or spec["wide_program"] == "norm"  # whose loop's blocks stand in another order
        assert kernels["project_kernel" if c == 128 else others[0]]["loads"]  # of x, meanwhile
    for spec in VARIANTS.values():
        source = compile_spec(spec)
        assert ("launch_pdl" in source) == ("gdc_" in source) == (spec["launch"] == "ahead")


@pytest.mark.slow
def test_random_programs_are_right_by_tritons_interpreter():
    rng = Random(0)
    cases = []
    for _ in range(60):
        spec = {**SPACE_CUDA.random(rng), "compiled": False}
        spec |= {"project": "triton", "output": "triton"} if rng.random() < 0.7 else {}
        shape = {
            "n": rng.randint(1, 17),
            "b": rng.randint(1, 2),
            "c": rng.choice((7, 16, 128, 130)),
            "h": rng.choice((8, 33, 64)),
        }
        cases.append([spec, {**shape, "masked": rng.random() < 0.5, "seed": rng.randint(0, 99)}])
    for case, error in zip(cases, call("interpret", cases, 3600), strict=True):
        assert error < 0.25, case


def test_eager_programs_of_the_gpu_space_run_on_a_cpu_and_meet_the_tolerance():
    from trimul_oracle import inputs, oracle, worst

    x, mask, weights = inputs(9, 2, 24, 32, masked=True)
    expected = oracle(x, mask, weights)
    for project in ("separate", "joined"):
        for number_format, limit in (("float32", 1e-3), ("tf32", 1e-3), ("float16", 0.25)):
            names = {}
            exec(compile_spec({**FALLBACK_CUDA, "project": project, "format": number_format}), names)
            assert worst(names["trimul"](x, mask, weights), expected) < limit


def test_a_program_without_own_kernels_needs_no_triton_and_tf32_is_put_back():
    import torch

    source = compile_spec({**FALLBACK_CUDA, "format": "tf32"})
    assert "triton" not in source.split('"""', 2)[2]
    kept = torch.backends.cuda.matmul.allow_tf32
    names = {}
    exec(source, names)
    with pytest.raises(KeyError):
        names["trimul"](torch.ones(1, 2, 2, 4), None, {})
    assert torch.backends.cuda.matmul.allow_tf32 == kept


def test_programs_hold_only_the_kernels_they_use():
    for spec in [*VARIANTS.values(), *(spec for spec, _ in WIDE_CASES)]:
        source = compile_spec(spec)
        for file in KERNELS.glob("*.py"):
            for line in file.read_text().splitlines():
                if line.startswith("def ") and not line.startswith(("def sigmoid", "def gated")):
                    name = line[4:].split("(")[0]
                    assert (f"def {name}(" in source) == (source.count(name) > 0)
                    assert source.count(name) != 1  # defined and used, or neither
