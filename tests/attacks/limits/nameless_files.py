"""Files that have no name any more and yet fill the disk."""

import os
import time

LIMIT = ("output",)


def attack(t):
    held = []
    for _ in range(100):
        f = open("f", "wb")
        os.unlink("f")
        f.write(b"x" * (4 << 20))
        f.flush()
        held.append(f)
        time.sleep(0.02)
