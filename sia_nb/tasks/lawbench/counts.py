"""Counts that all verdicts share: n-grams of characters and words, made once for a split.

An *atom* is one unit at one size (c1, c2, c3, w1, w2); a view is one atom or several side by side. Rows
are the train texts, then the dev texts; columns are the train texts' vocabulary in sorted order.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

from .files import Layout, read_json, sha256, write_atomic
from .solution import SIZES

ATOMS = ("c1", "c2", "c3", "w1", "w2")


def atoms_of(view: str) -> list[str]:
    """The atoms of a view."""
    return [f"{view[0]}{n}" for n in SIZES[view]]


def prepare(layout: Layout, stage: Callable[[str], None]) -> dict[str, Any]:
    """Count every atom that is not there yet; returns checksums and library versions for the manifest."""
    import logging

    import jieba
    import numpy
    import scipy

    from . import features

    train = read_json(layout.public / "train.json")["texts"]
    dev = read_json(layout.public / "dev.json")["texts"]
    jieba.setLogLevel(logging.ERROR)
    checks = {}
    words: list[list[str]] | None = None
    for atom in ATOMS:
        size = int(atom[1])
        stage(f"count {'characters' if atom[0] == 'c' else 'words'}, {size} at a time")
        if atom[0] == "c":
            units = [features.grams(t, size) for t in train + dev]
        else:
            words = words or [features.word_grams(t, 1) for t in train + dev]
            units = [[" ".join(w[i : i + size]) for i in range(len(w) - size + 1)] for w in words]
        a, b = features.count(units[: len(train)], units[len(train) :])
        both = scipy.sparse.vstack([a, b], format="csr")
        buffer = io.BytesIO()
        numpy.savez(
            buffer,
            data=both.data.astype(numpy.uint16),
            indices=both.indices.astype(numpy.int32),
            indptr=both.indptr.astype(numpy.int64),
            shape=numpy.array(both.shape),
        )
        data = buffer.getvalue()
        name = f"counts_{atom}.npz"
        write_atomic(layout.public / name, data)
        checks[name] = sha256(data)
    return {"counts": checks, "versions": {"jieba": jieba.__version__}}


def load(layout: Layout, atom: str, n_train: int) -> tuple[Any, Any]:
    """One atom's counts as float32 (train, dev) CSR matrices."""
    import numpy as np
    import scipy.sparse as sp

    with np.load(layout.public / f"counts_{atom}.npz") as z:
        both = sp.csr_matrix((z["data"].astype(np.float32), z["indices"], z["indptr"]), tuple(z["shape"]))
    return both[:n_train], both[n_train:]


def fingerprint(manifest: dict[str, Any]) -> str:
    """16 hex digits that name the prepared data; part of every remembered verdict's key."""
    parts = [manifest["files"], manifest["sealed"], manifest["counts"], manifest["versions"]]
    return hashlib.sha256(repr([sorted(p.items()) for p in parts]).encode()).hexdigest()[:16]
