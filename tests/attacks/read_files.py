"""Files that are none of its business: other runs, the sealed test, the home folder, the system's accounts, the repository."""


def attacks(t):
    return {what: lambda path=path: head(path) for what, path in t["files"].items()}
