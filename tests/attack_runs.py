"""The programs of ``tests/attacks`` as scaffolds, as solutions and as kernels, and a host that has something to lose."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from scaffold_fakes import HEAD

import sia_nb
from sia_nb.scaffold import sandbox

FOLDER = Path(__file__).parent / "attacks"
COMMON = (FOLDER / "common.py").read_text()
QUIET = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "common")
LIMITS = sorted(p.stem for p in (FOLDER / "limits").glob("*.py"))
KNOWN = {
    "sandlock": {"size", "time", "presence", "rights", "program of a process", "folder of a process", "open files of a process"}
}  # of read_metadata: what a backend is known not to stop
HARMLESS = ("read_environment", "read_files", "read_listings", "connect")  # change nothing where nothing stops them
SECRET = "canary-3f9a1c-key"

PERFORM = """
def perform(suite, common, t):
    tried, got, spaces = [], [], {}
    for name, source in suite.items():
        spaces[name] = {}
        exec(compile(common + "\\n" + source, name, "exec"), spaces[name])
    for name, space in spaces.items():
        for what, attack in space["attacks"](t).items():
            tried.append(name + ": " + what)
            try:
                found = attack()
            except Exception:
                found = None
            if found:
                got.append(name + ": " + what + " -> " + repr(found)[:60])
    return tried, got
