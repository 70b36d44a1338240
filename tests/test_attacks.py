"""Attacks on the sandbox: each program of ``tests/attacks`` as a scaffold, a solution and a kernel, with every backend here.

What each would show if it succeeded stands at its head. What a plain process does not stop is asserted as such.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from attack_runs import (
    COMMON,
    FOLDER,
    FRAMES,
    HARMLESS,
    KNOWN,
    LIMITS,
    QUIET,
    SECRET,
    Host,
    as_kernel,
    as_scaffold,
    as_solution,
    exhausting,
    framing,
    left_in,
)
from scaffold_fakes import HEAD, CountingPolicy, DigitsTask, DigitsVerifier

from sia_nb.scaffold import sandbox
from sia_nb.scaffold.contract import Budget
from sia_nb.scaffold.execute import call_scaffold, execute
from sia_nb.scaffold.folders import remove_tree
from sia_nb.scaffold.sandbox import Limits
from sia_nb.tasks import get_task, wire
from sia_nb.trajectory import Trajectory

USABLE = [name for name, reason in sandbox.backends().items() if not reason]
ISOLATING = [name for name in USABLE if name != "plain"]
LOW = Limits(wall_seconds=math.inf, cpu_seconds=10, memory_mb=300, processes=6, threads=200, output_mb=4, file_mb=8)
attacks = pytest.mark.trust(suite="attacks")
exhaustion = pytest.mark.trust(suite="exhaustion")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="written for Linux")


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_TEST_API_KEY", SECRET)
    host = Host(tmp_path)
    yield host
    host.close()


@pytest.fixture
def only(monkeypatch):
    """Make one backend the best there is."""
    return lambda backend: monkeypatch.setattr(sandbox, "NAMES", (backend, "plain"))


def perform(folder: Path, source: str, backend: str, seconds: float = 20.0):
    """Execute as a scaffold; returns (execution, trajectory)."""
    done = execute(
        source, task=DigitsTask(), policy=CountingPolicy(), verifier=DigitsVerifier(), budget=Budget(8, 400, seconds), seed=5,
        archive=[], workdir=folder / "work", trajectory_path=folder / "work.jsonl", trusted=True, limits=LOW, backend=backend,
    )  # fmt: skip
    return done, Trajectory.read(folder / "work.jsonl")


def count(trust, tried: int, got: list[str]) -> None:
    """Count attacks, of which those in ``got`` were not stopped."""
    trust.cases(tried - len(got))
    for what in got:
        trust.case(what.partition(" -> ")[0], held=False)


def unknown(backend: str, got: list[str]) -> list[str]:
    """Of the attacks that were not stopped those that are not known to be."""
    known = {f"read_metadata: {what}" for what in KNOWN.get(backend, ())}
    return [what for what in got if what.partition(" -> ")[0] not in known]


def told(reason: str) -> tuple[int, list[str]]:
    """What a program that fails with what it got has tried and got."""
    said = re.search(r"TRIED (\d+) GOT (\[.*\])", reason)
    assert said, reason
    return int(said[1]), json.loads(said[2])


# --- to read, to change, to reach ---------------------------------------------------------------------------------------
@attacks
@pytest.mark.parametrize("backend", ISOLATING)
def test_as_a_scaffold(trust, host, backend, tmp_path):
    done, trajectory = perform(tmp_path, as_scaffold(QUIET, host.target), backend)
    (log,) = (e.data for e in trajectory.of("log"))
    count(trust, len(log["tried"]), log["got"])
    assert unknown(backend, log["got"]) == [] and len(log["tried"]) > 200
    assert host.changed() == {} and done.reason == "returned"


@attacks
@pytest.mark.parametrize("backend", ISOLATING)
def test_as_a_solution(trust, host, backend, only, denoising_data, tmp_path):
    only(backend)
    task = get_task("denoising")
    with task.verifier(denoising_data, tmp_path / "work-cache") as verifier:
        verdict = verifier.score(task.parse(as_solution(QUIET, host.target)))
    tried, got = told(verdict.reason)
    count(trust, tried, got)
    assert unknown(backend, got) == [] and tried > 200 and host.changed() == {}


@attacks
@pytest.mark.slow
@pytest.mark.parametrize("backend", ISOLATING)
def test_as_a_kernel(trust, host, backend, only, tmp_path):
    from test_trimul_verifier import SMALL

    from sia_nb.tasks.trimul.verifier import TriMulVerifier

    only(backend)
    with TriMulVerifier(Path(), tmp_path / "work-cache", own=SMALL, code_seconds=60, memory_mb=3000) as verifier:
        verdict = verifier.score(get_task("trimul").parse(as_kernel(QUIET, host.target)))
    tried, got = told(verdict.reason)
    count(trust, tried, got)
    assert unknown(backend, got) == [] and tried > 200 and host.changed() == {}


@pytest.mark.trust(suite="attacks", backend="plain")
def test_a_plain_process_stops_none_of_it(trust, host, tmp_path):
    """Only the attacks that change nothing. The kit runs only its own programs so, and says so in the run's provenance."""
    done, trajectory = perform(tmp_path, as_scaffold(list(HARMLESS), host.target), "plain")
    (log,) = (e.data for e in trajectory.of("log"))
    got = [what.partition(" -> ")[0] for what in log["got"]]
    count(trust, len(log["tried"]), got)
    assert {"read_files: sealed test", "read_files: another run", "connect: TCP", "connect: socket file"} <= set(got)
    assert not [what for what in got if what.startswith("read_environment: os") or "/proc/self" in what]
    assert "plain process" in done.notice


