"""The least time that a machine needs for the update: three passes, each bound by memory or by arithmetic (roofline,
Williams et al. 2009), from rates measured on that machine.

The passes are those of the fastest known kernels: (1) normalise and project x, gated and masked, (2) the batched product,
(3) normalise, gate and project out. Left, right, the gate and o are stored in the number format of the pass, x and y are
float32. A kernel that fused passes could pass below this floor; none is known to.
"""

from __future__ import annotations

import math
import time
from typing import Any

from .reference import Case

ITEM = {"float16": 2, "bfloat16": 2, "float32": 4}


def passes(case: Case, item: int = 2) -> dict[str, tuple[float, float]]:
    """Bytes that must move and floating-point operations of each pass.

    Args:
        item: bytes of a stored value of left, right, gate and o; 2 on a GPU, 4 where a CPU computes in float32.
    """
    rows, h = case.b * case.n**2, case.hidden
    return {
        "project": (rows * (4.0 * case.c + 4 + 3 * item * h), 2.0 * rows * case.c * 5 * h),
        "product": (3.0 * item * rows * h, 2.0 * case.b * case.n**3 * h),
        "output": (rows * (2.0 * item * h + 4 * case.c), 2.0 * rows * h * case.c),
    }


def floor_us(case: Case, rates: dict[str, float], item: int = 2) -> dict[str, float]:
    """µs of each pass at the machine's rates, max(bytes / copy rate, operations / matmul rate), and their "total".

    Args:
        rates: "copy" in bytes a second (read and written bytes both counted), "matmul" in operations a second.
    """
    found = {n: max(b / rates["copy"], f / rates["matmul"]) * 1e6 for n, (b, f) in passes(case, item).items()}
    return {**found, "total": sum(found.values())}


def geometric_mean(values: list[float]) -> float:
    """exp of the mean of logarithms; all values above 0."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def measure_rates(device: str) -> dict[str, float]:
    """Copy rate [bytes/s] and matmul rate [operations/s] of this machine: the best of several.

    On a GPU: a copy of 1 GiB, and float16 products of 8192 × 8192. On a CPU: a copy of 64 MiB, and float32 products of
    1024 × 1024 (a few tenths of a second), with the threads that torch has.
    """
    import torch

    cuda = device == "cuda"
    a = torch.empty((1 << 28) if cuda else (1 << 24), dtype=torch.float32, device=device).zero_()
    b = torch.empty_like(a)
    n, dtype = (8192, torch.float16) if cuda else (1024, torch.float32)
    m, o = torch.randn(n, n, device=device).to(dtype), torch.empty(n, n, device=device, dtype=dtype)
    copy = _best(torch, device, lambda: b.copy_(a), 10)
    product = _best(torch, device, lambda: torch.mm(m, m, out=o), 10)
    return {"copy": 2 * a.numel() * 4 / copy, "matmul": 2 * n**3 / product}


def _best(torch: Any, device: str, work: Any, times: int) -> float:
    """Least seconds of ``work``; on a GPU by events over four in a row."""
    found = []
    work()
    for _ in range(times):
        if device == "cuda":
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            for _ in range(4):
                work()
            stop.record()
            torch.cuda.synchronize()
            found.append(start.elapsed_time(stop) / 4e3)
        else:
            began = time.perf_counter()
            work()
            found.append(time.perf_counter() - began)
    return min(found)