"""


def everything(names: list[str], target: dict) -> str:
    """Source that performs these attacks when ``result()`` is called, giving (tried, got)."""
    suite = {name: (FOLDER / f"{name}.py").read_text() for name in names}
    return f"{PERFORM}\n\ndef result():\n    return perform({suite!r}, {COMMON!r}, {target!r})\n"


def as_scaffold(names: list[str], target: dict) -> str:
    """agent.py that logs what it tried and got."""
    run = "\ndef run(env):\n    tried, got = result()\n    env.log('attacks', tried=tried, got=got)\n"
    return HEAD + everything(names, target) + run + "    env.submit(env.task['fallback'])\n"


def as_solution(names: list[str], target: dict) -> str:
    """A denoising program that fails with what it got."""
    return (
        "import os\n"
        + everything(names, target)
        + "\ndef denoise(counts):\n    raise RuntimeError('TRIED %d GOT %s' % tell())\n"
        + TELL
    )


def as_kernel(names: list[str], target: dict) -> str:
    """A TriMul program that fails with what it got."""
    call = "\ndef trimul(x, mask, weights):\n    raise RuntimeError('TRIED %d GOT %s' % tell())\n"
    return "import os\n" + everything(names, target) + call + TELL


TELL = "\nimport json\ndef tell():\n    tried, got = result()\n    return len(tried), json.dumps(got)\n"


def exhausting(name: str) -> tuple[str, tuple[str, ...]]:
    """agent.py of an attack on a limit, and the limits that may stop it: none where it ends by itself."""
    source = (FOLDER / "limits" / f"{name}.py").read_text()
    space: dict = {}
    exec(compile("\n".join(line for line in source.splitlines() if line.startswith("LIMIT")), name, "exec"), space)
    run = "\ndef run(env):\n    attack({})\n    env.submit(env.task['fallback'])\n"
    return HEAD + source + run, space["LIMIT"]


@dataclass
class Host:
    """What there is to lose, and whether it is as before."""

    folder: Path
    target: dict = field(default_factory=dict)
    signals: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stack = contextlib.ExitStack()
        files = {
            "another run": "results/runs/other/step_001/scaffold/agent.py", "its ledger": "results/runs/other/ledger.jsonl",
            "sealed test": "data/sealed/lawbench/test.json", "dev labels": "data/sealed/lawbench/dev_seed_0.json",
            "verdicts": "data/cache/verdict.json",
        }  # fmt: skip
        for path in files.values():
            self._write(path)
        home = [p for p in Path.home().iterdir() if p.is_file()][:3]
        system = {p: Path(p) for p in ("/etc/passwd", "/etc/shadow", "/etc/machine-id")}
        repository = Path(sia_nb.__file__).resolve().parent.parent
        paths = (
            {what: self.folder / path for what, path in files.items()}
            | {f"home folder, {n}": p for n, p in enumerate(home)}
            | system
        )
        if cells := sandbox._hidden():
            paths["sealed cells in a package"] = Path(cells[0])
        paths["repository"] = repository / "pyproject.toml"
        self._write("outside/victim")
        self._write("outside/other")
        (self.folder / "outside" / "empty").mkdir()
        sleeper = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(900)", "sleep", SECRET], env={"SLEEPER_KEY": SECRET}
        )
        self._stack.callback(sleeper.wait)
        self._stack.callback(sleeper.kill)
        self.sleeper = sleeper
        self.page = mmap.mmap(-1, mmap.PAGESIZE)
        self.page[:32] = SECRET.encode().ljust(32)
        self.descriptor = os.open(self.folder / files["sealed test"], os.O_RDONLY)
        os.set_inheritable(self.descriptor, True)
        self._stack.callback(os.close, self.descriptor)
        self._serve()
        self._share()
        before = signal.signal(signal.SIGURG, lambda number, _: self.signals.append(number))
        self._stack.callback(signal.signal, signal.SIGURG, before)
        self.target |= {
            "secret": SECRET, "home": str(Path.home()), "host": os.getpid(), "sleeper": sleeper.pid, "descriptor": self.descriptor,
            "page": ctypes.addressof(ctypes.c_char.from_buffer(self.page)), "files": {k: str(v) for k, v in paths.items() if v.exists()},
            "folders": {
                "other runs": (str(self.folder / "results" / "runs"), "other"), "the system": ("/etc", "passwd"),
                "repository": (str(repository), "README.md"), **{f"home {n}": (str(p.parent), p.name) for n, p in enumerate(home[:1])},
            },
            "network": os.readlink("/proc/self/ns/net"),
            "victim": str(self.folder / "outside" / "victim"), "outside": str(self.folder / "outside"),
            "package": str(Path(sia_nb.__file__).resolve().parent), "tests": str(Path(__file__).parent),
            "pwned": str(self.folder / "outside" / "pwned"),
        }  # fmt: skip
        self.before = self.state()

    def _write(self, path: str) -> None:
        whole = self.folder / path
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_text(SECRET)

    def _serve(self) -> None:
        names = f"sia-stream-{os.getpid()}", f"sia-datagram-{os.getpid()}"
        tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        unix, abstract, datagram = (socket.socket(socket.AF_UNIX, k) for k in (1, 1, socket.SOCK_DGRAM))
        path = f"/tmp/sia-attack-{os.getpid()}.sock"
        self._stack.callback(Path(path).unlink, missing_ok=True)
        for s, name in ((unix, path), (abstract, "\0" + names[0]), (datagram, "\0" + names[1])):
            s.bind(name)
        unix.listen()
        abstract.listen()
        self.servers = [tcp, udp, unix, abstract, datagram]
        for s in self.servers:
            s.setblocking(False)
            self._stack.enter_context(s)
        self.target |= {"tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1], "unix": path}
        self.target |= {"abstract": names[0], "datagram": names[1]}

    def _share(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        segment, queue = libc.shmget(0, 4096, 0o1600), libc.msgget(0, 0o1600)
        assert segment != -1 and queue != -1
        self._stack.callback(libc.shmctl, segment, 0, None)
        self._stack.callback(libc.msgctl, queue, 0, None)
        at = libc.shmat(segment, None, 0)
        ctypes.memmove(at, SECRET.encode(), len(SECRET))
        self.segment = at
        message = ctypes.create_string_buffer(b"\1" + b"\0" * 7 + SECRET.encode())
        assert libc.msgsnd(queue, message, len(SECRET), 0) == 0
        shm = Path(f"/dev/shm/sia-attack-{os.getpid()}")
        shm.write_text(SECRET)
        self._stack.callback(shm.unlink, missing_ok=True)
        self.target |= {"segment": segment, "queue": queue, "shm": shm.name}

    def state(self) -> dict:
        """All that no attack may change."""
        files = {}
        for path in sorted(self.folder.rglob("*")):
            if "work" not in path.relative_to(self.folder).parts[0]:
                s = path.lstat()
                content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
                files[str(path)] = (s.st_mode, s.st_uid, s.st_mtime_ns, s.st_nlink, content)
        here = psutil.Process()
        return {
            "files": files, "sleeper": self.sleeper.poll(), "page": bytes(self.page), "segment": ctypes.string_at(self.segment, 32),
            "limits": Path(f"/proc/{os.getpid()}/limits").read_text(), "cores": os.sched_getaffinity(0),
            "ranks": (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), here.ionice()),
            "reached": [s for s in self.servers if _heard(s)], "signals": list(self.signals), "strays": strays(),
            "name": os.uname().nodename, "queue": _messages(self.target["queue"]),
        }  # fmt: skip

    def changed(self) -> dict:
        """What is not as before, by name: (before, now)."""
        now = self.state()
        return {name: (was, now[name]) for name, was in self.before.items() if now[name] != was}

    def close(self) -> None:
        """Give everything back."""
        self._stack.close()


def _messages(queue: int) -> int:
    """How many messages lie in a queue."""
    lines = [line.split() for line in Path("/proc/sysvipc/msg").read_text().splitlines()[1:]]
    return next((int(line[4]) for line in lines if int(line[1]) == queue), -1)


def _heard(server: socket.socket) -> bool:
    try:
        server.accept() if server.type == socket.SOCK_STREAM else server.recv(10)
    except BlockingIOError:
        return False
    return True


def strays() -> list[str]:
    """Files that an attack would have left at places that no test folder holds."""
    places = [p for p in sys.path if p.endswith("site-packages")]
    places += [os.path.dirname(os.__file__), os.path.dirname(sia_nb.__file__), str(Path(__file__).parent)]
    names = ("sitecustomize.py", "usercustomize.py", "zz_sia_attack.pth", "json_.py", "new.py")
    found = [f"{place}/{name}" for place in places for name in names]
    found += ["/usr/new", "/etc/new", "/tmp/sia-attack", "/dev/shm/sia-attack", "/sys/fs/cgroup/sia-attack"]
    return [path for path in found if os.path.lexists(path)]


def left_in(folder: Path) -> list[int]:
    """Processes of this machine that work in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd().startswith(str(folder)):
                found.append(process.pid)
    return found


