"""The denoising verifier: verdicts, memory, rejections, failures of free code, the sealed cells."""

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
import scipy.sparse as sp

from sia_nb.errors import ConfigError, DataError, InvalidSolution
from sia_nb.tasks import get_task
from sia_nb.tasks.base import REJECTED, Solution
from sia_nb.tasks.denoising import checks, data, gates, peers
from sia_nb.tasks.denoising.engine import Engine
from sia_nb.tasks.denoising.files import Layout
from sia_nb.tasks.denoising.metrics import Yardstick, mean_se
from sia_nb.tasks.denoising.solution import FALLBACK, SPACE
from sia_nb.tasks.denoising.verifier import DenoisingVerifier
from sia_nb.tasks.process import Failed

TASK = get_task("denoising")
MAGIC = TASK.fallback()
METRICS = {"mse", "mse_norm", "poisson_norm", "poisson_norm_openproblems", "gate", "passes", "se"}


def spec(**fields) -> Solution:
    return Solution("spec", SPACE.dump({**FALLBACK, **fields}))


HACK = spec(power=3)  # most of what is expected at all is pushed to 0


def code(body: str) -> Solution:
    return TASK.parse(f"import os\nimport numpy as np\ndef denoise(counts):\n    {body}\n")


@pytest.fixture(scope="module")
def verifier(denoising_data, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    with DenoisingVerifier(denoising_data, cache, code_seconds=8, code_memory_mb=700) as verifier:
        yield verifier


@pytest.fixture(scope="module")
def split(denoising_data):
    return data.dev(Layout(denoising_data), "pbmc68k")


# --- verdicts -------------------------------------------------------------------------------------------
def test_a_spec_is_scored_and_remembered(verifier, split):
    first, again = verifier.score(MAGIC), verifier.score(MAGIC)
    expected = Yardstick(split).measure(Engine().denoise(split.train, FALLBACK))
    assert first.valid and set(first.metrics) == METRICS and first.metrics["passes"] == 1
    assert first.value == first.metrics["mse_norm"] == pytest.approx(expected.mse_norm, rel=1e-5)
    assert first.metrics["poisson_norm"] == first.metrics["gate"] == pytest.approx(expected.poisson_norm, rel=1e-5)
    assert first.metrics["se"] == pytest.approx(mean_se(expected.influence("mse")), rel=1e-4)
    assert again.cached and again.seconds == 0 and (again.value, again.metrics) == (first.value, first.metrics)
    json.dumps(first.to_dict())


def test_specs_of_one_meaning_share_a_verdict(verifier):
    verifier.score(MAGIC)
    for moot, cached in ((spec(keep=0.2), True), (spec(normalisation="library"), False)):
        assert verifier.score(moot).cached == cached and verifier.score(moot).solution_id == moot.id != MAGIC.id
    assert verifier.score(spec(normalisation="library", reversed=True)).cached


def test_the_thresholding_hack_pays_little_in_the_loop_and_is_rejected_in_full(verifier):
    soft, hard = verifier.score(HACK), verifier.full(HACK)
    m, p, gate = (soft.metrics[k] for k in ("mse_norm", "poisson_norm", "gate"))
    assert soft.valid and m > 0.3 and p < gate and soft.metrics["passes"] == 0
    assert 0 < soft.value <= max(0.02, m - 4 * (gate - p) + 1e-9)
    assert not hard.valid and hard.value == 0 and hard.reason == f"gate: poisson_norm {p:.3f} < {gate:.3f}"
    full = verifier.full(MAGIC)
    assert full.valid and full.value == verifier.score(MAGIC).value


def test_gates_are_a_parameter_and_share_what_is_remembered(verifier, denoising_data):
    with DenoisingVerifier(denoising_data, verifier.cache_dir, gate="none") as free:
        verdict = free.full(HACK)
    assert verdict.cached and verdict.value == verdict.metrics["mse_norm"] > 0.3
    with DenoisingVerifier(denoising_data, verifier.cache_dir, gate="poisson_norm_openproblems") as published:
        assert published.full(MAGIC).reason.startswith("gate: poisson_norm_openproblems 0.4")
        assert 0 < published.score(MAGIC).value < 0.5 * verifier.score(MAGIC).value
    with pytest.raises(ConfigError, match="gate: 'right' is no measure; expected one of poisson_norm"):
        DenoisingVerifier(denoising_data, verifier.cache_dir, gate="right")


def test_a_spec_and_its_compiled_source_agree(verifier):
    chosen = spec(pcs=20, knn=10, power=1.2, round=0.05)
    fast, compiled = verifier.score(chosen), verifier.full(chosen, compiled=True)
    assert compiled.metrics["mse_norm"] == pytest.approx(fast.metrics["mse_norm"], abs=2e-3)
    assert compiled.metrics["poisson_norm"] == pytest.approx(fast.metrics["poisson_norm"], abs=2e-3)


def test_a_host_verdict_is_quick(verifier, split):
    """What the host adds to the engine's time, of the 0.2 s that a verdict may take."""
    y, yardstick = Engine().denoise(split.train, FALLBACK), Yardstick(split)

    def seconds() -> float:
        began = time.thread_time()
        checks.check(y, split.train, split.test)
        yardstick.measure(y)
        return time.thread_time() - began

    assert min(seconds() for _ in range(5)) < 0.1


# --- remembering ----------------------------------------------------------------------------------------
def test_the_paired_error_is_smaller_than_the_single_ones_together(verifier):
    a, b = verifier.score(MAGIC), verifier.score(spec(t=5))
    assert 0 < verifier.paired_se(MAGIC.id, spec(t=5).id) < (a.metrics["se"] ** 2 + b.metrics["se"] ** 2) ** 0.5
    assert verifier.paired_se(MAGIC.id, MAGIC.id) == 0


def test_another_process_reads_verdicts_and_paired_errors_from_the_cache(verifier, denoising_data):
    verifier.score(MAGIC), verifier.score(HACK)
    script = (
        "import sys\nfrom pathlib import Path\nfrom sia_nb.tasks import get_task\n"
        "t = get_task('denoising'); v = t.verifier(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print(repr(v.paired_se(*sys.argv[3:]))); s = v.score(t.fallback()); print(s.cached, repr(s.value)); v.close()\n"
    )
    argv = [sys.executable, "-c", script, str(denoising_data), str(verifier.cache_dir), MAGIC.id, HACK.id]
    out = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent).stdout.split()
    assert float(out[0]) == verifier.paired_se(MAGIC.id, HACK.id)
    assert out[1] == "True" and float(out[2]) == verifier.score(MAGIC).value


