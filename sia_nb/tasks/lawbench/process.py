"""LawBench's processes: ``worker`` for specs, ``runner`` for each piece of Python. See ``tasks.process``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..process import Failed, Worker, run_program

OUTPUT_BYTES = 4 << 20


class SpecWorker(Worker):
    """A warm process that turns specs into predictions from one folder of counts."""

    def __init__(self, counts: Path, memory_mb: int = 6000, seconds: float = 120.0):
        super().__init__("sia_nb.tasks.lawbench.worker", counts, memory_mb=memory_mb, seconds=seconds)

    def predict(
        self, spec: dict[str, Any], precise: bool = False, subset: dict[str, Any] | None = None
    ) -> tuple[list[int], float]:
        """Predictions of a spec for the new texts, and the seconds they took; ``precise``: not by a quick ``fast.Engine``.

        ``subset``: rows of fitted and new texts that count, as ``worker`` describes. Raises as ``Worker.ask``.
        """
        answer = self.ask({"spec": spec, "precise": precise} | ({"subset": subset} if subset else {}))
        return answer["pred"], answer["seconds"]


def run_code(
    code: str,
    train_texts: list[str],
    train_labels: list[int],
    texts: list[str],
    *,
    seconds: float,
    memory_mb: int,
    trusted: bool = False,
    unsafe: bool = False,
) -> list[int]:
    """Predictions of a Python solution, made in a sandbox that holds these texts and labels and nothing else.

    Raises:
        Failed: it crashed, took too long or too much memory, gave a wrong shape, or no sandbox may run it.
    """
    job = {"code": code, "train_texts": train_texts, "train_labels": train_labels, "texts": texts}
    found = run_program(
        Path(__file__).with_name("runner.py"),
        {"input.json": json.dumps(job).encode("ascii")},
        "output.json",
        seconds=seconds,
        memory_mb=memory_mb,
        output_bytes=OUTPUT_BYTES,
        trusted=trusted,
        unsafe=unsafe,
    )
    return _checked(_answer(found), len(texts))


def _answer(data: bytes) -> Any:
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        raise Failed("wrong_shape", "the output is not JSON") from None
    if not isinstance(answer, dict):
        raise Failed("wrong_shape", "the output is not what the runner writes")
    if "error" in answer:
        raise Failed("crash", str(answer["error"])[-2000:])
    return answer.get("pred")


def _checked(pred: Any, expected: int) -> list[int]:
    if not isinstance(pred, list):
        raise Failed("wrong_shape", f"expected a list of {expected} class numbers, got {str(pred)[:80]}")
    if len(pred) != expected:
        raise Failed("wrong_shape", f"expected {expected} class numbers, got {len(pred)}")
    for p in pred:
        if isinstance(p, bool) or not isinstance(p, int) or not 0 <= p < 191:
            raise Failed("wrong_shape", f"expected class numbers from 0 to 190, found {p!r:.80}")
    return pred
