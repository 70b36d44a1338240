"""The sandbox with every backend that works on this machine: starting, limits, ending. Attacks on it: test_attacks.py."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sia_nb
from sia_nb.errors import SandboxError
from sia_nb.scaffold import sandbox, seccomp
from sia_nb.scaffold.sandbox import Limits, backends, launch

USABLE = [name for name, reason in backends().items() if not reason]
ISOLATING = [name for name in USABLE if name != "plain"]
LOW = Limits(wall_seconds=10, cpu_seconds=8, memory_mb=300, processes=6, output_mb=4, file_mb=8)
each = pytest.mark.parametrize("backend", USABLE)
isolating = pytest.mark.parametrize("backend", ISOLATING)


def run(code: str, folder: Path, backend: str, limits: Limits = LOW, **more):
    """Run Python code in the sandbox; returns (process, what it printed, seconds)."""
    work, out = folder / "work", folder / "out"
    work.mkdir(exist_ok=True)
    began = time.monotonic()
    argv = [sys.executable, "-I", "-c", code, *map(str, more.pop("args", []))]
    with launch(argv, write=[work], limits=limits, stdout=out, stderr=out, backend=backend, trusted=True, **more) as process:
        process.wait(30)
    return process, out.read_text(errors="replace"), time.monotonic() - began


def left_over(mark: str) -> list[int]:
    """Processes on this machine with ``mark`` on their command line, this one and its tests' aside."""
    found = []
    for p in psutil.process_iter(["pid", "cmdline"]):
        if any(mark in a for a in p.info["cmdline"] or []) and p.pid != os.getpid():
            found.append(p.pid)
    return found


def test_this_machine_has_an_isolating_backend():
    assert ISOLATING, backends()


