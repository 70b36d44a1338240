"""The messages between a verifier and its processes. Standard library only.

A message is a 4-byte big-endian length and JSON; one with a field ``attached`` is followed by so many bytes more.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any


def frame(message: dict[str, Any], attached: bytes | memoryview = b"") -> bytes:
    """What announces a message, all of it but the attached bytes."""
    message = message | {"attached": len(attached)} if attached else message
    data = json.dumps(message, ensure_ascii=False).encode()
    return len(data).to_bytes(4, "big") + data


def send(to: socket.socket, message: dict[str, Any], attached: bytes | memoryview = b"") -> None:
    """Write one message."""
    to.sendall(frame(message, attached))
    if attached:
        to.sendall(attached)


def receive(source: socket.socket) -> dict[str, Any] | None:
    """Read one message, its attached bytes as a bytearray under "attached"; None where the other side has closed."""
    head = _exactly(source, 4)
    data = _exactly(source, int.from_bytes(head, "big")) if head else None
    message = json.loads(data) if data else None
    if message is not None and "attached" in message:
        message["attached"] = _exactly(source, message["attached"])
        return message if message["attached"] is not None else None
    return message


def _exactly(source: socket.socket, count: int) -> bytearray | None:
    data = bytearray(count)
    view, got = memoryview(data), 0
    while got < count:
        part = source.recv_into(view[got:])
        if not part:
            return None
        got += part
    return data


def serve(fd: int, answer: Callable[[dict[str, Any]], tuple[dict[str, Any], bytes | memoryview]]) -> None:
    """Answer requests until the socket closes: ``answer``'s fields and attached bytes with ``seconds``, or ``error``.

    It does not survive running out of memory: the host sees it gone and says so.
    """
    with socket.socket(fileno=fd) as host:
        send(host, {"ready": True})
        while (request := receive(host)) is not None:
            began = time.perf_counter()
            try:
                fields, attached = answer(request)
                fields = fields | {"seconds": time.perf_counter() - began}
            except MemoryError:
                raise
            except Exception as error:
                fields, attached = {"error": f"{type(error).__name__}: {error}"}, b""
                kind = getattr(error, "kind", None)
                if isinstance(kind, str):
                    fields |= {"kind": kind, "error": str(error)}
            send(host, fields, attached)
