"""Seccomp filters: system calls by which a program could slip past a limit or reach processes outside its sandbox.

The names are few on purpose. Memory that no process maps (memfd, System V shared memory, queues) escapes a limit on
resident memory; tracing, namespaces, keys, bpf and io_uring have no use in a scaffold and a long history of holes.
Priority, affinity, scheduling and resource limits of any process of the same user can be set by its pid, which
Landlock does not stop: only the caller's own, named by 0, may be, since a filter can compare with constants alone.
So a program cannot pin threads that it starts: with ``OMP_PROC_BIND`` set, OpenMP fails to start a second one.
Sockets are of AF_UNIX only, and a file's rights, owner and times stay as they are where a path alone would do to change
them. The filter is classic BPF as ``bwrap --seccomp`` and prctl(2) read it. It may import nothing of the kit.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable

# name: (x86_64, aarch64), from the kernel's unistd tables
DENIED = {
    "shmget": (29, 194), "ptrace": (101, 117), "mount": (165, 40), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "unshare": (272, 97), "perf_event_open": (298, 241), "setns": (308, 268),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "memfd_create": (319, 279), "bpf": (321, 280),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "memfd_secret": (447, 447), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "kcmp": (312, 272), "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "syslog": (103, 116), "fanotify_init": (300, 262),
}  # fmt: skip
FOR_A_GPU = {"memfd_create"}  # of them: CUDA's driver does not start without
# what changes a file's rights, owner, times or attributes: Landlock lets a program do that to every file it can name
METADATA = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "setxattrat": (463, 463),
    "removexattrat": (466, 466), "file_setattr": (469, 469),
}  # fmt: skip
# the same, then the arguments that name whose, or of a socket its family: {index: the only value that is let through}
OWN_ONLY = {
    "setpriority": (141, 140, {0: 0, 1: 0}), "ioprio_set": (251, 30, {0: 1, 1: 0}),  # PRIO_PROCESS, IOPRIO_WHO_PROCESS
    "sched_setparam": (142, 118, {0: 0}), "sched_setscheduler": (144, 119, {0: 0}), "sched_setattr": (314, 274, {0: 0}),
    "sched_setaffinity": (203, 122, {0: 0}), "prlimit64": (302, 261, {0: 0}),
    "socket": (41, 198, {0: 1}),  # AF_UNIX; TCP's fast open, for one, connects past Landlock
}  # fmt: skip
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_*
X32 = 0x40000000  # numbers from here on are x86_64's second table


def program(machine: str | None = None, denied: Iterable[str] = tuple(DENIED)) -> bytes:
    """The filter for this machine's architecture, empty where it is not known; refused calls fail with EPERM.

    It refuses the calls ``denied``, of ``DENIED`` and ``METADATA``, and those of ``OWN_ONLY`` that are aimed at anything but the caller itself.
    """
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        return b""
    column, audit = ARCHITECTURES[machine]
    refuse = (RETURN, 0, 0, ERRNO | errno.EPERM)
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0), (AT_LEAST, 0, 1, X32), refuse]
    numbers = [(DENIED | METADATA)[name][column] for name in denied]
    code += [step for number in numbers if number is not None for step in ((EQUAL, 0, 1, number), refuse)]
    for *numbers, own in OWN_ONLY.values():
        # the low halves alone: the kernel reads these arguments as 32-bit integers
        checks = [step for i, value in own.items() for step in ((LOAD, 0, 0, 16 + 8 * i), (EQUAL, 1, 0, value), refuse)]
        code += [(EQUAL, 0, len(checks) + 1, numbers[column]), *checks, (RETURN, 0, 0, ALLOW)]
    code.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
