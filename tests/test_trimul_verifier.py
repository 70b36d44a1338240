"""TriMul's verifier: honest programs pass, each cheat and each broken program is rejected for what it does."""

import contextlib
import inspect
import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sia_nb.errors import ConfigError, DataError, InvalidSolution
from sia_nb.tasks import get_task
from sia_nb.tasks.base import REJECTED, Solution
from sia_nb.tasks.process import Failed
from sia_nb.tasks.trimul import verifier as module
from sia_nb.tasks.trimul.instances import Cases
from sia_nb.tasks.trimul.judge import Judge, Timing
from sia_nb.tasks.trimul.reference import EPS, case, update
from sia_nb.tasks.trimul.session import Exchange, Session, compiler
from sia_nb.tasks.trimul.solution import FALLBACK, SPACE
from sia_nb.tasks.trimul.verifier import TriMulVerifier

TASK = get_task("trimul")
FALL = TASK.fallback()
JOINED = Solution("spec", SPACE.dump({**FALLBACK, "projections": "joined"}))
SMALL = Cases("cpu", (case(24, 1, 16), case(16, 2, 32, masked=True)), (case(8, 1, 16, "cauchy", True),))
CHEATS = Path(__file__).parent / "trimul_cheats"
HONEST = (CHEATS / "honest.py").read_text()
MILD = {
    "pointer_cache": ("stale", "an earlier call's inputs"),
    "weights_cache": ("stale", "an earlier call's weights"),
    "mask_off": ("mask_ignored", "a mask of ones"),
    "changed_input": ("changed_input", "'x' was written to"),
    "changed_weights": ("changed_input", "'to_out' was written to"),
    "lazy_tensor": ("wrong_type", "expected a plain torch.Tensor, got Lazy"),
    "late_thread": ("unfinished", "only later"),
    "reads_reference": ("wrong", "where .* is right"),
}
RUTHLESS = {
    "works_ahead": ("unfinished", "was still running"),
    "hooked_draw": ("wrong", "where .* is right"),
    "hog": ("unfinished", "was still running"),
    "child_process": ("unfinished", "was still running"),
    "forged_reply": ("forged", "not to what had been asked"),
    "patched_timer": ("patched", r"time.perf_counter"),
    "patched_torch": ("patched", r"torch\.\w+"),
    "patched_sync": ("patched", r"torch.cuda.synchronize"),
    "claimed_clock": ("patched", r"torch.cuda.Event.elapsed_time"),
}

QUICK = ("hog", "patched_timer")


def code(body: str, before: str = "") -> str:
    return HONEST.replace('"""\n', f'"""\n{before}\n', 1).split("def trimul")[0] + (
        "\n\ndef update" + HONEST.split("def trimul")[1] + f"\n\ndef trimul(x, mask, weights):\n    {body}\n"
    )


BROKEN = {
    "raises": (code("raise ValueError('no')"), "crash", "ValueError: no"),
    "has no such name": (code("return updat(x, mask, weights)"), "crash", "NameError"),
    "shape": (code("return update(x, mask, weights)[:, 1:]"), "wrong_shape", r"expected \[1, 8, 8, 16\], got \[1, 7, 8, 16\]"),
    "number format": (code("return update(x, mask, weights).half()"), "wrong_type", "expected torch.float32 on cpu, got torch.float16"),
    "device": (code("return update(x, mask, weights).to('meta')"), "wrong_type", "on cpu, got torch.float32 on meta"),
    "no tensor": (code("return None"), "wrong_type", "got NoneType"),
    "NaN": (code("return update(x, mask, weights).log()"), "non_finite", r"NaN or infinite at \[0, \d, \d, \d+\]"),
    "a little off": (code("return update(x, mask, weights) * 1.05 + 0.01"), "wrong", r"allowed is a difference of 0.02 \+ 0.02"),
    "one element off": (
        code("y = update(x, mask, weights); y[0, 3, 5, 7] += 100; return y"), "wrong", r"at \[0, 3, 5, 7\]",
    ),
    "memory": (code("return torch.empty(1 << 45)"), "memory", "allocate"),
}  # fmt: skip


@pytest.fixture(scope="module")
def processes():
    """The reference's process, and one for candidates that leave it whole."""
    exchange = Exchange((*SMALL.timed, *SMALL.checked), "cpu")
    options = {"threads": 2, "memory_mb": 3000, "trusted": True}
    with_them = [Session(role, "cpu", exchange, **options) for role in ("reference", "candidate")]
    yield with_them
    for session in with_them:
        session.close()
    exchange.close()


