"""Ten gigabytes of memory."""

LIMIT = ("memory",)


def attack(t):
    x = bytearray(10 << 30)
    for i in range(0, len(x), 4096):
        x[i] = 1
