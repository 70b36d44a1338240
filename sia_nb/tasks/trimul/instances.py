"""The instances of the task: each is a device with one shape or the benchmark's seven. Imports no torch.

Where a policy must choose for shapes it has not timed, it has the descriptions alone; the held-out ones are never
trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..base import Instance
from .reference import BENCHMARK, CORRECTNESS, CPU_BENCHMARK, CPU_CORRECTNESS, Case, case

CPU_SHAPES = (
    *CPU_BENCHMARK,
    case(48, 1, 256),
    case(64, 2, 128, masked=True),
    case(72, 1, 128),
    case(64, 1, 768),
    case(112, 1, 256, masked=True),
)
CUDA_SHAPES = (
    *BENCHMARK,
    case(384, 1, 256),
    case(512, 2, 128, masked=True),
    case(640, 1, 128),
    case(512, 1, 768),
    case(896, 1, 256, masked=True),
)
HELD_OUT = {(512, 1, 128), (768, 1, 384), (640, 1, 128), (896, 1, 256)} | {
    (40, 1, 128),
    (60, 1, 384),
    (72, 1, 128),
    (112, 1, 256),
}


@dataclass(frozen=True)
class Cases:
    """What an instance checks and times."""

    device: Literal["cpu", "cuda"]
    timed: tuple[Case, ...]
    checked: tuple[Case, ...]  # beside those that are timed


def describe(case: Case) -> str:
    """A shape as the prompt has it."""
    values = "Cauchy" if case.distribution == "cauchy" else "normal"
    return (
        f"N={case.n} B={case.b} C={case.c} H={case.hidden}, {values} values, {'a random' if case.masked else 'an all-ones'} mask"
    )


def cases(name: str) -> Cases:
    """The cases of an instance by its name, as ``base.find_instance`` has checked it."""
    device = "cuda" if name.startswith("cuda") else "cpu"
    if name == device:
        return Cases(
            device, BENCHMARK if device == "cuda" else CPU_BENCHMARK, CORRECTNESS if device == "cuda" else CPU_CORRECTNESS
        )
    shape = next(c for c in (CUDA_SHAPES if device == "cuda" else CPU_SHAPES) if f"{device}-{c.name}" == name)
    return Cases(device, (shape,), (case(shape.n, shape.b, shape.c, shape.distribution, not shape.masked, shape.hidden),))


def instances(device: Literal["cpu", "cuda"]) -> tuple[Instance, ...]:
    """The instances on a device: the seven shapes together first, then single shapes, some of them held out."""
    shapes = CUDA_SHAPES if device == "cuda" else CPU_SHAPES
    ours = BENCHMARK if device == "cuda" else CPU_BENCHMARK
    sizes = ", ".join(f"({c.n}, {c.b}, {c.c})" for c in ours)
    where = "a CUDA GPU" if device == "cuda" else "this machine's CPU"
    first = Instance(device, f"on {where}, float32 in and out; geometric mean over (N, B, C) = {sizes}; two of them masked")
    rest = [
        Instance(f"{device}-{c.name}", f"on {where}, float32 in and out; {describe(c)}", (c.n, c.b, c.c) in HELD_OUT)
        for c in shapes
    ]
    return (first, *rest)
