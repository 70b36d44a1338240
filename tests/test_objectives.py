"""Losses and their gradients against float64 transcriptions of the published formulas: plain loops, derivatives by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sia_nb.errors import TrainingError
from sia_nb.training import objectives as obj

CLIP, KL = 0.2, 0.07
GARBAGE = 37.5


class Batch:
    """Six rollouts of up to seven tokens with random log-probabilities; one row has no choice, one has all."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.mask = rng.random((6, 7)) < 0.6
        self.mask[0], self.mask[1] = True, False
        shape = self.mask.shape
        self.logp = -rng.exponential(1.0, shape)
        self.old = self.logp + rng.normal(0, 0.25, shape)  # some ratios beyond the clip, on both sides
        self.ref = self.logp + rng.normal(0, 0.5, shape)
        self.advantages = rng.normal(0, 1, shape[0])
        self.token_advantages = rng.normal(0, 1, shape)
        self.values = rng.normal(0, 0.5, shape)
        self.old_values = self.values + rng.normal(0, 0.3, shape)
        self.returns = rng.normal(0, 1, shape)
        self.weights = np.array([0.5, 0.5, 0.5, 0.0, 1.0, 0.0])
        self.winners, self.losers = np.array([0, 0, 4, 5]), np.array([2, 3, 3, 1])
        self.choices = [(int(i), int(t)) for i, t in np.argwhere(self.mask)]

    def tensor(self, name, dtype=torch.float64):
        x = torch.tensor(getattr(self, name))
        return x.to(dtype) if x.is_floating_point() else x


# ---- oracles: (loss, d loss / d logp), and for PPO d loss / d values; loops over choices, numpy only ----


def surrogate(ratio, a):
    """PPO's clipped term at one choice and its derivative by log π."""
    if a >= 0:
        return (-ratio * a, -ratio * a) if ratio <= 1 + CLIP else (-(1 + CLIP) * a, 0.0)
    return (-ratio * a, -ratio * a) if ratio >= 1 - CLIP else (-(1 - CLIP) * a, 0.0)


def oracle_grpo(b, advantages):
    loss, grad = 0.0, np.zeros_like(b.logp)
    for i, t in b.choices:
        share = 1 / (len(b.mask) * b.mask[i].sum())
        term, slope = surrogate(math.exp(b.logp[i, t] - b.old[i, t]), advantages[i, t])
        gap = b.ref[i, t] - b.logp[i, t]
        loss += share * (term + KL * (math.exp(gap) - gap - 1))
        grad[i, t] = share * (slope + KL * (1 - math.exp(gap)))
    return loss, grad


def oracle_entropic(b, advantages):
    loss, grad, n = 0.0, np.zeros_like(b.logp), len(b.choices)
    gap = {c: b.old[c] - b.ref[c] for c in b.choices}
    mean = math.fsum(gap.values()) / n
    for i, t in b.choices:
        ratio = math.exp(b.logp[i, t] - b.old[i, t])
        grad[i, t] = -ratio * (advantages[i, t] + KL * (mean - gap[i, t])) / n
        loss += grad[i, t]
    return loss, grad


def oracle_ppo(b):
    loss, grad, value_grad, n, c = 0.0, np.zeros_like(b.logp), np.zeros_like(b.logp), len(b.choices), 0.5
    for i, t in b.choices:
        term, slope = surrogate(math.exp(b.logp[i, t] - b.old[i, t]), b.token_advantages[i, t])
        v, old, target = b.values[i, t], b.old_values[i, t], b.returns[i, t]
        near = min(max(v, old - CLIP), old + CLIP)
        plain_counts = (v - target) ** 2 >= (near - target) ** 2
        loss += (term + c * 0.5 * max((v - target) ** 2, (near - target) ** 2)) / n
        grad[i, t] = slope / n
        value_grad[i, t] = c * (v - target) / n if plain_counts else 0.0
    return loss, grad, value_grad


def oracle_reinforce_kl(b):
    n = len(b.mask)
    total = lambda x, i: math.fsum(x[i, t] for t in range(x.shape[1]) if b.mask[i, t])
    d = [total(b.old, i) - total(b.ref, i) for i in range(n)]
    loss, grad = 0.0, np.zeros_like(b.logp)
    for i in range(n):
        baseline = math.fsum(d[j] for j in range(n) if j != i) / (n - 1)
        term = -math.exp(total(b.logp, i) - total(b.old, i)) * (b.advantages[i] - KL * (d[i] - baseline)) / n
        loss += term
        grad[i, b.mask[i]] = term
    return loss, grad


