"""Memory and queues that processes of one user share by name or number."""


def attacks(t):
    def attach():
        libc.shmat.restype = ctypes.c_void_p
        at = libc.shmat(t["segment"], None, 0)
        return ctypes.string_at(at, 64) if at not in (None, ctypes.c_void_p(-1).value) else ""

    def receive():
        buffer = ctypes.create_string_buffer(264)
        return libc.msgrcv(t["queue"], buffer, 256, 0, 0o4000) != -1 and buffer.raw[8:72]

    def write_message():
        return done(libc.msgsnd(t["queue"], ctypes.create_string_buffer(b"\1\0\0\0\0\0\0\0forged"), 6, 0o4000))

    return {
        "/dev/shm": lambda: head("/dev/shm/" + t["shm"]), "segment": attach, "segment, removed": lambda: done(libc.shmctl(t["segment"], 0, None)),
        "new segment": lambda: done(libc.shmget(0, 4096, 0o1600)), "queue": receive, "queue, written": write_message,
        "queue, removed": lambda: done(libc.msgctl(t["queue"], 0, None)), "new queue": lambda: done(libc.msgget(0, 0o1600)),
        "new semaphore": lambda: done(libc.semget(0, 1, 0o1600)), "memfd": lambda: os.memfd_create("x"),
        "secret memory": lambda: done(call((447, 447), 0)), "POSIX queue": lambda: done(call((240, 180), b"sia-attack", 0o102, 0o600, None)),
        "listing of segments": lambda: str(t["segment"]) in open("/proc/sysvipc/shm").read(),
    }  # fmt: skip
