"""TriMul's spaces of solutions, their text, and the programs that CPU specs compile to, against a float64 oracle."""

import ast
import copy
import subprocess
import sys
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trimul_oracle import inputs, oracle, worst

from sia_nb.errors import InvalidSolution
from sia_nb.tasks.trimul.compile_cpu import compile_spec
from sia_nb.tasks.trimul.instances import cases
from sia_nb.tasks.trimul.reference import make_inputs, reference
from sia_nb.tasks.trimul.solution import FALLBACK, FALLBACKS, SPACE, SPACES, compile_solution, device_of, parse

CODE = "import torch\n\n\ndef trimul(x, mask, weights):\n    return x  \n"
EAGER_GATES = ("sigmoid", "glu")
spec_of = st.integers(0, 2**32).map(lambda seed: SPACE.random(Random(seed)))
eager_spec = st.builds(lambda spec, gate: {**spec, "gate": gate}, spec_of, st.sampled_from(EAGER_GATES))


def load(source):
    names = {}
    exec(compile(source, "program", "exec"), names)
    return names["trimul"]


# --- text -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("device", SPACES)
def test_fallbacks_are_of_their_space_and_stay_as_they_are(device):
    space, fallback = SPACES[device], FALLBACKS[device]
    assert parse(space.dump(fallback), device).text == space.dump(fallback)
    assert device_of(fallback) == device


@pytest.mark.parametrize("device", SPACES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_every_spec_is_one_line_that_parses_to_itself_and_compiles(device, seed):
    space = SPACES[device]
    spec = space.random(Random(seed))
    solution = parse(space.dump(spec), device)
    assert solution.dialect == "spec" and space.parse(solution.text) == spec and device_of(spec) == device
    source = compile_solution(solution)
    assert any(isinstance(n, ast.FunctionDef) and n.name == "trimul" for n in ast.parse(source).body)
    assert max(map(len, source.splitlines())) <= 200


def test_code_is_read_as_code_and_returned_as_it_runs():
    solution = parse(CODE)
    assert solution.dialect == "code" and compile_solution(solution) == CODE.replace("x  \n", "x\n")


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("{", "unparsable", "JSON"),
        ("x" * 200_001, "unparsable", "200000"),
        ('{"projection": 1}', "unknown_field", "projections"),
        ("{}", "missing_field", "passes"),
        (SPACE.dump({**FALLBACK, "rows": 5}), "bad_value", "rows"),
        (SPACE.dump({**FALLBACK, "rows": False}), "bad_value", "rows"),
        ("import torch\ndef trimul(x:\n", "syntax", "line"),
        ("import torch\n", "no_entry", "trimul(x, mask, weights)"),
        ("def trimul(x, mask):\n    return x\n", "no_entry", "3 arguments"),
        ("def trimul(x, mask, weights, extra):\n    return x\n", "no_entry", "3 arguments"),
    ],
)
def test_bad_text_is_refused_with_its_kind_and_reason(text, kind, said):
    with pytest.raises(InvalidSolution, match=said.replace("(", r"\(").replace(")", r"\)")) as refused:
        parse(text)
    assert refused.value.kind == kind


def test_fields_of_no_space_are_named():
    with pytest.raises(InvalidSolution, match="colour"):
        device_of({"colour": "red"})


def test_reading_solutions_imports_no_torch():
    code = "import sys; import sia_nb.tasks.trimul.solution, sia_nb.tasks.trimul.compile_cpu; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- CPU programs -----------------------------------------------------------------------------------------
