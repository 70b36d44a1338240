"""V for TriMul: how much faster than the eager reference a candidate is on this machine, checked at every call.

Value: on a CPU the speed-up, the geometric mean over cases of reference time / candidate time, both measured in turns in
one run; on a GPU 1500 / the geometric mean of the cases' times on the board's clock in µs, as TTT-Discover scores it.

A time is not repeatable as an accuracy is. A verdict is therefore measured once for each content, instance and machine,
and remembered: repeats, resumed runs and replays read it, so that they have the same bits, and runs that share a cache
folder share the noise too. Verdicts of different hardware never mix, the machine being part of what they are remembered by.
"""

from __future__ import annotations

import math
import os
import statistics
import threading
from pathlib import Path
from typing import Any

from ...errors import InvalidSolution, SandboxError
from ..base import Score, Solution
from ..files import Files, sha256
from ..process import Failed
from ..remember import Memory
from .floor import floor_us, geometric_mean
from .instances import Cases, cases
from .judge import GOOD, Judge, Timing, speedup
from .libraries import Libraries
from .machine import describe, gpu_state, gpu_there, no_gpu, threads, to_itself
from .session import Exchange, Session
from .solution import SPACES, check_code, compile_solution

METHOD = 6  # counted up when times are taken or outputs checked otherwise, so that none taken before is remembered
FILES = Files("trimul", "make data")
CODE_SECONDS, CALL_SECONDS = 120.0, 60.0  # of a whole verdict; of the first call on a case, in which it may compile
SPEC_SECONDS = 900.0  # of the kit's own, whose first torch.compile on a machine takes 25 s of a core, more on a busy one
MEMORY_MB = {"cpu": 4000, "cuda": 48_000}
CASE_SECONDS = {"cpu": 0.1, "cuda": 0.6}  # of timing a case, about
PRECISE = 4  # how much longer ``full`` and ``seal`` may time, for half the error
DRAWS = {"cpu": 16, "cuda": 2}  # of each case that they check before
TARGET = 1500.0  # µs that score 1 on a GPU
BROKEN = ("crash", "timeout", "memory", "unfinished", "forged", "meddled")  # failures after which a process is not used again
LOADS = 32  # specs that one process runs before it is replaced


