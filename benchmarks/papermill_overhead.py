"""What papermill adds to each step beside calling the phase directly, each in a fresh process.

A tiny run executes its first generation and its decision twice: by the notebooks 02 and 03 as the loop runs them, and
by the same two phases called from a plain script.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import ROOT, commit, hardware, versions, write

from sia_nb import notebooks
from sia_nb.config import make_config
from sia_nb.store import Run

ROUNDS = 1
DIRECT = (
    "import sys; from pathlib import Path; from sia_nb import phases; from sia_nb.store import Run; r = Run(Path(sys.argv[1])); "
)
PHASES = {"02_run_generation": "phases.run_generation(r, 1)", "03_feedback_decision": "phases.feedback_decision(r, 1)"}


def main() -> None:
    direct, paper = dict.fromkeys(PHASES, 0.0), dict.fromkeys(PHASES, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for n in range(ROUNDS):
            runs = [
                Run.create(make_config("smoke", tokens=200, verifier_calls=2), Path(folder) / f"{n}-{k}")
                for k in ("direct", "papermill")
            ]
            for name, call in PHASES.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, "-c", DIRECT + call, str(runs[0].path)], check=True, cwd=ROOT)
                direct[name] += (time.perf_counter() - start) / ROUNDS
                start = time.perf_counter()
                notebooks.execute(
                    name, {"run_dir": str(runs[1].path), "step": 1}, runs[1].step(1) / "notebooks" / f"{name}.ipynb"
                )
                paper[name] += (time.perf_counter() - start) / ROUNDS
    for name in PHASES:
        print(f"{name}: papermill {paper[name]:.2f} s, direct {direct[name]:.2f} s, added {paper[name] - direct[name]:.2f} s")
    ours, peer = sum(paper.values()), sum(direct.values())
    write(
        "papermill_overhead",
        what=f"one step (notebooks 02 and 03) by papermill beside its two phases called from a script; mean of {ROUNDS}",
        unit="s",
        ours=round(ours, 3),
        peers={"phases called directly": round(peer, 3)},
        ratio=round(ours / peer, 3),
        added_per_step=round(ours - peer, 3),
        hardware=hardware(),
        versions=versions("papermill", "ipykernel"),
        commit=commit(),
        command="python benchmarks/papermill_overhead.py",
    )


if __name__ == "__main__":
    main()
