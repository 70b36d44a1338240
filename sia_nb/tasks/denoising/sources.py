"""The benchmark's data sets that have to be downloaded: pancreas, PBMC 1k, Tabula Muris Senis lung.

Their publishers give no checksum that we could write down here, so the SHA-256 of the first download is recorded beside it
and held against every later use, and what the benchmark says of a set's size is checked after the filters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
