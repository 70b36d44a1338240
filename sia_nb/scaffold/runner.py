"""The child's main program inside the sandbox: gives ``agent.py`` its ``env`` over one inherited socket.

Started as a plain file, ``python -I runner.py <descriptor> run|call``, in the folder that holds ``agent.py``. It uses
the standard library only and may import nothing of the kit; the host's side imports ``Channel`` from here.
Everything in this process is in the scaffold's hands: the gateway trusts nothing that comes from it.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import select
import socket
import struct
import sys
import threading
import time
import types
from typing import Any

MAX_MESSAGE = 4 << 20  # bytes of one message's JSON
MAX_DEPTH = 50
FRAMES = 20  # of agent.py's own, in a traceback


class MessageError(Exception):
    """The stream holds no message that can be read; it cannot be trusted any more."""


class Channel:
    """Messages over a stream socket: four bytes of length, big-endian, then that much JSON (an object)."""

    def __init__(self, sock: socket.socket, cap: int = MAX_MESSAGE):
        self.sock, self.cap = sock, cap
        self.received = 0  # bytes so far
        self._buffer = bytearray()

    def send(self, message: dict[str, Any]) -> None:
        """Send one message.

        Raises:
            MessageError: it is larger than the cap.
            OSError: the other side is gone.
        """
        body = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
        if len(body) > self.cap:
            raise MessageError(f"a message of {len(body)} bytes; at most {self.cap} are allowed")
        self.sock.sendall(struct.pack(">I", len(body)) + body)

    def receive(self, deadline: float | None = None) -> dict[str, Any] | None:
        """The next message; None when the other side closed between two messages.

        Raises:
            MessageError: a length out of range, a message cut short, or no JSON object.
            TimeoutError: ``deadline`` (time.monotonic) has passed.
        """
        head = self._take(4, deadline)
        if head is None:
            return None
        (size,) = struct.unpack(">I", head)
        if not 2 <= size <= self.cap:
            raise MessageError(f"a length of {size} bytes; expected 2 to {self.cap}")
        body = self._take(size, deadline)
        if body is None:
            raise MessageError("the stream ends within a message")
        try:
            text = body.decode("utf-8")
            message = json.loads(text, parse_constant=_finite, parse_float=_finite)
            if "\\ud" in text or "\\uD" in text:  # half a surrogate pair is no text that a file can hold
                message = json.loads(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace"))
        except (ValueError, RecursionError) as error:
            raise MessageError(f"no JSON: {str(error)[:80]}") from None
        if _deeper(message, MAX_DEPTH):
            raise MessageError(f"nested deeper than {MAX_DEPTH}")
        if not isinstance(message, dict):
            raise MessageError(f"a JSON {type(message).__name__} instead of an object")
        return message

    def _take(self, size: int, deadline: float | None) -> bytes | None:
        while len(self._buffer) < size:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                    raise TimeoutError
            try:
                block = self.sock.recv(1 << 16)
            except ConnectionError:
                block = b""
            if not block:
                if self._buffer:
                    raise MessageError("the stream ends within a message")
                return None
            self.received += len(block)
            self._buffer += block
        out = bytes(self._buffer[:size])
        del self._buffer[:size]
        return out


def _finite(number: str) -> float:
    value = float(number)
    if value - value != 0.0:
        raise ValueError(f"{number[:20]} is no finite number")
    return value


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    return levels == 0 or any(_deeper(v, levels - 1) for v in (value.values() if isinstance(value, dict) else value))


class BudgetExhausted(RuntimeError):
    """A cap of this execution is spent."""


ERRORS = {"ValueError": ValueError, "TypeError": TypeError, "BudgetExhausted": BudgetExhausted}


class Env:
    """What ``run`` is given; see the contract."""

    BudgetExhausted = BudgetExhausted

    def __init__(self, channel: Channel):
        self._channel, self._number, self._lock = channel, 0, threading.Lock()
        start = self._call("hello")
        self.task = start["task"]
        self.archive = start["archive"]
        self.random = random.Random(start["seed"])

    def _call(self, method: str, **params: Any) -> Any:
        with self._lock:
            try:
                self._channel.send({"id": self._number + 1, "method": method, **params})
            except MessageError as error:
                raise ValueError(f"env.{method}: {error}") from None
            self._number += 1
            answer = self._channel.receive()
        if answer is None:
            raise ConnectionError("the gateway has closed")
        if "error" in answer:
            raise ERRORS.get(answer["error"], RuntimeError)(answer["message"])
        return answer["value"]

    def budget(self) -> dict[str, float]:
        """What is left for this execution."""
        return self._call("budget")

    def sample(
        self,
        messages: list[dict[str, str]],
        n: int = 1,
        temperature: float = 1.0,
        max_tokens: int = 160,
        grammar: str | None = None,
    ) -> list[str]:
        """Texts drawn from the policy; fewer than ``n`` where the token budget ends."""
        return self._call("sample", messages=messages, n=n, temperature=temperature, max_tokens=max_tokens, grammar=grammar)

    def evaluate(self, solution: str) -> dict[str, Any]:
        """A verdict on dev."""
        return self._call("evaluate", solution=solution)

    def log(self, kind: str, /, **data: Any) -> None:
        """A note in the trajectory."""
        self._call("log", kind=kind, data=data)

    def submit(self, solution: str) -> None:
        """The answer; the last call counts."""
        self._call("submit", solution=solution)


def watched(extract: Any, env: Env) -> Any:
    """``extract`` that also reports each of its calls."""

    def wrapper(text: str) -> str | None:
        sha = hashlib.sha256(str(text).encode("utf-8", "replace")).hexdigest()[:16]
        try:
            solution = extract(text)
        except Exception as error:
            env._call("extract", text_sha=sha, ok=False, solution=None, error=summary(error))
            raise
        good = isinstance(solution, str)
        error = "" if good or solution is None else f"extract returned {type(solution).__name__}, expected str or None"
        env._call("extract", text_sha=sha, ok=good, solution=solution if good else None, error=error)
        return solution

    return wrapper


def summary(error: BaseException) -> str:
    """Type and text of an exception, without memory addresses, which differ from run to run."""
    return re.sub(r"0x[0-9a-f]{6,}", "0x…", f"{type(error).__name__}: {error}")[:2000]


def own_lines(error: BaseException, source: str) -> str:
    """The traceback's frames in agent.py, innermost last, each with its source line."""
    lines, out, frame = source.splitlines(), [], error.__traceback__
    if isinstance(error, SyntaxError) and error.filename == "agent.py":
        out.append(f"agent.py, line {error.lineno}")
    while frame is not None:
        code = frame.tb_frame.f_code
        if code.co_filename == "agent.py":
            text = lines[frame.tb_lineno - 1].strip() if 0 < frame.tb_lineno <= len(lines) else ""
            out.append(f"agent.py, line {frame.tb_lineno}, in {code.co_name}: {text}"[:300])
        frame = frame.tb_next
    return "\n".join(out[-FRAMES:])


