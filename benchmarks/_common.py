"""The envelope that all benchmarks share: where a number came from, and the file it goes to.

``results/reference/bench/<name>.json`` holds ``name, what, unit, ours, peers {name: value}, ratio, hardware, versions,
commit, command``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sia_nb import store  # noqa: E402


def hardware() -> str:
    """Processor, cores and memory of this machine."""
    return store.hardware()


def versions(*packages: str) -> dict[str, str]:
    """Package → installed version, Python's first."""
    from importlib import metadata

    out = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in packages:
        try:
            out[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            out[package] = "not installed"
    return out


def commit() -> str:
    """The commit of this checkout, with a plus sign where files differ from it."""
    return store.commit()


def write(name: str, **fields: Any) -> Path:
    """Write one result into the envelope and print it.

    Args:
        fields: ``what`` (a sentence), ``unit``, ``ours`` (number), ``peers`` ({name: number}), ``packages`` (names
            whose versions matter), and anything else worth keeping. ``ratio`` is ours over the first peer.
    """
    peers = fields.get("peers") or {}
    ratio = fields["ours"] / next(iter(peers.values())) if peers else None
    packages = fields.pop("packages", ())
    record = {
        "name": name,
        **fields,
        "ratio": ratio,
        "hardware": hardware(),
        "versions": versions(*packages),
        "commit": commit(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }
    path = ROOT / "results" / "reference" / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    shown = ", ".join(f"{k} {v:,.4g}" for k, v in peers.items())
    print(f"{name}: ours {record['ours']:,.4g} {record['unit']}" + (f"; {shown}; ratio {ratio:.3g}" if peers else ""))
    return path
