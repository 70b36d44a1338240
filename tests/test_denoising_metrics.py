"""Measures, gates and peers of the denoising task, against oracles in plain floats, scanpy and scprep."""

import math
import warnings

import anndata
import numpy as np
import pytest
import scanpy
import scipy.sparse as sp
import scprep
from hypothesis import assume, given
from hypothesis import strategies as st
from magic import MAGIC
from sklearn.metrics import mean_squared_error

from sia_nb.errors import ConfigError
from sia_nb.store import data_dir
from sia_nb.tasks.denoising import gates, metrics, peers
from sia_nb.tasks.denoising.counts import pbmc68k
from sia_nb.tasks.denoising.files import Layout
from sia_nb.tasks.denoising.gates import Gate
from sia_nb.tasks.denoising.metrics import LOSSES, PANCREAS, PUBLISHED, Measures, Yardstick, mean_se, ratio_influence
from sia_nb.tasks.denoising.sources import SOURCES, obtain
from sia_nb.tasks.denoising.split import Split, benchmark


@pytest.fixture(scope="module")
def split():
    """A benchmark split of 150 blood cells."""
    return benchmark(pbmc68k()[0][:150])


@pytest.fixture(scope="module")
def yardstick(split):
    return Yardstick(split)


@st.composite
def small(draw):
    """(split, prediction) of a few cells and genes, as arrays of floats."""
    n, g = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    counts = st.lists(st.integers(0, 6), min_size=n * g, max_size=n * g)
    train, test = (np.array(draw(counts), dtype=float).reshape(n, g) for _ in range(2))
    y = np.array(draw(st.lists(st.floats(0, 20, width=32), min_size=n * g, max_size=n * g))).reshape(n, g)
    assume(train.sum() > 0 and test.sum() > 0 and not np.array_equal(train, test))
    return Split(sp.csr_matrix(train), sp.csr_matrix(test)), y


def by_hand(split, y):
    """The three losses in plain Python floats."""
    test, train, y = split.test.toarray().tolist(), split.train.toarray().tolist(), np.asarray(y, dtype=float).tolist()
    m = sum(map(sum, test)) / sum(map(sum, train))
    squares, right, swapped = [], [], []
    for y_row, t_row in zip(y, test, strict=True):
        for p, t in zip(y_row, t_row, strict=True):
            a, b = (math.log1p(1e4 * v / (sum(row) or 1)) for v, row in ((p, y_row), (t, t_row)))
            squares.append((a - b) ** 2)
            right.append(m * p - t * math.log(m * p + 1e-6))
            swapped.append(t - m * p * math.log(t + 1e-6))
    return dict(zip(LOSSES, (math.fsum(v) / len(v) for v in (squares, right, swapped)), strict=True))


# --- losses ---------------------------------------------------------------------------------------------
@given(small())
def test_losses_are_what_their_formulas_say(case):
    split, y = case
    yardstick = Yardstick(split)
    expected = by_hand(split, y)
    for prediction in (y, sp.csr_matrix(y)):
        found = yardstick.measure(prediction)
        for name in LOSSES:
            assert found.loss(name) == pytest.approx(expected[name], rel=1e-9, abs=1e-9)


@given(small())
def test_norms_are_0_for_the_train_counts_and_1_for_the_test_counts(case):
    split, _ = case
    yardstick = Yardstick(split)
    none, test = yardstick.measure(split.train), yardstick.measure(split.test)
    raw = by_hand(split, split.train.toarray())
    for name in ("mse", "poisson_openproblems"):
        perfect = by_hand(split, split.test.toarray())[name]
        if abs(raw[name] - perfect) > 1e-6:
            assert none.norm(name) == pytest.approx(0, abs=1e-6) and test.norm(name) == pytest.approx(1, abs=1e-6)


@given(small())
def test_no_prediction_has_a_lower_right_loss_than_the_test_molecules_in_scale(case):
    split, y = case
    yardstick = Yardstick(split)
    best = yardstick.measure(split.test.toarray() / yardstick.factor)
    assert best.loss("poisson") == pytest.approx(float(yardstick.perfect["poisson"].mean()), rel=1e-9, abs=1e-9)
    assert yardstick.measure(y).loss("poisson") >= best.loss("poisson") - 2e-6 * float(split.test.sum())


