"""Advantages against plain-Python transcriptions of the published formulas, and their invariances."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from sia_nb.errors import TrainingError
from sia_nb.training import advantages as adv

reward = st.floats(-5, 5, allow_nan=False, width=32).map(lambda x: round(x, 3))


@st.composite
def batches(draw, least=2):
    """Two or three groups, their rows interleaved: (rewards [N] float64, group [N], the rewards by group)."""
    groups = draw(st.lists(st.lists(reward, min_size=least, max_size=7), min_size=2, max_size=3))
    labels = draw(st.permutations([10 * g for g, rs in enumerate(groups) for _ in rs]))
    streams = {10 * g: iter(rs) for g, rs in enumerate(groups)}
    rows = [next(streams[label]) for label in labels]
    return torch.tensor(rows, dtype=torch.float64), torch.tensor(labels), groups


def by_group(values, group):
    """The values of each group, in row order, as lists."""
    return [
        [v for v, g in zip(values.tolist(), group.tolist(), strict=True) if g == label] for label in sorted(set(group.tolist()))
    ]


def close(got, expected, rel=1e-5, absolute=1e-9):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a == pytest.approx(b, rel=rel, abs=absolute)


# ---- oracles: one group at a time, plain Python floats ----


def oracle_group_normalised(r):
    mean = math.fsum(r) / len(r)
    sd = math.sqrt(math.fsum((x - mean) ** 2 for x in r) / (len(r) - 1))
    return [(x - mean) / (sd + 1e-4) for x in r]


def oracle_leave_one_out(r):
    return [x - math.fsum(r[:i] + r[i + 1 :]) / (len(r) - 1) for i, x in enumerate(r)]


def oracle_entropic(r, beta):
    best = max(r)
    out = []
    for i, x in enumerate(r):
        others = [math.exp(beta * (y - best)) for j, y in enumerate(r) if j != i]
        out.append(math.exp(beta * (x - best)) / (math.fsum(others) / len(others) + 1e-12) - 1)
    return out


def kl_to_uniform(r, beta):
    weights = [math.exp(beta * (x - max(r))) for x in r]
    total = math.fsum(weights)
    return math.fsum(w / total * math.log(len(r) * w / total) for w in weights if w > 0)


def oracle_gae(r, v, mask, gamma, lam):
    """Â_t as the sum of (γλ)^l δ_{t+l}, over the row's steps only."""
    steps = [t for t, m in enumerate(mask) if m]
    delta = [r[t] + gamma * (v[steps[i + 1]] if i + 1 < len(steps) else 0.0) - v[t] for i, t in enumerate(steps)]
    out = [0.0] * len(mask)
    for i, t in enumerate(steps):
        out[t] = math.fsum((gamma * lam) ** (k - i) * delta[k] for k in range(i, len(steps)))
    return out


# ---- the formulas ----


@given(batches())
def test_group_normalised_is_the_published_formula(batch):
    rewards, group, groups = batch
    got = adv.group_normalised(rewards, group)
    for a, r in zip(by_group(got, group), groups, strict=True):
        close(a, oracle_group_normalised(r))


@given(batches())
def test_leave_one_out_is_the_published_formula(batch):
    rewards, group, groups = batch
    for a, r in zip(by_group(adv.leave_one_out(rewards, group), group), groups, strict=True):
        close(a, oracle_leave_one_out(r))


@given(batches(), st.sampled_from([0.5, 2, 7.0]))
def test_entropic_with_a_fixed_beta_is_the_published_formula(batch, beta):
    rewards, group, groups = batch
    for a, r in zip(by_group(adv.entropic(rewards, group, beta), group), groups, strict=True):
        close(a, oracle_entropic(r, beta) if max(r) > min(r) else [0.0] * len(r))


@given(batches(least=4))
def test_entropic_with_the_adaptive_beta_solves_for_it_in_every_group(batch):
    rewards, group, groups = batch
    assume(all(2 * r.count(max(r)) < len(r) for r in groups))
    for a, r in zip(by_group(adv.entropic(rewards, group), group), groups, strict=True):
        close(a, oracle_entropic(r, adv.adaptive_beta(torch.tensor(r, dtype=torch.float64))))


def test_worked_examples():
    r, g = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.long)
    assert adv.leave_one_out(r, g).tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert adv.group_normalised(r, g).tolist() == pytest.approx([0.75 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001])
    third = (1 + 2 * math.exp(-2)) / 3
    assert adv.entropic(r, g, 2).tolist() == pytest.approx([math.exp(2) - 1] + 3 * [math.exp(-2) / third - 1])
    assert adv.group_normalised(r, g).dtype == torch.float32


