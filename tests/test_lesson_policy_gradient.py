"""The lesson on the policy gradient: what its experiments show, and what its checks say to right and wrong answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_nb.lessons import policy_gradient as pg
from sia_nb.lessons import policy_gradient_checks as checks


def gradient(theta, actions, advantages, *, sign=1, minus=True, log=True, mean=True):
    pi = pg.softmax(theta)
    rows = np.eye(len(theta))[actions] - (pi if minus else 0)
    rows = rows * advantages[:, None] * (1 if log else pi[actions][:, None])
    return sign * (rows.mean(axis=0) if mean else rows.sum(axis=0))


@pytest.mark.parametrize(
    "how, says",
    [
        ({}, "right"),
        ({"sign": -1}, "the sign is turned"),
        ({"minus": False}, "left out − π"),
        ({"log": False}, "gradient of π(a)"),
        ({"mean": False}, "take the mean"),
    ],
)
def test_exercise_1_says_what_is_wrong(how, says, capsys):
    answer = lambda theta, actions, advantages: gradient(theta, actions, advantages, **how)
    assert checks.check_gradient(answer) == (says == "right")
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("check", [checks.check_gradient, checks.check_leave_one_out, checks.check_group_normalised])
@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda *a: None, "returns nothing"),
        (lambda *a: ..., "returns nothing"),
        (lambda *a: 1 / 0, "ZeroDivisionError"),
        (lambda *a: "much", "gives str"),
        (lambda *a: 0.5, "gives one number; expected an array of shape 4"),
        (lambda: 0, "TypeError"),
    ],
)
def test_an_answer_that_is_none_stops_nothing(check, answer, says, capsys):
    assert check(answer) is False
    told = capsys.readouterr().out
    assert told.startswith("not yet: ") and says in told


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda r: r - (r.sum() - r) / (len(r) - 1), "right"),
        (lambda r: r - r.mean(), "includes the rollout's own reward"),
        (lambda r: (r.sum() - r) / (len(r) - 1), "baseline alone"),
        (lambda r: (r.sum() - r) / (len(r) - 1) - r, "the sign is turned"),
        (lambda r: np.array([1, -1 / 3, -1 / 3, -1 / 3]) if len(r) == 4 else r, "the kit's leave_one_out"),
    ],
)
def test_exercise_2_says_what_is_wrong(answer, says, capsys):
    assert checks.check_leave_one_out(answer) == (says == "right")
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda r: (r - r.mean()) / (r.std(ddof=1) + 1e-4), "right"),
        (lambda r: (r - r.mean()) / (r.std() + 1e-4), "ddof=1"),
        (lambda r: (r - r.mean()) / r.std(ddof=1), "gives nan"),
        (lambda r: (r - r.mean()) / (r.var(ddof=1) + 1e-4), "divide by the variance"),
        (lambda r: r - r.mean(), "not divided"),
        (lambda r: (r - r.mean()) / (r.std(ddof=1) + 1e-8), "add 1e-4"),
        (lambda r: r / (r.std(ddof=1) + 1e-4), "by hand it is"),
    ],
)
def test_exercise_3_says_what_is_wrong(answer, says, capsys):
    assert checks.check_group_normalised(answer) == (says == "right")
    assert says in capsys.readouterr().out


def weights(r, beta):
    return np.exp(beta * (r - r.max()))


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda r, b: (e := weights(r, b)) / ((e.sum() - e) / (len(e) - 1) + 1e-12) - 1, "right"),
        (lambda r, b: (e := weights(r, b)) / e.mean() - 1, "includes e_i itself"),
        (lambda r, b: (e := weights(r, b)) / (e.sum() - e) - 1, "divide by their mean"),
        (lambda r, b: (e := weights(r, b)) / ((e.sum() - e) / (len(e) - 1)), "subtract 1"),
        (lambda r, b: (e := np.exp(b * r)) / ((e.sum() - e) / (len(e) - 1)) - 1, "exp overflows"),
        (lambda r, b: r - r.mean(), "by hand it is [2, -0.4, -0.4, -0.4]"),
    ],
)
def test_exercise_4_says_what_is_wrong(answer, says, capsys):
    assert checks.check_entropic(answer) == (says == "right")
    assert says in capsys.readouterr().out


LN2 = float(np.log(2))


def beta(rewards, *, target=LN2, base=1.0, turned=False, most=np.inf, start=1.0):
    def kl(b):
        q = np.clip(pg.softmax(b * rewards), 1e-300, None)
        return (-np.log(q * len(q)).mean() if turned else (q * np.log(q * len(q))).sum()) / base

    low, high = 0.0, start
    while kl(high) < target and high < most:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if kl(middle) < target else (low, middle)
    return high


@pytest.mark.parametrize(
    "how, says",
    [
        ({}, "right"),
        ({"target": 1.0}, "ln 2 is wanted"),
        ({"base": LN2}, "in bits"),
        ({"turned": True}, "KL is turned round"),
        ({"most": 64.0}, "a thousandth of them"),
        ({"target": 0.3}, "expected"),
    ],
)
def test_exercise_5_says_what_is_wrong(how, says, capsys):
    assert checks.check_beta(lambda r: beta(r, **how)) == (says == "right")
    assert says in capsys.readouterr().out


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6), st.integers(0, 99))
def test_the_estimate_is_without_bias(logits, seed):
    theta = np.array(logits)
    means = np.random.default_rng(seed).normal(size=len(theta))
    pi, every = pg.softmax(theta), np.arange(len(theta))
    expected = sum(
        p * pg.estimate(theta[None], np.array([[a]]), np.array([[means[a]]]))[0] for a, p in zip(every, pi, strict=True)
    )
    assert np.allclose(expected, pg.exact_gradient(theta, means), atol=1e-12)


def test_a_baseline_takes_variance_and_adds_no_bias():
    table = pg.variance(offsets=(5.0,)).set_index("baseline")
    plain, others = table.loc["none"], table.loc["leave_one_out"]
    for row in (plain, others):
        assert abs(row["mean"] - row["truth"]) < 4 * row["sd"] / np.sqrt(4000)
    assert others["sd"] < plain["sd"] / 10


def test_only_unitless_advantages_learn_from_small_rewards_and_entropic_ones_take_the_risk():
    small = pg.curves(pg.ladder(scale=0.05), {m: pg.advantages(m) for m in pg.METHODS[1:3]}, seeds=4, steps=60)
    told = pg.summary(small).set_index("method")["mean"]
    assert told["group_normalised"] > 0.9 and told["leave_one_out"] < 0.6
    made = {"grpo": pg.advantages("group_normalised"), "entropic": pg.advantages("entropic", 5.0)}
    told = pg.summary(pg.curves(pg.safe_or_risky(), made, seeds=4), "risky").set_index("method")["mean"]
    assert told["grpo"] < 0.05 and told["entropic"] > 0.9


def test_the_entropic_utility_runs_from_the_mean_to_the_best_reward():
    bandit = pg.safe_or_risky()
    low, high = pg.utility(np.array([1e-6, 500.0]), bandit, pg.RISKY)
    assert np.isclose(low, bandit.means[pg.RISKY], atol=1e-4) and high > 0.99
