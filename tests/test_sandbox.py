"""The sandbox with every backend that works on this machine: what a program cannot do, and that nothing is left of it."""

from __future__ import annotations

import ctypes
import mmap
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
def test_cannot_read_what_it_must_not(backend, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("sealed")
    repository = Path(sia_nb.__file__).parent.parent
    targets = [secret, "/etc/shadow", "/etc/passwd", repository / "pyproject.toml", Path.home() / ".bashrc"]
    targets = [str(t) for t in targets if Path(t).exists()]
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "link").symlink_to(secret)
    code = f"""
for path in {targets!r} + ["link"]:
    try:
        print("READ", path, open(path).read(20))
    except OSError:
        print("hidden")
"""
    _, out, _ = run(code, tmp_path, backend)
    assert out.split() == ["hidden"] * (len(targets) + 1), out


@isolating
def test_cannot_see_other_processes(backend, tmp_path):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        code = """
import os, signal, sys
pid = int(sys.argv[1])
for what in (lambda: open(f"/proc/{pid}/cmdline").read(), lambda: os.kill(pid, signal.SIGKILL)):
    try:
        print("DONE", what())
    except OSError:
        print("no")
"""
        _, out, _ = run(code, tmp_path, backend, args=[sleeper.pid])
        assert out.split() == ["no", "no"], out
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


@isolating
def test_cannot_write_outside_its_folder(backend, tmp_path):
    code = f"""
for path in ["../escaped", {str(tmp_path / "escaped")!r}, {sia_nb.__file__!r}, "/usr/escaped", "inside"]:
    try:
        open(path, "a").close(); print("wrote", path)
    except OSError:
        print("no")
"""
    _, out, _ = run(code, tmp_path, backend)
    assert out.splitlines() == ["no"] * 4 + ["wrote inside"]
    assert not (tmp_path / "escaped").exists()


@isolating
def test_read_folders_are_readable_only(backend, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "text").write_text("for all")
    code = f"print(open({str(shared / 'text')!r}).read())\nopen({str(shared / 'new')!r}, 'w')"
    process, out, _ = run(code, tmp_path, backend, read=[shared])
    assert out.startswith("for all") and process.poll() == 1 and not (shared / "new").exists()


