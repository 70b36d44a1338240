"""unsloth as the loader, tried on a stand-in that is built as unsloth is: forward passes of its own that end in ``run_attention``.

The stand-in keeps what the loader relies on (the mark on the modules, the function's name and arguments, the cut of long
inputs); the real package needs a GPU.
"""

import sys
import types

import pytest
import torch
from tiny_models import ASK, SEGMENTS, llama, worn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from sia_nb.errors import ModelError
from sia_nb.policy import adapter, model, prefix, unsloth
from sia_nb.training import forward

FILE = "unsloth.models.llama"


def run_attention(*, config, context, Q, K, V):
    return scaled_dot_product_attention(Q, K, V, is_causal=True, enable_gqa=True).transpose(1, 2)


def decode(self, input_ids, position_ids=None, use_cache=None, limit=64, **_):
    """A decoder's pass in unsloth's manner."""
    if not getattr(self, "_unsloth_allow_packed_overlength", False):
        input_ids = input_ids[:, :limit]
    x = self.embed_tokens(input_ids)
    places = torch.arange(x.shape[1])[None] if position_ids is None else position_ids
    cos, sin = self.rotary_emb(x, places)
    for layer in self.layers:
        a, y = layer.self_attn, layer.input_layernorm(x)
        q, k, v = (f(y).view(1, y.shape[1], -1, a.head_dim).transpose(1, 2) for f in (a.q_proj, a.k_proj, a.v_proj))
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        config = types.SimpleNamespace(flash_dense_kwargs=self.asked, flash_varlen_kwargs=None, sdpa_kwargs=None)
        out = sys.modules[FILE].run_attention(config=config, context=None, Q=q, K=k, V=v)
        x = x + a.o_proj(out.reshape(1, y.shape[1], -1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return BaseModelOutputWithPast(last_hidden_state=self.norm(x))


@pytest.fixture
def fast(monkeypatch):
    """A tiny llama with such a pass, taken over."""
    monkeypatch.setitem(sys.modules, FILE, types.SimpleNamespace(run_attention=run_attention))
    policy = llama()
    decoder = policy.model.get_decoder()
    decoder.asked = {"causal": True}
    decoder._unsloth_fast_path = True
    decoder.forward = types.MethodType(decode, decoder)
    unsloth.take_over(policy.model)
    return policy


def test_sampling_and_gradients_are_those_of_the_plain_model(fast):
    plain = worn(llama())
    prefix.check(fast.model)
    worn(fast)
    a, b = (p.sample(ASK, 12, segments=SEGMENTS, seed=1) for p in (fast, plain))
    assert [s.token_ids for s in a] == [s.token_ids for s in b]
    assert [s.logprob for s in a] == pytest.approx([s.logprob for s in b], abs=1e-4)
    rows, prompt = [s.token_ids for s in a], plain.prompt_ids(ASK)
    for budget in (4096, 32):
        for p in (fast, plain):
            for q in adapter.parameters(p):
                q.grad = None
            forward.step(p, [forward.Group(prompt, rows, SEGMENTS)], lambda s: (s[0].logp[:, :3].sum(), {}), token_budget=budget)
        for x, y in zip(adapter.parameters(fast), adapter.parameters(plain), strict=True):
            assert torch.allclose(x.grad, y.grad, rtol=1e-3, atol=1e-4 * float(y.grad.abs().max()))


def test_its_own_passes_stay_its_own(fast):
    ids = torch.tensor([[3, 141, 59, 2653]])
    assert torch.allclose(fast.model(ids, use_cache=False).logits, llama().model(ids).logits, atol=1e-4)
    unsloth.take_over(fast.model)  # a second model of the same file
    assert sys.modules[FILE].run_attention.args == (run_attention,)


def test_an_attention_that_is_another_is_refused(fast):
    fast.model.get_decoder().asked = {"softcap": 30.0}
    with pytest.raises(ModelError, match="soft cap"):
        prefix.check(fast.model)
    fast.model.get_decoder().asked = {"softmax_scale": 1.0}  # not what its own pass does
    with pytest.raises(ModelError, match="scales or caps"):
        prefix.check(fast.model)
    fast.model.config.sliding_window = 8
    with pytest.raises(ModelError, match="sliding window"):
        prefix.check(fast.model)


def test_what_unsloth_cannot_load_is_loaded_by_transformers_with_a_warning(tmp_path, monkeypatch):
    plain = llama()
    plain.model.save_pretrained(tmp_path)
    plain.tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(unsloth, "usable", lambda: True)
    monkeypatch.setitem(sys.modules, "unsloth", types.SimpleNamespace())  # no FastLanguageModel in it
    with pytest.warns(UserWarning, match="unsloth cannot load .*ImportError.*loaded by transformers instead"):
        policy = model.load(str(tmp_path), dtype="float32", threads=1)
    assert policy.sample(ASK, 2, segments=SEGMENTS, seed=0) == plain.sample(ASK, 2, segments=SEGMENTS, seed=0)
