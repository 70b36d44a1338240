"""Several runs at once: arms and seeds side by side, each in a process of its own, their lines under their names.

Runs of one seed ask for many of the same verdicts; the verifier computes each once. Ctrl-C ends all, and the same call
goes on with what is not finished.

Runs are of different length, so cores would stand idle beside the last of them. The last one in turn therefore begins as soon
as no other waits, at a lower priority than those that run: it takes what these leave, and a core once one of them ends.
Not beside a task whose verdicts are times.
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
from .view.paper import TIMED

MEMORY = 7 * 2**30  # bytes that one run may need while it trains
NICE = 5  # a third of the share that a process at the usual priority has of a core that both want


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
    return max(1, min(runs, cores(), _room()))


def _room() -> int:
    """How many runs this machine has memory for."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MEMORY


def beside(runs: list[Run], jobs: int) -> bool:
    """Whether the last of ``runs`` may begin beside ``jobs`` others."""
    return len(runs) > jobs > 1 and jobs < _room() and not any(run.config.task in TIMED for run in runs)


def run_all(
    runs: list[Run], jobs: int, *, extra: bool = False, figures: bool = True, echo: Callable[[str], None] = print
) -> None:
    """Finish all ``runs``, ``jobs`` at a time, the one that will take longest first; then draw the figures of all, once.

    With ``extra`` the last one begins beside ``jobs`` others, as soon as all of these have begun.
    Without ``figures`` nothing is drawn and the sealed tests stay closed.

    Raises:
        SiaError: one or more failed; their messages, after the others have ended.
        Interrupted: SIGINT or SIGTERM; all have been told to stop.
    """
    children: list[subprocess.Popen] = []
    stopping, others_began = threading.Event(), threading.Event()
    longest_first = sorted(runs, key=seconds_left, reverse=True)

    def finish(run: Run) -> str:
        if run is longest_first[-2:][0]:  # the last but one
            others_began.set()
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
        if extra and run is longest_first[-1]:
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PGRP, child.pid, NICE)
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
    pool = ThreadPoolExecutor(jobs + extra)
    try:
        if extra:
            pool.submit(others_began.wait)  # a thread is kept back until only the last run is left
        failures = [message for message in pool.map(finish, longest_first) if message]
    except KeyboardInterrupt:
        stopping.set()
        others_began.set()
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
    done = [run for run in runs if (run.path / "report.json").exists() and not run.config.control]
    if figures:
        for run in {run.config.task: run for run in done}.values():  # a task's figures show all its runs
            draw(run)
    if failures:
        raise SiaError("\n".join(failures))
