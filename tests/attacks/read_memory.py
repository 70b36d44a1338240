"""The memory of the host, where a secret lies at an address that is told."""


def attacks(t):
    own = ctypes.create_string_buffer(64)
    here, there = longs(ctypes.addressof(own), 32), longs(t["page"], 32)

    def by_file(pid):
        with open(f"/proc/{pid}/mem", "rb", 0) as memory:
            memory.seek(t["page"])
            return memory.read(32)

    def by_writing(pid):
        with open(f"/proc/{pid}/mem", "r+b", 0) as memory:
            memory.seek(t["page"])
            return memory.write(b"overwritten")

    found = {}
    for pid in (t["host"], *above()):
        who = "the host" if pid == t["host"] else f"process {pid}" if pid == 1 else "the parent"
        where = there if pid == t["host"] else here
        found |= {
            f"process_vm_readv, {who}": lambda p=pid, w=where: done(call((310, 270), p, here, 1, w, 1, 0)),
            f"process_vm_writev, {who}": lambda p=pid, w=where: done(call((311, 271), p, here, 1, w, 1, 0)),
            f"attach, {who}": lambda p=pid: done(libc.ptrace(16, p, 0, 0)),
            f"seize, {who}": lambda p=pid: done(libc.ptrace(0x4206, p, 0, 0)),
        }
    found |= {
        "/proc/pid/mem": lambda: by_file(t["host"]), "/proc/pid/mem, writing": lambda: by_writing(t["host"]),
        "parent's /proc/pid/mem": lambda: by_file(os.getppid()),
    }  # fmt: skip
    return found
