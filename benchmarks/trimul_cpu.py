"""How much faster than the eager reference do the kit's own passes on a CPU make TriMul, and what is one C++ call worth?

    python benchmarks/trimul_cpu.py [--rounds 4] [--formats bfloat16x3/bfloat16x3 bfloat16x3/bfloat16x2]

Each round asks the verifier for a full verdict of every program, one after the other, each with a fresh cache, so that what
the machine does meanwhile meets all of them: in a virtual machine the rate of the matrix units changes within minutes. Gives
the speed-up over eager by rounds and the ratio of `passes: whole` to `passes: fused` within a round. Half a minute a verdict.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path

from _common import commit, hardware, versions, write

from sia_nb.tasks.base import Solution
from sia_nb.tasks.trimul.solution import FALLBACK, SPACE
from sia_nb.tasks.trimul.verifier import TriMulVerifier

PASSES = ("fused", "whole")


def verdict(spec: dict) -> tuple[float, dict[str, float]]:
    """The full verdict's speed-up over eager and each case's."""
    with tempfile.TemporaryDirectory() as cache, TriMulVerifier(Path("."), Path(cache), instance="cpu") as verifier:
        found = verifier.full(Solution("spec", SPACE.dump(spec)))
    if not found.valid:
        raise SystemExit(f"{spec}: {found.reason}")
    return found.value, {name: case["speedup"] for name, case in found.details["cases"].items()}


def middle(values: list[float]) -> dict[str, float | list[float]]:
    """Geometric mean, and every round's value."""
    return {"geometric_mean": math.exp(statistics.fmean(map(math.log, values))), "rounds": values}


def main() -> None:
    """Run and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--formats", nargs="+", default=["bfloat16x3/bfloat16x3", "bfloat16x3/bfloat16x2"])
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, dict[str, float]]]] = {}
    for _ in range(arguments.rounds):
        for formats in arguments.formats:
            for passes in PASSES:
                format_, output = formats.split("/")
                spec = {**FALLBACK, "passes": passes, "format": format_, "output_format": output}
                found.setdefault(f"{passes} {formats}", []).append(verdict(spec))
                print(f"{passes} {formats}: {found[f'{passes} {formats}'][-1][0]:.3f}", flush=True)
    speedup = {
        name: {
            **middle([value for value, _ in rounds]),
            "cases": {case: statistics.median(cases[case] for _, cases in rounds) for case in rounds[0][1]},
        }
        for name, rounds in found.items()
    }
    ratio = {
        formats: middle([a / b for (a, _), (b, _) in zip(found[f"whole {formats}"], found[f"fused {formats}"], strict=True)])
        for formats in arguments.formats
    }
    write(
        "trimul_cpu",
        what="speed-up over the eager reference by the verifier's full verdict, geometric mean over the seven benchmark shapes",
        unit="times eager",
        speedup=speedup,
        whole_over_fused=ratio,
        hardware=hardware(),
        versions=versions("torch"),
        commit=commit(),
        command="python benchmarks/trimul_cpu.py",
    )


if __name__ == "__main__":
    main()
