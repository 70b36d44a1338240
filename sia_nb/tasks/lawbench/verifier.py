"""V for LawBench: macro accuracy on dev, remembered by content; the sealed test only through ``seal``.

The loop's verdict fits at most ``counts.QUICK_TEXTS`` train texts a class and all of dev; ``full``
and ``seal`` fit every text. The host holds the labels. What runs a solution is given texts and train labels and returns predictions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import DataError, InvalidSolution
from ..base import Score, Solution
from ..process import Failed, Pool
from ..remember import Memory
from .compile import compile_spec
from .counts import QUICK_TEXTS, fingerprint, quick_rows
from .data import check_report, current
from .files import FILES, Layout, read_json, sha256
from .process import SpecWorker, run_code
from .solution import SPACE, bases, check_code

METHOD, QUICK_METHOD = 3, 1
CODE_SECONDS, CODE_MEMORY = 120.0, 4000
FULL_SECONDS, FULL_MEMORY = 1800.0, 8000


def by_class(hits: list[bool], labels: list[int]) -> dict[int, list[bool]]:
    """Hits of each class's texts, classes in order."""
    out: dict[int, list[bool]] = {c: [] for c in sorted(set(labels))}
    for hit, label in zip(hits, labels, strict=True):
        out[label].append(hit)
    return out


def macro(hits: list[bool], labels: list[int]) -> float:
    """Mean over classes of the share of hits."""
    shares = [sum(h) / len(h) for h in by_class(hits, labels).values()]
    return sum(shares) / len(shares)


def macro_se(values: list[float], labels: list[int]) -> float:
    """Standard error of the mean over classes of class means.

    Within-class variances s²/n added up and divided by the number of classes squared; a class with one
    text takes the variance pooled over the others.
    """
    groups = list(by_class(values, labels).values())
    squares = [sum((v - sum(g) / len(g)) ** 2 for v in g) for g in groups]
    freedom = sum(len(g) - 1 for g in groups)
    pooled = sum(squares) / freedom if freedom else 0.25
    total = sum((s / (len(g) - 1) if len(g) > 1 else pooled) / len(g) for s, g in zip(squares, groups, strict=True))
    return math.sqrt(total) / len(groups)


