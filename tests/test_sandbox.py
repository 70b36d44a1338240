"""The sandbox with every backend that works on this machine: what a program cannot do, and that nothing is left of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

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
