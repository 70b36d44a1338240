"""The same files by other ways: links of both kinds, `..`, /proc's links to folders, a descriptor of a folder, a moved folder."""


def attacks(t):
    found = {}
    for name in ("sealed test", "sealed cells in a package"):
        if name in t["files"]:
            found |= {f"{name}, {what}": way for what, way in ways_to(t["files"][name], name[-4:], t).items()}
    return found


def ways_to(path, mark, t):
    """The ways to one file."""

    def by_symlink():
        os.symlink(path, "symlink" + mark)
        return head("symlink" + mark)

    def by_folder_link():
        os.symlink(os.path.dirname(path), "folder" + mark)
        return head("folder" + mark + "/" + os.path.basename(path))

    def by_hard_link():
        os.link(path, "hard" + mark)
        return head("hard" + mark)

    def by_dots():
        return head("/".join([".."] * 40) + path)

    def by_descriptor():
        at = os.open("/", os.O_PATH)
        return os.read(os.open(path[1:], os.O_RDONLY, dir_fd=at), 100)

    def by_move():
        os.rename(path, "moved" + mark)
        return head("moved" + mark)

    def by_handle():
        handle, mount = (ctypes.c_ubyte * 136)(128), ctypes.c_int()
        if call((303, 264), -100, path.encode(), handle, ctypes.byref(mount), 0) == -1:
            return ""
        fd = call((304, 265), os.open("/usr", os.O_RDONLY), handle, 0)
        return os.read(fd, 100) if fd != -1 else ""

    def by_working_folder():
        back = os.open(".", os.O_RDONLY)
        os.chdir(os.path.dirname(path))
        try:
            return head(os.path.basename(path))
        finally:
            os.fchdir(back)

    ways = {f"/proc/{pid}/{link}": lambda pid=pid, link=link: head(f"/proc/{pid}/{link}{path}")
            for pid in ("self", *above(), t["host"]) for link in ("root",)}  # fmt: skip
    ways |= {"/proc of the host, its folder": lambda: os.listdir(f"/proc/{t['host']}/cwd")}
    return ways | {
        "symbolic link": by_symlink, "link to a folder": by_folder_link, "hard link": by_hard_link, "..": by_dots,
        "descriptor of /": by_descriptor, "move": by_move, "file handle": by_handle, "working folder": by_working_folder,
        "exec": lambda: os.popen(f"cat {path}").read(),
    }  # fmt: skip
