"""Sockets of kinds that no program here needs: raw packets, the kernel's own, virtual machines', a port to be found at."""

import socket as S


def attacks(t):
    def listens():
        with S.create_server(("127.0.0.1", 0)) as s:
            return os.readlink("/proc/self/ns/net") == t["network"] and s.getsockname()

    def tells():
        with S.socket(S.AF_NETLINK, S.SOCK_RAW, 0) as s:
            s.bind((0, 0))
            return s.send(b"\x14\0\0\0\x12\0\1\3\1\0\0\0\0\0\0\0\0\0\0\0") and holds(s.recv(65536), "eth0")

    return {
        "packets": lambda: S.socket(17, S.SOCK_RAW, 768), "raw": lambda: S.socket(S.AF_INET, S.SOCK_RAW, 1), "ping": lambda: S.socket(2, 2, 1).sendto(b"\x08\0\xf7\xff\0\0\0\0", ("127.0.0.1", 0)),
        "virtual machine": lambda: S.socket(40, 1).connect((2, 1)) or "connected", "bluetooth": lambda: S.socket(31, 3, 1),
        "crypto": lambda: S.socket(38, 5), "listening": listens, "interfaces": tells,
    }  # fmt: skip
