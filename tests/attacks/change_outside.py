"""Files outside changed without being opened: their rights, owner, times, attributes, length, name; or taken away."""


def attacks(t):
    path = t["victim"]
    ways = {
        "mode": lambda: os.chmod(path, 0o777), "owner": lambda: os.chown(path, 12345, 12345), "times": lambda: os.utime(path, (1, 1)),
        "attribute": lambda: os.setxattr(path, "user.mark", b"x"), "length": lambda: os.truncate(path, 0),
        "name": lambda: os.rename(path, path + "-renamed"), "removal": lambda: os.unlink(path),
        "folder's mode": lambda: os.chmod(t["outside"], 0o777), "folder's removal": lambda: os.rmdir(t["outside"] + "/empty"),
        "by link": lambda: (os.symlink(path, "to-chmod"), os.chmod("to-chmod", 0o777)),
        "exchange": lambda: done(call((316, 276), -100, path.encode(), -100, (t["outside"] + "/other").encode(), 2)) or 1 / 0,
    }  # fmt: skip
    return {what: lambda way=way: (way(), "changed") for what, way in ways.items()}
