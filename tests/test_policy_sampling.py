"""Sampling: what comes out, with which probability, and that nothing but the seed decides."""

import math
from itertools import product

import pytest
import torch
from policy_space import SPACE, messages, policy

from sia_nb.errors import InvalidSolution, ModelError
from sia_nb.policy import prefix, sampling
from sia_nb.policy.sampling import Policy

SMALL = [('{"c":',), ("1", "2", '"red"', '"reddish"'), (',"d":',), ("true", "null"), ("}",)]
ASK = [{"role": "user", "content": "Name a colour."}]


def logits(p: Policy, prompt: list[int], ids: list[int]) -> torch.Tensor:
    """Plain transformers, one sequence, no cache of ours: the logits before each token of ``ids``."""
    with torch.no_grad():
        out = p.model(torch.tensor([[*prompt, *ids]])).logits[0].double()
    return out[len(prompt) - 1 : -1]


def masked(p: Policy, grammar, rows: torch.Tensor, ids: list[int]) -> float:
    """The log-probability of a path, by the definition."""
    total = 0.0
    for row, state, token in zip(rows, grammar.walk(ids), ids, strict=False):
        allowed = list(grammar.allowed(state))
        total += float(row[allowed].log_softmax(0)[allowed.index(token)])
    return total


@pytest.fixture(scope="module")
def drawn():
    return policy().sample(messages(), 6, segments=SPACE.segments(), seed=3)


def test_masked_samples_are_specs(drawn):
    assert all(SPACE.dump(SPACE.parse(s.text)) == s.text for s in drawn)
    assert len({s.text for s in drawn}) > 3
    assert all(s.stop == "end" and s.tokens == len(s.token_ids) for s in drawn)


def test_masked_logprob_is_what_plain_transformers_says(drawn):
    p = policy()
    grammar, prompt = p.grammar(SPACE.segments()), p.prompt_ids(messages())
    for s in drawn[:2]:
        ids = list(s.token_ids)
        assert s.logprob == pytest.approx(masked(p, grammar, logits(p, prompt, ids), ids), abs=2e-3)


def test_free_logprob_is_what_plain_transformers_says():
    p = policy()
    for s in p.sample(ASK, 3, max_tokens=12, seed=1):
        ids = list(s.token_ids)
        rows = logits(p, p.prompt_ids(ASK), ids).log_softmax(-1)
        assert s.logprob == pytest.approx(float(rows[range(len(ids)), ids].sum()), abs=2e-3)


def test_probabilities_of_a_grammar_sum_to_one_and_are_drawn_so():
    p = policy()
    drawn = p.sample(ASK, 300, segments=SMALL, seed=5)
    logprob = {s.text: s.logprob for s in drawn}
    grammar, prompt = p.grammar(SMALL), p.prompt_ids(ASK)
    every = ["".join(parts) for parts in product(*SMALL)]
    expected = {}
    for text in every:
        ids = grammar.encode(text)
        expected[text] = math.exp(masked(p, grammar, logits(p, prompt, ids), ids))
    assert sum(expected.values()) == pytest.approx(1, abs=1e-9)
    for text in every:
        share, se = sum(s.text == text for s in drawn) / 300, math.sqrt(expected[text] * (1 - expected[text]) / 300)
        assert abs(share - expected[text]) < 4 * se + 1e-3
        if text in logprob:
            assert logprob[text] == pytest.approx(math.log(expected[text]), abs=2e-3)


def test_temperature_zero_is_what_greedy_generation_gives():
    p = policy()
    ids = torch.tensor([p.prompt_ids(ASK)])
    peer = p.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, pad_token_id=2)
    a, b = p.sample(ASK, 2, temperature=0, max_tokens=24)
    assert a == b and list(a.token_ids) == peer[0, ids.shape[1] :].tolist()


def test_free_sampling_stops_at_the_end_token_or_at_max_tokens():
    p = policy()
    ask = [{"role": "user", "content": "Say yes."}]
    out = p.sample(ask, 16, max_tokens=12, seed=2)
    assert {s.stop for s in out} == {"end", "length"}
    for s in out:
        assert (s.token_ids[-1] == p.tokenizer.eos_token_id) == (s.stop == "end")
        assert s.tokens <= 12 and "<|im_end|>" not in s.text


