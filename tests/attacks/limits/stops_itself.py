"""Stops itself and all that it started, so that no signal but SIGKILL is heeded."""

import os
import signal

LIMIT = ("wall", "seconds")


def attack(t):
    if os.fork() == 0:
        os.setsid()
    os.kill(os.getpid(), signal.SIGSTOP)
