"""The machine that times are measured on: what it is, whether it has a GPU, and having it to oneself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from ...errors import ConfigError
from ...store import cores, hardware


def threads() -> int:
    """Threads of reference and candidate: all cores that this process may use but one.

    The last one is for whatever else runs: with a thread on every core, one busy neighbour stalls each barrier of a
    parallel loop for a whole time slice, now in the reference and now in the candidate.
    """
    return max(1, cores() - 1)


def describe() -> str:
    """What a time depends on, in one line."""
    return f"{hardware()}, {threads()} threads, torch {metadata.version('torch')}"


@contextlib.contextmanager
def to_itself() -> Iterator[None]:
    """One that is timed at a time, over all processes of this user."""
    path = Path(tempfile.gettempdir()) / f"sia-trimul-{os.getuid()}.lock"
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def gpu_there() -> bool:
    return any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/dxg")) or shutil.which("nvidia-smi") is not None


def no_gpu(instance: str, why: str) -> ConfigError:
    return ConfigError(
        f"instance: '{instance}' needs a CUDA GPU; {why}. Use instance 'cpu' of task 'trimul', or run on a machine with one."
    )


def gpu_state(device: str) -> dict[str, str]:
    """Clock, temperature and use of the GPUs as nvidia-smi reports them after the timing; empty without."""
    if device != "cuda":
        return {}
    names = ("name", "clocks.sm", "clocks.max.sm", "temperature.gpu", "utilization.gpu", "memory.used", "driver_version")
    try:
        query = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
        line = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return {"nvidia-smi": "not available"}
    return dict(zip(names, (part.strip() for part in line.split(",")), strict=True))
