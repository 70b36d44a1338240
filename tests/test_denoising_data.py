"""The denoising task's data: recovered counts, simulated truth, splits, instances, prepared files, h5ad files, downloads."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sia_nb import cli
from sia_nb.errors import ConfigError, DataError
from sia_nb.study import make_plan
from sia_nb.tasks.denoising import counts, data, h5ad, sources
from sia_nb.tasks.denoising.files import Layout, read_counts, write_counts
from sia_nb.tasks.denoising.instances import FILE, PARTS, SYNTHETIC, WHOLE, halves, instances, piles
from sia_nb.tasks.denoising.simulate import simulate
from sia_nb.tasks.denoising.split import Split, benchmark, canonical, enough, molecular, tidy

matrices = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.integers(0, 40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with every offline instance of seed 0."""
    path = tmp_path_factory.mktemp("denoising")
    data.fetch(path, say=lambda line: None)
    return path


@pytest.fixture
def copied(folder, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(folder, tmp_path / "data")
    return tmp_path / "data"


# --- recovered counts -------------------------------------------------------------------------------------
def test_blood_counts_agree_with_the_library_sizes_that_scanpy_ships():
    import scanpy

    found, cells, genes = counts.pbmc68k()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shipped = scanpy.datasets.pbmc68k_reduced()
    # the logarithms are of counts scaled to 10,000 a cell, over all genes: an oracle that from_logs does not use
    logs = shipped.raw.X.toarray().astype(float)
    oracle = np.rint(np.expm1(logs) * shipped.obs["n_counts"].to_numpy(float)[:, None] / 1e4)
    assert found.shape == (700, 765) and found.dtype == np.int32
    assert np.array_equal(found.toarray(), oracle)
    assert cells == list(shipped.obs_names) and genes == list(shipped.raw.var_names)


@given(matrices, st.integers(0, 2**32 - 1))
def test_counts_come_back_from_their_logarithms(x, seed):
    x[:, 0] = 1  # every cell has a gene counted once
    scales = np.random.RandomState(seed).uniform(0.5, 30, len(x))
    assert np.array_equal(counts.from_logs(np.log1p(x * scales[:, None])).toarray(), x)


def test_logarithms_of_no_counts_are_refused():
    with pytest.raises(DataError, match=r"cell 1 holds 1.500 times"):
        counts.from_logs(np.log1p([[1.0, 2.0], [2.0, 3.0]]))
    with pytest.raises(DataError, match="negative or non-finite"):
        counts.from_logs(np.array([[-1.0]]))
    assert counts.from_logs(sp.csr_matrix((2, 3))).nnz == 0


def test_another_scanpy_copy_is_refused(monkeypatch):
    monkeypatch.setattr(counts, "COUNTS_SHA", "0" * 64)
    with pytest.raises(DataError, match=r"recovered counts have SHA-256 cbfe0b42.*expected 0000"):
        counts.pbmc68k()


# --- split ------------------------------------------------------------------------------------------------
@given(matrices, st.floats(0.05, 0.95), st.integers(0, 2**32 - 1))
def test_every_molecule_is_in_train_or_test(x, share, seed):
    split = molecular(sp.csr_matrix(x), np.random.RandomState(seed), share)
    assert np.array_equal((split.train + split.test).toarray(), x)
    for half in (split.train, split.test):
        assert half.data.size == 0 or half.data.min() > 0  # nothing negative, no stored zero
        assert half.has_sorted_indices and half.shape == x.shape


def test_train_gets_its_share_of_the_molecules():
    x = np.full((200, 100), 10)
    split = molecular(sp.csr_matrix(x), np.random.RandomState(1))
    values = split.train.toarray()
    assert values.mean() == pytest.approx(9.0, abs=5 * np.sqrt(10 * 0.9 * 0.1 / x.size))
    assert values.var() == pytest.approx(10 * 0.9 * 0.1, rel=0.05)  # binomial, not all or nothing


def openproblems(x, seed):
    """The benchmark's published procedure on dense counts, written again."""
    x = x[:, (x > 0).sum(axis=0) >= 1]
    x = x[x.sum(axis=1) >= 2]
    train = np.random.RandomState(seed).binomial(x, 0.9)
    seen = train.sum(axis=0) > 0
    return train[:, seen], (x - train)[:, seen]


@given(matrices, st.integers(0, 2**32 - 1))
def test_the_benchmarks_split_is_reproduced_draw_for_draw(x, seed):
    split = benchmark(sp.csr_matrix(x), seed)
    train, test = openproblems(x, seed)
    assert np.array_equal(split.train.toarray(), train) and np.array_equal(split.test.toarray(), test)


@given(matrices)
def test_filters(x):
    cells, genes = enough(sp.csr_matrix(x))
    assert set(genes) == {g for g in range(x.shape[1]) if x[:, g].any()}
    assert set(cells) == {c for c in range(x.shape[0]) if x[c].sum() >= 2}
    out = tidy(Split(sp.csr_matrix(x), sp.csr_matrix(np.ones_like(x))))
    assert (out.train.sum(axis=0) > 0).all() and out.train.shape == out.test.shape


def test_canonical_sums_duplicates_and_leaves_its_input():
    given_ = sp.csr_matrix((np.array([1, 2, 0]), np.array([1, 1, 0]), np.array([0, 3])), shape=(1, 2))
    assert canonical(given_).toarray().tolist() == [[0, 3]] and canonical(given_).nnz == 1 and given_.nnz == 3


# --- simulator --------------------------------------------------------------------------------------------
def test_simulated_counts_have_the_mean_and_variance_of_their_truth():
    made = simulate(400, 500, 3, depth=2000, dispersion=0.3, dropout=0.0, seed=4)
    x, rates = made.counts.toarray(), made.rates
    standard = (x - rates) / np.sqrt(rates + 0.3 * rates**2)
    assert standard.mean() == pytest.approx(0, abs=5 / np.sqrt(x.size))
    assert (standard[rates > 1] ** 2).mean() == pytest.approx(1, abs=0.03)
    assert np.median(rates.sum(axis=1)) == pytest.approx(2000, rel=0.1)


def test_poisson_where_the_dispersion_is_zero():
    made = simulate(300, 300, 2, depth=2000, dispersion=0.0, dropout=0.0, seed=1)
    x, rates = made.counts.toarray(), made.rates
    assert ((x - rates) ** 2 / rates)[rates > 1].mean() == pytest.approx(1, abs=0.03)


def test_dropout_takes_what_it_says_and_weak_genes_first():
    one, none = (simulate(400, 400, 2, depth=2000, dispersion=0.2, dropout=d, seed=5) for d in (0.6, 0.0))
    assert np.array_equal(one.rates, none.rates) and np.array_equal(one.types, none.types)  # the same truth
    x, rates = one.counts.toarray(), one.rates
    expected = rates * (1 - 0.6 / (1 + rates))
    for low, high in ((0, 1), (1, 5), (5, np.inf)):
        these = (rates >= low) & (rates < high)
        assert x[these].sum() == pytest.approx(expected[these].sum(), rel=0.03)


def test_cells_of_a_type_share_their_profile_and_types_differ():
    made = simulate(60, 200, 4, depth=1000, dispersion=0.1, dropout=0.1, seed=2)
    profiles = made.rates / made.rates.sum(axis=1, keepdims=True)
    assert set(made.types) == {0, 1, 2, 3}
    firsts = [profiles[made.types == k] for k in range(4)]
    assert all(np.allclose(p, p[0]) for p in firsts)
    assert all(np.abs(firsts[i][0] - firsts[j][0]).sum() > 0.1 for i in range(4) for j in range(i))
    again = simulate(60, 200, 4, depth=1000, dispersion=0.1, dropout=0.1, seed=2)
    assert np.array_equal(again.counts.toarray(), made.counts.toarray())


@pytest.mark.parametrize(
    "name,value",
    [("cells", 0), ("genes", 0), ("types", 9), ("depth", 0), ("depth", float("nan")), ("dispersion", -1), ("dropout", 1.0)],
)
def test_simulator_refuses_what_is_out_of_range(name, value):
    good = {"cells": 8, "genes": 5, "types": 2, "depth": 100, "dispersion": 0.1, "dropout": 0.1, "seed": 0}
    with pytest.raises(ConfigError, match=f"simulate: {name}: {value}"):
        simulate(**(good | {name: value}))


# --- instances --------------------------------------------------------------------------------------------
def test_what_is_declared():
    known = instances()
    assert known[0].name == WHOLE and len({i.name for i in known}) == len(known)
    assert sum(i.offline and not i.held_out for i in known[1:]) == 14 and sum(i.held_out for i in known) == 6
    assert [i.name for i in known if not i.offline] == ["pancreas", "pbmc1k", "lung"]
    assert not any(i.held_out and not i.offline for i in known)
    assert all("\n" not in i.description and len(i.description) < 120 for i in known)


def test_a_study_takes_no_instance_that_must_be_downloaded(monkeypatch):
    class Stub:
        name = "denoising"
        instances = instances()

    monkeypatch.setattr("sia_nb.study.get_task", lambda name: Stub)
    plan = make_plan("full", task="denoising")
    assert len(plan.train) == 14 and len(plan.held_out) == 6
    assert not {"pancreas", "pbmc1k", "lung", WHOLE} & {*plan.train, *plan.held_out}


def test_descriptions_tell_the_truth(folder):
    frozen = json.loads(FILE.read_text())
    assert list(frozen) == list(data.OFFLINE)
    for instance in (i for i in instances() if i.offline):
        x = data.train(Layout(folder), instance.name).toarray()
        for wanted in (
            f"{len(x)} cells x {x.shape[1]} genes",
            f"median {round(np.median(x.sum(axis=1)))} counts",
            f"{round(100 * (x == 0).mean())} % zeros",
        ):
            assert wanted in instance.description, (instance, wanted)


def test_held_out_instances_share_no_cell_with_training_ones():
    blood = counts.pbmc68k()[0].toarray()
    dealt = piles(700)
    assert not set(dealt[True]) & set(dealt[False]) and len(set(dealt[True]) | set(dealt[False])) == 700
    assert len(np.unique(blood, axis=0)) == 700  # so that a cell is known by its counts


def test_no_cell_is_in_both_halves(folder):
    sides = [[halves(members, "blood", held_out, 0)[side] for held_out, members in piles(700).items()] for side in (0, 1)]
    loop, sealed = (set(np.concatenate(parts)) for parts in sides)
    assert len(loop) == len(sealed) == 350 and not loop & sealed
    # the files say so too: in them a cell is known by its counts, over the genes that both of them keep
    blood, layout = counts.pbmc68k()[0].toarray(), Layout(folder)
    for cells, split in ((loop, data.dev(layout, WHOLE)), (sealed, data.sealed(layout, WHOLE))):
        genes = [g for g in range(765) if blood[sorted(cells), g].any()]
        assert 750 < split.train.shape[1] <= len(genes)
        totals = np.asarray((split.train + split.test).sum(axis=1)).ravel()
        whole = blood[sorted(cells)].sum(axis=1)
        assert ((totals <= whole) & (totals > whole - 5)).all()


def test_no_test_molecule_is_in_a_public_file(folder):
    """Public train files of instances that share cells must not add up to more than the train molecules of those cells."""
    layout, blood = Layout(folder), counts.pbmc68k()[0]
    for held_out in (False, True):
        cells = halves(piles(700)[held_out], "blood", held_out, 0)[0]
        train = molecular(blood[cells], data.stream("split", "blood", held_out, 0, 0)).train.toarray()
        rows = {row.tobytes() for row in train}
        assert len(rows) == len(train)
        whole_genes = 0
        for part in (p for p in PARTS if p.held_out == held_out and p.depth == 1 and p.genes == 765):
            found = data.train(layout, part.name).toarray()
            seen = train[np.sort(data.stream("cells", part.name, 0, 0).permutation(len(cells))[: part.cells])]
            seen = seen[:, seen.any(axis=0)]
            assert np.array_equal(found, seen), part  # the very molecules of the one split
            whole_genes += 1
        assert whole_genes
    # and the whole instance's are these too, both piles together
    found = data.train(layout, WHOLE).toarray()
    parts = [halves(m, "blood", h, 0)[0] for h, m in piles(700).items()]
    trains = [
        molecular(blood[c], data.stream("split", "blood", h, 0, 0)).train.toarray()
        for h, c in zip(piles(700), parts, strict=True)
    ]
    every = np.concatenate(trains)[np.argsort(np.concatenate(parts))]
    assert np.array_equal(found, every[:, every.any(axis=0)])


def test_parts_are_cut_from_molecules_that_were_split_once(folder):
    """Column by column: the train molecules of a part never exceed, in any cell, those of the cell it comes from."""
    from sia_nb.tasks.denoising.instances import cut, genes_of

    blood = counts.pbmc68k()[0]
    for part in (p for p in PARTS if p.name in ("pbmc-120", "pbmc-240-quarter", "held-pbmc-80-top-400")):
        loop, other = halves(piles(700)[part.held_out], "blood", part.held_out, 0)
        split = molecular(blood[loop], data.stream("split", "blood", part.held_out, 0, 0))
        genes = genes_of(part, split.train)
        made = tidy(cut(part, split, genes, 0, 0))
        assert np.array_equal(made.train.toarray(), data.train(Layout(folder), part.name).toarray())
        rows = data.stream("cells", part.name, 0, 0).permutation(len(loop))[: part.cells]
        full = split.take(np.sort(rows), genes)
        thin = cut(part, split, genes, 0, 0)
        assert (thin.train.toarray() <= full.train.toarray()).all() and (thin.test.toarray() <= full.test.toarray()).all()
        left = (thin.train.sum() + thin.test.sum()) / (full.train.sum() + full.test.sum())
        assert left == pytest.approx(part.depth, abs=0.02)
        assert not set(loop[rows]) & set(other)


def test_simulated_instances_are_what_the_simulator_draws(folder):
    for shape in SYNTHETIC[:2]:
        truth = shape.simulated()
        loop, sealed = halves(np.arange(2 * shape.cells), shape.name, 0)
        assert not set(loop) & set(sealed) and len(loop) == len(sealed) == shape.cells
        split = data.dev(Layout(folder), shape.name)
        x = truth.counts[loop].toarray()
        assert (split.train + split.test).sum() == pytest.approx(x.sum(), rel=1e-3)  # but for genes that train never saw
        assert split.train.shape == (shape.cells, split.test.shape[1])


# --- prepared files ---------------------------------------------------------------------------------------
def test_fetch_again_is_quick_and_gives_the_same_bytes(folder, tmp_path):
    said = []
    first = data.fetch(folder, say=said.append)
    assert not said and set(first["instances"]) == set(data.OFFLINE)
    again = data.fetch(tmp_path, say=said.append)
    assert again == first and said
    for name, digest in first["files"].items():
        assert hashlib.sha256((tmp_path / "denoising" / "seed_0" / name).read_bytes()).hexdigest() == digest


def test_another_seed_deals_other_cells(folder, tmp_path):
    one, two = (halves(piles(700)[False], "blood", False, seed)[0] for seed in (0, 1))
    assert 80 < len(set(one) & set(two)) < 165  # of 245; by chance half of them
    data.fetch(tmp_path, seed=1, say=lambda line: None)
    assert data.sealed(Layout(tmp_path, 1), WHOLE).train.sum() != data.sealed(Layout(folder), WHOLE).train.sum()
    with pytest.raises(DataError, match="seed_1 is not prepared"):
        data.train(Layout(folder, 1), WHOLE)


def test_public_files_hold_train_molecules_and_nothing_else(folder):
    layout = Layout(folder)
    names = {p.name for p in layout.public.iterdir()}
    assert names == {f"{n}.npz" for n in data.OFFLINE} | {"manifest.json"}
    for path in layout.public.glob("*.npz"):
        with np.load(path) as parts:
            assert {n.split("_")[0] for n in parts} == {"train"}
    assert {p.name for p in layout.private.iterdir()} == {f"{n}-{s}.npz" for n in data.OFFLINE for s in ("dev", "sealed")}
    assert not str(layout.private).startswith(str(layout.public))


def test_readers_agree_with_the_manifest(folder):
    layout = Layout(folder)
    for name, sizes in data.current(layout)["instances"].items():
        loop, sealed = data.dev(layout, name), data.sealed(layout, name)
        assert loop.train.shape == loop.test.shape == (sizes["cells"], sizes["genes"])
        assert sealed.train.shape == sealed.test.shape == (sizes["sealed_cells"], sizes["sealed_genes"])
        assert (loop.train != data.train(layout, name)).nnz == 0
        for split in (loop, sealed):
            assert split.train.dtype == split.test.dtype == np.int32
            assert (split.train.sum(axis=0) > 0).all() and ((split.train + split.test).sum(axis=1) >= 1).all()
            share = split.train.sum() / (split.train.sum() + split.test.sum())
            assert share == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("where,reader", [("train", data.train), ("dev", data.dev), ("sealed", data.sealed)])
def test_altered_and_missing_files_are_named(copied, where, reader):
    layout = Layout(copied)
    path = getattr(layout, where)("pbmc-80")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    fetch = [lambda: data.fetch(copied)] if where != "sealed" else []  # the sealed cells are unopened till the report
    for call in (lambda: reader(layout, "pbmc-80"), *fetch):
        with pytest.raises(DataError, match=rf"{path.name} was altered: found SHA-256 \w+, expected \w+. Delete it and run"):
            call()
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name} cannot be read.*sia_nb data --task denoising"):
        reader(layout, "pbmc-80")
    assert data.current(layout) is None
    data.fetch(copied, say=lambda line: None)
    assert path.read_bytes() == whole


