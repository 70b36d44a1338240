"""The denoising task's processes: ``worker`` for specs, ``runner`` for each piece of Python. See ``tasks.process``."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..process import Failed, Worker, run_program
from .worker import pack

MIB = 1 << 20
KINDS = ("crash", "changed_input", "not_a_matrix", "wrong_shape")  # what the runner may say


def key(counts: sp.csr_matrix) -> str:
    """Names counts by their content."""
    fields, data = pack(counts)
    return hashlib.sha256(json.dumps(fields).encode() + data).hexdigest()


class SpecWorker(Worker):
    """A warm process that denoises by specs; it is sent the counts when it does not have them."""

    def __init__(self, memory_mb: int = 8000, seconds: float = 900.0):
        super().__init__("sia_nb.tasks.denoising.worker", None, memory_mb=memory_mb, seconds=seconds)

    def denoise(self, counts: sp.csr_matrix, name: str, spec: dict[str, Any]) -> np.ndarray:
        """What a spec makes of counts, float32 [n, g]; ``name``: their ``key``. Raises as ``Worker.ask``."""
        request = {"spec": spec, "counts": name}
        answer = self.ask(request)
        if "unknown" in answer:
            fields, data = pack(counts)
            self.ask({"counts": name, **fields}, data)
            answer = self.ask(request)
        return np.frombuffer(answer["attached"], np.float32).reshape(answer["shape"])


def run_code(
    code: str,
    counts: sp.csr_matrix,
    *,
    seconds: float,
    memory_mb: int,
    trusted: bool = False,
    unsafe: bool = False,
) -> np.ndarray:
    """What a Python solution makes of counts, float32 [n, g], in a sandbox that holds these counts and nothing else.

    Raises:
        Failed: it crashed, took too long or too much memory, changed its input, gave no matrix or one of another shape, or
            no sandbox may run it.
    """
    cells, genes = counts.shape
    size = 4 * cells * genes
    file = io.BytesIO()
    sp.save_npz(file, counts.astype(np.float64), compressed=False)
    found = run_program(
        Path(__file__).with_name("runner.py"),
        {"solution.py": code.encode("utf-8", "replace"), "counts.npz": file.getvalue()},
        "output",
        seconds=seconds,
        memory_mb=memory_mb,
        output_bytes=size + MIB,
        file_mb=64 + (2 * size + len(file.getvalue())) // MIB,
        trusted=trusted,
        unsafe=unsafe,
    )
    return _checked(found, cells, genes)


def _checked(data: bytes, cells: int, genes: int) -> np.ndarray:
    """The runner's output; nothing that it says of itself is believed."""
    length = int.from_bytes(data[:4], "big")
    try:
        answer = json.loads(data[4 : 4 + min(length, MIB)])
    except (ValueError, RecursionError):
        raise Failed("wrong_shape", "the output is not what the runner writes") from None
    if isinstance(answer, dict) and "failed" in answer:
        kind = answer["failed"] if answer["failed"] in KINDS else "crash"
        raise Failed(kind, str(answer.get("message"))[-2000:])
    values = data[4 + length :]
    if len(values) != 4 * cells * genes:
        raise Failed("wrong_shape", f"expected {cells} x {genes} numbers, got {len(values)} bytes of them")
    return np.frombuffer(values, np.float32).reshape(cells, genes)
