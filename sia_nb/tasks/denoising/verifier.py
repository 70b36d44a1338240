"""V: how well denoised train molecules predict the test molecules of the loop's cells; other cells only through ``seal``.

What runs a solution is given train molecules and returns a matrix; the host holds the test molecules, checks the matrix and
measures it (``checks``, ``metrics``). Remembered are the losses cell by cell, so that one verdict serves every gate.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from ...errors import ConfigError, DataError, InvalidSolution
from ..base import Score, Solution
from ..files import Files, sha256
from ..process import Failed, Pool, SharedPool
from ..remember import Memory
from . import data
from .checks import check
from .compile import compile_spec
from .files import Layout
from .gates import KINDS, MARGIN, Gate, published, right
from .instances import WHOLE
from .metrics import LOSSES, Measures, Yardstick, mean_se
from .process import SpecWorker, key, run_code
from .solution import FALLBACK, SPACE, check_code
from .split import Split

METHOD = 1
CODE_SECONDS, CODE_MEMORY = 120.0, 4000
FULL_SECONDS, FULL_MEMORY = 1800.0, 8000
BYTES_AN_ENTRY = 64  # more memory for a program on a large matrix
FILES = Files("denoising", "python -m sia_nb data --task denoising")


def meaning(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with fields that have no effect at one value, so that specs of one meaning share a verdict."""
    moot = {} if spec["normalisation"] in ("sqrt", "log") else {"reversed": False}
    return spec | moot | ({} if spec["shrink"] else {"keep": FALLBACK["keep"]})


