"""The process that answers specs: it keeps the counts, kernels and scores of one folder in memory.

Talks over one inherited socket, each message a 4-byte big-endian length and JSON:

    → {"spec": {...}, "precise": bool}   ← {"pred": [class number of every new text], "seconds": s}  or  {"error": text}

``precise``: all fitted texts and nothing approximated. With ``"subset": {"key", "fit", "new"}`` only those rows of the
fitted and of the new texts count, and ``pred`` is of the latter; ``key`` names the two lists. It has the fitted texts' labels and the new texts' counts, no label of those. It ends when the socket closes. Run by
``process.SpecWorker`` only.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

SUBSETS = 32  # how many instances stay in memory, each some tens of megabytes


def send(to: socket.socket, message: dict[str, Any]) -> None:
    """Write one message."""
    data = json.dumps(message, ensure_ascii=False).encode()
    to.sendall(len(data).to_bytes(4, "big") + data)


def receive(source: socket.socket) -> dict[str, Any] | None:
    """Read one message; None where the other side has closed."""
    head = _exactly(source, 4)
    data = _exactly(source, int.from_bytes(head, "big")) if head else None
    return json.loads(data) if data else None


def _exactly(source: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        part = source.recv(min(count - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


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

    with socket.socket(fileno=fd) as host:
        send(host, {"ready": True})
        while (request := receive(host)) is not None:
            began = time.perf_counter()
            try:
                chosen = engine(request["precise"], request.get("subset"))
                answer = {"pred": chosen.predict(request["spec"]).tolist(), "seconds": time.perf_counter() - began}
            except MemoryError:
                raise
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            send(host, answer)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
