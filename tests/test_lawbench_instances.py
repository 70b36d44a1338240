"""LawBench's instances: which charges and texts they hold, and verdicts against plain scikit-learn."""

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_nb.config import make_config
from sia_nb.errors import ConfigError, DataError
from sia_nb.scaffold.execute import task_info
from sia_nb.tasks import get_task
from sia_nb.tasks.base import Solution
from sia_nb.tasks.lawbench.files import Layout, read_json
from sia_nb.tasks.lawbench.instances import class_cosines, propose, subsets
from sia_nb.tasks.lawbench.solution import FALLBACK, SPACE
from sia_nb.tasks.lawbench.verifier import LawBenchVerifier, macro

TASK = get_task("lawbench")
FALL = TASK.fallback()
SUBSETS = list(subsets().values())
FREE, HELD = [s for s in SUBSETS if not s.held_out], [s for s in SUBSETS if s.held_out]


def spec(**change) -> Solution:
    return Solution("spec", SPACE.dump({**FALLBACK, **change}))


CHAR1 = spec(view="char1", tf="log", idf="smooth", model="centroid")
SVC = spec(view="char12", tf="log", idf="smooth", model="svc")


@pytest.fixture
def on(lawbench_data, tmp_path):
    """Opens verifiers of instances with one cache folder."""
    opened = []

    def open_one(instance, **options):
        opened.append(TASK.verifier(lawbench_data, tmp_path, instance=instance, **options))
        return opened[-1]

    yield open_one
    for verifier in opened:
        verifier.close()


# --- what they hold -------------------------------------------------------------------------------------
def test_sixteen_for_training_and_six_held_out_which_share_no_charge():
    assert (len(FREE), len(HELD)) == (16, 6) and len({s.name for s in SUBSETS}) == 22
    known = {c for s in FREE for c in s.charges}
    assert not known & {c for s in HELD for c in s.charges}
    for s in SUBSETS:
        assert 5 <= len(s.charges) <= 60 and 2 <= s.texts <= 20 and set(s.charges) <= set(range(191))
        assert list(s.charges) == sorted(set(s.charges))
    for group in (FREE, HELD):
        assert {s.alike for s in group} == {True, False}


def test_the_task_declares_them_after_the_whole_set_with_different_descriptions():
    assert [i.name for i in TASK.instances] == ["all191", *(s.name for s in SUBSETS)]
    assert {i.name for i in TASK.instances if i.held_out} == {s.name for s in HELD}
    lines = [i.description for i in TASK.instances]
    assert len(set(lines)) == len(lines) and all("\n" not in line and len(line) < 200 for line in lines)
    for s in SUBSETS:
        expected = [
            f"{len(s.charges)} ",
            f" {s.texts} train texts",
            f" {len(s.charges) * s.texts} in all",
            f" {s.characters} char",
        ]
        assert all(part in s.description for part in (*expected, *s.examples))


def test_the_frozen_lists_are_those_that_the_train_texts_give(lawbench_data):
    frozen = {s.name: s for s in SUBSETS}
    for entry in propose(Layout(lawbench_data)):
        mine = frozen[entry["name"]]
        assert {k: list(v) if isinstance(v, tuple) else v for k, v in vars(mine).items()} == entry


def test_alike_charges_lie_nearer_to_each_other_than_mixed_ones(lawbench_data):
    near = class_cosines(Layout(lawbench_data), read_json(Layout(lawbench_data).public / "labels.json"))

    def inner(s):
        block = near[np.ix_(s.charges, s.charges)]
        return block[~np.eye(len(block), dtype=bool)].mean()

    for group in (FREE, HELD):
        assert min(inner(s) for s in group if s.alike) > max(inner(s) for s in group if not s.alike)


def test_rows_are_of_the_charges_and_as_many_as_the_description_says(lawbench_data):
    layout = Layout(lawbench_data)
    train, dev, test = read_json(layout.public / "labels.json"), read_json(layout.dev_labels), read_json(layout.test)["labels"]
    for s in SUBSETS:
        fit, new = s.fit_rows(train), s.rows(dev)
        assert fit == sorted(set(fit)) and len(fit) == len(s.charges) * s.texts
        assert all([train[r] for r in fit].count(c) == s.texts for c in s.charges)
        assert {dev[r] for r in new} == set(s.charges) and len(new) == sum(y in s.charges for y in dev)
        assert {test[r] for r in s.rows(test)} <= set(s.charges) and s.rows(test)


@given(st.sampled_from(SUBSETS), st.lists(st.integers(0, 190), max_size=400))
@settings(max_examples=30)
def test_rows_of_any_labels(s, labels):
    fit = s.fit_rows(labels)
    assert fit == s.fit_rows(labels) and set(fit) <= set(s.rows(labels))
    for c in s.charges:
        assert sum(labels[r] == c for r in fit) == min(s.texts, labels.count(c))


# --- names ----------------------------------------------------------------------------------------------
def test_unknown_instances_are_named_with_the_nearest(lawbench_data, tmp_path):
    assert make_config(instance="held-alike-6x12").instance == "held-alike-6x12"
    with pytest.raises(ConfigError, match=r"instance: 'held-alike-6x11' is not known.*Did you mean 'held-alike-6x12'"):
        make_config(instance="held-alike-6x11")
    with pytest.raises(ConfigError, match="Did you mean 'mixed-40x10'"):
        TASK.verifier(lawbench_data, tmp_path, instance="mixed-40x1")
    with pytest.raises(ConfigError, match="'none' is not known"):
        task_info(TASK, "none")
    assert task_info(TASK, "alike-12x4")["instance"] == subsets()["alike-12x4"].description
    assert task_info(TASK)["instance"] == task_info(TASK, "all191")["instance"] == TASK.instances[0].description