def test_mse_is_scanpys_normalisation_and_sklearns_error(split, yardstick):
    y = np.random.default_rng(0).gamma(0.5, 1.0, split.train.shape)
    logs = []
    for counts in (split.test.toarray().astype(float), y):
        cells = anndata.AnnData(counts.copy())
        scanpy.pp.normalize_total(cells, target_sum=1e4)
        scanpy.pp.log1p(cells)
        logs.append(cells.X)
    assert yardstick.measure(y).mse == pytest.approx(mean_squared_error(*logs), rel=1e-6)


def test_blocks_change_nothing(split, yardstick, monkeypatch):
    y = np.random.default_rng(1).random(split.train.shape, dtype=np.float32)
    whole = yardstick.measure(y)
    monkeypatch.setattr(metrics, "BLOCK", 7 * split.train.shape[1] + 3)
    parts = Yardstick(split).measure(y)
    for name in LOSSES:
        assert np.array_equal(parts.cells[name], whole.cells[name]) and parts.norm(name) == whole.norm(name)


def test_another_shape_is_refused(split, yardstick):
    with pytest.raises(ValueError, match="shape"):
        yardstick.measure(split.train[:-1])


def test_recalled_cells_give_the_same_figures(split, yardstick):
    found = yardstick.measure(peers.gene_means(split.train))
    assert yardstick.recall(found.cells).figures() == found.figures()


# --- standard errors ------------------------------------------------------------------------------------
def test_the_standard_error_of_a_norm_is_the_jackknifes(split, yardstick):
    found = yardstick.measure(peers.gene_means(split.train))
    for name in LOSSES:
        top, bottom = (found.none[name] - other[name] for other in (found.cells, found.perfect))
        left_out = (top.sum() - top) / (bottom.sum() - bottom)
        n = len(top)
        jackknife = math.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
        assert mean_se(found.influence(name)) == pytest.approx(jackknife, rel=0.05)
        assert found.influence(name).mean() == pytest.approx(0, abs=1e-9)


def test_an_influence_by_hand():
    assert ratio_influence(np.array([1.0, 3.0]), np.array([2.0, 2.0])) == pytest.approx([-0.5, 0.5])
    assert mean_se(np.array([-0.5, 0.5])) == pytest.approx(0.5) and mean_se(np.array([1.0])) == 0


# --- gates ----------------------------------------------------------------------------------------------
def made(mse_norm, right, swapped, spread=0.0):
    """Measures with these norms: no loss 1, a perfect one 0, in 40 cells of which half are better by ``spread``."""
    sign = np.tile([1.0, -1.0], 20)
    cells = {n: 1 - v - spread * sign for n, v in zip(LOSSES, (mse_norm, right, swapped), strict=True)}
    return Measures(cells, {n: np.ones(40) for n in LOSSES}, {n: np.zeros(40) for n in LOSSES})


def test_a_hard_gate_rejects_with_both_numbers():
    verdict = Gate("poisson_norm", 0.52).judge(made(0.3, 0.41, 0.99))
    assert (verdict.passes, verdict.value, verdict.reason) == (False, 0.0, "gate: poisson_norm 0.410 < 0.520")
    assert Gate("poisson_norm", 0.41).judge(made(0.3, 0.4100001, 0)).value == pytest.approx(0.3)


def test_the_published_gate_looks_at_the_swapped_measure_only():
    assert gates.published().judge(made(0.2, -3.0, 0.98)).value == pytest.approx(0.2)
    assert gates.published().judge(made(0.2, 0.9, 0.96)).reason == "gate: poisson_norm_openproblems 0.960 < 0.970"
    assert Gate("none").judge(made(0.2, -3, -3)).value == pytest.approx(0.2)


