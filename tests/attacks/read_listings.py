"""Names of files outside: what other runs there are, what lies in the home folder."""


def attacks(t):
    return {f"of {what}": lambda f=folder, n=name: n in os.listdir(f) for what, (folder, name) in t["folders"].items()}
