"""That a file outside is there, how large it is and when it changed: Landlock does not hide it, a file system of one's own does."""


def attacks(t):
    path = t["files"]["sealed test"]
    return {
        "size": lambda: os.stat(path).st_size, "time": lambda: os.stat(path).st_mtime_ns, "presence": lambda: os.path.exists(path),
        "rights": lambda: os.access(path, os.R_OK) and "readable", "program of a process": lambda: os.readlink(f"/proc/{t['host']}/exe"), "folder of a process": lambda: os.readlink(f"/proc/{t['host']}/cwd"),
        "open files of a process": lambda: os.readlink(f"/proc/{t['host']}/fd/{t['descriptor']}"),
    }  # fmt: skip
