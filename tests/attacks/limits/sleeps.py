"""Does nothing for ever, with every signal blocked."""

import signal
import time

LIMIT = ("wall", "seconds")


def attack(t):
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    while True:
        time.sleep(60)
