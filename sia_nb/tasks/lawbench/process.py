"""The processes behind the verifier: one that stays for specs, one for each piece of Python.

Both run in ``scaffold.sandbox``. What fails in them comes back as ``Failed``, whose kind is a word of
``trajectory``'s list of failures.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ...errors import SandboxError
from ...scaffold.sandbox import Limits, launch
from .worker import receive, send

PACKAGE = Path(__file__).resolve().parents[2]
BOOT = (
    "import importlib.util as u,runpy,sys;p=sys.argv.pop(1);"
    "s=u.spec_from_file_location('sia_nb',p+'/__init__.py',submodule_search_locations=[p]);"
    "m=sys.modules['sia_nb']=u.module_from_spec(s);s.loader.exec_module(m);"
    "runpy.run_module('sia_nb.tasks.lawbench.worker',run_name='__main__',alter_sys=True)"
)
FOREVER = 10**7
THREADS = 1
OUTPUT_BYTES = 4 << 20
NO_MEMORY = 77


class Failed(Exception):
    """A process gave no predictions; ``kind`` is timeout, memory, crash, wrong_shape or refused."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class SpecWorker:
    """A warm process that turns specs into predictions from one folder of counts; started at the first question.

    It has one thread, whatever the machine, since their number can change the last bits of a sum.
    """

    def __init__(self, counts: Path, memory_mb: int = 6000, seconds: float = 120.0):
        self.counts, self.memory_mb, self.seconds = counts.resolve(), memory_mb, seconds
        self._process: Any = None
        self._socket: socket.socket | None = None
        self._folder: str | None = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._folder = tempfile.mkdtemp(prefix="lawbench-")
        try:
            argv = [sys.executable, "-c", BOOT, str(PACKAGE), str(theirs.fileno()), str(self.counts)]
            self._process = launch(
                argv,
                read=[self.counts],
                write=[Path(self._folder)],
                limits=Limits(wall_seconds=FOREVER, cpu_seconds=FOREVER, memory_mb=self.memory_mb, processes=64),
                pass_fds=(theirs.fileno(),),
                env=dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS)),
                stderr=Path(self._folder) / "stderr",
                trusted=True,
            )
        finally:
            theirs.close()
        self._socket = ours
        ours.settimeout(120)
        if self._ask(None) is None:
            self._fail("crash", "the worker did not start")

    def _ask(self, message: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            if message is not None:
                send(self._socket, message)
            return receive(self._socket)
        except (ConnectionError, BrokenPipeError):
            return None

    def _fail(self, kind: str, message: str) -> None:
        hit = self._process.limit_hit if self._process is not None else ""
        said = self._last_words()
        self.close()
        if hit.startswith("memory"):
            kind, message = "memory", f"more than {self.memory_mb} MB"
        raise Failed(kind, message + (f" ({said})" if said else ""))

    def _last_words(self) -> str:
        try:
            return (Path(self._folder) / "stderr").read_text(errors="replace").strip().splitlines()[-1][:300]
        except (OSError, IndexError, TypeError):
            return ""

    def predict(
        self, spec: dict[str, Any], precise: bool = False, subset: dict[str, Any] | None = None
    ) -> tuple[list[int], float]:
        """Predictions of a spec for the new texts, and the seconds they took; ``precise``: not by a quick ``fast.Engine``.

        ``subset``: rows of fitted and new texts that count, as ``worker`` describes.

        Raises:
            Failed: it crashed, ran out of memory or of time; the process is gone and a next question
                starts a new one.
            SandboxError: no process can be started.
        """
        if self._process is None:
            self._start()
        self._socket.settimeout(self.seconds)
        try:
            answer = self._ask({"spec": spec, "precise": precise} | ({"subset": subset} if subset else {}))
        except TimeoutError:
            self._fail("timeout", f"{self.seconds:g} s")
        if answer is None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                pass
            self._fail("crash", "the worker died")
        if "error" in answer:
            raise Failed("crash", answer["error"])
        return answer["pred"], answer["seconds"]

    def close(self) -> None:
        """End the process and remove its folder; doing it twice is fine."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._process = self._socket = self._folder = None


def run_code(
    code: str,
    train_texts: list[str],
    train_labels: list[int],
    texts: list[str],
    *,
    seconds: float,
    memory_mb: int,
    trusted: bool = False,
    unsafe: bool = False,
) -> list[int]:
    """Predictions of a Python solution, made in a sandbox that holds these texts and labels and nothing else.

    Raises:
        Failed: it crashed, took too long or too much memory, gave a wrong shape, or no sandbox may run it.
    """
    folder = Path(tempfile.mkdtemp(prefix="lawbench-"))
    process = None
    try:
        job = {"code": code, "train_texts": train_texts, "train_labels": train_labels, "texts": texts}
        (folder / "input.json").write_text(json.dumps(job), encoding="ascii")
        limits = Limits(wall_seconds=seconds, cpu_seconds=2 * seconds, memory_mb=memory_mb, processes=32)
        argv = [sys.executable, "-I", str(Path(__file__).with_name("runner.py"))]
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
        return _checked(_output(folder / "output.json", status), len(texts))
    finally:
        if process is not None:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _output(path: Path, status: int) -> Any:
    """What the runner wrote; a link is not followed, since the host may read what the sandbox may not."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1 or about.st_size > OUTPUT_BYTES:
                raise Failed("wrong_shape", "output.json is no plain file of reasonable size")
            answer = json.loads(file.read(OUTPUT_BYTES))
    except OSError:
        raise Failed("crash", f"no output, exit code {status}") from None
    except (ValueError, RecursionError):
        raise Failed("wrong_shape", "the output is not JSON") from None
    if not isinstance(answer, dict):
        raise Failed("wrong_shape", "the output is not what the runner writes")
    if "error" in answer:
        raise Failed("crash", str(answer["error"])[-2000:])
    return answer.get("pred")


def _checked(pred: Any, expected: int) -> list[int]:
    if not isinstance(pred, list):
        raise Failed("wrong_shape", f"expected a list of {expected} class numbers, got {str(pred)[:80]}")
    if len(pred) != expected:
        raise Failed("wrong_shape", f"expected {expected} class numbers, got {len(pred)}")
    for p in pred:
        if isinstance(p, bool) or not isinstance(p, int) or not 0 <= p < 191:
            raise Failed("wrong_shape", f"expected class numbers from 0 to 190, found {p!r:.80}")
    return pred
