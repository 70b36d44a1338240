"""TriMul's definition against an oracle, its cases and inputs, its instances."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sia_nb.errors import ConfigError
from sia_nb.tasks.trimul.instances import cases, instances
from sia_nb.tasks.trimul.reference import (
    BENCHMARK,
    CORRECTNESS,
    CPU_BENCHMARK,
    Case,
    Inputs,
    case,
    make_inputs,
    places,
    reference,
    views,
    weight_shapes,
)


def oracle(x, mask, weights):
    """The update in float64, one position after another, straight from its definition."""
    x, mask = x.double().numpy(), mask.double().numpy()
    w = {name: t.double().numpy() for name, t in weights.items()}

    def norm(v, name):
        return (v - v.mean()) / math.sqrt(v.var() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    b, n, _, c = x.shape
    h = len(w["left_proj"])
    left, right, gate = (np.zeros((b, n, n, h)) for _ in range(3))
    for at in np.ndindex(b, n, n):
        v = norm(x[at], "norm")
        left[at] = mask[at] * (w["left_proj"] @ v) * sigmoid(w["left_gate"] @ v)
        right[at] = mask[at] * (w["right_proj"] @ v) * sigmoid(w["right_gate"] @ v)
        gate[at] = sigmoid(w["out_gate"] @ v)
    y = np.zeros((b, n, n, c))
    for k, i, j in np.ndindex(b, n, n):
        o = sum(left[k, i, m] * right[k, j, m] for m in range(n))
        y[k, i, j] = w["to_out"] @ (norm(o, "to_out_norm") * gate[k, i, j])
    return y


@settings(max_examples=12)
@given(
    n=st.integers(1, 6),
    b=st.integers(1, 2),
    c=st.integers(2, 9),
    h=st.integers(2, 7),
    seed=st.integers(0, 2**40),
    mask=st.booleans(),
)
def test_the_reference_is_its_definition(n, b, c, h, seed, mask):
    inputs = Inputs(case(n, b, c, "normal", mask, h), seed)
    y = reference(inputs.x, inputs.mask, inputs.weights, hidden=h)
    assert y.shape == inputs.x.shape and y.dtype == torch.float32
    np.testing.assert_allclose(y.numpy(), oracle(inputs.x, inputs.mask, inputs.weights), rtol=2e-3, atol=2e-3)


def test_the_mask_matters():
    x, mask, weights = make_inputs(case(6, 1, 8, masked=True, hidden=4), 0)
    assert 0 < mask.mean() < 1
    assert not torch.allclose(reference(x, mask, weights), reference(x, torch.ones_like(mask), weights), atol=0.1)


@given(seed=st.integers(0, 2**40), other=st.integers(0, 2**40), kind=st.sampled_from(["normal", "cauchy"]))
@example(seed=0, other=2**32, kind="normal")
def test_changed_inputs_depend_on_the_seeds_alone_and_stay_in_place(seed, other, kind):
    shape = case(4, 1, 8, kind, True, 4)
    one, two = Inputs(shape, 7), Inputs(shape, 7)
    places = {name: t.data_ptr() for name, t in one.tensors().items()}
    one.change(other)
    one.change(seed)
    two.change(seed)
    assert all(torch.equal(t, two.tensors()[name]) for name, t in one.tensors().items())
    assert {name: t.data_ptr() for name, t in one.tensors().items()} == places
    assert one.changed(seed) == ""
    one.weights["to_out"][0, 0] += 1
    assert one.changed(seed) == "to_out"
    if other != seed:
        two.change(other)
        assert not torch.equal(one.weights["norm.bias"], two.weights["norm.bias"])
    two.change(other, weights_seed=seed)
    one.change(seed)
    assert torch.equal(one.weights["to_out"], two.weights["to_out"])


@given(n=st.integers(1, 5), b=st.integers(1, 2), c=st.integers(1, 9), h=st.integers(1, 9))
def test_inputs_in_one_block_do_not_overlap(n, b, c, h):
    shape = case(n, b, c, hidden=h)
    block = torch.full((places(shape)[1],), -1.0)
    found = views(shape, block)
    for number, t in enumerate(found.values()):
        t.fill_(number)
    assert all(bool((t == number).all()) for number, t in enumerate(found.values()))
    assert all(t.data_ptr() % 64 == block.data_ptr() % 64 for t in found.values())
    inputs = Inputs(shape, 1, block=block)
    assert inputs.x.data_ptr() == block.data_ptr() and torch.equal(inputs.x, Inputs(shape, 1).x)


def test_changing_moves_every_value():
    inputs = Inputs(case(8, 1, 16), 3)
    first = inputs.x.clone()
    inputs.change(10)
    assert (inputs.x == first).float().mean() < 0.01
    assert torch.equal(inputs.x.flatten().sort().values, first.flatten().sort().values)
    inputs.change(11)
    assert torch.equal(inputs.x.flatten().neg().sort().values, first.flatten().sort().values)


def test_distributions():
    x, mask, weights = make_inputs(case(32, 2, 64, "cauchy"), 1)
    assert 0.95 < x.abs().median() / 2 < 1.05  # the median of |Cauchy| is its scale
    assert bool((mask == 1).all())
    assert 0.9 < weights["left_proj"].std() * math.sqrt(128) < 1.1
    assert {name: tuple(w.shape) for name, w in weights.items()} == weight_shapes(64, 128)


def test_heavy_tails_stay_finite(monkeypatch):
    monkeypatch.setattr(
        torch.Tensor, "uniform_", lambda self, **_: self.copy_(torch.arange(self.numel()).view_as(self) % 2 * (1 - 2**-24))
    )
    x, mask, weights = make_inputs(case(4, 1, 8, "cauchy", hidden=4), 0)
    assert bool(torch.isfinite(x).all()) and x.abs().min() > 1e6
    assert bool(torch.isfinite(reference(x, mask, weights)).all())


def test_the_benchmark_is_the_published_one():
    assert [(c.n, c.b, c.c, c.distribution, c.masked) for c in BENCHMARK] == [
        (256, 2, 128, "normal", False), (768, 1, 128, "cauchy", False), (256, 2, 384, "normal", True), (512, 1, 128, "normal", False),
        (1024, 1, 128, "cauchy", False), (768, 1, 384, "normal", True), (1024, 1, 384, "normal", False),
    ]  # fmt: skip
    assert [c.n for c in CPU_BENCHMARK] == [max(32, c.n * 5 // 64) for c in BENCHMARK]
    assert any(c.masked for c in CORRECTNESS) and {c.c for c in CORRECTNESS} == {128, 256, 384, 768}
    assert {c.hidden for c in BENCHMARK} == {128}


@pytest.mark.parametrize("field", ["n", "b", "c", "hidden"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_case_of_a_bad_size(field, value):
    with pytest.raises(ConfigError, match=rf"case 'odd': {field} is {value}; expected a whole number of at least 1"):
        Case("odd", **{"n": 4, "b": 1, "c": 4, field: value})


def test_a_case_of_another_distribution():
    with pytest.raises(ConfigError, match="distribution is 'uniform'; expected normal or cauchy"):
        Case("odd", 4, 1, 4, distribution="uniform")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, m, w: (x[0], m, w), r"x has shape \[4, 4, 8\]; expected \[B, N, N, C\]"),
        (lambda x, m, w: (x[:, :2], m, w), r"x has shape \[1, 2, 4, 8\]"),
        (lambda x, m, w: (x[:, :0, :0], m[:, :0, :0], w), r"x has shape \[1, 0, 0, 8\]; no size may be zero"),
        (lambda x, m, w: (x, m[:, :2], w), r"mask has shape \[1, 2, 4\]; expected \[1, 4, 4\]"),
        (lambda x, m, w: (x.double(), m, w), "x is torch.float64; expected torch.float32"),
        (lambda x, m, w: (x, m, {**w, "to_out": w["to_out"].T}), r"to_out has shape \[4, 8\]; expected \[8, 4\]"),
        (lambda x, m, w: (x, m, {n: t for n, t in w.items() if n != "norm.bias"}), "weight 'norm.bias' is missing"),
    ],
)
def test_arguments_that_do_not_fit(change, words):
    with pytest.raises(ConfigError, match=words):
        reference(*change(*make_inputs(case(4, 1, 8, hidden=4), 0)), hidden=4)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_instances(device):
    found = instances(device)
    assert found[0].name == device and not found[0].held_out
    assert len({i.name for i in found}) == len(found) == 13
    assert sum(i.held_out for i in found) == 4
    assert len(cases(device).timed) == 7 and any(c.masked for c in cases(device).timed)
    for instance in found[1:]:
        (timed,) = cases(instance.name).timed
        assert instance.name == f"{device}-{timed.name}" and f"N={timed.n} B={timed.b} C={timed.c}" in instance.description
        assert {timed.masked, cases(instance.name).checked[0].masked} == {False, True}
