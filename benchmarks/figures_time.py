"""Seconds of ``make figures``: everything redrawn from results/reference in a fresh interpreter, and where they go.

    python benchmarks/figures_time.py

Wall time of the command, as a user has it (two processes on two cores), and once in one process, figure by figure. Only
the committed runs are drawn: results/runs is hidden by a folder that holds a link to results/reference and nothing else.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import ROOT, commit, hardware, versions, write

RUNS = 3
TARGET = 15.0
ONE_PROCESS = """
import json, sys, time
start = time.perf_counter()
from sia_nb.view.everything import draw
took = {"imports": time.perf_counter() - start}
draw(echo=lambda line: None, clock=lambda name, seconds: took.update({name: seconds}))
took["all"] = time.perf_counter() - start
took["processor"] = time.process_time()
print(json.dumps(took))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "reference").symlink_to(ROOT / "results" / "reference")
        env = os.environ | {"SIA_RESULTS": folder, "PYTHONPATH": str(ROOT)}
        walls = []
        for _ in range(RUNS):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "sia_nb", "figures"], check=True, env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
            walls.append(time.perf_counter() - start)
        drawn = len(list((Path(folder) / "figures").glob("*.svg")))
        told = subprocess.run([sys.executable, "-c", ONE_PROCESS], check=True, env=env, cwd=ROOT, capture_output=True, text=True)
    parts = {name: round(seconds, 2) for name, seconds in json.loads(told.stdout).items()}
    wall, load = statistics.median(walls), os.getloadavg()[0]
    print(
        f"make figures: {wall:.1f} s for {drawn} figures; in one process {parts['all']} s ({parts['processor']} s of the processor)"
    )
    for name, seconds in sorted(parts.items(), key=lambda part: -part[1]):
        print(f"{seconds:7.2f}  {name}")
    write(
        "figures_time",
        what=f"python -m sia_nb figures from results/reference: {drawn} figures as SVG, PDF, PNG and CSV, and the tables; median of {RUNS}",
        unit="s",
        ours=round(wall, 2),
        peers={"asked for at most": TARGET},
        ratio=round(wall / TARGET, 3),
        parts=parts,
        load_average=round(load, 1),
        hardware=hardware(),
        versions=versions("matplotlib", "numpy"),
        commit=commit(),
        command="python benchmarks/figures_time.py",
    )


if __name__ == "__main__":
    main()
