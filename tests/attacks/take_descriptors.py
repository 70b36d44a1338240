"""Descriptors of the host: those it left open, and those of its processes."""


def attacks(t):
    fd = call((434, 434), t["host"], 0)
    return {
        "inherited": lambda: holds(os.pread(t["descriptor"], 100, 0), t["secret"]),
        "any inherited": lambda: [n for n in range(3, 256) if n != fd and is_file(n, t["secret"])],
        "/proc/pid/fd": lambda: head(f"/proc/{t['host']}/fd/{t['descriptor']}"),
        "pidfd_getfd": lambda: done(call((438, 438), fd, t["descriptor"], 0)),
        "kcmp": lambda: done(call((312, 272), os.getpid(), t["host"], 1, 0, 0)),
    }


def is_file(fd, secret):
    """Whether a descriptor leads to a file that holds the secret."""
    try:
        return holds(os.pread(fd, 4096, 0), secret)
    except OSError:
        return False
