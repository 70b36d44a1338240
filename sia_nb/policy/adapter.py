"""The adapter that the weight lever trains: LoRA on every linear layer of the decoder, in PEFT's format.

An adapter is put into ``policy.model`` in place, so the policy samples with it at once. The weights under it never
change: the base model is the same model with the adapter off, which is also the reference of every KL term. On disk
an adapter is what PEFT writes, so that it loads anywhere, and one file more, ``base.json``, which says for which base
model it was trained and what its bytes were. Experts that are one three-dimensional parameter (gpt-oss) get their
LoRA through PEFT's ``target_parameters``. Imports torch and peft; imported by training and ``phases``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ModelError, StoreError
from ..store import sha256
from .frozen import TOGETHER, Frozen, Layer, can_join
from .prefix import SUPPORTED, kind

if TYPE_CHECKING:
    from .sampling import Policy

NAME = "default"
ALPHA = 32  # the update is (ALPHA / rank) B A: a step of Adam moves the outputs alike at every rank, so one learning rate does
RANKS = range(1, 257)
WEIGHTS, CONFIG, BASE = "adapter_model.safetensors", "adapter_config.json", "base.json"
FORMAT = 1
PREFIX = "base_model.model."  # what PEFT puts before the base model's own names
SAMPLED = 4096  # numbers of each weight that the fingerprint reads


def attach(policy: Policy, *, rank: int = 32, seed: int = 0) -> None:
    """Put a fresh adapter into ``policy.model``, in the place of one that is there; the base weights are frozen.

    A is drawn as a linear layer's weight (uniform, Kaiming), B is 0, so that the outputs are the base model's. Both
    are float32 whatever the base model's format.

    Raises:
        ModelError: the rank is out of range, or the policy is a served one, which has no weights here.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear

    from .lora import LoraLinear

    model = _model(policy)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank not in RANKS:
        raise ModelError(f"adapter: rank {rank!r} is out of range; expected a whole number from {RANKS[0]} to {RANKS[-1]}.")
    detach(policy)
    modules, parameters_ = _targets(model)
    config = LoraConfig(
        r=rank, lora_alpha=ALPHA, target_modules=modules, target_parameters=parameters_ or None, task_type="CAUSAL_LM"
    )
    config.base_model_name_or_path = policy.name
    inject_adapter_in_model(config, model, NAME)
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is torch.nn.Linear:  # and not a quantised one
            module.__class__ = LoraLinear
    random = torch.Generator().manual_seed(seed)
    for name, value in _adapter(model).items():
        value.data = value.data.float()
        if ".lora_A." in name:
            bound = 1 / math.sqrt(value.shape[1])
            value.data.copy_((torch.rand(value.shape, generator=random) * 2 - 1) * bound)
        else:
            value.data.zero_()
    model.eval()
    policy.forget()


def detach(policy: Policy) -> None:
    """Take the adapter out; ``policy.model`` is the base model again, bit for bit, its weights frozen."""
    model = _model(policy)
    for name, module in _wrappers(model).items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, module.get_base_layer())
    vars(model).pop("peft_config", None)
    policy.forget()


def parameters(policy: Policy) -> list[torch.nn.Parameter]:
    """The adapter's trainable parameters, in the model's own order.

    Raises:
        ModelError: there is no adapter.
    """
    return list(_attached(policy).values())


