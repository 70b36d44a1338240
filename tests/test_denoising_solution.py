"""Denoising solutions: the space, MAGIC's graph against graphtools, the engine against the compiled source."""

import warnings
from random import Random

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sia_nb.errors import InvalidSolution
from sia_nb.tasks.denoising import graph, postprocess
from sia_nb.tasks.denoising.compile import compile_spec
from sia_nb.tasks.denoising.engine import Engine
from sia_nb.tasks.denoising.solution import FALLBACK, SPACE, check_code, parse

values = lambda low, high: arrays(np.float64, (4, 3), elements=st.floats(low, high))


def drawn(cells: int, genes: int, seed: int = 0, types: int = 4) -> sp.csr_matrix:
    """Poisson counts of cells of several types with uneven depths."""
    rng = np.random.default_rng(seed)
    profiles = rng.gamma(0.4, size=(types, genes))
    rates = profiles[rng.integers(types, size=cells)] * rng.gamma(4, 0.4, size=(cells, 1))
    return sp.csr_matrix(rng.poisson(rates).astype(np.int32))


COUNTS = drawn(150, 120)


def compiled(spec: dict, counts: sp.csr_matrix) -> np.ndarray:
    """What the readable source of a spec computes."""
    scope: dict = {}
    exec(compile_spec(spec), scope)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return scope["denoise"](counts.astype(np.float32))


