"""Counts that all verdicts share: n-grams of characters and words, made once for a split.

An *atom* is one unit at one size (c1, c2, c3, w1, w2); a view is one atom or several side by side. A
folder holds labels.json, the labels of the texts that are fitted, and counts_<atom>.npz, whose rows are
the fitted texts, then the new ones; columns are the fitted texts' vocabulary in sorted order.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from .files import Layout, read_json, sha256, write_atomic
from .solution import SIZES

ATOMS = ("c1", "c2", "c3", "w1", "w2")
QUICK_TEXTS = 14


def atoms_of(view: str) -> list[str]:
    """The atoms of a view."""
    return [f"{view[0]}{n}" for n in SIZES[view]]


def quick_rows(labels: Sequence[int], most: int = QUICK_TEXTS) -> list[int]:
    """Rows that the loop's verdict fits: at most ``most`` of each class, drawn by the class's number; sorted."""
    rows: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    picked = (r if len(r) <= most else Random(f"lawbench thin {label}").sample(r, most) for label, r in rows.items())
    return sorted(row for part in picked for row in part)


def prepare(layout: Layout, stage: Callable[[str], None]) -> dict[str, Any]:
    """Count every atom for the loop and for the report; returns checksums and versions for the manifest."""
    import logging

    import jieba

    from .features import word_grams

    train, dev = (read_json(layout.public / f"{s}.json") for s in ("train", "dev"))
    test = read_json(layout.test)["texts"]
    texts = train["texts"] + dev["texts"] + test
    stage("cut the texts into words")
    jieba.setLogLevel(logging.ERROR)
    words = [word_grams(t, 1) for t in texts]
    n, m = len(train["texts"]), len(train["texts"]) + len(dev["texts"])
    by_id = sorted(range(m), key=(train["ids"] + dev["ids"]).__getitem__)
    loop, report = list(range(m)), [*by_id, *range(m, len(texts))]
    checks: dict[str, dict[str, str]] = {"counts": {}, "report": {}}
    for atom in ATOMS:
        size = int(atom[1])
        stage(f"count {'characters' if atom[0] == 'c' else 'words'}, {size} at a time")
        units = units_of(texts, words, atom)
        for part, folder, rows, fitted in (("counts", layout.public, loop, n), ("report", layout.report, report, m)):
            name = f"counts_{atom}.npz"
            checks[part][name] = save([units[r] for r in rows], fitted, folder / name)
    return {**checks, "versions": {"jieba": jieba.__version__}}


def units_of(texts: list[str], words: list[list[str]], atom: str) -> list[list[str]]:
    """What an atom counts in each text; ``words`` are the texts' words."""
    from .features import grams

    size = int(atom[1])
    if atom[0] == "c":
        return [grams(t, size) for t in texts]
    return [[" ".join(w[i : i + size]) for i in range(len(w) - size + 1)] for w in words]


def save(units: list[list[str]], fitted: int, path: Path) -> str:
    """Count and write one atom; returns the file's SHA-256."""
    import numpy as np
    import scipy.sparse as sp

    from .features import count

    both = sp.vstack(count(units[:fitted], units[fitted:]), format="csr")
    buffer = io.BytesIO()
    np.savez(
        buffer,
        data=both.data.astype(np.uint16),
        indices=both.indices.astype(np.int32),
        indptr=both.indptr.astype(np.int64),
        shape=np.array(both.shape),
    )
    write_atomic(path, buffer.getvalue())
    return sha256(buffer.getvalue())


def load(folder: Path, atom: str, fitted: int) -> tuple[Any, Any]:
    """One atom's counts as float32 CSR matrices: of the fitted texts and of the new ones."""
    import numpy as np
    import scipy.sparse as sp

    with np.load(folder / f"counts_{atom}.npz") as z:
        both = sp.csr_matrix((z["data"].astype(np.float32), z["indices"], z["indptr"]), tuple(z["shape"]))
    return both[:fitted], both[fitted:]


def fingerprint(manifest: dict[str, Any]) -> str:
    """16 hex digits that name the prepared data; part of every remembered verdict's key."""
    parts = [manifest["files"], manifest["sealed"], manifest["counts"], manifest["versions"]]
    return hashlib.sha256(repr([sorted(p.items()) for p in parts]).encode()).hexdigest()[:16]
