"""Instances of the denoising task: parts of the blood cells, thinned ones, simulated sets, and the benchmark's downloads.

The first, ``pbmc68k``, is the offline default: all cells and genes. The others that need no download are here for transfer:
training ones and held-out ones. The blood cells are dealt once into two piles, 490 for training instances and 210 held out, so
that no held-out instance shares a cell with a training one, neither in the loop nor sealed; simulated sets have cells of
their own. Within a pile each seed deals its cells half to the loop and half to the sealed report, for all instances alike.
Instances of one pile do share cells; their molecules are split once, so that no train file tells of another's test molecules.

The figures of the descriptions are frozen in instances.json; ``python -m sia_nb.tasks.denoising.instances`` measures them anew,
on the train molecules of the loop's cells of seed 0 and nothing else. Imports no numpy at the top.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..base import Instance
from .simulate import simulate
from .split import draw, stream

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sp

    from .split import Split

FILE = Path(__file__).with_name("instances.json")
WHOLE = "pbmc68k"
HELD_CELLS = 210  # of 700: the pile of the held-out instances


@dataclass(frozen=True)
class Part:
    """An instance of the blood cells: some cells, some genes, some of the molecules."""

    name: str
    cells: int  # of the loop; as many are sealed
    genes: int
    held_out: bool = False
    abundant: bool = False  # the genes with most train molecules in the loop; else drawn at random
    depth: float = 1.0  # share of the molecules that is left

    @property
    def kind(self) -> str:
        """What its description says of it."""
        return "blood cells" + (", abundant genes" if self.abundant else "") + (", thinned" if self.depth < 1 else "")


@dataclass(frozen=True)
class Synthetic:
    """A simulated instance; see ``simulate`` for the arguments."""

    name: str
    cells: int  # of the loop; as many are sealed
    genes: int
    types: int
    depth: float
    dispersion: float
    dropout: float
    held_out: bool = False

    @property
    def kind(self) -> str:
        """What its description says of it."""
        return f"simulated, {'many' if self.types > 5 else 'few'} cell types" + (", dropout" if self.dropout else "")

    def counts(self) -> sp.csr_matrix:
        """The counts of all its cells, int32 csr [2 · cells, genes]."""
        return self.simulated().counts

    def simulated(self):
        """The ``Simulated`` set: counts, rates and types of all its cells; the same for every seed."""
        seed = int(stream("simulation", self.name).randint(2**31 - 1))
        return simulate(
            2 * self.cells, self.genes, self.types, depth=self.depth, dispersion=self.dispersion, dropout=self.dropout, seed=seed
        )


PARTS = (
    Part("pbmc-240", 240, 765),
    Part("pbmc-120", 120, 765),
    Part("pbmc-80", 80, 765),
    Part("pbmc-240-genes-300", 240, 300),
    Part("pbmc-240-top-150", 240, 150, abundant=True),
    Part("pbmc-240-half", 240, 765, depth=0.5),
    Part("pbmc-240-quarter", 240, 765, depth=0.25),
    Part("pbmc-120-genes-400-half", 120, 400, depth=0.5),
    Part("held-pbmc-100", 100, 765, True),
    Part("held-pbmc-100-genes-250", 100, 250, True),
    Part("held-pbmc-100-third", 100, 765, True, depth=0.35),
    Part("held-pbmc-80-top-400", 80, 400, True, abundant=True, depth=0.7),
)
SYNTHETIC = (
    Synthetic("sim-4-types", 300, 600, 4, 800, 0.3, 0.0),
    Synthetic("sim-4-types-dropout", 300, 600, 4, 800, 0.3, 0.5),
    Synthetic("sim-8-types-deep", 200, 400, 8, 2000, 0.2, 0.2),
    Synthetic("sim-3-types-shallow", 400, 500, 3, 300, 0.5, 0.0),
    Synthetic("sim-2-types-noisy", 150, 800, 2, 1500, 1.0, 0.3),
    Synthetic("sim-12-types", 350, 300, 12, 500, 0.1, 0.0),
    Synthetic("held-sim-6-types", 250, 500, 6, 600, 0.4, 0.25, True),
    Synthetic("held-sim-5-types-noisy", 180, 700, 5, 1200, 0.7, 0.0, True),
)


@cache
def instances() -> tuple[Instance, ...]:
    """What the task declares: all blood cells first, those for training, the held-out ones, those to be downloaded."""
    from .sources import SOURCES

    figures = json.loads(FILE.read_text(encoding="utf-8"))
    shapes = sorted((*PARTS, *SYNTHETIC), key=lambda s: s.held_out)
    kinds = {WHOLE: ("blood cells", False)} | {s.name: (s.kind, s.held_out) for s in shapes}
    offline = tuple(Instance(n, describe(kind, **figures[n]), held) for n, (kind, held) in kinds.items())
    return offline + tuple(Instance(s.name, s.description, offline=False) for s in SOURCES.values())


def describe(kind: str, cells: int, genes: int, counts: int, zeros: int) -> str:
    """One line for the prompt; ``counts``: median train counts a cell; ``zeros``: per cent of the train matrix."""
    return f"{cells} cells x {genes} genes, median {counts} counts a cell, {zeros} % zeros; {kind}."


def measure(train: sp.csr_matrix) -> dict[str, int]:
    """The figures of a description, of train molecules int [cells, genes]."""
    import numpy as np

    cells, genes = train.shape
    totals = np.asarray(train.sum(axis=1)).ravel()
    zeros = 100 * (1 - train.nnz / (cells * genes))
    return {"cells": cells, "genes": genes, "counts": round(float(np.median(totals))), "zeros": round(zeros)}


def piles(cells: int) -> dict[bool, np.ndarray]:
    """Row numbers of the blood cells in two piles, held out or not; the same for every seed."""
    order = stream("piles").permutation(cells)
    return {True: order[:HELD_CELLS], False: order[HELD_CELLS:]}


def halves(pile: np.ndarray, *words: object) -> tuple[np.ndarray, np.ndarray]:
    """A pile's cells for the loop and for the sealed report, each sorted; dealt by the words, a seed among them."""
    import numpy as np

    order = stream("halves", *words).permutation(np.asarray(pile))
    middle = (len(order) + 1) // 2
    return np.sort(order[:middle]), np.sort(order[middle:])


def genes_of(part: Part, train: sp.csr_matrix) -> np.ndarray:
    """Its columns, sorted; random ones are the same for every seed. ``train``: of the loop's cells in its pile."""
    import numpy as np

    if part.abundant:
        totals = np.asarray(train.sum(axis=0)).ravel()
        return np.sort(np.argsort(-totals, kind="stable")[: part.genes])
    return np.sort(stream("genes", part.name).permutation(train.shape[1])[: part.genes])


def cut(part: Part, split: Split, genes: np.ndarray, *words: object) -> Split:
    """``part`` of the split cells of its pile: its number of cells, seeded by the words, ``genes``, its share of the molecules.

    Train molecules are thinned among themselves, and so are test molecules: none changes sides.
    """
    import numpy as np

    from .split import Split

    rows = stream("cells", part.name, *words).permutation(split.train.shape[0])[: part.cells]
    out = split.take(np.sort(rows), genes)
    if part.depth == 1:
        return out
    return Split(*(draw(half, part.depth, stream("thin", i, part.name, *words)) for i, half in enumerate((out.train, out.test))))


def main() -> None:
    """Write instances.json anew, from seed 0."""
    from .data import offline_splits

    found = {name: measure(loop.train) for name, (loop, _) in offline_splits(0)}
    lines = [f"  {json.dumps(name)}: {json.dumps(figures)}" for name, figures in found.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
