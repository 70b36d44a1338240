"""As many open files as it can get; it tells how many."""

LIMIT = ()


def attack(t):
    held = []
    try:
        while len(held) < 10_000:
            held.append(open("/dev/null"))
    except OSError:
        pass
    count = len(held)
    held.clear()
    open("handles", "w").write(str(count))
