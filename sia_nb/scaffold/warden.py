"""The warden: a small process between the host and a sandboxed program. Standard library (and sandlock) only.

It is started as a plain file by ``sandbox.launch``, starts the program in the chosen backend, watches the whole
tree (wall and CPU time, memory, number of processes, captured output, files written) and takes the tree with it
when the host says so, when the host dies, or when the program ends. Being a process of its own it keeps watch
while the host is busy, and being its tree's subreaper on Linux it loses no orphan.

It may import nothing of the kit.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable

LINUX = sys.platform.startswith("linux")
MIB = 1 << 20
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGESIZE")
ENTRY = 4096  # bytes that a file or folder counts at least: one without content uses a disk up, too
FAST, SLOW = 0.025, 0.1  # seconds between looks at a busy and at an idle tree


# --- the tree -----------------------------------------------------------------------------------------------------
def descendants(root: int) -> list[int]:
    """Pids of everything below ``root``, parents first; zombies included."""
    if not LINUX:
        import psutil

        try:
            return [p.pid for p in psutil.Process(root).children(recursive=True)]
        except psutil.Error:
            return []
    found, queue = [], [root]
    while queue:
        queue.extend(new := children(queue.pop()))
        found.extend(new)
    return found


def children(pid: int) -> list[int]:
    """Pids of the children of ``pid`` on Linux; none elsewhere."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as f:
                found.extend(map(int, f.read().split()))
    except OSError:
        pass
    return found


def usage(pid: int) -> tuple[int, float, int] | None:
    """(resident bytes, CPU seconds including reaped children, threads) of a live process, None for a zombie or nothing."""
    if not LINUX:
        import psutil

        try:
            p = psutil.Process(pid)
            t = p.cpu_times()
            return (p.memory_info().rss, t.user + t.system, p.num_threads()) if p.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return int(fields[21]) * PAGE, sum(map(int, fields[11:15])) / TICK, int(fields[17])


def proportional(pid: int) -> int:
    """Resident bytes with shared pages divided among their users (PSS); 0 where it cannot be read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            for line in f:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def kill_tree(root: int, patience: float = 5.0) -> None:
    """SIGKILL everything below ``root`` until nothing is left.

    From the top down, since killing a namespace's first process ends all of it at once, and by process group, which
    the kernel does in one go, so that nothing can fork its way out.
    """
    end = time.monotonic() + patience
    first = True
    while first or time.monotonic() < end:
        if first and _program:
            for pid in [_program, *children(_program)]:
                _kill(os.kill, pid)
        first = False
        alive = [p for p in descendants(root) if usage(p) is not None]
        if not alive:
            return
        groups = {g for p in alive if (g := _group(p)) not in (None, os.getpgid(0), os.getpgid(root))}
        for group in groups:
            _kill(os.killpg, group)
        for pid in alive:
            _kill(os.kill, pid)
        _reap()
        time.sleep(0.002)


def _kill(how: Callable[[int, int], None], pid: int) -> None:
    try:
        how(pid, signal.SIGKILL)
    except OSError:
        pass


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _reap() -> None:
    """Collect orphans that were handed to this process, but not the program itself."""
    for pid in descendants(os.getpid()):
        if pid != _program and usage(pid) is None:
            try:
                os.waitpid(pid, os.WNOHANG)
            except OSError:
                pass


_program = 0


# --- starting -----------------------------------------------------------------------------------------------------
BOOT = """\
import array, os, socket, sys
s = socket.socket(fileno=os.dup(0))
data, extra, _, _ = s.recvmsg(4096, socket.CMSG_SPACE(64 * 4))
got = array.array("i")
for level, kind, raw in extra:
    if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
        got.frombytes(raw[: len(raw) - len(raw) % 4])
want = [int(n) for n in data.split()]
base = max(want + list(got) + [s.fileno()]) + 1
high = [__import__("fcntl").fcntl(fd, __import__("fcntl").F_DUPFD, base) for fd in got]
os.closerange(3, base)
for fd, number in zip(high, want):
    os.dup2(fd, number, inheritable=True)
