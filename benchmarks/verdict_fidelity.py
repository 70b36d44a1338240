"""Does the loop's verdict rank LawBench specs as the full verdicts do, and how long does it take?

    python benchmarks/verdict_fidelity.py [--data data] [--specs 24] [--seed 0] [--cache DIR] [--out FILE]

Draws specs from the space, scores each as the loop does (``score``, at most counts.QUICK_TEXTS texts a class), in full
(``full``) and by its compiled scikit-learn source (``full(compiled=True)``), and prints Spearman's rank correlation
with both over all specs and over the ten best. Every
second spec is the best of four draws by ``score``, so that good solutions are among them; a draw has a
second or third model one time in three. Then 40 more draws are scored for the time a verdict takes, and
a walk of 40 steps that changes one field at a time, as a search does. About 15 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from random import Random

from sia_nb.store import cores
from sia_nb.tasks.base import Solution
from sia_nb.tasks.lawbench.counts import QUICK_TEXTS
from sia_nb.tasks.lawbench.task import LawBench


def draw(task: LawBench, rng: Random) -> dict:
    """A random spec, its second and third model left out two times in three."""
    spec = task.space.random(rng)
    for view in ("view2", "view3"):
        if rng.random() < 2 / 3:
            spec[view] = "none"
    return spec


def step(task: LawBench, spec: dict, rng: Random) -> dict:
    """``spec`` with one field changed."""
    field = rng.choice(task.space.fields)
    return {**spec, field.name: rng.choice([v for v in field.values if v != spec[field.name]])}


def spearman(a: list[float], b: list[float]) -> float:
    """Rank correlation, ties by their mean rank."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def times(values: list[float]) -> dict[str, float]:
    """Mean, median and 95th percentile, in seconds."""
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return {"mean": statistics.fmean(values), "median": statistics.median(values), "p95": p95, "n": len(values)}


def main() -> None:
    """Run and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SIA_DATA", "data")))
    parser.add_argument("--specs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="keep the compiled sources' verdicts here, so that a second run is quick")
    parser.add_argument("--out", type=Path, default=Path("results/bench/verdict_fidelity.json"))
    arguments = parser.parse_args()
    task, rng = LawBench(), Random(arguments.seed)
    task.fetch(arguments.data)
    solution = lambda spec: Solution("spec", task.space.dump(spec))
    rows, drawn, walked = [], [], []
    with (
        tempfile.TemporaryDirectory() as cache,
        task.verifier(arguments.data, Path(cache)) as verifier,
        task.verifier(arguments.data, arguments.cache or Path(cache)) as compiled,
    ):
        score = lambda spec: verifier.score(solution(spec))
        score(json.loads(task.fallback().text))
        for _ in range(40):
            drawn.append(score(draw(task, rng)).seconds)
        print("seconds a verdict, independent draws:", times(drawn), flush=True)
        spec = draw(task, rng)
        for _ in range(40):
            new = step(task, spec, rng)
            verdict = score(new)
            walked += [] if verdict.cached else [verdict.seconds]
            spec = new if verdict.value >= score(spec).value else spec
        print("seconds a verdict, one field at a time:", times(walked), flush=True)
        for i in range(arguments.specs):
            spec = max((draw(task, rng) for _ in range(4 if i % 2 else 1)), key=lambda s: score(s).value)
            fast, began = score(spec), time.perf_counter()
            full = compiled.full(solution(spec), compiled=True)
            spent, began = time.perf_counter() - began, time.perf_counter()
            precise = verifier.full(solution(spec)).value
            row = {
                "spec": spec,
                "fast": fast.value,
                "full": full.value,
                "full_seconds": spent,
                "precise": precise,
                "precise_seconds": time.perf_counter() - began,
                "reason": full.reason,
            }
            rows.append(row)
            print(
                f"{i + 1:2d} fast {fast.value:.4f} full {precise:.4f} compiled {full.value:.4f} ({spent:.0f} s) {full.reason}",
                flush=True,
            )
    rows.sort(key=lambda r: -r["full"])
    compared = [r for r in rows if not r["reason"]]
    best = sorted(compared, key=lambda r: -r["precise"])[:10]
    result = {
        "name": "verdict_fidelity",
        "what": "LawBench: the loop's verdict (fast) against the compiled source's (full), macro accuracy on dev",
        "texts_a_class": QUICK_TEXTS,
        "unit": "seconds a verdict, independent draws",
        "ours": times(drawn)["mean"],
        "peers": {"compiled source": statistics.fmean(fresh)}
        if (fresh := [r["full_seconds"] for r in rows if r["full_seconds"] > 1])
        else {},
        "spearman": spearman([r["fast"] for r in compared], [r["full"] for r in compared]),
        "spearman_top10": spearman([r["fast"] for r in compared[:10]], [r["full"] for r in compared[:10]]),
        "spearman_precise": spearman([r["fast"] for r in compared], [r["precise"] for r in compared]),
        "spearman_precise_top10": spearman([r["fast"] for r in best], [r["precise"] for r in best]),
        "precise_against_compiled": max(abs(r["precise"] - r["full"]) for r in compared),
        "seconds_precise": statistics.fmean(r["precise_seconds"] for r in rows),
        "compared": len(compared),
        "seconds_drawn": times(drawn),
        "seconds_walked": times(walked),
        "hardware": f"{platform.machine()}, {cores()} cores",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "command": f"python benchmarks/verdict_fidelity.py --specs {arguments.specs} --seed {arguments.seed}",
        "specs": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print({k: v for k, v in result.items() if k != "specs"})


if __name__ == "__main__":
    main()
