"""The benchmark's data sets that have to be downloaded: pancreas, PBMC 1k, Tabula Muris Senis lung.

Their publishers give no checksum that we could write down here, so the SHA-256 of the first download is recorded beside it
and held against every later use, and what the benchmark says of a set's size is checked after the filters.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from .files import FILES, Layout, read_counts, write_counts

if TYPE_CHECKING:
    import scipy.sparse as sp

SIGNATURE = b"\x89HDF\r\n\x1a\n"  # every HDF5 file starts with it
SECONDS = 60  # without a byte


@dataclass(frozen=True)
class Source:
    """One data set and where it comes from."""

    name: str
    file: str  # its name in the downloads folder
    url: str  # of the h5ad file; of the collection's JSON description where ``tissue`` is given
    description: str  # the instance's line for the prompt
    cells: int = 0  # after the filters; 0: not published
    genes: int = 0
    keep: tuple[str, str] = ("", "")  # only the cells whose column in obs has this value
    tissue: str = ""  # of the one 10x 3' v2 set of a CELLxGENE collection

    def locate(self, collection: dict[str, Any]) -> list[str]:
        """Addresses of the h5ad files of ``tissue``, 10x 3' v2, in a CELLxGENE collection's description."""
        return [
            asset["url"]
            for entry in collection["datasets"]
            if [a["label"] for a in entry["assay"]] == ["10x 3' v2"]
            and [t["label"].lower() for t in entry["tissue"]] == [self.tissue]
            for asset in entry["assets"]
            if asset["filetype"] == "H5AD"
        ]


SOURCES = {
    s.name: s
    for s in (
        Source(
            "pancreas",
            "pancreas.h5ad",
            "https://ndownloader.figshare.com/files/36086813",
            "half of 1937 cells x 15502 genes; pancreatic islets, inDrop.",
            cells=1937,
            genes=15502,
            keep=("tech", "inDrop1"),
        ),
        Source(
            "pbmc1k",
            "pbmc1k.h5ad",
            "https://ndownloader.figshare.com/files/36088667",
            "half of some 1200 cells, all genes; blood cells, droplets, deep.",
        ),
        Source(
            "lung",
            "lung.h5ad",
            "https://api.cellxgene.cziscience.com/curation/v1/collections/0b9d8a04-bb9d-44da-aa27-705bb65b54eb",
            "half of 24540 cells x 17985 genes; mouse lung, droplets.",
            cells=24540,
            tissue="lung",
        ),
    )
}


def obtain(source: Source, layout: Layout, file: Path | None, say: Callable[[str], None]) -> tuple[sp.csr_matrix, dict[str, Any]]:
    """All counts of a data set, int32 csr [cells, genes], unfiltered, and where they came from.

    Read once: from ``file``, or a download, or what was put into the downloads folder by hand; then kept with a checksum.

    Raises:
        DataError: no network, a damaged or altered file, or one that is not the benchmark's.
    """
    kept, note = layout.sources / f"{source.name}.npz", layout.sources / f"{source.name}.json"
    if file is None and kept.is_file() and note.is_file():
        origin = FILES.read_json(note)
        return read_counts(kept, origin["counts_sha256"], "counts")[0], origin
    from .h5ad import read_counts as read_h5ad

    path = Path(file) if file is not None else layout.download(source.file)
    if file is None and not path.is_file():
        say(f"{source.name}: download {source.url}")
        download(source, path)
    say(f"{source.name}: read {path}")
    digest = recorded(path) if file is None else (hash_file(path) if path.is_file() else "")
    counts, _, _ = read_h5ad(path, keep=source.keep, strict=False)
    size = check_size(source, counts, path, say)
    origin = {"file": path.name, "sha256": digest, "cells": size[0], "genes": size[1]}
    origin["counts_sha256"] = write_counts(kept, counts=counts)
    FILES.write_json(note, origin)
    return counts, origin


def check_size(source: Source, counts: sp.csr_matrix, path: Path, say: Callable[[str], None]) -> tuple[int, int]:
    """Cells and genes after the filters, held against what the benchmark publishes.

    Raises:
        DataError: they differ. A collection that its publisher revises may differ: there it is said instead.
    """
    from .split import benchmark, enough

    cells, genes = map(len, enough(counts))
    # whether the published number of genes was counted before or after the split is not said, so both will do
    good = source.cells in (0, cells) and (source.genes in (0, genes) or source.genes == benchmark(counts).train.shape[1])
    if not good:
        wanted = f"{source.cells} cells" + (f" x {source.genes} genes" if source.genes else "")
        text = f"{path}: {cells} cells x {genes} genes after the filters; the benchmark has {wanted}"
        if not source.tissue:
            raise DataError(f"denoising: {text}. This is not the benchmark's {source.name}: get it from {source.url}.")
        say(f"{source.name}: {text}. Published scores are not comparable.")
    return cells, genes


def download(source: Source, path: Path) -> None:
    """Fetch the data set's h5ad file to ``path``, whole or not at all.

    Raises:
        DataError: the address cannot be reached, or what came is cut short or no HDF5 file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    url = source.url
    try:
        if source.tissue:
            with _get(url) as answer:
                urls = source.locate(json.load(answer))
            if len(urls) != 1:
                raise ValueError(f"{len(urls)} files for {source.tissue} in the collection, expected one")
            url = urls[0]
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as folder:
            part = Path(folder) / path.name
            with _get(url) as answer, part.open("wb") as out:
                shutil.copyfileobj(answer, out, 1 << 20)
                promised = answer.headers.get("Content-Length")
            size = part.stat().st_size
            if promised is not None and size != int(promised):
                raise ValueError(f"cut short: {size:,} of {int(promised):,} bytes")
            with part.open("rb") as file:
                start = file.read(len(SIGNATURE))
            if start != SIGNATURE:
                raise ValueError(f"{size:,} bytes came that are no HDF5 file: they start with {start!r}")
            os.replace(part, path)
    except (OSError, ValueError, KeyError, TypeError) as error:  # no network, refusals and time-outs are OSErrors
        raise DataError(
            f"denoising: {path.name} could not be downloaded from {url} ({error}). Run this where that address can be reached, or "
            f"name a file at hand: `{FILES.prepare} --instance {source.name} --file PATH`."
        ) from error


def _get(url: str) -> Any:
    """An open answer."""
    from urllib.request import Request, urlopen

    return urlopen(Request(url, headers={"User-Agent": "sia-nb"}), timeout=SECONDS)


def recorded(path: Path) -> str:
    """The SHA-256 of a file in the downloads folder, recorded at its first use.

    Raises:
        DataError: it has changed since.
    """
    note, found = path.with_name(f"{path.name}.json"), hash_file(path)
    if not note.is_file():
        FILES.write_json(note, {"sha256": found, "bytes": path.stat().st_size})
    expected = FILES.read_json(note)["sha256"]
    if found != expected:
        raise DataError(
            f"denoising: {path} was altered: found SHA-256 {found}, at its first use {expected}. Delete it and {note.name}, and get "
            "it again."
        )
    return found


def hash_file(path: Path) -> str:
    """SHA-256 of a file that may be large."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
