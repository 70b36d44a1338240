"""A coverage-guided fuzz of the gateway and its message reader: what a scaffold may send is any bytes at all.

    python tests/fuzz_gateway.py [--seconds 60] [--seed 0]

With atheris (libFuzzer for Python) where it is installed, as ``make fuzz`` sees to; else with a small loop of the same kind:
an input that reaches a new pair of lines in the reader or the gateway is kept and mutated further. Either ends with a line
of JSON: the engine, the executions, the inputs kept. An input that breaks the contract ends it with an error and is shown.

It needs the standard library and the package's source, and nothing else.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

try:
    import atheris
except ImportError:
    atheris = None

if atheris and "--inner" in sys.argv:
    with atheris.instrument_imports(include=["sia_nb.scaffold.runner", "sia_nb.scaffold.gateway"]):
        from sia_nb.scaffold import gateway, runner
else:
    from sia_nb.scaffold import gateway, runner

from scaffold_fakes import CountingPolicy, DigitsTask, DigitsVerifier  # noqa: E402

from sia_nb.scaffold.contract import Budget  # noqa: E402
from sia_nb.trajectory import TrajectoryWriter  # noqa: E402

GATEWAY = 0xFF  # an input that begins with it goes to a whole gateway, any other to the reader alone


def framed(*messages: object) -> bytes:
    """Messages as a scaffold sends them."""
    out = b""
    for message in messages:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        out += struct.pack(">I", len(body)) + body
    return out


ASK = [{"role": "user", "content": "go"}]
SEEDS = [
    b"", b"\0", framed({}), framed({"id": 1, "method": "hello"}), framed(b"[1, 2]"), framed(b'{"a": 1e999}'), framed(b'{"a": NaN}'),
    framed(b'{"a": "\\ud800"}'), framed(b"\xff\xfe"), framed(b'{"a":' + b"[" * 60 + b"]" * 60 + b"}"), b"\x7f\xff\xff\xff{}",
    *(
        bytes([GATEWAY]) + framed(*[{**m, "id": n} for n, m in enumerate(story, 1)])
        for story in (
            [{"method": "hello"}, {"method": "budget"}, {"method": "done"}],
            [{"method": "sample", "messages": ASK, "n": 2, "temperature": 1.0, "max_tokens": 9, "grammar": "solution"}] * 3,
            [{"method": "sample", "messages": ASK, "n": 1, "temperature": 0, "max_tokens": 9, "grammar": None}],
            [{"method": "evaluate", "solution": '{"a":1,"b":2}'}, {"method": "evaluate", "solution": "x"}] * 3,
            [{"method": "submit", "solution": '{"a":3,"b":2}'}, {"method": "log", "kind": "k", "data": {"x": 1.5}}, {"method": "done"}],
            [{"method": "extract", "text_sha": "0" * 16, "ok": True, "solution": "x", "error": ""}],
            [{"method": "error", "where": "run", "message": "m", "traceback": "t"}],
        )
    ),
]  # fmt: skip
WORDS = [
    *(re.findall(rb'"[a-z_]+"', b" ".join(SEEDS))),
    b"true",
    b"null",
    b"-1",
    b"1e308",
    b"1e999",
    b"NaN",
    b"\\ud800",
    b"[",
    b"{",
    b"}",
    b"\0\0\0\x02{}",
]


class Memory:
    """A socket that gives these bytes and ends."""

    def __init__(self, data: bytes):
        self._stream = io.BytesIO(data)

    def recv(self, size: int) -> bytes:
        return self._stream.read(min(size, 37))


class Lines:
    """A trajectory's file in memory."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.write, self.flush, self.close = self.text.append, lambda: None, lambda: None


def read(data: bytes) -> None:
    """Any bytes are messages, an end or an error; a message is an object that the record can hold."""
    channel = runner.Channel(Memory(data), cap=1 << 16)
    try:
        while (message := channel.receive()) is not None:
            assert isinstance(message, dict)
            json.dumps(message, allow_nan=False, ensure_ascii=False).encode()
    except runner.MessageError:
        pass


