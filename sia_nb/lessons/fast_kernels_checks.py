"""Checks of the exercises on fast kernels: each looks at an answer and says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InvalidSolution
from ..tasks.trimul.floor import passes
from ..tasks.trimul.instances import Cases
from ..tasks.trimul.solution import check_code
from . import fast_kernels as lesson
from .answers import Wrong, called, judged, numbers, shown

Function = Callable[..., Any]
WANTED = 1.2  # times faster than the eager reference
SHAPES = (lesson.make(32, 256, b=2), lesson.make(96, 128))


def _arguments(shape: Any) -> tuple[int, int, int, int]:
    return shape.b, shape.n, shape.c, shape.hidden


@judged
def check_operations(function: Function) -> str:
    """Exercise 1: floating-point operations of the three products, from (b, n, c, h)."""
    for shape in SHAPES:
        found = numbers(called(function, *_arguments(shape)), (3,))
        b, n, c, h = _arguments(shape)
        wanted = np.array([f for _, f in passes(shape, lesson.ITEM).values()])
        if np.allclose(found, wanted):
            continue
        if np.allclose(2 * found, wanted):
            raise Wrong("a product of matrices takes a multiplication and an addition for each term: twice what you count")
        if np.isclose(5 * found[0], wanted[0]):
            raise Wrong("there are five projections: left and right with a gate each, and the output's gate")
        if np.isclose(n * found[1], wanted[1]):
            raise Wrong("every o[b, i, j, d] is a sum over k of N terms: the batched product grows like N³, not N²")
        if np.isclose(h * found[1], wanted[1]):
            raise Wrong("the batched product is done for each of the H channels")
        wrong = [name for name, f, w in zip(lesson.PASSES, found, wanted, strict=True) if not np.isclose(f, w)]
        raise Wrong(
            f"for B={b}, N={n}, C={c}, H={h} the operations of {' and '.join(wrong)} are not right: {shown(found)}, "
            f"expected {shown(wanted)}"
        )
    share = wanted[1] / wanted.sum()
    return f"at N = 96, C = 128 the batched product has {share:.0%} of all operations; its share grows with N"


@judged
def check_bytes(function: Function) -> str:
    """Exercise 2: bytes of masking and gating one side, (eager, one_pass, fused), from (b, n, h)."""
    for shape in SHAPES:
        found = numbers(called(function, shape.b, shape.n, shape.hidden), (3,))
        wanted = np.array(list(lesson.side_bytes(shape).values()))
        if np.allclose(found, wanted):
            continue
        thin = lesson.ITEM * shape.b * shape.n**2
        hidden = thin * shape.hidden
        if np.allclose(lesson.ITEM * found, wanted):
            raise Wrong("these are numbers, not bytes: a float32 has 4 bytes")
        if np.allclose(found, [7 * hidden, 3 * hidden, 0]):
            raise Wrong("nearly: the mask is read too, one number a row")
        if np.isclose(found[0], wanted[0] - 2 * hidden):
            raise Wrong(
                "eager: the sigmoid reads its gates and writes its result, 2 tensors that the other two do not account for"
            )
        if np.isclose(found[0], 3 * hidden) or np.isclose(found[0], 4 * hidden + thin):
            raise Wrong(
                "eager: count what each operation reads as well as what it writes; nothing stays in the cache between them"
            )
        if np.isclose(found[0], wanted[0]) and np.isclose(found[1], wanted[1]):
            raise Wrong(
                "fused: values and gates never leave the registers, and the write of the result is the projection's own. What is "
                "still read from memory?"
            )
        if np.isclose(found[0], wanted[0]):
            raise Wrong("one_pass: values, gates and mask are read once, the result is written once")
        raise Wrong(f"for B={shape.b}, N={shape.n}, H={shape.hidden} it gives {shown(found)}, expected {shown(wanted)}")
    return (
        f"fusing spares {1 - wanted[2] / wanted[0]:.1%} of what masking and gating move, one pass {1 - wanted[1] / wanted[0]:.0%}"
    )


@judged
def check_floor(function: Function) -> str:
    """Exercise 3: the least seconds of a pass from its bytes, its operations and the rates (bytes/s, operations/s)."""
    for moved, operations, copy, matmul in ((8e9, 1e9, 4e9, 1e9), (4e9, 1e11, 4e9, 2e10), (1e6, 5e8, 2e10, 1e11)):
        found = float(numbers(called(function, moved, operations, copy, matmul), ()))
        a, b = moved / copy, operations / matmul
        if np.isclose(found, max(a, b)):
            continue
        case = f"{moved:g} bytes at {copy:g}/s take {a:.3g} s, {operations:g} operations at {matmul:g}/s take {b:.3g} s"
        if np.isclose(found, a + b):
            raise Wrong(f"{case}: the machine does both at once, so the longer of the two counts, not the sum")
        if np.isclose(found, min(a, b)):
            raise Wrong(f"{case}: that is the shorter of the two; both must be done")
        if np.isclose(found, 1e6 * max(a, b)) or np.isclose(found, 1e3 * max(a, b)):
            raise Wrong("give seconds")
        raise Wrong(f"{case}; your function gives {found:.3g}")
    return "the longer of the two, by memory or by arithmetic"


@judged
def check_program(function: Function | str, cases: Cases | None = None, *, wanted: float = WANTED, unsafe: bool = False) -> str:
    """Exercise 4: a ``trimul(x, mask, weights)`` that the kit's verifier finds right and ``wanted`` times faster than eager."""
    try:
        check_code(lesson.program_of(function))
    except InvalidSolution as error:
        raise Wrong(f"{error}") from error
    found = lesson.verdict(function, cases, unsafe=unsafe)
    if not found.valid:
        kind = found.reason.partition(":")[0]
        raise Wrong(f"{found.reason}{HINTS.get(kind, '')}")
    numbers = found.metrics
    told = f"speed-up {found.value:.2f} ± {numbers['se']:.2f} (SE), {numbers['times_floor']:.1f} times the floor"
    if found.value < wanted:
        raise Wrong(f"every check passed; {told}. {wanted:g} is wanted: which line of the table have you made cheaper?")
    if found.value - 2 * numbers["se"] <= 1:
        raise Wrong(f"every check passed; {told}. That may be noise ({lesson.load()}): close what else runs and judge again")
    return f"every check passed; {told}"


HINTS = {
    "wrong": ". Compare with pieces of the reference, one after the other",
    "wrong_type": ". Does every path return y?",
    "wrong_shape": ". y has the shape of x",
    "mask_ignored": ". Is the mask read at every call? It may be all ones in one case and not in the next",
    "changed_input": ". In-place operations are fine on your own tensors only",
    "stale": ". Nothing may be kept between calls that depends on the inputs",
    "refused": ". The judge runs programs in a sandbox only; python -m sia_nb doctor tells what is missing",
}
