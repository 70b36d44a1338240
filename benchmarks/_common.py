"""What the benchmarks share: where they ran, and one JSON file each in results/reference/bench."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sia_nb.store import ROOT, commit, hardware

__all__ = ["ROOT", "commit", "hardware", "versions", "write"]
FOLDER = ROOT / "results" / "reference" / "bench"


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, Python's own among them."""
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}}


def write(name: str, **fields: Any) -> Path:
    """Write ``<name>.json`` and print where."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({"name": name, **fields}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.relative_to(ROOT))
    return path