class TriMulVerifier:
    """Scores candidates on one instance; one is timed at a time on a machine, whatever ``workers`` says, since they would
    slow each other down.

    Args:
        data_dir: not used; the inputs are drawn.
        cache_dir: where verdicts are remembered.
        instance: see ``instances``.
        unsafe_no_sandbox: run free Python even where no sandbox is usable.
        code_seconds, memory_mb: limits of one piece of free Python; None: by device.
        own: cases instead of the instance's, for tests.

    Raises:
        ConfigError: the instance needs a GPU and there is none.
    """

    timed = True

    def __init__(
        self,
        data_dir: Path,
        cache_dir: Path,
        *,
        instance: str = "cpu",
        workers: int = 1,
        unsafe_no_sandbox: bool = False,
        code_seconds: float = CODE_SECONDS,
        memory_mb: int | None = None,
        own: Cases | None = None,
    ):
        self.instance, self.cases = instance, own or cases(instance)
        self.device = self.cases.device
        if self.device == "cuda" and not gpu_there():
            raise no_gpu(instance, "none was found here")
        self.unsafe, self.code_seconds = unsafe_no_sandbox, code_seconds
        self.memory_mb = memory_mb or MEMORY_MB[self.device]
        self.threads, self.machine = threads(), describe()
        self._memory = Memory(Path(cache_dir), FILES, lambda entry: "cases" in entry)
        self._libraries = Libraries(Path(cache_dir) / "libraries" / sha256(self.machine.encode())[:16], FILES)
        self._exchange: Exchange | None = None
        self._reference: Session | None = None
        self._warm: Session | None = None
        self._loads = 0
        self._rates: dict[str, float] = {}
        self._lock = threading.Lock()

    # --- the contract -------------------------------------------------------------------------------
    def score(self, solution: Solution) -> Score:
        """The verdict: value, and metrics with its standard error "se", times, the floor and the load of the machine.

        Never raises for a bad solution.
        """
        return self._verdict(solution, 1)

    def full(self, solution: Solution) -> Score:
        """The same verdict from ``PRECISE`` times as much timing and ``DRAWS`` times as many checks."""
        return self._verdict(solution, PRECISE)

    def paired_se(self, a: str, b: str) -> float:
        """Standard error of value(a) − value(b): two measurements' errors added in squares.

        Raises:
            DataError: an id was never scored as valid on this machine.
        """
        return math.hypot(*(self._numbers(self._memory.of(self._name(i), i))["se"] for i in (a, b)))

    def seal(self, solution: Solution) -> dict[str, float]:
        """Measured anew in a fresh process on seeds that nothing in the loop has drawn, as long as ``full``.

        Returns:
            "speedup" on a CPU, "score" on a GPU, its "_se", the times behind it, and n, the number of cases.

        Raises:
            InvalidSolution: the solution does not run; kind says why.
        """
        self._drop(self._warm)
        try:
            source, ours = self._source(solution)
            numbers = self._numbers(self._measure(source, ours, PRECISE))
        except Failed as error:
            raise InvalidSolution(error.kind, str(error)) from error
        finally:
            self._drop(self._warm)
        name = "speedup" if self.device == "cpu" else "score"
        return {name: numbers[name], f"{name}_se": numbers["se"], **numbers, "n": float(len(self.cases.timed))}

    def close(self) -> None:
        """End the processes; doing it twice is fine."""
        for session in (self._reference, self._warm):
            if session is not None:
                session.close()
        if self._exchange is not None:
            self._exchange.close()
        self._reference = self._warm = self._exchange = None

    def __enter__(self) -> TriMulVerifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- remembering --------------------------------------------------------------------------------
    def _source(self, solution: Solution) -> tuple[str, bool]:
        """The program of a solution, and whether the kit wrote it. Raises ``InvalidSolution``."""
        if solution.dialect == "code":
            return check_code(solution.text), False
        SPACES[self.device].parse(solution.text)
        return compile_solution(solution), True

    def _verdict(self, solution: Solution, precision: int) -> Score:
        try:
            source, ours = self._source(solution)
        except InvalidSolution as error:
            return Score(0.0, False, f"{error.kind}: {error}", solution_id=solution.id)
        key = sha256(f"{METHOD}\n{self.machine}\n{self.instance}\n{self.cases}\n{precision}\n{source}".encode("utf-8", "replace"))
        entry, seconds, cached = self._memory.get(key, lambda: self._measure(source, ours, precision))
        if "failed" in entry:
            return Score(0.0, False, entry["failed"], solution_id=solution.id, seconds=seconds, cached=cached)
        if precision == 1:
            self._memory.note(self._name(solution.id), solution.id, key)
        numbers = self._numbers(entry)
        value = numbers["speedup" if self.device == "cpu" else "score"]
        details = {"machine": self.machine, "instance": self.instance, "cases": self._by_case(entry), "gpu": entry["gpu"]}
        return Score(value, True, "", numbers, details, solution.id, seconds, cached)

    def _name(self, solution_id: str) -> str:
        return f"{METHOD} {self.machine} {self.instance} {self.cases} {solution_id}"

    # --- measuring ----------------------------------------------------------------------------------
    def _measure(self, source: str, ours: bool, precision: int) -> dict[str, Any]:
        with self._lock:
            try:
                reference = self._the_reference()
            except Failed as error:
                raise SandboxError(f"trimul: the reference's process failed: {error.kind}: {error}") from error
            candidate = None
            try:
                candidate = self._candidate(ours)
                self._loads += 1
                return self._judged(source, reference, candidate, SPEC_SECONDS if ours else self.code_seconds, precision)
            except Failed as error:
                if not reference.alive:
                    raise SandboxError(f"trimul: the reference's process failed: {error.kind}: {error}") from error
                if error.kind in BROKEN:
                    self._drop(candidate)
                if error.kind == "meddled":
                    reference.close()
                raise
            finally:
                if candidate is not None and not ours:
                    candidate.close()
                elif candidate is not None and candidate.alive:
                    self._libraries.keep(candidate.folder)

    def _judged(self, source: str, reference: Session, candidate: Session, seconds: float, precision: int) -> dict[str, Any]:
        load = os.getloadavg()[0]
        first = min(CALL_SECONDS, seconds) if seconds < SPEC_SECONDS else SPEC_SECONDS / 3
        judge = Judge(reference, candidate, first_seconds=first, seconds=seconds, alone=to_itself)
        draws = DRAWS[self.device] if precision > 1 else 1
        found = judge.run(source, self.cases, CASE_SECONDS[self.device] * precision, GOOD / math.sqrt(precision), draws)
        return {
            "cases": found,
            "load": load,
            "rates": self._machine_rates(reference, precision > 1),
            "gpu": gpu_state(self.device),
        }

    def _the_reference(self) -> Session:
        if self._reference is None or not self._reference.alive:
            self.close()
            self._exchange = Exchange((*self.cases.timed, *self.cases.checked), self.device)
            self._reference = self._session("reference", True)
        return self._reference

    def _candidate(self, ours: bool) -> Session:
        """A process for a candidate: a fresh one for free Python, one that stays for the kit's own programs."""
        if not ours:
            try:
                return self._session("candidate", False)
            except SandboxError as error:
                raise Failed("refused", str(error)) from error
        if self._warm is None or not self._warm.alive or self._loads >= LOADS:
            self._drop(self._warm)
            compiled = self._libraries.folder / "torch" if self.device == "cpu" else None
            self._warm, self._loads = self._session("candidate", True, compiled), 0
            self._libraries.give(self._warm.folder)
        return self._warm

    def _session(self, role: str, trusted: bool, compiled: Path | None = None) -> Session:
        limits = {"threads": self.threads, "memory_mb": self.memory_mb}
        session = Session(role, self.device, self._exchange, **limits, trusted=trusted, unsafe=self.unsafe, compiled=compiled)
        if session.about["why"]:
            session.close()
            raise no_gpu(self.instance, f"torch cannot use it in backend '{session.backend}': {session.about['why']}")
        return session

    def _drop(self, session: Session | None) -> None:
        if session is not None:
            session.close()
        if session is self._warm:
            self._warm = None

    def _machine_rates(self, reference: Session, again: bool) -> dict[str, float]:
        """Rates of the machine, the best seen so far; ``again``: look once more."""
        if not self._rates or again:
            with to_itself():
                found = reference.ask("rates", 120)
            self._rates = {name: max(found[name], self._rates.get(name, 0.0)) for name in ("copy", "matmul")}
        return dict(self._rates)

    # --- numbers ------------------------------------------------------------------------------------
    def _by_case(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Times of each case in µs, net of asking, and its floor."""
        out = {}
        for case in self.cases.timed:
            raw = entry["cases"][case.name]
            timing = Timing(case, raw["reference"], raw["candidate"], raw["overhead"])
            net = lambda ts, t=timing: max(statistics.median(ts) - t.overhead, t.overhead / 10, 1e-6) * 1e6
            floor = floor_us(case, entry["rates"], 2 if self.device == "cuda" else 4)
            out[case.name] = {
                "reference_us": net(raw["reference"]), "candidate_us": net(raw["candidate"]), "floor_us": floor["total"],
                "speedup": math.exp(statistics.median(timing.log_ratios)), "turns": len(raw["candidate"]), **raw.get("clocks", {}),
            }  # fmt: skip
        return out

    def _numbers(self, entry: dict[str, Any]) -> dict[str, float]:
        """What a verdict's metrics say."""
        by_case = self._by_case(entry)
        mean = lambda name: geometric_mean([c[name] for c in by_case.values()])
        timings = [entry["cases"][c.name] for c in self.cases.timed]
        ratios = [
            Timing(c, t["reference"], t["candidate"], t["overhead"]) for c, t in zip(self.cases.timed, timings, strict=True)
        ]
        value, se = speedup(ratios)
        numbers = {"speedup": value, "se": se, "load": entry["load"], "floor_us": mean("floor_us")}
        numbers |= {"reference_us": mean("reference_us"), "candidate_us": mean("candidate_us")}
        if self.device == "cpu":
            return numbers | {"times_floor": numbers["candidate_us"] / numbers["floor_us"]}
        board, device = mean("board"), mean("device")
        relative = math.hypot(*(c["board_se"] / c["board"] for c in by_case.values())) / len(by_case)
        numbers |= {"score": TARGET / board, "se": TARGET / board * relative, "board_us": board, "device_us": device}
        return numbers | {"times_floor": device / numbers["floor_us"], "board_times_floor": board / numbers["floor_us"]}
