"""What papermill adds to each step beside calling the phase directly, in seconds and in CPU seconds.

A tiny run executes its first generation and its decision twice: by the notebooks 02 and 03 as the loop runs them, forked from
one process that has their imports behind it, and by the same two phases called from a script that has imported the same
before its clock starts. What that process takes to start is told apart, since a run pays it once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from _common import ROOT, commit, hardware, versions, write

from sia_nb import loop, notebooks
from sia_nb.config import make_config
from sia_nb.store import Run

PHASES = {"02_run_generation": "run_generation", "03_feedback_decision": "feedback_decision"}
DIRECT = """
import importlib, json, os, sys, time
from pathlib import Path
for name in json.loads(sys.argv[3]):
    importlib.import_module(name)
from sia_nb import phases, store
start, before = time.perf_counter(), sum(os.times()[:4])
getattr(phases, sys.argv[2])(store.Run(Path(sys.argv[1])), 1)
print(json.dumps([time.perf_counter() - start, sum(os.times()[:4]) - before]))
"""


def cpu() -> float:
    """CPU seconds of this process's children and of all below them that have ended."""
    return sum(sum(child.cpu_times()[:4]) for child in psutil.Process().children())


def main() -> None:
    direct, paper = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        config = make_config("smoke", tokens=200, verifier_calls=2)
        ours, plain, first = (Run.create(config, Path(folder) / name) for name in ("papermill", "direct", "first"))
        imports = loop.notebook_imports(config)
        with notebooks.NotebookProcess(imports) as process:
            start = time.perf_counter()
            notebooks.execute("01_init_scaffold", {"run_dir": str(first.path)}, Path(folder) / "01.ipynb", process=process)
            start_up = [time.perf_counter() - start, cpu()]
            for name, phase in PHASES.items():
                argv = [sys.executable, "-c", DIRECT, str(plain.path), phase, json.dumps(imports)]
                direct[name] = json.loads(subprocess.run(argv, check=True, cwd=ROOT, stdout=subprocess.PIPE).stdout)
                start, before = time.perf_counter(), cpu()
                notebooks.execute(name, {"run_dir": str(ours.path), "step": 1}, Path(folder) / f"{name}.ipynb", process=process)
                paper[name] = [time.perf_counter() - start, cpu() - before]
    for name in PHASES:
        for unit, a, b in zip(("s", "CPU s"), paper[name], direct[name], strict=True):
            print(f"{name}: papermill {a:.2f} {unit}, direct {b:.2f} {unit}, added {a - b:.2f} {unit}")
    print(f"start of the process and notebook 01: {start_up[0]:.2f} s, {start_up[1]:.2f} CPU s")
    (wall, work), (wall_direct, work_direct) = (map(sum, zip(*side.values(), strict=True)) for side in (paper, direct))
    write(
        "papermill_overhead",
        what="one step (notebooks 02 and 03) by papermill beside its two phases called from a script, imports done in both",
        unit="s",
        ours=round(wall, 3),
        peers={"phases called directly": round(wall_direct, 3)},
        ratio=round(wall / wall_direct, 3),
        added_per_step=round(wall - wall_direct, 3),
        added_cpu_per_step=round(work - work_direct, 3),
        start_up={"seconds": round(start_up[0], 3), "cpu_seconds": round(start_up[1], 3)},
        hardware=hardware(),
        versions=versions("papermill", "ipykernel"),
        commit=commit(),
        command="python benchmarks/papermill_overhead.py",
    )


if __name__ == "__main__":
    main()