@each
def test_clean_environment_and_working_folder(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret-key")
    process, out, _ = run("import os; print(sorted(os.environ), os.getcwd(), os.environ['HOME'])", tmp_path, backend)
    assert process.poll() == 0, out
    assert "KEY" not in out and "PYTHONHASHSEED" in out
    assert out.count(os.path.realpath(tmp_path / "work")) == 2


@each
def test_exit_code_and_extra_variables(backend, tmp_path):
    process, out, _ = run(
        "import os; print(os.environ['MARK'], flush=True); os._exit(7)", tmp_path, backend, env={"MARK": "here"}
    )
    assert (process.poll(), out.strip(), process.limit_hit, process.backend) == (7, "here", "", backend)
    assert bool(process.notice) == (backend == "plain")


@isolating
def test_read_folders_are_readable_only(backend, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "text").write_text("for all")
    code = f"print(open({str(shared / 'text')!r}).read())\nopen({str(shared / 'new')!r}, 'w')"
    process, out, _ = run(code, tmp_path, backend, read=[shared])
    assert out.startswith("for all") and process.poll() == 1 and not (shared / "new").exists()


@isolating
@pytest.mark.parametrize("given", [True, False])
def test_only_a_program_with_a_device_may_do_what_a_gpu_s_driver_does_at_start(backend, tmp_path, given):
    code = """
import ctypes, os, threading
print("memory", ctypes.CDLL(None).memfd_create(b"driver", 0) > 0)
there, end = threading.Event(), threading.Event()
thread = threading.Thread(target=lambda: (there.set(), end.wait()))
thread.start()
there.wait()
def opens(path):
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        return False
    return True
print("name", opens(f"/proc/{os.getpid()}/task/{thread.native_id}/comm"))
end.set()
print("kernel", any(map(opens, ("/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger"))))
"""
    process, out, _ = run(code, tmp_path, backend, devices=[Path("/dev/zero")] if given else [])
    assert (process.poll(), out.split()) == (0, ["memory", str(given), "name", str(given), "kernel", "False"])


@isolating
def test_a_program_may_set_what_is_its_own(backend, tmp_path):
    code = """
import ctypes, os, resource
libc, now = ctypes.CDLL(None), os.getpriority(0, 0)
print(libc.setpriority(0, 0, now + 1), os.getpriority(0, 0) - now, libc.setpriority(0, os.getpid(), now + 2))
os.sched_setaffinity(0, os.sched_getaffinity(0))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
print("set")
"""
    _, out, _ = run(code, tmp_path, backend)
    assert out.splitlines() == ["0 1 -1", "set"]


def verdict(filter_: bytes, audit: int, number: int, arguments: tuple[int, ...]) -> int:
    """What a seccomp filter returns for a call: classic BPF, as far as the filter uses it."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments)
    at, loaded = 0, 0
    while True:
        operation, yes, no, k = struct.unpack_from("=HBBI", filter_, 8 * at)
        at += 1
        if operation == 0x06:
            return k
        if operation == 0x20:
            loaded = struct.unpack_from("=I", data, k)[0]
        else:
            at += yes if {0x15: loaded == k, 0x35: loaded >= k}[operation] else no


NAMED = [n for calls in (seccomp.DENIED, seccomp.OWN_ONLY) for row in calls.values() for n in row[:2]]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@given(
    number=st.sampled_from(NAMED) | st.integers(0, 460),
    x=st.integers(0, 3),
    y=st.sampled_from([0, 1, 1 << 32]) | st.integers(0, 2**64 - 1),
)
def test_the_filter_lets_through_only_what_is_aimed_at_the_caller(machine, number, x, y):
    # priority, scheduling and the like of the caller alone; sockets of AF_UNIX alone
    allow, refuse = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with EPERM
    column, audit = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}[machine]
    first = [(142, 118), (144, 119), (314, 274), (203, 122), (302, 261)]  # a pid comes first
    who = {(141, 140): 0, (251, 30): 1}  # whose kind comes first, then the pid: PRIO_PROCESS, IOPRIO_WHO_PROCESS
    expected = (
        {pair[column]: x == 0 for pair in first}
        | {(41, 198)[column]: x == 1}
        | {pair[column]: x == kind and y % 2**32 == 0 for pair, kind in who.items()}
    )
    assert verdict(seccomp.program(machine, ()), audit, number, (x, y, 0, 0, 0, 0)) == (
        allow if expected.get(number, True) else refuse
    )
    denied = {pair[column] for pair in seccomp.DENIED.values()}
    allowed = expected.get(number, True) and number not in denied
    assert verdict(seccomp.program(machine), audit, number, (x, y, 0, 0, 0, 0)) == (allow if allowed else refuse)
    assert verdict(seccomp.program(machine), audit, number + 0x40000000, (0,) * 6) == refuse
    assert verdict(seccomp.program(machine), 0x40000003, number, (0,) * 6) == 0x80000000  # i386: killed


@each
def test_processor_time(backend, tmp_path):
    process, _, _ = run("while True: pass", tmp_path, backend, Limits(wall_seconds=20, cpu_seconds=1))
    assert process.limit_hit == "cpu: more than 1 s"


@each
def test_shared_memory_counts_once(backend, tmp_path):
    code = """
import os, time
x = b"x" * (150 << 20)
for i in range(3):
    if os.fork() == 0:
        time.sleep(1); os._exit(0)
for i in range(3): os.wait()
print("fine")
"""
    process, out, _ = run(code, tmp_path, backend)
    assert (process.limit_hit, out.strip()) == ("", "fine")


@each
def test_kill_ends_the_tree_and_may_be_repeated(backend, tmp_path):
    code = "import os, time\nfor i in range(2): os.fork()\nopen('up', 'w').close(); time.sleep(60)  # TREE"
    argv = [sys.executable, "-I", "-c", code]
    process = launch(argv, write=[tmp_path], limits=LOW, backend=backend, trusted=True)
    while not (tmp_path / "up").exists():
        time.sleep(0.01)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.kill()
    process.kill()
    assert process.poll() == -9 and process.limit_hit == "" and left_over("# TREE") == []


@each
def test_a_host_that_is_killed_takes_the_tree_with_it(backend, tmp_path):
    host = f"""
import sys, time
from pathlib import Path
from sia_nb.scaffold.sandbox import Limits, launch
code = "import time; open('up', 'w').close(); time.sleep(60)  # ORPHAN"
p = launch([sys.executable, "-I", "-c", code], write=[Path({str(tmp_path)!r})], backend={backend!r}, trusted=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", host], cwd=Path(sia_nb.__file__).parent.parent)
    while not (tmp_path / "up").exists():
        assert parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 5
    while left_over("# ORPHAN") and time.monotonic() < end:
        time.sleep(0.05)
    assert left_over("# ORPHAN") == []


@each
def test_a_long_lived_worker_that_forks(backend, tmp_path):
    """One socket, many requests, each answered by children of its own; it ends when the host closes."""
    code = """
import os, socket, sys
s = socket.socket(fileno=int(sys.argv[1]))
while (n := s.recv(100)):
    total = 0
    for part in range(3):
        r, w = os.pipe()
        if os.fork() == 0:
            os.write(w, b"%d" % (int(n) * part)); os._exit(0)
        os.close(w); total += int(os.read(r, 20)); os.close(r); os.wait()
    s.sendall(b"%d" % total)
"""
    ours, theirs = socket.socketpair()
    endless = Limits(wall_seconds=float("inf"), cpu_seconds=float("inf"), processes=4)
    argv = [sys.executable, "-I", "-c", code, str(theirs.fileno())]
    with launch(argv, write=[tmp_path], pass_fds=[theirs.fileno()], limits=endless, backend=backend, trusted=True) as process:
        theirs.close()
        for n in range(20):
            ours.sendall(b"%d" % n)
            assert int(ours.recv(100)) == 3 * n
        ours.close()
        assert process.wait(10) == 0


def test_untrusted_code_without_a_sandbox_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "probe", lambda name: "" if name == "plain" else "not on this machine")
    argv = [sys.executable, "-I", "-c", "print('ran')"]
    with pytest.raises(SandboxError, match="--unsafe-no-sandbox"):
        launch(argv, write=[tmp_path])
    with pytest.raises(SandboxError, match="--unsafe-no-sandbox"):
        launch(argv, write=[tmp_path], backend="plain")
    for consent in ({"unsafe": True}, {"trusted": True}):
        with launch(argv, write=[tmp_path], **consent) as process:
            assert process.wait(10) == 0 and process.backend == "plain" and "plain process" in process.notice


def test_unknown_backend_names_the_nearest():
    with pytest.raises(SandboxError, match="Did you mean 'bubblewrap'"):
        launch([sys.executable], backend="bublewrap")


@each
def test_a_program_that_is_not_there(backend, tmp_path):
    with pytest.raises(SandboxError, match="create it first"):
        launch([sys.executable], write=[tmp_path / "nowhere"], backend=backend, trusted=True)
    try:
        with launch(["/no/such/program"], write=[tmp_path], backend=backend, trusted=True) as process:
            assert process.wait(10) != 0
    except SandboxError as error:
        assert "/no/such/program" in str(error)
