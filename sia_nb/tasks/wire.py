"""The messages between a verifier and its processes. Standard library only.

A message is a 4-byte big-endian length and JSON; one with a field ``attached`` is followed by so many bytes more.
"""

from __future__ import annotations

import json
import math
import select
import socket
import time
from collections.abc import Callable
from typing import Any


class MessageError(ValueError):
    """What came is no message."""


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


def receive(source: socket.socket, *, most: int = 1 << 31, deadline: float = math.inf) -> dict[str, Any] | None:
    """Read one message, its attached bytes as a bytearray under "attached"; None where the other side has closed.

    Args:
        most: bytes of its JSON, and of what is attached.
        deadline: of the whole message, by time.monotonic; the socket's own timeout holds for each part.

    Raises:
        MessageError: too long, or no JSON object. TimeoutError: the deadline has passed.
    """
    head = _exactly(source, 4, most, deadline)
    data = _exactly(source, int.from_bytes(head, "big"), most, deadline) if head else None
    if not data:
        return None
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"no JSON: {str(error)[:80]}") from None
    if not isinstance(message, dict):
        raise MessageError(f"a JSON {type(message).__name__} instead of an object")
    if "attached" in message:
        message["attached"] = _exactly(source, message["attached"], most, deadline)
        return message if message["attached"] is not None else None
    return message


def _exactly(source: socket.socket, count: Any, most: int, deadline: float) -> bytearray | None:
    if type(count) is not int or not 0 <= count <= most:
        raise MessageError(f"a length of {str(count)[:20]}; at most {most} bytes are allowed")
    data = bytearray(count)
    view, got = memoryview(data), 0
    while got < count:
        if deadline < math.inf:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([source], [], [], left)[0]:
                raise TimeoutError
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
