"""The forward pass of many continuations of one prompt, with the prompt's keys and values held once.

transformers' own cache repeats the prompt's keys and values for every row and copies all of them at every step.
Here the prompt is one shared block; each row has a slot of its own for what it wrote. The tokens of a step are
packed into one sequence without padding, however many each row feeds, so the linear layers see one long batch.
It plugs into any transformers decoder through its attention interface; the module weights stay as they are. One token
for each row, of a decoder of llama's kind, goes by a shorter way (``decode``).

Imported by ``sampling``, ``model`` and ``adapter`` and, for the way into a decoder's attention, by ``training.fused``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import lean  # noqa: F401 - before transformers

# isort: split
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from ..errors import ModelError
from . import unsloth
from .decode import Decode, decode

NAME = "sia_shared_prefix"
SUPPORTED = (
    "Known to work: llama, mistral (without a sliding window), qwen2, qwen3, mixtral, qwen2_moe, gemma, gpt_neox, gpt2, opt, phi, "
    "phi3, olmo2, starcoder2. Another model can be sampled from, not trained, behind a server: policy_url."
)
AGREE = 0.1  # how far our logits may be off the model's own, as a share of their norm: bfloat16's rounding, and no more
CHUNK = 256  # prompt tokens a forward; fixed, so that a reused beginning has the same bits as a computed one


class Prefix:
    """The keys and values of a prompt: per layer [KV heads, tokens, head size].

    Attributes:
        ids: the prompt's token ids.
        hidden: the last hidden state of each computed chunk's last token, [hidden size].
    """

    def __init__(self, ids: list[int]):
        self.ids = ids
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.hidden: torch.Tensor | None = None

    def begin(self, model: Any, reuse: list[Prefix]) -> None:
        """Compute the prompt, starting from the longest whole-chunk beginning that one of ``reuse`` has."""
        done = 0
        for other in reuse:
            same = next((i for i, (a, b) in enumerate(zip(self.ids, other.ids, strict=False)) if a != b), None)
            common = min(len(self.ids), len(other.ids)) if same is None else same
            common = min(common, len(self.ids) - 1) // CHUNK * CHUNK
            if common > done:
                done = common
                self.keys = [k[:, :done] for k in other.keys]
                self.values = [v[:, :done] for v in other.values]
        for at in range(done, len(self.ids), CHUNK):
            part = self.ids[at : at + CHUNK]
            hidden = _forward(model, part, list(range(at, at + len(part))), self)
            self.hidden = hidden[-1]

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
        """Causal attention of the next chunk; q [1, heads, T, D], k and v [1, KV heads, T, D]. Appends k and v."""
        if layer == len(self.keys):
            self.keys.append(k[0])
            self.values.append(v[0])
        else:
            self.keys[layer] = torch.cat([self.keys[layer], k[0]], 1)
            self.values[layer] = torch.cat([self.values[layer], v[0]], 1)
        tokens, total = k.shape[2], self.keys[layer].shape[1]
        mask = torch.ones(tokens, total, dtype=torch.bool, device=q.device).tril(total - tokens)
        keys, values = self.keys[layer][None], self.values[layer][None]
        return scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scaling, enable_gqa=True)


class Rows:
    """What up to ``rows`` continuations of a prefix wrote, ``room`` tokens each; the weights stay as at the first ``feed``."""

    def __init__(self, prefix: Prefix, rows: int, room: int):
        self.prefix = prefix
        heads, _, size = prefix.keys[0].shape
        like = prefix.keys[0]
        self.keys = [like.new_zeros(rows, heads, room, size) for _ in prefix.keys]
        self.values = [like.new_zeros(rows, heads, room, size) for _ in prefix.keys]
        self.lengths = [0] * rows
        self._decode: Decode | None = None
        self._model: Any = None  # whose step that is

    def fork(self, source: int, target: int) -> None:
        """Give slot ``target`` a copy of what slot ``source`` holds."""
        n = self.lengths[target] = self.lengths[source]
        for memory in (*self.keys, *self.values):
            memory[target, :, :n] = memory[source, :, :n]

    def feed(self, model: Any, slots: list[int], runs: list[list[int]]) -> torch.Tensor:
        """Feed ``runs[i]`` to slot ``slots[i]``; the last hidden states after each run, [len(slots), hidden size]."""
        if model is not self._model:
            self._model, self._decode = model, decode(model)
        device = self.keys[0].device
        start = [self.lengths[s] for s in slots]
        sizes = [len(r) for r in runs]
        if self._decode and set(sizes) == {1} and len(set(start)) == 1:
            hidden = self._decode(self, slots, [t for (t,) in runs])
            for s in slots:
                self.lengths[s] += 1
            return hidden
        row = torch.tensor([i for i, n in enumerate(sizes) for _ in range(n)], device=device)
        within = torch.tensor([j for n in sizes for j in range(n)], device=device)
        place = torch.tensor(start, device=device)[row] + within
        chosen = torch.tensor(slots, device=device)
        self._all = slots == list(range(self.keys[0].shape[0]))
        self._row, self._within, self._place, self._slot, self._chosen = row, within, place, chosen[row], chosen
        self._wide, self._span = max(sizes), max(a + n for a, n in zip(start, sizes, strict=True))
        self._uneven = len({a + n for a, n in zip(start, sizes, strict=True)}) > 1
        self._hide = torch.arange(self._span, device=device)[None] > place[:, None]
        positions = (place + len(self.prefix.ids)).tolist()
        hidden = _forward(model, [t for r in runs for t in r], positions, self)
        for s, n in zip(slots, sizes, strict=True):
            self.lengths[s] += n
        return hidden[torch.tensor(sizes, device=device).cumsum(0) - 1]

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
        """Attention of the packed tokens to the prefix and to their own row; shapes as in ``Prefix.attend``."""
        kv, tokens, size = k.shape[1:]
        group = q.shape[1] // kv
        keys, values = self.keys[layer], self.values[layer]
        keys[self._slot, :, self._place] = k[0].transpose(0, 1)
        values[self._slot, :, self._place] = v[0].transpose(0, 1)
        keys, values = keys[:, :, : self._span], values[:, :, : self._span]
        if not self._all:
            keys, values = keys[self._chosen], values[self._chosen]

        q = q[0].view(kv, group, tokens, size) * scaling
        old = q.reshape(kv, group * tokens, size) @ self.prefix.keys[layer].transpose(1, 2)
        old = old.view(kv, group, tokens, -1)
        own = (self._spread(q) @ keys.transpose(2, 3)).view(keys.shape[0], kv, group, self._wide, -1)
        own = self._gather(own)
        if self._wide > 1 or self._uneven:
            own = own.masked_fill(self._hide, float("-inf"))
        weights = torch.cat([old, own], -1).softmax(-1, dtype=torch.float32).to(q.dtype)
        length = old.shape[-1]
        out = weights[..., :length].reshape(kv, group * tokens, length) @ self.prefix.values[layer]
        out = out.view(kv, group, tokens, size)
        mine = (self._spread(weights[..., length:]) @ values).view(keys.shape[0], kv, group, self._wide, size)
        return (out + self._gather(mine)).reshape(1, kv * group, tokens, size)

    def _spread(self, x: torch.Tensor) -> torch.Tensor:
        """[KV heads, group, tokens, D] packed -> [rows, KV heads, group × the longest run, D], zeros behind a row's run."""
        kv, group, tokens, size = x.shape
        if self._wide == 1:
            return x.permute(2, 0, 1, 3)
        padded = x.new_zeros(int(self._chosen.shape[0]), self._wide, kv, group, size)
        padded[self._row, self._within] = x.permute(2, 0, 1, 3)
        return padded.permute(0, 2, 3, 1, 4).reshape(-1, kv, group * self._wide, size)

    def _gather(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, KV heads, group, the longest run, D] -> [KV heads, group, tokens, D]."""
        if self._wide == 1:
            return x[:, :, :, 0].permute(1, 2, 0, 3)
        return x[self._row, :, :, self._within].permute(1, 2, 0, 3)


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    memory = kwargs["memory"]
    if kwargs.get("sliding_window") or kwargs.get("softcap") or kwargs.get("s_aux") is not None:
        raise ModelError(
            "sampling: this model's attention has a sliding window, a soft cap or sinks, which local sampling does not "
            f"do. {SUPPORTED}"
        )
    scaling = kwargs.get("scaling") or module.head_dim**-0.5
    return memory.attend(module.layer_idx, query, key, value, scaling).transpose(1, 2), None


AttentionInterface.register(NAME, _attention)


@contextmanager
def _own_attention(config: Any) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _forward(model: Any, ids: list[int], positions: list[int], memory: Prefix | Rows) -> torch.Tensor:
    """``run`` without gradients."""
    with torch.no_grad():
        return run(model, ids, positions, memory)


def run(model: Any, ids: list[int], positions: list[int], memory: Any) -> torch.Tensor:
    """Last hidden states of packed tokens, [T, hidden size]; ``memory.attend`` does the attention of every layer."""
    decoder = model.get_decoder()
    device = decoder.get_input_embeddings().weight.device
    if getattr(decoder, unsloth.MARK, False):
        with unsloth.passing(memory):
            ids_, places = torch.tensor([ids], device=device), torch.tensor([positions], device=device)
            return decoder(input_ids=ids_, position_ids=places, use_cache=False).last_hidden_state[0]
    with _own_attention(decoder.config):
        out = decoder(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([positions], device=device),
            attention_mask=torch.zeros(1, 1, 1, 1, device=device),  # four dimensions: taken as it is, and ours ignores it
            use_cache=False,
            memory=memory,
        )
    return out.last_hidden_state[0]


def kind(model: Any) -> str:
    """What sort of model it is, for a message."""
    return f"a model of type '{model.config.model_type}' ({type(model).__name__})"


def check(model: Any) -> None:
    """Whether sampling here computes what the model itself computes, tried on a few tokens.

    Raises:
        ModelError: its attention cannot be taken over, or something stands between its last state and its logits; names
            the model's type and those that work.
    """
    decoder = model.get_decoder()
    if not getattr(decoder, "_supports_attention_backend", False):
        raise ModelError(f"model: {kind(model)} does not take its attention from transformers' interface. {SUPPORTED}")
    if getattr(decoder, unsloth.MARK, False) and getattr(decoder.config, "sliding_window", None):
        raise ModelError(f"model: {kind(model)} has a sliding window. {SUPPORTED}")
    ids = [i % model.config.get_text_config().vocab_size for i in range(1, 9)]
    prefix, head = Prefix(ids), model.get_output_embeddings()
    prefix.begin(model, [])
    if len(prefix.keys) != decoder.config.num_hidden_layers:
        raise ModelError(f"model: {kind(model)} has layers without an attention that can be taken over. {SUPPORTED}")
    with torch.no_grad():
        own = model(input_ids=torch.tensor([ids], device=head.weight.device), use_cache=False).logits[0, -1].float()
        ours = head(prefix.hidden).float()
    if not float((ours - own).norm()) <= AGREE * float(own.norm()):
        raise ModelError(f"model: {kind(model)} scales or caps its logits, which sampling here does not do. {SUPPORTED}")
