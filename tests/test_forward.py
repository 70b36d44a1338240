"""Scoring and the backward pass, against plain transformers on one full sequence at a time."""

import functools

import pytest
import torch
from policy_space import SPACE
from policy_space import policy as embedded
from tiny_models import ASK, SEGMENTS, gpt_oss, llama, logits, worn

from sia_nb.errors import ModelError
from sia_nb.policy import adapter
from sia_nb.training import forward
from sia_nb.training.attention import Prompt, Rows, dense
from sia_nb.training.forward import Group, log_probs, step

OTHER = [{"role": "user", "content": "Another, and be quick about it: which shade do you like?"}]


@functools.cache
def tiny():
    return worn(llama())


def rows_of(policy, ask=ASK, n=10, seed=0):
    """Masked rows of two lengths, some of them equal."""
    rows = [s.token_ids for s in policy.sample(ask, n, segments=SEGMENTS, seed=seed)]
    assert len(set(rows)) < len(rows) and len(set(map(len, rows))) > 1
    return rows


def oracle(policy, group):
    """logp [N, L] by the definition, from the logits of each full sequence."""
    grammar = policy.grammar(group.segments) if group.segments else None
    longest = max(map(len, group.rows))
    logp, mask = [], []
    for row in group.rows:
        states = grammar.walk(row) if grammar else None
        out = logits(policy, [*group.prompt_ids, *row])[len(group.prompt_ids) - 1 : -1] / group.temperature
        places, m = [], torch.zeros(longest, dtype=torch.bool)
        for i, token in enumerate(row):
            allowed = list(grammar.allowed(states[i])) if grammar else range(out.shape[1])
            logs = (out[i, allowed] if grammar else out[i]).log_softmax(0)
            m[i] = len(allowed) > 1
            places.append(logs[allowed.index(token)] if m[i] else torch.zeros(()))
        logp.append(torch.stack([*places, *[torch.zeros(())] * (longest - len(row))]))
        mask.append(m)
    return torch.stack(logp), torch.stack(mask)


def weights_for(rows, seed=1):
    return torch.randn(len(rows), max(map(len, rows)), generator=torch.Generator().manual_seed(seed))


def taken(policy):
    """The gradients, which are then forgotten."""
    values = adapter.parameters(policy)
    out = [v.grad for v in values]
    for v in values:
        v.grad = None
    return out


def assert_same(got, expected, tolerance):
    for a, b in zip(got, expected, strict=True):
        assert (a - b).norm() <= tolerance * b.norm() and b.norm() > 0


CASES = [(SEGMENTS, 1.0), (SEGMENTS, 1.7), (None, 0.6)]


@pytest.mark.parametrize("segments, temperature", CASES)
@pytest.mark.parametrize("shared", [True, False])
def test_log_probs_and_gradients_are_those_of_full_sequences(segments, temperature, shared):
    policy = tiny()
    group = Group(policy.prompt_ids(ASK), rows_of(policy), segments, temperature)
    weights = weights_for(group.rows)
    logp, mask = oracle(policy, group)
    (logp * weights).sum().backward()
    expected = taken(policy)
    got = log_probs(policy, group.prompt_ids, group.rows, segments=segments, temperature=temperature, shared=shared)
    (got.logp * weights).sum().backward()
    assert torch.equal(got.mask, mask) and got.hidden is None
    assert torch.allclose(got.logp, logp, rtol=1e-4, atol=1e-5)
    assert not got.logp[~mask].any()
    assert_same(taken(policy), expected, 1e-4)


