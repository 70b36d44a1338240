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


def test_the_readme_s_figures_are_those_of_the_runs():
    found = json.loads(next(p for p in KEPT if p.parent.name == "nvidia-h200").read_text())
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    text = " ".join(readme[readme.index("## What came out: the TriMul kernel") : readme.index("## The notebooks")].split())
    names = {
        "eager float32": "eager float32",
        "eager TF32": "eager TF32",
        "compile TF32": "torch.compile TF32",
        "best": "the kit's best",
    }
    for name, written in names.items():
        m = found["means"][name]
        assert f"| {written} | {m['device']:.0f} | {m['device'] / m['floor']:.2f} | {m['board']:.0f} |" in text
    best, rates, passes = found["means"]["best"], found["rates"], found["passes"]
    own = lambda part, cases: geometric_mean([passes[c][part] / found["cases"][c]["floor"][part] for c in cases])
    wide = [c for c in passes if "c384" in c and "n256" not in c]
    assert (
        f"{found['tried']['programs']} parts and programs" in text
        and f"uses {found['worst']['best'][0]:.0%}".replace("%", " %") in text
    )
    assert f"The floor, {best['floor']:.0f} µs" in text and f"at {best['board'] / best['floor']:.2f} times the floor" in text
    assert f"copying {rates['copy'] / 1e12:.2f} TB/s, float16 products {rates['matmul'] / 1e12:.0f} TFLOP/s" in text
    parts = [f"{own(part, passes):.2f}" for part in ("project", "product", "output")]
    assert "the projections stand at {}, the batched product at {}, the output at {}:".format(*parts) in text
    assert f"at 384 channels {own('project', wide):.2f} times their floor" in text
    assert f"missed by {best['device'] / best['floor'] - 1.6:.3f},".replace("0.", ".") in text