@pytest.mark.parametrize(
    "function", [adv.group_normalised, adv.leave_one_out, adv.entropic, lambda r, g: adv.entropic(r, g, 2.0)]
)
@given(value=st.floats(-1e3, 1e3, width=32), size=st.integers(4, 9), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_constant_group_gives_exactly_zero(function, value, size, dtype):
    rewards = torch.tensor([value] * size + [0.1, 0.2, 0.3, 0.7], dtype=dtype)
    group = torch.tensor([0] * size + [1] * 4)
    got = function(rewards, group)
    assert (got[:size] == 0).all() and (got[size:] != 0).any()


@given(batches(), st.floats(0.1, 100), st.floats(-100, 100))
def test_group_normalised_is_centred_and_ignores_shift_and_scale(batch, scale, shift):
    rewards, group, groups = batch
    assume(all(max(r) - min(r) > 0.5 or max(r) == min(r) for r in groups))
    got = adv.group_normalised(rewards, group)
    for a in by_group(got, group):
        assert math.fsum(a) == pytest.approx(0, abs=1e-9)
    moved = adv.group_normalised(scale * rewards + shift, group)  # the epsilon is worth 1e-4 / sd, sd at least .14 * scale
    close(moved.tolist(), got.tolist(), rel=1e-2, absolute=1e-6)


@given(st.lists(reward, min_size=4, max_size=12), st.floats(1e-6, 1e6))
def test_the_adaptive_beta_reaches_ln_2_whatever_the_scale(r, scale):
    assume(2 * r.count(max(r)) < len(r))
    beta = adv.adaptive_beta(torch.tensor(r, dtype=torch.float64))
    assert kl_to_uniform(r, beta) == pytest.approx(math.log(2), rel=1e-6)
    g = torch.zeros(len(r), dtype=torch.long)
    once, scaled = (adv.entropic(c * torch.tensor(r, dtype=torch.float64), g) for c in (1.0, scale))
    close(scaled.tolist(), once.tolist(), rel=1e-5, absolute=1e-7)


def test_the_adaptive_beta_where_no_beta_reaches_ln_2():
    tied = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert adv.adaptive_beta(tied) >= 1e6
    assert adv.entropic(tied, torch.zeros(4, dtype=torch.long)).tolist() == pytest.approx([0.5, 0.5, 0.5, -1.0])
    assert adv.adaptive_beta(torch.full((4,), 0.3)) == 0


@given(batches(least=4), st.randoms(use_true_random=False))
def test_permuted_rollouts_have_permuted_advantages(batch, random):
    rewards, group, _ = batch
    order = list(range(len(rewards)))
    random.shuffle(order)
    for function in (adv.group_normalised, adv.leave_one_out, adv.entropic, lambda r, g: adv.entropic(r, g, 2.0)):
        close(function(rewards[order], group[order]).tolist(), function(rewards, group)[order].tolist())


# ---- imitation and pairs ----


@given(batches(), st.floats(0, 1))
def test_best_of_imitates_the_share_at_least_one_and_no_failure(batch, share):
    rewards, group, groups = batch
    for w, r in zip(by_group(adv.best_of(rewards, group, share), group), groups, strict=True):
        positive = sum(x > 0 for x in r)
        count = min(positive, max(1, math.ceil(round(share * len(r), 8))))
        chosen = [i for i, x in enumerate(w) if x > 0]
        assert len(chosen) == count
        assert all(w[i] == pytest.approx(1 / count) for i in chosen)
        assert all(r[i] > 0 for i in chosen)
        rest = [r[i] for i in range(len(r)) if i not in chosen]
        assert not chosen or not rest or min(r[i] for i in chosen) >= max(rest)


def test_best_of_worked_examples():
    g = torch.zeros(8, dtype=torch.long)
    r = torch.tensor([0.2, 0.9, 0.9, 0.9, 0.0, 0.1, 0.0, 0.0])
    assert adv.best_of(r, g, 0.25).tolist() == [0, 0.5, 0.5, 0, 0, 0, 0, 0]  # a tie goes to the first
    assert adv.best_of(r, g, 0.26).tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0, 0])
    assert adv.best_of(r, g, 0.0).tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert adv.best_of(r, g, 1.0).tolist() == pytest.approx([0.2, 0.2, 0.2, 0.2, 0, 0.2, 0, 0])
    assert adv.best_of(torch.zeros(8), g, 0.5).tolist() == [0] * 8
    assert (adv.best_of(torch.arange(1.0, 26), torch.zeros(25, dtype=torch.long), 0.28) > 0).sum() == 7


@given(batches())
def test_pairs_are_all_unequal_pairs_of_a_group(batch):
    rewards, group, _ = batch
    winners, losers = adv.pairs(rewards, group)
    r, g = rewards.tolist(), group.tolist()
    expected = {(i, j) for i in range(len(r)) for j in range(len(r)) if g[i] == g[j] and r[i] > r[j]}
    got = list(zip(winners.tolist(), losers.tolist(), strict=True))
    assert len(got) == len(set(got)) and set(got) == expected