# --- to be run later ----------------------------------------------------------------------------------------------------
@attacks
@pytest.mark.parametrize("backend", ISOLATING)
def test_nothing_left_in_the_working_folder_is_run_by_the_host(trust, host, backend, tmp_path):
    """Names that Python and pytest look for, and a pickle, left where a scaffold may write."""
    source = (FOLDER / "hide_at_start.py").read_text()
    body = f"\ndef run(env):\n    leave({host.target!r})\n    env.submit(env.task['fallback'])\n"
    for _ in range(2):  # the second finds what the first has left
        done, _ = perform(tmp_path, HEAD + COMMON + source + body, backend)
        assert trust.case("left for the next execution", done.reason == "returned")
    assert len(list((tmp_path / "work").iterdir())) > 10
    perform(tmp_path, HEAD + "\ndef run(env):\n    import random, json\n    env.submit(env.task['fallback'])\n", backend)
    remove_tree(tmp_path / "work")
    assert host.changed() == {} and not (tmp_path / "work").exists()


@attacks
@pytest.mark.parametrize("backend", ISOLATING)
def test_a_solution_that_writes_a_pickle_as_its_output(host, backend, only, denoising_data, tmp_path):
    only(backend)
    run = f"open({host.target['pwned']!r}, 'a')"
    payload = b"cbuiltins\nexec\n(V" + run.encode() + b"\ntR."
    code = f"import os\ndef denoise(counts):\n    open('output', 'wb').write({payload!r}); os._exit(0)\n"
    task = get_task("denoising")
    with task.verifier(denoising_data, tmp_path / "work-cache") as verifier:
        assert verifier.score(task.parse(code)).reason.startswith("wrong_shape: ")
    assert host.changed() == {}


# --- to exhaust, to outlive ---------------------------------------------------------------------------------------------
@exhaustion
@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("name", LIMITS)
def test_limits(name, backend, tmp_path):
    source, limits = exhausting(name)
    began = time.monotonic()
    done, trajectory = perform(tmp_path, source, backend, seconds=3.0 if "seconds" in limits else 15.0)
    work = tmp_path / "work"
    said = [e.data["what"] for e in trajectory.of("limit")]
    assert left_in(work) == [] and time.monotonic() - began < 45
    if limits:
        assert done.reason == "killed" and set(said) & set(limits), (done.reason, said)
    else:
        assert done.reason in ("returned", "killed")
    if (work / "handles").exists():
        assert int((work / "handles").read_text()) <= 256
    if (work / "threads").exists():
        assert int((work / "threads").read_text() or 0) < 20_000
    usage = subprocess.run(["du", "-sm", str(work)], capture_output=True, text=True, check=True).stdout
    assert int(usage.split()[0]) < 200 and len(list(work.iterdir())) < 100_000
    remove_tree(work)
    assert not work.exists()


