"""The process that answers LawBench's specs: it keeps the counts, kernels and scores of one folder in memory.

Messages as ``tasks.wire`` has them:

    → {"spec": {...}, "precise": bool}   ← {"pred": [class number of every new text], "seconds": s}  or  {"error": text}

``precise``: all fitted texts and nothing approximated. With ``"subset": {"key", "fit", "new"}`` only those rows of the
fitted and of the new texts count, and ``pred`` is of the latter; ``key`` names the two lists. It has the fitted texts'
labels and the new texts' counts, no label of those. Run by ``process.SpecWorker`` only.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..wire import serve

SUBSETS = 32  # how many instances stay in memory, each some tens of megabytes


def main(fd: int, folder: str) -> None:
    """Serve until the socket closes."""
    import numpy as np

    from .fast import Engine, Recent
    from .files import read_json

    labels = np.array(read_json(Path(folder) / "labels.json"))
    engines, parts = {}, Recent(SUBSETS)

    def engine(precise: bool, subset: dict[str, Any] | None) -> Engine:
        if subset is not None:
            rows = np.array(subset["fit"]), np.array(subset["new"])
            return parts.get((precise, subset["key"]), lambda: Engine(Path(folder), labels, not precise, rows))
        if precise not in engines:
            engines[precise] = Engine(Path(folder), labels, quick=not precise)
        return engines[precise]

    def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        chosen = engine(request["precise"], request.get("subset"))
        return {"pred": chosen.predict(request["spec"]).tolist()}, b""

    serve(fd, answer)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
