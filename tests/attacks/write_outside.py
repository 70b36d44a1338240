"""Files made or changed outside the working folder: beside it, in the temporary folder, in the kit, in the system."""


def attacks(t):
    def append(path):
        with open(path, "a") as file:
            return file.write("overwritten\n")

    def by_symlink():
        os.symlink(t["victim"], "victim-link")
        return append("victim-link")

    def by_new_link():
        os.symlink("/".join([".."] * 20), "up")
        return append("up" + t["outside"] + "/new")

    def by_move():
        open("mine", "w").close()
        os.rename("mine", t["outside"] + "/moved")
        return "moved"

    def by_hard_link():
        open("mine2", "w").close()
        os.link("mine2", t["outside"] + "/linked")
        return "linked"

    places = {"the victim": t["victim"], "beside it": t["outside"] + "/new", "by ..": "../new", "package": t["package"] + "/new.py",
              "/usr": "/usr/new", "/etc": "/etc/new", "/tmp": "/tmp/sia-attack", "/dev/shm": "/dev/shm/sia-attack"}  # fmt: skip
    found = {what: lambda path=path: append(path) for what, path in places.items()}
    found["/dev/shm"] = lambda: append(places["/dev/shm"]) and ""  # it may be a folder of its own; the host looks
    return found | {
        "symbolic link": by_symlink, "link to a folder": by_new_link, "move out": by_move, "hard link out": by_hard_link,
        "folder": lambda: os.mkdir(t["outside"] + "/folder") or "made", "pipe": lambda: os.mkfifo(t["outside"] + "/pipe") or "made",
        "symbolic link outside": lambda: os.symlink("/", t["outside"] + "/link") or "made",
    }  # fmt: skip
