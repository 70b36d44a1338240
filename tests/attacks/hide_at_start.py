"""Code put where a later Python of the host would run it: sitecustomize, .pth, conftest, modules that hide the library's."""


def attacks(t):
    code = f"open({t['pwned']!r}, 'a').write('pwned')\n"
    site = next(p for p in sys.path if p.endswith("site-packages"))
    library = os.path.dirname(os.__file__)

    def put(path, text=code):
        with open(path, "x") as file:
            return file.write(text)

    found = {}
    for name in ("sitecustomize.py", "usercustomize.py", "zz_sia_attack.pth", "conftest.py", "json_.py"):
        text = "import os; " + code if name.endswith(".pth") else code
        for what, folder in (("site-packages", site), ("library", library), ("kit", t["package"]), ("tests", t["tests"])):
            found[f"{name} in {what}"] = lambda p=os.path.join(folder, name), text=text: put(p, text)
    home = t["home"]
    places = (
        ".local/lib/python3.11/site-packages/zz.pth",
        ".config/pip/pip.conf",
        ".ipython/profile_default/startup/0.py",
        ".bashrc",
    )
    found |= {
        f"~/{p}": lambda p=p: (os.makedirs(os.path.dirname(f"{home}/{p}"), exist_ok=True), open(f"{home}/{p}", "a"))
        for p in places
    }
    return found


def leave(t):
    """In the working folder, where it may write, names that Python and pytest look for."""
    code = f"open({t['pwned']!r}, 'a').write('pwned')\n"
    names = ("sitecustomize.py", "usercustomize.py", "conftest.py", "json.py", "socket.py", "random.py", "numpy.py", "torch.py")
    for name in (*names, "sia_nb.py", "__init__.py", "site.pth"):
        with open(name, "w") as file:
            file.write("import os; " + code if name.endswith(".pth") else code)
    with open("payload.pickle", "wb") as file:  # what loads it runs it
        file.write(b"cbuiltins\nexec\n(V" + code.strip().encode() + b"\ntR.")