def test_the_paired_error_of_what_was_never_scored_is_an_error(verifier):
    with pytest.raises(DataError, match=r"no valid verdict on solution 0000 is remembered.*Call score\(\)"):
        verifier.paired_se(MAGIC.id, "0000")


def test_damaged_memories_are_dropped(denoising_data, tmp_path):
    with DenoisingVerifier(denoising_data, tmp_path) as first:
        before = first.score(MAGIC)
        (file,) = tmp_path.glob("*.json")
        text = file.read_text()
        for damaged in (text[: len(text) // 2], text.replace("0.1", "0.2", 5), '{"entry": 1}'):
            file.write_text(damaged)
            with DenoisingVerifier(denoising_data, tmp_path) as other:
                again = other.score(MAGIC)
            assert not again.cached and again.metrics == before.metrics


def test_verifiers_side_by_side_compute_a_verdict_once(denoising_data, tmp_path):
    verifiers, got = [TASK.verifier(denoising_data, tmp_path, workers=2) for _ in range(2)], []
    threads = [threading.Thread(target=lambda v=v: got.append(v.score(spec(t=2)))) for v in verifiers]
    for step in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            step(thread)
    for v in verifiers:
        v.close()
        v.close()
    assert sorted(s.cached for s in got) == [False, True] and got[0].value == got[1].value


def test_instances_are_scored_apart_by_one_process(verifier, denoising_data):
    values = {}
    for name in ("pbmc-80", "sim-4-types"):
        with TASK.verifier(denoising_data, verifier.cache_dir, instance=name) as one:
            assert one._pool is verifier._pool
            values[name] = one.score(MAGIC).value
            train = data.train(Layout(denoising_data), name)
            assert len(one.measures(MAGIC).cells["mse"]) == train.shape[0]
    assert len({*values.values(), verifier.score(MAGIC).value}) == 3
    with pytest.raises(ConfigError, match="pbmc-80"):
        TASK.verifier(denoising_data, verifier.cache_dir, instance="pbmc-8")


# --- what is rejected -----------------------------------------------------------------------------------
def test_unprepared_data_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match="python -m sia_nb data --task denoising"):
        TASK.verifier(tmp_path, tmp_path / "cache")


def test_an_invalid_spec_is_a_verdict_not_an_error(verifier):
    verdict = verifier.score(Solution("spec", '{"pcs":5}'))
    assert not verdict.valid and verdict.value == 0 and verdict.reason.startswith("missing_field: ")


def test_more_neighbours_than_cells_is_a_bad_value_with_both_numbers(verifier, split):
    few = sp.csr_matrix(split.train[:40])
    with pytest.raises(Failed, match=r"'knn' is 60, but there are 40 cells") as caught:
        verifier._spec(SPACE.parse(spec(knn=60).text), few, "forty")
    assert caught.value.kind == "bad_value"


def test_free_code_is_given_the_train_counts_and_nothing_else(verifier, split):
    first = verifier.score(code("return counts * 1.0"))
    assert first.valid and 0 < first.value < 0.02 and first.metrics["mse_norm"] == pytest.approx(0, abs=1e-9)
    names = "assert sorted(os.listdir('.')) == ['solution.py'], os.listdir('.'); assert counts.dtype == float"
    counts = f"assert counts.sum() == {split.train.sum()} and counts.nnz == {split.train.nnz}"
    means = "return np.outer(counts.sum(1).A1, counts.sum(0).A1 / counts.sum()) if hasattr(counts.sum(1), 'A1') else None"
    verdict = verifier.score(code(f"{names}; {counts}; {means}"))
    expected = Yardstick(split).measure(peers.gene_means(split.train))
    assert verdict.valid, verdict.reason
    assert verdict.metrics["poisson_norm"] == pytest.approx(expected.poisson_norm, rel=1e-4)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('no')", "crash: .*ValueError: no"),
        ("os._exit(3)", "crash: no output, exit code 3"),
        ("return None", "not_a_matrix: expected an array or sparse matrix of numbers, got NoneType"),
        ("return 'counts'", "not_a_matrix: .* got str"),
        ("return [[1, 2], [3]]", "not_a_matrix: .* got list"),
        ("return counts.toarray() * 1j", "not_a_matrix: .*complex128"),
        ("return 1.0", "wrong_shape: expected 350 x 765 .cells x genes., got a single number"),
        ("return counts.T", "wrong_shape: expected 350 x 765 .cells x genes., got 765 x 350"),
        ("return counts[1:]", "wrong_shape: .* got 349 x 765"),
        ("return counts.toarray()[None]", "wrong_shape: .* got 1 x 350 x 765"),
        ("y = counts.toarray(); y[3, 5] = np.nan; return y", "non_finite: 1 of 267750 values"),
        ("return counts.toarray() * 1e300", "non_finite: "),
        ("y = counts.toarray(); y[3, 5] = -1e-3; return y", "negative: 1 values are below 0, the lowest -0.001"),
        ("return counts[::-1]", "permuted: cells agree with other cells"),
        ("return counts[:, ::-1]", "permuted: the genes' totals do not rank like train's"),
        ("counts.data *= 2; return counts", "changed_input: denoise changed the counts"),
        ("counts.data[0] += 1; return np.ones(counts.shape)", "changed_input: "),
        ("x = bytearray(3 << 30); x[::4096] = b'1' * len(x[::4096]); return counts", "memory: more than "),
        ("while True: pass", "timeout: 8 s"),
    ],
)
def test_free_code_that_fails_scores_nothing_and_says_why(verifier, body, reason):
    verdict = verifier.score(code(body))
    assert (verdict.valid, verdict.value) == (False, 0.0) and re.match(reason, verdict.reason, re.DOTALL), verdict.reason