def oracle_bon_bc(b):
    length = math.fsum(b.weights[i] for i, _ in b.choices)
    grad = np.zeros_like(b.logp)
    for i, t in b.choices:
        grad[i, t] = -b.weights[i] / length
    return math.fsum(grad[c] * b.logp[c] for c in b.choices), grad


def oracle_dpo(b, beta=0.3):
    d = [math.fsum(b.logp[i, t] - b.ref[i, t] for t in range(7) if b.mask[i, t]) for i in range(6)]
    loss, grad, n = 0.0, np.zeros_like(b.logp), len(b.winners)
    for win, lose in zip(b.winners, b.losers, strict=True):
        margin = beta * (d[win] - d[lose])
        loss += math.log1p(math.exp(-margin)) / n
        push = beta / (1 + math.exp(margin)) / n
        grad[win, b.mask[win]] -= push
        grad[lose, b.mask[lose]] += push
    return loss, grad


CASES = {
    "grpo": (
        lambda get, logp: obj.grpo(logp, get("old"), get("ref"), get("mask"), get("advantages"), clip=CLIP, kl=KL),
        lambda b: oracle_grpo(b, np.repeat(b.advantages[:, None], 7, 1)),
    ),
    "grpo by token": (
        lambda get, logp: obj.grpo(logp, get("old"), get("ref"), get("mask"), get("token_advantages"), clip=CLIP, kl=KL),
        lambda b: oracle_grpo(b, b.token_advantages),
    ),
    "entropic": (
        lambda get, logp: obj.entropic(logp, get("old"), get("ref"), get("mask"), get("advantages"), kl=KL),
        lambda b: oracle_entropic(b, np.repeat(b.advantages[:, None], 7, 1)),
    ),
    "entropic by token": (
        lambda get, logp: obj.entropic(logp, get("old"), get("ref"), get("mask"), get("token_advantages"), kl=KL),
        lambda b: oracle_entropic(b, b.token_advantages),
    ),
    "ppo": (
        lambda get, logp: obj.ppo(
            logp, get("old"), get("mask"), get("token_advantages"), get("values"), get("old_values"), get("returns"),
            clip=CLIP, value_coef=0.5,
        ),
        lambda b: oracle_ppo(b)[:2],
    ),
    "reinforce_kl": (
        lambda get, logp: obj.reinforce_kl(logp, get("old"), get("ref"), get("mask"), get("advantages"), kl=KL),
        oracle_reinforce_kl,
    ),
    "bon_bc": (lambda get, logp: obj.bon_bc(logp, get("mask"), get("weights")), oracle_bon_bc),
    "dpo": (
        lambda get, logp: obj.dpo(logp, get("ref"), get("mask"), get("winners"), get("losers"), beta=0.3),
        oracle_dpo,
    ),
}  # fmt: skip


def loss_and_gradient(case, batch, dtype=torch.float64, change=None):
    """(loss, d loss / d logp, statistics) of ``case``; ``change(name, tensor)`` may alter an input."""
    change = change or (lambda name, x: x)
    get = lambda name: change(name, batch.tensor(name, dtype))
    logp = get("logp").requires_grad_()
    loss, stats = CASES[case][0](get, logp)
    assert loss.shape == () and loss.dtype == dtype and all(type(x) is float for x in stats.values())
    (gradient,) = torch.autograd.grad(loss, logp)
    return loss.item(), gradient, stats


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(5))
def test_loss_and_gradient_are_the_published_formula(case, dtype, seed):
    batch = Batch(seed)
    loss, gradient, _ = loss_and_gradient(case, batch, dtype)
    expected, expected_gradient = CASES[case][1](batch)
    rtol, atol = (1e-9, 1e-12) if dtype == torch.float64 else (1e-5, 1e-6)  # a float32 sum of terms near 1 may cancel
    assert np.abs(expected_gradient).max() > 1e-3
    assert loss == pytest.approx(expected, rel=rtol, abs=atol)
    torch.testing.assert_close(gradient.double(), torch.tensor(expected_gradient), rtol=rtol, atol=atol)


