"""V on an instance: macro accuracy over its charges' dev texts after fitting its train texts only.

An instance is small, so its verdict is exact: nothing is thinned or stopped early, and ``score`` and
``full`` are one verdict. Rows of the shared counts are taken; no data is prepared anew. Verifiers of
one data folder share their processes, so that sixteen instances do not need sixteen of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import InvalidSolution
from ..base import Score, Solution
from ..process import SharedPool
from .files import read_json, sha256
from .instances import subsets
from .process import SpecWorker
from .solution import SPACE
from .verifier import METHOD, LawBenchVerifier

SUBSET_METHOD = 1


class SubsetVerifier(LawBenchVerifier):
    """Scores solutions on one instance; the arguments as ``LawBenchVerifier``'s and the instance's name.

    Raises:
        DataError: the data is not prepared, or altered.
    """

    def __init__(self, data_dir: Path, cache_dir: Path, instance: str, **options: Any):
        super().__init__(data_dir, cache_dir, **options)
        self.subset = subsets()[instance]
        new = self.subset.rows(self._labels)
        self._labels = [self._labels[r] for r in new]
        self._fit = self.subset.fit_rows(read_json(self.layout.public / "labels.json"))
        self._request = {"key": sha256(repr((self._fit, new)).encode())[:16], "fit": self._fit, "new": new}
        self._mark = f"instance {SUBSET_METHOD} {instance} {self._request['key']}"
        self._shared: SharedPool | None = SharedPool.hold(self.layout.public.resolve(), self._pool)
        self._pool = self._shared.pool

    def score(self, solution: Solution) -> Score:
        """The verdict on the dev texts of the instance's charges: value is macro accuracy; metrics macro, top1, se."""
        return self.full(solution)

    def full(self, solution: Solution, *, compiled: bool = False) -> Score:
        """The same verdict; ``compiled`` runs a spec's compiled scikit-learn source instead."""
        try:
            key, spec = self._key(solution)
        except InvalidSolution as error:
            return Score(0.0, False, f"{error.kind}: {error}", solution_id=solution.id)
        if compiled and spec is not None:
            return self._remembered(solution, sha256(f"compiled {key}".encode()), lambda: self._run_source(solution), False)
        return self._remembered(solution, key, lambda: self._run(solution, spec, True))

    def seal(self, solution: Solution, *, compiled: bool = False) -> dict[str, float]:
        """Fit on the instance's train texts, score on the sealed test texts of its charges; the size of the training
        set is what makes an instance, so dev is not added to it as it is for the whole set.

        Returns and raises as ``LawBenchVerifier.seal``.
        """
        return super().seal(solution, compiled=compiled)

    def close(self) -> None:
        """Let go of the processes; doing it twice is fine."""
        if self._shared is not None:
            self._shared.release()
            self._shared = None

    def _key(self, solution: Solution) -> tuple[str, dict[str, Any] | None]:
        key, spec = super()._key(solution)
        return sha256(f"{self._mark}\n{key}".encode()), spec

    def _name(self, solution_id: str) -> str:
        return f"{METHOD} {self._data} {self._mark} {solution_id}"

    def _ask(self, worker: SpecWorker, spec: dict[str, Any], precise: bool) -> list[int]:
        return worker.predict(spec, precise, self._request)[0]

    def _run_source(self, solution: Solution, precise: bool = True) -> list[int]:
        texts, labels = self._train()
        dev = read_json(self.layout.public / "dev.json")["texts"]
        return self._code(solution, texts, labels, [dev[r] for r in self._request["new"]])

    def _train(self) -> tuple[list[str], list[int]]:
        train = read_json(self.layout.public / "train.json")
        return [train["texts"][r] for r in self._fit], [train["labels"][r] for r in self._fit]

    def _test(self) -> dict[str, list[Any]]:
        test = super()._test()
        rows = self.subset.rows(test["labels"])
        return {part: [values[r] for r in rows] for part, values in test.items()} | {"rows": rows}

    def _run_sealed(self, solution: Solution, test: dict[str, list[Any]], compiled: bool) -> list[int]:
        if solution.dialect == "code" or compiled:
            return self._code(solution, *self._train(), test["texts"])
        ids = read_json(self.layout.public / "train.json")["ids"]  # the report's counts stand in the order of these
        worker = SpecWorker(self.layout.report)
        try:
            request = {"key": "sealed", "fit": [ids[r] for r in self._fit], "new": test["rows"]}
            return worker.predict(SPACE.parse(solution.text), True, request)[0]
        finally:
            worker.close()