@pytest.mark.parametrize("budget", [10**6, 100, 30, 1])
@pytest.mark.parametrize("segments, temperature", CASES)
def test_a_step_over_several_groups_has_the_same_gradient_however_it_is_cut(segments, temperature, budget):
    policy = tiny()
    groups = [
        Group(policy.prompt_ids(ask), rows_of(policy, ask, seed=seed), segments, temperature)
        for ask, seed in ((ASK, 0), (OTHER, 3))
    ]
    weights = [weights_for(g.rows, i) for i, g in enumerate(groups)]

    def loss(logps):  # not linear, and it mixes the groups
        return sum((logp.exp() * w).sum() + (logp * w).sum() ** 2 for logp, w in zip(logps, weights, strict=True))

    value = loss([oracle(policy, g)[0] for g in groups])
    value.backward()
    expected = taken(policy)
    calls = []

    def counted(scored):
        calls.append(len(scored))
        return loss([s.logp for s in scored]), {"groups": float(len(scored))}

    stats = step(policy, groups, counted, token_budget=budget)
    assert calls == [2] and stats["groups"] == 2 and stats["loss"] == pytest.approx(value.item(), rel=1e-4)
    assert (stats["micro_batches"] == 1) == (budget == 10**6) and stats["micro_batches"] <= 20
    assert_same(taken(policy), expected, 1e-4)


def test_rows_without_a_gradient_are_not_computed_again():
    policy = tiny()
    group = Group(policy.prompt_ids(ASK), rows_of(policy), SEGMENTS)
    first = [row == group.rows[0] for row in group.rows]

    def loss(scored):
        return scored[0].logp[torch.tensor(first)].sum(), {}

    whole = step(policy, [group], loss)
    expected = taken(policy)
    parts = step(policy, [group], loss, token_budget=1)
    assert parts["tokens"] < whole["tokens"] and parts["micro_batches"] == 1
    assert_same(taken(policy), expected, 1e-4)
    assert step(policy, [group], lambda s: (s[0].logp.sum() * 0, {}), token_budget=1)["micro_batches"] == 0


@pytest.mark.parametrize("budget", [10**6, 1])
def test_hidden_states_are_the_decoders_and_gradients_flow_through_them(budget):
    policy = tiny()
    group = Group(policy.prompt_ids(ASK), rows_of(policy), SEGMENTS)
    head = torch.nn.Linear(48, 1)
    mask = oracle(policy, group)[1]
    states = torch.zeros(*mask.shape, 48)
    for r, row in enumerate(group.rows):
        out = policy.model.model(torch.tensor([[*group.prompt_ids, *row]])).last_hidden_state[0, len(group.prompt_ids) - 1 : -1]
        states[r, : len(row)] = out
    states = states * mask[..., None]
    (head(states)[mask] ** 2).sum().backward()
    expected, value_grad = taken(policy), head.weight.grad.clone()
    head.zero_grad()

    def loss(scored):
        (s,) = scored
        assert torch.allclose(s.hidden, states, atol=1e-4)
        return (head(s.hidden)[s.mask] ** 2).sum(), {}

    step(policy, [group], loss, token_budget=budget, hidden=True)
    assert torch.allclose(head.weight.grad, value_grad, rtol=1e-4, atol=1e-4)
    assert_same(taken(policy), expected, 1e-4)


@pytest.mark.parametrize("merging", [False, True])
@pytest.mark.parametrize("segments, temperature", [(SEGMENTS, 1.0), (SEGMENTS, 0.7), (None, 1.3)])
def test_scoring_finds_the_log_probs_that_sampling_wrote_down(segments, temperature, merging):
    policy = tiny()
    with adapter.merged(policy) if merging else torch.no_grad():
        samples = policy.sample(ASK, 6, segments=segments, temperature=temperature, max_tokens=9, seed=2)
    scored = log_probs(policy, policy.prompt_ids(ASK), [s.token_ids for s in samples], segments=segments, temperature=temperature)
    for sample, row in zip(samples, scored.logp.tolist(), strict=True):
        assert len(sample.logprobs) == sample.tokens and sum(sample.logprobs) == sample.logprob
        assert row[: sample.tokens] == pytest.approx(sample.logprobs, abs=1e-4)


def test_a_fresh_adapter_scores_as_the_reference_does_and_a_trained_one_does_not():
    policy = llama()
    rows = rows_of(policy)
    prompt = policy.prompt_ids(ASK)
    adapter.attach(policy)
    fresh = log_probs(policy, prompt, rows, segments=SEGMENTS).logp
    worn(policy)
    with adapter.reference(policy), torch.no_grad():
        base = log_probs(policy, prompt, rows, segments=SEGMENTS).logp
    assert torch.equal(fresh, base)
    assert (log_probs(policy, prompt, rows, segments=SEGMENTS).logp - base).abs().max() > 0.01


