"""The committed kernel: it is what its spec compiles to, right by Triton's interpreter, and its figures follow from its cases."""

import json
from pathlib import Path

import pytest
from test_trimul_kernels import call

from sia_nb.tasks.trimul.compile_cuda import compile_spec
from sia_nb.tasks.trimul.floor import floor_us, geometric_mean
from sia_nb.tasks.trimul.reference import BENCHMARK

KEPT = sorted((Path(__file__).parent.parent / "results" / "reference" / "trimul").glob("*/best.json"))
each = pytest.mark.parametrize("path", KEPT, ids=lambda p: p.parent.name)


def test_there_is_one():
    assert KEPT


@each
def test_the_program_is_what_its_spec_compiles_to_and_right(path):
    spec = json.loads(path.read_text())["spec"]
    assert compile_spec(spec) == path.with_name("best.py").read_text()
    inputs = [{"b": 1, "n": 33, "c": 128, "h": 32, "masked": True}, {"b": 1, "n": 16, "c": 384, "h": 32, "masked": False}]
    assert max(call("interpret", [[spec, i] for i in inputs])) <= 1


@each
def test_its_figures_follow_from_its_cases(path):
    found = json.loads(path.read_text())
    assert set(found["cases"]) == {c.name for c in BENCHMARK} and found["seeds"] >= 10
    for case in BENCHMARK:
        row = found["cases"][case.name]
        assert row["floor"] == pytest.approx(floor_us(case, found["rates"]))
        assert not row["best"]["late"] and row["best"]["device"] <= row["best"]["board"]
        assert sum(found["passes"][case.name].values()) == pytest.approx(row["best"]["device"], rel=0.15)
    for name, means in found["means"].items():
        assert found["worst"][name][0] <= 1
        assert means["floor"] == pytest.approx(geometric_mean([r["floor"]["total"] for r in found["cases"].values()]))
        for clock in ("board", "device"):
            assert means[clock] == pytest.approx(geometric_mean([r[name][clock] for r in found["cases"].values()]))
