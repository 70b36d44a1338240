"""Leaves a process behind that belongs to a session of its own and hears no signal."""

import os
import signal
import time

LIMIT = ()


def attack(t):
    if os.fork() == 0:
        os.setsid()
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                continue
        if os.fork() == 0:
            open("lives", "w").close()
            time.sleep(60)
        os._exit(0)
    while not os.path.exists("lives"):
        time.sleep(0.01)