@isolating
def test_no_network(backend, tmp_path):
    path = tmp_path / "host.sock"
    tcp, udp, unix, abstract = (
        socket.create_server(("127.0.0.1", 0)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.socket(socket.AF_UNIX),
        socket.socket(socket.AF_UNIX),
    )
    udp.bind(("127.0.0.1", 0))
    udp.setblocking(False)
    unix.bind(str(path))
    unix.listen()
    name = f"sia-test-{os.getpid()}-{backend}"
    abstract.bind("\0" + name)
    abstract.listen()
    code = f"""
import socket
S = socket
def tcp(): S.create_connection(("127.0.0.1", {tcp.getsockname()[1]}), 2)
def udp(): S.socket(S.AF_INET, S.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", {udp.getsockname()[1]})); raise OSError
def unix(): S.socket(S.AF_UNIX).connect({str(path)!r})
def abstract(): S.socket(S.AF_UNIX).connect("\\0{name}")
def dns(): S.getaddrinfo("example.com", 80)
for what in (tcp, udp, unix, abstract, dns):
    try:
        what(); print("REACHED", what.__name__)
    except OSError:
        print("no")
"""
    with tcp, udp, unix, abstract:
        _, out, _ = run(code, tmp_path, backend)
        assert out.split() == ["no"] * 5, out
        with pytest.raises(BlockingIOError):
            udp.recv(10)


@isolating
def test_dangerous_system_calls_are_denied(backend, tmp_path):
    if not seccomp.program():
        pytest.skip("no filter for this architecture")
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(libc.unshare(0x10000000), libc.ptrace(16, os.getppid(), 0, 0), libc.shmget(0, 4096, 0o1600))
try:
    print(os.memfd_create("x"))
except OSError:
    print("no")
"""
    _, out, _ = run(code, tmp_path, backend)
    assert out.split() == ["-1", "-1", "-1", "no"]


@isolating
def test_cannot_reach_into_processes_outside(backend, tmp_path):
    """Each call that takes a pid (or all processes of a user) and needs no more than the same user, aimed at this process."""
    if not seccomp.program():
        pytest.skip("no filter for this architecture")
    code = """
import ctypes, errno, os, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
host, page = int(sys.argv[1]), int(sys.argv[2])
column = ["x86_64", "aarch64"].index(platform.machine())
def call(numbers, *arguments):
    fixed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return libc.syscall(ctypes.c_long(numbers[column]), *fixed)
def longs(*values): return (ctypes.c_ulong * len(values))(*values)
zero, batch = ctypes.c_int(0), (ctypes.c_uint32 * 12)(48, 3)
own = ctypes.create_string_buffer(64)
here, there = longs(ctypes.addressof(own), 8), longs(page, 8)
fd = call((434, 434), host, 0)
attacks = {
    "priority": lambda: libc.setpriority(0, host, 3),
    "priority of a user": lambda: libc.setpriority(2, 0, 0),
    "affinity": lambda: call((203, 122), host, 8, longs(1)),
    "scheduler": lambda: libc.sched_setscheduler(host, 3, ctypes.byref(zero)),
    "scheduling parameter": lambda: libc.sched_setparam(host, ctypes.byref(zero)),
    "scheduling attributes": lambda: call((314, 274), host, batch, 0),
    "disk priority": lambda: call((251, 30), 1, host, (2 << 13) | 7),
    "disk priority of a user": lambda: call((251, 30), 3, os.getuid(), 0),
    "limit": lambda: call((302, 261), host, 4, longs(0, 0), None),
    "limit, read": lambda: call((302, 261), host, 4, None, longs(0, 0)),
    "memory, read": lambda: call((310, 270), host, here, 1, there, 1, 0),
    "memory, write": lambda: call((311, 271), host, here, 1, there, 1, 0),
    "trace": lambda: libc.ptrace(16, host, 0, 0),
    "seize": lambda: libc.ptrace(0x4206, host, 0, 0),
    "descriptor": lambda: call((438, 438), fd, 1, 0),
    "compare": lambda: call((312, 272), os.getpid(), host, 1, 0, 0),
    "page out": lambda: call((440, 440), fd, longs(page, 4096), 1, 21, 0),
    "migrate": lambda: call((256, 238), host, 64, longs(1), longs(1)),
    "move": lambda: call((279, 239), host, 1, longs(page), None, (ctypes.c_int * 1)(), 0),
    "signal": lambda: libc.kill(host, 0),
    "signal by descriptor": lambda: call((424, 424), fd, 0, None, 0),
}
for name, attack in attacks.items():
    print(name, "DONE" if attack() != -1 else "refused", sep=": ")
print(libc.setpriority(0, 0, 4), os.getpriority(0, 0), libc.setpriority(0, os.getpid(), 5))
os.sched_setaffinity(0, os.sched_getaffinity(0))
import resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
print("own: set")
"""

    def state():
        limits = Path(f"/proc/{os.getpid()}/limits").read_text()
        attributes = os.sched_getaffinity(0), os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
        return limits, *attributes, psutil.Process().ionice(), bytes(page)

    page = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    before = state()
    process, out, _ = run(code, tmp_path, backend, args=[os.getpid(), address])
    assert state() == before
    *attacks, own, last = out.splitlines()
    assert process.poll() == 0 and last == "own: set" and own == "0 4 -1", out
    assert len(attacks) == 21 and all(line.endswith(": refused") for line in attacks), out


@isolating
def test_cannot_rank_before_the_host(backend, tmp_path):
    code = """
import os, resource
limit, size = resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for rise in (
    lambda: os.setpriority(os.PRIO_PROCESS, 0, -1),
    lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    lambda: resource.setrlimit(limit, (size + 1, size + 1)),
):
    try:
        rise(); print("DONE")
    except (OSError, ValueError):
        print("no")
"""
    _, out, _ = run(code, tmp_path, backend)
    assert out.split() == ["no"] * 3, out


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
    allow, refuse = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with EPERM
    column, audit = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}[machine]
    first = [(142, 118), (144, 119), (314, 274), (203, 122), (302, 261)]  # a pid comes first
    who = {(141, 140): 0, (251, 30): 1}  # whose kind comes first, then the pid: PRIO_PROCESS, IOPRIO_WHO_PROCESS
    expected = {pair[column]: x == 0 for pair in first} | {
        pair[column]: x == kind and y % 2**32 == 0 for pair, kind in who.items()
    }
    assert verdict(seccomp.program(machine, ()), audit, number, (x, y, 0, 0, 0, 0)) == (
        allow if expected.get(number, True) else refuse
    )
    denied = {pair[column] for pair in seccomp.DENIED.values()}
    allowed = expected.get(number, True) and number not in denied
    assert verdict(seccomp.program(machine), audit, number, (x, y, 0, 0, 0, 0)) == (allow if allowed else refuse)
    assert verdict(seccomp.program(machine), audit, number + 0x40000000, (0,) * 6) == refuse
    assert verdict(seccomp.program(machine), 0x40000003, number, (0,) * 6) == 0x80000000  # i386: killed


@each
def test_endless_loop(backend, tmp_path):
    limits = Limits(wall_seconds=1)
    process, _, seconds = run("while True: pass", tmp_path, backend, limits)
    assert process.limit_hit == "wall: more than 1 s" and process.poll() == -9 and seconds < 6


@each
def test_processor_time(backend, tmp_path):
    process, _, _ = run("while True: pass", tmp_path, backend, Limits(wall_seconds=20, cpu_seconds=1))
    assert process.limit_hit == "cpu: more than 1 s"


@each
def test_fork_bomb(backend, tmp_path):
    """2^9 processes if nothing stops it; each writes a file that tells it lived."""
    code = """
import os, time
for i in range(9):
    try:
        os.fork()
    except OSError:
        pass
    open(str(os.getpid()), "w").close()
    time.sleep(0.05)
time.sleep(30)  # BOMB
"""
    process, _, _ = run(code, tmp_path, backend, Limits(wall_seconds=3, processes=6))
    assert process.limit_hit.split(":")[0] in ("processes", "wall")
    assert len(list((tmp_path / "work").iterdir())) < 300
    assert left_over("# BOMB") == []


@each
def test_ten_gigabytes(backend, tmp_path):
    code = "x = bytearray(10 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1"
    process, _, _ = run(code, tmp_path, backend)
    assert process.limit_hit == "memory: more than 300 MB"


@each
def test_memory_of_all_processes_together(backend, tmp_path):
    code = """
import os, time
for i in range(3):
    if os.fork() == 0:
        x = b"x" * (150 << 20); time.sleep(20)
time.sleep(20)
"""
    process, _, _ = run(code, tmp_path, backend)
    assert process.limit_hit == "memory: more than 300 MB"


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
def test_a_gigabyte_of_output(backend, tmp_path):
    code = "import sys\nfor i in range(1000): sys.stdout.write('x' * (1 << 20)); sys.stdout.flush()"
    process, out, _ = run(code, tmp_path, backend)
    assert process.limit_hit == "output: more than 4 MB" and len(out) <= 9 << 20


@each
def test_a_gigabyte_of_files(backend, tmp_path):
    code = "import time\nfor i in range(250): open(f'f{i}', 'wb').write(b'x' * (4 << 20)); time.sleep(0.01)"
    process, _, _ = run(code, tmp_path, backend)
    assert process.limit_hit == "output: more than 8 MB of files"
    assert sum(f.stat().st_size for f in (tmp_path / "work").iterdir()) < 300 << 20


@each
def test_files_without_a_name_count_too(backend, tmp_path):
    code = """
import os, time
held = []
for i in range(100):
    f = open("f", "wb"); os.unlink("f"); f.write(b"x" * (4 << 20)); f.flush(); held.append(f)
    time.sleep(0.02)
"""
    process, _, _ = run(code, tmp_path, backend)
    assert process.limit_hit == "output: more than 8 MB of files"


@each
def test_nothing_outlives_the_program(backend, tmp_path):
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("lives", "w").close(); time.sleep(60)  # DAEMON
    os._exit(0)
while not os.path.exists("lives"): time.sleep(0.01)
"""
    process, _, seconds = run(code, tmp_path, backend)
    assert process.poll() == 0 and seconds < 10
    assert left_over("# DAEMON") == []


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


@each
def test_only_the_named_descriptors_are_inherited(backend, tmp_path):
    r, w = os.pipe()
    os.set_inheritable(w, True)
    code = f"import os\ntry: os.write({w}, b'x'); print('INHERITED')\nexcept OSError: print('no')"
    _, out, _ = run(code, tmp_path, backend)
    os.close(r), os.close(w)
    assert out.strip() == "no"


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