@given(eager_spec, st.integers(1, 12), st.integers(1, 2), st.sampled_from((5, 16, 128)), st.booleans(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_every_cpu_program_meets_the_tolerance(spec, n, b, c, cauchy, masked):
    x, mask, weights = inputs(n, b, c, 32, seed=n, cauchy=cauchy, masked=masked)
    coarse = "bfloat16" in spec["format"] + spec["output_format"]  # whose errors do not average out over so few rows k
    assert worst(load(compile_spec(spec))(x, mask, weights), oracle(x, mask, weights)) < (4 if coarse else 0.5)


@pytest.mark.parametrize(
    ("field", "value"),
    [(f.name, v) for f in SPACE.fields for v in f.values if (f.name, v) != ("gate", "compiled")],
    ids=str,
)
def test_every_choice_meets_the_tolerance_at_benchmark_channels(field, value):
    x, mask, weights = inputs(20, 1, 384, 128, seed=3, masked=True)
    expected = oracle(x, mask, weights)
    for base in (FALLBACK, {**FALLBACK, "projections": "joined", "layout": "first", "gate": "glu", "rows": 8}):
        spec = {**base, field: value}
        error = worst(load(compile_spec(spec))(x, mask, weights), expected)
        assert error < (
            0.95
            if "bfloat16" in str(spec) or spec["passes"] in ("fused", "whole")
            else 0.2
            if "float16" in spec.values()
            else 1e-3
        )


FUSED = {**FALLBACK, "passes": "fused", "product": "matmul", "format": "bfloat16x3", "output_format": "bfloat16x3"}


@pytest.mark.parametrize("passes", ["fused", "whole"])
@pytest.mark.parametrize("seeds", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_fused_program_holds_the_tolerance_on_every_case(passes, seeds):
    trimul = load(compile_spec({**FUSED, "passes": passes}))
    for shape in {*cases("cpu").timed, *cases("cpu").checked}:
        for seed in range(seeds):
            given_ = make_inputs(shape, seed)
            assert worst(trimul(*given_), reference(*given_).numpy()) < 0.05, (shape.name, seed)


@given(
    st.sampled_from(("fused", "whole")), st.integers(1, 9), st.integers(1, 2), st.integers(1, 70), st.integers(1, 70),
    st.sampled_from((1, 2, 3)), st.booleans(),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_fused_products_of_any_shape_are_right_with_and_without_tile_registers(passes, n, b, c, h, products, masked):
    spec = {**FUSED, "passes": passes, "format": f"bfloat16x{products}".removesuffix("x1"), "output_format": "bfloat16x3"}
    source = compile_spec(spec)
    x, mask, weights = inputs(n, b, c, h, seed=c, masked=masked)
    expected = oracle(x, mask, weights)
    plain = load(source.replace('"-march=native"', '"-march=native", "-mno-amx-bf16"'))(x, mask, weights)
    for y in (load(source)(x, mask, weights), plain):
        assert torch.isfinite(y).all() and worst(y, expected) < (6 if products < 3 else 0.5)
    assert worst(plain, load(source)(x, mask, weights).numpy()) < 0.05  # the same products, in another order


@pytest.mark.parametrize("n", [15, 16, 17, 31, 32, 33, 47, 49, 65])
@pytest.mark.parametrize("masked", [False, True])
def test_the_own_product_over_k_is_right_where_rows_end_within_a_tile(n, masked):
    x, mask, weights = inputs(n, 2, 20, 24, seed=n, masked=masked)
    y = load(compile_spec({**FUSED, "passes": "whole"}))(x, mask, weights)
    assert worst(y, oracle(x, mask, weights)) < 0.05


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gates_that_are_all_but_shut_or_open_stay_finite(scale):
    x, mask, weights = inputs(6, 1, 16, 16, seed=1, masked=True)
    for name in ("left_gate", "right_gate", "out_gate"):
        weights[name] *= scale
    for passes in ("cpp", "fused", "whole"):
        y = load(compile_spec({**FUSED, "passes": passes}))(x, mask, weights)
        assert torch.isfinite(y).all() and worst(y, oracle(x, mask, weights)) < 0.5


@given(eager_spec)
@settings(max_examples=40, deadline=None)
def test_programs_read_the_weights_at_every_call_change_no_input_and_keep_no_result(spec):
    trimul = load(compile_spec(spec))
    x, mask, weights = inputs(6, 2, 16, 16, masked=True)
    before = copy.deepcopy((x, mask, weights))
    first = trimul(x, mask, weights)
    kept = first.clone()
    assert torch.equal(before[0], x) and torch.equal(before[1], mask)
    assert all(torch.equal(before[2][name], weights[name]) for name in weights)
    for value in weights.values():
        value.mul_(1.5)
    second = trimul(x, mask, weights)
    assert torch.equal(kept, first) and worst(second, oracle(x, mask, weights)) < 4
    assert not torch.equal(first, second)


@given(spec_of)
@settings(max_examples=30)
def test_different_specs_that_say_something_else_are_different_programs(spec):
    ways = ("projections", "layout", "rows") if spec["passes"] == "torch" else ()
    between = () if spec["passes"] == "whole" else ("product_format",)
    for field in ("passes", *ways, "format", *between, "output_format"):
        for value in SPACE.as_dict()[field]["values"]:
            assert (compile_spec({**spec, field: value}) == compile_spec(spec)) == (value == spec[field])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ("last", "moved", "first"))
def test_compiled_gates_meet_the_tolerance(layout):
    for projections in ("joined", "separate"):
        spec = {**FALLBACK, "gate": "compiled", "layout": layout, "projections": projections, "format": "bfloat16", "rows": 8}
        trimul = load(compile_spec(spec))
        for n, b in ((8, 1), (12, 2)):
            x, mask, weights = inputs(n, b, 16, 16, masked=True)
            assert worst(trimul(x, mask, weights), oracle(x, mask, weights)) < 1
