"""What the benchmarks share: where they ran, and one JSON file each in results/reference/bench."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "results" / "reference" / "bench"


def hardware() -> str:
    """The processor and how many cores this process may use."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu}, {cores} cores"


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, Python's own among them."""
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}}


def commit() -> str:
    """The commit this checkout is at, with ``+`` where files differ from it."""
    done = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def write(name: str, **fields: Any) -> Path:
    """Write ``<name>.json`` and print where."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({"name": name, **fields}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.relative_to(ROOT))
    return path
