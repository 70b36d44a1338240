"""A process of a team that runs out of memory above 600 tokens, and ends where a step has two groups."""

import os
import sys
from pathlib import Path

from sia_nb.training import devices, forward, worker

real_step, real_sample = forward.step, devices.follow_sample


def step(*args, token_budget, **kwargs):
    if token_budget > 600:
        raise MemoryError
    return real_step(*args, token_budget=token_budget, **kwargs)


def sample(team, policy, asks):
    if len(asks) == 2:
        print("the end", flush=True)
        os._exit(7)
    return real_sample(team, policy, asks)


forward.step, devices.follow_sample = step, sample
worker.main(Path(sys.argv[1]))
