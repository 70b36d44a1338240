"""What final_choice.py and wider_space.py share: LawBench's solutions by cross-validation over train and dev together.

No run had this measure: a run sees one dev split. The sealed test is not opened.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import numpy as np
import scipy.sparse as sp

from sia_nb.steps import trajectory
from sia_nb.store import data_dir, read_json
from sia_nb.tasks import get_task
from sia_nb.tasks.lawbench import models
from sia_nb.tasks.lawbench.counts import load
from sia_nb.tasks.lawbench.fast import Engine, pick
from sia_nb.tasks.lawbench.files import Layout
from sia_nb.view import collect

FOLDS = models.FOLDS


class Fold(Engine):
    """Fitted on the texts of train and dev outside one fold, for those inside; nothing thinned or approximated."""

    def __init__(self, number: int):
        folder, y, fitted = texts()
        super().__init__(folder, y)
        out = models.folds(y) == number
        self.rows, self.out, self._fitted = np.flatnonzero(~out), np.flatnonzero(out), fitted
        self.classes, self.y = np.unique(y[self.rows], return_inverse=True)

    def _load(self, atom: str) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        every = sp.vstack(load(self.folder, atom, self._fitted), format="csr")
        train, new = every[self.rows], every[self.out]
        seen = np.flatnonzero(np.bincount(train.indices, minlength=train.shape[1]))
        return pick(train, seen), pick(new, seen)


def texts() -> tuple[Path, np.ndarray, int]:
    """The counts of seed 0, the labels of train and then dev, and how many are train's."""
    task = get_task("lawbench")
    task.fetch(data_dir(), seed=0)
    layout = Layout(data_dir(), 0)
    train = read_json(layout.public / "labels.json")
    return layout.public, np.array(train + read_json(layout.dev_labels)), len(train)


def macro(right: np.ndarray, y: np.ndarray) -> float:
    """Macro accuracy: the share of ``right`` texts of each class, in the mean over classes."""
    return float(fmean(right[y == c].mean() for c in np.unique(y)))


def studied() -> list[collect.Finished]:
    """The committed runs of the study's three arms."""
    return [f for f in collect.finished("lawbench", source="reference") if f.arm in ("H", "W", "W+H")]


def answer(f: collect.Finished) -> str:
    """The solution that a run ended with."""
    return f.report["arms"][f.arm]["solution"]


def best_of(run, count: int) -> list[str]:
    """The ``count`` best solutions of a run by the loop's verdict, best first."""
    found: dict[str, float] = {}
    for g in run.executed():
        events = trajectory(run, g)
        asked = {e.id: e.data["solution"] for e in events.of("evaluate") if e.data["dialect"] == "spec"}
        for verdict in events.of("verdict"):
            if verdict.data["valid"] and verdict.data["evaluate"] in asked:
                found[asked[verdict.data["evaluate"]]] = verdict.data["score"]
    return sorted(found, key=lambda s: -found[s])[:count]


def by_view(solution: str) -> tuple[str, ...]:
    """Solutions in this order share what the engine remembers."""
    spec = json.loads(solution)
    return tuple(str(spec[k]) for k in ("view", "tf", "idf", "min_df", "select"))
