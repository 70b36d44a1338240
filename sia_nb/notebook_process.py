"""The process that executes notebooks: papermill and the imports of the phases behind it, a fork for each notebook.

    loop ── this process ──┬─ papermill, forked for the notebook
                           └── its kernel, forked before papermill begins

Importing torch, transformers, papermill and what they need, and loading the policy, takes longer than most notebooks work; a
fork has it all at once, and no variable, file, thread or random state of the notebook before, which ran in forks of its own.
Each process is told by the kernel of the system to end with the one that forked it, so that none outlives a loop that is
killed. Where processes cannot be forked with libraries loaded (macOS, Windows) it executes one notebook with an ordinary
kernel, and ends.

Started by ``notebooks``, which talks to it through one inherited socket: (source, output, parameters), and what is to be ready
in the fork, in; process id, then exit status out.
It may import anything; nothing may import it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.connect import write_connection_file
from jupyter_client.manager import AsyncKernelManager

KERNEL_OPTIONS = ("--HistoryManager.hist_file=:memory:", "--log-level=40")
START = 600  # seconds that a kernel has to answer: with many runs beginning at once, papermill's own minute did not suffice
LONGEST = 64  # bytes of the folder for temporary files: a socket's path holds 107
PATIENCE = 5.0  # seconds that a kernel has to end its workers and itself


class RunningKernel(AsyncKernelManager):
    """A kernel that is there already: the forked process ``pid``, reached by ``connection_file``."""

    has_kernel = True

    def __init__(self, pid: int, connection_file: str):
        super().__init__(connection_file=connection_file)
        self.load_connection_file()
        self.pid, self.ended = pid, False

    def running(self) -> bool:
        """Whether the process has not ended yet."""
        if not self.ended:
            self.ended = os.waitpid(self.pid, os.WNOHANG)[0] != 0
        return not self.ended

    async def _async_is_alive(self) -> bool:
        return self.running()

    is_alive = _async_is_alive

    async def shutdown_kernel(self, **_: Any) -> None:
        """Asked for by nbclient where it cannot reach the kernel."""
        self.end()

    def end(self) -> None:
        """End the process, politely first: an idle kernel closes what its notebook left open."""
        for signum, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, PATIENCE)):
            until = time.monotonic() + patience
            with contextlib.suppress(ProcessLookupError):
                if self.running():
                    os.kill(self.pid, signum)
            while self.running() and time.monotonic() < until:
                time.sleep(0.01)


def main(socket: str, forks: str, modules: str) -> None:
    """Serve notebooks until the other end of the socket is closed."""
    logging.getLogger("papermill").setLevel(logging.ERROR)
    os.set_inheritable(int(socket), False)
    channel = Connection(int(socket))
    if forks != "forks":
        job, _ = channel.recv()
        channel.send(os.getpid())
        return execute(*job)
    for name in ("ipykernel.ipkernel", "ipykernel.kernelapp", *json.loads(modules)):
        importlib.import_module(name)
    there: list[tuple] = []
    freeze()
    with contextlib.suppress(EOFError):
        while True:
            job, ready = channel.recv()
            if ready and ready not in there:
                there.append(ready)
                prepare(*ready)
            pid = fork(execute_forked, *job)
            channel.send(pid)
            channel.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def freeze() -> None:
    """What forks share stays shared."""
    gc.collect()
    gc.freeze()


def prepare(module: str, function: str, *arguments: Any) -> None:
    """Call a function whose effect forks are to find; where it fails, the notebook meets the error itself."""
    with contextlib.suppress(Exception):
        getattr(importlib.import_module(module), function)(*arguments)
    freeze()


def fork(work: Callable[..., None], *arguments: Any) -> int:
    """The id of a process that does ``work`` and ends, at the latest when this one does; its random states are its own."""
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid, status = os.fork(), 1
    if pid:
        return pid
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == parent:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is ignored
            random.seed()
            if "numpy" in sys.modules:
                sys.modules["numpy"].random.seed()
            work(*arguments)
            status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        os._exit(status)  # taking thousands of modules apart takes half a second


def execute(source: str, output: str, values: dict[str, Any], **more: Any) -> None:
    """One notebook by papermill; ``more`` goes to nbclient."""
    papermill.execute_notebook(
        source,
        output,
        parameters=values,
        kernel_name="python3",
        start_timeout=START,
        progress_bar=False,
        log_output=False,
        **more,
    )


def execute_forked(source: str, output: str, values: dict[str, Any]) -> None:
    """One notebook by papermill, with a kernel that is forked from this process; both are of one process group."""
    os.setsid()
    short = None if len(os.fsencode(tempfile.gettempdir())) <= LONGEST else "/tmp"
    with tempfile.TemporaryDirectory(prefix="sia-kernel-", dir=short, ignore_cleanup_errors=True) as folder:
        connection, sockets = str(Path(folder) / "kernel.json"), str(Path(folder) / "at")
        key = os.urandom(24).hex().encode()
        # and not TCP: of kernels that start at once, two may find the same port free, and one then dies
        write_connection_file(connection, transport="ipc", ip=sockets, key=key, kernel_name="python3")
        kernel = RunningKernel(fork(serve_kernel, connection), connection)
        try:
            execute(source, output, values, km=kernel)
        finally:
            kernel.end()


def serve_kernel(connection: str) -> None:
    """Be a kernel until SIGTERM."""
    from ipykernel.kernelapp import IPKernelApp

    app = IPKernelApp.instance()
    app.initialize(["-f", connection, f"--IPKernelApp.parent_handle={os.getppid()}", *KERNEL_OPTIONS])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(SystemExit):
        app.start()


if __name__ == "__main__":
    main(*sys.argv[1:4])
