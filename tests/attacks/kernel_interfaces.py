"""Parts of the kernel with a long history of holes, or that set the whole machine."""

import time


def attacks(t):
    buffer = ctypes.create_string_buffer(256)
    return {
        "io_uring": lambda: done(call((425, 425), 4, buffer)), "bpf": lambda: done(call((321, 280), 0, buffer, 64)),
        "userfaultfd": lambda: done(call((323, 282), 1)), "perf": lambda: done(call((298, 241), buffer, 0, -1, -1, 0)),
        "keys": lambda: done(call((248, 217), b"user", b"x", b"y", 1, -2)), "keyring": lambda: done(call((250, 219), 0, -3, 1)),
        "modules": lambda: done(call((175, 105), buffer, 4, b"")), "kexec": lambda: done(call((246, 104), 0, 0, None, 0)),
        "clock": lambda: done(call((227, 112), 0, longs(int(time.time()), 0))), "host name": lambda: done(libc.sethostname(os.uname().nodename.encode(), len(os.uname().nodename))),
        "swap": lambda: done(call((167, 224), b"/nowhere", 0)) , "accounting": lambda: done(libc.acct(b"/nowhere/x")),
        "kernel log": lambda: done(call((103, 116), 3, buffer, 255)), "/dev/kmsg": lambda: open("/dev/kmsg", "rb", 0).read(10),
        "/dev/mem": lambda: head("/dev/mem"), "/proc/kcore": lambda: head("/proc/kcore"), "disk": lambda: head("/dev/vda"),
        "device of its own": lambda: (os.mknod("disk", 0o60600, os.makedev(254, 0)), head("disk")), "sysrq": lambda: open("/proc/sysrq-trigger", "w"),
        "kernel setting": lambda: rewritten("/proc/sys/kernel/core_pattern"), "interrupts": lambda: rewritten("/proc/irq/default_smp_affinity"), "cgroup": lambda: os.mkdir("/sys/fs/cgroup/sia-attack") or "made",
        "fanotify": lambda: done(call((300, 262), 0, 0)), "memory setting": lambda: rewritten("/proc/sys/vm/swappiness"), "device setting": lambda: rewritten("/sys/kernel/mm/transparent_hugepage/enabled"),
        "terminal": terminal,
    }  # fmt: skip


def rewritten(path):
    """A setting of the whole machine, set to what it is."""
    with open(path, "rb", 0) as file:
        value = file.read()
    with open(path, "wb", 0) as file:
        return file.write(value)


def terminal():
    """Keys pushed into the user's terminal."""
    import fcntl
    import termios

    fd = os.open("/dev/tty", os.O_RDWR)
    fcntl.ioctl(fd, termios.TIOCSTI, b"x")
    return "typed"
