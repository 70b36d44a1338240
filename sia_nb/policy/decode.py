"""One token for each of several rows, for decoders of llama's kind in float32 on a CPU: the same numbers, sooner.

Between the products of a decoder that is given a few tokens, each operation is small and costs its call. transformers' own
modules take some sixty a layer; here they are about twenty. The keys that a row wrote and those of the shared prompt are
attended to apart, by PyTorch's flash attention, which reads both where they lie; the two results are then one by their
sums of exponentials, as in flash decoding.

Imported by ``prefix`` and ``training.fused``; imports torch and ``frozen``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import rms_norm, silu

from .frozen import Frozen, joined

FAMILIES = ("llama", "mistral", "qwen2")  # one forward pass; others have like modules and scale or turn something in between
flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # and not the public name, which keeps the sums back


class Decode:
    """A decoder's step. Its weights and what stands in for its layers are those of the time when it is made."""

    def __init__(self, decoder: Any):
        self.embed, self.rotary, self.norm = decoder.embed_tokens, decoder.rotary_emb, decoder.norm
        self.layers = [_Layer(x) for x in decoder.layers]

    def __call__(self, memory: Any, slots: list[int], tokens: list[int]) -> torch.Tensor:
        """Feed ``tokens[i]`` to slot ``slots[i]`` of ``memory``; the last hidden states, [len(slots), hidden size].

        Every slot has written as many tokens. ``memory.lengths`` is the caller's to change.
        """
        place = memory.lengths[slots[0]]
        parts = _consecutive(slots)
        with torch.inference_mode():  # and not no_grad, whose calls cost more: two milliseconds a token of the embedded model
            x = self.embed(torch.tensor(tokens))
            cos, sin = self.rotary(x, torch.tensor([[len(memory.prefix.ids) + place]]))
            half = cos.shape[-1] // 2
            cos, sin = cos.view(2, half), torch.stack([-sin[0, 0, :half], sin[0, 0, half:]])
            for layer, old_k, old_v, keys, values in zip(
                self.layers, memory.prefix.keys, memory.prefix.values, memory.keys, memory.values, strict=True
            ):
                q, k, v = layer.project(x, cos, sin, old_k.shape[0])
                out, total = flash(q.flatten(2, 3), old_k[None], old_v[None], scale=layer.scaling)
                own = []
                for at, end, slot in parts:
                    k_, v_ = keys[slot : slot + end - at], values[slot : slot + end - at]
                    k_[:, :, place], v_[:, :, place] = k[at:end], v[at:end]
                    q_ = q[0, :, at:end].transpose(0, 1)
                    own.append(flash(q_, k_[:, :, : place + 1], v_[:, :, : place + 1], scale=layer.scaling))
                layer.mix(x, _both(out, total, own))
            return rms_norm(x, x.shape[-1:], self.norm.weight, self.norm.variance_epsilon)


class _Layer:
    """What a layer computes, but for the attention."""

    def __init__(self, layer: Any):
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.between = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.o, self.down = joined(attention.o_proj), joined(mlp.down_proj)
        self.gate_up = joined(mlp.gate_proj, mlp.up_proj)
        self.size, self.scaling = attention.head_dim, attention.scaling

    def project(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, kv: int) -> tuple[torch.Tensor, ...]:
        """[T, hidden size] -> q [1, KV heads, T, group, D], k [T, KV heads, D] after the rotary embedding, v likewise."""
        tokens = x.shape[0]
        qkv = self.qkv(rms_norm(x, x.shape[-1:], self.before.weight, self.before.variance_epsilon))
        qkv = qkv.view(tokens, -1, 2, self.size // 2)
        qk, v = qkv[:, :-kv], qkv[:, -kv:]
        qk = torch.addcmul(qk * cos, qk.flip(2), sin).view(tokens, -1, self.size)
        q = qk[:, :-kv].view(1, tokens, kv, -1, self.size).transpose(1, 2).contiguous()
        return q, qk[:, -kv:], v.reshape(tokens, kv, self.size)

    def mix(self, x: torch.Tensor, attended: torch.Tensor) -> None:
        """Add to ``x`` [T, hidden size] what the attention's result [T, heads × D] and the MLP give."""
        x += self.o(attended)
        both = self.gate_up(rms_norm(x, x.shape[-1:], self.between.weight, self.between.variance_epsilon))
        gate, up = both.chunk(2, -1)
        x += self.down(silu(gate).mul_(up))


def _both(out: torch.Tensor, total: torch.Tensor, own: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """One attention's result from that to the prompt and those to the rows' own tokens, [T, heads × D].

    Args:
        out: [1, KV heads, T × group, D], from the prompt, and ``total`` [1, KV heads, T × group], the log of its
            exponentials' sum.
        own: the same of each part of the rows, [rows, KV heads, group, D] and [rows, KV heads, group].
    """
    mine, sums = own[0] if len(own) == 1 else (torch.cat(x) for x in zip(*own, strict=True))
    tokens, kv, group, size = mine.shape
    out = out.view(kv, tokens, group, size).transpose(0, 1)
    share = sums.sub(total.view(kv, tokens, group).transpose(0, 1)).sigmoid_()
    return torch.lerp(out, mine, share[..., None]).reshape(tokens, -1)


def _consecutive(slots: list[int]) -> list[tuple[int, int, int]]:
    """The runs of slots that follow one another, as (first, end, slot of the first): each is a view of the memory."""
    cuts = [0, *(i for i in range(1, len(slots)) if slots[i] != slots[i - 1] + 1), len(slots)]
    return [(a, b, slots[a]) for a, b in pairwise(cuts)]


def decode(model: Any) -> Decode | None:
    """The model's step, or None where it is of another kind, or changed: it then has its own forward pass alone."""
    decoder = model.get_decoder()
    known = type(decoder).__module__ in {f"transformers.models.{x}.modeling_{x}" for x in FAMILIES}
    return Decode(decoder) if known and plain(decoder) else None


def plain(decoder: Any) -> bool:
    """Whether a llama-like decoder is in float32 on a CPU, its modules of its own family and none watched or replaced."""
    if decoder.config.hidden_act != "silu":
        return False
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in decoder.parameters()):
        return False
    for module in decoder.modules():
        forward = vars(module).get("forward")
        ours = isinstance(getattr(forward, "func", forward), Frozen)  # ``adapter.merged`` put it there
        if module._forward_hooks or module._forward_pre_hooks or not (forward is None or ours):
            return False
    parts = [decoder.norm]
    for layer in decoder.layers:
        parts += [layer.self_attn, layer.mlp, layer.input_layernorm, layer.post_attention_layernorm]
    return all(type(part).__module__ == type(decoder).__module__ for part in parts)
