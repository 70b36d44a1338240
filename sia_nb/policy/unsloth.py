"""unsloth as the loader: its kernels for norms, rotary embeddings and quantised weights, our attention and our LoRA.

unsloth puts forward passes of its own in the place of transformers', which do not ask transformers' attention interface.
They all end in one function, ``run_attention`` of each of unsloth's model files, with queries and keys after the rotary
embedding. That is where a shared prompt comes in: during a pass that carries a memory (``passing``) the memory does the
attention, layer by layer in the order of the calls. Other passes are unsloth's alone.

Seen in unsloth 2026.10.9. What of another version does not fit is found at loading, by ``prefix.check``.
Imported by ``model`` and, for models loaded so, by ``prefix``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ModelError

MARK = "_unsloth_fast_path"  # what unsloth sets on every module that has its forward pass
_pass: list[Any] | None = None  # the memory of the pass in hand, and how many layers it has done


def usable() -> bool:
    """Whether there is a GPU, and unsloth is installed."""
    import torch

    return torch.cuda.is_available() and importlib.util.find_spec("unsloth") is not None


def load(source: Path | str, dtype: str, device: Any, cache: Path) -> Any:
    """The model of a folder or a Hugging Face name, in ``dtype``, with unsloth's forward pass; the tokenizer is left alone.

    Args:
        cache: where unsloth may write the code that it generates.

    Raises:
        ModelError: unsloth cannot load it; says what unsloth said.
    """
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")  # else each load asks the Hugging Face hub for a file
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(cache))  # else a folder beside the notebook
    import torch

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from unsloth import FastLanguageModel

            model, _ = FastLanguageModel.from_pretrained(
                str(source),
                max_seq_length=None,
                dtype=getattr(torch, dtype),
                load_in_4bit=False,
                device_map={"": str(device)},
                fix_tokenizer=False,
                use_gradient_checkpointing=False,
                use_exact_model_name=True,  # and not a copy of it under unsloth's name
                offload_embedding=False,
                local_files_only=Path(source).is_dir(),
            )
    except Exception as error:  # whatever it is: it is unsloth's, and says so
        raise ModelError(f"model: unsloth cannot load '{source}': {type(error).__name__}: {error}") from error
    return take_over(model.eval())


def take_over(model: Any) -> Any:
    """Have the attention of ``model`` ask the memory of the pass in hand; returns ``model``."""
    for name, module in list(sys.modules.items()):
        run = getattr(module, "run_attention", None) if name.startswith("unsloth.models.") else None
        if run is not None and not hasattr(run, "sia_nb"):
            ours = functools.partial(_attention, run)
            ours.sia_nb = True
            module.run_attention = ours
    model.get_decoder()._unsloth_allow_packed_overlength = True  # else packed rows are cut at the context's length
    return model


@contextlib.contextmanager
def passing(memory: Any) -> Iterator[None]:
    """Within it ``memory`` does the attention."""
    global _pass
    before, _pass = _pass, [memory, 0]
    try:
        yield
    finally:
        _pass = before


def _attention(run: Any, *, config: Any, context: Any, Q: Any, K: Any, V: Any) -> Any:
    """In the place of unsloth's ``run_attention``: Q [1, heads, T, D], K and V [1, KV heads, T, D]; gives [1, T, heads, D]."""
    if _pass is None:
        return run(config=config, context=context, Q=Q, K=K, V=V)
    asked = {**(config.flash_varlen_kwargs or {}), **(config.flash_dense_kwargs or {}), **(config.sdpa_kwargs or {})}
    if asked.get("softcap"):
        raise ModelError("sampling: this model's attention has a soft cap, which local sampling does not do.")
    memory, layer = _pass
    _pass[1] += 1
    scaling = asked.get("softmax_scale") or asked.get("scale") or Q.shape[-1] ** -0.5
    return memory.attend(layer, Q, K, V, scaling).transpose(1, 2)
