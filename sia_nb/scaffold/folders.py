"""Folders that hostile programs have written in: how they are cleared away.

``shutil.rmtree`` walks down by calling itself, so that a thousand folders in each other end it with a RecursionError.
It may import nothing of the kit.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, however deep; links are removed, not followed. What resists is left.

    Folders within folders are moved up to the top and emptied there, so that no path grows long.
    """
    try:
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(folder)
        return
    try:
        for name in _emptied(top):
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def _emptied(top: int) -> Iterator[str]:
    """Names of the folders in ``top``, each once it is empty; what they held is moved up, and so comes later."""
    waiting = _unlinked(top, top)
    while waiting:
        name = waiting.pop()
        with contextlib.suppress(OSError):
            os.chmod(name, 0o700, dir_fd=top)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
            try:
                waiting += _unlinked(inner, top)
            finally:
                os.close(inner)
        yield name


def _unlinked(folder: int, top: int) -> list[str]:
    """Remove the files of ``folder`` and move its folders to ``top``; returns their names there."""
    moved = []
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        with contextlib.suppress(OSError):
            if is_folder:
                new = name if folder == top else secrets.token_hex(16)
                if folder != top:
                    os.chmod(name, 0o700, dir_fd=folder)  # moving a folder writes in it
                    os.rename(name, new, src_dir_fd=folder, dst_dir_fd=top)
                moved.append(new)
            else:
                os.unlink(name, dir_fd=folder)
    return moved


@contextlib.contextmanager
def scratch(prefix: str = "sia-") -> Iterator[Path]:
    """A temporary folder for a program's own use, cleared away whatever it has left there."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        remove_tree(folder)
