"""A strict runner over papermill: parameters checked before a kernel starts, one process and one
time-out a notebook, a clear error instead of a traceback, the executed copy renamed into place.

papermill alone only warns of unknown parameters and passes strings through; a notebook that exists after
a kill says nothing, so whoever calls this keeps a completion mark of its own.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .errors import ConfigError, SiaError, nearest
from .store import ROOT

NOTEBOOKS = ROOT / "notebooks"
FORKS = sys.platform == "linux"  # elsewhere a fork with libraries loaded may crash, and each notebook starts anew
_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


class NotebookError(SiaError):
    """A notebook that failed for a reason of its own; the message names notebook and cell."""


class Interrupted(SiaError):
    """Stopped by Ctrl-C or a signal; what is done is kept."""


def find(name: str) -> Path:
    """The path of the notebook called ``name`` (with or without ``.ipynb``).

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    path = NOTEBOOKS / f"{name.removesuffix('.ipynb')}.ipynb"
    if not path.exists():
        known = [p.stem for p in sorted(NOTEBOOKS.glob("*.ipynb"))]
        raise ConfigError(f"notebook '{name}' does not exist.{nearest(name, known)} Known: {', '.join(known)}.")
    return path


def parameters(path: Path) -> dict[str, Any]:
    """The defaults in the cell tagged ``parameters``: plain literals, read from the syntax tree.

    Raises:
        NotebookError: no such cell, or a line in it that is no ``name: type = literal``.
    """
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise NotebookError(f"{path}: {len(tagged)} cells are tagged 'parameters', expected one")
    found = {}
    for node in ast.parse("".join(tagged[0]["source"])).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            target = node.target.id
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            target = node.targets[0].id
        else:
            raise NotebookError(f"{path}: line {node.lineno} of the parameters cell is not 'name: type = literal'")
        try:
            found[target] = ast.literal_eval(node.value)
        except ValueError:
            raise NotebookError(f"{path}: parameter '{target}' has no plain literal as its default") from None
    return found


def check_parameters(path: Path, values: dict[str, Any]) -> None:
    """Refuse unknown names and wrong types before a kernel starts.

    Raises:
        ConfigError: names the notebook, the parameter, its value and what was expected.
    """
    defaults = parameters(path)
    for name, value in values.items():
        if name not in defaults:
            raise ConfigError(
                f"{path.name}: parameter '{name}' is not known.{nearest(name, defaults)} Known: {', '.join(defaults)}."
            )
        expected = type(defaults[name])
        fits = type(value) is expected or (expected is float and type(value) is int)
        if not fits:
            raise ConfigError(
                f"{path.name}: parameter '{name}' is {value!r} ({type(value).__name__}), expected {expected.__name__}"
            )


