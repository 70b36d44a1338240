"""The triangular multiplicative update as its definition says, the shapes it is timed and checked on, and their inputs.

The update is that of AlphaFold 2 (Jumper et al. 2021, supplement, algorithm 11, "outgoing edges"), as GPU MODE's
``bioml/trimul`` poses it: float32, no projection biases, a mask on both projected edges. The formula is written out
in ``reference``; nothing in it is fused or shortened, since candidates are measured against it.

Imports no torch at the top. It may import ``errors`` only.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from typing import Any, Literal

from ...errors import ConfigError

ATOL, RTOL = 2e-2, 2e-2  # every element: |Δ| ≤ ATOL + RTOL · |reference|
EPS = 1e-5  # of both layer norms
HIDDEN = 128
CAUCHY_SCALE = 2.0
ALIGN = 64  # values at whose multiples each tensor of a block begins
PROJECTIONS = ("left_proj", "left_gate", "right_proj", "right_gate", "out_gate")  # [H, C] each


@dataclass(frozen=True)
class Case:
    """One shape with the kind of its inputs: x [b, n, n, c], mask [b, n, n].

    Raises:
        ConfigError: a size below one, or an unknown distribution.
    """

    name: str
    n: int
    b: int
    c: int
    hidden: int = HIDDEN
    distribution: Literal["normal", "cauchy"] = "normal"
    masked: bool = False  # the mask is random 0 or 1, else all ones

    def __post_init__(self) -> None:
        for field in ("n", "b", "c", "hidden"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"trimul: case '{self.name}': {field} is {value!r}; expected a whole number of at least 1")
        if self.distribution not in ("normal", "cauchy"):
            raise ConfigError(f"trimul: case '{self.name}': distribution is {self.distribution!r}; expected normal or cauchy")

    @property
    def elements(self) -> int:
        """Elements of x and of the output."""
        return self.b * self.n * self.n * self.c


def case(n: int, b: int, c: int, distribution: str = "normal", masked: bool = False, hidden: int = HIDDEN) -> Case:
    """A case under its usual name, e.g. ``n256-b2-c384-masked``."""
    kind = ("-cauchy" if distribution == "cauchy" else "") + ("-masked" if masked else "")
    return Case(f"n{n}-b{b}-c{c}" + (f"-h{hidden}" if hidden != HIDDEN else "") + kind, n, b, c, hidden, distribution, masked)


BENCHMARK = (
    case(256, 2, 128),
    case(768, 1, 128, "cauchy"),
    case(256, 2, 384, masked=True),
    case(512, 1, 128),
    case(1024, 1, 128, "cauchy"),
    case(768, 1, 384, masked=True),
    case(1024, 1, 384),
)
CORRECTNESS = (
    case(32, 1, 128),
    case(32, 1, 128, masked=True),
    case(64, 2, 256, masked=True),
    case(64, 1, 768, "cauchy"),
    case(128, 1, 384, "cauchy", masked=True),
    case(128, 2, 128),
    case(256, 1, 128, masked=True),
    case(256, 1, 768),
    case(512, 2, 128, masked=True),
    case(1024, 1, 128, masked=True),
)
CPU_BENCHMARK = tuple(case(max(32, 5 * c.n // 64), c.b, c.c, c.distribution, c.masked) for c in BENCHMARK)
CPU_CORRECTNESS = (
    case(32, 1, 128, masked=True),
    case(32, 2, 256, "cauchy", masked=True),
    case(40, 1, 768),
    case(64, 1, 384, masked=True),
)


def check_shapes(x: Any, mask: Any, weights: dict[str, Any], hidden: int) -> None:
    """Nothing where the arguments fit each other.

    Raises:
        ConfigError: an argument is empty, not float32 or of a shape that does not fit; it is named.
    """
    if x.dim() != 4 or x.shape[1] != x.shape[2]:
        raise ConfigError(f"trimul: x has shape {list(x.shape)}; expected [B, N, N, C]")
    b, n, _, c = x.shape
    expected = {"x": (b, n, n, c), "mask": (b, n, n), **weight_shapes(c, hidden)}
    found = {"x": x, "mask": mask, **weights}
    for name, shape in expected.items():
        if name not in found:
            raise ConfigError(f"trimul: weight '{name}' is missing; expected {', '.join(weight_shapes(c, hidden))}")
        if tuple(found[name].shape) != shape:
            raise ConfigError(
                f"trimul: {name} has shape {list(found[name].shape)}; expected {list(shape)} beside x {list(x.shape)}"
            )
        if not all(shape):
            raise ConfigError(f"trimul: {name} has shape {list(shape)}; no size may be zero")
        if str(found[name].dtype) != "torch.float32":
            raise ConfigError(f"trimul: {name} is {found[name].dtype}; expected torch.float32")


def weight_shapes(c: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights, in the order in which they are drawn."""
    return {
        "norm.weight": (c,),
        "norm.bias": (c,),
        **{name: (hidden, c) for name in PROJECTIONS},
        "to_out_norm.weight": (hidden,),
        "to_out_norm.bias": (hidden,),
        "to_out": (c, hidden),
    }


def reference(x: Any, mask: Any, weights: dict[str, Any], *, hidden: int | None = None) -> Any:
    """The update on arguments that fit each other; see ``update``.

    Args:
        x: [B, N, N, C] float32. mask: [B, N, N]. weights: see ``weight_shapes``. hidden: H; None: from the weights.

    Returns:
        [B, N, N, C] float32.

    Raises:
        ConfigError: shapes or types that do not fit.
    """
    check_shapes(x, mask, weights, int(weights["left_proj"].shape[0]) if hidden is None else hidden)
    return update(x, mask, weights)


