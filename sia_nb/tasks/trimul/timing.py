"""The two clocks of a kernel on a CUDA GPU, and CUDA timing's traps.

*Board*: as GPU MODE's leaderboard has it, CUDA events around one call on an idle GPU, so that what the host needs to launch
counts. *Device*: the same call queued behind a kernel that spins while the host launches, so that the GPU's time alone counts;
it repeats far better. Before each call the second-level cache is flushed, the inputs are another of several sets and have
new values, and all streams have come to rest.

Everything of torch that is used is taken when ``Clocks`` is made, before any candidate's code is there. ``judge`` compares
the result with the host's own clock all the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from .reference import Case, Inputs

FLUSH_BYTES = 256 << 20  # several times the largest L2 there is
SLOTS = 3  # sets of inputs
LATE_SHARE, LATE_US = 0.3, 100.0  # work after the stream's end that counts as work on another stream
SPIN_HZ = 2.0e9  # cycles a second that make a spin at least as long as wanted


class Clocks:
    """Measures calls in this process; ``torch`` as it is before a candidate is loaded."""

    def __init__(self, torch: Any, device: str = "cuda"):
        self.device = device
        self.event = lambda make=torch.cuda.Event: make(enable_timing=True)
        self.synchronize, self.spin = torch.cuda.synchronize, torch.cuda._sleep
        self.record, self.elapsed = torch.cuda.Event.record, torch.cuda.Event.elapsed_time
        self.wait = torch.cuda.Event.synchronize
        self.zero_, self.empty, self.int8 = torch.Tensor.zero_, torch.empty, torch.int8
        self.now = time.perf_counter
        self.memory = torch.cuda.mem_get_info
        self.flusher: Any = None

    def measure(
        self, function: Callable[..., Any], case: Case, base: int, *, seconds: float = 1.0, least: int = 5, most: int = 200
    ) -> dict[str, Any]:
        """Times of ``function`` on a case in µs.

        Args:
            base: seed of the inputs.
            seconds: about how long for each clock; between ``least`` and ``most`` calls.

        Returns:
            board: the mean; board_se its standard error; device: the median; device_se; calls; late: whether work went on
            after the calling stream was done in most calls.
        """
        slots = self._slots(case, base)
        if self.flusher is None:
            self.flusher = self.empty(FLUSH_BYTES, dtype=self.int8, device=self.device)
        for slot in slots:
            function(slot.x, slot.mask, dict(slot.weights))
        self.synchronize()
        host = self._host_seconds(function, slots[0])
        board, late = self._calls(function, slots, 0.0, seconds, least, most)
        device, _ = self._calls(function, slots, 1.5 * host + 2e-4, seconds, least, most)
        return {
            "board": statistics.fmean(board),
            "board_se": _se(board),
            "device": statistics.median(device),
            "device_se": 1.2533 * _se(device),
            "calls": len(board),
            "late": sum(late) > len(late) / 2,
        }

    def _slots(self, case: Case, base: int) -> list[Inputs]:
        """As many sets of inputs as fit beside what a call needs."""
        first = Inputs(case, base, self.device)
        first.change(base + 1)
        fit = int(self.memory()[0] // (20 * case.elements * 4))
        return [first, *(Inputs(case, base + i, self.device) for i in range(1, max(1, min(SLOTS, fit))))]

    def _host_seconds(self, function: Callable[..., Any], slot: Inputs) -> float:
        """How long the host is busy with a call whose work the GPU has not begun."""
        self.spin(int(0.02 * SPIN_HZ))
        began = self.now()
        function(slot.x, slot.mask, dict(slot.weights))
        took = self.now() - began
        self.synchronize()
        return min(took, 0.05)

    def _calls(
        self, function: Callable[..., Any], slots: list[Inputs], spin: float, seconds: float, least: int, most: int
    ) -> tuple[list[float], list[bool]]:
        times, late, end = [], [], self.now() + seconds
        while len(times) < least or (len(times) < most and self.now() < end):
            slot = slots[len(times) % len(slots)]
            slot.change(1000 + len(times))
            weights = dict(slot.weights)
            self.zero_(self.flusher)
            self.synchronize()
            start, stop = self.event(), self.event()
            if spin:
                self.spin(int(spin * SPIN_HZ))
            self.record(start)
            y = function(slot.x, slot.mask, weights)
            self.record(stop)
            self.wait(stop)
            done = self.now()  # from here on: a busy host may wake up long after the stream was done
            self.synchronize()
            rest = (self.now() - done) * 1e6
            took = self.elapsed(start, stop) * 1e3
            times.append(took)
            late.append(rest > LATE_US + LATE_SHARE * took)
            del y
        return times, late


def _se(values: list[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("inf")
