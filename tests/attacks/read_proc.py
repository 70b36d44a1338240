"""What /proc tells of the host's processes."""


def attacks(t):
    names = ("environ", "cmdline", "maps", "status", "stat", "io", "limits", "auxv", "mounts", "fdinfo/0", "fd/0", "task")
    pids = {"the host": t["host"], "another program": t["sleeper"]}
    found = {f"{name} of {who}": lambda p=pid, n=name: (os.listdir if n == "task" else head)(f"/proc/{p}/{n}")
             for who, pid in pids.items() for name in names}  # fmt: skip

    def by_listing():
        return str(t["sleeper"]) in os.listdir("/proc") and holds(head(f"/proc/{t['sleeper']}/cmdline"), "sleep")

    return found | {"listing": by_listing}
