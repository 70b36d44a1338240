"""The host's side of a process that runs the update: what it says is not believed, what it does is seen from outside.

The clock is the host's and lies outside every process that runs a candidate; a call is timed from the request to the
answer. As soon as the answer is there the process is stopped (SIGSTOP), so that nothing that goes on after a call can
finish its output, use the time between calls, or slow down what is measured next. On a CPU the next call's inputs are
written meanwhile into memory that it shares, so that no work on them can begin before the clock does; on a GPU a call
draws them itself, and what that takes alone is taken off. The output travels through memory that the reference's process
can only read.
"""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...scaffold import warden
from ...scaffold.folders import remove_tree
from ...scaffold.sandbox import Limits, launch
from ..process import BOOT, FOREVER, PACKAGE, Failed, last_words
from ..wire import MessageError, receive, send
from .reference import Case, places

PAGE = 4096
SPIN = 10_000  # turns that an idle thread waits for work before it sleeps: without a bound, neighbours on a core stall
MOST = 1 << 20  # bytes of an answer
FORGETS = ("load", "clocks")  # requests after which inputs must be made anew
LOOK, PATIENT = 0.01, 2.0  # seconds between looks at whether threads are idle, and until they must have been
PASSED_ON = (
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "TRITON_LIBCUDA_PATH",
    "TRITON_PTXAS_PATH",
    "CC",
)