def save(policy: Policy, folder: Path | str) -> str:
    """Write the adapter to ``folder``, whole or not at all; returns the SHA-256 of its weights' file.

    Raises:
        ModelError: there is no adapter. StoreError: the disk is full or the folder not writable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {
        PREFIX + name.replace(f".{NAME}.", "."): value.detach().cpu().contiguous() for name, value in _attached(policy).items()
    }
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{folder.name}-????????"):  # by a process that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            new = work / "new"
            new.mkdir()
            save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
            policy.model.peft_config[NAME].save_pretrained(new)
            config = json.loads((new / CONFIG).read_text(encoding="utf-8"))
            config["target_modules"].sort()  # a set in memory, in another order in every process
            (new / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            digest = sha256(new / WEIGHTS)
            base = {"format": FORMAT, "name": policy.name, "fingerprint": fingerprint(policy), "adapter_sha256": digest}
            (new / BASE).write_text(json.dumps(base, indent=1) + "\n", encoding="utf-8")
            if folder.exists():
                os.replace(folder, work / "old")
            os.replace(new, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        said = getattr(error, "strerror", None) or error
        raise StoreError(f"adapter: cannot write {folder}: {said}. Free some space and call it again.") from error
    return digest


def rank(policy: Policy) -> int:
    """The rank of the adapter that the policy wears."""
    return int(policy.model.peft_config[NAME].r)


def load(policy: Policy, folder: Path | str) -> None:
    """Put the adapter of ``folder`` into ``policy.model``, in the place of one that is there.

    Raises:
        ModelError: a file is missing, truncated or altered, or the adapter is another base model's. The policy then is as
            it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in (WEIGHTS, CONFIG, BASE):
        if not (folder / name).is_file():
            raise ModelError(
                f"adapter: {folder / name} is missing; expected an adapter's folder with {WEIGHTS}, {CONFIG}, {BASE}."
            )
    try:
        base = json.loads((folder / BASE).read_text(encoding="utf-8"))
        expected, digest, trained_on = base["fingerprint"], base["adapter_sha256"], base["name"]
        format_ = base["format"]
        rank = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["r"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"adapter: {folder / BASE} or {CONFIG} beside it is damaged ({error!r}); take another copy.") from error
    if format_ != FORMAT:
        raise ModelError(f"adapter: {folder / BASE} has format {format_!r}, expected {FORMAT}.")
    found = sha256(folder / WEIGHTS)
    if found != digest:
        raise ModelError(
            f"adapter: {folder / WEIGHTS} has SHA-256 {found}, expected {digest}: truncated or altered. Take another copy."
        )
    found = fingerprint(policy)
    if found != expected:
        raise ModelError(
            f"adapter: {folder} was trained on the base model '{trained_on}' (fingerprint {expected[:12]}…), but the policy's is "
            f"'{policy.name}' ({found[:12]}…). Load that base model, or train a new adapter."
        )
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"adapter: {folder / WEIGHTS} cannot be read: {error}") from error
    worn = _wrappers(policy.model), vars(policy.model).get("peft_config")
    attach(policy, rank=rank)
    own = {PREFIX + name.replace(f".{NAME}.", "."): value for name, value in _adapter(policy.model).items()}
    wrong = sorted(own.keys() ^ tensors.keys()) or [n for n in own if own[n].shape != tensors[n].shape]
    if wrong:
        detach(policy)
        _put_back(policy, *worn)
        raise ModelError(f"adapter: {folder / WEIGHTS} does not fit the model's layers and rank {rank}: {', '.join(wrong[:3])}.")
    for name, value in own.items():
        value.data.copy_(tensors[name])
    policy.forget()


@contextmanager
def reference(policy: Policy) -> Iterator[None]:
    """Within it the model is the base model: the adapter is off. Does nothing where there is none."""
    wrappers = [m for m in _model(policy).modules() if _is_wrapper(m)]
    for wrapper in wrappers:
        wrapper.enable_adapters(False)
    try:
        yield
    finally:
        for wrapper in wrappers:
            wrapper.enable_adapters(True)


@contextmanager
def merged(policy: Policy) -> Iterator[None]:
    """Within it the adapter is added into the float32 weights, so that sampling pays nothing for it.

    Layers in another format keep it apart, where the sum would round the update away. All are frozen in the layout that
    sampling reads fastest. The base model keeps its tensors throughout, so nothing is ever subtracted.
    A model without an adapter is frozen likewise. Not for training: gradients do not reach the adapter.
    """
    from .lora import LoraLinear

    frozen: list[LoraLinear] = []
    plain: list[torch.nn.Linear] = []
    policy.forget()
    try:
        if not _adapter(_model(policy)):
            for linears in _of_one_input(policy.model.get_decoder().layers, torch.nn.Linear):
                for linear, product in zip(linears, _frozen([Layer(x) for x in linears]), strict=True):
                    linear.forward = product
                    plain.append(linear)
        for alike in _of_one_input(_model(policy), LoraLinear):
            for layer, product in zip(alike, _frozen([_worn(x) for x in alike]), strict=True):
                layer.frozen = product
                frozen.append(layer)
        yield
    finally:
        for linear in plain:
            vars(linear).pop("forward", None)
        for layer in frozen:
            layer.frozen = None
        policy.forget()


