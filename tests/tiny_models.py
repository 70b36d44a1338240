"""Tiny random models with the embedded model's tokenizer: fast, float32, and far from any special case."""

import torch
from policy_space import tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from sia_nb.policy import adapter
from sia_nb.policy.sampling import Policy

SEGMENTS = (('{"c":',), ("1", "2", '"red"', '"reddish"'), (',"d":',), ("true", "null"), ("}",))
ASK = [{"role": "user", "content": "Name a colour."}]
SHAPE = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=256)


def llama(seed: int = 0, name: str = "tiny llama", **changes) -> Policy:
    """Two layers, six heads on two key-value heads, weights large enough that every token matters."""
    torch.manual_seed(seed)
    shape = {**SHAPE, "intermediate_size": 64, "initializer_range": 0.2, "tie_word_embeddings": True, **changes}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer()), **shape)).eval()
    return Policy(model, tokenizer(), name=name)


def gpt_oss(seed: int = 0) -> Policy:
    """gpt-oss in small: four experts, attention sinks, a sliding window in every second layer."""
    torch.manual_seed(seed)
    config = GptOssConfig(
        vocab_size=len(tokenizer()),
        **SHAPE,
        intermediate_size=16,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        initializer_range=0.2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return Policy(GptOssForCausalLM(config).eval(), tokenizer(), name="tiny gpt-oss")


LAYOUTS = {
    "qwen2": {},
    "mistral": {"sliding_window": None},
    "gemma": {"head_dim": 8},
    "gpt_neox": {},
    "gpt2": {},  # layers under another name, its linear layers transposed
    "mixtral": {"num_local_experts": 2},
}


def other(kind: str, seed: int = 0, **changes):
    """A model of another architecture, of the same small shape."""
    torch.manual_seed(seed)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    shape = {**SHAPE, "intermediate_size": 64, "initializer_range": 0.2, **ids, **LAYOUTS.get(kind, {}), **changes}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=len(tokenizer()), **shape)).eval()


def worn(policy: Policy, rank: int = 4, seed: int = 0) -> Policy:
    """The same policy with an adapter that changes its outputs, as if trained."""
    adapter.attach(policy, rank=rank, seed=seed)
    random = torch.Generator().manual_seed(seed)
    for value in adapter.parameters(policy):
        value.data += torch.randn(value.shape, generator=random) * 0.1
    return policy


def logits(policy: Policy, ids: list[int]) -> torch.Tensor:
    """Plain transformers, one sequence: [tokens, vocabulary]."""
    return policy.model(torch.tensor([ids])).logits[0]