def agree(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal within 1e-3, but where a value stood on the edge between two multiples that rounding chose from."""
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    off = ~np.isclose(ours, theirs, rtol=1e-3, atol=1e-6)
    assert off.mean() < 2e-4, f"{off.sum()} of {off.size} values differ"


# --- the space ------------------------------------------------------------------------------------------
@given(st.integers())
def test_a_drawn_spec_survives_the_round_trip(seed):
    spec = SPACE.random(Random(seed))
    found = parse(SPACE.dump(spec))
    assert found.dialect == "spec" and SPACE.parse(found.text) == spec


def test_the_fallback_is_magic_at_its_defaults():
    import inspect

    import magic

    defaults = {n: p.default for n, p in inspect.signature(magic.MAGIC).parameters.items()}
    assert SPACE.parse(SPACE.dump(FALLBACK)) == FALLBACK
    assert [FALLBACK[n] for n in ("pcs", "knn", "decay", "t", "solver")] == [
        defaults[n] for n in ("n_pca", "knn", "decay", "t", "solver")
    ]


def test_every_kind_of_change_is_in_the_space_and_fields_are_small():
    assert {f.kind for f in SPACE.fields} == {"parameter", "structure", "post-processing"}
    assert all(2 <= len(f.values) <= 8 for f in SPACE.fields)


@pytest.mark.parametrize(
    ("text", "kind", "part"),
    [
        (SPACE.dump(FALLBACK).replace('"knn":5', '"knn":4'), "bad_value", "'knn' is 4"),
        (SPACE.dump(FALLBACK).replace('"knn":5,', ""), "missing_field", "'knn'"),
        (SPACE.dump(FALLBACK).replace('"knn"', '"kn"'), "unknown_field", "Did you mean 'knn'?"),
        (SPACE.dump(FALLBACK).replace("false", "0"), "bad_value", "'reversed' is 0"),
        ("denoise", "unparsable", "JSON"),
        ("import numpy as np\n", "no_entry", "denoise(counts)"),
        ("def denoise(counts, test):\n    return counts\n", "no_entry", "one argument: counts"),
        ("def denoise(counts:\n    return counts\n", "syntax", "line"),
    ],
)
def test_what_is_no_solution_says_why(text, kind, part):
    with pytest.raises(InvalidSolution) as error:
        parse(text)
    assert error.value.kind == kind and part in str(error.value)


def test_code_is_kept_as_it_is_but_for_trailing_space():
    text = "import numpy as np  \n\n\ndef denoise(counts):\n    return counts * 1.0   \n\n"
    found = parse(text)
    assert found.dialect == "code" and found.text == "import numpy as np\n\n\ndef denoise(counts):\n    return counts * 1.0\n"
    assert check_code(found.text) == found.text


@given(st.integers())
@settings(max_examples=20)
def test_every_compiled_source_is_a_valid_code_solution(seed):
    source = compile_spec(SPACE.random(Random(seed)))
    assert parse(source).text == source
    assert max(map(len, source.splitlines())) <= 130


# --- the graph ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(("knn", "decay"), [(3, 1), (5, 40), (15, 2), (60, 10)])
def test_the_operator_is_that_of_graphtools(knn, decay, dense, monkeypatch):
    import graphtools

    monkeypatch.setattr(graph, "DENSE", 2048 if dense else 0)
    points, _ = graph.components(COUNTS.astype(float).sqrt(), 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = graphtools.Graph(points, knn=knn, knn_max=min(3 * knn, 149), decay=decay, thresh=1e-4, verbose=0).P.toarray()
    ours = graph.operator(*graph.neighbours(points, 150), knn, decay)
    assert sp.issparse(ours) != dense
    np.testing.assert_allclose(ours if dense else ours.toarray(), peer, rtol=1e-5, atol=1e-8)


# --- the engine against the compiled source -------------------------------------------------------------
def test_the_fallback_and_its_reverse_are_openproblems_magic():
    import magic
    import scprep

    for reverse in (False, True):
        x = scprep.utils.matrix_transform(COUNTS.astype(float), np.sqrt) if reverse else COUNTS.astype(float)
        x, library = scprep.normalize.library_size_normalize(x, rescale=1, return_library_size=True)
        x = x if reverse else scprep.utils.matrix_transform(x, np.sqrt)
        y = magic.MAGIC(random_state=0, verbose=0).fit_transform(x, genes="all_genes")
        y = y if reverse else np.square(y)
        y = scprep.utils.matrix_vector_elementwise_multiply(y, library, axis=0)
        y = np.square(y) if reverse else y
        np.testing.assert_allclose(Engine().denoise(COUNTS, FALLBACK | {"reversed": reverse}), y, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("how", SPACE.fields[0].values)
@pytest.mark.parametrize("solver", ["exact", "approximate"])
def test_engine_equals_the_compiled_source(how, solver):
    rng, engine = Random(how + solver), Engine()
    for _ in range(6):
        spec = SPACE.random(rng) | {"normalisation": how, "solver": solver}
        agree(engine.denoise(COUNTS, spec), compiled(spec, COUNTS))


@pytest.mark.parametrize("shape", [(70, 30), (30, 70), (12, 9)])
def test_engine_equals_the_compiled_source_where_components_and_neighbours_run_out(shape):
    counts, rng, engine = drawn(*shape, seed=2), Random(0), Engine()
    for _ in range(6):
        spec = SPACE.random(rng) | {"knn": rng.choice((3, 5, 10)), "pcs": rng.choice((50, 100))}
        agree(engine.denoise(counts, spec), compiled(spec, counts))


def test_more_cells_than_a_dense_operator_takes_change_nothing(monkeypatch):
    rng = Random(3)
    specs = [SPACE.random(rng) | {"round": "none"} for _ in range(5)]
    dense = [Engine().denoise(COUNTS, s) for s in specs]
    monkeypatch.setattr(graph, "DENSE", 0)
    for spec, before in zip(specs, dense, strict=True):
        np.testing.assert_allclose(Engine().denoise(COUNTS, spec), before, rtol=1e-3, atol=1e-6)


def test_an_answer_depends_on_nothing_that_was_asked_before():
    rng = Random(4)
    specs = [FALLBACK | {"t": t, "solver": s} for t in (8, 2, 5, 1) for s in ("exact", "approximate")]
    specs += [SPACE.random(rng) for _ in range(10)]
    shared, forgetful, other = Engine(), Engine(memory=1), drawn(90, 60, seed=5)
    for spec in specs:
        shared.denoise(other, FALLBACK)
        alone = Engine().denoise(COUNTS, spec)
        assert np.array_equal(shared.denoise(COUNTS, spec), alone)
        assert np.array_equal(shared.denoise(COUNTS.astype(float), spec), alone)
        assert np.array_equal(forgetful.denoise(COUNTS, spec), alone)


def test_memory_is_bounded_and_the_counts_are_left_alone():
    engine, rng, before = Engine(memory=2_000_000), Random(6), COUNTS.toarray()
    for _ in range(30):
        engine.denoise(COUNTS, SPACE.random(rng))
        assert engine.held <= 2_000_000
    assert np.array_equal(COUNTS.toarray(), before)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_an_answer_is_finite_and_not_negative_with_copies_and_empty_cells(seed):
    counts = COUNTS[:80].tolil()
    counts[3] = 0
    counts[7], counts[8] = counts[6], counts[6]
    y = Engine().denoise(counts.tocsr(), SPACE.random(Random(seed)))
    assert y.shape == counts.shape and np.isfinite(y).all() and (y >= 0).all()


@pytest.mark.parametrize("cells", [59, 60, 61])
def test_too_many_neighbours_are_refused_with_both_numbers(cells):
    with pytest.raises(InvalidSolution, match=f"'knn' is 60, but there are {cells} cells; expected at most {cells - 2}") as error:
        Engine().denoise(COUNTS[:cells], FALLBACK | {"knn": 60})
    assert error.value.kind == "bad_value"
    assert Engine().denoise(COUNTS[:62], FALLBACK | {"knn": 60}).shape == (62, 120)


# --- post-processing ------------------------------------------------------------------------------------
@given(values(1e-3, 50), values(0, 50), st.sampled_from((0.05, 0.2, 0.4)))
def test_blend_is_the_posterior_mean_of_a_gamma_prior(y, counts, share):
    shape = (1 - share) / share
    rate = shape / y
    np.testing.assert_allclose(postprocess.blend(y, counts, share), (shape + counts) / (rate + 1))
    np.testing.assert_allclose(postprocess.blend(np.ones(1), np.array([3.0]), share), 1 - share + share * 3)


@given(values(0.01, 50), st.sampled_from(("cell", "gene", "both", "none")))
def test_match_sums_matches_the_last_sums_it_names(y, which):
    cells, genes = np.arange(1.0, 5), np.array([2.0, 3.0, 5.0])
    out = postprocess.match_sums(y, cells, genes, which)
    if which in ("cell", "both"):
        np.testing.assert_allclose(out.sum(axis=1), cells)
    elif which == "gene":
        np.testing.assert_allclose(out.sum(axis=0), genes)
    else:
        assert np.array_equal(out, y)


def test_match_sums_leaves_a_gene_without_values_at_zero():
    out = postprocess.match_sums(np.array([[1.0, 0.0], [3.0, 0.0]]), np.ones(2), np.array([8.0, 5.0]), "gene")
    assert out.tolist() == [[2, 0], [6, 0]]


@given(values(0, 500), st.sampled_from((0.5, 2, 5)), st.sampled_from((0, 0.15, 0.4)))
def test_shrink_keeps_order_large_values_and_the_named_share_of_small_ones(y, below, keep):
    out = postprocess.shrink(y, below, keep)
    assert (out <= y * (1 + 1e-12)).all() and (out >= keep * y * (1 - 1e-12)).all()
    order = np.argsort(y.ravel())
    assert (np.diff(out.ravel()[order]) >= -1e-9).all()
    np.testing.assert_allclose(postprocess.shrink(np.array([below, 1e4 * below]), below, keep)[0], below * (1 + keep) / 2)
    np.testing.assert_allclose(postprocess.shrink(np.array([1e4 * below]), below, keep), 1e4 * below, rtol=1e-6)


@given(values(0, 100), st.sampled_from((0.05, 0.25, 1, 4, 20)))
def test_round_to_gives_the_nearest_multiple(y, step):
    out = postprocess.round_to(y, step)
    assert (np.abs(out - y) <= step / 2 + 1e-9).all()
    np.testing.assert_allclose(out / step, np.rint(out / step), atol=1e-9)