def _of_one_input(within: torch.nn.Module, kind: type) -> Iterator[list[Any]]:
    """The modules of exactly this kind, those together that are given one and the same input."""
    for parent in within.modules():
        left = {n: m for n, m in parent.named_children() if type(m) is kind}
        for names in TOGETHER:
            if all(n in left for n in names):
                yield [left.pop(n) for n in names]
        yield from ([m] for m in left.values())


def _worn(layer: Any) -> Layer:
    """A LoRA layer for sampling: in float32 with the update in its weight."""
    base, a, b, scale = layer.base_layer, layer.lora_A[NAME].weight, layer.lora_B[NAME].weight, layer.scaling[NAME]
    if base.weight.dtype != torch.float32:
        return Layer(base, a, b, scale)
    return Layer(base, merged=torch.add(base.weight.detach(), b.detach() @ a.detach(), alpha=scale))


def _frozen(layers: list[Layer]) -> list[Any]:
    """A function in the place of each of the layers, one product for all where they can be joined."""
    if len(layers) > 1 and can_join(*layers):
        product = Frozen(*layers)
        return [partial(product, part=i) for i in range(len(layers))]
    return [Frozen(layer) for layer in layers]


def fingerprint(policy: Policy) -> str:
    """SHA-256 over the base model's parameters: names, shapes and a sample of the numbers, rounded to bfloat16.

    So it is the same for a bfloat16 model loaded as float32, and takes no longer for a large one.
    """
    digest = hashlib.sha256()
    for name, value in sorted(_base(_model(policy)).items()):
        flat = value.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // SAMPLED)].cpu()
        some = some.bfloat16().view(torch.int16) if some.is_floating_point() else some
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(some.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _model(policy: Policy) -> Any:
    if getattr(policy, "model", None) is None:
        raise ModelError(
            f"adapter: the policy '{getattr(policy, 'name', '')}' is served elsewhere and has no weights here to adapt; use a "
            "local model, or allow harness updates only."
        )
    return policy.model


def _is_wrapper(module: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def _wrappers(model: Any) -> dict[str, Any]:
    """The outermost of the modules that an adapter put in the place of the base model's, by name."""
    return {n: m for n, m in model.named_modules() if _is_wrapper(m) and ".base_layer" not in n}


def _put_back(policy: Policy, wrappers: dict[str, Any], config: Any) -> None:
    """Undo ``detach``: the very modules that were there, so that an optimiser of their parameters goes on with them."""
    for name, module in wrappers.items():
        parent, _, own = name.rpartition(".")
        setattr(policy.model.get_submodule(parent), own, module)
    if config is not None:
        policy.model.peft_config = config
    policy.forget()


def _adapter(model: Any) -> dict[str, torch.nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if ".lora_A." in n or ".lora_B." in n}


def _attached(policy: Policy) -> dict[str, torch.nn.Parameter]:
    found = _adapter(_model(policy))
    if not found:
        raise ModelError(f"adapter: the policy '{policy.name}' has no adapter; attach or load one first.")
    return found


def _base(model: Any) -> dict[str, torch.Tensor]:
    """The base model's parameters by their own names, whether or not an adapter is attached."""
    adapter = _adapter(model)
    return {n.replace(".base_layer", ""): p for n, p in model.named_parameters() if n not in adapter}


def _targets(model: Any) -> tuple[list[str], list[str]]:
    """Names, without their layer, of the decoder's linear layers, and of its experts' three-dimensional parameters."""
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer, with its weight transposed

    layers = _layers(model)
    modules = {n.rpartition(".")[2] for n, m in layers.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    experts = {n.partition(".")[2] for n, p in layers.named_parameters() if p.ndim == 3}
    if not modules:
        raise ModelError(f"adapter: {kind(model)} has no linear layers in its decoder that LoRA could adapt. {SUPPORTED}")
    return sorted(modules), sorted(experts)


def _layers(model: Any) -> torch.nn.ModuleList:
    """The decoder's layers, whatever their list is called.

    Raises:
        ModelError: there is no such list.
    """
    decoder = model.get_decoder()
    count = decoder.config.get_text_config().num_hidden_layers
    for module in decoder.children():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(f"adapter: {kind(model)} has no list of {count} decoder layers that LoRA could adapt. {SUPPORTED}")
