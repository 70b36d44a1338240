"""How long does a denoising verdict take, and how much memory: the shared engine against the compiled magic-impute source.

    python benchmarks/denoising_verdict.py [--specs 24] [--seed 0] [--large 20000x2000] [--large-specs 3]

Small: scanpy's pbmc68k_reduced (700 cells x 765 genes, counts recovered). ``--specs`` specs are drawn from the space; each
is answered by a new engine (nothing shared), by one that has its graph and not its diffused state (its number of steps is
another), by one that has both, and by the compiled source. A walk of 100 steps changes one or two fields at a time, as a
search does. Times are of the denoised counts alone; "metrics" is what scoring them by OpenProblems' two metrics adds.

Large: Poisson counts of 12 cell types, 20,000 cells x 2,000 genes, sparse, for MAGIC's defaults and a few draws, each in
a process of its own; with the seconds, the peak resident memory of the process. About five minutes on two cores.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from random import Random
from typing import Any

from _common import commit, hardware, versions, write

from sia_nb.tasks.denoising.compile import compile_spec
from sia_nb.tasks.denoising.solution import FALLBACK, SPACE


def pbmc():
    """Counts of pbmc68k_reduced, recovered from its logarithms; CSR int32 [700, 765]."""
    import numpy as np
    import scanpy as sc
    import scipy.sparse as sp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = np.expm1(sc.datasets.pbmc68k_reduced().raw.X.toarray().astype(float))
    one = np.where(x > 0, x, np.inf).min(axis=1, keepdims=True)
    return sp.csr_matrix(np.rint(x / one).astype(np.int32))


def drawn(cells: int, genes: int, seed: int):
    """Poisson counts of 12 cell types with uneven depths, about one molecule in three genes; CSR int32."""
    import numpy as np
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    profiles = rng.gamma(0.3, size=(12, genes))
    blocks = []
    for start in range(0, cells, 1000):
        n = min(1000, cells - start)
        rates = profiles[rng.integers(12, size=n)] * rng.gamma(4, 0.25, size=(n, 1))
        blocks.append(sp.csr_matrix(rng.poisson(rates).astype(np.int32)))
    return sp.vstack(blocks, format="csr")


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and the result."""
    began = time.perf_counter()
    value = call()
    return time.perf_counter() - began, value


def source(spec: dict, counts) -> Callable[[], Any]:
    """The compiled source of ``spec``, ready to be called on ``counts``."""
    scope: dict = {}
    exec(compile_spec(spec), scope)
    return lambda: scope["denoise"](counts.astype(float))


def metrics(y, counts) -> tuple[float, float]:
    """OpenProblems' mse and Poisson loss; the counts stand for the test molecules, since only time is measured."""
    import numpy as np

    test = counts.toarray().astype(np.float32)
    log = lambda m: np.log1p(m * (1e4 / np.maximum(m.sum(axis=1, keepdims=True), 1e-12)))
    return float(np.square(log(y) - log(test)).mean()), float((y - test * np.log(y + 1e-6)).mean())


def spread(values: list[float]) -> dict[str, float]:
    """Mean, median, 95th percentile and greatest of seconds."""
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return {
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "p95": p95,
        "max": ordered[-1],
        "n": len(values),
    }


def small(specs: int, seed: int) -> dict[str, Any]:
    """Seconds a verdict at 700 x 765, and how far engine and source differ."""
    import numpy as np

    from sia_nb.tasks.denoising.engine import Engine

    counts, rng = pbmc(), Random(seed)
    source(FALLBACK, counts)()  # imports, and numba's compilation
    Engine().denoise(counts, FALLBACK)
    times: dict[str, list[float]] = {n: [] for n in ("not shared", "graph shared", "all shared", "compiled source", "metrics")}
    differing = []
    for spec in [FALLBACK, *(SPACE.random(rng) for _ in range(specs - 1))]:
        engine, peer = Engine(), source(spec, counts)
        first = timed(lambda e=engine, s=spec: e.denoise(counts, s))
        times["not shared"].append(first[0])
        fresh = Engine()
        # The last number of steps passes through all smaller ones: ask for another solver's instead.
        other = {"exact": "approximate", "approximate": "exact"}[spec["solver"]]
        fresh.denoise(counts, spec | {"solver": other})
        times["graph shared"].append(timed(lambda e=fresh, s=spec: e.denoise(counts, s))[0])
        times["all shared"].append(timed(lambda e=engine, s=spec: e.denoise(counts, s))[0])
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            seconds, theirs = timed(peer)
        times["compiled source"].append(seconds)
        differing.append(float((~np.isclose(first[1], theirs, rtol=1e-3, atol=1e-6)).mean()))
        times["metrics"].append(timed(lambda y=first[1]: metrics(y, counts))[0])
    engine, spec, walk = Engine(), FALLBACK, []
    for _ in range(100):
        child = SPACE.changed(spec, rng)
        walk.append(timed(lambda s=child: engine.denoise(counts, s))[0])
        spec = child if rng.random() < 0.2 else spec
    return {
        "cells": counts.shape[0],
        "genes": counts.shape[1],
        "seconds": {n: spread(v) for n, v in times.items()},
        "seconds_walk": spread(walk),
        "share_of_values_over_1e-3_from_source": {"mean": statistics.fmean(differing), "max": max(differing)},
    }


def large(shape: str, number: int, seed: int) -> dict[str, Any]:
    """One spec on drawn counts in this process: seconds and peak memory. Number 0 is MAGIC at its defaults."""
    from sia_nb.tasks.denoising.engine import Engine

    cells, genes = map(int, shape.split("x"))
    rng = Random(seed)
    spec = [FALLBACK, *(SPACE.random(rng) for _ in range(number))][number]
    counts = drawn(cells, genes, seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    engine = Engine()
    first, y = timed(lambda: engine.denoise(counts, spec))
    again, _ = timed(lambda: engine.denoise(counts, spec))
    return {
        "spec": spec,
        "share_of_zeros": 1 - counts.nnz / (cells * genes),
        "seconds": first,
        "seconds_all_shared": again,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_bytes_before": before,
        "shape": list(y.shape),
    }


def main() -> None:
    """Run and write results/reference/bench/denoising_verdict.json."""
    import json

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--specs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--large", default="20000x2000", metavar="CELLSxGENES")
    parser.add_argument("--large-specs", type=int, default=3)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # this process answers one large spec and prints it
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(large(arguments.large, arguments.one, arguments.seed)))
        return
    found = small(arguments.specs, arguments.seed)
    print(json.dumps(found, indent=1), flush=True)
    rows = []
    for number in range(arguments.large_specs):
        command = [sys.executable, __file__, "--large", arguments.large, "--seed", str(arguments.seed), "--one", str(number)]
        rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        print(rows[-1], flush=True)
    seconds = found["seconds"]
    write(
        "denoising_verdict",
        what="denoised counts of a spec at 700 x 765, the graph shared with an earlier spec; peers: the compiled magic-impute source",
        unit="seconds a spec",
        ours=seconds["graph shared"]["mean"],
        peers={"compiled source": seconds["compiled source"]["mean"]},
        small=found,
        large={"counts": arguments.large, "specs": rows},
        seed=arguments.seed,
        versions=versions("numpy", "scipy", "scikit-learn", "magic-impute", "graphtools"),
        hardware=hardware(),
        commit=commit(),
        command=f"python benchmarks/denoising_verdict.py --specs {arguments.specs} --seed {arguments.seed}",
    )


if __name__ == "__main__":
    main()