def test_one_row_and_equal_rows_cost_one_row():
    policy = tiny()
    group = Group(policy.prompt_ids(ASK), [rows_of(policy)[0]] * 5, SEGMENTS)
    stats = step(policy, [group], lambda s: (s[0].logp.mean(), {}))
    taken(policy)
    assert stats["tokens"] < len(group.prompt_ids) + len(group.rows[0])
    got, expected = log_probs(policy, group.prompt_ids, group.rows, segments=SEGMENTS).logp, oracle(policy, group)[0]
    assert torch.allclose(got, expected, atol=1e-5)


PATHS = [[0, 1, 2, 3], [0, 4], [0, 1, 5, 6, 7]]  # eight tokens of three rows with common beginnings


def attention(dtype, how, scale):
    """The output of ``Rows`` and every input's gradient, from the same numbers."""
    random = torch.Generator().manual_seed(0)
    q, k, v, pk, pv, weights = (
        torch.randn(1, heads, n, 8, generator=random).to(dtype).requires_grad_()
        for heads, n in ((6, 8), (2, 8), (2, 8), (2, 5), (2, 5), (6, 8))
    )
    prompt = Prompt()
    prompt.keys, prompt.values = [pk[0]], [pv[0]]
    rows = Rows(prompt, PATHS, torch.device("cpu"))
    out = rows.attend(0, q, k, v, scale) if how == "joined" else rows.padded(q, k, v, pk[0], pv[0], scale)
    return out, torch.autograd.grad((out * weights.detach()).sum(), (q, k, v, pk, pv))


def test_the_padded_attention_of_other_devices_gives_what_the_joined_one_gives():
    joined, padded = attention(torch.float32, "joined", 0.3), attention(torch.float32, "padded", 0.3)
    assert torch.allclose(joined[0], padded[0], atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(joined[1], padded[1], strict=True))


@pytest.mark.parametrize("scale", [0.25, 0.3])  # by matrix products, and by the kernel
def test_bfloat16_attention_is_as_near_as_its_rounding(scale):
    exact = attention(torch.float64, "padded", scale)
    rounded = attention(torch.bfloat16, "joined", scale)
    for a, b in zip((exact[0], *exact[1]), (rounded[0], *rounded[1]), strict=True):
        assert b.dtype == torch.bfloat16 and (a - b).norm() < 0.02 * a.norm()


def test_products_keep_probabilities_that_large_scores_would_lose():
    random = torch.Generator().manual_seed(1)
    q, k, v, grad = (torch.randn(2, 40, 64, generator=random).bfloat16() for _ in range(4))
    q, k = q * 4, k * 4  # scores of about ±130
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    scores = (exact[0] @ exact[1].transpose(1, 2)) / 8 + torch.full((40, 40), float("-inf")).triu(1)
    out = scores.softmax(-1) @ exact[2]
    expected = torch.autograd.grad((out * grad).sum(), exact)
    got = dense(grad, q, k, v, out.detach().bfloat16(), scores.logsumexp(-1).detach().float(), True, 0.125)
    for a, b in zip(expected, got, strict=True):
        assert (a - b).norm() < 0.02 * a.norm()


def test_the_embedded_model_is_scored_as_plain_transformers_scores_it():
    policy = embedded()
    rows = [s.token_ids for s in policy.sample(ASK, 3, segments=SPACE.segments())][:2]
    group = Group(policy.prompt_ids(ASK), rows, SPACE.segments())
    try:
        worn(policy, rank=4)
        logp, _ = oracle(policy, group)
        logp.sum().backward()
        expected = taken(policy)
        step(policy, [group], lambda s: (s[0].logp.sum(), {}))
        assert_same(taken(policy), expected, 1e-3)
        with torch.no_grad():
            got = log_probs(policy, group.prompt_ids, group.rows, segments=group.segments)
        assert torch.allclose(got.logp, logp, rtol=1e-4, atol=1e-3)
    finally:
        adapter.detach(policy)


