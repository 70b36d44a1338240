"""The processes behind a verifier: those that stay and answer specs, and one for each piece of Python.

All run in ``scaffold.sandbox``. What fails in them comes back as ``Failed``, whose kind is a word of
``trajectory``'s list of failures.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

from ..errors import SandboxError
from ..scaffold.folders import remove_tree
from ..scaffold.sandbox import Limits, launch
from .wire import receive, send

PACKAGE = Path(__file__).resolve().parents[1]
BOOT = (
    "import importlib.util as u,runpy,sys;p=sys.argv.pop(1);w=sys.argv.pop(1);"
    "s=u.spec_from_file_location('sia_nb',p+'/__init__.py',submodule_search_locations=[p]);"
    "m=sys.modules['sia_nb']=u.module_from_spec(s);s.loader.exec_module(m);"
    "runpy.run_module(w,run_name='__main__',alter_sys=True)"
)
FOREVER = 10**7
NO_MEMORY = 77  # a runner's exit code where memory ran out


class Failed(Exception):
    """A process gave no answer; ``kind`` is timeout, memory, crash, wrong_shape, refused or a task's own word."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def last_words(file: IO[bytes]) -> str:
    """The last line of what a process said, empty where it said nothing."""
    data = os.pread(file.fileno(), 4096, max(0, os.fstat(file.fileno()).st_size - 4096))
    return (data.decode("utf-8", "replace").strip().splitlines() or [""])[-1][:300]