def update(x: Any, mask: Any, weights: dict[str, Any]) -> Any:
    """y = (LayerNorm_H(o) · g) W_outᵀ with o[b, i, j, d] = Σ_k left[b, i, k, d] · right[b, j, k, d], in float32, eagerly.

    left = (x̂ W_lpᵀ) · mask · σ(x̂ W_lgᵀ), right likewise, g = σ(x̂ W_ogᵀ), x̂ = LayerNorm_C(x).
    """
    import torch
    from torch.nn.functional import layer_norm, linear

    w = weights
    x = layer_norm(x, (x.shape[-1],), w["norm.weight"], w["norm.bias"], EPS)
    left, right = linear(x, w["left_proj"]), linear(x, w["right_proj"])
    left, right = left * mask.unsqueeze(-1), right * mask.unsqueeze(-1)
    left, right = left * linear(x, w["left_gate"]).sigmoid(), right * linear(x, w["right_gate"]).sigmoid()
    gate = linear(x, w["out_gate"]).sigmoid()
    out = torch.einsum("bikd,bjkd->bijd", left, right)
    out = layer_norm(out, (out.shape[-1],), w["to_out_norm.weight"], w["to_out_norm.bias"], EPS)
    return linear(out * gate, w["to_out"])


def places(case: Case) -> tuple[dict[str, tuple[int, tuple[int, ...]]], int]:
    """Where the inputs of a case stand in one block of float32: offset and shape by name, and the block's length."""
    shapes = {"x": (case.b, case.n, case.n, case.c), "mask": (case.b, case.n, case.n), **weight_shapes(case.c, case.hidden)}
    found, end = {}, 0
    for name, shape in shapes.items():
        found[name] = (end, shape)
        end += -(-math.prod(shape) // ALIGN) * ALIGN
    return found, end


def views(case: Case, block: Any) -> dict[str, Any]:
    """The inputs of a case as views of a block of at least ``places`` float32."""
    return {name: block[at : at + math.prod(shape)].view(shape) for name, (at, shape) in places(case)[0].items()}


class Inputs:
    """x, mask and weights of one case that stay where they are in memory while their values change.

    Args:
        case, device: the shape, and a torch device.
        seed: of the values drawn first; the same seed gives the same bits on like hardware.
        block: where they stand; None: in memory of their own.
    """

    def __init__(self, case: Case, seed: int, device: Any = "cpu", block: Any = None):
        import torch

        self.case, self.device = case, torch.device(device)
        self._tensors = views(case, torch.empty(places(case)[1], device=self.device) if block is None else block)
        self.x, self.mask = self._tensors["x"], self._tensors["mask"]
        self.weights = {name: self._tensors[name] for name in weight_shapes(case.c, case.hidden)}
        draw = self._generator(seed)
        if case.distribution == "cauchy":  # by its quantile function, which is finite for every float32 in [0, 1)
            self.x.uniform_(generator=draw).sub_(0.5).mul_(math.pi).tan_().mul_(CAUCHY_SCALE)
        else:
            self.x.normal_(generator=draw)
        if case.masked:
            self.mask.bernoulli_(0.5, generator=draw)
        else:
            self.mask.fill_(1)
        self._draw_weights(draw)
        self._base = {"x": self.x.clone(), "mask": self.mask.clone()}

    def _generator(self, seed: int) -> Any:
        import torch

        # a CPU's generator takes the low 32 bits of a seed alone, so equal ones there would give equal values
        mixed = hashlib.blake2b(str(seed).encode(), digest_size=4).digest()
        return torch.Generator(device=self.device).manual_seed(int.from_bytes(mixed, "little"))

    def _draw_weights(self, draw: Any) -> None:
        for w in self.weights.values():
            w.normal_(generator=draw)
            if w.dim() == 2:
                w.div_(math.sqrt(self.case.hidden))

    def change(self, seed: int, weights_seed: int | None = None) -> None:
        """Other values at the same addresses, cheaply: the first x and mask rolled by a random number of elements, x
        negated for odd seeds, and new weights (of ``weights_seed`` where given). The values depend on the seeds of the
        first and of this draw alone."""
        shift = random.Random(seed).randrange(1 << 40)
        for name, base in self._base.items():
            now, old, cut = self._tensors[name].view(-1), base.view(-1), shift % base.numel()
            now[:cut].copy_(old[old.numel() - cut :])
            now[cut:].copy_(old[: old.numel() - cut])
        if seed % 2:
            self.x.neg_()
        self._draw_weights(self._generator(seed if weights_seed is None else weights_seed))

    def changed(self, seed: int, weights_seed: int | None = None) -> str:
        """Name of the first input that is not what ``change`` with these seeds made it; empty where all are."""
        import torch

        now = {name: t.clone() for name, t in self.tensors().items()}
        self.change(seed, weights_seed)
        return next((name for name, t in self.tensors().items() if not torch.equal(t, now[name])), "")

    def tensors(self) -> dict[str, Any]:
        """Everything by name."""
        return dict(self._tensors)


def make_inputs(case: Case, seed: int, device: Any = "cpu") -> tuple[Any, Any, dict[str, Any]]:
    """x, mask and weights of a case, generated on the device from a seed; distributions as in GPU MODE's harness."""
    inputs = Inputs(case, seed, device)
    return inputs.x, inputs.mask, inputs.weights
