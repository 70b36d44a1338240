"""Does LawBench's sealed result suffer from the choice at a run's end, or from what the run had to choose from?

    python benchmarks/final_choice.py [--best 10]

A run's answer is the best of five by one dev split. Here the ``--best`` best solutions of every committed run, by the
loop's verdict, are scored again by cross-validation over train and dev together (three folds, macro accuracy), a
measure that no run had. If the answer's own value is near the best of the ten, choosing better would gain little. The
sealed test is not opened. About 11 minutes on two cores.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
from statistics import fmean

import numpy as np
from _common import commit, hardware, versions, write
from _folds import FOLDS, Fold, answer, best_of, by_view, macro, studied, texts
from threadpoolctl import threadpool_limits

from sia_nb.store import cores
from sia_nb.tasks.lawbench.solution import SPACE


def hits(job: tuple[int, list[str]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The texts of one fold, and for each solution which of them it labels right."""
    number, solutions = job
    engine = Fold(number)
    _, y, _ = texts()
    with threadpool_limits(1):  # the folds share the cores
        return engine.out, {s: engine.predict(SPACE.parse(s)) == y[engine.out] for s in solutions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--best", type=int, default=10)
    args = parser.parse_args()
    finished = studied()
    chosen = {f.run.path.name: answer(f) for f in finished}
    tens = {f.run.path.name: best_of(f.run, args.best) for f in finished}
    solutions = sorted({s for name in tens for s in (*tens[name], chosen[name])}, key=by_view)
    print(f"{len(solutions)} solutions of {len(finished)} runs, {FOLDS} folds")
    with mp.get_context("spawn").Pool(min(cores(), FOLDS)) as pool:
        folds = pool.map(hits, [(number, solutions) for number in range(FOLDS)], chunksize=1)
    _, y, _ = texts()
    values = {}
    for s in solutions:
        right = np.zeros(len(y))
        for rows, found in folds:
            right[rows] = found[s]
        values[s] = macro(right, y)
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
        what=f"macro accuracy by {FOLDS}-fold cross-validation over train and dev: the runs' answers, and the best of their {args.best} best",
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
