"""Whether requirements.lock pins what is installed, and whether known vulnerabilities touch it: ``make audit``.

The second needs the package pip-audit and a network; where either is missing it says so. It may import nothing of the kit.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
OURS = ("sia-nb", "pip")  # the kit itself, and what every environment brings along


def canonical(name: str) -> str:
    """A package's name as package indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    """Version by package of a lock file, those aside whose marker does not hold here.

    Raises:
        ValueError: a line that pins no version.
    """
    found = {}
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        wanted = Requirement(line)
        exact = [s.version for s in wanted.specifier if s.operator in ("==", "===")]
        if len(exact) != 1 or len(list(wanted.specifier)) != 1 or wanted.url:
            raise ValueError(f"requirements.lock: '{line}' pins no version; expected name==version")
        if wanted.marker is None or wanted.marker.evaluate():
            found[canonical(wanted.name)] = exact[0]
    return found


def installed() -> dict[str, str]:
    """Version by package of this environment, without local parts such as torch's +cpu."""
    return {canonical(d.metadata["Name"]): d.version.partition("+")[0] for d in metadata.distributions()}


def differences(lock: dict[str, str], here: dict[str, str]) -> tuple[list[str], list[str]]:
    """(what of the lock is missing or of another version here, what is here and not in the lock), a line each."""
    wrong = [f"{n}: {v} in the lock, {here.get(n, 'not')} installed" for n, v in lock.items() if here.get(n) != v]
    more = [f"{n} {v}: installed, not in the lock" for n, v in here.items() if n not in lock and n not in OURS]
    return sorted(wrong), sorted(more)


def main() -> int:
    """Print what differs and what pip-audit says; 1 where the lock is not kept or something is vulnerable."""
    text = (ROOT / "requirements.lock").read_text()
    wrong, more = differences(pins(text), installed())
    print("\n".join(wrong) or f"all {len(pins(text))} pins of requirements.lock are what is installed")
    if more:
        print(f"beside them: {'; '.join(line.split(':')[0] for line in more)}")
    if importlib.util.find_spec("pip_audit") is None:
        print("not audited: pip-audit is not installed; pip install pip-audit")
        return int(bool(wrong))
    argv = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "-r", str(ROOT / "requirements.lock")]
    done = subprocess.run([*argv, "--progress-spinner", "off", "--format", "json"], capture_output=True, text=True)
    try:
        said, bad = audited(json.loads(done.stdout))
    except ValueError:
        said, bad = f"not audited: {(done.stderr.strip().splitlines() or ['pip-audit said nothing'])[-1][:200]}", False
    print(said)
    return int(bool(wrong) or bad)


def audited(report: dict) -> tuple[str, bool]:
    """What pip-audit's report says, and whether anything is vulnerable; what it could not look up is no good news."""
    packages = report["dependencies"]
    unknown = [p for p in packages if "skip_reason" in p]
    found = [f"{p['name']} {p['version']}: {v['id']}" for p in packages for v in p.get("vulns", [])]
    if len(unknown) == len(packages):
        return f"not audited: the index that is set here knows no vulnerabilities of any of the {len(packages)} packages", False
    said = f"{len(packages) - len(unknown)} of {len(packages)} packages audited, {len(found)} vulnerabilities"
    return "\n".join([said, *found]), bool(found)


if __name__ == "__main__":
    sys.exit(main())