def load() -> tuple[dict[str, Any], str]:
    """agent.py's namespace before anything has run in it, and its source."""
    module = sys.modules["agent"] = types.ModuleType("agent")
    module.__dict__.update(__file__="agent.py", BudgetExhausted=BudgetExhausted)
    with open("agent.py", encoding="utf-8") as f:
        return module.__dict__, f.read()


def run(channel: Channel) -> None:
    """One execution."""
    env, where = Env(channel), "import"
    module, source = load()
    try:
        exec(compile(source, "agent.py", "exec"), module)
        module["extract"] = watched(module["extract"], env)
        where = "run"
        module["run"](env)
    except SystemExit:
        pass
    except BaseException as error:
        env._call("error", where=where, message=summary(error), traceback=own_lines(error, source))
        return
    env._call("done")


def serve_calls(channel: Channel) -> None:
    """Answer calls of build_prompt and extract, one message each."""
    module, source = load()
    broken = ""
    try:
        exec(compile(source, "agent.py", "exec"), module)
    except BaseException as error:
        broken = f"import: {summary(error)}\n{own_lines(error, source)}"
    while (call := channel.receive()) is not None:
        try:
            if broken:
                raise RuntimeError(broken)
            answer = {"id": call["id"], "value": module[call["method"]](*call["args"])}
        except BaseException as error:
            text = broken or f"{call['method']}: {summary(error)}\n{own_lines(error, source)}"
            answer = {"id": call["id"], "error": "Error", "message": text[:4000]}
        try:
            channel.send(answer)
        except (MessageError, TypeError, ValueError) as error:
            channel.send({"id": call["id"], "error": "Error", "message": f"{call['method']}: {summary(error)}"})


if __name__ == "__main__":
    pipe = Channel(socket.socket(fileno=int(sys.argv[1])))
    {"run": run, "call": serve_calls}[sys.argv[2]](pipe)
