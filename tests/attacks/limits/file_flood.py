"""A gigabyte of files."""

import time

LIMIT = ("output",)


def attack(t):
    for i in range(250):
        with open(f"f{i}", "wb") as f:
            f.write(b"x" * (4 << 20))
        time.sleep(0.01)
