"""Memory by parts, each too small to be noticed by itself."""

import os
import time

LIMIT = ("memory",)


def attack(t):
    for _ in range(3):
        if os.fork() == 0:
            x = b"x" * (150 << 20)
            time.sleep(60)
            del x
    time.sleep(60)
