"""Inside the sandbox: holds the inputs, runs the reference or a candidate, and does what ``session.Session`` asks.

What it needs of torch it takes before any candidate's code is there. A candidate that changes this process all the same
changes no verdict for the better: the host has the clock, the reference's process has the right outputs, and this one
has neither.
"""

from __future__ import annotations

import importlib.util
import linecache
import mmap
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from ...errors import SandboxError, SiaError
from ..wire import serve
from .reference import ATOL, RTOL, Case, Inputs, reference, views

COLD = 1 << 22  # float32 values that take the place of all else in a core's own caches
WATCHED = ("", "nn.functional", "Tensor", "cuda", "cuda.Event", "cuda.Stream", "linalg", "random")


class Rejected(Exception):
    """Why a candidate's call does not count; ``kind`` is the word that its verdict starts with."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class Runner:
    """One process's state; each public method is a request."""

    def __init__(self, descriptors: tuple[int, int], sizes: tuple[int, int], role: str, device: str, threads: int):
        import torch

        self.torch, self.role, self.device = torch, role, device
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        reads, both = role == "reference", mmap.PROT_READ | mmap.PROT_WRITE
        self._maps = [
            mmap.mmap(descriptors[0], sizes[0], prot=both),
            mmap.mmap(descriptors[1], sizes[1], prot=mmap.PROT_READ if reads else both),
        ]
        with warnings.catch_warnings():  # the reference's process can only read outputs
            warnings.simplefilter("ignore")
            self.block, self.shared = (torch.frombuffer(m, dtype=torch.float32) for m in self._maps)
        self._own = mmap.mmap(-1, sizes[1]) if reads and device == "cpu" else None  # the same kind of memory as a candidate's
        self.stored = None if self._own is None else torch.frombuffer(self._own, dtype=torch.float32)
        self._other = torch.ones(COLD) if reads and device == "cpu" else None
        self.function: Any = reference if reads else None
        self.case: Case | None = None
        self.held: Inputs | None = None  # what draws; on a CPU in the reference's process alone
        self.given: dict[str, Any] = {}
        self.base = 0
        self.drawn: tuple[int, int | None] = (0, None)
        self.output: Any = None
        self.copy: Any = torch.empty(0)
        self.loads = 0
        self.isfinite, self.synchronize = torch.isfinite, torch.cuda.synchronize
        self.empty_like, self.tensor_type, self.copy_ = torch.empty_like, torch.Tensor, torch.Tensor.copy_
        self.before = self._namespaces()
        if device == "cuda":
            from .timing import Clocks

            self.clocks_of = Clocks(torch)

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Do what a request asks; its answer carries the request's nonce."""
        fields = {k: v for k, v in request.items() if k not in ("op", "nonce")}
        try:
            found = getattr(self, request["op"])(**fields) or {}
        except (Rejected, SiaError):
            raise
        except MemoryError as error:
            raise Rejected("memory", "out of memory") from error
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            if "allocate memory" in words or "OutOfMemoryError" in words:
                raise Rejected("memory", words[:500]) from error
            raise Rejected("crash", _where(error)) from error
        return {**found, "nonce": request["nonce"]}, b""

    # --- requests -----------------------------------------------------------------------------------
    def about(self) -> dict[str, Any]:
        """What runs here: torch's version, the GPU's name; ``why`` says why a wanted GPU cannot be used, empty if it can."""
        found = {"torch": self.torch.__version__, "name": "", "why": ""}
        if self.device == "cuda":
            try:
                self.torch.cuda.init()
                found["name"] = self.torch.cuda.get_device_name()
            except (RuntimeError, AssertionError) as error:
                found["why"] = str(error).splitlines()[0][:300]
        return found

    def load(self, code: str) -> None:
        """Take a candidate's module; its ``trimul`` is what is called from now on."""
        if "torch._dynamo" in sys.modules:
            self.torch._dynamo.reset()
        self.held = self.output = self.function = None
        self.given = {}
        self.loads += 1
        name = f"solution_{self.loads}"
        path = Path(f"{name}.py").resolve()
        path.write_text(code, encoding="utf-8")
        linecache.checkcache()
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.function = module.trimul

    def prepare(self, case: dict[str, Any], base: int) -> None:
        """Make room for the inputs of a case, at the same addresses as long as the case and ``base`` stay."""
        wanted = Case(**case)
        if self.given and self.case == wanted and self.base == base:
            return
        self.held, self.output, self.given = None, None, {}
        self.case, self.base = wanted, base
        if self.device == "cpu" and self.role == "candidate":
            self.given = views(wanted, self.block)
            return
        self.held = Inputs(wanted, base, self.device, self.block if self.device == "cpu" else None)
        self.given = self.held.tensors()
        if self.device == "cuda":
            self.synchronize()

    def draw(self, seed: int, weights_seed: int | None = None, ones: bool = False) -> None:
        """Change the inputs; ``ones``: with a mask of ones."""
        self.held.change(seed, weights_seed)
        self.drawn = (seed, weights_seed)
        if ones:
            self.held.mask.fill_(1)
        if self._other is not None:  # or the one that drew would find x in its caches, where the candidate does not
            self._other.add_(1)

    def call(self, **draw: Any) -> None:
        """Run the update once; its output then stands in the shared memory (a CPU's) or in a copy (a GPU's)."""
        if draw:
            self.draw(**draw)
        given = dict(self.given)
        y = self.function(given.pop("x"), given.pop("mask"), given)
        self._checked(y)
        self.output = y
        self._store()

    def null(self, **draw: Any) -> None:
        """What ``call`` does beside running the update."""
        if draw:
            self.draw(**draw)
        self._checked(self.output)
        self._store()

    def burst(self, seeds: list[int], null: bool = False) -> None:
        """``call``, or ``null``, on the draw of each seed."""
        for seed in seeds:
            (self.null if null else self.call)(seed=seed)

    def again(self) -> None:
        """Store the last output once more: it differs from before where it was still being computed."""
        time.sleep(0.2)
        self._store()

    def give(self) -> None:
        """Bring a GPU's stored output into the shared memory."""
        if self.device == "cuda" and self.role == "candidate":
            self.copy_(self.shared[: self.copy.numel()].view(self.copy.shape), self.copy)

    def unchanged(self) -> dict[str, Any]:
        """Name of the first input that is no longer as it was drawn, empty for none."""
        return {"changed": self.held.changed(*self.drawn)}

    def patched(self) -> dict[str, Any]:
        """Functions of torch and time that a candidate has replaced by its own."""
        return {"names": [n for n, v in self._namespaces().items() if n in self.before and self._foreign(self.before[n], v)]}

    def compare(self, shape: list[int]) -> dict[str, Any]:
        """The reference's last output against that in the shared memory, whole.

        Returns:
            finite; worst: the largest |Δ| / (ATOL + RTOL · |reference|), at most 1 where all is well; at, found, expected:
            where that is, if it is more.

        Raises:
            SandboxError: the reference's own output is not finite, so that nothing can be judged by it.
        """
        y = self.output.reshape(-1)
        other = self.shared[: y.numel()]
        if self.device == "cuda":
            other = other.to(y.device)
        excess = (other - y).abs_().div_(y.abs().mul_(RTOL).add_(ATOL))
        worst = float(excess.max())  # NaN wherever one of the two is not finite
        if worst <= 1:
            return {"finite": True, "worst": worst}
        if not bool(self.isfinite(y).all()):
            raise SandboxError(f"trimul: the reference gives NaN or infinite values on inputs {shape} drawn from {self.drawn}")
        bad = ~self.isfinite(other)
        if bool(bad.any()):
            return {"finite": False, "at": _place(int(bad.int().argmax()), shape)}
        at = int(excess.argmax())
        found, expected = float(other[at]), float(y[at])
        return {"finite": True, "worst": worst, "at": _place(at, shape), "found": found, "expected": expected}

    def clocks(self, budget: float) -> dict[str, Any]:
        """Both CUDA clocks on the present case, for about ``budget`` seconds each; see ``timing.Clocks.measure``."""
        self.held, self.output, self.given = None, None, {}
        return self.clocks_of.measure(self.function, self.case, self.base, seconds=budget)

    def rates(self) -> dict[str, Any]:
        """The machine's copy and matmul rates; see ``floor.measure_rates``."""
        from .floor import measure_rates

        return measure_rates(self.device)

    # --- parts --------------------------------------------------------------------------------------
    def _checked(self, y: Any) -> None:
        want = self.given["x"]
        if type(y) is not self.tensor_type:
            raise Rejected("wrong_type", f"expected a plain torch.Tensor, got {type(y).__name__}")
        if y.dtype != want.dtype or y.device != want.device or str(y.layout) != "torch.strided":
            raise Rejected("wrong_type", f"expected {want.dtype} on {want.device}, got {y.dtype} on {y.device}")
        if y.shape != want.shape:
            raise Rejected("wrong_shape", f"expected {list(want.shape)}, got {list(y.shape)}")

    def _store(self) -> None:
        y = self.output
        if self.device == "cpu":
            into = self.shared if self._own is None else self.stored
            self.copy_(into[: y.numel()].view(y.shape), y)
            return
        if self.copy.shape != y.shape or self.copy.device != y.device:
            self.copy = self.empty_like(y, memory_format=self.torch.contiguous_format)
        self.copy_(self.copy, y)  # in the stream's order: work on another stream is not waited for
        self.synchronize()

    def _namespaces(self) -> dict[str, Any]:
        found = {f"time.{k}": v for k, v in vars(time).items() if callable(v)}
        for path in WATCHED:
            owner = self.torch
            for part in filter(None, path.split(".")):
                owner = getattr(owner, part)
            prefix = "torch." + (path + "." if path else "")
            found |= {prefix + k: v for k, v in list(vars(owner).items()) if callable(v) and not k.startswith("__")}
        return found

    @staticmethod
    def _foreign(old: Any, new: Any) -> bool:
        """Whether something else than torch put ``new`` where ``old`` stood."""
        return new is not old and not str(getattr(new, "__module__", "")).startswith("torch")


def _place(index: int, shape: list[int]) -> list[int]:
    out = []
    for size in reversed(shape):
        index, rest = divmod(index, size)
        out.append(rest)
    return out[::-1]


def _where(error: Exception) -> str:
    """The line of a candidate's code that failed, and the error."""
    lines = traceback.format_exception(error)
    own = [part for part in lines if "solution_" in part][-1:]
    return "".join([*own, lines[-1]])[-2000:].strip()


def main(fd: str, *rest: str) -> None:
    """Serve until the socket closes."""
    descriptors, sizes = tuple(map(int, rest[:2])), tuple(map(int, rest[2:4]))
    serve(int(fd), Runner(descriptors, sizes, rest[4], rest[5], int(rest[6])).answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