def serve(data: bytes) -> None:
    """Any bytes leave the gateway with an end, a record that can be read, its budget kept and its scores its own."""
    writer = object.__new__(TrajectoryWriter)
    writer.path, writer._file, writer._next, writer._t0 = Path("memory"), Lines(), 0, time.monotonic()
    task, verifier = DigitsTask(), DigitsVerifier()
    served = gateway.Gateway({}, CountingPolicy(), verifier, task, Budget(2, 30, 0.05), 0, [], writer)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        try:
            theirs.send(data[: 1 << 15])
        except BlockingIOError:
            pass
        theirs.shutdown(socket.SHUT_WR)
        assert served.serve(ours) in ("returned", "crashed", "killed")
    served.judge()
    events = [json.loads(line, parse_constant=lambda c: 1 / 0) for line in writer._file.text]
    assert served.verifier_calls <= 2 and served.tokens <= 30, "the budget"
    assert [e["id"] for e in events] == list(range(len(events))), "the ids"
    real = {v: verifier.score(task.parse(v)).value for v in set(verifier.asked)}
    for e in events:
        if e["kind"] == "verdict" and e["data"]["valid"]:
            assert e["data"]["score"] in real.values(), "a score that no verifier gave"
    said = [len(v) for v in map(str, writer._file.text)]
    assert sum(said) < 64 * len(data) + 100_000, "the record grows without measure"


def one(data: bytes) -> None:
    """One execution."""
    data = bytes(data)
    serve(data[1:]) if data[:1] == bytes([GATEWAY]) else read(data)


def mutate(rng: random.Random, corpus: list[bytes]) -> bytes:
    """A kept input changed in one to four places."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(6)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at] = rng.choice(WORDS)
        elif kind == 2:
            del data[at : at + rng.randint(1, 8)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randint(1, 6))
        elif kind == 4:
            other = rng.choice(corpus)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        elif len(data) > 5:  # let the frame fit its message again
            start = int(data[0] == GATEWAY)
            data[start : start + 4] = struct.pack(">I", len(data) - start - 4)
    return bytes(data[:4096])


def small_loop(seconds: float, seed: int) -> dict:
    """Where there is no atheris."""
    rng, corpus, seen, executions = random.Random(seed), list(SEEDS), set(), 0
    files, before = {runner.__file__, gateway.__file__}, [0]

    def line(frame, event, arg):
        here = (frame.f_code.co_filename, frame.f_lineno)
        reached.add((before[0], here))
        before[0] = here
        return line

    def call(frame, event, arg):
        return line if frame.f_code.co_filename in files else None

    queue, end = list(SEEDS), time.monotonic() + seconds
    while time.monotonic() < end:
        data = queue.pop() if queue else mutate(rng, corpus)
        reached: set = set()
        sys.settrace(call)
        try:
            one(data)
        except BaseException:
            sys.settrace(None)
            print(f"broken by {base64.b64encode(data).decode()}", file=sys.stderr)
            raise
        finally:
            sys.settrace(None)
        executions += 1
        if reached - seen:
            seen |= reached
            corpus.append(data)
    return {"engine": "a small loop over pairs of lines", "executions": executions, "kept": len(corpus), "pairs": len(seen)}


def by_atheris(seconds: float, seed: int) -> dict:
    """libFuzzer ends the process that it runs in: so in one of its own."""
    folder = ROOT / "build" / "fuzz-corpus"
    folder.mkdir(parents=True, exist_ok=True)
    for n, data in enumerate(SEEDS):
        (folder / f"seed-{n}").write_bytes(data)
    command = [
        sys.executable,
        __file__,
        "--inner",
        f"-max_total_time={max(1, round(seconds))}",
        f"-seed={seed + 1}",
        "-max_len=4096",
    ]
    command += ["-print_final_stats=1", f"-artifact_prefix={folder}/", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "0"})
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
        raise SystemExit(1)
    executions = int(re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr).group(1))
    return {
        "engine": f"atheris {getattr(atheris, '__version__', '')}".strip(),
        "executions": executions,
        "kept": len(list(folder.iterdir())),
    }


def main() -> None:
    """Fuzz, and say how much was tried."""
    if "--inner" in sys.argv:
        sys.argv.remove("--inner")
        atheris.Setup(sys.argv, one)
        atheris.Fuzz()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps((by_atheris if atheris else small_loop)(given.seconds, given.seed)))


if __name__ == "__main__":
    main()
