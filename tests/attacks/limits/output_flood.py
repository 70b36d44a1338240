"""A gigabyte of output."""

import sys

LIMIT = ("output",)


def attack(t):
    for stream in (sys.stdout, sys.stderr) * 500:
        stream.write("x" * (1 << 20))
        stream.flush()
