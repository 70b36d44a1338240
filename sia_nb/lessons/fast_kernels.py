"""The lesson on fast kernels: the triangular multiplicative update taken apart and timed on this CPU, and a program judged.

Symbols: x [B, N, N, C], H hidden channels, R = B N² rows; bytes are those of float32. torch is loaded inside functions.
"""

from __future__ import annotations

import inspect
import os
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..store import cores
from ..tasks.base import Score, Solution
from ..tasks.trimul.floor import floor_us, measure_rates, passes
from ..tasks.trimul.instances import Cases
from ..tasks.trimul.reference import EPS, PROJECTIONS, Case, case

ITEM = 4  # bytes of a float32
HEADER = f"import torch\nimport torch.nn.functional as F\n\nEPS = {EPS}\n\n"
PATIENCE = 400.0  # seconds that a verdict may take; a quiet machine needs about ten
NOISY = 0.05  # relative standard error of a speed-up from which on it is measured for longer
PASSES = ("project", "product", "output")
SIDES = ("masks", "sides' sigmoids", "sides' gating")  # what fusing spares the two sides


@dataclass(frozen=True)
class Piece:
    """One kind of operation of the eager update."""

    name: str
    of: str  # the pass that it belongs to
    bytes: float  # that it reads and writes
    operations: float  # floating-point operations of its matrix product, 0 where it has none
    run: Callable[[], Any]


def make(n: int = 96, c: int = 128, *, b: int = 1, masked: bool = False) -> Case:
    """A shape [b, n, n, c] with 128 hidden channels."""
    return case(n, b, c, masked=masked)


def pieces(shape: Case, seed: int = 0) -> list[Piece]:
    """The reference's operations by kind, each on the values that it meets in the update; together they are the update."""
    import torch
    from torch.nn.functional import layer_norm, linear

    from ..tasks.trimul.reference import make_inputs

    x, mask, w = make_inputs(shape, seed)
    rows, columns = shape.b * shape.n**2, mask.unsqueeze(-1)
    big, hidden, thin = (ITEM * rows * width for width in (shape.c, shape.hidden, 1))
    flops = dict(zip(PASSES, (f for _, f in passes(shape, ITEM).values()), strict=True))
    norm = lambda: layer_norm(x, (shape.c,), w["norm.weight"], w["norm.bias"], EPS)
    normed = norm()
    project = lambda: [linear(normed, w[name]) for name in PROJECTIONS]
    left, left_gate, right, right_gate, gate = project()
    masks = lambda: (left * columns, right * columns)
    masked = masks()
    sigmoids = lambda: (left_gate.sigmoid(), right_gate.sigmoid())
    opened = sigmoids()
    gating = lambda: (masked[0] * opened[0], masked[1] * opened[1])
    a, b = gating()
    product = lambda: torch.einsum("bikd,bjkd->bijd", a, b)
    o = product()
    out_norm = lambda: layer_norm(o, (shape.hidden,), w["to_out_norm.weight"], w["to_out_norm.bias"], EPS)
    o_normed = out_norm()
    out_gate = lambda: o_normed * gate.sigmoid()
    gated = out_gate()
    return [
        Piece("norm of x", "project", 2 * big, 0, norm),
        Piece("five projections", "project", 5 * (big + hidden), flops["project"], project),
        Piece(SIDES[0], "project", 2 * (2 * hidden + thin), 0, masks),
        Piece(SIDES[1], "project", 2 * 2 * hidden, 0, sigmoids),
        Piece(SIDES[2], "project", 2 * 3 * hidden, 0, gating),
        Piece("batched product", "product", 3 * hidden, flops["product"], product),
        Piece("norm of o", "output", 2 * hidden, 0, out_norm),
        Piece("output gate", "output", 5 * hidden, 0, out_gate),
        Piece("output projection", "output", hidden + big, flops["output"], lambda: linear(gated, w["to_out"])),
    ]


def least_seconds(run: Callable[[], Any], repeats: int) -> float:
    """The least of ``repeats`` timings after one that does not count: what others do on the machine only adds."""
    run()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found)


def where_time_goes(shape: Case, *, repeats: int = 15) -> pd.DataFrame:
    """Each kind of operation of the eager update: columns piece, pass, ms, share (of the sum), MB, GFLOP."""
    import torch

    with torch.no_grad():
        found = [(p.name, p.of, 1e3 * least_seconds(p.run, repeats), p.bytes / 1e6, p.operations / 1e9) for p in pieces(shape)]
    table = pd.DataFrame(found, columns=["piece", "pass", "ms", "MB", "GFLOP"])
    table.insert(3, "share", table["ms"] / table["ms"].sum())
    return table