def test_a_damaged_or_foreign_manifest_is_named(copied):
    layout = Layout(copied)
    good = layout.manifest.read_text()
    layout.manifest.write_text(good[:50])
    with pytest.raises(DataError, match="manifest.json is cut short or damaged"):
        data.train(layout, WHOLE)
    layout.manifest.write_text(json.dumps(json.loads(good) | {"format": 99}))
    assert data.current(layout) is None
    with pytest.raises(DataError, match="has format 99, expected"):
        data.train(layout, WHOLE)


@given(matrices, matrices)
@settings(max_examples=20)
def test_counts_files_round_trip(tmp_path_factory, a, b):
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    digest = write_counts(path, train=sp.csr_matrix(a), test=sp.csr_matrix(b))
    one, two = read_counts(path, digest, "train", "test")
    assert np.array_equal(one.toarray(), a) and np.array_equal(two.toarray(), b) and one.dtype == np.int32
    with pytest.raises(DataError, match="holds no such counts"):
        read_counts(path, digest, "other")


def test_unknown_instances_and_files_without_one(tmp_path, folder):
    with pytest.raises(ConfigError, match="'pancrea' is not known. Did you mean 'pancreas'"):
        data.fetch(tmp_path, instance="pancrea")
    for name in ("", WHOLE):
        with pytest.raises(ConfigError, match="expected one of pancreas, pbmc1k, lung"):
            data.fetch(tmp_path, instance=name, file=tmp_path / "x.h5ad")
    with pytest.raises(
        DataError, match=r"no instance 'pancreas'. Run `python -m sia_nb data --task denoising --instance pancreas`"
    ):
        data.train(Layout(folder), "pancreas")


