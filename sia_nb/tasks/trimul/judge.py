"""Checks and times a candidate beside the reference: what is asked of the two processes, and what follows from it.

Each call is made on values that neither process has seen: x and mask rolled to other places and new weights, at the
same addresses. Every call's output is compared whole with the reference's, the timed ones too, so that no faster way is
taken in them than in a check. What the candidate is timed against is the eager reference's call on the same values,
one after the other in turns.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ...errors import SandboxError
from ..process import Failed
from .instances import Cases
from .reference import ATOL, RTOL, Case
from .session import PATIENT, Session

PATIENCE = 120.0  # seconds for anything but a candidate's call
PAIRS = 5  # of turns at least, that their spread is known
CALL_SECONDS = 20.0  # of a call that is not the first
OUTSIDE_SHARE, OUTSIDE_SLACK = 0.7, 50.0  # a GPU process's own µs must be at least the share of the host's, less the slack
GOOD, NOISY = 0.015, 3  # relative standard error of a verdict that is good enough; how much longer a noisy one is timed
GPU_ROUNDS = 3  # of timing a case: a GPU's score is by its own clocks, and each turn's output travels through the host
BURST = 12  # calls at least of one look from outside
ROUNDS = 3  # of seeing from outside what the clocks of a GPU's process say
EARLIER = 4  # how many earlier inputs a wrong output is compared with


@dataclass(frozen=True)
class Timing:
    """What timing one case gave, in seconds; the two lists pair up."""

    case: Case
    reference: list[float]
    candidate: list[float]
    overhead: float  # of asking and storing, taken off both

    @property
    def log_ratios(self) -> list[float]:
        """ln(reference / candidate), the mean over each two turns; above 0 the candidate is faster.

        Of two turns each has gone first once, where inputs and memory are colder.
        """
        return [(a + b) / 2 for a, b in self._pairs]

    @property
    def log_differences(self) -> list[float]:
        """Half of what the two turns of each pair differ by: as far off as their mean, by chance, plus what going first costs."""
        return [(a - b) / 2 for a, b in self._pairs]

    @property
    def _pairs(self) -> list[tuple[float, float]]:
        least = self.overhead / 10  # a call that noise makes shorter than asking alone
        net = lambda t: max(t - self.overhead, least, 1e-6)
        single = [math.log(net(r) / net(c)) for r, c in zip(self.reference, self.candidate, strict=True)]
        return list(zip(single[::2], single[1::2], strict=True))


def speedup(timings: list[Timing]) -> tuple[float, float]:
    """Geometric mean over cases of the median of reference time / candidate time, and its standard error.

    The spread of a pair's mean is that of its turns' differences about their own mean over all pairs, so that one pair a
    case tells it. The error is that of medians of normal values, √(π/2) · s / √n (s / √n of one or two, whose median is
    their mean), carried through the exponential.
    """
    value = math.exp(statistics.fmean(statistics.median(t.log_ratios) for t in timings))
    differences = [d for t in timings for d in t.log_differences]
    if len(differences) < 2:
        return value, math.inf
    variance = statistics.variance(differences)
    of_case = lambda n: variance / n * (math.pi / 2 if n > 2 else 1)
    return value, value * math.sqrt(sum(of_case(len(t.log_ratios)) for t in timings)) / len(timings)


class Judge:
    """One candidate against the reference.

    Args:
        reference, candidate: their processes; the candidate's code is loaded.
        alone: keeps all other timing on the machine waiting.
        first_seconds: of a candidate's first call on each case, in which it may compile.
        seconds: of everything.
    """

    def __init__(
        self,
        reference: Session,
        candidate: Session,
        *,
        first_seconds: float,
        seconds: float,
        alone: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ):
        self.reference, self.candidate, self.alone = reference, candidate, alone
        self.first_seconds, self.seconds, self.end = first_seconds, seconds, time.monotonic() + seconds
        self._base: dict[Case, int] = {}
        self._seeds: dict[Case, list[int]] = {}

    def run(self, source: str, cases: Cases, seconds: float, good: float = GOOD, draws: int = 1) -> dict[str, Any]:
        """Load a program, check it on all cases, time it, check it again: on a CPU for up to ``seconds`` a timed case, less
        where the relative error of the whole is ``good`` before; on a GPU for about ``seconds`` a case and clock. Before it is
        timed, each case is checked on so many ``draws``: a number format that is a little too coarse is right on most.

        Returns:
            By case: the seconds "reference" and "candidate" of each turn, "overhead", and "clocks" on a GPU.

        Raises:
            Failed: with the reason.
        """
        with contextlib.nullcontext() if self.reference.apart else self._alone():
            return self._run(source, cases, seconds, good, draws)

    def _run(self, source: str, cases: Cases, seconds: float, good: float, draws: int) -> dict[str, Any]:
        self.candidate.ask("load", self._left(self.first_seconds), code=source)
        self.honest()
        for case in draws * (cases.checked + (cases.timed if cases.device == "cpu" else ())):
            self.check(case)
        self.idle()
        timings, found = [], {}
        if cases.device == "cpu":
            with self._alone() if self.reference.apart else contextlib.nullcontext():
                timings = self.time(cases.timed, seconds, good)
        for case in cases.timed if cases.device == "cuda" else ():
            self.check(case)
            timings += self.time([case], seconds, good)
            found[case.name] = {"clocks": self.clocks(timings[-1], seconds)}
        for t in timings:
            times = {"reference": t.reference, "candidate": t.candidate, "overhead": t.overhead}
            found[t.case.name] = {**times, **found.get(t.case.name, {})}
        for case in cases.timed if cases.device == "cuda" else cases.checked:  # a CPU's timed turns were all compared
            self.check(case)
        self.idle()
        self.honest()
        return found

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """On the cores for what is timed, while nothing else is timed; the wait takes nothing from the time that is left."""
        began = time.monotonic()
        with self.alone():
            self.end += time.monotonic() - began
            self._place(timed=True)
            try:
                yield
            finally:
                self._place(timed=False)

    def _place(self, timed: bool) -> None:
        self._unmoved()
        for session in (self.reference, self.candidate):
            session.place(timed)

    # --- checking -----------------------------------------------------------------------------------
    def check(self, case: Case) -> None:
        """The output on fresh values is right and the inputs stay as they were. Raises ``Failed`` with the reason."""
        self.turn(case)
        self.unchanged()

    def idle(self) -> None:
        """Nothing goes on when a call has returned. Raises ``Failed`` where something does."""
        if self.candidate.busy():
            raise Failed(
                "unfinished",
                f"something was still running {PATIENT:g} s after the last call had returned; a call must be done when it returns, "
                "its threads idle",
            )

    def turn(self, case: Case) -> tuple[float, float]:
        """Reference and candidate once each on fresh values; seconds of both. Raises ``Failed`` where they disagree."""
        seed = secrets.randbits(40)
        seen = self._seeds.setdefault(case, [])
        self.reference.prepare(case, self._base_of(case), PATIENCE)
        self.candidate.prepare(case, self._base_of(case), self._left(PATIENCE))
        self._draw(seed)
        limit = CALL_SECONDS if seen else self.first_seconds
        seen.append(seed)
        if len(seen) % 2:  # who is first finds other caches
            ours, theirs = self._refer(seed), self._call(case, seed, limit)
        else:
            theirs, ours = self._call(case, seed, limit), self._refer(seed)
        self._same(case, seed)
        return ours, theirs

    def _draw(self, seed: int, **more: Any) -> None:
        """On a CPU, write the next call's inputs where both processes find them."""
        if self.reference.device == "cpu":
            self.reference.ask("draw", PATIENCE, seed=seed, **more)

    def _refer(self, seed: int, **more: Any) -> float:
        """Run the reference on the inputs that were drawn; its seconds. Raises ``Failed`` where it could not run freely."""
        draw = {"seed": seed, **more} if self.reference.device == "cuda" else {}
        took = self.reference.call(PATIENCE, **draw)
        self._unmoved()
        return took

    def _unmoved(self) -> None:
        if self.reference.moved():
            raise Failed("meddled", "the priority, cores or limits of the reference's process were changed")

    def _call(self, case: Case, seed: int, limit: float) -> float:
        draw = {"seed": seed} if self.candidate.device == "cuda" else {}
        try:
            return self.candidate.call(self._left(limit), **draw)
        except Failed as error:
            raise Failed(error.kind, f"{case.name}: {error}") from error

    def _base_of(self, case: Case) -> int:
        return self._base.setdefault(case, secrets.randbits(40))

    def _left(self, most: float) -> float:
        left = self.end - time.monotonic()
        if left <= 0:
            raise Failed("timeout", f"{self.seconds:g} s for everything")
        return min(most, left)

    def _compare(self, case: Case) -> dict[str, Any]:
        if self.candidate.device == "cuda":
            self.candidate.ask("give", self._left(PATIENCE))
        try:
            return self.reference.ask("compare", PATIENCE, shape=[case.b, case.n, case.n, case.c])
        except Failed as error:
            raise SandboxError(f"trimul: the reference's process failed: {error}") from error

    def _same(self, case: Case, seed: int) -> None:
        found = self._compare(case)
        if found["finite"] and found["worst"] <= 1:
            return
        raise Failed(*self._why(case, seed, found))

    def _why(self, case: Case, seed: int, found: dict[str, Any]) -> tuple[str, str]:
        """The kind of failure behind a wrong output: does it fit other inputs, or a later moment?"""
        fits = lambda: (f := self._compare(case))["finite"] and f["worst"] <= 1
        for earlier in self._some(case):
            if self._explained(fits, earlier):
                return "stale", f"{case.name}: the output is that of an earlier call's inputs, not of those it was given"
            if self._explained(fits, seed, weights_seed=earlier):
                return "stale", f"{case.name}: the output is that of an earlier call's weights; they must be read at every call"
        if case.masked and self._explained(fits, seed, ones=True):
            return "mask_ignored", f"{case.name}: the output is that of a mask of ones, not of the one it was given"
        self._draw(seed)
        self._refer(seed)
        self.candidate.ask("again", self._left(PATIENCE))
        if fits():
            return "unfinished", f"{case.name}: the output was not there when the call returned, only later"
        if not found["finite"]:
            return "non_finite", f"{case.name}: NaN or infinite at {found['at']}"
        return "wrong", (
            f"{case.name}: at {found['at']} {found['found']:.4g} where {found['expected']:.4g} is right; allowed is a difference "
            f"of {ATOL:g} + {RTOL:g} · |{found['expected']:.4g}|, found {found['worst']:.3g} times that"
        )

    def _some(self, case: Case) -> list[int]:
        seen = self._seeds[case][:-1]
        return list(dict.fromkeys([*seen[:1], *seen[-EARLIER:]]))

    def _explained(self, fits: Callable[[], bool], seed: int, **more: Any) -> bool:
        self._draw(seed, **more)
        self._refer(seed, **more)
        return fits()

    def unchanged(self) -> None:
        """Raises ``Failed`` where a call has written to its inputs."""
        drew = self.candidate if self.candidate.device == "cuda" else self.reference
        name = drew.ask("unchanged", PATIENCE)["changed"]
        if name:
            raise Failed("changed_input", f"'{name}' was written to; a call must leave its inputs as they are")

    def honest(self) -> None:
        """Raises ``Failed`` where the candidate has put functions of its own in the place of torch's or time's."""
        names = self.candidate.ask("patched", self._left(PATIENCE))["names"]
        if names:
            raise Failed("patched", f"{', '.join(names[:3])} was replaced by a function of the candidate's own")

    # --- timing -------------------------------------------------------------------------------------
    def time(self, cases: Sequence[Case], seconds: float, good: float) -> list[Timing]:
        """Rounds of two turns a case, each compared, until the error of the whole is ``good``, or until ``NOISY`` times
        ``seconds`` a case are spent; on a GPU, whose score is by its own clocks, ``GPU_ROUNDS``."""
        ours, theirs, overhead = [{c: [] for c in cases} for _ in range(2)] + [{}]
        for rounds in itertools.count(1):
            for case in cases:
                for _ in range(2):
                    for times, took in zip((ours[case], theirs[case]), self.turn(case), strict=True):
                        times.append(took)
                self.unchanged()
                overhead[case] = overhead.get(case) or self.overhead()
            found = [Timing(c, ours[c], theirs[c], overhead[c]) for c in cases]
            if self.candidate.device == "cuda":
                if rounds == GPU_ROUNDS:
                    return found
                continue
            value, error = speedup(found)
            spent = sum(sum(t.reference) + sum(t.candidate) for t in found)
            if rounds * len(cases) >= PAIRS and error < good * value or spent > NOISY * seconds * len(cases):
                return found

    def overhead(self, times: int = 3) -> float:
        """Seconds of all in a call but the update itself, as the reference's process needs them: the least of ``times``."""
        draws = self.reference.device == "cuda"
        return min(self.reference.null(PATIENCE, **({"seed": secrets.randbits(40)} if draws else {})) for _ in range(times))

    def _outside(self, case: Case) -> float:
        """Least seconds of a candidate's call as the host sees it: of a burst of calls, less all beside the update in as many,
        so that asking, and the GPU's change over from the reference's process, are shared by many. Which call's output is
        compared, the last one's, is by chance."""
        took = []
        for _ in range(ROUNDS):
            seeds = [secrets.randbits(40) for _ in range(BURST + secrets.randbelow(BURST))]
            theirs = self.candidate.burst(self._left(PATIENCE), seeds)
            self._refer(seeds[-1])
            self._same(case, seeds[-1])
            nothing = self.reference.burst(PATIENCE, seeds, null=True)
            took.append((theirs - nothing) / len(seeds))
        return min(took)

    def clocks(self, timing: Timing, seconds: float) -> dict[str, float]:
        """Both CUDA clocks of the candidate on a case, in µs, believed only where the host's clock agrees.

        Raises:
            Failed: "other_stream", or "timer" where the process claims less than the host can have seen.
        """
        outside = self._outside(timing.case) * 1e6
        found = self.candidate.ask("clocks", self._left(PATIENCE), budget=seconds)
        if found["late"]:
            raise Failed("other_stream", f"{timing.case.name}: work went on after the stream it was called on was done")
        if min(found["board"], found["device"] * 1.2) < OUTSIDE_SHARE * outside - OUTSIDE_SLACK:
            raise Failed(
                "timer",
                f"{timing.case.name}: the process's own clock says {found['board']:.0f} µs, the host's {outside:.0f} µs; only an "
                "altered clock can differ so much",
            )
        return {"outside": outside, **found}
