"""Goes on for ever, catching every signal that can be caught."""

import signal

LIMIT = ("wall", "cpu", "seconds")


def attack(t):
    for number in range(1, 65):
        try:
            signal.signal(number, lambda *_: None)
        except (OSError, ValueError):
            continue
    while True:
        pass
