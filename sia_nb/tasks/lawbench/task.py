"""The task LawBench: 191 charges of Chinese criminal law from the text of the case (paper §4.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base import Solution, SpecTask, find_instance
from .instances import WHOLE, instances
from .solution import FALLBACK, SPACE, parse


class LawBench(SpecTask):
    """Ties specification, space, data, verifier and reference together."""

    name = "lawbench"
    title = "LawBench, 191 charges"
    metric = "macro accuracy on dev"
    report_metric = "top1"
    space = SPACE
    default = FALLBACK  # word counts and naive Bayes at the library's defaults
    instances = instances()

    def spec_text(self) -> str:
        """U, with the space and one example, the fallback."""
        from .counts import QUICK_TEXTS
        from .verifier import CODE_MEMORY, CODE_SECONDS

        text = Path(__file__).with_name("spec.md").read_text(encoding="utf-8")
        return text.format(
            space=SPACE.describe(),
            fallback=SPACE.dump(FALLBACK),
            texts=QUICK_TEXTS,
            seconds=CODE_SECONDS,
            memory=CODE_MEMORY,
        )

    def parse(self, text: str) -> Solution:
        """The solution in ``text``; see ``solution.parse``."""
        return parse(text)

    def compile_spec(self, spec: dict[str, Any]) -> str:
        """The Python that a spec stands for."""
        from .compile import compile_spec

        return compile_spec(spec)

    def fetch(self, data_dir: Path, seed: int = 0) -> dict[str, Any]:
        """Download, check, split and count what is not there yet; see ``data.fetch``."""
        from .data import fetch

        return fetch(Path(data_dir), seed)

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
    ):
        """A ``LawBenchVerifier`` on prepared data; a ``SubsetVerifier`` where ``instance`` is a subset of the charges.

        Raises:
            ConfigError: no such instance. DataError: the data is not prepared, or altered.
        """
        chosen = find_instance(self, instance)
        if chosen != WHOLE:
            from .subset import SubsetVerifier

            return SubsetVerifier(
                data_dir, cache_dir, chosen.name, seed=seed, workers=workers, unsafe_no_sandbox=unsafe_no_sandbox
            )
        from .verifier import LawBenchVerifier

        return LawBenchVerifier(data_dir, cache_dir, seed=seed, workers=workers, unsafe_no_sandbox=unsafe_no_sandbox)
