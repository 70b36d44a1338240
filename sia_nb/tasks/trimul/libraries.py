"""What programs of the kit have built from their C++, kept beside the verdicts for the next process: g++ needs a second for each.

Only processes that never run anything but such programs give libraries or get them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ...errors import DataError
from ..files import Files, sha256

BUILT = "passes_*.so"  # as ``compile_cpp`` names them


class Libraries:
    """A folder of libraries of one kind of machine, each with its checksum in its name: ``passes_<source>.<checksum>.so``."""

    def __init__(self, folder: Path, files: Files):
        self.folder, self.files = folder, files

    def give(self, to: Path) -> None:
        """Copy all into a program's folder of temporary files; a damaged one is removed instead."""
        for path in self.folder.glob(BUILT):
            name, checksum = path.name.split(".")[:2]
            with contextlib.suppress(OSError):
                data = path.read_bytes()
                if sha256(data)[:16] == checksum:
                    (to / f"{name}.so").write_bytes(data)
                else:
                    path.unlink()

    def keep(self, found: Path) -> None:
        """Keep what stands in a program's folder of temporary files and is not here yet; where there is no room, nothing."""
        there = {path.name.split(".")[0] for path in self.folder.glob(BUILT)}
        for path in found.glob(BUILT):
            if path.stem in there:
                continue
            with contextlib.suppress(OSError, DataError):
                data = path.read_bytes()
                self.files.write_atomic(self.folder / f"{path.stem}.{sha256(data)[:16]}.so", data)
