"""A seccomp filter for the backends that bring none: system calls by which a program could slip past a limit.

The names are few on purpose. Memory that no process maps (memfd, System V shared memory) escapes a limit on
resident memory; tracing, namespaces, keys, bpf and io_uring have no use in a scaffold and a long history of holes.
The filter is classic BPF as ``bwrap --seccomp`` reads it. It may import nothing of the kit.
"""

from __future__ import annotations

import errno
import platform
import struct

# name: (x86_64, aarch64), from the kernel's unistd tables
DENIED = {
    "shmget": (29, 194), "ptrace": (101, 117), "mount": (165, 40), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "unshare": (272, 97), "perf_event_open": (298, 241), "setns": (308, 268),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "memfd_create": (319, 279), "bpf": (321, 280),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "memfd_secret": (447, 447),
}  # fmt: skip
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_*
X32 = 0x40000000  # numbers from here on are x86_64's second table


def program(machine: str | None = None) -> bytes:
    """The filter for this machine's architecture, empty where it is not known; denied calls fail with EPERM."""
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        return b""
    column, audit = ARCHITECTURES[machine]
    numbers = [pair[column] for pair in DENIED.values()]
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    code.append((AT_LEAST, len(numbers) + 1, 0, X32))
    code += [(EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    code += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERRNO | errno.EPERM)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
