"""The lesson on fast kernels: its pieces are the update, its counts are the floor's, and its checks say what is wrong."""

import functools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sia_nb.lessons import fast_kernels as fk
from sia_nb.lessons import fast_kernels_checks as checks
from sia_nb.notebooks import NOTEBOOKS
from sia_nb.tasks.trimul.floor import floor_us, passes
from sia_nb.tasks.trimul.instances import Cases
from sia_nb.tasks.trimul.reference import case, make_inputs, update

RATES = {"copy": 1e10, "matmul": 1e11}
TINY = Cases("cpu", (case(16, 1, 32, hidden=16),), (case(16, 2, 32, hidden=16, masked=True),))


def solved() -> str:
    cells = json.loads((NOTEBOOKS / "lessons" / "solutions" / "fast_kernels.ipynb").read_text())["cells"]
    cell = next("".join(c["source"]) for c in cells if "def trimul" in "".join(c["source"]))
    return cell[: cell.index("fast_kernels_checks")]


@functools.cache
def started() -> str:
    cells = json.loads((NOTEBOOKS / "lessons" / "fast_kernels.ipynb").read_text())["cells"]
    cell = next("".join(c["source"]) for c in cells if "def trimul" in "".join(c["source"]))
    return cell[: cell.index("fast_kernels_checks")]


def test_the_pieces_end_in_the_updates_result():
    shape = case(12, 2, 32, hidden=16, masked=True)
    made = fk.pieces(shape, seed=3)
    assert torch.allclose(made[-1].run(), update(*make_inputs(shape, 3)), atol=1e-5)
    assert [p.of for p in made] == sorted((p.of for p in made), key=fk.PASSES.index)


def test_the_pieces_operations_are_the_floors_and_their_bytes_more_than_a_fused_pass_moves():
    shape = fk.make(24, 64)
    table = fk.where_time_goes(shape, repeats=1)
    fused = passes(shape, fk.ITEM)
    for name, (moved, operations) in fused.items():
        own = table[table["pass"] == name]
        assert own["GFLOP"].sum() == pytest.approx(operations / 1e9)
        assert own["MB"].sum() >= 0.99 * moved / 1e6
    sides = table[table["piece"].isin(fk.SIDES)]["MB"].sum()
    assert sides == pytest.approx(2 * fk.side_bytes(shape)["eager"] / 1e6)
    assert table["share"].sum() == pytest.approx(1) and (table["ms"] > 0).all()
    assert fk.traffic(table, shape).loc["all", "saved"] > 0.5


def test_the_roof_is_the_floor_seen_as_a_rate():
    shape = fk.make(24, 64)
    table = fk.where_time_goes(shape, repeats=1)
    roof, floor = fk.roofline(table, shape, RATES), floor_us(shape, RATES, fk.ITEM)
    for row in roof.itertuples():
        assert row.floor_ms == pytest.approx(floor[row[1]] / 1e3)
        assert row.roof_GFLOP_s / row.GFLOP_s == pytest.approx(row.times_floor)


def test_the_profiler_sees_products_and_the_copies_that_nobody_wrote():
    table = fk.profiled(fk.make(32, 32), repeats=1, most=99).set_index("operator")
    assert table.loc["aten::copy_", "calls"] >= 2
    assert {"aten::mm", "aten::bmm"} <= set(table.index)


def operations(b, n, c, h, *, five=5, two=2, product=lambda b, n, h: 2 * b * h * n**3):
    rows = b * n * n
    return five * 2 * rows * c * h / 2 * two, product(b, n, h) / 2 * two, 2 * rows * h * c / 2 * two


@pytest.mark.parametrize(
    "how, says",
    [
        ({}, "right"),
        ({"two": 1}, "twice what you count"),
        ({"five": 1}, "five projections"),
        ({"product": lambda b, n, h: 2 * b * h * n**2}, "like N³"),
        ({"product": lambda b, n, h: 2 * b * n**3}, "each of the H channels"),
        ({"product": lambda b, n, h: 7.0}, "operations of product are not right"),
    ],
)
def test_exercise_1_says_what_is_wrong(how, says, capsys):
    assert checks.check_operations(lambda *a: operations(*a, **how)) == (says == "right")
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda T, M: (7 * T + M, 3 * T + M, M), "right"),
        (lambda T, M: ((7 * T + M) / 4, (3 * T + M) / 4, M / 4), "has 4 bytes"),
        (lambda T, M: (7 * T, 3 * T, 0), "the mask is read too"),
        (lambda T, M: (5 * T + M, 3 * T + M, M), "the sigmoid reads"),
        (lambda T, M: (3 * T, T, 0), "what each operation reads"),
        (lambda T, M: (7 * T + M, 3 * T + M, 0), "fused: "),
        (lambda T, M: (7 * T + M, 2 * T + M, M), "one_pass: "),
        (lambda T, M: (1, 1, 1), "expected"),
        (lambda T, M: 7 * T, "an array of shape 3"),
    ],
)
def test_exercise_2_says_what_is_wrong(answer, says, capsys):
    assert checks.check_bytes(lambda b, n, h: answer(4 * b * n * n * h, 4 * b * n * n)) == (says == "right")
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda m, o, c, r: max(m / c, o / r), "right"),
        (lambda m, o, c, r: m / c + o / r, "not the sum"),
        (lambda m, o, c, r: min(m / c, o / r), "the shorter of the two"),
        (lambda m, o, c, r: 1e6 * max(m / c, o / r), "give seconds"),
        (lambda m, o, c, r: m / c, "both must be done"),
        (lambda m, o, c, r: m / r, "your function gives"),
        (lambda m, o, c, r: None, "returns nothing"),
    ],
)
def test_exercise_3_says_what_is_wrong(answer, says, capsys):
    assert checks.check_floor(answer) == (says == "right")
    assert says in capsys.readouterr().out


def test_exercise_4_names_a_program_that_is_none(capsys):
    for program, says in (("def trimol(x): pass", "no function"), ("def trimul(x, mask, weights) return", "line")):
        assert not checks.check_program(program)
        told = capsys.readouterr().out
        assert told.startswith("not yet: ") and says in told


@given(st.integers(1, 2), st.integers(2, 12), st.booleans())
def test_the_solution_is_the_update(b, n, masked):
    names = {}
    exec(fk.program_of(solved()), names)
    inputs = make_inputs(case(n, b, 16, hidden=8, masked=masked), n)
    with torch.no_grad():
        assert torch.allclose(names["trimul"](*inputs), update(*inputs), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_exercise_4_is_judged_by_the_kits_verifier(capsys):
    reference = started()
    writes = reference.replace("w = weights\n", "w, given = weights, x\n").replace("    return", "    given.add_(1)\n    return")
    wrong = {
        "def trimul(x, mask, weights):\n    return x\n": "wrong: ",
        reference.replace("* mask[..., None]", "* 1.0"): "Is the mask read at every call",
        writes: "In-place operations are fine on your own",
        "def trimul(x, mask, weights):\n    pass\n": "Does every path return y",
    }
    for program, says in wrong.items():
        assert not checks.check_program(program, TINY)
        assert says in capsys.readouterr().out
    assert not checks.check_program(reference, TINY, wanted=50)
    assert "every check passed; speed-up" in capsys.readouterr().out
    found = fk.verdict(solved(), TINY)
    assert found.valid and found.value > 0 and np.isfinite(found.metrics["se"])
