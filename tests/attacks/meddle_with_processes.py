"""Every call that takes a pid (or all processes of a user) and needs no more than the same user, aimed at the host."""

import signal


def attacks(t):
    host, page = t["host"], t["page"]
    zero, batch = ctypes.c_int(0), (ctypes.c_uint32 * 12)(48, 3)
    fd = call((434, 434), host, 0)
    found = {
        "priority": lambda: libc.setpriority(0, host, 3),
        "priority of a user": lambda: libc.setpriority(2, 0, 0),
        "affinity": lambda: call((203, 122), host, 8, longs(1)),
        "scheduler": lambda: libc.sched_setscheduler(host, 3, ctypes.byref(zero)),
        "scheduling parameter": lambda: libc.sched_setparam(host, ctypes.byref(zero)),
        "scheduling attributes": lambda: call((314, 274), host, batch, 0),
        "disk priority": lambda: call((251, 30), 1, host, (2 << 13) | 7),
        "disk priority of a user": lambda: call((251, 30), 3, os.getuid(), 0),
        "limit": lambda: call((302, 261), host, 4, longs(0, 0), None),
        "limit, read": lambda: call((302, 261), host, 4, None, longs(0, 0)),
        "page out": lambda: call((440, 440), fd, longs(page, 4096), 1, 21, 0),
        "migrate": lambda: call((256, 238), host, 64, longs(1), longs(1)),
        "move": lambda: call((279, 239), host, 1, longs(page), None, (ctypes.c_int * 1)(), 0),
        "signal": lambda: libc.kill(host, 0),
        "signal by descriptor": lambda: call((424, 424), fd, 0, None, 0),
        "signal to a thread": lambda: call((234, 131), host, host, 0),
        "signal to a group": lambda: libc.killpg(os.getpgid(0) if os.getpgid(0) != os.getpid() else host, 0),
        "signal with a value": lambda: call((129, 138), host, 0, ctypes.create_string_buffer(128)),
        "signal to another program": lambda: libc.kill(t["sleeper"], signal.SIGKILL),
        "signal to the warden": lambda: libc.kill(os.getppid(), 0) if os.getppid() > 1 else -1,
        "signal by a socket's owner": lambda: owner(host),
    }
    return {what: lambda way=way: done(way()) for what, way in found.items()}


def owner(host):
    """A signal that the kernel sends for this process when a socket can be read; the host says whether it came."""
    import fcntl
    import socket

    a, b = socket.socketpair()
    fcntl.fcntl(a, 10, signal.SIGURG)  # F_SETSIG
    fcntl.fcntl(a, fcntl.F_SETOWN, host)
    fcntl.fcntl(a, fcntl.F_SETFL, fcntl.fcntl(a, fcntl.F_GETFL) | os.O_ASYNC)
    b.send(b"x")
    return -1