KERNEL = """
import json, os, socket, stat, time
def trimul(x, mask, weights):
    for fd in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                s = socket.socket(fileno=os.dup(fd))
                {body}
        except OSError:
            pass
    time.sleep(30)
"""
FRAMES = {  # what a kernel puts on the verifier's socket in place of an answer
    "four gigabytes announced": "s.sendall(b'\\xff' * 4)",
    "not JSON": "s.sendall(b'\\0\\0\\0\\x04\\xff\\xff\\xff\\xff')",
    "deeply nested": "s.sendall((100_000).to_bytes(4, 'big') + b'[' * 100_000)",
    "a list": "s.sendall(b'\\0\\0\\0\\x02[]')",
    "a number": "s.sendall(b'\\0\\0\\0\\x017')",
    "attached, endless": "b = json.dumps({'attached': 1 << 60}).encode(); s.sendall(len(b).to_bytes(4, 'big') + b)",
    "attached, negative": "b = b'{\"attached\": -1}'; s.sendall(len(b).to_bytes(4, 'big') + b)",
    "attached, no number": "b = b'{\"attached\": \"x\"}'; s.sendall(len(b).to_bytes(4, 'big') + b)",
    "a nonce of its own": "b = b'{\"nonce\": \"0\"}'; s.sendall(len(b).to_bytes(4, 'big') + b)",
    "drop by drop": "s.sendall(b'\\0\\0\\xff\\xff'); [(s.sendall(b' '), time.sleep(0.2)) for _ in range(200)]",
    "closed": "os.close(fd); s.shutdown(2)",
}


def framing(name: str) -> str:
    """A TriMul program that puts these bytes on the verifier's socket."""
    return KERNEL.format(body=FRAMES[name])
