"""Checks of the exercises on the policy gradient: each looks at an answer and says what is wrong with it.

Every function of the learner's is asked for cases that can be done by hand first, then compared with the kit's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import policy_gradient as lesson
from .answers import Wrong, called, judged, number, numbers, shown

ONE_GOOD = np.array([1.0, 0.0, 0.0, 0.0])
Function = Callable[..., Any]


def _drawn(size: int = 8) -> np.ndarray:
    return np.random.default_rng(5).gamma(0.6, size=size)


def _same(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-6) -> bool:
    return bool(np.allclose(found, wanted, rtol=tolerance, atol=tolerance))


@judged
def check_gradient(function: Function) -> str:
    """Exercise 1: the score-function estimate from logits [K], answers [N] and advantages [N]."""
    theta, actions = np.array([0.0, 1.0, -1.0]), np.array([1, 0, 1, 2])
    pulls = np.array([1.0, -0.5, 0.0, 2.0])
    for at, taken, weights in ((np.zeros(4), np.array([0]), np.array([1.0])), (theta, actions, pulls)):
        found = numbers(called(function, at, taken, weights), (len(at),))
        wanted, pi = lesson.estimate(at[None], taken[None], weights[None])[0], lesson.softmax(at)
        case = f"for logits {shown(at)}, answers {list(map(int, taken))} and advantages {shown(weights)}"
        hot = np.eye(len(at))[taken]
        if _same(found, wanted):
            continue
        if _same(found, -wanted):
            raise Wrong("the sign is turned: that walks away from good answers. ∇ log π(a) is onehot(a) − π")
        if _same(found, (weights[:, None] * hot).mean(axis=0)):
            raise Wrong("you left out − π: raising one answer must lower the others, and every gradient sums to 0")
        if _same(found, (weights[:, None] * pi[taken][:, None] * (hot - pi)).mean(axis=0)):
            raise Wrong("that is the gradient of π(a), not of log π(a). You draw a with π already, so π would count twice")
        if _same(found, wanted * len(taken)):
            raise Wrong("that is the sum over rollouts; take the mean, so that the step does not grow with the group")
        raise Wrong(f"{case} it gives {shown(found)}, expected {shown(wanted)}")
    kit = lesson.kit_gradient(theta, actions, pulls)
    return f"your estimate is what autograd makes of the kit's objectives.reinforce_kl: {shown(kit)}"


@judged
def check_leave_one_out(function: Function) -> str:
    """Exercise 2: each reward less the mean of the group's other rewards, [N]."""
    found = numbers(called(function, ONE_GOOD), (4,))
    if _same(found, ONE_GOOD - ONE_GOOD.mean()):
        raise Wrong(
            "your baseline includes the rollout's own reward: (1, 0, 0, 0) gives 0.75 to the first, expected 1. It shrinks the "
            "gradient by (N − 1)/N; leave rollout i out of its own baseline"
        )
    if _same(found, np.array([0, 1, 1, 1]) / 3):
        raise Wrong("that is the baseline alone; subtract it from the reward")
    _compare(function, found, ONE_GOOD, np.array([1, -1 / 3, -1 / 3, -1 / 3]), "leave_one_out")
    return "(1, 0, 0, 0) gives (1, −1/3, −1/3, −1/3), and on random rewards you agree with the kit's leave_one_out"


@judged
def check_group_normalised(function: Function) -> str:
    """Exercise 3: GRPO's advantages, (r − mean) / (std + 1e-4) with the unbiased std, [N]."""
    found = numbers(called(function, ONE_GOOD), (4,))
    centred = ONE_GOOD - ONE_GOOD.mean()
    if _same(found, centred / (ONE_GOOD.std() + 1e-4), 1e-3):
        raise Wrong("you divide by the biased std (ddof=0): (1, 0, 0, 0) gives 1.732, expected 1.5. Use ddof=1")
    if _same(found, centred / ONE_GOOD.var(ddof=1), 1e-2):
        raise Wrong("you divide by the variance; advantages without a unit need the standard deviation")
    if _same(found, centred):
        raise Wrong("centred, but not divided by the group's standard deviation yet")
    constant = numbers(called(function, np.full(4, 0.3)), (4,))
    if not np.isfinite(constant).all():
        raise Wrong("a group of equal rewards gives nan: add 1e-4 to the standard deviation. Such a group has nothing to teach")
    _compare(function, found, ONE_GOOD, np.array([1.5, -0.5, -0.5, -0.5]), "group_normalised", 1e-3)
    exact = lesson.advantages("group_normalised")(_drawn()[None])[0]
    if not _same(numbers(called(function, _drawn()), (8,)), exact, 1e-6):
        raise Wrong("nearly: add 1e-4 to the standard deviation, as GRPO's implementations do")
    return "(1, 0, 0, 0) gives (1.5, −0.5, −0.5, −0.5), a constant group zeros, and you agree with the kit's group_normalised"


