"""What the attacks share; its text stands ahead of each. An attack returns what it got: nothing, or an error, where it is stopped."""

import ctypes
import os
import platform
import sys  # noqa: F401

libc = ctypes.CDLL(None, use_errno=True)
COLUMN = ["x86_64", "aarch64"].index(platform.machine())


def call(numbers, *arguments):
    """A system call by its number on x86_64 and on aarch64; what it returned."""
    fixed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return libc.syscall(ctypes.c_long(numbers[COLUMN]), *fixed)


def longs(*values):
    """An array of unsigned longs."""
    return (ctypes.c_ulong * len(values))(*values)


def done(result):
    """Whether a system call succeeded, with what it returned; 0 counts."""
    return f"returned {result}" if result != -1 else ""


def head(path):
    """The beginning of a file."""
    with open(path, "rb") as file:
        return file.read(4096)


def holds(data, secret):
    """The secret where the data holds it."""
    return secret if secret.encode() in data else ""


def above():
    """This process's parents, as far as they can be known."""
    return sorted({os.getppid(), 1} - {0, os.getpid()})
