"""The process that answers specs: it keeps the counts, kernels and scores of one folder in memory.

Talks over one inherited socket, each message a 4-byte big-endian length and JSON:

    → {"spec": {...}, "precise": bool}   ← {"pred": [class number of every new text], "seconds": s}  or  {"error": text}

``precise``: all fitted texts and nothing approximated. It has the fitted texts' labels and the new texts' counts, no label of those. It ends when the socket closes. Run by
``process.SpecWorker`` only.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any


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

    from .fast import Engine
    from .files import read_json

    labels = np.array(read_json(Path(folder) / "labels.json"))
    engines: dict[bool, Engine] = {}
    with socket.socket(fileno=fd) as host:
        send(host, {"ready": True})
        while (request := receive(host)) is not None:
            began = time.perf_counter()
            try:
                precise = request["precise"]
                if precise not in engines:
                    engines[precise] = Engine(Path(folder), labels, quick=not precise)
                answer = {
                    "pred": engines[precise].predict(request["spec"]).tolist(),
                    "seconds": time.perf_counter() - began,
                }
            except MemoryError:
                raise
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            send(host, answer)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
