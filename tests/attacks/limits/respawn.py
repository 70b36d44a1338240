"""A chain in which each process starts its successor and ends, so that none is there long enough to be looked at."""

import os
import time

LIMIT = ("wall", "cpu", "seconds", "processes")


def attack(t):
    if os.fork() == 0:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
        os._exit(0)
    time.sleep(60)
