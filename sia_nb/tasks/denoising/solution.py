"""The space of denoising solutions: a typed spec around MAGIC, or free Python.

A spec's fields stand in the order in which they act: counts are normalised, cells joined in a graph (kNN on principal
components with an alpha-decaying kernel), values diffused over it (MAGIC: van Dijk et al., Cell 2018), brought back to
counts and then processed. Imports no numpy, so that prompts and grammars can be made without it.
"""

from __future__ import annotations

from typing import Any

from ...errors import InvalidSolution
from .. import code
from ..base import Solution
from ..space import Field, Space

ENTRY = "denoise"
ARGUMENTS = ("counts",)
SUMS = ("none", "cell", "gene", "both")

SPACE = Space(
    [
        Field("normalisation", ("none", "library", "sqrt", "log"), "library size, then a transform", kind="structure"),
        Field("reversed", (False, True), "transform first, then library size", kind="structure"),
        Field("pcs", (5, 10, 20, 50, 100), "principal components that distances are taken in", True),
        Field("knn", (3, 5, 10, 15, 30, 60), "neighbours that set a cell's bandwidth; 3 times as many are joined", True),
        Field("decay", (1, 2, 5, 10, 40), "how sharply a neighbour's weight falls with distance", True),
        Field("t", (1, 2, 3, 5, 8), "steps of diffusion", True),
        Field("solver", ("exact", "approximate"), "diffuse genes, or principal components only", kind="structure"),
        Field(
            "blend",
            (0, 0.05, 0.1, 0.2, 0.4),
            "share of the observed count where 1 is expected, more where more",
            True,
            "post-processing",
        ),
        Field("rescale", SUMS, "match the observed sums", kind="post-processing"),
        Field("power", (0.7, 1, 1.2, 1.5, 2, 3), "raise values to it", True, "post-processing"),
        Field("shrink", (0, 0.5, 1, 2, 3, 5), "shrink values below it", True, "post-processing"),
        Field("keep", (0, 0.05, 0.1, 0.15, 0.2, 0.4), "share of a small value that shrinking leaves", True, "post-processing"),
        Field("clip", (0, 0.001, 0.01, 0.03, 0.1), "lowest value", True, "post-processing"),
        Field("round", ("none", 0.05, 0.25, 1, 4, 20), "to multiples of it", True, "post-processing"),
        Field("calibrate", SUMS, "match the observed sums in the end", kind="post-processing"),
    ]
)

# magic-impute's defaults on square roots, as OpenProblems runs it.
FALLBACK = {
    "normalisation": "sqrt",
    "reversed": False,
    "pcs": 100,
    "knn": 5,
    "decay": 1,
    "t": 3,
    "solver": "exact",
    "blend": 0,
    "rescale": "none",
    "power": 1,
    "shrink": 0,
    "keep": 0,
    "clip": 0,
    "round": "none",
    "calibrate": "none",
}


def parse(text: str) -> Solution:
    """The solution in ``text``: Python where a line starts with ``def `` or ``import ``, else a spec.

    Raises:
        InvalidSolution: unparsable, unknown_field, missing_field, bad_value, syntax or no_entry.
    """
    return code.parse(text, SPACE, ENTRY, ARGUMENTS)


def check_code(text: str) -> str:
    """Free Python that defines ``denoise(counts)``, checked without running it; lines without trailing space.

    Raises:
        InvalidSolution: syntax or no_entry.
    """
    return code.check(text, ENTRY, ARGUMENTS)


def check_cells(spec: dict[str, Any], cells: int) -> None:
    """Refuse a spec that asks for more neighbours than there are.

    Raises:
        InvalidSolution: bad_value, with both numbers.
    """
    if spec["knn"] > cells - 2:
        raise InvalidSolution(
            "bad_value", f"field 'knn' is {spec['knn']}, but there are {cells} cells; expected at most {max(cells - 2, 0)}"
        )
