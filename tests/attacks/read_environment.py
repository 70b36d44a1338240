"""A key that stands in the host's environment: in this process's own, or in what /proc tells of it and of others."""


def attacks(t):
    def of_all():
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if holds(open(f"/proc/{pid}/environ", "rb").read(), t["secret"]):
                    return pid
            except OSError:
                continue

    def of_c():
        environ = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
        at, found = 0, b""
        while environ[at]:
            found += environ[at]
            at += 1
        return holds(found, t["secret"])

    return {
        "os.environ": lambda: holds(repr(dict(os.environ)).encode(), t["secret"]),
        "the C library's": of_c,
        "/proc/self": lambda: holds(open("/proc/self/environ", "rb").read(), t["secret"]),
        "/proc/*": of_all,
    }
