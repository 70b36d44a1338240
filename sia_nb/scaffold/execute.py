"""One execution of a scaffold: sandbox, gateway and trajectory put together; and calls of its two pure functions.

It may import ``scaffold``'s modules, ``errors``, ``tasks.base`` and ``trajectory``.
"""

from __future__ import annotations

import hashlib
import math
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SandboxError
from ..tasks.base import Score, Task, Verifier, find_instance
from ..trajectory import FORMAT, Event, TrajectoryWriter
from . import runner, sandbox
from .contract import Budget, ScaffoldError, check
from .folders import scratch
from .gateway import Gateway, Policy, chat_problem
from .runner import Channel, MessageError

CALL_LIMITS = sandbox.Limits(wall_seconds=60, cpu_seconds=60, memory_mb=512, processes=4, output_mb=4, file_mb=4)


@dataclass(frozen=True)
class Execution:
    """What came of one execution."""

    score: float  # of the last submission on dev; 0.0 where it is not valid or there is none
    valid: bool
    solution: str | None  # the submission's canonical text
    reason: str  # "returned", or what went wrong: no_submission, crashed, killed, or why the submission is not valid
    used: dict[str, float]  # verifier_calls, tokens, seconds
    counts: dict[str, Any]  # see gateway.Counts
    solutions: list[dict[str, Any]] = field(default_factory=list)  # valid {"solution", "score"}, best first, distinct
    backend: str = ""  # the sandbox's
    notice: str = ""  # for the run's provenance, where there was no sandbox


class _Told(TrajectoryWriter):
    """A writer that also tells a listener."""

    def __init__(self, path: Path, on_event: Callable[[Event], None] | None):
        super().__init__(path)
        self._tell = on_event

    def write(self, kind: str, /, **data: Any) -> int:
        number = super().write(kind, **data)
        if self._tell is not None:
            self._tell(Event(number, kind, time.monotonic() - self._t0, data))
        return number


def task_info(task: Task, instance: str | None = None) -> dict[str, Any]:
    """``env.task`` for an instance by name (the first by default), as plain JSON data.

    Raises:
        ConfigError: no such instance.
    """
    return {
        "name": task.name,
        "spec": task.spec_text(),
        "instance": find_instance(task, instance or "").description if task.instances else "",
        "metric": task.metric,
        "fallback": task.fallback().text,
        "fields": task.space.as_dict(),
    }


def execute(
    source: str,
    *,
    task: Task,
    policy: Policy,
    verifier: Verifier,
    budget: Budget,
    seed: int,
    archive: list[dict[str, Any]],
    workdir: Path,
    trajectory_path: Path,
    trusted: bool,
    unsafe: bool = False,
    limits: sandbox.Limits | None = None,
    instance: str | None = None,
    on_event: Callable[[Event], None] | None = None,
    scored: set[str] | None = None,
    backend: str | None = None,
) -> Execution:
    """Run ``source`` as agent.py in the sandbox and record its trajectory. Whatever the scaffold does is recorded.

    Args:
        workdir: where agent.py is put and the scaffold may write; must not hold anything to be kept from it.
        trusted, unsafe, backend: see ``sandbox.launch``.
        limits: of the process; wall time is the gateway's and comes from ``budget.seconds``.
        on_event: is told of each event once it is on file.
        scored: ids of the solutions scored before in this run; grows by those of this execution.

    Raises:
        SandboxError: no sandbox for an untrusted scaffold.
        StoreError: the trajectory cannot be written.
        SiaError: the policy or the verifier failed, or a cap of the whole run is spent.
    """
    if limits is None:
        limits = sandbox.Limits(wall_seconds=math.inf, cpu_seconds=budget.seconds + 5, memory_mb=1024, processes=8)
    chosen = sandbox.choose(backend, trusted, unsafe)
    writer = _Told(trajectory_path, on_event)
    gateway = Gateway(task_info(task, instance), policy, verifier, task, budget, seed, archive, writer, scored)
    ended, notice = "killed", ""
    try:
        writer.write(
            "start", format=FORMAT, task=task.name, instance=instance or "", seed=seed, budget=asdict(budget),
            scaffold=hashlib.sha256(source.encode("utf-8", "replace")).hexdigest(), sandbox=chosen,
        )  # fmt: skip
        try:
            check(source)
        except ScaffoldError as error:
            writer.write("error", where="contract", message=str(error), traceback="")
            ended, verdict, solution = "crashed", Score(0.0, False, "crashed"), None
        else:
            ended, notice = _run(source, gateway, writer, workdir, limits, chosen, trusted, unsafe)
            verdict, solution = gateway.judge()
            if ended == "returned" and gateway.submission is None:
                ended = "no_submission"
    finally:
        used = gateway.used()
        try:
            writer.write("end", reason=ended, used={k: v for k, v in used.items() if k != "seconds"})
        finally:
            writer.close()
    reason = verdict.reason if ended == "returned" and not verdict.valid else ended
    return Execution(
        verdict.value, verdict.valid, solution, reason, used, asdict(gateway.counts), gateway.found(), chosen, notice
    )