class NotebookProcess:
    """Executes notebooks one after the other, each in a fresh process of its own; a context manager.

    Where processes can be forked, all are forks of one that has imported ``modules``, has called what ``ready`` names when a
    notebook began, (module, function, arguments…), and has done nothing else.
    """

    def __init__(self, modules: Sequence[str] = ()):
        self.modules = tuple(modules)
        self.ready: tuple[str, ...] | None = None
        self.status: int | None = None  # of the notebook begun last, once it has ended
        self._child: subprocess.Popen | None = None
        self._pid: int | None = None
        self._log = tempfile.TemporaryFile()

    def __enter__(self) -> NotebookProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child:
            self._child.kill()
            self._child.wait()
            self._channel.close()
        self._log.close()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs, _undisturbed():
            how = [str(theirs.fileno()), "forks" if FORKS else "ordinary", json.dumps(self.modules)]
            self._child = subprocess.Popen(
                [sys.executable, "-m", "sia_nb.notebook_process", *how],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                pass_fds=[theirs.fileno()],
                preexec_fn=_die_with_parent,
            )
            self._channel = Connection(ours.detach())

    def begin(self, source: Path, output: Path, values: dict[str, Any]) -> None:
        """Begin to execute ``source`` with these parameters; the executed copy is written to ``output`` cell by cell."""
        if self._child is None or self._child.poll() is not None:
            self._start()
        self._pid = self.status = None
        self._begins = self._log.seek(0, os.SEEK_END)
        self._channel.send(((str(source), str(output), values), self.ready))

    def wait(self, seconds: float) -> bool:
        """Whether the notebook ends within so many seconds."""
        until = time.monotonic() + seconds
        while self.status is None and self._channel.poll(max(0.0, until - time.monotonic())):
            try:
                said = self._channel.recv()
            except (EOFError, OSError):
                self.status = self._child.wait()
                break
            if self._pid is None:
                self._pid = said
            else:
                self.status = said
        return self.status is not None

    def end(self) -> None:
        """End the notebook's processes, politely first, so that sandboxes are torn down."""
        if self._child is None:
            return
        for signum, patience in ((signal.SIGINT, 5.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
            self._signal(signum)
            if self.wait(patience):
                break
        self._signal(signal.SIGKILL)

    def _signal(self, signum: int) -> None:
        pid = self._pid or self._child.pid
        with contextlib.suppress(ProcessLookupError):
            try:
                os.killpg(pid, signum)
            except ProcessLookupError:  # not yet at the head of its group
                os.kill(pid, signum)

    def said(self) -> str:
        """What the notebook's processes have printed themselves."""
        self._log.seek(self._begins)
        return self._log.read().decode("utf-8", "replace")


def execute(
    name: str,
    values: dict[str, Any],
    output: Path,
    *,
    timeout: float = 3600.0,
    poll: Callable[[], None] | None = None,
    process: NotebookProcess | None = None,
) -> float:
    """Run a notebook in a process of its own; the executed copy lands at ``output``. Returns its seconds.

    ``poll`` is called a few times a second meanwhile. ``process`` executes it, by default one that is made for this notebook.

    Raises:
        ConfigError: bad parameters. NotebookError: a cell failed, the kernel died, or time ran out.
        Interrupted: SIGINT or SIGTERM; the notebook and its kernel are ended first.
        SiaError: the error a phase raised, with its own message.
    """
    source = find(name)
    check_parameters(source, values)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial.ipynb")
    start = time.monotonic()
    with contextlib.nullcontext(process) if process else NotebookProcess() as process:
        try:
            process.begin(source, partial, values)
            while not process.wait(0.3):
                if time.monotonic() - start > timeout:
                    raise NotebookError(f"{source.name}: stopped after its time-out of {timeout:.0f} s; see {partial}")
                if poll:
                    poll()
        except KeyboardInterrupt:
            process.end()
            raise Interrupted(
                "interrupted; everything finished so far is kept. `python -m sia_nb resume RUN` goes on from here."
            ) from None
        except BaseException:
            process.end()
            raise
        if process.status != 0:
            raise _failure(source, partial, process.said())
    os.replace(partial, output)
    return time.monotonic() - start


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is left: Python's hooks at a fork would swallow what they raise."""
    if threading.current_thread() is not threading.main_thread():  # where nothing is raised
        yield
        return
    waiting: list[int] = []
    before = {s: signal.signal(s, lambda signum, _: waiting.append(signum)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for signum in waiting:
            signal.raise_signal(signum)


def _die_with_parent() -> None:
    """End the notebook where the loop is killed: it must not go on writing into a run that is resumed meanwhile."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; the kernel watches for its own parent


def _failure(source: Path, partial: Path, log: str) -> SiaError:
    """The error of the executed notebook: a phase's own message where there is one."""
    from . import errors

    with contextlib.suppress(OSError, ValueError, KeyError):
        for number, cell in enumerate(json.loads(partial.read_text(encoding="utf-8"))["cells"]):
            for out in cell.get("outputs", []):
                if out.get("output_type") == "error":
                    kind = getattr(errors, out["ename"], None)
                    if isinstance(kind, type) and issubclass(kind, SiaError) and kind is not errors.InvalidSolution:
                        return kind(out["evalue"])
                    return NotebookError(
                        f"{source.name}, cell {number}: {out['ename']}: {out['evalue']}\nThe executed copy with the traceback: {partial}"
                    )
    tail = re.sub(r"\x1b\[[0-9;]*m", "", log or "").strip().splitlines()[-3:]
    return NotebookError(f"{source.name}: the kernel died or could not start: {' | '.join(tail) or 'no output'}")