@pytest.fixture(scope="module")
def verifier(tmp_path_factory):
    with TriMulVerifier(Path(), tmp_path_factory.mktemp("cache"), own=SMALL, code_seconds=60, memory_mb=3000) as verifier:
        yield verifier


def judged(processes, source: str) -> dict:
    return Judge(*processes, first_seconds=30, seconds=120).run(source, SMALL, 0.01)


def test_an_honest_program_passes(processes):
    found = judged(processes, HONEST)
    assert set(found) == {c.name for c in SMALL.timed}
    for times in found.values():
        assert len(times["reference"]) == len(times["candidate"]) >= 3
        assert 0 < times["overhead"] < min(times["reference"] + times["candidate"])


def test_the_wait_for_other_timing_is_not_taken_from_a_verdict_s_time(processes):
    waited = []

    @contextlib.contextmanager
    def busy():
        time.sleep(1)
        waited.append(1)
        yield

    judge = Judge(*processes, first_seconds=30, seconds=120, alone=busy)
    end = judge.end
    judge.run(HONEST, SMALL, 0.01)
    assert waited == [1] and judge.end >= end + 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_what_is_not_timed_runs_on_other_cores():
    exchange, cores = Exchange((*SMALL.timed, *SMALL.checked), "cpu"), sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        stack.callback(exchange.close)
        session = Session("reference", "cpu", exchange, threads=1, memory_mb=3000, trusted=True)
        stack.callback(session.close)
        where = lambda: sorted(os.sched_getaffinity(session._first[-1]))
        assert session.apart and where() == cores[:-1]
        session.place(timed=True)
        assert where() == cores[-1:] and not session.moved()
        session.place(timed=False)
        assert where() == cores[:-1] and not session.moved()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_nothing_runs_between_calls(processes):
    candidate = processes[1]
    watcher = (
        "import threading, time\nthreading.Thread(target=lambda: [time.sleep(1e-4) for _ in range(10**5)], daemon=True).start()\n"
    )
    candidate.ask("load", 30, code=watcher + HONEST)
    candidate.prepare(SMALL.timed[0], 1, 30)
    processes[0].prepare(SMALL.timed[0], 1, 30)
    candidate.call(30)
    end, states = time.monotonic() + 5, {"R"}
    while states != {"T"} and time.monotonic() < end:  # on a busy machine a thread is stopped when its turn comes
        states = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in candidate._tree()}
    assert states == {"T"}


@pytest.mark.trust(suite="kernel cheats", backend="")
@pytest.mark.parametrize("name", MILD)
def test_a_cheat_is_rejected_for_what_it_does(processes, name):
    kind, words = MILD[name]
    with pytest.raises(Failed, match=words) as error:
        judged(processes, (CHEATS / f"{name}.py").read_text())
    assert error.value.kind == kind


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_program_is_rejected(processes, name):
    source, kind, words = BROKEN[name]
    with pytest.raises(Failed, match=words) as error:
        judged(processes, source)
    assert error.value.kind == kind


@pytest.mark.trust(suite="kernel cheats", backend="")
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RUTHLESS])
def test_a_cheat_that_meddles_with_its_process_is_rejected(verifier, name):
    kind, words = RUTHLESS[name]
    verdict = verifier.score(TASK.parse((CHEATS / f"{name}.py").read_text()))
    assert not verdict.valid and verdict.value == 0
    assert verdict.reason.startswith(f"{kind}: ")
    assert re.search(words, verdict.reason)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param("import os; os._exit(3)", "crash: .*exit code 3", marks=pytest.mark.slow),
        pytest.param("import ctypes; ctypes.string_at(0)", "crash: .*exit code -11", marks=pytest.mark.slow),
        pytest.param("raise SystemExit", "crash: .*exit code 0", marks=pytest.mark.slow),
    ],
)
def test_a_program_that_ends_its_process(verifier, body, kind):
    verdict = verifier.score(TASK.parse(code(body)))
    assert not verdict.valid
    assert re.match(kind, verdict.reason)


def test_a_program_that_hangs(verifier, monkeypatch):
    monkeypatch.setattr(verifier, "code_seconds", 2)
    verdict = verifier.score(TASK.parse(code("while True: pass")))
    assert not verdict.valid and verdict.reason.startswith("timeout: ")
    assert verifier.score(FALL).valid


