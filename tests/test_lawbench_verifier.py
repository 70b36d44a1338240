"""LawBench's verifier: verdicts, memory, failures of free code, the sealed test."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from sia_nb.errors import DataError
from sia_nb.tasks import get_task
from sia_nb.tasks.base import Solution
from sia_nb.tasks.lawbench.counts import quick_rows
from sia_nb.tasks.lawbench.files import Layout, read_json
from sia_nb.tasks.lawbench.process import Failed
from sia_nb.tasks.lawbench.solution import FALLBACK, SPACE
from sia_nb.tasks.lawbench.verifier import LawBenchVerifier, macro, macro_se

TASK = get_task("lawbench")
FALL = TASK.fallback()
CHAR1 = Solution("spec", SPACE.dump({**FALLBACK, "view": "char1", "tf": "log", "idf": "smooth", "model": "centroid"}))


def code(body: str) -> Solution:
    return TASK.parse(f"import os\ndef fit_predict(train_texts, train_labels, texts):\n    {body}\n")


@pytest.fixture(scope="module")
def verifier(lawbench_data, tmp_path_factory):
    with LawBenchVerifier(lawbench_data, tmp_path_factory.mktemp("cache"), code_seconds=6, code_memory_mb=700) as verifier:
        yield verifier


def test_macro_and_its_error_by_hand():
    hits, labels = [True, False, True, True, True, True], [0, 0, 1, 1, 1, 1]
    assert macro(hits, labels) == 0.75
    assert macro_se([float(h) for h in hits], labels) == pytest.approx((0.5 / 2) ** 0.5 / 2)
    assert macro_se([0.0, 0.0, 1.0], [0, 0, 1]) == 0


def test_a_spec_is_scored_and_remembered(verifier):
    first, again = verifier.score(FALL), verifier.score(FALL)
    assert first.valid and 0.2 < first.value < 0.4 and first.seconds > 0 and not first.cached
    assert again.cached and again.seconds == 0 and again.metrics == first.metrics and again.value == first.value
    assert set(first.metrics) == {"macro", "top1", "se"} and first.value == first.metrics["macro"]
    assert len(first.details["classes"]) == 191 and 0.005 < first.metrics["se"] < 0.015
    assert sum(c["n"] for c in first.details["classes"].values()) == TASK.check(verifier.layout.data_dir)["dev"]
    json.dumps(first.to_dict())


def test_specs_of_one_meaning_share_a_verdict(verifier):
    verifier.score(FALL)
    other = Solution("spec", SPACE.dump({**FALLBACK, "model2": "svc", "strength2": 10}))
    assert verifier.score(other).cached and verifier.score(other).solution_id == other.id != FALL.id


def test_two_verifiers_agree_and_damaged_memories_are_dropped(verifier, lawbench_data):
    first = verifier.score(CHAR1)
    files = sorted(verifier.cache_dir.glob("*.json"))
    for file in files:
        text = file.read_text()
        file.write_text(text[: len(text) // 2] if file == files[0] else text.replace("1", "2", 40))
    with LawBenchVerifier(lawbench_data, verifier.cache_dir) as other:
        again = other.score(CHAR1)
    assert not again.cached and (again.value, again.metrics, again.details) == (first.value, first.metrics, first.details)


def test_the_paired_error_is_smaller_than_the_single_ones_together(verifier):
    a, b = verifier.score(FALL), verifier.score(CHAR1)
    se = verifier.paired_se(FALL.id, CHAR1.id)
    assert 0 < se < (a.metrics["se"] ** 2 + b.metrics["se"] ** 2) ** 0.5
    assert verifier.paired_se(FALL.id, FALL.id) == 0


def test_the_paired_error_of_what_another_process_scored_is_read_from_the_cache(lawbench_data, tmp_path):
    with LawBenchVerifier(lawbench_data, tmp_path) as first:
        assert first.score(FALL).valid and first.score(CHAR1).valid
        expected = first.paired_se(FALL.id, CHAR1.id)
    with LawBenchVerifier(lawbench_data, tmp_path) as other:
        assert other.paired_se(FALL.id, CHAR1.id) == expected
        with pytest.raises(DataError, match=r"no valid verdict on solution 0000 is remembered.*Call score\(\)"):
            other.paired_se(FALL.id, "0000")


def test_full_scores_by_the_same_rule(verifier):
    full, compiled = verifier.full(CHAR1), verifier.full(CHAR1, compiled=True)
    assert compiled.valid and abs(compiled.value - full.value) < 0.003
    assert full.value - 0.05 < verifier.score(CHAR1).value < full.value


def test_free_code_learns_from_train_and_is_scored(verifier):
    body = "d = dict(zip(train_texts, train_labels)); return [max(train_labels, key=train_labels.count)] * len(texts)"
    verdict = verifier.score(code(body))
    assert verdict.valid and verdict.value == pytest.approx(1 / 191)


def test_the_loop_fits_a_program_to_fewer_texts_than_full_does(verifier):
    counted = code("return [len(train_texts) % 191] * len(texts)")
    labels = read_json(verifier.layout.public / "labels.json")
    for verdict, n in ((verifier.score(counted), len(quick_rows(labels))), (verifier.full(counted), len(labels))):
        hit = [name for name, c in verdict.details["classes"].items() if c["hits"]]
        assert hit == [verifier._classes[n % 191]]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("raise ValueError('no')", "crash"),
        ("os._exit(3)", "crash"),
        ("return [0]", "wrong_shape"),
        ("return [191] * len(texts)", "wrong_shape"),
        ("return [True] * len(texts)", "wrong_shape"),
        ("return None", "wrong_shape"),
        ("return ['盗窃'] * len(texts)", "wrong_shape"),
        ("x = bytearray(3 << 30); x[::4096] = b'1' * len(x[::4096]); return [x[0]] * len(texts)", "memory"),
        ("while True: pass", "timeout"),
    ],
)
def test_free_code_that_fails_scores_nothing_and_says_why(verifier, body, kind):
    verdict = verifier.score(code(body))
    assert (verdict.valid, verdict.value) == (False, 0.0) and verdict.reason.startswith(f"{kind}: "), verdict.reason


def test_free_code_cannot_reach_the_sealed_labels(verifier, lawbench_data):
    layout = Layout(lawbench_data.resolve())
    for path in (layout.dev_labels, layout.test):
        verdict = verifier.score(code(f"return [len(open({str(path)!r}).read())] * len(texts)"))
        assert not verdict.valid and verdict.reason.startswith("crash: ") and "Error" in verdict.reason
    link = f"os.symlink({str(layout.dev_labels)!r}, 'output.json'); os._exit(0)"
    verdict = verifier.score(code(link))
    assert not verdict.valid and verdict.value == 0
    held = read_json(layout.dev_labels)
    forged = f"open('output.json', 'w').write('{{\"pred\": {held[:3]}}}'); os._exit(0)"
    assert verifier.score(code(forged)).reason.startswith("wrong_shape: ")


def test_an_invalid_spec_is_a_verdict_not_an_error(verifier):
    verdict = verifier.score(Solution("spec", '{"view":"char1"}'))
    assert not verdict.valid and verdict.reason.startswith("missing_field: ")


def test_no_sealed_number_stands_in_a_score(verifier):
    verdict = verifier.score(FALL)
    sealed = verifier.seal(FALL)
    assert set(sealed) == {"top1", "top1_se", "macro", "top1_without_copies", "n"} and sealed["n"] == 913
    assert 0.25 < sealed["top1"] < 0.45 and sealed["top1_without_copies"] != sealed["top1"]
    after = verifier.score(FALL)
    assert after.metrics == verdict.metrics and after.details == verdict.details
    text = json.dumps(after.to_dict()) + "".join(p.read_text() for p in verifier.cache_dir.glob("*.json"))
    assert not any(repr(sealed[k]) in text for k in ("top1", "macro", "top1_without_copies"))


def test_a_worker_that_dies_fails_one_solution_and_comes_back(verifier):
    verifier.score(FALL)
    worker = verifier._pool.all[0]
    for child in psutil.Process(worker._process.pid).children(recursive=True):
        child.kill()
    with pytest.raises(Failed) as caught:
        worker.predict(json.loads(CHAR1.text))
    assert caught.value.kind == "crash"
    pred, _ = worker.predict(json.loads(CHAR1.text))
    assert len(pred) == len(verifier._labels)


def test_close_and_a_killed_host_leave_no_process(lawbench_data, tmp_path):
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom sia_nb.tasks import get_task\n"
        "t = get_task('lawbench'); v = t.verifier(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "v.score(t.fallback()); print(v._pool.all[0]._process.pid, flush=True); time.sleep(60)\n"
    )
    root = Path(__file__).resolve().parent.parent
    host = subprocess.Popen(
        [sys.executable, "-c", script, str(lawbench_data), str(tmp_path)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    pid = int(host.stdout.readline())
    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    host.kill()
    host.wait()
    assert not psutil.wait_procs(tree, timeout=10)[1]
    with LawBenchVerifier(lawbench_data, tmp_path / "c") as mine:
        mine.score(CHAR1)
        tree = [p for p in psutil.Process().children(recursive=True) if p.pid == mine._pool.all[0]._process.pid]
        assert tree
    assert not psutil.wait_procs(tree, timeout=10)[1]


def test_runs_side_by_side_compute_a_verdict_once(lawbench_data, tmp_path):
    """Two verifiers on one cache folder, as two processes have: the second waits and finds the first's answer."""
    task = get_task("lawbench")
    one, two = (task.verifier(lawbench_data, tmp_path / "cache") for _ in range(2))
    got = {}
    try:
        asked = task.fallback()
        threads = [threading.Thread(target=lambda n=n, v=v: got.update({n: v.score(asked)})) for n, v in enumerate((one, two))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        one.close()
        two.close()
    assert sorted(s.cached for s in got.values()) == [False, True]
    assert got[0].value == got[1].value