class DenoisingVerifier:
    """Scores solutions on the loop's cells; safe to call from several threads, which share ``workers`` processes.

    Args:
        data_dir, seed: prepared data (``fetch``).
        cache_dir: where verdicts are remembered, one file each.
        instance: which data; empty: the first.
        workers: how many specs can be scored at once.
        unsafe_no_sandbox: run free Python even where no sandbox is usable.
        gate: poisson_norm (no worse than MAGIC), poisson_norm_openproblems (0.97, as published) or none.
        code_seconds, code_memory_mb: limits of one piece of free Python; more memory is given for large matrices.

    Raises:
        DataError: the data is not prepared, or altered. ConfigError: no such gate.
    """

    def __init__(
        self,
        data_dir: Path,
        cache_dir: Path,
        *,
        seed: int = 0,
        instance: str = "",
        workers: int = 1,
        unsafe_no_sandbox: bool = False,
        gate: str = "poisson_norm",
        code_seconds: float = CODE_SECONDS,
        code_memory_mb: int = CODE_MEMORY,
    ):
        if gate not in KINDS:
            raise ConfigError(f"gate: '{gate}' is no measure; expected one of {', '.join(KINDS)}.")
        self.layout, self.instance, self.gate = Layout(Path(data_dir), seed), instance or WHOLE, gate
        self.cache_dir, self.unsafe = Path(cache_dir), unsafe_no_sandbox
        self.code_seconds, self.code_memory_mb = code_seconds, code_memory_mb
        split = data.dev(self.layout, self.instance)
        self._train, self._test = split.train, split.test
        self._yardstick = Yardstick(split)
        self._name_of_train = key(split.train)
        self._data = sha256(f"{self._name_of_train} {key(split.test)}".encode())
        cells = split.train.shape[0]
        self._memory = Memory(self.cache_dir, FILES, lambda e: all(len(e["cells"][name]) == cells for name in LOSSES))
        self._pool: SharedPool | None = SharedPool.hold("denoising", Pool([SpecWorker() for _ in range(max(1, workers))]))

    # --- verdicts -----------------------------------------------------------------------------------
    def score(self, solution: Solution) -> Score:
        """The verdict on the loop's cells: value is soft-gated mse_norm. Never raises for a bad solution.

        Metrics: mse, mse_norm, poisson_norm, poisson_norm_openproblems, gate (the threshold), passes (1 or 0), se (of value).
        """
        return self._verdict(solution, soft=True)

    def full(self, solution: Solution, *, compiled: bool = False) -> Score:
        """The same under the hard gate: below it a solution is not valid. ``compiled`` runs a spec's compiled source."""
        return self._verdict(solution, soft=False, compiled=compiled)

    def paired_se(self, a: str, b: str) -> float:
        """Standard error of value(a) − value(b), soft-gated, cell by cell.

        Raises:
            DataError: an id was never scored as valid on this data, neither here nor by another process with
                this cache folder.
        """
        first, second = (self._gate(True).judge(self._recall(self._memory.of(self._name(i), i))).influence for i in (a, b))
        return mean_se(first - second)

    def measures(self, solution: Solution) -> Measures:
        """All measures of a solution on the loop's cells, whatever the gate.

        Raises:
            InvalidSolution: it does not run or its prediction is rejected; kind says why.
        """
        entry, _, _ = self._entry(solution)
        if "failed" in entry:
            kind, _, message = entry["failed"].partition(": ")
            raise InvalidSolution(kind, message)
        return self._recall(entry)

    def seal(self, solution: Solution, *, compiled: bool = False) -> dict[str, float]:
        """Denoise the sealed cells' train molecules, score on their test molecules; nothing is fitted on other cells.

        Returns:
            mse_norm, mse_norm_se, poisson_norm, poisson_norm_openproblems, passes_right and passes_published (hard gates, 1 or
            0), magic_mse_norm, magic_poisson_norm, ratio_to_magic (of mse_norm), n (cells).

        Raises:
            InvalidSolution: the solution does not run, or its prediction is rejected; kind says why.
        """
        split = data.sealed(self.layout, self.instance)
        yardstick, name = Yardstick(split), key(split.train)
        try:
            prediction = self._denoise(solution, split.train, name, compiled)
            check(prediction, split.train, split.test)
            reference = yardstick.measure(self._spec(FALLBACK, split.train, name))
        except Failed as error:
            raise InvalidSolution(error.kind, str(error)) from error
        found = yardstick.measure(prediction)
        return {
            "mse_norm": found.mse_norm,
            "mse_norm_se": mean_se(found.influence("mse")),
            "poisson_norm": found.poisson_norm,
            "poisson_norm_openproblems": found.poisson_norm_openproblems,
            "passes_right": float(right(reference).judge(found).passes),
            "passes_published": float(published().judge(found).passes),
            "magic_mse_norm": reference.mse_norm,
            "magic_poisson_norm": reference.poisson_norm,
            "ratio_to_magic": found.mse_norm / reference.mse_norm,
            "n": float(split.train.shape[0]),
        }

    def peers(self) -> dict[str, list[dict[str, Any]]]:
        """What known methods are worth on the loop's ("dev") and on the sealed cells; rows as ``peers.table`` makes them.

        Remembered beside the sealed cells, so that of several runs on the same data one does the work.
        """
        from .peers import table

        sealed = data.sealed(self.layout, self.instance)
        name = sha256(f"peers {METHOD}\n{self._data}\n{key(sealed.train)}{key(sealed.test)}".encode())
        memory = Memory(self.layout.private / "peers", FILES, lambda e: {"dev", "sealed"} <= set(e))
        dev = Split(self._train, self._test)
        return memory.get(name, lambda: {"dev": table(dev), "sealed": table(sealed)})[0]

    def close(self) -> None:
        """Let go of the worker processes; doing it twice is fine."""
        if self._pool is not None:
            self._pool.release()
            self._pool = None

    def __enter__(self) -> DenoisingVerifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- judging ------------------------------------------------------------------------------------
    @cached_property
    def magic(self) -> Measures:
        """MAGIC's measures at its defaults on the loop's cells, remembered."""
        try:
            return self.measures(Solution("spec", SPACE.dump(FALLBACK)))
        except InvalidSolution as error:
            raise DataError(f"denoising: MAGIC does not run on instance '{self.instance}': {error}") from error

    def _gate(self, soft: bool) -> Gate:
        if self.gate == "poisson_norm":
            return right(self.magic, margin=MARGIN, soft=soft)
        gate = published() if self.gate == "poisson_norm_openproblems" else Gate("none")
        return Gate(gate.measure, gate.threshold, soft)

    def _verdict(self, solution: Solution, *, soft: bool, compiled: bool = False) -> Score:
        try:
            entry, seconds, cached = self._entry(solution, compiled)
        except InvalidSolution as error:
            return Score(0.0, False, f"{error.kind}: {error}", solution_id=solution.id)
        if "failed" in entry:
            return Score(0.0, False, entry["failed"], solution_id=solution.id, seconds=seconds, cached=cached)
        measures = self._recall(entry)
        verdict = self._gate(soft).judge(measures)
        names = ("mse", "mse_norm", "poisson_norm", "poisson_norm_openproblems")
        metrics = {name: getattr(measures, name) for name in names}
        metrics |= {"gate": verdict.threshold, "passes": float(verdict.passes), "se": mean_se(verdict.influence)}
        return Score(verdict.value, not verdict.reason, verdict.reason, metrics, {}, solution.id, seconds, cached)

    def _recall(self, entry: dict[str, Any]) -> Measures:
        return self._yardstick.recall({name: np.array(entry["cells"][name]) for name in LOSSES})

    # --- running ------------------------------------------------------------------------------------
    def _entry(self, solution: Solution, compiled: bool = False) -> tuple[dict[str, Any], float, bool]:
        """Losses cell by cell, or how it failed; with seconds and whether it was remembered."""
        if solution.dialect == "spec":
            means = SPACE.dump(meaning(SPACE.parse(solution.text)))
        else:
            means = check_code(solution.text)
        how = "compiled" if compiled and solution.dialect == "spec" else solution.dialect
        name = sha256(f"{METHOD}\n{self._data}\n{how}\n{means}".encode("utf-8", "replace"))
        found = self._memory.get(name, self._run(solution, compiled))
        if how == solution.dialect and "failed" not in found[0]:
            self._memory.note(self._name(solution.id), solution.id, name)
        return found

    def _run(self, solution: Solution, compiled: bool) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            prediction = self._denoise(solution, self._train, self._name_of_train, compiled)
            check(prediction, self._train, self._test)
            cells = self._yardstick.measure(prediction).cells
            return {"cells": {name: [float(f"{x:.12g}") for x in cells[name]] for name in LOSSES}}

        return run

    def _denoise(self, solution: Solution, train: sp.csr_matrix, name: str, compiled: bool) -> np.ndarray:
        ours = solution.dialect == "spec"
        if ours and not compiled:
            return self._spec(SPACE.parse(solution.text), train, name)
        memory = FULL_MEMORY if ours else self.code_memory_mb
        return run_code(
            compile_spec(SPACE.parse(solution.text)) if ours else solution.text,
            train,
            seconds=FULL_SECONDS if ours else self.code_seconds,
            memory_mb=memory + BYTES_AN_ENTRY * train.shape[0] * train.shape[1] // 1_000_000,
            trusted=ours,
            unsafe=self.unsafe,
        )

    def _spec(self, spec: dict[str, Any], train: sp.csr_matrix, name: str) -> np.ndarray:
        with self._pool.pool.one() as worker:
            return worker.denoise(train, name, spec)

    def _name(self, solution_id: str) -> str:
        """What stands for a solution on this data, by this method."""
        return f"{METHOD} {self._data} {solution_id}"
