"""Files in a folder that it has closed to everybody; it keeps a descriptor of it."""

import os
import time

LIMIT = ("output",)


def attack(t):
    os.mkdir("closed")
    at = os.open("closed", os.O_RDONLY | os.O_DIRECTORY)
    held = [os.open(f"f{i}", os.O_WRONLY | os.O_CREAT, dir_fd=at) for i in range(30)]
    try:
        os.chmod("closed", 0)
    except OSError:
        pass
    for fd in held:
        os.write(fd, b"x" * (1 << 20))
        time.sleep(0.02)
    time.sleep(20)
