"""A short run of the loop by its phases, watched: which files this process opens before the report, and which at it.

    python tests/sealed_loop.py TASK RUN_FOLDER        prints one JSON line

``SIA_DATA`` names the data. The interpreter's own audit hook sees every open of the process, by whatever way; programs in
the sandbox are other processes, and cannot read the sealed folder: ``test_attacks``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

INSTANCES = {"lawbench": "mixed-10x10", "denoising": "pbmc-80"}  # small ones
PHASE = ["import"]
OPENED: dict[str, list[str]] = {}
REACHED: list[str] = []


def watch(event: str, arguments: tuple) -> None:
    """Note what is opened below a folder called sealed, and every connection."""
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.fsdecode(arguments[0])
        if f"{os.sep}sealed{os.sep}" in path and "peers" not in path:
            OPENED.setdefault(PHASE[0], []).append(path)
    elif event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.sendmsg", "socket.gethostbyname"):
        REACHED.append(f"{PHASE[0]}: {event} {arguments[1:]}")


def main(task: str, folder: Path) -> None:
    """Two steps and the report, twice."""
    sys.addaudithook(watch)
    from sia_nb import phases
    from sia_nb.config import make_config
    from sia_nb.store import Run

    config = make_config("smoke", task=task, instance=INSTANCES[task], steps=2, verifier_calls=2, tokens=400)
    run = Run.create(config, folder)
    PHASE[0] = "loop"
    phases.init_scaffold(run)
    phases.run_generation(run, 1)
    phases.feedback_decision(run, 1)
    phases.run_generation(run, 2)
    before = {str(p.relative_to(folder)): p.read_bytes().hex() for p in sorted(folder.rglob("*")) if p.is_file()}
    PHASE[0] = "report"
    report = phases.report(run)
    PHASE[0] = "second report"
    again = phases.report(run)
    print(json.dumps({"opened": OPENED, "reached": REACHED, "before": before, "report": report, "same": again == report}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
