"""The data of the denoising task: counts dealt by cells and split by molecules, written once, checked at each start.

For a seed, half of a data set's cells belong to the loop and half are sealed. Each half's molecules are split apart with a
generator of its own; see ``split``. Written are, for every instance, the loop's train molecules (public), the loop's test
molecules (host only) and both of the sealed cells. numpy, scipy and scanpy are loaded inside functions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, DataError, nearest
from .files import FILES, Layout, read_counts, write_counts
from .instances import PARTS, SYNTHETIC, WHOLE, cut, genes_of, halves, instances, measure, piles
from .sources import SOURCES, obtain
from .split import Split, benchmark, enough, molecular, stream, tidy

if TYPE_CHECKING:
    import scipy.sparse as sp

FORMAT = 1
OFFLINE = (WHOLE, *(s.name for s in (*PARTS, *SYNTHETIC)))


def fetch(
    data_dir: Path, seed: int = 0, instance: str = "", file: Path | None = None, say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Prepare what is not there yet; quick where all is.

    Args:
        data_dir: the kit's data folder.
        seed: of the deal of cells and of the molecular splits.
        instance: one that has to be downloaded, to be prepared beside those that need no download.
        file: its h5ad file, where one is at hand: it is read instead of a download.
        say: receives one line per stage; standard error where None.

    Returns:
        The manifest: format, seed, "instances" (sizes by name), "files" and "sealed" (SHA-256 by file name).

    Raises:
        ConfigError: no such instance, or a file for an instance that is not downloaded.
        DataError: a file is missing, truncated, altered, or holds no usable counts; no network.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    layout, began = Layout(Path(data_dir), seed), time.monotonic()

    def stage(text: str) -> None:
        say(f"denoising data [{time.monotonic() - began:5.1f} s] {text}")

    known = [i.name for i in instances()]
    if instance and instance not in known:
        raise ConfigError(f"instance: '{instance}' is not known.{nearest(instance, known)} Known: {', '.join(known)}.")
    if file is not None and instance not in SOURCES:
        raise ConfigError(
            f"file: {file} needs the name of its instance; expected one of {', '.join(SOURCES)}, found '{instance}'."
        )
    ready = current(layout)
    if ready is not None and (instance not in SOURCES or (instance in ready["instances"] and file is None)):
        return ready
    report = ready or _blank(layout)
    if ready is None:
        stage("recover and simulate counts, deal cells, split molecules")
        for name, (loop, sealed) in offline_splits(seed):
            _write(layout, report, name, loop, sealed)
    if instance in SOURCES and (instance not in report["instances"] or file is not None):
        counts, origin = obtain(SOURCES[instance], layout, file, stage)
        stage(f"{instance}: deal cells, split molecules")
        _write(layout, report, instance, *split_halves(counts, instance, seed), source=origin)
    FILES.write_json(layout.manifest, report)
    stage(f"ready: {len(report['instances'])} instances")
    return report


def offline_splits(seed: int) -> Iterator[tuple[str, tuple[Split, Split]]]:
    """Name and splits (the loop's, the sealed one) of every instance that needs no download, in the order of ``OFFLINE``."""
    import numpy as np
    import scipy.sparse as sp

    from .counts import pbmc68k

    blood, _, _ = pbmc68k()
    pile, dealt = piles(blood.shape[0]), {}
    for held_out, members in pile.items():
        for side, cells in enumerate(halves(members, "blood", held_out, seed)):
            dealt[held_out, side] = cells, molecular(blood[cells], stream("split", "blood", held_out, side, seed))
    whole = []
    for side in (0, 1):
        both = [dealt[held_out, side] for held_out in (False, True)]
        order = np.argsort(np.concatenate([cells for cells, _ in both]))
        train, test = (sp.vstack([getattr(s, half) for _, s in both], format="csr") for half in ("train", "test"))
        whole.append(tidy(Split(train[order], test[order])))
    yield WHOLE, tuple(whole)
    for part in PARTS:
        loop, sealed = (dealt[part.held_out, side][1] for side in (0, 1))
        genes = genes_of(part, loop.train)
        yield part.name, tuple(tidy(cut(part, s, genes, side, seed)) for side, s in enumerate((loop, sealed)))
    for shape in SYNTHETIC:
        yield shape.name, split_halves(shape.counts(), shape.name, seed)


def split_halves(counts: sp.csr_matrix, name: str, seed: int) -> tuple[Split, Split]:
    """The loop's split and the sealed one of a data set of its own, filtered apart."""
    import numpy as np

    out = []
    for side, cells in enumerate(halves(np.arange(counts.shape[0]), name, seed)):
        half = counts[cells]
        rows, genes = enough(half)
        out.append(tidy(molecular(half[rows][:, genes], stream("split", name, side, seed))))
    return out[0], out[1]


def current(layout: Layout) -> dict[str, Any] | None:
    """The manifest where everything it names is there and unaltered, else None.

    The sealed cells are not opened, not even to be checked: ``sealed`` does that.

    Raises:
        DataError: a prepared file was altered or cut short.
    """
    if not layout.manifest.is_file():
        return None
    manifest = FILES.read_json(layout.manifest)
    if manifest.get("format") != FORMAT or not set(OFFLINE) <= set(manifest["instances"]):
        return None
    unopened = {layout.sealed(instance).name for instance in manifest["instances"]}
    for folder, part in ((layout.public, "files"), (layout.private, "sealed")):
        for name, expected in manifest[part].items():
            if not (folder / name).is_file():
                return None
            if name not in unopened:
                FILES.read(folder / name, expected)
    return manifest


def train(layout: Layout, instance: str) -> sp.csr_matrix:
    """Train molecules of the loop's cells, int32 csr [cells, genes].

    Raises:
        DataError: not prepared, altered or cut short; so the other two.
    """
    path = layout.train(instance)
    return read_counts(path, _expected(layout, instance)["files"][path.name], "train")[0]


def dev(layout: Layout, instance: str) -> Split:
    """Train and test molecules of the loop's cells; the latter only the host may read."""
    path = layout.dev(instance)
    return Split(train(layout, instance), read_counts(path, _expected(layout, instance)["sealed"][path.name], "test")[0])


def sealed(layout: Layout, instance: str) -> Split:
    """Train and test molecules of the sealed cells. Only ``seal`` opens them."""
    path = layout.sealed(instance)
    return Split(*read_counts(path, _expected(layout, instance)["sealed"][path.name], "train", "test"))


def published(layout: Layout, instance: str) -> Split:
    """All cells of a downloaded data set, split as the benchmark does (seed 0): what its published scores were measured on.

    Raises:
        DataError: the instance was not prepared in this data folder.
    """
    note = layout.sources / f"{instance}.json"
    if instance not in SOURCES or not note.is_file():
        raise DataError(
            f"denoising: {instance} is not there. Run `{FILES.prepare} --instance {instance}` (one of {', '.join(SOURCES)})."
        )
    return benchmark(read_counts(note.with_suffix(".npz"), FILES.read_json(note)["counts_sha256"], "counts")[0])


def _expected(layout: Layout, instance: str) -> dict[str, Any]:
    """The manifest, where it knows the instance."""
    if not layout.manifest.is_file():
        raise DataError(f"denoising: {layout.public} is not prepared. Run `{FILES.prepare}`.")
    manifest = FILES.read_json(layout.manifest)
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"denoising: {layout.manifest} has format {manifest.get('format')}, expected {FORMAT}. Run `{FILES.prepare}` again."
        )
    if instance not in manifest["instances"]:
        more = f" --instance {instance}" if instance in SOURCES else ""
        raise DataError(f"denoising: {layout.public} holds no instance '{instance}'. Run `{FILES.prepare}{more}`.")
    return manifest


