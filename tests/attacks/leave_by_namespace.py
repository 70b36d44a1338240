"""Namespaces and mounts, with which a program could make rights of its own."""


def attacks(t):
    flags = {"user": 0x10000000, "mounts": 0x20000, "network": 0x40000000, "processes": 0x20000000, "names": 0x4000000}

    def child(flag):
        pid = call((56, 220), flag | 17, None, None, None, None)  # clone
        if pid == 0:
            os._exit(0)
        if pid > 0:
            os.waitpid(pid, 0)
        return done(pid)

    def child3(flag):
        arguments = longs(flag, 0, 0, 0, 17, 0, 0, 0)
        pid = call((435, 435), arguments, 64)
        if pid == 0:
            os._exit(0)
        if pid > 0:
            os.waitpid(pid, 0)
        return done(pid)

    found = {f"unshare {what}": lambda f=f: done(libc.unshare(f)) for what, f in flags.items()}
    found |= {f"clone {what}": lambda f=f: child(f) for what, f in flags.items()}
    found |= {f"clone3 {what}": lambda f=f: child3(f) for what, f in flags.items()}
    return found | {
        "setns": lambda: done(libc.setns(os.open(f"/proc/{t['host']}/ns/user", os.O_RDONLY), 0)),
        "setns by process": lambda: done(libc.setns(call((434, 434), t["host"], 0), 0x20000)),
        "mount": lambda: done(libc.mount(b"none", os.getcwd().encode(), b"tmpfs", 0, None)),
        "bind": lambda: done(libc.mount(b"/", os.getcwd().encode(), None, 4096, None)),
        "new mount": lambda: done(call((430, 430), b"tmpfs", 0)), "open tree": lambda: done(call((428, 428), -100, b"/", 1)),
        "chroot": lambda: os.chroot(os.getcwd()) or "done", "pivot": lambda: done(call((155, 41), b".", b".")),
    }  # fmt: skip