def test_bfloat16_scores_are_near_and_its_own_sampling_agrees():
    exact, rounded = llama(), llama()
    rounded.model.bfloat16()
    exact.model.load_state_dict(rounded.model.state_dict())
    worn(exact), worn(rounded)
    rows, prompt = rows_of(exact), exact.prompt_ids(ASK)
    a, b = (log_probs(p, prompt, rows, segments=SEGMENTS) for p in (exact, rounded))
    assert b.logp.dtype == torch.float32
    assert (a.logp - b.logp).abs().max() < 0.3 and (a.logp - b.logp).abs().mean() < 0.03
    weights = weights_for(rows)
    (a.logp * weights).sum().backward()
    (b.logp * weights).sum().backward()
    for x, y in zip(taken(exact), taken(rounded), strict=True):
        assert y.dtype == torch.float32 and torch.cosine_similarity(x.flatten(), y.flatten(), 0) > 0.98


def test_gpt_oss_trains_row_by_row_and_reloads(tmp_path):
    policy = gpt_oss()
    assert not forward.shares(policy.model) and forward.shares(tiny().model)
    grammar = policy.grammar(SEGMENTS)
    rows = [tuple(grammar.encode(t)) for t in ('{"c":1,"d":true}', '{"c":"red","d":null}', '{"c":2,"d":true}')]
    group = Group(policy.prompt_ids(ASK), rows, SEGMENTS)
    adapter.attach(policy, rank=4)
    optimiser = torch.optim.Adam(adapter.parameters(policy), lr=1e-2)
    losses = []
    for budget in (4096, 4096, 10, 10, 4096, 4096):
        losses.append(step(policy, [group], lambda s: (-s[0].logp[0].sum(), {}), token_budget=budget)["loss"])
        optimiser.step()
        optimiser.zero_grad()
    assert all(b < a for a, b in zip(losses, losses[1:], strict=False)) and losses[-1] < 0.7 * losses[0]
    got, expected = log_probs(policy, group.prompt_ids, rows, segments=SEGMENTS).logp, oracle(policy, group)[0]
    assert torch.allclose(got, expected, atol=1e-5)
    adapter.save(policy, tmp_path / "a")
    again = gpt_oss()
    adapter.load(again, tmp_path / "a")
    assert torch.equal(logits(again, group.prompt_ids), logits(policy, group.prompt_ids))


@pytest.mark.parametrize(
    "changes", [{"sliding_window": 8}, {"attn_logit_softcapping": 30.0}, {"layer_types": ["full_attention", "sliding_attention"]}]
)
def test_attention_that_is_not_full_is_not_shared(changes):
    model = llama().model
    for name, value in changes.items():
        setattr(model.config, name, value)
    assert not forward.shares(model)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "has no rows"),
        ([(), (1,)], "row 0 is empty"),
        ([(7,) * 300], r"prompt has \d+ tokens and row 0 has 300; the context of 'tiny llama' holds 256"),
    ],
)
def test_bad_rows_are_told(rows, message):
    policy = tiny()
    with pytest.raises(ModelError, match=message):
        log_probs(policy, policy.prompt_ids(ASK), rows)


def test_rows_outside_the_grammar_are_told():
    policy = tiny()
    good = rows_of(policy)[0]
    for bad, message in (((*good[:1], 5, *good[1:]), "row 1 is not in the grammar"), (good[:-2], "stops before the end")):
        with pytest.raises(ModelError, match=message):
            log_probs(policy, policy.prompt_ids(ASK), [good, bad], segments=SEGMENTS)


def test_a_prompt_longer_than_the_context_is_told():
    policy = tiny()
    with pytest.raises(ModelError, match=r"the prompt has 300 tokens and row 0 has 1; the context of 'tiny llama' holds 256"):
        step(policy, [Group([5] * 300, [(7,)])], lambda s: (s[0].logp.sum(), {}))