os.closerange(base, base + len(high) + 1)
os.execve(sys.argv[1], sys.argv[1:], os.environ)
"""


def limit_self(limits: dict) -> None:
    """Limits that the program inherits; the warden stays far below them."""
    size = limits["file_mb"] * MIB
    for name, value in (("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", size), ("RLIMIT_NOFILE", 256)):
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    if LINUX:
        try:
            with open("/proc/self/oom_score_adj", "w") as f:
                f.write("900")
        except OSError:
            pass


def restrict_self(rules: bytes) -> None:
    """Put a seccomp filter on this thread and all that it starts; on sandlock's supervisor too, which must do without.

    What root starts also goes without root's capabilities, which sandlock leaves to it: with them it could set the clock.

    Raises:
        OSError: the kernel did not take it.
    """
    import ctypes

    class Program(ctypes.Structure):  # struct sock_fprog
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(rules) // 8, rules)
    # PR_SET_NO_NEW_PRIVS, without which only root may; PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel did not take the system call filter")
    for capability in range(64) if os.geteuid() == 0 else ():
        if libc.prctl(23, capability, 0, 0, 0) == 1 and libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_READ, _DROP
            raise OSError(ctypes.get_errno(), "the capabilities of root could not be dropped")


def start_command(command: list[str], job: dict) -> tuple[int, Callable[[], int]]:
    """Fork and exec ``command``; returns its pid and a function that waits for its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            keep = {0, 1, 2, *job["fds"], *job["own_fds"]}
            for fd in os.listdir("/dev/fd"):
                if int(fd) not in keep:
                    try:
                        os.set_inheritable(int(fd), False)
                    except OSError:
                        pass
            cpu = job["limits"]["cpu_seconds"]
            if cpu < 1e9:
                resource.setrlimit(resource.RLIMIT_CPU, (int(cpu) + 2, int(cpu) + 2))
            os.setsid()
            os.chdir(job["cwd"])
            os.execve(command[0], command, job["env"])
        except BaseException as error:
            os.write(2, f"sandbox: cannot start {command[0]}: {error}\n".encode())
        os._exit(126)

    def wait() -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return pid, wait


def start_sandlock(job: dict) -> tuple[int, Callable[[], int]]:
    """Start under sandlock, which closes every descriptor above 2: others travel over a socket on descriptor 0."""
    restrict_self(bytes.fromhex(job["filter"]))
    sys.path.append(job["sandlock"])
    import sandlock

    argv, limits = job["argv"], job["limits"]
    mode, left = sandlock.StdioMode, None
    if job["fds"]:
        left, right = socket.socketpair()
        numbers = [0, *job["fds"]]
        socket.send_fds(left, [" ".join(map(str, numbers)).encode()], numbers)
        os.dup2(right.fileno(), 0)
        right.close()
        argv = [sys.executable, "-I", "-S", "-c", BOOT, *argv]
    box = sandlock.Sandbox(
        fs_readable=job["read"],
        fs_writable=job["write"],
        fs_denied=job["hidden"],
        cwd=job["cwd"],
        clean_env=True,
        env={**job["env"]},
        max_processes=limits["processes"],
        gpu_devices=[] if job["devices"] else None,
        extra_deny_syscalls=job["deny"],
    )
    process = box.popen(argv, stdin=mode.INHERIT, stdout=mode.INHERIT, stderr=mode.INHERIT)
    if left is not None:
        left.close()

    def wait() -> int:
        result = process.wait()
        return -result.signal if result.signal and result.signal > 0 else result.exit_code

    return process.pid, wait


def _unlinked(pids: list[int]) -> dict[tuple[int, int], int]:
    """(device, inode) → bytes on disk of each nameless regular file that one of ``pids`` has open."""
    found = {}
    for pid in pids if LINUX else ():
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                s = os.stat(f"/proc/{pid}/fd/{fd}")
                if s.st_nlink == 0 and stat.S_ISREG(s.st_mode):
                    found[s.st_dev, s.st_ino] = s.st_blocks * 512
        except OSError:
            continue
    return found


def _size(entry: os.DirEntry) -> int:
    """Bytes on disk of a file or folder, 0 where it is gone meanwhile."""
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except OSError:
        return 0