@pytest.mark.slow
def test_a_program_that_fills_the_memory(tmp_path):
    with TriMulVerifier(Path(), tmp_path, own=SMALL, memory_mb=1000) as verifier:
        verdict = verifier.score(TASK.parse(code("k = []\n    while True: k.append(torch.ones(1 << 22))")))
        assert not verdict.valid and verdict.reason.startswith("memory: ")


def test_a_spec_is_scored_and_remembered(verifier):
    first, again = verifier.score(JOINED), verifier.score(JOINED)
    assert first.valid and first.value > 0 and first.seconds > 0 and not first.cached
    assert again.cached and again.seconds == 0 and again.value == first.value and again.metrics == first.metrics
    assert first.value == first.metrics["speedup"]
    cases = first.details["cases"]
    assert first.value == pytest.approx(math.prod(c["speedup"] for c in cases.values()) ** (1 / len(cases)))
    assert all(c["candidate_us"] > 0 and c["reference_us"] > 0 and c["floor_us"] > 0 for c in cases.values())
    assert "torch" in first.details["machine"]
    json.dumps(first.to_dict())


def test_another_process_with_the_folder_reads_the_same_verdict(verifier):
    ours = verifier.score(JOINED)
    with TriMulVerifier(Path(), verifier._memory.folder, own=SMALL) as other:
        theirs = other.score(JOINED)
        assert theirs.cached and theirs.metrics == ours.metrics
        verifier.score(FALL)
        assert other.paired_se(FALL.id, JOINED.id) == verifier.paired_se(JOINED.id, FALL.id)


def test_another_machine_does_not(verifier, monkeypatch):
    verifier.score(JOINED)
    monkeypatch.setattr(module, "describe", lambda: "another one")
    with TriMulVerifier(Path(), verifier._memory.folder, own=SMALL) as other, pytest.raises(DataError, match="no valid verdict"):
        other.paired_se(FALL.id, JOINED.id)


def test_the_error_of_a_difference(verifier):
    a, b = verifier.score(FALL), verifier.score(JOINED)
    assert verifier.paired_se(FALL.id, JOINED.id) == pytest.approx(math.hypot(a.metrics["se"], b.metrics["se"]))
    with pytest.raises(DataError, match="no valid verdict on solution 0123"):
        verifier.paired_se("0123456789abcdef", FALL.id)


def test_full_and_seal_measure_anew(verifier):
    quick, full, sealed = verifier.score(JOINED), verifier.full(JOINED), verifier.seal(JOINED)
    assert full.valid and full.metrics["speedup"] != quick.metrics["speedup"]
    assert sealed["speedup"] > 0 and sealed["speedup"] != full.value and sealed["n"] == 2 and sealed["speedup_se"] > 0
    assert TASK.report_metric in sealed


def test_a_program_that_is_wrong_on_few_draws_fails_a_full_verdict(verifier, monkeypatch):
    monkeypatch.setattr("sia_nb.tasks.trimul.verifier.DRAWS", {"cpu": 200})
    rare = "x[0, 0, 0, 0] > 1.84"  # one normal value in thirty; the two draws of each timed turn would let half of them pass
    verdict = verifier.full(Solution("code", code(f"return update(x, mask, weights) + float({rare})")))
    assert not verdict.valid and verdict.reason.startswith("wrong")


@pytest.mark.slow
def test_the_reference_beside_itself_scores_one_next_to_a_busy_process(tmp_path):
    body = inspect.getsource(update).split(":\n", 1)[1].replace('"""', 'r"""', 1)
    source = f"EPS = {EPS}\n\n\ndef trimul(x, mask, weights):\n" + body
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with TriMulVerifier(Path(), tmp_path, instance="cpu") as verifier:
            verdict = verifier.full(Solution("code", source))
    finally:
        busy.kill()
        busy.wait()
    assert verdict.valid, verdict.reason
    assert abs(verdict.value - 1) < max(0.05, 3 * verdict.metrics["se"])


@pytest.mark.slow
def test_a_seal_that_is_broken_in_vain(verifier):
    with pytest.raises(InvalidSolution, match="NameError") as error:
        verifier.seal(TASK.parse(code("return nothing")))
    assert error.value.kind == "crash"
    assert verifier.score(FALL).valid