class Worker:
    """A warm process that runs a module's ``wire.serve``; started at the first question.

    It has one thread unless told otherwise, whatever the machine, since their number can change the last bits of a sum.

    Args:
        module: what it runs, with the socket's number and ``folder`` as arguments.
        folder: the only data that it may read; None: it gets all it needs by message.
        memory_mb, seconds: limits of the process, and of one answer.
        threads: of linear algebra.
    """

    def __init__(self, module: str, folder: Path | None, *, memory_mb: int, seconds: float, threads: int = 1):
        self.module, self.memory_mb, self.seconds, self.threads = module, memory_mb, seconds, threads
        self.data = [] if folder is None else [folder.resolve()]
        self._process: Any = None
        self._socket: socket.socket | None = None
        self._folder: str | None = None
        self._said: IO[bytes] | None = None  # standard error; not in its folder, where it could be a link

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._folder, self._said = tempfile.mkdtemp(prefix="sia-"), tempfile.TemporaryFile()
        try:
            argv = [sys.executable, "-c", BOOT, str(PACKAGE), self.module, str(theirs.fileno()), *map(str, self.data)]
            self._process = launch(
                argv,
                read=self.data,
                write=[Path(self._folder)],
                limits=Limits(wall_seconds=FOREVER, cpu_seconds=FOREVER, memory_mb=self.memory_mb, processes=64),
                pass_fds=(theirs.fileno(),),
                env=dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads)),
                stderr=self._said,
                trusted=True,
            )
        finally:
            theirs.close()
        self._socket = ours
        ours.settimeout(120)
        if self._ask(None) is None:
            self._fail("crash", "the worker did not start")

    def _ask(self, message: dict[str, Any] | None, attached: bytes = b"") -> dict[str, Any] | None:
        try:
            if message is not None:
                send(self._socket, message, attached)
            return receive(self._socket)
        except (ConnectionError, BrokenPipeError):
            return None

    def _fail(self, kind: str, message: str) -> None:
        hit = self._process.limit_hit if self._process is not None else ""
        said = last_words(self._said) if self._said is not None else ""
        self.close()
        if hit.startswith("memory"):
            kind, message = "memory", f"more than {self.memory_mb} MB"
        raise Failed(kind, message + (f" ({said})" if said else ""))

    def ask(self, request: dict[str, Any], attached: bytes = b"") -> dict[str, Any]:
        """The answer to one request, its attached bytes under "attached".

        Raises:
            Failed: it crashed, ran out of memory or of time; the process is gone and a next question
                starts a new one. Or it answered with an error, and stays.
            SandboxError: no process can be started.
        """
        if self._process is None:
            self._start()
        self._socket.settimeout(self.seconds)
        try:
            answer = self._ask(request, attached)
        except TimeoutError:
            self._fail("timeout", f"{self.seconds:g} s")
        if answer is None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                pass
            self._fail("crash", "the worker died")
        if "error" in answer:
            raise Failed(answer.get("kind", "crash"), answer["error"])
        return answer

    def close(self) -> None:
        """End the process and remove its folder; doing it twice is fine."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
        if self._folder is not None:
            remove_tree(Path(self._folder))
        if self._said is not None:
            self._said.close()
        self._process = self._socket = self._folder = self._said = None


class Pool:
    """Workers of which each caller takes one at a time."""

    def __init__(self, workers: Sequence[Any]):
        self.all, self._idle = list(workers), list(workers)
        self._free = threading.Semaphore(len(self.all))

    @contextlib.contextmanager
    def one(self) -> Iterator[Any]:
        """A worker that nobody else uses meanwhile."""
        with self._free:
            worker = self._idle.pop()
            try:
                yield worker
            finally:
                self._idle.append(worker)

    def close(self) -> None:
        """End the workers."""
        for worker in self.all:
            worker.close()


class SharedPool:
    """A pool that several verifiers of one data folder ask; it ends with the last holder."""

    _open: ClassVar[dict[Hashable, SharedPool]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, pool: Pool):
        self.pool, self.holders = pool, 0

    @classmethod
    def hold(cls, what: Hashable, pool: Pool) -> SharedPool:
        """The pool called ``what`` of as many workers as ``pool`` has; this one where there is none yet."""
        with cls._lock:
            found = cls._open.setdefault((what, len(pool.all)), cls(pool))
            found.holders += 1
            return found

    def release(self) -> None:
        """Give it back."""
        with self._lock:
            self.holders -= 1
            if not self.holders:
                self._open.pop(next(k for k, v in self._open.items() if v is self))
                self.pool.close()


def run_program(
    runner: Path,
    inputs: Mapping[str, bytes],
    output: str,
    *,
    seconds: float,
    memory_mb: int,
    output_bytes: int,
    file_mb: int = 64,
    trusted: bool = False,
    unsafe: bool = False,
) -> bytes:
    """What a runner script wrote to the file ``output``, in a sandbox that holds ``inputs`` and nothing else.

    Raises:
        Failed: it crashed, took too long or too much memory, wrote no plain file of at most ``output_bytes``, or no
            sandbox may run it.
    """
    folder = Path(tempfile.mkdtemp(prefix="sia-"))
    process = None
    try:
        for name, data in inputs.items():
            (folder / name).write_bytes(data)
        limits = Limits(wall_seconds=seconds, cpu_seconds=2 * seconds, memory_mb=memory_mb, processes=32, file_mb=file_mb)
        argv = [sys.executable, "-I", str(runner)]
        try:
            process = launch(argv, read=[], write=[folder], limits=limits, trusted=trusted, unsafe=unsafe)
        except SandboxError as error:
            raise Failed("refused", str(error)) from error
        status = process.wait()
        what = process.limit_hit.split(":")[0]
        if what == "memory" or status == NO_MEMORY:
            raise Failed("memory", f"more than {memory_mb} MB")
        if what in ("wall", "cpu"):
            raise Failed("timeout", f"{seconds:g} s")
        if what:
            raise Failed("crash", process.limit_hit)
        return _output(folder / output, status, output_bytes)
    finally:
        if process is not None:
            process.kill()
        remove_tree(folder)


def _output(path: Path, status: int, most: int) -> bytes:
    """What the runner wrote; a link is not followed, since the host may read what the sandbox may not."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1 or about.st_size > most:
                raise Failed("wrong_shape", f"{path.name} is no plain file of reasonable size")
            return file.read(most)
    except OSError:
        raise Failed("crash", f"no output, exit code {status}") from None