@given(st.floats(-1, 1), st.floats(-2, 0.999), st.floats(0.1, 1))
def test_the_soft_gate_is_its_formula_and_passing_always_pays(m, p, threshold):
    gate = Gate("poisson_norm", threshold, soft=True)
    found, z = gate.judge(made(m, p, 0)), m - 4 * max(0, threshold - p)
    if abs(p - threshold) > 1e-9:
        assert found.passes == (p > threshold) and not found.reason
        assert found.value == pytest.approx(z if z >= 0.02 else 0.02 / (1 + (0.02 - z) / 0.5), abs=1e-9)
    assert 0 < found.value <= gate.judge(made(m, threshold + 1e-9, 0)).value + 1e-9


@given(st.floats(-1, 0.05), st.floats(0, 0.09))
def test_a_threshold_near_or_below_0_still_leads_up(threshold, below):
    gate = Gate("poisson_norm", threshold, soft=True)
    far, near = (gate.judge(made(0.3, threshold - gap, 0)).value for gap in (below + 0.01, below / 2 + 0.001))
    assert 0 < far < near <= 0.3


def test_a_prediction_passes_the_gate_that_it_sets_itself_and_others_need_a_margin():
    reference = made(0.1, 0.5, 0.4)
    gate = gates.right(reference, margin=1.0)
    assert gate.judge(reference).passes
    above = made(0.1, 0.51, 0.4, spread=0.01)
    se = 0.01 * math.sqrt(40 / 39) / math.sqrt(40)
    assert gate.judge(above).threshold == pytest.approx(0.5 + se) and gate.judge(above).passes
    assert not gate.judge(made(0.1, 0.501, 0.4, spread=0.02)).passes
    assert gates.right(reference).judge(made(0.1, 0.501, 0.4, spread=0.02)).passes


@pytest.mark.parametrize(("m", "p"), [(0.9, 0.45), (0.3, 0.45), (-0.2, 0.7)])
def test_the_influence_on_a_soft_value_is_its_slope(m, p):
    gate = Gate("poisson_norm", 0.6, soft=True)
    base = made(m, p, 0.2, spread=0.01)
    step = gate.judge(made(m + 1e-6, p + 1e-6, 0.2)).value - gate.judge(made(m, p, 0.2)).value
    assert gate.judge(base).influence[0] == pytest.approx(0.01 * step / 1e-6, rel=1e-3)


def test_an_unknown_gate_is_named():
    with pytest.raises(ConfigError, match="'poison_norm' is no measure.*Did you mean 'poisson_norm'"):
        Gate("poison_norm")


# --- what the swapped measure lets through --------------------------------------------------------------
def test_scaling_a_prediction_down_passes_the_published_gate_and_fails_the_right_one(split, yardstick):
    honest = yardstick.measure(split.train)
    tiny = yardstick.measure(split.train * 1e-3)
    assert tiny.mse == pytest.approx(honest.mse, rel=1e-9)
    assert tiny.poisson_norm_openproblems > 0.97 and tiny.poisson_norm < 0