@judged
def check_entropic(function: Function) -> str:
    """Exercise 4: A_i = e_i / mean of the others' e − 1 with e = exp(β (r − max r)), for a given β, [N]."""
    beta, last = float(np.log(3)), numbers(called(function, ONE_GOOD, float(np.log(3))), (4,))
    e = np.exp(beta * (ONE_GOOD - 1))
    if _same(last, e / e.mean() - 1):
        raise Wrong("your mean includes e_i itself; leave it out, as with the baseline of exercise 2")
    if _same(last, e / (e.sum() - e) - 1):
        raise Wrong("you divide by the sum of the others; divide by their mean, N − 1 of them")
    if _same(last, 3 * e / (e.sum() - e)):
        raise Wrong("that is the ratio; subtract 1, so that an average rollout has advantage 0")
    large = numbers(called(function, ONE_GOOD * 1000, 10.0), (4,))
    if not np.isfinite(large).all():
        raise Wrong("exp overflows for large β r: subtract the group's best reward first. The ratio stays the same")
    _compare(lambda r: function(r, beta), last, ONE_GOOD, np.array([2, -2 / 5, -2 / 5, -2 / 5]), "entropic", 1e-6, beta)
    return "with β = ln 3, (1, 0, 0, 0) gives (2, −2/5, −2/5, −2/5), and you agree with the kit's entropic"


@judged
def check_beta(function: Function) -> str:
    """Exercise 5: the β at which KL(softmax(β r) ‖ uniform) = ln 2."""
    for rewards in (ONE_GOOD, _drawn()):
        found, wanted = number(called(function, rewards)), lesson.kit_beta(rewards)
        if np.isclose(found, wanted, rtol=1e-3):
            continue
        for target, message in (
            (1.0, "your weights have KL 1: ln 2 is wanted, in nats"),
            (np.log(2) / np.log2(np.e), "your KL is in bits: use the natural logarithm, or 1 bit as the target"),
            (np.log(2) * np.log(2), "your KL is in bits: use the natural logarithm, or 1 bit as the target"),
        ):
            if np.isclose(_kl(found, rewards), target, rtol=1e-2):
                raise Wrong(message)
        if np.isclose(_kl(found, rewards, turned=True), np.log(2), rtol=1e-2):
            raise Wrong(
                "your KL is turned round: it is wanted of the weights from uniform, Σ q log(q N), not Σ (1/N) log(1/(q N))"
            )
        raise Wrong(
            f"for rewards {shown(rewards)} it gives {found:.4g}, where the KL is {_kl(found, rewards):.3f}; expected {wanted:.4g}, "
            "where it is ln 2 = 0.693"
        )
    tenfold = number(called(function, 10 * _drawn()))
    if not np.isclose(tenfold, lesson.kit_beta(10 * _drawn()), rtol=1e-3):
        raise Wrong("right for these rewards, wrong for ten times larger ones: let the upper end grow until the KL is above ln 2")
    small = number(called(function, _drawn() / 1000))
    if not np.isclose(small, lesson.kit_beta(_drawn() / 1000), rtol=1e-3):
        raise Wrong("right for these rewards, wrong for a thousandth of them: double the upper end until the KL is above ln 2")
    return "rewards ten times larger get a tenth of the β: the advantages do not change with the reward's unit"


def _kl(beta: float, rewards: np.ndarray, turned: bool = False) -> float:
    """KL of softmax(β r) from uniform in nats, or of uniform from it."""
    q = np.clip(lesson.softmax(beta * rewards), 1e-300, None)
    return float(-np.log(q * len(q)).mean() if turned else (q * np.log(q * len(q))).sum())


def _compare(
    function: Function,
    found: np.ndarray,
    rewards: np.ndarray,
    by_hand: np.ndarray,
    name: str,
    tolerance: float = 1e-6,
    beta: float | str = "adaptive",
) -> None:
    """Raises ``Wrong`` where the answer is neither what one computes by hand nor what the kit's function gives."""
    if not _same(found, by_hand, tolerance):
        turned = ": the sign is turned" if _same(found, -by_hand, tolerance) else ""
        raise Wrong(f"{shown(rewards)} gives {shown(found)}, by hand it is {shown(by_hand)}{turned}")
    drawn = _drawn()
    kit, theirs = lesson.advantages(name, beta)(drawn[None])[0], numbers(called(function, drawn), drawn.shape)
    if not _same(theirs, kit, max(tolerance, 1e-6)):
        raise Wrong(f"right for {shown(rewards)}; for {shown(drawn)} it gives {shown(theirs)}, the kit's {name} {shown(kit)}")
