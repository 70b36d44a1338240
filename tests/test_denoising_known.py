"""What the denoising verifier tells of known methods: on both splits, remembered beside the sealed cells."""

import json

import pytest

from sia_nb.tasks import get_task
from sia_nb.tasks.denoising import data, metrics
from sia_nb.tasks.denoising.files import Layout


def test_known_methods_are_measured_once_on_both_splits(tmp_path):
    task = get_task("denoising")
    task.fetch(tmp_path)
    with task.verifier(tmp_path, tmp_path / "cache") as verifier:
        first = json.loads(json.dumps(verifier.peers()))
        own, sealed = verifier.magic, verifier.seal(task.fallback())
    by = {split: {r["method"]: r for r in first[split]} for split in ("dev", "sealed")}
    assert by["dev"]["MAGIC"]["poisson_norm"] == pytest.approx(own.poisson_norm, abs=1e-3)
    assert by["sealed"]["MAGIC"]["mse_norm"] == pytest.approx(sealed["magic_mse_norm"], abs=1e-3)
    assert by["sealed"]["raw counts"]["mse_norm"] == 0 and by["sealed"]["DCA"]["mse_norm"] is None
    assert by["sealed"]["DCA"]["published"]["pancreas"] == list(metrics.PUBLISHED["pancreas"]["DCA"])
    assert by["dev"]["KNN smoothing"] != by["sealed"]["KNN smoothing"]
    folder = Layout(tmp_path).private / "peers"
    (kept,) = folder.glob("*.json")
    assert not list((tmp_path / "cache").rglob(kept.name))
    raw = json.loads(kept.read_text())
    raw["entry"]["dev"][0]["method"] = "renamed"
    kept.write_text(json.dumps(raw))  # its checksum no longer fits
    with task.verifier(tmp_path, tmp_path / "cache") as verifier:
        assert json.loads(json.dumps(verifier.peers())) == first
        kept_again = kept.stat().st_mtime_ns
        assert verifier.peers() == first and kept.stat().st_mtime_ns == kept_again
    assert data.sealed(Layout(tmp_path), "pbmc68k").train.shape[0] == sealed["n"]