def test_the_seed_alone_decides(drawn, monkeypatch):
    p = policy()
    assert p.sample(messages(), 6, segments=SPACE.segments(), seed=3) == drawn
    other = p.sample(messages(), 6, segments=SPACE.segments(), seed=4)
    assert [s.text for s in other] != [s.text for s in drawn]
    fewer = p.sample(messages(), 2, segments=SPACE.segments(), seed=3)
    assert [s.text for s in fewer] == [s.text for s in drawn[:2]]
    monkeypatch.setattr(sampling, "MEMORY", 3 * p.grammar(SPACE.segments()).longest * 2 * 30 * 3 * 64 * 4)
    split = p.sample(messages(), 6, segments=SPACE.segments(), seed=3)
    assert [s.token_ids for s in split] == [s.token_ids for s in drawn]
    assert [s.logprob for s in split] == pytest.approx([s.logprob for s in drawn], abs=1e-3)


def test_a_reused_prompt_gives_the_same_bits():
    p = policy()
    long = "The sky is blue. " * 52
    first, second = ([{"role": "user", "content": long + end}] for end in ("Why?", "How so, and since when?"))
    p.forget()
    fresh = p.sample(second, 4, max_tokens=6, seed=0)
    p.forget()
    p.sample(first, 1, max_tokens=1)
    shared = p._prefixes[0].keys[3][:, : prefix.CHUNK]
    assert p.sample(second, 4, max_tokens=6, seed=0) == fresh
    assert torch.equal(p._prefixes[0].keys[3][:, : prefix.CHUNK], shared)
    assert p.sample(second, 4, max_tokens=6, seed=0) == fresh


def test_changed_weights_are_seen_and_broken_ones_told():
    p = policy()
    before = p.sample(ASK, 2, max_tokens=4, seed=0)
    norm = p.model.model.norm.weight
    kept = norm.detach().clone()
    with torch.no_grad():
        norm.mul_(0.5)
    try:
        assert p.sample(ASK, 2, max_tokens=4, seed=0) != before
        with torch.no_grad():
            norm.fill_(float("nan"))
        with pytest.raises(ModelError, match="not finite"):
            p.sample(ASK, 2, max_tokens=4)
    finally:
        with torch.no_grad():
            norm.copy_(kept)
    assert p.sample(ASK, 2, max_tokens=4, seed=0) == before


def test_a_prompt_beyond_the_context_is_refused():
    with pytest.raises(ModelError, match=r"has \d{4,} tokens and the answer may have 160; the context .* holds 8192"):
        policy().sample([{"role": "user", "content": "word " * 8100}], 1)


def test_an_adapter_is_sampled_with_and_can_be_switched_off():
    from peft import LoraConfig, get_peft_model

    plain = policy()
    before = plain.sample(ASK, 3, segments=SMALL, seed=0)
    torch.manual_seed(0)
    adapted = get_peft_model(plain.model, LoraConfig(r=32, target_modules="all-linear", init_lora_weights=False))
    try:
        p = Policy(adapted, plain.tokenizer)
        got = p.sample(ASK, 3, segments=SMALL, seed=0)
        assert [s.logprob for s in got] != [s.logprob for s in before]
        ids = list(got[0].token_ids)
        expected = masked(p, p.grammar(SMALL), logits(p, p.prompt_ids(ASK), ids), ids)
        assert got[0].logprob == pytest.approx(expected, abs=2e-3)
        with adapted.disable_adapter():
            off = p.sample(ASK, 3, segments=SMALL, seed=0)
        assert [s.logprob for s in off] == pytest.approx([s.logprob for s in before], abs=1e-4)
    finally:
        adapted.unload()


@pytest.mark.slow
def test_free_sampling_never_writes_a_spec():
    valid = 0
    for s in policy().sample(messages(), 64, seed=0):
        try:
            valid += bool(SPACE.parse(s.text.strip()))
        except InvalidSolution:
            pass
    assert valid == 0
