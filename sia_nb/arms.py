"""Several runs at once: arms and seeds side by side, each in a process of its own, their lines under their names.

Runs of one seed ask for many of the same verdicts; the verifier computes each once. Ctrl-C ends all, and the same call
goes on with what is not finished.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from .config import ARMS
from .errors import ConfigError, SiaError, nearest
from .estimate import seconds_left
from .loop import draw
from .notebooks import Interrupted
from .store import Run, cores

MEMORY = 7 * 2**30  # bytes that one run may need while it trains


def parse_arms(text: str) -> list[str]:
    """The arms in ``text``: names with commas between, or ``all``.

    Raises:
        ConfigError: an unknown arm, or one named twice.
    """
    names = list(ARMS) if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name == "baseline":
            raise ConfigError("arms: 'baseline' is the first step of every run and needs none of its own; leave it out")
        if name not in ARMS:
            raise ConfigError(f"arms: '{name}' is not known; expected 'all' or some of {', '.join(ARMS)}.{nearest(name, ARMS)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"arms: '{text}' names an arm twice")
    return names


def default_jobs(runs: int) -> int:
    """As many runs at once as this machine has cores and memory for."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(runs, cores(), memory // MEMORY))


def run_all(runs: list[Run], jobs: int, *, figures: bool = True, echo: Callable[[str], None] = print) -> None:
    """Finish all ``runs``, ``jobs`` at a time, the one that will take longest first; then draw the figures of all, once.

    Without ``figures`` nothing is drawn and the sealed tests stay closed.

    Raises:
        SiaError: one or more failed; their messages, after the others have ended.
        Interrupted: SIGINT or SIGTERM; all have been told to stop.
    """
    children: list[subprocess.Popen] = []
    stopping = threading.Event()

    def finish(run: Run) -> str:
        if stopping.is_set():
            return ""
        name = f"{run.config.arm:4} s{run.config.seed}"
        argv = [sys.executable, "-m", "sia_nb", "resume", str(run.path), "--report-only" if figures else "--no-figures"]
        child = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        children.append(child)
        if stopping.is_set():
            child.terminate()
        last = ""
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip():
                last = line.strip()
                echo(f"{name} | {line.rstrip()}")
        return "" if child.wait() == 0 or stopping.is_set() else f"{run.path.name}: {last.removeprefix('error: ')}"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    pool, longest_first = ThreadPoolExecutor(jobs), sorted(runs, key=seconds_left, reverse=True)
    try:
        failures = [message for message in pool.map(finish, longest_first) if message]
        done = [run for run in runs if (run.path / "report.json").exists() and not run.config.control]
        if figures:
            list(pool.map(draw, {run.config.task: run for run in done}.values()))  # a task's figures show all its runs
    except KeyboardInterrupt:
        stopping.set()
        for child in children:
            child.terminate()  # a child of a background job ignores SIGINT
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(60)
            child.kill()
        raise Interrupted("interrupted; everything finished so far is kept. The same command goes on from here.") from None
    finally:
        signal.signal(signal.SIGTERM, before)
        pool.shutdown(wait=True, cancel_futures=True)
    if failures:
        raise SiaError("\n".join(failures))