def test_bad_specs_are_told_apart_without_running(verifier):
    verdict = verifier.score(Solution("spec", "{}"))
    assert not verdict.valid and verdict.reason.startswith("missing_field: ")
    assert verifier.score(Solution("code", "def f(: pass")).reason.startswith("syntax: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu_where_one_is_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="instance: 'cuda' needs a CUDA GPU.*Use instance 'cpu'"):
        TriMulVerifier(Path(), tmp_path, instance="cuda")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_slowing_the_reference_down_is_seen():
    exchange = Exchange((*SMALL.timed, *SMALL.checked), "cpu")
    with contextlib.ExitStack() as stack:
        stack.callback(exchange.close)
        reference = Session("reference", "cpu", exchange, threads=2, memory_mb=3000, trusted=True)
        stack.callback(reference.close)
        judge = Judge(reference, None, first_seconds=30, seconds=60)
        reference.prepare(SMALL.timed[0], 1, 30)
        judge._draw(1)
        assert judge._refer(1) > 0 and judge._refer(2) > 0
        cores = os.sched_getaffinity(0)
        for meddle in (
            lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 5),
            lambda pid: os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0)),
            *([lambda pid: os.sched_setaffinity(pid, {min(cores)})] if len(cores) > 1 else []),
        ):
            meddle(max(reference._placed))
            with pytest.raises(Failed, match="priority, cores or limits") as error:
                judge._refer(3)
            assert error.value.kind == "meddled"
        assert judge._refer(4) > 0


def test_every_reason_is_a_word_that_the_trajectory_knows():
    words = {kind for kind, _ in (MILD | RUTHLESS).values()} | {"non_finite", "wrong_type", "other_stream", "timer"}
    assert words <= set(REJECTED)


def test_a_compiler_of_its_own_folder_can_be_read_where_kernels_are_compiled(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    own = tmp_path / "bin" / "cc"
    own.write_text("")
    own.chmod(0o755)
    monkeypatch.setenv("CC", str(own))
    assert compiler() == [tmp_path.resolve()]
    for name in ("/usr/bin/env", "no-such-compiler"):
        monkeypatch.setenv("CC", name)
        assert compiler() == []


class Claims:
    """A candidate's process that says what a test wants."""

    device = "cuda"

    def __init__(self, **clocks):
        self.said = {"board": 100.0, "device": 90.0, "late": False, **clocks}
        self.asking = itertools.count(5e-4, -1e-4)  # and the change over to this process, less each time

    def ask(self, op, seconds, **fields):
        return self.said

    def burst(self, seconds, seeds):
        return next(self.asking) + 130e-6 * len(set(seeds))


class Agrees:
    """The reference's process, to which every output is right."""

    device = "cuda"

    def ask(self, op, seconds, **fields):
        return {"finite": True, "worst": 0.0}

    def call(self, seconds, seed):
        return 1.0

    def burst(self, seconds, seeds, null):
        return 20e-6 * len(set(seeds))

    def moved(self):
        return False


@pytest.mark.parametrize(
    ("claims", "kind"),
    [({}, ""), ({"board": 10.0}, "timer"), ({"device": 8.0}, "timer"), ({"late": True}, "other_stream"), ({"board": 60.0}, "")],
)
def test_a_process_s_own_clock_is_believed_only_where_the_host_s_agrees(claims, kind):
    judge = Judge(Agrees(), Claims(**claims), first_seconds=1, seconds=9)
    timing = Timing(SMALL.timed[0], [1.0], [1.0], 20e-6)  # in turns with the reference a call may take much longer
    if kind:
        with pytest.raises(Failed) as error:
            judge.clocks(timing, 1)
        assert error.value.kind == kind
    else:
        assert 110 < judge.clocks(timing, 1)["outside"] <= 110 + 3e2 / 12  # what is beside the calls is shared by at least 12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("name", "kind"), [("honest", ""), ("other_stream", "unfinished|other_stream"), ("claimed_clock", "patched")]
)
def test_on_a_gpu(tmp_path, name, kind):
    own = Cases("cuda", (case(256, 2, 128),), (case(64, 1, 128, masked=True),))
    source = (CHEATS / f"{name}.py").read_text()
    with TriMulVerifier(Path(), tmp_path, own=own, instance="cuda", unsafe_no_sandbox=True) as verifier:
        verdict = verifier.score(Solution("code", source))
        assert verdict.valid == (not kind), verdict.reason
        assert re.match(kind, verdict.reason)
