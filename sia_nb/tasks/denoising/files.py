"""Where the denoising task keeps what, and how sparse counts are written and checked. No numpy or scipy at the top."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DataError
from ..files import Files, sha256

if TYPE_CHECKING:
    import scipy.sparse as sp


FILES = Files("denoising", "python -m sia_nb data --task denoising")


@dataclass(frozen=True)
class Layout:
    """The paths of one data folder and seed.

    ``public`` is all that a sandbox may read: train molecules of the loop's cells. Their test molecules and everything of
    the sealed cells stand under ``sealed``, outside it.
    """

    data_dir: Path
    seed: int = 0

    @property
    def public(self) -> Path:
        """<instance>.npz and manifest.json."""
        return self.data_dir / "denoising" / f"seed_{self.seed}"

    @property
    def private(self) -> Path:
        """<instance>-dev.npz, which only the host reads, and <instance>-sealed.npz, which only ``seal`` opens."""
        return self.data_dir / "sealed" / "denoising" / f"seed_{self.seed}"

    @property
    def manifest(self) -> Path:
        """Sizes and checksums of all prepared files."""
        return self.public / "manifest.json"

    @property
    def sources(self) -> Path:
        """Whole count matrices of downloaded data sets, of no seed: <name>.npz and <name>.json."""
        return self.data_dir / "sealed" / "denoising" / "sources"

    def train(self, instance: str) -> Path:
        """Train molecules of the loop's cells."""
        return self.public / f"{instance}.npz"

    def dev(self, instance: str) -> Path:
        """Test molecules of the loop's cells."""
        return self.private / f"{instance}-dev.npz"

    def sealed(self, instance: str) -> Path:
        """Train and test molecules of the sealed cells."""
        return self.private / f"{instance}-sealed.npz"

    def download(self, file: str) -> Path:
        """A downloaded file; one may be put there by hand."""
        return self.data_dir / "downloads" / "denoising" / file


def write_counts(path: Path, **matrices: sp.csr_matrix) -> str:
    """Write count matrices under their names, int32, compressed; returns the SHA-256 of the file.

    The same counts give the same bytes.

    Raises:
        DataError: the disk is full or the folder is not writable.
    """
    import numpy as np

    parts = {}
    for name, matrix in matrices.items():
        parts |= {f"{name}_{part}": getattr(matrix, part).astype(np.int32) for part in ("data", "indices")}
        parts |= {f"{name}_indptr": matrix.indptr.astype(np.int64), f"{name}_shape": np.array(matrix.shape, dtype=np.int64)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **parts)
    FILES.write_atomic(path, buffer.getvalue())
    return sha256(buffer.getvalue())


def read_counts(path: Path, expected: str, *names: str) -> list[sp.csr_matrix]:
    """The matrices ``names`` of a file whose SHA-256 is ``expected``, int32 [cells, genes].

    Raises:
        DataError: the file is missing, altered, cut short or lacks one of them.
    """
    import numpy as np
    import scipy.sparse as sp

    data = FILES.read(path, expected)
    try:
        with np.load(io.BytesIO(data)) as parts:
            return [
                sp.csr_matrix(tuple(parts[f"{n}_{p}"] for p in ("data", "indices", "indptr")), shape=tuple(parts[f"{n}_shape"]))
                for n in names
            ]
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"denoising: {path} holds no such counts ({error}). Delete it and run `{FILES.prepare}` again."
        ) from error
