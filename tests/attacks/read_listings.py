"""Names of files outside: what other runs there are, what lies in the home folder."""


def attacks(t):
    return {f"of {folder}": lambda folder=folder: os.listdir(folder) for folder in t["folders"]}