def _run(
    source: str,
    gateway: Gateway,
    writer: TrajectoryWriter,
    workdir: Path,
    limits: sandbox.Limits,
    backend: str,
    trusted: bool,
    unsafe: bool,
) -> tuple[str, str]:
    """Serve the scaffold in the sandbox; returns how it ended and the sandbox's notice."""
    workdir.mkdir(parents=True, exist_ok=True)
    _put(workdir, source)
    with tempfile.TemporaryFile() as output:
        process, sock = _start("run", workdir, limits, backend, trusted, unsafe, output)
        with sock, process:
            ended = gateway.serve(sock)
            sock.close()
            if gateway.silent_end:
                _settle(process)
            process.kill()
        if process.limit_hit:
            what, _, detail = process.limit_hit.partition(": ")
            writer.write("limit", what={"wall": "seconds", "cpu": "seconds"}.get(what, what), detail=detail)
            ended = "killed"
        elif gateway.silent_end:
            output.seek(max(0, output.seek(0, 2) - 1000))
            said = output.read().decode("utf-8", "replace").strip()
            text = f"the process ended with exit code {process.poll()} before run returned"
            writer.write("error", where="process", message=text, traceback=said)
    return ended, process.notice


def _put(workdir: Path, source: str) -> None:
    """Write agent.py anew: an earlier scaffold may have left a link of that name, which must not be followed."""
    path = workdir / "agent.py"
    path.unlink(missing_ok=True)
    with open(path, "x", encoding="utf-8") as f:
        f.write(source)


def _settle(process: sandbox.Process) -> None:
    """Give a process that closed its socket a moment to end by itself, so that its exit code is its own."""
    try:
        process.wait(2)
    except Exception:
        pass


def _start(
    mode: str, workdir: Path, limits: sandbox.Limits, backend: str, trusted: bool, unsafe: bool, output: Any
) -> tuple[sandbox.Process, socket.socket]:
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-I", runner.__file__, str(theirs.fileno()), mode]
    try:
        process = sandbox.launch(
            argv, write=[workdir], limits=limits, pass_fds=[theirs.fileno()], stdout=output, stderr=output,
            trusted=trusted, unsafe=unsafe, backend=backend,
        )  # fmt: skip
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours


@dataclass(frozen=True)
class Called:
    """What one call of build_prompt or extract gave: a value, or an error's text."""

    value: Any = None
    error: str = ""


def call_scaffold(
    source: str,
    calls: list[tuple[str, list[Any]]],
    *,
    trusted: bool,
    unsafe: bool = False,
    limits: sandbox.Limits = CALL_LIMITS,
    backend: str | None = None,
) -> list[Called]:
    """Call the scaffold's ``build_prompt`` and ``extract`` in the sandbox, for rollouts built as an execution's are.

    Args:
        calls: ``("build_prompt", [state])`` or ``("extract", [text])``, in order, in one process.

    Returns:
        One ``Called`` each; a process that ends early leaves the rest with its error.

    Raises:
        ScaffoldError: the scaffold does not meet the contract.
        SandboxError: no sandbox for an untrusted scaffold.
    """
    check(source)
    chosen = sandbox.choose(backend, trusted, unsafe)
    for name, _ in calls:
        if name not in ("build_prompt", "extract"):
            raise SandboxError(f"call_scaffold: no function '{name}'; expected build_prompt or extract")
    out: list[Called] = []
    with scratch() as folder, tempfile.TemporaryFile() as output:
        _put(folder, source)
        process, sock = _start("call", folder, limits, chosen, trusted, unsafe, output)
        with sock, process:
            sock.settimeout(limits.wall_seconds if limits.wall_seconds < math.inf else None)
            channel, broken = Channel(sock), ""
            deadline = time.monotonic() + limits.wall_seconds if limits.wall_seconds < math.inf else None
            for number, (name, args) in enumerate(calls):
                try:
                    channel.send({"id": number, "method": name, "args": args})
                    answer = channel.receive(deadline)
                except TimeoutError:
                    broken = f"killed: no answer within {limits.wall_seconds:g} s"
                    break
                except MessageError as error:
                    broken = f"killed: {error}"
                    break
                except OSError:
                    answer = None
                if answer is None:
                    _settle(process)
                    broken = f"killed: {process.limit_hit}" if process.limit_hit else "crashed: the process ended"
                    break
                out.append(_checked(name, number, answer))
            process.kill()
    return out + [Called(error=broken)] * (len(calls) - len(out))


def _checked(name: str, number: int, answer: dict[str, Any]) -> Called:
    """The answer as data of the expected shape; it comes from hostile code."""
    if answer.get("id") != number or ("value" in answer) == ("error" in answer):
        return Called(error="killed: a forged message")
    if "error" in answer:
        return Called(error=str(answer.get("message", ""))[:4000] or "no message")
    value = answer["value"]
    if name == "extract":
        good = value is None or isinstance(value, str)
        return Called(value) if good else Called(error=f"extract: returned {type(value).__name__}, expected str or None")
    problem = chat_problem(value)
    return Called(error=f"build_prompt: {problem}") if problem else Called(value)