# --- watching -----------------------------------------------------------------------------------------------------
class Watch:
    """Compares a tree's use with its limits."""

    def __init__(self, job: dict):
        self.limits, self.overhead = job["limits"], job["overhead"]
        self.start = time.monotonic()
        self.outputs = [fd for fd in (1, 2) if stat.S_ISREG(os.fstat(fd).st_mode)]
        self.before = self._output()
        self.folders = job["watch"]
        self.hidden = ""
        self.files = self._files(sys.maxsize)
        self.next_files = 0.0
        self.cpu = 0.0
        self.busy = True

    def _output(self) -> int:
        sizes = {(s := os.fstat(fd)).st_ino: s.st_size for fd in self.outputs}
        return sum(sizes.values())

    def _files(self, most: int) -> int:
        """Bytes on disk in the writable folders, and in files without a name that the tree still holds open.

        Counting stops above ``most``. ``hidden`` tells of a folder that cannot be looked into.
        """
        total, stack = 0, list(self.folders)
        while stack and total <= most:
            try:
                with os.scandir(stack.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            stack.append(entry.path)
                        total += max(_size(entry), ENTRY)
                        if total > most:
                            break
            except FileNotFoundError:
                continue
            except OSError as error:
                self.hidden = f"output: a folder that cannot be looked into: {os.strerror(error.errno or 0)}"
        return total + sum(_unlinked(descendants(os.getpid())).values())

    def exceeded(self) -> str:
        """ "" or ``what: detail`` for the first limit that is passed."""
        limits, now = self.limits, time.monotonic()
        if now - self.start > limits["wall_seconds"]:
            return f"wall: more than {limits['wall_seconds']:g} s"
        pids = descendants(os.getpid())
        live = {pid: u for pid in pids if (u := usage(pid)) is not None}
        if len(live) - self.overhead > limits["processes"]:
            return f"processes: more than {limits['processes']}"
        if sum(u[2] for u in live.values()) > limits["threads"]:
            return f"processes: more than {limits['threads']} threads"
        memory = sum(u[0] for u in live.values())
        if memory > limits["memory_mb"] * MIB:
            shared = sum(proportional(pid) for pid in live)
            if not LINUX or not shared or shared > limits["memory_mb"] * MIB:
                return f"memory: more than {limits['memory_mb']} MB"
        cpu = sum(u[1] for u in live.values())
        self.busy, self.cpu = cpu != self.cpu, cpu
        if cpu > limits["cpu_seconds"]:
            return f"cpu: more than {limits['cpu_seconds']:g} s"
        if now > self.next_files:
            passed = self.written()
            self.next_files = now + max(0.05, 20 * (time.monotonic() - now))
            return passed
        return ""

    def written(self) -> str:
        """What ``exceeded`` says of output and files alone."""
        limits = self.limits
        if self._output() - self.before > limits["output_mb"] * MIB:
            return f"output: more than {limits['output_mb']} MB"
        most = self.files + limits["file_mb"] * MIB
        if self._files(most) > most:
            return f"output: more than {limits['file_mb']} MB of files"
        return self.hidden


def main() -> int:
    """Read the job from the control socket (descriptor in argv), run it, report on the same socket."""
    global _program
    control = socket.socket(fileno=int(sys.argv[1]))
    parent = int(sys.argv[2])
    job = json.loads(control.makefile("r").readline())
    if LINUX:
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER

    def say(**message) -> None:
        try:
            control.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass

    limit_self(job["limits"])
    watch = Watch(job)
    try:
        if job["backend"] == "sandlock":
            _program, wait = start_sandlock(job)
        else:
            _program, wait = start_command(job["command"], job)
    except BaseException as error:
        say(failed=f"{type(error).__name__}: {error}")
        return 1
    say(started=_program)
    for fd in (*job["fds"], *job["own_fds"]):
        os.close(fd)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)

    status: list[int] = []
    ended_r, ended_w = os.pipe()

    def waiter() -> None:
        try:
            status.append(wait())
        except BaseException:
            status.append(-9)
        os.close(ended_w)

    threading.Thread(target=waiter, daemon=True).start()
    limit, killed = "", False
    while True:
        ready = select.select([ended_r, control], [], [], FAST if watch.busy else SLOW)[0]
        if ended_r in ready:
            break
        if control in ready or os.getppid() != parent:
            killed = True
            break
        limit = watch.exceeded()
        if limit:
            break
        _reap()
    kill_tree(os.getpid())
    if limit := limit or watch.written():
        say(limit=limit)
    select.select([ended_r], [], [], 5)
    say(exit=-signal.SIGKILL if limit or killed or not status else status[0])
    return 0


if __name__ == "__main__":
    code = main()
    os._exit(code)
