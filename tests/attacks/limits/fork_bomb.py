"""2^9 processes if nothing stops it; each leaves a file that tells it lived."""

import os
import time

LIMIT = ("processes", "wall", "seconds")


def attack(t):
    for _ in range(9):
        try:
            os.fork()
        except OSError:
            pass
        open(str(os.getpid()), "w").close()
        time.sleep(0.05)
    time.sleep(60)