@pytest.mark.parametrize("seed", range(5))
def test_the_value_head_gets_the_clipped_gradient(seed):
    b = Batch(seed)
    values = b.tensor("values").requires_grad_()
    args = [b.tensor(x) for x in ("logp", "old", "mask", "token_advantages")]
    loss, stats = obj.ppo(*args, values, b.tensor("old_values"), b.tensor("returns"), clip=CLIP, value_coef=0.5)
    (gradient,) = torch.autograd.grad(loss, values)
    expected, _, expected_gradient = oracle_ppo(b)
    assert (expected_gradient == 0).sum() > (~b.mask).sum()  # the clip stops some choices
    torch.testing.assert_close(gradient, torch.tensor(expected_gradient), rtol=1e-5, atol=1e-12)
    r, v = b.returns[b.mask], b.values[b.mask]
    assert stats["explained"] == pytest.approx(1 - np.var(r - v) / np.var(r))


@pytest.mark.parametrize("case", CASES)
@given(seed=st.integers(0, 10_000), garbage=st.sampled_from([GARBAGE, -1e4, 1e30, float("inf"), float("nan")]))
def test_masked_places_change_nothing(case, seed, garbage):
    batch = Batch(seed)

    def dirty(name, x):
        return torch.where(batch.tensor("mask"), x, garbage) if x.dim() == 2 and name != "mask" else x

    loss, gradient, stats = loss_and_gradient(case, batch)
    same_loss, same_gradient, same_stats = loss_and_gradient(case, batch, change=dirty)
    assert same_loss == loss and same_stats == stats and torch.equal(same_gradient, gradient)
    assert (gradient[~batch.tensor("mask")] == 0).all()


def test_on_the_sampling_policy_old_may_be_left_out():
    b = Batch(0)
    b.old = b.logp.copy()
    for case in ("grpo", "entropic", "ppo", "reinforce_kl"):
        given_old = loss_and_gradient(case, b)
        left_out = loss_and_gradient(case, b, change=lambda name, x: None if name == "old" else x)
        assert given_old[0] == left_out[0] and torch.equal(given_old[1], left_out[1])
        assert left_out[2]["ratio"] == 1


@given(st.integers(0, 10_000))
def test_reinforce_on_the_sampling_policy_has_the_gradient_of_the_sequence_log_probability(seed):
    b = Batch(seed)
    logp, a, mask = b.tensor("logp").requires_grad_(), b.tensor("advantages"), b.tensor("mask")
    (got,) = torch.autograd.grad(obj.reinforce_kl(logp, None, None, mask, a, kl=0)[0], logp)
    (expected,) = torch.autograd.grad(-(a * (logp * mask).sum(1)).mean(), logp)
    torch.testing.assert_close(got, expected)


@given(st.integers(0, 10_000))
def test_dpo_is_log_2_where_the_policy_is_the_base(seed):
    b = Batch(seed)
    logp = b.tensor("logp")
    loss, stats = obj.dpo(logp, logp.clone(), *(b.tensor(x) for x in ("mask", "winners", "losers")), beta=0.1)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-12)
    assert stats == {"margin": 0.0, "accuracy": 0.0, "kl": 0.0}


@given(st.integers(0, 10_000))
def test_a_step_down_the_gradient_lowers_every_loss(seed):
    b = Batch(seed)
    for case in CASES:
        loss, gradient, _ = loss_and_gradient(case, b)
        lower, _, _ = loss_and_gradient(case, b, change=lambda name, x, g=gradient: x - 1e-4 * g if name == "logp" else x)
        assert lower < loss


