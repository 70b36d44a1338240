"""A process of a weight update on several devices, but the first: ``python -m sia_nb.training.worker FOLDER``.

It does what the first process says, until that says None or is gone. Started by ``devices.open_team``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from . import devices


def follow(team: devices.Alone, policy: Any) -> None:
    """Take part in all that the first process does."""
    from .learner import Learner, NonFinite, OutOfMemory

    learner: Any = None
    while (job := team.share()) is not None:
        what, *rest = job
        if what == "begin":
            learner = Learner.following(team, policy, *rest)
        elif what == "sample":
            devices.follow_sample(team, policy, *rest)
        else:
            groups, measure = rest
            try:
                learner.update(groups, measure=measure)
            except NonFinite:
                learner.halve_rate()
            except OutOfMemory:
                pass  # the first process stops the update


def main(folder: Path) -> None:
    """Load the policy, say so, join and follow."""
    import torch

    from ..policy.model import load

    parent, rank = os.getppid(), os.environ["RANK"]
    threading.Thread(target=_outlive, args=(parent,), daemon=True).start()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    policy = load(**json.loads((folder / "policy.json").read_text(encoding="utf-8")))
    (folder / f"ready-{rank}").touch()
    follow(devices.Team(devices.join({})), policy)
    devices.part()


def _outlive(parent: int) -> None:
    """End with the process that started this one, which may have been killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