def test_the_whole_set_has_its_old_verifier(on):
    assert type(on("")) is type(on("all191")) is LawBenchVerifier


# --- verdicts -------------------------------------------------------------------------------------------
def texts_of(layout, s):
    """The instance's texts and labels, train then dev, picked here by label alone."""
    train, dev = read_json(layout.public / "train.json"), read_json(layout.public / "dev.json")["texts"]
    truth, fit = read_json(layout.dev_labels), s.fit_rows(train["labels"])
    new = [(t, y) for t, y in zip(dev, truth, strict=True) if y in set(s.charges)]
    return [train["texts"][r] for r in fit], [train["labels"][r] for r in fit], [t for t, _ in new], [y for _, y in new]


@pytest.mark.parametrize("name", ["mixed-5x20", "held-alike-14x2", "alike-16x8"])
def test_verdicts_are_those_of_plain_scikit_learn(on, lawbench_data, name):
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.svm import LinearSVC

    def char12(text):
        return [*text, *(text[i : i + 2] for i in range(len(text) - 1))]

    fit, labels, new, truth = texts_of(Layout(lawbench_data), subsets()[name])
    oracles = {
        SVC: (TfidfVectorizer(analyzer=char12, sublinear_tf=True), LinearSVC(C=1)),
        spec(view="char12", strength=10): (CountVectorizer(analyzer=char12), MultinomialNB(alpha=0.1)),
    }
    for solution, (vectors, model) in oracles.items():
        model.fit(vectors.fit_transform(fit), labels)
        expected = macro((model.predict(vectors.transform(new)) == np.array(truth)).tolist(), truth)
        assert abs(on(name).score(solution).value - expected) < 0.003
        assert expected > 1.5 / len(set(truth))


@pytest.mark.parametrize(
    "change", [{"model": "svc", "level2": "stack", "weight": "sqrt"}, {"model": "ridge", "level2": "rerank"}]
)
def test_verdicts_are_those_of_the_compiled_source(on, change):
    verifier = on("held-alike-14x2")
    solution = spec(view="char12", tf="log", idf="smooth", **change)
    compiled = verifier.full(solution, compiled=True)
    assert compiled.valid and abs(compiled.value - verifier.score(solution).value) < 0.015  # one text of 120


def test_score_and_full_are_one_verdict_remembered_for_its_instance_only(on):
    a, b = on("alike-12x4"), on("mixed-8x5")
    first = a.score(FALL)
    assert first.valid and not first.cached and set(first.metrics) == {"macro", "top1", "se"}
    assert a.full(FALL).cached and a.full(FALL).value == first.value == on("alike-12x4").score(FALL).value
    assert on("alike-12x4").score(FALL).cached and a.score(spec(model2="svc", strength2=10)).cached
    other = b.score(FALL)
    assert not other.cached and other.value != first.value
    assert len(first.details["classes"]) == 12 and len(other.details["classes"]) == 8
    assert 0 < first.metrics["se"] < 0.1


def test_paired_errors_are_of_the_instance_and_survive_the_process(on):
    a, b = on("alike-12x4"), on("mixed-8x5")
    for verifier in (a, b):
        assert verifier.score(FALL).valid and verifier.score(CHAR1).valid
    se = a.paired_se(FALL.id, CHAR1.id)
    single = [a.score(s).metrics["se"] for s in (FALL, CHAR1)]
    assert 0 < se < sum(x**2 for x in single) ** 0.5 and se != b.paired_se(FALL.id, CHAR1.id)
    assert on("alike-12x4").paired_se(FALL.id, CHAR1.id) == se
    with pytest.raises(DataError, match="no valid verdict"):
        on("mixed-5x2").paired_se(FALL.id, CHAR1.id)


def test_a_threshold_beyond_the_train_texts_scores_nothing_and_says_why(on):
    verdict = on("mixed-5x2").score(spec(min_df=20))
    assert not verdict.valid and verdict.value == 0 and "min_df is too high" in verdict.reason


def test_programs_get_the_instances_texts_only(on):
    s = subsets()["alike-12x4"]
    body = "assert sorted(set(train_labels)) == {c!r} and len(train_labels) == {n}; return [train_labels[0]] * len(texts)"
    source = "import os\ndef fit_predict(train_texts, train_labels, texts):\n    " + body.format(c=list(s.charges), n=48)
    verdict = on(s.name).score(TASK.parse(source))
    assert verdict.valid, verdict.reason
    assert verdict.value == pytest.approx(1 / 12)


def test_the_seal_scores_the_charges_test_texts(on, lawbench_data):
    s = subsets()["held-alike-6x12"]
    verifier = on(s.name)
    verdict, sealed = verifier.score(CHAR1), verifier.seal(CHAR1)
    labels = read_json(Layout(lawbench_data).test)["labels"]
    assert sealed["n"] == sum(y in s.charges for y in labels) and 1.5 / 6 < sealed["top1"] < 1
    assert abs(verifier.seal(CHAR1, compiled=True)["top1"] - sealed["top1"]) <= 1 / sealed["n"]
    after = verifier.score(CHAR1)
    assert (after.metrics, after.details) == (verdict.metrics, verdict.details)


def test_instances_share_processes_which_end_with_the_last(on):
    a, b = on("alike-12x4"), on("mixed-8x5")
    before = {p.pid for p in psutil.Process().children()}
    assert a.score(FALL).valid and b.score(FALL).valid
    started = [p for p in psutil.Process().children() if p.pid not in before]
    assert len(started) == 1
    a.close()
    a.close()
    assert b.score(CHAR1).valid and started[0].is_running()
    b.close()
    assert not psutil.wait_procs(started, timeout=10)[1]
