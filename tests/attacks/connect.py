"""Sockets: the host's own servers, by TCP, UDP, a socket file and an abstract name; the cloud's metadata; names."""

import socket as S

S.setdefaulttimeout(2)


def attacks(t):
    def tcp(address, family=S.AF_INET):
        with S.socket(family, S.SOCK_STREAM) as s:
            s.settimeout(1)
            s.connect(address)
            return "connected"

    def udp(address, family=S.AF_INET):
        with S.socket(family, S.SOCK_DGRAM) as s:
            s.settimeout(1)
            s.sendto(b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1", address)
            return s.recv(100)  # whether it came the host knows by itself

    def unix(address, kind=S.SOCK_STREAM):
        with S.socket(S.AF_UNIX, kind) as s:
            s.connect(address)
            return "connected"

    def fast_open():
        with S.socket() as s:
            return s.sendto(b"x", 0x20000000, ("127.0.0.1", t["tcp"]))

    def connected_udp():
        with S.socket(S.AF_INET, S.SOCK_DGRAM) as s:
            s.connect(("127.0.0.1", t["udp"]))
            s.send(b"x")

    def message_udp():
        with S.socket(S.AF_INET, S.SOCK_DGRAM) as s:
            s.sendmsg([b"x"], [], 0, ("127.0.0.1", t["udp"]))

    return {
        "TCP": lambda: tcp(("127.0.0.1", t["tcp"])), "TCP, fast open": fast_open, "TCP 6": lambda: tcp(("::ffff:127.0.0.1", t["tcp"]), S.AF_INET6),
        "UDP": lambda: udp(("127.0.0.1", t["udp"])), "UDP, connected": connected_udp, "UDP, sendmsg": message_udp,
        "socket file": lambda: unix(t["unix"]), "abstract name": lambda: unix("\0" + t["abstract"]),
        "abstract name, datagram": lambda: unix("\0" + t["datagram"], S.SOCK_DGRAM),
        "metadata": lambda: tcp(("169.254.169.254", 80)), "metadata 6": lambda: tcp(("fd00:ec2::254", 80), S.AF_INET6),
        "metadata by UDP": lambda: udp(("169.254.169.254", 53)), "outside": lambda: tcp(("192.0.2.1", 443)),
        "DNS": lambda: udp(("127.0.0.53", 53)), "name": lambda: S.getaddrinfo("example.com", 80),
    }  # fmt: skip
