"""Which number format is faster here: measured, because it depends on the processor.

One decoder layer of the model's size, with an adapter, goes forward and back, and forward alone as in sampling, in
float32 and in bfloat16. A processor with bfloat16 matrix units is several times faster with it, one without is slower.
Imported by ``model`` where the format is "auto".
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ..errors import ModelError

FORMATS = ("float32", "bfloat16")
TOKENS = (4, 128)  # rows and tokens of a forward and backward
FED = (1, 64)  # of a forward alone
LARGEST = 4096  # width of the layer that is measured, at most; the formats compare alike beyond


def fastest(cache: Path, config: Any, device: torch.device) -> str:
    """ "float32" or "bfloat16" for a model of ``config``; takes about half a second, once: the result is kept in ``cache``."""
    shape = _shape(config)
    key = f"{device.type}, {torch.get_num_threads()} threads, {shape['hidden_size']} x {shape['intermediate_size']}"
    known = _read(cache)
    if key not in known:
        known[key] = {name: _seconds(shape, getattr(torch, name), device) for name in FORMATS}
        with contextlib.suppress(OSError):  # a folder that cannot be written is measured for each time
            cache.parent.mkdir(parents=True, exist_ok=True)
            temporary = cache.with_name(f".{cache.name}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
            os.replace(temporary, cache)
    return min(FORMATS, key=lambda name: known[key][name])


def _shape(config: Any) -> dict[str, int]:
    config = config.get_text_config()
    try:
        width, wide = min(LARGEST, config.hidden_size), min(4 * LARGEST, config.intermediate_size)
        heads = config.num_attention_heads
        return {
            "hidden_size": width,
            "intermediate_size": wide,
            "num_attention_heads": heads,
            "num_key_value_heads": getattr(config, "num_key_value_heads", None) or heads,
            "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
        }
    except AttributeError as error:
        raise ModelError(f"model: {error}; dtype 'auto' cannot measure such a model. Name float32 or bfloat16.") from error


def _read(cache: Path) -> dict[str, dict[str, float]]:
    """What was measured before; a damaged file counts as none."""
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
        return {str(k): {name: float(v[name]) for name in FORMATS} for k, v in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _seconds(shape: dict[str, int], dtype: torch.dtype, device: torch.device) -> float:
    """The least time of a few tries."""
    from transformers import LlamaConfig, LlamaModel

    from . import adapter

    with torch.random.fork_rng(devices=[]):
        layer = LlamaModel(LlamaConfig(vocab_size=8, num_hidden_layers=1, pad_token_id=0, **shape)).to(device, dtype).eval()
    layer.get_decoder = lambda: layer
    policy = SimpleNamespace(model=layer, name="", forget=lambda: None)
    adapter.attach(policy)
    many, few = (torch.zeros(size, dtype=torch.long, device=device) for size in (TOKENS, FED))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        layer(input_ids=many, use_cache=False).last_hidden_state.sum().backward()
        with torch.no_grad():
            layer(input_ids=few, use_cache=False)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)
