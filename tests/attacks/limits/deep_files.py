"""Files so deep down that their path is longer than any that the kernel takes, where a look from above does not reach."""

import os
import time

LIMIT = ("output",)


def attack(t):
    for _ in range(40):
        name = "d" * 200
        os.mkdir(name)
        os.chdir(name)
    for i in range(60):
        with open(f"f{i}", "wb") as f:
            f.write(b"x" * (1 << 20))
        time.sleep(0.02)
    time.sleep(20)
