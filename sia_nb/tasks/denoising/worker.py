"""The process that answers denoising specs: it keeps counts, graphs and diffused states in memory.

Messages as ``tasks.wire`` has them; counts are named by a hash of their content:

    → {"counts": key, ...} and the counts, attached   ← {}
    → {"spec": {...}, "counts": key}                  ← {"shape": [n, g]} and float32 values, attached; {"unknown": true}
                                                        where the counts were not sent, or long ago

An error has a message and, where the spec does not suit the counts, its ``kind``. It reads no file and is sent train molecules
only. Run by ``process.SpecWorker``.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from ..wire import serve

if TYPE_CHECKING:
    import scipy.sparse as sp

HELD = 32  # data sets that stay in memory
PARTS = (("data", "<i4"), ("indices", "<i4"), ("indptr", "<i8"))


def pack(counts: sp.csr_matrix) -> tuple[dict[str, Any], bytes]:
    """Counts as fields of a message and attached bytes."""
    return {"shape": list(counts.shape), "nnz": int(counts.nnz)}, b"".join(
        getattr(counts, name).astype(kind).tobytes() for name, kind in PARTS
    )


def unpack(fields: dict[str, Any], data: bytes | bytearray) -> sp.csr_matrix:
    """The counts, int32 csr [n, g]."""
    import numpy as np
    import scipy.sparse as sp

    sizes, at, parts = (fields["nnz"], fields["nnz"], fields["shape"][0] + 1), 0, []
    for (_, kind), size in zip(PARTS, sizes, strict=True):
        parts.append(np.frombuffer(data, kind, size, at))
        at += parts[-1].nbytes
    return sp.csr_matrix(tuple(parts), shape=tuple(fields["shape"]))


def main(fd: int) -> None:
    """Serve until the socket closes."""
    import numpy as np

    from .engine import Engine

    engine, held = Engine(), OrderedDict()

    def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes | memoryview]:
        key = request["counts"]
        if "attached" in request:
            held[key] = unpack(request, request["attached"])
            while len(held) > HELD:
                held.popitem(last=False)
            return {}, b""
        if key not in held:
            return {"unknown": True}, b""
        held.move_to_end(key)
        found = np.ascontiguousarray(engine.denoise(held[key], request["spec"]), dtype=np.float32)
        return {"shape": list(found.shape)}, memoryview(found).cast("B")

    serve(fd, answer)


if __name__ == "__main__":
    main(int(sys.argv[1]))