def test_a_constant_group_makes_no_pair():
    winners, losers = adv.pairs(torch.full((4,), 0.5), torch.zeros(4, dtype=torch.long))
    assert winners.shape == losers.shape == (0,) and winners.dtype == torch.long


# ---- generalised advantage estimation ----


@st.composite
def trajectories(draw):
    n, length = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    table = st.lists(st.lists(reward, min_size=length, max_size=length), min_size=n, max_size=n)
    mask = st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=n, max_size=n)
    return draw(table), draw(table), draw(mask)


@given(trajectories(), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_discounted_sum_of_residuals_over_the_choices(trajectory, gamma, lam):
    r, v, mask = trajectory
    a, returns = adv.gae(*(torch.tensor(x, dtype=torch.float64) for x in (r, v)), torch.tensor(mask), gamma, lam)
    for row in range(len(r)):
        expected = oracle_gae(r[row], v[row], mask[row], gamma, lam)
        close(a[row].tolist(), expected)
        close(returns[row].tolist(), [x + y if m else 0.0 for x, y, m in zip(expected, v[row], mask[row], strict=True)])


@given(trajectories())
def test_gae_without_discount_is_reward_to_go_less_value(trajectory):
    r, v, mask = (torch.tensor(x) for x in trajectory)
    a, returns = adv.gae(r.double(), v.double(), mask, 1.0, 1.0)
    to_go = (r.double() * mask).flip(1).cumsum(1).flip(1) * mask
    torch.testing.assert_close(a, (to_go - v.double()) * mask, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(returns, to_go, rtol=1e-9, atol=1e-9)


@given(trajectories(), st.sampled_from([-1e30, 77.0, float("inf"), float("nan")]))
def test_gae_does_not_read_the_other_places(trajectory, garbage):
    r, v, mask = (torch.tensor(x) for x in trajectory)
    clean = adv.gae(r.double(), v.double(), mask, 0.9, 0.8)
    dirty = adv.gae(*(torch.where(mask, x.double(), garbage) for x in (r, v)), mask, 0.9, 0.8)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


# ---- bad input ----

FOUR = torch.tensor([0.1, 0.2, 0.3, 0.4])
ONE_GROUP = torch.zeros(4, dtype=torch.long)
EVERY = [adv.group_normalised, adv.leave_one_out, adv.entropic, lambda r, g: adv.best_of(r, g, 0.25), adv.pairs]


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_is_named(function, bad):
    with pytest.raises(TrainingError, match=r"rewards\[2\] is (nan|inf): expected finite"):
        function(torch.tensor([0.0, 1.0, bad, 0.5]), ONE_GROUP)


@pytest.mark.parametrize("function", EVERY)
def test_a_group_of_one_is_named(function):
    with pytest.raises(TrainingError, match="group 7 has 1 rollout: expected at least"):
        function(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]), torch.tensor([3, 3, 3, 3, 7]))


@pytest.mark.parametrize("function", EVERY)
def test_shapes_and_dtypes_are_checked(function):
    with pytest.raises(TrainingError, match=r"expected two vectors of one length \[N\], got \[4\] and \[5\]"):
        function(FOUR, torch.zeros(5, dtype=torch.long))
    with pytest.raises(TrainingError, match="expected float and integer"):
        function(torch.tensor([0, 1, 0, 1]), ONE_GROUP)


def test_the_adaptive_beta_needs_four():
    with pytest.raises(TrainingError, match="has 3 rollouts: expected at least 4"):
        adv.adaptive_beta(FOUR[:3])
    with pytest.raises(TrainingError, match="has 3 rollouts: expected at least 4"):
        adv.entropic(FOUR[:3], ONE_GROUP[:3])
    assert adv.entropic(FOUR[:3], ONE_GROUP[:3], 2.0).shape == (3,)


@pytest.mark.parametrize("beta", ["adaptiv", 0, -1.0, float("nan"), float("inf"), None])
def test_an_impossible_beta_is_named(beta):
    with pytest.raises(TrainingError, match="beta: .* is neither 'adaptive' nor a number above 0"):
        adv.entropic(FOUR, ONE_GROUP, beta)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_named(share):
    with pytest.raises(TrainingError, match="best: .* expected 0..1"):
        adv.best_of(FOUR, ONE_GROUP, share)


def test_gae_checks_its_input():
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(TrainingError, match=r"one shape \[N, L\], got \[2, 3\], \[2, 2\]"):
        adv.gae(x, x[:, :2], mask, 1.0, 0.95)
    with pytest.raises(TrainingError, match="bool mask"):
        adv.gae(x, x, mask.float(), 1.0, 0.95)
    with pytest.raises(TrainingError, match="lam: 1.5 is out of range"):
        adv.gae(x, x, mask, 1.0, 1.5)
    with pytest.raises(TrainingError, match="not finite"):
        adv.gae(torch.full((2, 3), float("nan")), x, mask, 1.0, 0.95)