def profiled(shape: Case, *, repeats: int = 3, most: int = 8) -> pd.DataFrame:
    """What ``torch.profiler`` sees of the eager update: columns operator, calls, ms (its own, a call of the update); the ``most`` longest first."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from ..tasks.trimul.reference import make_inputs, update

    inputs = make_inputs(shape, 0)
    with torch.no_grad():
        update(*inputs)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(repeats):
                update(*inputs)
    rows = [(e.key, e.count // repeats, e.self_cpu_time_total / 1e3 / repeats) for e in seen.key_averages()]
    table = pd.DataFrame(rows, columns=["operator", "calls", "ms"]).sort_values("ms", ascending=False)
    return table.head(most).reset_index(drop=True)


# -- bytes and the roof ------------------------------------------------------------------------------


def side_bytes(shape: Case) -> dict[str, float]:
    """Bytes that masking and gating one side, left or right, move beside its two projections.

    "eager": three operations, each of which reads and writes; "one_pass": one operation after the projections; "fused": within
    the projections, where values and gates are still in registers, so that the mask alone is read.
    """
    hidden, thin = (float(ITEM * shape.b * shape.n**2 * width) for width in (shape.hidden, 1))
    return {"eager": 7 * hidden + thin, "one_pass": 3 * hidden + thin, "fused": thin}


def traffic(table: pd.DataFrame, shape: Case) -> pd.DataFrame:
    """MB of each pass: eagerly, operation by operation, and as one fused kernel (``trimul.floor.passes``)."""
    eager = table.groupby("pass", sort=False)["MB"].sum()
    fused = {name: moved / 1e6 for name, (moved, _) in passes(shape, ITEM).items()}
    out = pd.DataFrame({"eager": eager, "fused": pd.Series(fused)}).loc[list(PASSES)]
    out.loc["all"] = out.sum()
    return out.assign(saved=1 - out["fused"] / out["eager"])


def rates() -> dict[str, float]:
    """What this machine can do, the best of several: "copy" in bytes a second, "matmul" in operations a second."""
    return measure_rates("cpu")


def roofline(table: pd.DataFrame, shape: Case, measured: dict[str, float]) -> pd.DataFrame:
    """Each pass of the eager update under the roof.

    Returns:
        Columns pass, intensity (operations a byte of the fused pass), ms (measured, eager), floor_ms, times_floor,
        GFLOP_s (reached), roof_GFLOP_s (what the machine allows at this intensity).
    """
    took, floor, rows = table.groupby("pass")["ms"].sum(), floor_us(shape, measured, ITEM), []
    for name, (moved, operations) in passes(shape, ITEM).items():
        roof = min(measured["matmul"], operations / moved * measured["copy"]) / 1e9
        ms, least = took[name], floor[name] / 1e3
        rows.append((name, operations / moved, ms, least, ms / least, operations / ms / 1e6, roof))
    return pd.DataFrame(rows, columns=["pass", "intensity", "ms", "floor_ms", "times_floor", "GFLOP_s", "roof_GFLOP_s"])


# -- a program, judged -------------------------------------------------------------------------------


def program_of(function: Callable[..., Any] | str) -> str:
    """The module that a learner's ``trimul`` is judged as: its source below the imports that the lesson offers."""
    text = function if isinstance(function, str) else textwrap.dedent(inspect.getsource(function))
    return HEADER + text


def small_cases(c: int = 128) -> Cases:
    """What the lesson times, N of 96 and a masked 128; and smaller shapes on which it checks alone."""
    return Cases("cpu", (case(96, 1, c), case(128, 1, c, masked=True)), (case(48, 1, c, masked=True), case(48, 2, 2 * c)))


def verdict(function: Callable[..., Any] | str, cases: Cases | None = None, *, unsafe: bool = False) -> Score:
    """The kit's verdict on a program: checked on inputs that it has not seen, timed in turns with the eager reference, longer where
    times swing.

    ``unsafe``: run it even where no sandbox is usable.
    """
    from ..tasks.trimul.verifier import TriMulVerifier

    with (
        tempfile.TemporaryDirectory() as folder,
        TriMulVerifier(
            Path(folder), Path(folder), own=cases or small_cases(), code_seconds=PATIENCE, unsafe_no_sandbox=unsafe
        ) as verifier,
    ):
        program = Solution("code", program_of(function))
        found = verifier.score(program)
        noisy = found.valid and found.metrics["se"] > NOISY * found.value
        return verifier.full(program) if noisy else found


def load() -> str:
    """How busy the machine is, in words: times taken on a busy one swing."""
    busy, here = os.getloadavg()[0], cores()
    return f"load {busy:.1f} on {here} cores" + (": busy, times will swing" if busy > 0.7 * here else "")