@exhaustion
@pytest.mark.parametrize("backend", ISOLATING)
def test_folders_too_deep_to_walk_down_do_not_break_the_host(trust, backend, only, denoising_data, tmp_path):
    only(backend)
    dig = "for _ in range(1500): os.mkdir('d'); os.chdir('d')"
    source = HEAD.replace("def extract(text):", f"import os\ndef extract(text):\n    {dig}\n    return text\n\ndef other(text):")
    (called,) = call_scaffold(source + "\ndef run(env): pass\n", [("extract", ["x"])], trusted=False)
    assert trust.case("extract", called.value == "x" or called.error.startswith("killed"))
    task = get_task("denoising")
    with task.verifier(denoising_data, tmp_path / "cache") as verifier:
        verdict = verifier.score(task.parse(f"import os\ndef denoise(counts):\n    {dig}\n    return counts\n"))
    assert trust.case("solution", not verdict.valid and verdict.reason.startswith("crash"))


@pytest.mark.trust(suite="gateway messages", backend="")
@pytest.mark.parametrize("name", FRAMES)
def test_frames_that_are_no_answer(name):
    """What a kernel's process may put on its socket instead is refused within the time that an answer has."""
    ours, s = socket.socketpair()
    with ours, s:
        body = f"def put(s, fd):\n    {FRAMES[name]}\n"
        space = {"json": json, "os": type("os", (), {"close": staticmethod(lambda fd: None)}), "time": time}
        exec(body, space)
        threading.Thread(target=_quietly, args=(space["put"], s), daemon=True).start()
        began = time.monotonic()
        try:
            found = wire.receive(ours, most=1 << 20, deadline=began + 1)
        except (wire.MessageError, TimeoutError, ConnectionError):
            found = None
        assert found in (None, {"nonce": "0"}) and time.monotonic() - began < 3


def _quietly(put, s: socket.socket) -> None:
    with contextlib.suppress(OSError):
        put(s, -1)


@pytest.mark.trust(suite="gateway messages")
@pytest.mark.slow
@pytest.mark.parametrize("backend", ISOLATING)
@pytest.mark.parametrize("name", ["deeply nested", "attached, endless", "drop by drop"])
def test_frames_that_a_kernel_puts_on_the_verifier_s_socket(name, backend, only, tmp_path):
    from test_trimul_verifier import SMALL

    from sia_nb.tasks.trimul.verifier import TriMulVerifier

    only(backend)
    with TriMulVerifier(Path(), tmp_path, own=SMALL, code_seconds=5, memory_mb=3000) as verifier:
        verdict = verifier.score(get_task("trimul").parse(framing(name)))
    assert not verdict.valid and verdict.reason.partition(":")[0] in ("crash", "timeout", "forged"), verdict.reason


@attacks
@pytest.mark.slow
@pytest.mark.parametrize("backend", ISOLATING)
def test_a_kernel_that_leaves_a_link_for_the_host_to_read(host, backend, only, tmp_path):
    """The last words of a process that dies go into its verdict: not those of a file that it may not read itself."""
    from test_trimul_verifier import SMALL

    from sia_nb.tasks.trimul.verifier import TriMulVerifier

    only(backend)
    link = f"os.path.lexists('stderr') and os.unlink('stderr'); os.symlink({host.target['files']['sealed test']!r}, 'stderr')"
    code = f"import os\ndef trimul(x, mask, weights):\n    {link}; os._exit(3)\n"
    with TriMulVerifier(Path(), tmp_path / "work-cache", own=SMALL, code_seconds=20, memory_mb=3000) as verifier:
        verdict = verifier.score(get_task("trimul").parse(code))
    assert verdict.reason.startswith("crash: ") and SECRET not in verdict.reason