# --- h5ad -------------------------------------------------------------------------------------------------
X = np.array([[1, 0, 3], [0, 2, 0], [4, 0, 5], [0, 1, 1]], dtype=np.float32)


def write_h5ad(path, x, *, cells=None, genes=None, raw=None, layers=None, obs=None):
    """An h5ad file with these matrices."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = anndata.AnnData(x, layers=layers)
        made.obs_names = cells or [f"c{i}" for i in range(made.n_obs)]
        made.var_names = genes or [f"g{i}" for i in range(made.n_vars)]
        for column, values in (obs or {}).items():
            made.obs[column] = values
        if raw is not None:
            made.raw = anndata.AnnData(raw, obs=made.obs, var=made.var)
        made.write_h5ad(path)
    return path


@pytest.mark.parametrize(
    "layout", [np.ascontiguousarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_counts_are_read_in_any_layout(tmp_path, layout, dtype):
    found, cells, genes = h5ad.read_counts(write_h5ad(tmp_path / "x.h5ad", layout(X.astype(dtype))))
    assert np.array_equal(found.toarray(), X) and found.dtype == np.int32 and isinstance(found, sp.csr_matrix)
    assert cells == ["c0", "c1", "c2", "c3"] and genes == ["g0", "g1", "g2"] and found.has_sorted_indices


def test_where_counts_are_looked_for(tmp_path):
    logs, path = np.log1p(X), tmp_path / "x.h5ad"
    for parts in ({"x": logs, "layers": {"counts": X}}, {"x": logs, "raw": X}, {"x": X, "raw": logs}, {"x": X - 1, "raw": X}):
        assert np.array_equal(h5ad.read_counts(write_h5ad(path, **parts))[0].toarray(), X)
    with pytest.raises(DataError, match=r"x.h5ad holds no counts: layers\['counts'\]: no whole number: 0.693147 at cell 'c0'"):
        h5ad.read_counts(write_h5ad(path, X, layers={"counts": logs}))  # named counts, so nothing else is tried
    with pytest.raises(
        DataError, match=r"holds no counts: raw.X: no whole number.*; X: negative: -1 at cell 'c0' \(row 0\), gene 'g1'"
    ):
        h5ad.read_counts(write_h5ad(path, X - 1, raw=logs))


@pytest.mark.parametrize("value,what", [(-3, "negative: -3"), (1.5, "no whole number: 1.5"), (np.nan, "not finite: nan"),
                                        (np.inf, "not finite: inf"), (2.0**40, r"too large: 1.09951e\+12")])  # fmt: skip
@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_a_bad_count_is_named_with_its_place(tmp_path, value, what, layout):
    x = X.astype(np.float64)
    x[2, 1] = value
    with pytest.raises(DataError, match=rf"x.h5ad holds no counts: X: {what} at cell 'c2' \(row 2\), gene 'g1' \(column 1\)"):
        h5ad.read_counts(write_h5ad(tmp_path / "x.h5ad", layout(x)))


@given(matrices.filter(lambda x: x.any()), st.sampled_from([np.asarray, sp.csr_matrix, sp.csc_matrix]))
@settings(max_examples=20)
def test_any_counts_are_read_as_they_are(tmp_path_factory, x, layout):
    path = write_h5ad(tmp_path_factory.mktemp("h5ad") / "x.h5ad", layout(x))
    assert np.array_equal(h5ad.read_counts(path, strict=False)[0].toarray(), x)


def test_empty_cells_and_genes(tmp_path):
    x = X.copy()
    x[1] = 0
    path = write_h5ad(tmp_path / "x.h5ad", x)
    with pytest.raises(
        DataError, match=r"1 of 4 cells have no count, the first is 'c1' \(number 1\). Drop them \(scanpy's pp.filter_cells"
    ):
        h5ad.read_counts(path)
    assert h5ad.read_counts(path, strict=False)[0].shape == (4, 3)
    x = X.copy()
    x[:, 2] = 0
    with pytest.raises(DataError, match=r"1 of 3 genes have no count, the first is 'g2'"):
        h5ad.read_counts(write_h5ad(path, x))
    for nothing in (np.zeros((2, 3)), np.zeros((0, 3)), np.zeros((2, 0))):
        with pytest.raises(DataError, match="without a single count"):
            h5ad.read_counts(write_h5ad(path, nothing.astype(np.float32)), strict=False)


def test_names_that_stand_twice(tmp_path):
    path = write_h5ad(tmp_path / "x.h5ad", X, genes=["a", "b", "a"])
    with pytest.raises(DataError, match=r"gene name 'a' stands twice, at 0 and 2"):
        h5ad.read_counts(path)
    assert h5ad.read_counts(path, strict=False)[2] == ["a", "b", "a"]
    write_h5ad(path, X, cells=["a", "b", "b", "a"])
    for strict in (True, False):
        with pytest.raises(DataError, match=r"cell name 'b' stands twice, at 1 and 2; 2 names in all"):
            h5ad.read_counts(path, strict=strict)


def test_files_that_are_cut_short_or_something_else(tmp_path):
    import h5py

    path = write_h5ad(tmp_path / "x.h5ad", sp.csr_matrix(X))
    whole = path.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"x.h5ad is truncated or no HDF5 file \({size:,} bytes"):
            h5ad.read_counts(path)
    path.write_text("cell,gene\n")
    with pytest.raises(DataError, match="no HDF5 file"):
        h5ad.read_counts(path)
    with pytest.raises(DataError, match="nowhere.h5ad: no such file"):
        h5ad.read_counts(tmp_path / "nowhere.h5ad")
    with h5py.File(path, "w") as file:
        file["something"] = 1
    with pytest.raises(DataError, match=r"is no h5ad file: it holds \['something'\]"):
        h5ad.read_counts(path)


def test_a_sparse_matrix_with_impossible_indices_is_damaged(tmp_path):
    import h5py

    for layout in (sp.csr_matrix, sp.csc_matrix):
        path = write_h5ad(tmp_path / "x.h5ad", layout(X))
        with h5py.File(path, "a") as file:
            file["X/indices"][0] = 1000
        with pytest.raises(DataError, match="damaged"):
            h5ad.read_counts(path)


def test_a_file_without_any_matrix(tmp_path):
    path = write_h5ad(tmp_path / "x.h5ad", None, cells=None, layers={"other": sp.csr_matrix(X)})
    with pytest.raises(DataError, match="holds no counts: neither X nor layers"):
        h5ad.read_counts(path)


def test_only_some_cells_are_read_and_checked(tmp_path):
    x = X.copy()
    x[3, 0] = 0.5  # another technology's, no count
    path = write_h5ad(tmp_path / "x.h5ad", x, obs={"tech": ["a", "a", "b", "c"]})
    found, cells, _ = h5ad.read_counts(path, keep=("tech", "a"))
    assert cells == ["c0", "c1"] and np.array_equal(found.toarray(), X[:2])
    with pytest.raises(DataError, match=r"no cell has tech = 'd'. Found: \['a', 'b', 'c'\]"):
        h5ad.read_counts(path, keep=("tech", "d"))
    with pytest.raises(DataError, match=r"obs has no column 'tec'. Did you mean 'tech'"):
        h5ad.read_counts(path, keep=("tec", "a"))


# --- downloads --------------------------------------------------------------------------------------------
def pancreas_like(path, cells=30, genes=40):
    """A small file laid out as the benchmark's pancreas: logarithms in X, counts in a layer, several technologies."""
    x = np.random.RandomState(3).poisson(1.0, (cells + 5, genes)).astype(np.float32)
    x[:, 0], x[cells:, 1] = 2, 0.5
    return write_h5ad(
        path, sp.csr_matrix(np.log1p(x)), layers={"counts": sp.csr_matrix(x)}, obs={"tech": ["inDrop1"] * cells + ["smarter"] * 5}
    )


