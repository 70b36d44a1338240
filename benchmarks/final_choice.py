"""Does LawBench's sealed result suffer from the choice at a run's end, or from what the run had to choose from?

    python benchmarks/final_choice.py [--best 10]

A run's answer is the best of five by one dev split. Here the ``--best`` best solutions of every committed run, by the
loop's verdict, are scored again by cross-validation over train and dev together (three folds, macro accuracy), a
measure that no run had. If the answer's own value is near the best of the ten, choosing better would gain little. The
sealed test is not opened. About 11 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
from pathlib import Path
from statistics import fmean

import numpy as np
import scipy.sparse as sp
from _common import commit, hardware, versions, write
from threadpoolctl import threadpool_limits

from sia_nb.steps import trajectory
from sia_nb.store import cores, data_dir, read_json
from sia_nb.tasks import get_task
from sia_nb.tasks.lawbench import models
from sia_nb.tasks.lawbench.counts import load
from sia_nb.tasks.lawbench.fast import Engine, pick
from sia_nb.tasks.lawbench.files import Layout
from sia_nb.tasks.lawbench.solution import SPACE
from sia_nb.view import collect


class Fold(Engine):
    """Fitted on some texts of train and dev, for the others; nothing thinned or approximated."""

    def __init__(self, folder: Path, y: np.ndarray, fitted: int, out: np.ndarray):
        super().__init__(folder, y)
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


def hits(job: tuple[int, list[str]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The texts of one fold, and for each solution which of them it labels right."""
    number, solutions = job
    folder, y, fitted = texts()
    out = models.folds(y) == number
    engine = Fold(folder, y, fitted, out)
    with threadpool_limits(1):  # the folds share the cores
        return np.flatnonzero(out), {s: engine.predict(SPACE.parse(s)) == y[out] for s in solutions}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--best", type=int, default=10)
    args = parser.parse_args()
    finished = [f for f in collect.finished("lawbench", source="reference") if f.arm in ("H", "W", "W+H")]
    chosen = {f.run.path.name: f.report["arms"][f.arm]["solution"] for f in finished}
    tens = {f.run.path.name: best_of(f.run, args.best) for f in finished}
    solutions = sorted({s for name in tens for s in (*tens[name], chosen[name])}, key=by_view)
    print(f"{len(solutions)} solutions of {len(finished)} runs, {models.FOLDS} folds")
    with mp.get_context("spawn").Pool(min(cores(), models.FOLDS)) as pool:
        folds = pool.map(hits, [(number, solutions) for number in range(models.FOLDS)], chunksize=1)
    _, y, _ = texts()
    values = {}
    for s in solutions:
        right = np.zeros(len(y))
        for rows, found in folds:
            right[rows] = found[s]
        values[s] = float(fmean(right[y == c].mean() for c in np.unique(y)))
    runs = {
        f.run.path.name: {
            "answer": values[chosen[f.run.path.name]],
            "best": max(values[s] for s in (*tens[f.run.path.name], chosen[f.run.path.name])),
            "sealed_macro": f.report["arms"][f.arm]["test"]["macro"],
        }
        for f in finished
    }
    means = {k: fmean(r[k] for r in runs.values()) for k in ("answer", "best", "sealed_macro")}
    for name, r in runs.items():
        print(f"{name:45} answer {r['answer']:.4f}  best of {args.best} {r['best']:.4f}  sealed {r['sealed_macro']:.4f}")
    print(means)
    write(
        "final_choice",
        what=f"macro accuracy by {models.FOLDS}-fold cross-validation over train and dev: the runs' answers, and the best of their {args.best} best",
        unit="macro accuracy",
        ours=means["answer"],
        peers={f"the best of the {args.best} best": means["best"]},
        ratio=means["best"] / means["answer"],
        best_anywhere=max(values.values()),
        runs=runs,
        hardware=hardware(),
        versions=versions("numpy", "scipy", "scikit-learn"),
        commit=commit(),
        command=f"python benchmarks/final_choice.py --best {args.best}",
    )


if __name__ == "__main__":
    main()