def test_statistics_count_what_they_say():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    old = torch.log(torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]))
    logp = torch.log(torch.tensor([[0.7, 0.5, 0.3], [0.7, 0.9, 0.9]]))
    _, stats = obj.grpo(logp, old, old, mask, torch.tensor([1.0, -1.0]), clip=0.2, kl=0.0)
    assert stats["ratio"] == pytest.approx((1.4 + 1 + 0.6 + 1.4) / 4)
    assert stats["clipped"] == 0.25  # 1.4 with A > 0 is stopped; .6 with A > 0 and 1.4 with A < 0 are pushed back
    k3 = [0.5 / p - math.log(0.5 / p) - 1 for p in (0.7, 0.5, 0.3, 0.7)]
    assert stats["kl"] == pytest.approx(sum(k3) / 4)
    assert "kl" not in obj.grpo(logp, old, None, mask, torch.tensor([1.0, -1.0]), clip=0.2, kl=0.0)[1]
    _, stats = obj.reinforce_kl(logp, old, logp, mask, torch.tensor([1.0, -1.0]), kl=0.1)
    assert stats["sequence_kl"] == pytest.approx((math.log(0.5**3 / (0.7 * 0.5 * 0.3)) + math.log(0.5 / 0.7)) / 2)
    assert obj.bon_bc(logp, mask, torch.tensor([0.0, 0.5]))[1] == {"imitated": 1}
    _, stats = obj.dpo(logp, old, mask, torch.tensor([1, 0]), torch.tensor([0, 1]), beta=2.0)
    assert stats["accuracy"] == 0.5 and stats["margin"] == 0


# ---- bad input ----


def test_shapes_are_named():
    b = Batch(0)
    logp, old, ref, mask, a = (b.tensor(x) for x in ("logp", "old", "ref", "mask", "advantages"))
    with pytest.raises(TrainingError, match=r"old: expected the mask's shape \[N, L\] = \[6, 7\], got \[6, 6\]"):
        obj.grpo(logp, old[:, 1:], ref, mask, a, clip=CLIP, kl=0)
    with pytest.raises(TrainingError, match=r"advantages: expected one number a rollout, \[N\] = \[6\], got \[5\]"):
        obj.entropic(logp, old, ref, mask, a[1:], kl=0)
    with pytest.raises(TrainingError, match=r"advantages: expected one number a rollout, \[N\] = \[6\], got \[6, 7\]"):
        obj.reinforce_kl(logp, old, ref, mask, b.tensor("token_advantages"), kl=0)
    with pytest.raises(TrainingError, match="mask: expected a bool tensor"):
        obj.bon_bc(logp, mask.double(), b.tensor("weights"))
    with pytest.raises(TrainingError, match="returns: expected the mask's shape"):
        obj.ppo(logp, old, mask, a, logp, logp, a, clip=CLIP, value_coef=0.5)
    with pytest.raises(TrainingError, match="no choice to learn from"):
        obj.grpo(logp, old, ref, torch.zeros_like(mask), a, clip=CLIP, kl=0)


def test_a_kl_needs_a_reference():
    b = Batch(0)
    logp, mask, a = (b.tensor(x) for x in ("logp", "mask", "advantages"))
    for call in (
        lambda kl: obj.grpo(logp, None, None, mask, a, clip=CLIP, kl=kl),
        lambda kl: obj.entropic(logp, None, None, mask, a, kl=kl),
        lambda kl: obj.reinforce_kl(logp, None, None, mask, a, kl=kl),
    ):
        call(0)
        with pytest.raises(TrainingError, match="ref: expected the base policy's log-probabilities .* kl is 0.1; got None"):
            call(0.1)
        with pytest.raises(TrainingError, match="kl: -0.1 is negative"):
            call(-0.1)
    with pytest.raises(TrainingError, match="at least 2 rollouts, got 1"):
        obj.reinforce_kl(logp[:1], None, logp[:1], mask[:1], a[:1], kl=0.1)


def test_nothing_to_imitate_or_compare_is_an_error():
    b = Batch(0)
    logp, ref, mask, winners, losers = (b.tensor(x) for x in ("logp", "ref", "mask", "winners", "losers"))
    for weights in (torch.zeros(6), torch.tensor([0, 1.0, 0, 0, 0, 0]), torch.tensor([1.0, 0, -0.5, 0, 0, 0])):
        with pytest.raises(TrainingError, match="weights: expected at least one rollout"):
            obj.bon_bc(logp, mask, weights)
    with pytest.raises(TrainingError, match="at least one pair, got"):
        obj.dpo(logp, ref, mask, winners[:0], losers[:0], beta=0.1)
    with pytest.raises(TrainingError, match="ref: expected"):
        obj.dpo(logp, None, mask, winners, losers, beta=0.1)
    with pytest.raises(TrainingError, match="dpo_beta: 0 is out of range"):
        obj.dpo(logp, ref, mask, winners, losers, beta=0)