@pytest.fixture
def small(monkeypatch):
    """The pancreas' place taken by a set of 30 cells and 40 genes at an address where nobody answers."""
    source = replace(sources.SOURCES["pancreas"], url="http://127.0.0.1:9/pancreas.h5ad", cells=30, genes=40)
    monkeypatch.setitem(sources.SOURCES, "pancreas", source)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return source


def test_offline_the_download_says_what_to_do(small, copied):
    with pytest.raises(
        DataError,
        match=r"pancreas.h5ad could not be downloaded from http://127.0.0.1:9.*refused.*--instance pancreas --file PATH",
    ):
        data.fetch(copied, instance="pancreas", say=lambda line: None)
    assert not [p for p in (copied / "downloads").rglob("*") if p.is_file()]


def test_a_file_at_hand(small, copied, tmp_path):
    path, layout = pancreas_like(tmp_path / "mine.h5ad"), Layout(copied)
    report = data.fetch(copied, instance="pancreas", file=path, say=lambda line: None)
    entry = report["instances"]["pancreas"]
    assert entry["source"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (entry["cells"], entry["sealed_cells"]) == (15, 15) and data.current(layout) == report
    loop, sealed = data.dev(layout, "pancreas"), data.sealed(layout, "pancreas")
    x = anndata.read_h5ad(path).layers["counts"].toarray()[:30].astype(int)
    assert loop.train.sum() + loop.test.sum() + sealed.train.sum() + sealed.test.sum() == pytest.approx(x.sum(), abs=20)
    split, (train, test) = data.published(layout, "pancreas"), openproblems(x, 0)
    assert np.array_equal(split.train.toarray(), train) and np.array_equal(split.test.toarray(), test)
    path.unlink()  # the counts are kept: another seed, and a loss, need neither file nor network
    assert "pancreas" in data.fetch(copied, seed=2, instance="pancreas", say=lambda line: None)["instances"]
    layout.train(WHOLE).unlink()
    assert data.fetch(copied, say=lambda line: None) == report
    layout.train("pancreas").unlink()
    assert "pancreas" not in data.fetch(copied, say=lambda line: None)["instances"]
    assert data.fetch(copied, instance="pancreas", say=lambda line: None)["files"] == report["files"]


def test_another_data_set_is_not_taken_for_the_benchmarks(small, copied, tmp_path):
    path = pancreas_like(tmp_path / "mine.h5ad", cells=29)
    with pytest.raises(DataError, match=r"29 cells x 40 genes after the filters; the benchmark has 30 cells x 40 genes"):
        data.fetch(copied, instance="pancreas", file=path, say=lambda line: None)
    with pytest.raises(DataError, match="gone.h5ad: no such file"):
        data.fetch(copied, instance="pancreas", file=tmp_path / "gone.h5ad", say=lambda line: None)
    assert "pancreas" not in data.current(Layout(copied))["instances"]


def test_a_file_in_the_downloads_folder_is_recorded_and_held_to_it(small, copied):
    path = Layout(copied).download("pancreas.h5ad")
    path.parent.mkdir(parents=True)
    pancreas_like(path)
    data.fetch(copied, instance="pancreas", say=lambda line: None)
    note = json.loads(path.with_name("pancreas.h5ad.json").read_text())
    assert note == {"sha256": sources.hash_file(path), "bytes": path.stat().st_size}
    shutil.rmtree(Layout(copied).sources)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"pancreas.h5ad was altered: found SHA-256 \w+, at its first use \w+"):
        data.fetch(copied, seed=3, instance="pancreas", say=lambda line: None)