def test_input_may_be_stored_in_another_way_but_not_changed(verifier):
    assert verifier.score(code("counts.sort_indices(); counts.indices = counts.indices.astype('i8'); return counts")).valid


def test_free_code_cannot_reach_the_test_molecules(verifier, denoising_data):
    layout = Layout(denoising_data.resolve())
    for path in (layout.dev("pbmc68k"), layout.sealed("pbmc68k"), layout.train("pbmc68k")):
        verdict = verifier.score(code(f"return np.load({str(path)!r})['test_data']"))
        assert not verdict.valid and verdict.reason.startswith("crash: ") and "PermissionError" in verdict.reason
    link = f"os.symlink({str(layout.dev('pbmc68k'))!r}, 'output'); os._exit(0)"
    assert verifier.score(code(link)).reason.startswith("crash: ")
    write = "open('output', 'wb').write(len(b).to_bytes(4, 'big') + b); os._exit(0)"
    forged = verifier.score(code(f"""b = b'{{"shape": [999999, 99999]}}'; {write}"""))
    assert forged.reason == "wrong_shape: expected 350 x 765 numbers, got 0 bytes of them"
    assert verifier.score(code(f"""b = b'{{"failed": "gate", "message": "x"}}'; {write}""")).reason == "crash: x"
    assert verifier.score(code(f"b = b'[1]' * 9; {write}")).reason.startswith("wrong_shape: ")