class LawBenchVerifier:
    """Scores solutions on dev; safe to call from several threads, which share ``workers`` processes.

    Args:
        data_dir, seed: prepared data (``fetch``).
        cache_dir: where verdicts are remembered, one file each.
        workers: how many specs can be scored at once.
        unsafe_no_sandbox: run free Python even where no sandbox is usable.
        code_seconds, code_memory_mb: limits of one piece of free Python.

    Raises:
        DataError: the data is not prepared, or altered.
    """

    def __init__(
        self,
        data_dir: Path,
        cache_dir: Path,
        *,
        seed: int = 0,
        workers: int = 1,
        unsafe_no_sandbox: bool = False,
        code_seconds: float = CODE_SECONDS,
        code_memory_mb: int = CODE_MEMORY,
    ):
        self.layout = Layout(Path(data_dir), seed)
        manifest = current(self.layout)
        if manifest is None:
            raise DataError(f"lawbench: {self.layout.public} is not prepared. Run `make data` first.")
        self._manifest = manifest
        self._labels: list[int] = read_json(self.layout.dev_labels)
        self._classes: list[str] = read_json(self.layout.public / "classes.json")
        self._data = fingerprint(manifest)
        self.cache_dir = Path(cache_dir)
        self.unsafe = unsafe_no_sandbox
        self.code_seconds, self.code_memory_mb = code_seconds, code_memory_mb
        self._memory = Memory(self.cache_dir, FILES, lambda entry: len(entry["pred"]) == len(self._labels))
        self._pool = Pool([SpecWorker(self.layout.public) for _ in range(max(1, workers))])

    # --- the contract -------------------------------------------------------------------------------
    def score(self, solution: Solution) -> Score:
        """The verdict on dev: value is macro accuracy; metrics macro, top1, se. Never raises for a bad solution.

        At most ``counts.QUICK_TEXTS`` texts a class are fitted, so the value is lower than ``full``'s;
        benchmarks/verdict_fidelity.py measures how it ranks specs.
        """
        try:
            key, spec = self._key(solution)
        except InvalidSolution as error:
            return Score(0.0, False, f"{error.kind}: {error}", solution_id=solution.id)
        key = sha256(f"quick {QUICK_METHOD} {QUICK_TEXTS} {key}".encode())
        return self._remembered(solution, key, lambda: self._run(solution, spec))

    def full(self, solution: Solution, *, compiled: bool = False) -> Score:
        """The verdict on dev with nothing thinned or approximated: all train texts, SVCs solved to the end.

        ``compiled`` runs the compiled scikit-learn source instead, which takes minutes for an SVC.
        """
        try:
            key, spec = self._key(solution)
        except InvalidSolution as error:
            return Score(0.0, False, f"{error.kind}: {error}", solution_id=solution.id)
        if compiled and spec is not None:
            return self._remembered(solution, sha256(f"compiled {key}".encode()), lambda: self._run_source(solution), False)
        return self._remembered(solution, sha256(f"full {key}".encode()), lambda: self._run(solution, spec, True), False)

    def paired_se(self, a: str, b: str) -> float:
        """Standard error of value(a) − value(b), text by text.

        Raises:
            DataError: an id was never scored as valid on this data, neither here nor by another process with
                this cache folder.
        """
        hits = [[float(p == y) for p, y in zip(self._known(i), self._labels, strict=True)] for i in (a, b)]
        return macro_se([x - z for x, z in zip(*hits, strict=True)], self._labels)

    def seal(self, solution: Solution, *, compiled: bool = False) -> dict[str, float]:
        """Fit on train + dev, score on the sealed test; a spec by its compiled source where ``compiled``.

        Returns:
            top1, top1_se, macro, top1_without_copies (texts that also stand in train left out), n.

        Raises:
            InvalidSolution: the solution does not run; kind says why.
        """
        test = self._test()
        try:
            pred = self._run_sealed(solution, test, compiled)
        except Failed as error:
            raise InvalidSolution(error.kind, str(error)) from error
        hits = [p == y for p, y in zip(pred, test["labels"], strict=True)]
        fresh = [h for h, copy in zip(hits, test["copies"], strict=True) if not copy]
        top1 = sum(hits) / len(hits)
        return {
            "top1": top1,
            "top1_se": math.sqrt(top1 * (1 - top1) / len(hits)),
            "macro": macro(hits, test["labels"]),
            "top1_without_copies": sum(fresh) / len(fresh),
            "n": float(len(hits)),
        }

    def _known(self, solution_id: str) -> list[int]:
        return self._memory.of(self._name(solution_id), solution_id)["pred"]

    def close(self) -> None:
        """End the worker processes; doing it twice is fine."""
        self._pool.close()

    def __enter__(self) -> LawBenchVerifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- running ------------------------------------------------------------------------------------
    def _key(self, solution: Solution) -> tuple[str, dict[str, Any] | None]:
        """What a verdict is remembered by: the meaning of a spec or the text of a program, with the data."""
        if solution.dialect == "spec":
            spec = SPACE.parse(solution.text)
            meaning = repr((bases(spec), spec["level2"], spec["strength2"] if spec["level2"] != "none" else 0))
        else:
            spec, meaning = None, check_code(solution.text)
        text = f"{METHOD}\n{self._data}\n{solution.dialect}\n{meaning}"
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(), spec

    def _run(self, solution: Solution, spec: dict[str, Any] | None, precise: bool = False) -> list[int]:
        if spec is None:
            return self._run_source(solution, precise)
        with self._pool.one() as worker:
            return self._ask(worker, spec, precise)

    def _ask(self, worker: SpecWorker, spec: dict[str, Any], precise: bool) -> list[int]:
        return worker.predict(spec, precise)[0]

    def _run_source(self, solution: Solution, precise: bool = True) -> list[int]:
        train, dev = (read_json(self.layout.public / f"{s}.json") for s in ("train", "dev"))
        rows = range(len(train["labels"])) if precise else quick_rows(train["labels"])
        texts, labels = ([train[part][r] for r in rows] for part in ("texts", "labels"))
        return self._code(solution, texts, labels, dev["texts"])

    def _test(self) -> dict[str, list[Any]]:
        """The sealed test: texts, labels, copies."""
        check_report(self.layout, self._manifest)
        return read_json(self.layout.test, self._manifest["sealed"]["test.json"])

    def _run_sealed(self, solution: Solution, test: dict[str, list[Any]], compiled: bool) -> list[int]:
        if solution.dialect == "spec" and not compiled:
            worker = SpecWorker(self.layout.report)
            try:
                return worker.predict(SPACE.parse(solution.text), precise=True)[0]
            finally:
                worker.close()
        train, dev = (read_json(self.layout.public / f"{s}.json") for s in ("train", "dev"))
        rows = zip(train["ids"] + dev["ids"], train["texts"] + dev["texts"], train["labels"] + self._labels, strict=True)
        _, texts, labels = zip(*sorted(rows), strict=True)
        return self._code(solution, list(texts), list(labels), test["texts"])

    def _code(self, solution: Solution, train_texts: list[str], labels: list[int], texts: list[str]) -> list[int]:
        ours = solution.dialect == "spec"
        return run_code(
            compile_spec(SPACE.parse(solution.text)) if ours else solution.text,
            train_texts,
            labels,
            texts,
            seconds=FULL_SECONDS if ours else self.code_seconds,
            memory_mb=FULL_MEMORY if ours else self.code_memory_mb,
            trusted=ours,
            unsafe=self.unsafe,
        )

    # --- remembering --------------------------------------------------------------------------------
    def _remembered(self, solution: Solution, key: str, run: Callable[[], list[int]], remember_pred: bool = True) -> Score:
        entry, seconds, cached = self._memory.get(key, lambda: {"pred": run()})
        if "failed" in entry:
            return Score(0.0, False, entry["failed"], solution_id=solution.id, seconds=seconds, cached=cached)
        if remember_pred:
            self._memory.note(self._name(solution.id), solution.id, key)
        return self._score(entry["pred"], solution.id, seconds, cached)

    def _score(self, pred: list[int], solution_id: str, seconds: float, cached: bool) -> Score:
        hits = [p == y for p, y in zip(pred, self._labels, strict=True)]
        value = macro(hits, self._labels)
        metrics = {"macro": value, "top1": sum(hits) / len(hits), "se": macro_se([float(h) for h in hits], self._labels)}
        classes = {self._classes[c]: {"n": len(h), "hits": sum(h)} for c, h in by_class(hits, self._labels).items()}
        return Score(value, True, "", metrics, {"classes": classes}, solution_id, seconds, cached)

    def _name(self, solution_id: str) -> str:
        """What stands for a solution on this data, by this method."""
        return f"{METHOD} {QUICK_METHOD} {QUICK_TEXTS} {self._data} {solution_id}"