@pytest.fixture
def server(tmp_path):
    """Serves what a test puts into ``answers``: path to (status, headers, body)."""
    answers = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answers[self.path]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", answers
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_download(small, server, tmp_path):
    url, answers = server
    source, target = replace(small, url=f"{url}/file"), tmp_path / "down" / "pancreas.h5ad"
    body = pancreas_like(tmp_path / "a.h5ad").read_bytes()
    for status, headers, sent, what in (
        (200, {"Content-Length": str(len(body) + 5)}, body, f"cut short: {len(body):,} of {len(body) + 5:,} bytes"),
        (200, {}, b"<html>no</html>", "no HDF5 file: they start with b'<html>no'"),
        (202, {}, b"", "0 bytes came that are no HDF5 file"),
        (404, {}, b"", "404"),
    ):
        answers["/file"] = status, headers, sent
        with pytest.raises(DataError, match=what):
            sources.download(source, target)
        assert not list(target.parent.iterdir())
    answers["/file"] = 302, {"Location": f"{url}/there"}, b""
    answers["/there"] = 200, {"Content-Length": str(len(body))}, body
    sources.download(source, target)
    assert target.read_bytes() == body


def test_lung_is_looked_up_in_its_collection(server, tmp_path):
    url, answers = server
    lung = replace(sources.SOURCES["lung"], url=f"{url}/collection")

    def entry(assay, tissue, path):
        return {
            "assay": [{"label": a} for a in assay],
            "tissue": [{"label": tissue}],
            "assets": [{"filetype": "RDS", "url": f"{url}/no"}, {"filetype": "H5AD", "url": url + path}],
        }

    body = pancreas_like(tmp_path / "a.h5ad").read_bytes()
    answers["/lung"] = 200, {}, body
    entries = [
        entry(["10x 3' v2"], "liver", "/no"), entry(["Smart-seq2"], "lung", "/no"),
        entry(["10x 3' v2", "Smart-seq2"], "lung", "/no"), entry(["10x 3' v2"], "lung", "/lung"),
    ]  # fmt: skip
    answers["/collection"] = 200, {}, json.dumps({"datasets": entries}).encode()
    sources.download(lung, tmp_path / "lung.h5ad")
    assert (tmp_path / "lung.h5ad").read_bytes() == body
    for wrong in ({"datasets": entries[:3]}, {"message": "not found"}, []):
        answers["/collection"] = 200, {}, json.dumps(wrong).encode()
        with pytest.raises(DataError, match="lung.h5ad could not be downloaded"):
            sources.download(lung, tmp_path / "lung.h5ad")


