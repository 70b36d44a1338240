"""The training pass's own functions, against torch's gradients of the plain formulas; and a whole step with and without them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ASK, SEGMENTS, llama, other, worn
from torch.autograd import gradcheck
from torch.nn.functional import linear, silu

from sia_nb.policy import adapter
from sia_nb.policy.lora import _Products
from sia_nb.training import fused, head
from sia_nb.training.forward import Group, step
from sia_nb.training.fused import AddNorm, Gated, Rotary
from sia_nb.training.head import Chosen

SIZES = st.integers(1, 5)
QUICK = settings(max_examples=15, deadline=None)


def drawn(seed, *shapes, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random, dtype=dtype).requires_grad_() for shape in shapes]


def same(ours, plain, inputs, tolerance=1e-10):
    """Whether outputs, and gradients of a random sum of them, are those of the plain formula; an output may go unused."""
    ours, plain = ours(*inputs), plain(*inputs)
    for unused in (None, *range(len(ours))):
        weights = drawn(9, *(y.shape for y in plain))
        grads = []
        for outs in (ours, plain):
            assert all(torch.allclose(a, b, atol=tolerance) for a, b in zip(outs, plain, strict=True))
            used = [(y * w.detach()).sum() for i, (y, w) in enumerate(zip(outs, weights, strict=True)) if i != unused]
            grads.append(torch.autograd.grad(sum(used), inputs, retain_graph=True, allow_unused=True) if used else ())
        for a, b in zip(*grads, strict=True):
            assert (a is None) == (b is None) and (a is None or torch.allclose(a, b, atol=tolerance))
    return True


@QUICK
@given(SIZES, SIZES, SIZES)
def test_a_residual_sum_and_its_norm(tokens, size, seed):
    x, update, weight = drawn(seed, (tokens, size), (tokens, size), (size,))
    weight = weight.detach()

    def plain(x, update):
        total = x + update
        return total, weight * (total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-5))

    def ours(x, update):
        return AddNorm.apply(x, update, weight, 1e-5)

    assert same(ours, plain, (x, update)) and gradcheck(ours, (x, update))


@QUICK
@given(SIZES, SIZES, SIZES, SIZES)
def test_a_rotary_embedding(tokens, heads, half, seed):
    x, angles = drawn(seed, (tokens, heads, 2 * half), (tokens, 1, half))
    angles = torch.cat([angles, angles], -1).detach()
    cos, sin = 1.3 * angles.cos(), 1.3 * angles.sin()  # some kinds of rotary embedding scale them

    def plain(x):
        return (x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin,)

    assert same(lambda x: (Rotary.apply(x, cos, sin),), plain, (x,)) and gradcheck(lambda x: Rotary.apply(x, cos, sin), (x,))


@QUICK
@given(SIZES, SIZES, SIZES)
def test_a_gate(tokens, size, seed):
    inputs = drawn(seed, (tokens, size), (tokens, size))
    assert same(lambda g, u: (Gated.apply(g, u),), lambda g, u: (silu(g) * u,), inputs) and gradcheck(Gated.apply, inputs)


@QUICK
@given(SIZES, st.lists(st.tuples(SIZES, SIZES, st.booleans()), min_size=1, max_size=3), SIZES)
def test_lora_products_of_one_input(tokens, layers, seed):
    into, scales = 4, [0.5 + i for i in range(len(layers))]
    x, *trained = drawn(seed, (1, tokens, into), *(s for out, rank, _ in layers for s in ((rank, into), (out, rank))))
    fixed = [(w.detach(), b.detach() if has else None) for out, _, has in layers for w, b in [drawn(7, (out, into), (out,))]]

    def ours(x, *trained):
        pairs = zip(trained[::2], trained[1::2], strict=True)
        return _Products.apply(x, scales, *(v for f, p in zip(fixed, pairs, strict=True) for v in (*f, *p)))

    def plain(x, *trained):
        pairs = zip(trained[::2], trained[1::2], strict=True)
        return tuple(linear(x, w + s * b @ a, c) for (w, c), (a, b), s in zip(fixed, pairs, scales, strict=True))

    def used(x, *trained):
        return (torch.cat(ours(x, *trained), -1),)

    assert same(used, lambda *v: (torch.cat(plain(*v), -1),), (x, *trained)) and gradcheck(ours, (x, *trained))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_log_probability_of_chosen_tokens(temperature, biased, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(head, "PLACES", 4)
    states, weight, bias = (x.detach().to(dtype) for x in drawn(0, (11, 6), (9, 6), (9,)))
    chosen = torch.arange(11) % 9
    states[0], states[1] = 20 * weight[0], -100 * weight[1]  # as good as certain, and as good as never
    exact = states.double().requires_grad_()
    logits = linear(exact, weight.double(), bias.double() if biased else None) / temperature
    expected = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
    assert expected[1] < -100
    states.requires_grad_()
    got = Chosen.apply(states, weight, bias if biased else None, chosen, temperature)
    assert got.dtype == torch.float32 and torch.allclose(got.double(), expected, rtol=tolerance, atol=tolerance * 10)
    weights = drawn(3, (11,))[0].detach()
    (a,) = torch.autograd.grad((got * weights.float()).sum(), states)
    (b,) = torch.autograd.grad((expected * weights).sum(), exact)
    assert a.dtype == dtype and (a - b).norm() < tolerance * b.norm()
    with torch.no_grad():
        assert torch.equal(Chosen.apply(states, weight, bias if biased else None, chosen, temperature), got)


def gradients(policy, segments):
    rows = [s.token_ids for s in policy.sample(ASK, 6, segments=SEGMENTS)]
    group = Group(policy.prompt_ids(ASK), rows, segments, 0.7)
    out = []
    for value in adapter.parameters(policy):
        value.grad = None
    step(policy, [group], lambda s: (out.append(s[0].logp.detach()) or (s[0].logp * s[0].logp.detach().cos()).sum(), {}))
    return [*out, *(value.grad for value in adapter.parameters(policy))]


@pytest.mark.parametrize("segments", [SEGMENTS, None])
@pytest.mark.parametrize("changes", [{}, {"attention_bias": True, "mlp_bias": True, "head_dim": 4, "tie_word_embeddings": False}])
def test_a_step_is_the_same_with_and_without_them(segments, changes, monkeypatch):
    policy = llama(**changes)
    for name, value in policy.model.named_parameters():
        if name.endswith("bias"):
            value.data.normal_(generator=torch.Generator().manual_seed(len(name)))
    worn(policy)
    assert fused.fits(policy.model.get_decoder())
    ours, again = gradients(policy, segments), gradients(policy, segments)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    monkeypatch.setattr(fused, "fits", lambda decoder: False)
    for a, b in zip(ours, gradients(policy, segments), strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm() and b.norm() > 0


def test_other_models_keep_their_own_passes():
    for kind in ("qwen2", "mistral", "gpt2", "mixtral"):
        assert not fused.fits(other(kind).requires_grad_(False).get_decoder())
    for policy in (llama(hidden_act="gelu"), llama()):
        policy.model.requires_grad_(False)
        assert fused.fits(policy.model.get_decoder()) == (policy.model.config.hidden_act == "silu")
    decoder = policy.model.get_decoder()
    handle = decoder.layers[1].self_attn.q_proj.register_forward_hook(lambda *given: None)
    assert not fused.fits(decoder)
    handle.remove()
    decoder.layers[1].input_layernorm.requires_grad_(True)
    assert not fused.fits(decoder)
    decoder.requires_grad_(False)
    assert fused.fits(decoder) and not fused.fits(policy.model.bfloat16().get_decoder())


def test_a_head_that_is_trained_has_its_gradient():
    policy = worn(llama(tie_word_embeddings=False))
    policy.model.lm_head.requires_grad_(True)
    expected = gradients(policy, None)[0]
    given = policy.model.lm_head.weight.grad
    assert given.norm() > 0
    policy.model.lm_head.requires_grad_(False)
    assert torch.allclose(gradients(policy, None)[0], expected, atol=1e-5)


def test_a_head_of_another_kind_is_called_as_it_is():
    class Head(torch.nn.Linear):
        pass

    policy = worn(llama())
    expected = gradients(policy, None)
    policy.model.lm_head.__class__ = Head
    for a, b in zip(gradients(policy, None), expected, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()