# --- the checks themselves ------------------------------------------------------------------------------
def rejected(prediction, split) -> str:
    try:
        checks.check(prediction, split.train, split.test)
    except Failed as error:
        assert error.kind in (*REJECTED, "wrong_shape")
        return error.kind
    return ""


@pytest.mark.parametrize("instance", ["pbmc68k", "sim-2-types-noisy"])
def test_no_method_that_is_sound_is_rejected(denoising_data, instance):
    split = data.dev(Layout(denoising_data), instance)
    for name, method in peers.METHODS.items():
        y = method(split.train)
        for made in (y, np.rint(y.toarray() if sp.issparse(y) else y), peers.scaled(y, split.train)):
            assert rejected(made, split) == "", name
    assert rejected(np.ones(split.train.shape), split) == rejected(np.zeros(split.train.shape), split) == ""


def test_no_spec_is_rejected(denoising_data):
    rng, engine = Random(11), Engine()
    for instance in ("pbmc68k", "pbmc-80", "pbmc-240-quarter", "held-sim-6-types"):
        split = data.dev(Layout(denoising_data), instance)
        for _ in range(12):
            chosen = SPACE.random(rng)
            y = engine.denoise(split.train, chosen)
            assert rejected(y, split) in ("",) if np.isfinite(y).all() else "non_finite", chosen


@pytest.mark.parametrize("instance", ["pbmc68k", "pbmc-240-quarter", "held-pbmc-80-top-400", "sim-4-types"])
def test_permuted_cells_and_genes_are_found(denoising_data, instance):
    split, rng = data.dev(Layout(denoising_data), instance), np.random.default_rng(0)
    n, g = split.train.shape
    smooth = Engine().denoise(split.train, FALLBACK)
    for y in (smooth, split.train.toarray().astype(float), smooth**2):
        assert rejected(y, split) == ""
        assert rejected(y[rng.permutation(n)], split) == rejected(np.roll(y, 1, axis=0), split) == "permuted"
        assert rejected(y[:, rng.permutation(g)], split) == "permuted"


def test_predictions_made_from_the_test_molecules_are_found(split):
    test, train = split.test.toarray(), split.train.toarray()
    smooth = Engine().denoise(split.train, FALLBACK)
    for y in (test, test + train, smooth * (1 + test), smooth + test, peers.gene_means(split.train) * (1 + test), split.test):
        assert rejected(y.astype(np.float32), split) == "peeked"