# --- peers ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reverse", [False, True])
def test_magic_is_openproblems_way_of_running_it(split, yardstick, reverse):
    """Its two normalisations by scprep, as the benchmark does."""
    x, steps = split.train.astype(float), [lambda v: scprep.utils.matrix_transform(v, np.sqrt)]
    size = []

    def library(v):
        v, total = scprep.normalize.library_size_normalize(v, rescale=1, return_library_size=True)
        size.append(np.asarray(total))
        return v

    for step in [*steps, library] if reverse else [library, *steps]:
        x = step(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = MAGIC(solver="exact", verbose=False, random_state=0).fit_transform(x, genes="all_genes")
    expected = np.square(np.asarray(y)) * size[0][:, None]
    assert np.allclose(peers.magic(split.train, reverse=reverse), expected, rtol=1e-6, atol=1e-12)


def test_knn_smoothing_sums_near_cells():
    """Three groups of five cells far apart: each cell becomes the sum over its group."""
    rng = np.random.default_rng(0)
    groups = np.kron(np.eye(3), np.full((1, 8), 30.0))
    counts = sp.csr_matrix(rng.poisson(np.repeat(groups, 5, axis=0)))
    found = peers.knn_smoothing(counts, k=4, pcs=3)
    expected = np.repeat([counts[i : i + 5].toarray().sum(axis=0) for i in (0, 5, 10)], 5, axis=0)
    assert np.array_equal(found, expected)


def test_alra_recovers_a_low_rank_and_keeps_what_was_counted():
    rng = np.random.default_rng(0)
    truth = rng.gamma(2, 1, (200, 2)) @ (rng.gamma(1, 1, (2, 120)) * (rng.random((2, 120)) < 0.7))
    seen = truth * (rng.random(truth.shape) < 0.7)
    found = peers.low_rank(seen, k=2)
    assert (found >= 0).all() and (found[seen > 0] > 0).all()
    hidden = (seen == 0) & (truth > 0)
    assert np.corrcoef(found[hidden], truth[hidden])[0, 1] > 0.9
    assert (found[hidden] > 0).mean() > 0.9 and (found[truth == 0] == 0).mean() > 0.5


def test_alra_takes_the_last_singular_value_before_an_even_tail():
    tail = 20 - 0.1 * np.arange(97) + 0.001 * np.sin(np.arange(97))
    assert peers.rank(np.array([90.0, 60, 35, *tail])) == 3 and peers.rank(tail) == 1


def test_gene_means_and_scaling_by_hand():
    train = sp.csr_matrix([[1, 0, 3], [2, 2, 0]])
    assert peers.gene_means(train) == pytest.approx(np.array([[1.5, 1, 1.5], [1.5, 1, 1.5]]))
    assert peers.scaled(np.array([[1.0, 1, 2], [0, 0, 0]]), train) == pytest.approx(np.array([[1, 1, 2], [0, 0, 0]]))


def test_the_table_states_published_scores_beside_ours(split):
    rows = {row["method"]: row for row in peers.table(split)}
    assert set(peers.METHODS) <= set(rows) and {"DCA", "TTT-Discover"} <= set(rows)
    assert rows["MAGIC"]["published"] == {"pancreas": (0.239, 0.590), "pbmc1k": (0.304, 0.541), "lung": (0.296, 0.5)}
    assert rows["DCA"]["mse_norm"] is None and rows["raw counts"]["mse_norm"] == 0 == rows["raw counts"]["poisson_norm"]
    assert rows["MAGIC"]["mse_norm"] > 0 and 0.4 < rows["MAGIC"]["poisson_norm"] < 0.6
    off, on = rows["MAGIC, reversed normalisation"], rows["MAGIC, reversed normalisation, scaled to train"]
    assert off["mse_norm"] == pytest.approx(on["mse_norm"], rel=1e-9)
    assert off["poisson_norm_openproblems"] > 0.97 > on["poisson_norm"] > 0.4 > off["poisson_norm"]
    assert rows["KNN smoothing"]["poisson_norm_openproblems"] < -5


# --- the paper's own data -------------------------------------------------------------------------------
def pancreas(folder) -> Split:
    """The benchmark's split of the pancreas, where its file has been downloaded."""
    path = Layout(data_dir()).download("pancreas.h5ad")
    if not path.is_file():
        pytest.skip(f"{path} is not there; `python -m sia_nb data --task denoising --instance pancreas` downloads it")
    counts, _ = obtain(SOURCES["pancreas"], Layout(folder), path, lambda line: None)
    return benchmark(counts)


def test_the_published_constants_and_magics_published_pair_on_the_pancreas(tmp_path):
    yardstick = Yardstick(split := pancreas(tmp_path))
    for name, (none, perfect) in PANCREAS.items():
        assert float(yardstick.none[name].mean()) == pytest.approx(none, abs=5e-7)
        assert float(yardstick.perfect[name].mean()) == pytest.approx(perfect, abs=5e-7)
    found = yardstick.measure(peers.magic(split.train, reverse=True))
    mse_norm, poisson = PUBLISHED["pancreas"]["MAGIC, reversed normalisation"]
    assert round(found.mse_norm, 3) == pytest.approx(mse_norm, abs=6e-4)
    assert round(found.poisson_norm_openproblems, 3) == poisson
