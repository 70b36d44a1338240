"""The task of denoising single-cell RNA counts (paper §4.3), with OpenProblems' measures put right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base import Solution, SpecTask, find_instance
from .instances import instances
from .solution import FALLBACK, SPACE, parse


class Denoising(SpecTask):
    """Ties specification, space, data, verifier and reference together."""

    name = "denoising"
    title = "Single-cell denoising"
    metric = "mse_norm on dev, soft-gated"
    report_metric = "mse_norm"
    space = SPACE
    default = FALLBACK  # MAGIC at the library's defaults
    instances = instances()

    def spec_text(self) -> str:
        """U, with the space and one example, the fallback."""
        from .verifier import CODE_MEMORY, CODE_SECONDS

        text = Path(__file__).with_name("spec.md").read_text(encoding="utf-8")
        return text.format(space=SPACE.describe(), fallback=SPACE.dump(FALLBACK), seconds=CODE_SECONDS, memory=CODE_MEMORY)

    def parse(self, text: str) -> Solution:
        """The solution in ``text``; see ``solution.parse``."""
        return parse(text)

    def compile_spec(self, spec: dict[str, Any]) -> str:
        """The Python that a spec stands for."""
        from .compile import compile_spec

        return compile_spec(spec)

    def fetch(self, data_dir: Path, seed: int = 0, instance: str = "", file: Path | None = None) -> dict[str, Any]:
        """Prepare what is not there yet: every instance that needs no download, and ``instance``; see ``data.fetch``."""
        from .data import fetch

        return fetch(Path(data_dir), seed, instance, file)

    def check(self, data_dir: Path, seed: int = 0) -> dict[str, Any] | None:
        """The manifest of prepared data, None where it is not there yet; raises ``DataError`` where it was altered."""
        from .data import current
        from .files import Layout

        return current(Layout(Path(data_dir), seed))

    def verifier(
        self,
        data_dir: Path,
        cache_dir: Path,
        *,
        workers: int = 1,
        unsafe_no_sandbox: bool = False,
        seed: int = 0,
        instance: str = "",
        gate: str = "poisson_norm",
    ):
        """A ``DenoisingVerifier`` on prepared data.

        Raises:
            ConfigError: no such instance or gate. DataError: the data is not prepared, or altered.
        """
        from .verifier import DenoisingVerifier

        return DenoisingVerifier(
            data_dir,
            cache_dir,
            seed=seed,
            instance=find_instance(self, instance).name,
            workers=workers,
            unsafe_no_sandbox=unsafe_no_sandbox,
            gate=gate,
        )
