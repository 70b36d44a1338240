"""Seconds to ``import sia_nb`` and its command line in a fresh interpreter, beside ``import numpy``."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from _common import ROOT, commit, hardware, versions, write

RUNS = 9


def seconds(code: str) -> float:
    """Median wall time of a fresh interpreter that runs ``code``, less that of one that runs nothing."""

    def once(text: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", text], check=True, cwd=ROOT)
        return time.perf_counter() - start

    pairs = [(once(code), once("pass")) for _ in range(RUNS)]
    return statistics.median(a - b for a, b in pairs)


def main() -> None:
    ours, peer = seconds("import sia_nb, sia_nb.cli"), seconds("import numpy")
    print(f"import sia_nb, sia_nb.cli: {ours:.3f} s; import numpy: {peer:.3f} s")
    write(
        "import_time",
        what="import of the package and its command line in a fresh interpreter, less an empty one; median of 9",
        unit="s",
        ours=round(ours, 4),
        peers={"import numpy": round(peer, 4)},
        ratio=round(ours / peer, 3),
        hardware=hardware(),
        versions=versions("numpy"),
        commit=commit(),
        command="python benchmarks/import_time.py",
    )


if __name__ == "__main__":
    main()
