"""A million files without content, which fill no block and yet use a disk up."""

LIMIT = ("output", "seconds", "wall")


def attack(t):
    for i in range(1_000_000):
        open(str(i), "w").close()