def test_knowing_the_true_rates_is_no_peeking():
    """Even the rates themselves, more than any function of train can know, agree with test no more than Poisson noise allows."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, 1, (200, 1)) * rng.gamma(0.3, 2, (1, 300)) * rng.gamma(2, 0.5, (200, 300))
    counted = [sp.csr_matrix(rng.poisson(share * rates)) for share in (0.9, 0.1)]
    for y in (rates, rates**3, np.rint(rates)):
        assert rejected(y, type("S", (), {"train": counted[0], "test": counted[1]})) == ""
    assert rejected(rates * (1 + 2 * counted[1].toarray()), type("S", (), {"train": counted[0], "test": counted[1]})) == "peeked"


# --- the sealed cells -----------------------------------------------------------------------------------
def test_the_sealed_cells_are_unread_until_seal(denoising_data, tmp_path, monkeypatch):
    opened, path = [], Layout(denoising_data).sealed("pbmc68k")
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (opened.append(self.name), real(self))[1])
    with TASK.verifier(denoising_data, tmp_path) as verifier:
        verdict = verifier.score(MAGIC)
        verifier.full(MAGIC)
        assert path.name not in opened
        sealed = verifier.seal(MAGIC)
        assert path.name in opened
        after = verifier.score(MAGIC)
    assert (after.value, after.metrics, after.details) == (verdict.value, verdict.metrics, verdict.details)
    text = json.dumps(after.to_dict()) + "".join(p.read_text() for p in tmp_path.glob("*.json"))
    assert not any(repr(sealed[k]) in text for k in ("mse_norm", "poisson_norm", "magic_mse_norm"))


def test_the_seal_measures_other_cells_by_hard_gates(verifier, denoising_data):
    split = data.sealed(Layout(denoising_data), "pbmc68k")
    magic, hack = verifier.seal(MAGIC), verifier.seal(HACK)
    expected = Yardstick(split).measure(Engine().denoise(split.train, FALLBACK))
    assert magic["mse_norm"] == magic["magic_mse_norm"] == pytest.approx(expected.mse_norm, rel=1e-5)
    assert magic["poisson_norm"] == pytest.approx(expected.poisson_norm, rel=1e-5)
    assert (magic["ratio_to_magic"], magic["passes_right"], magic["passes_published"]) == (1, 1, 0)
    assert magic["n"] == split.train.shape[0] and magic["mse_norm"] != verifier.score(MAGIC).value
    assert (
        hack["passes_right"] == 0
        and hack["ratio_to_magic"] == pytest.approx(hack["mse_norm"] / magic["mse_norm"])
        and hack["ratio_to_magic"] > 3
    )


def test_what_passes_on_dev_by_a_margin_is_gated_on_the_sealed_cells_without(verifier):
    gate = gates.right(verifier.magic, margin=gates.MARGIN)
    better = verifier.score(spec(knn=15, rescale="cell"))
    assert better.metrics["gate"] > gate.reference.poisson_norm
    assert better.metrics["passes"] == float(better.metrics["poisson_norm"] >= better.metrics["gate"] - gates.SLACK)


def test_the_seal_of_what_does_not_run_says_why(verifier):
    with pytest.raises(InvalidSolution, match="cells agree with other cells") as caught:
        verifier.seal(code("return counts[::-1]"))
    assert caught.value.kind == "permuted"


# --- the task -------------------------------------------------------------------------------------------
def test_the_task_speaks_for_itself():
    text = TASK.spec_text()
    assert SPACE.dump(FALLBACK) in text and "denoise(counts)" in text and all(f.name in text for f in SPACE.fields)
    assert "magic.MAGIC" in TASK.reference() and TASK.instances[0].name == "pbmc68k"
    assert TASK.parse(MAGIC.text) == MAGIC


def test_importing_the_task_loads_no_numpy():
    check = "import sys; from sia_nb.tasks import get_task; get_task('denoising'); print([m for m in ('numpy', 'scipy', 'magic') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert out.stdout.strip() == "[]", out.stderr