class Shared:
    """Memory that processes share; ``write`` and ``read`` are descriptors, the latter good for reading alone."""

    def __init__(self, size: int):
        self.size = -(-size // PAGE) * PAGE
        if hasattr(os, "memfd_create"):
            import fcntl

            self.write = os.memfd_create("trimul", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.truncate(self.write, self.size)
            fcntl.fcntl(self.write, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self.read = os.open(f"/proc/self/fd/{self.write}", os.O_RDONLY)
        else:
            self.write, name = tempfile.mkstemp(prefix="trimul-")
            self.read = os.open(name, os.O_RDONLY)
            os.unlink(name)
            os.truncate(self.write, self.size)

    def close(self) -> None:
        """Give the memory back; doing it twice is fine."""
        for fd in (self.write, self.read):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.write = self.read = -1


class Exchange:
    """What the two processes share: inputs, which the reference's process draws while the candidate's is stopped (on a
    CPU; a GPU's inputs each process draws by itself), and the candidate's outputs, which the reference's can only read.

    Args:
        cases: all that will be run.
        device: "cpu" or "cuda".
    """

    def __init__(self, cases: Iterable[Case], device: str):
        cases = list(cases)
        self.outputs = Shared(max(4 * case.elements for case in cases))
        self.inputs = Shared(max(4 * places(case)[1] for case in cases) if device == "cpu" else PAGE)

    def descriptors(self, role: str) -> tuple[int, int]:
        """Those of inputs and outputs that a process gets."""
        return self.inputs.write, self.outputs.read if role == "reference" else self.outputs.write

    def close(self) -> None:
        """Give the memory back; doing it twice is fine."""
        self.inputs.close()
        self.outputs.close()


def compiler() -> list[Path]:
    """Where the C compiler is that Triton calls for its launchers, if it is none of the system's."""
    found = shutil.which(os.environ.get("CC") or "gcc")
    folder = Path(os.path.realpath(found)).parent.parent if found else Path("/usr")
    return [] if folder in (Path("/"), Path("/usr")) else [folder]


class Session:
    """A sandboxed process of ``runner.py``.

    Args:
        role: "reference" runs the reference and judges outputs; "candidate" runs code that it is given.
        device: "cpu" or "cuda".
        exchange: where inputs and outputs stand.
        threads: of the process on the CPU.
        memory_mb: its limit.
        trusted: the kit wrote what it will run; unsafe: run it even where no sandbox is usable.
        compiled: a folder that it shares with other trusted ones, for what torch.compile makes; None: its own.

    Raises:
        Failed: it does not start. SandboxError: no sandbox may run it.
    """

    def __init__(
        self,
        role: str,
        device: str,
        exchange: Exchange,
        *,
        threads: int,
        memory_mb: int,
        trusted: bool,
        unsafe: bool = False,
        compiled: Path | None = None,
    ):
        if compiled is not None:
            compiled.mkdir(parents=True, exist_ok=True)
        self.role, self.device, self.memory_mb = role, device, memory_mb
        self.folder = Path(tempfile.mkdtemp(prefix="trimul-"))
        self._said = tempfile.TemporaryFile()  # not in its folder, where it could put a link to a file of the host
        self._socket, theirs = socket.socketpair()
        self._process: Any = None
        self._prepared: tuple[Case, int] | None = None  # what its inputs are made for
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env = dict.fromkeys(names, str(threads)) | {"GOMP_SPINCOUNT": str(SPIN)}
        env |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}  # freed memory stays: no page is fetched twice
        env |= {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # no pool of compilers that outlives a call
        env |= {
            "TORCHINDUCTOR_CACHE_DIR": str(compiled or self.folder / "inductor"),
            "TRITON_CACHE_DIR": str(self.folder / "triton"),
        }
        env |= {name: os.environ[name] for name in PASSED_ON if device == "cuda" and name in os.environ}
        shared = exchange.descriptors(role)
        argv = [sys.executable, "-c", BOOT, str(PACKAGE), "sia_nb.tasks.trimul.runner", str(theirs.fileno())]
        argv += [*map(str, shared), str(exchange.inputs.size), str(exchange.outputs.size), role, device, str(threads)]
        try:
            self._process = launch(
                argv,
                read=[Path("/sys"), *compiler()] if device == "cuda" else (),
                write=[self.folder, *([compiled] if compiled else [])],
                devices=sorted(Path("/dev").glob("nvidia*")) if device == "cuda" else (),
                limits=Limits(FOREVER, FOREVER, memory_mb, processes=64, file_mb=2048),
                pass_fds=(theirs.fileno(), *shared),
                env=env,
                stderr=self._said,
                trusted=trusted,
                unsafe=unsafe,
            )
            theirs.close()
            ready = self._receive(180)
        except BaseException:
            theirs.close()
            self.close()
            raise
        if ready is None:
            self.fail("crash", "the process did not start")
        self._first, self._threads = self._tree(), threads
        self._placed: dict[int, Any] = {}
        self.place(timed=False)
        self.about = self.ask("about", 60)

    @property
    def backend(self) -> str:
        """The sandbox that it runs in."""
        return self._process.backend if self._process is not None else ""

    # --- asking -------------------------------------------------------------------------------------
    def ask(self, op: str, seconds: float, **fields: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            Failed: the process answered with an error; or it died, ran out of memory or of ``seconds``, or answered what
                it was not asked, and is gone.
        """
        if op in FORGETS:
            self._prepared = None
        return self._timed(op, seconds, fields)[0]

    def call(self, seconds: float, **draw: Any) -> float:
        """Seconds of one call of the update, until its output is stored; the process is stopped then. With a "seed" it
        draws its inputs within that time. Raises as ``ask``."""
        return self._timed("call", seconds, draw)[1]

    def null(self, seconds: float, **draw: Any) -> float:
        """Seconds of all that ``call`` does beside running the update. Raises as ``ask``."""
        return self._timed("null", seconds, draw)[1]

    def burst(self, seconds: float, seeds: list[int], *, null: bool = False) -> float:
        """Seconds of one ``call``, or ``null``, for each seed in one request. Raises as ``ask``."""
        return self._timed("burst", seconds, {"seeds": seeds, "null": null})[1]

    def prepare(self, case: Case, base: int, seconds: float) -> None:
        """Make room for a case's inputs, which are drawn from ``base`` and a seed each time. Raises as ``ask``."""
        if self._prepared != (case, base):
            self._prepared = None
            self.ask("prepare", seconds, case=asdict(case), base=base)
            self._prepared = case, base

    def busy(self) -> bool:
        """Whether some thread goes on running for ``PATIENT`` seconds in which nothing is asked; stopped afterwards."""
        self._resume()
        end, idle = time.monotonic() + PATIENT, 0
        while idle < 3 and time.monotonic() < end:
            time.sleep(LOOK)
            idle = 0 if self._running() else idle + 1
        self._stop()
        return idle < 3

    def _timed(self, op: str, seconds: float, fields: dict[str, Any]) -> tuple[dict[str, Any], float]:
        nonce = secrets.token_hex(8)
        self._resume()
        self._socket.settimeout(max(seconds, 0.01))
        used = self._used() if op in ("call", "null") else None
        began = time.perf_counter()
        try:
            send(self._socket, {"op": op, "nonce": nonce, **fields})
            answer = self._receive(max(seconds, 0.01))
            took = time.perf_counter() - began
        except TimeoutError:
            self.fail("timeout", f"no answer within {seconds:.3g} s")
        except OSError:
            answer = None
        if answer is not None:
            self._stop()
            took = self._undisturbed(took, used)
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self.fail("crash", f"the process died with exit code {self._process.poll()}")
        if "error" in answer:
            raise Failed(str(answer.get("kind", "crash")), str(answer["error"])[-2000:])
        if answer.get("nonce") != nonce:
            self.fail("forged", "an answer came that was not to what had been asked")
        return answer, took

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        try:
            return receive(self._socket, most=MOST, deadline=time.monotonic() + seconds)
        except (ConnectionError, MessageError):
            return None

    def fail(self, kind: str, message: str) -> None:
        """End the process and say why.

        Raises:
            Failed: always.
        """
        hit = self._process.limit_hit if self._process is not None else ""
        said = last_words(self._said)
        self.close()
        if hit.startswith("memory"):
            raise Failed("memory", f"more than {self.memory_mb} MB")
        raise Failed(kind, message + (f" ({hit or said})" if hit or said else ""))

    def _used(self) -> tuple[float, float] | None:
        """Seconds that the process has run on all cores together, and that its first thread and this one have waited for one;
        None where the system does not say, or where the process has started others."""
        if self.device != "cpu" or self._tree() != self._first:
            return None
        try:
            ran = sum(time.clock_gettime(~pid << 3 | 2) for pid in self._first)  # that process's clock, as clock_getcpuclockid(3)
            waited = 0
            for place in (f"{self._first[-1]}/task/{self._first[-1]}", f"self/task/{threading.get_native_id()}"):
                with open(f"/proc/{place}/schedstat") as file:
                    waited += int(file.read().split()[1])
        except (OSError, ValueError, IndexError):
            return None
        return ran, waited / 1e9

    def _undisturbed(self, took: float, before: tuple[float, float] | None) -> float:
        """``took`` less the time that others on the machine had the cores that were wanted, though never less than the
        process ran on as many cores as it may use."""
        after = self._used() if before is not None else None
        if before is None or after is None:
            return took
        return min(took, max(took - (after[1] - before[1]), (after[0] - before[0]) / self._threads))

    # --- stopping and watching ----------------------------------------------------------------------
    @property
    def apart(self) -> bool:
        """Whether there are cores on which it can run without disturbing what is timed."""
        return self.device == "cpu" and hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) >= 2 * self._threads

    def place(self, timed: bool) -> None:
        """Keep a process on a CPU to as many of the last cores as it has threads, the reference's as the candidate's: each would
        stay on a core of its own otherwise, and one of these may be slower for as long as something else runs beside it. One
        that is not ``timed`` is kept to the other cores where there are enough, so that another verdict can be timed."""
        if self.device == "cpu" and hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            cores = cores[: -self._threads] if self.apart and not timed else cores[-self._threads :]
            with contextlib.suppress(OSError):  # it is gone
                for pid in self._first:
                    for thread in map(int, os.listdir(f"/proc/{pid}/task")):
                        os.sched_setaffinity(thread, cores)
        with contextlib.suppress(OSError):
            self.moved()

    def _tree(self) -> list[int]:
        return warden.descendants(self._process.pid)

    def _signal(self, number: int, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    def _stop(self) -> None:
        self._signal(signal.SIGSTOP, self._first)  # at once, then what it has started meanwhile
        self._signal(signal.SIGSTOP, self._tree())

    def _resume(self) -> None:
        if self._process is None:
            raise Failed("crash", "the process is gone")
        self._signal(signal.SIGCONT, self._tree())

    def moved(self) -> bool:
        """Whether somebody has changed how the system schedules this process since it was last asked that: priorities,
        policies, cores or limits. Programs of one user may do that to each other even where a sandbox keeps them from
        sending signals."""
        if not warden.LINUX:
            return False
        now: dict[int, Any] = {}
        for pid in self._first if self.alive else ():
            limits = [resource.prlimit(pid, kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_DATA)]
            for thread in map(int, os.listdir(f"/proc/{pid}/task")):
                policy = os.getpriority(os.PRIO_PROCESS, thread), os.sched_getscheduler(thread)
                now[thread] = (*policy, os.sched_getaffinity(thread), limits)
        before, self._placed = self._placed, now
        return any(before.get(thread, placed) != placed for thread, placed in now.items())

    def _running(self) -> bool:
        """Whether a thread of the tree runs or would, were there a free core."""
        if not warden.LINUX:
            before = sum((warden.usage(pid) or (0, 0.0))[1] for pid in self._tree())
            time.sleep(LOOK)
            return sum((warden.usage(pid) or (0, 0.0))[1] for pid in self._tree()) > before
        for pid in self._tree():
            with contextlib.suppress(OSError):
                for thread in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{thread}/stat") as file:
                        if file.read().rpartition(")")[2].split()[0] == "R":
                            return True
        return False

    def close(self) -> None:
        """End the process and remove its folder; doing it twice is fine."""
        self._socket.close()
        if self._process is not None:
            self._signal(signal.SIGCONT, self._tree())
            self._process.kill()
        self._process = None
        self._said.close()
        remove_tree(self.folder)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process is not None and self._process.poll() is None
