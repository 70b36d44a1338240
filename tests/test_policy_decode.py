"""The step of one token a row: what the decoder's own forward pass gives, and nothing else where it does not apply."""

from contextlib import nullcontext

import pytest
import torch
from policy_space import policy as embedded
from policy_space import tokenizer
from tiny_models import ASK, SEGMENTS, gpt_oss, llama, other, worn

from sia_nb.policy import adapter, prefix
from sia_nb.policy.decode import Decode
from sia_nb.policy.prefix import Prefix, Rows
from sia_nb.policy.sampling import Policy

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES = {
    "grouped queries": {},
    "a key for each query": {"num_key_value_heads": 6},
    "one key for all": {"num_key_value_heads": 1},
    "large heads": {"head_dim": 20},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "llama 3's rotary embedding": {"rope_parameters": LLAMA3},
}
MODELS = {
    **{name: lambda changes=changes: llama(**changes) for name, changes in SHAPES.items()},
    "mistral": lambda: Policy(other("mistral"), tokenizer(), name="tiny mistral"),
    "qwen2": lambda: Policy(other("qwen2"), tokenizer(), name="tiny qwen2"),
}
OTHERS = ("gemma", "gpt_neox", "gpt2", "mixtral", "qwen3", "granite", "cohere", "olmo2", "smollm3")


@pytest.fixture(params=MODELS)
def policy(request):
    """A tiny policy whose biases and norms are not those that a model starts with."""
    made = MODELS[request.param]()
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in made.model.parameters():
            if value.ndim == 1:
                value += 0.3 * torch.randn(value.shape, generator=random)
    return made


@pytest.fixture
def steps(monkeypatch):
    """The numbers of rows that each step of one token had; after ``steps.off()`` there are none."""
    call = Decode.__call__

    class Steps(list):
        @staticmethod
        def off():
            monkeypatch.setattr(prefix, "decode", lambda model: None)

    counted = Steps()

    def spied(self, memory, slots, tokens):
        counted.append(len(slots))
        return call(self, memory, slots, tokens)

    monkeypatch.setattr(Decode, "__call__", spied)
    return counted


def own_logprobs(policy: Policy, ask, sample) -> list[float]:
    """By plain transformers, one sequence, no cache of ours."""
    prompt, ids = policy.prompt_ids(ask), list(sample.token_ids)
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(ids)), ids].tolist()


@pytest.mark.parametrize("dressed", ["plain", "worn"])
@pytest.mark.parametrize("merging", [False, True])
def test_free_samples_have_the_logprobs_of_the_forward_pass(policy, steps, dressed, merging):
    if dressed == "worn":
        worn(policy)
    with adapter.merged(policy) if merging else nullcontext():
        drawn = policy.sample(ASK, 6, max_tokens=12, seed=1)
        greedy = policy.sample(ASK, 2, max_tokens=12, temperature=0)
        assert steps
        steps.off()
        assert [s.token_ids for s in policy.sample(ASK, 2, max_tokens=12, temperature=0)] == [s.token_ids for s in greedy]
    for s in drawn:
        assert s.logprobs == pytest.approx(own_logprobs(policy, ASK, s), abs=1e-3)


def test_masked_samples_are_those_of_the_forward_pass(policy, steps):
    with adapter.merged(worn(policy)):
        got = policy.sample(ASK, 10, segments=SEGMENTS, seed=1)
        steps.off()
        expected = policy.sample(ASK, 10, segments=SEGMENTS, seed=1)
    assert [s.token_ids for s in got] == [s.token_ids for s in expected]
    for a, b in zip(got, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-3)


def test_rows_that_part_end_and_stay_behind_have_the_states_of_the_forward_pass(policy, steps):
    """Slots are forked, left out from the middle and fed in another order; then one is behind the others."""
    prompt = [3, 141, 59, 2653, 58]
    fed: dict[int, list[int]] = {s: [] for s in range(6)}

    def feed(slots, tokens):
        for s, t in zip(slots, tokens, strict=True):
            fed[s].append(t)
        hidden = rows.feed(policy.model, slots, [[t] for t in tokens])
        for s, state in zip(slots, hidden, strict=True):
            ids = torch.tensor([[*prompt, *fed[s]]])
            with torch.no_grad():
                expected = policy.model.get_decoder()(ids).last_hidden_state[0, -1]
            assert (state - expected).norm() < 1e-5 * expected.norm()

    start = Prefix(prompt)
    start.begin(policy.model, [])
    rows = Rows(start, 6, 10)
    feed([0], [11])
    for target in range(1, 6):
        rows.fork(0, target)
        fed[target] = list(fed[0])
    feed([0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
    feed([0, 1, 3, 5], [7, 8, 9, 10])
    feed([5, 0, 1, 3], [17, 18, 19, 20])
    assert list(steps) == [1, 6, 4, 4]
    feed([1, 2], [21, 22])  # of two lengths
    assert len(steps) == 4
    feed([2, 4], [23, 24])
    feed([2], [25])
    assert list(steps) == [1, 6, 4, 4, 1]
    rows.fork(2, 0)
    fed[0] = list(fed[2])
    feed([0, 2], [26, 26])
    assert rows.lengths == [len(fed[s]) for s in range(6)]


def test_models_of_other_families_have_their_own_forward_pass_alone(steps):
    for kind in OTHERS:
        assert prefix.decode(other(kind)) is None, kind
    assert prefix.decode(gpt_oss().model) is None
    assert prefix.decode(llama(hidden_act="gelu").model) is None
    assert prefix.decode(llama().model.bfloat16()) is None
    for kind in ("gpt2", "gpt_neox", "qwen3"):
        Policy(other(kind), tokenizer()).sample(ASK, 3, max_tokens=5)
    assert not steps


def test_what_watches_or_replaces_a_module_is_still_asked(steps):
    policy, seen = llama(), []
    handle = policy.model.model.layers[1].mlp.register_forward_hook(lambda *given: seen.append(given))
    policy.sample(ASK, 2, max_tokens=4)
    assert not steps and len(seen) == 4
    handle.remove()
    policy.sample(ASK, 2, max_tokens=4, seed=1)
    assert steps
    policy.model.model.norm.forward = lambda x: x
    assert prefix.decode(policy.model) is None
    del policy.model.model.norm.forward
    with adapter.merged(policy):
        assert prefix.decode(policy.model)
        policy.model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *given: seen.append(given))
        assert prefix.decode(policy.model) is None


def test_the_embedded_model_samples_while_rows_end(steps):
    policy = embedded()
    ask = [{"role": "user", "content": "Say yes."}]
    with adapter.merged(policy):
        drawn = policy.sample(ask, 16, max_tokens=12, seed=2)
        few = policy.sample(ask, 2, max_tokens=12, seed=2, first=5)
    assert {s.stop for s in drawn} == {"end", "length"} and len(set(steps)) > 2
    for s in drawn:
        assert s.logprobs == pytest.approx(own_logprobs(policy, ask, s), abs=2e-3)
    assert [s.token_ids for s in few] == [s.token_ids for s in drawn[5:7]]