def _write(layout: Layout, report: dict[str, Any], name: str, loop: Split, sealed: Split, **more: Any) -> None:
    """Write an instance's three files and enter it in the report."""
    report["files"][layout.train(name).name] = write_counts(layout.train(name), train=loop.train)
    report["sealed"][layout.dev(name).name] = write_counts(layout.dev(name), test=loop.test)
    report["sealed"][layout.sealed(name).name] = write_counts(layout.sealed(name), train=sealed.train, test=sealed.test)
    sizes = {"sealed_cells": sealed.train.shape[0], "sealed_genes": sealed.train.shape[1]}
    report["instances"][name] = measure(loop.train) | sizes | more


def _blank(layout: Layout) -> dict[str, Any]:
    """A manifest of nothing but the downloaded instances that an incomplete one knows, where their files are all there."""
    out: dict[str, Any] = {"format": FORMAT, "seed": layout.seed, "instances": {}, "files": {}, "sealed": {}}
    old = FILES.read_json(layout.manifest) if layout.manifest.is_file() else {}
    if old.get("format") != FORMAT:
        return out
    for name in SOURCES:
        paths = {"files": [layout.train(name)], "sealed": [layout.dev(name), layout.sealed(name)]}
        if name in old["instances"] and all(p.is_file() for part in paths.values() for p in part):
            out["instances"][name] = old["instances"][name]
            for part, files in paths.items():
                out[part] |= {p.name: old[part][p.name] for p in files}
    return out
