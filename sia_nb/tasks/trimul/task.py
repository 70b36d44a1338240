"""The task TriMul: a fast triangular multiplicative update (paper §4.2; GPU MODE's ``bioml/trimul``), on a CPU or a GPU.

The two devices have spaces, instances and metrics of their own, and are two tasks of one make, so that their results
never share a bar: ``trimul`` and ``trimul_cuda``. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ..base import Solution, SpecTask, find_instance
from .instances import instances
from .reference import ATOL, HIDDEN, RTOL
from .solution import FALLBACKS, SPACES, compile_solution, parse

METRICS = {
    "cpu": "The speed-up over the eager reference on the same machine: the geometric mean, over the shapes of the instance, of the\n"
    "reference's time divided by the candidate's, the two timed in turns. The reference scores 1; higher is better.",
    "cuda": "1500 / the geometric mean of the run times in µs over the shapes of the instance, by CUDA events around one call with\n"
    "the L2 cache flushed, so that the host's launches count. Higher is better.",
}
TOOLS = {
    "cpu": "torch and numpy are there, and a C++ compiler for torch.compile.",
    "cuda": "torch, with cuBLAS, and Triton are there.",
}


class TriMul(SpecTask):
    """Ties specification, space, verifier and reference together, on the CPU."""

    name = "trimul"
    title = "TriMul kernel on a CPU"
    metric = "speed-up over the eager reference on dev shapes"
    report_metric = "speedup"
    device: Literal["cpu", "cuda"] = "cpu"
    space = SPACES["cpu"]
    default = FALLBACKS["cpu"]  # the update step by step
    instances = instances("cpu")
    data_files = False

    def spec_text(self) -> str:
        """U, with the space and one example, the fallback."""
        from .verifier import CODE_SECONDS, MEMORY_MB

        text = Path(__file__).with_name("spec.md").read_text(encoding="utf-8")
        return text.format(
            where="a CPU with all its cores" if self.device == "cpu" else "one CUDA GPU",
            hidden=HIDDEN,
            metric=METRICS[self.device],
            atol=ATOL,
            rtol=RTOL,
            space=self.space.describe(),
            fallback=self.fallback().text,
            tools=TOOLS[self.device],
            seconds=CODE_SECONDS,
            memory=MEMORY_MB[self.device],
        )

    def parse(self, text: str) -> Solution:
        """The solution in ``text``; see ``solution.parse``."""
        return parse(text, self.device)

    def compile(self, solution: Solution) -> str:
        """The Python that a solution stands for."""
        return compile_solution(solution)

    def fetch(self, data_dir: Path, seed: int = 0) -> dict[str, Any]:
        """Nothing to fetch: inputs are drawn when they are needed."""
        return {"files": {}}

    def check(self, data_dir: Path, seed: int = 0) -> dict[str, Any] | None:
        """Nothing can be missing."""
        return {"files": {}}

    def verifier(
        self,
        data_dir: Path,
        cache_dir: Path,
        *,
        workers: int = 1,
        unsafe_no_sandbox: bool = False,
        seed: int = 0,
        instance: str = "",
    ):
        """A ``TriMulVerifier`` for an instance; ``seed`` has no meaning, since each call draws its own.

        Raises:
            ConfigError: no such instance, or no GPU where it needs one.
        """
        from .verifier import TriMulVerifier

        chosen = find_instance(self, instance)
        return TriMulVerifier(data_dir, cache_dir, instance=chosen.name, workers=workers, unsafe_no_sandbox=unsafe_no_sandbox)


class TriMulCuda(TriMul):
    """The same on a CUDA GPU: the seven published shapes, and single ones."""

    name = "trimul_cuda"
    title = "TriMul kernel on a GPU"
    metric = "1500 / run time in µs on dev shapes"
    report_metric = "score"
    device = "cuda"
    space = SPACES["cuda"]
    default = FALLBACKS["cuda"]
    instances = instances("cuda")