def test_a_revised_collection_is_said_not_refused(tmp_path):
    said = []
    assert sources.check_size(sources.SOURCES["lung"], sp.csr_matrix(X.astype(int)), tmp_path / "x", said.append) == (4, 3)
    assert "the benchmark has 24540 cells" in said[0] and "not comparable" in said[0]


# --- command line and imports -----------------------------------------------------------------------------
def test_command_line(small, tmp_path, monkeypatch, capsys):
    class Stub:
        name = "denoising"
        fetch = staticmethod(data.fetch)

    monkeypatch.setattr("sia_nb.tasks.get_task", lambda name: Stub)
    monkeypatch.setenv("SIA_DATA", str(tmp_path / "data"))
    path = pancreas_like(tmp_path / "mine.h5ad")
    assert cli.main(["data", "--task", "denoising", "--instance", "pancreas", "--file", str(path)]) == 0
    out = capsys.readouterr().out
    assert "pbmc68k.npz" in out and "pancreas.npz" in out
    assert cli.main(["data", "--task", "denoising", "--instance", "pancreas", "--file", str(tmp_path / "no.h5ad")]) == 1
    assert "no.h5ad: no such file" in capsys.readouterr().err
    assert cli.main(["data", "--task", "denoising", "--file", str(path)]) == 2
    assert "needs the name of its instance" in capsys.readouterr().err


def test_tasks_without_downloads_refuse_the_options(capsys):
    assert cli.main(["data", "--task", "lawbench", "--instance", "x"]) == 2
    assert "--instance has no meaning" in capsys.readouterr().err


def test_descriptions_need_no_numpy():
    code = (
        "import sys; from sia_nb.tasks.denoising import data, instances; instances.instances();"
        "print([m for m in ('numpy', 'scipy', 'scanpy', 'anndata', 'h5py') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
