"""From rewards to advantages: how much better a rollout was than its group, for each of the six algorithms.

A group is the rollouts drawn from one start state. ``rewards`` is [N] float and ``group`` [N] int names each rollout's group
(any labels, in any order). All sums run in float64, whatever the rewards' dtype, and results come back in it: rewards that
differ late in the mantissa still order and centre right. Pure functions of tensors, no gradient flows through them.
May import ``errors`` only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import TrainingError

STD_EPS = 1e-4  # added to a group's standard deviation, as GRPO implementations do
WEIGHT_EPS = 1e-12  # added to the leave-one-out mean of the entropic weights
KL_TARGET = math.log(2)  # nats; the adaptive beta's weights are as far from uniform as choosing one half of the group
BETA_MAX = 1e6  # end of the search for beta, in units of 1 / (best - worst reward)


def groups_of(rewards: Tensor, group: Tensor, least: int = 2) -> list[Tensor]:
    """The row numbers of each group, groups by ascending label, rows in order.

    Args:
        rewards: [N] float, finite.
        group: [N] int.
        least: rollouts a group must have.

    Raises:
        TrainingError: wrong shapes or dtypes, a reward that is not finite, a group smaller than ``least``.
    """
    if rewards.dim() != 1 or group.shape != rewards.shape:
        raise TrainingError(
            f"rewards and group: expected two vectors of one length [N], got {list(rewards.shape)} and {list(group.shape)}."
        )
    if not rewards.is_floating_point() or group.is_floating_point():
        raise TrainingError(f"rewards and group: expected float and integer tensors, got {rewards.dtype} and {group.dtype}.")
    bad = (~torch.isfinite(rewards)).nonzero().flatten().tolist()
    if bad:
        raise TrainingError(
            f"rewards[{bad[0]}] is {rewards[bad[0]].item()}: expected finite numbers ({len(bad)} of {len(rewards)} are not). "
            "A verifier must give a failed rollout reward 0, not NaN."
        )
    rows = [(group == label).nonzero().flatten() for label in group.unique()]
    for r in rows:
        if len(r) < least:
            raise TrainingError(
                f"group {group[r[0]].item()} has {len(r)} rollout{'s' if len(r) > 1 else ''}: expected at least {least}. "
                "Raise group_size."
            )
    return rows


def _each(rewards: Tensor, group: Tensor, least: int, function) -> Tensor:
    """``function`` ([K] float64 rewards, shifted so that the best is 0) applied group by group; [N] in the rewards' dtype."""
    out = torch.zeros(len(rewards), dtype=torch.float64, device=rewards.device)
    for rows in groups_of(rewards, group, least):
        r = rewards[rows].detach().double()
        out[rows] = function(r - r.max())  # a constant group becomes exact zeros
    return out.to(rewards.dtype)


def group_normalised(rewards: Tensor, group: Tensor) -> Tensor:
    """GRPO's advantages: A_i = (r_i − mean r) / (std r + 1e-4), mean and unbiased std over the rollout's group.

    DeepSeekMath (Shao et al. 2024, §4.1.2), with the epsilon that implementations add. A constant group gives exactly 0.

    Returns: [N]. Raises: TrainingError (see ``groups_of``; at least 2 a group).
    """
    return _each(rewards, group, 2, lambda r: (r - r.mean()) / (r.std(correction=1) + STD_EPS))


def _mean_of_others(x: Tensor) -> Tensor:
    """[K] -> [K]: the mean over all j ≠ i, summed without subtracting, so that a dominant x_i cancels nothing."""
    others = x.expand(len(x), len(x)).clone().fill_diagonal_(0.0)
    return others.sum(dim=1) / (len(x) - 1)


def leave_one_out(rewards: Tensor, group: Tensor) -> Tensor:
    """REINFORCE's advantages: A_i = r_i − mean_{j≠i} r_j over the rollout's group.

    The other rollouts are an unbiased baseline (Kool et al. 2019; RLOO: Ahmadian et al. 2024). A constant group gives exactly 0.

    Returns: [N]. Raises: TrainingError (see ``groups_of``; at least 2 a group).
    """
    return _each(rewards, group, 2, lambda r: r - _mean_of_others(r))


def adaptive_beta(rewards: Tensor) -> float:
    """The β at which KL(softmax(β r) ‖ uniform) = ln 2, for the rewards [K] of one group.

    TTT-Discover (arXiv 2601.16175): double the upper end from 1, then 60 bisections. Done here on rewards divided by their
    range, so that β·r is exactly the same for rescaled rewards, however small their range. When half of the group or more share
    the best reward no β reaches ln 2: the largest tried is returned, with which the best get all the weight. A constant group
    gives 0.

    Raises: TrainingError: not finite, or fewer than 4 rewards: at KL ln 2 the weights are spread over K/2 rollouts (their
        perplexity), so that a group of two would learn from one alone, which no finite β does.
    """
    groups_of(rewards, torch.zeros_like(rewards, dtype=torch.long), 4)
    r = rewards.detach().double()
    spread = (r.max() - r.min()).item()
    if spread == 0:
        return 0.0
    x = (r - r.max()) / spread

    def kl(beta: float) -> float:
        log_q = torch.log_softmax(beta * x, dim=0)
        return (log_q.exp() * (log_q + math.log(len(x)))).sum().item()

    low, high = 0.0, 1.0
    while kl(high) < KL_TARGET:
        if high >= BETA_MAX:
            return high / spread
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if kl(middle) < KL_TARGET else (low, middle)
    return high / spread


def entropic(rewards: Tensor, group: Tensor, beta: float | str = "adaptive") -> Tensor:
    """Advantages of the entropic utility J = log E[exp(β r)]: A_i = e_i / (mean_{j≠i} e_j + 1e-12) − 1.

    e_i = exp(β (r_i − max r)) within the rollout's group (TTT-Discover, arXiv 2601.16175). Rewards the few best of a group and
    hardly tells the rest apart. A constant group gives exactly 0.

    Args:
        beta: "adaptive" (``adaptive_beta`` of each group, at least 4 a group) or a fixed β > 0 (at least 2).

    Returns: [N]. Raises: TrainingError (see ``groups_of``), or a ``beta`` that is neither.
    """
    adaptive = beta == "adaptive"
    if not adaptive and not (isinstance(beta, int | float) and 0 < beta < math.inf):
        raise TrainingError(f"beta: {beta!r} is neither 'adaptive' nor a number above 0.")

    def advantages(r: Tensor) -> Tensor:
        if not r.any():
            return r  # the epsilon would leave -1e-12
        e = torch.exp((adaptive_beta(r) if adaptive else float(beta)) * r)
        return e / (_mean_of_others(e) + WEIGHT_EPS) - 1

    return _each(rewards, group, 4 if adaptive else 2, advantages)


def best_of(rewards: Tensor, group: Tensor, share: float) -> Tensor:
    """Who is imitated: weight 1/k for the k best rollouts of a group, 0 for the others.

    Best-of-N behaviour cloning. k = ⌈share · K⌉, at least one; ties go to the first. Only rewards above 0 are imitated, so
    that a cold start learns no failures: k shrinks to the number of these, and a group without any gets weight 0 throughout.

    Args:
        share: part of a group, 0..1.

    Returns: [N], summing to 1 over a group or to 0. Raises: TrainingError (see ``groups_of``), or a share out of range.
    """
    if not 0 <= share <= 1:
        raise TrainingError(f"best: {share} is not a share of a group; expected 0..1.")
    weights = torch.zeros_like(rewards)
    for rows in groups_of(rewards, group):
        count = max(1, math.ceil(share * len(rows) - 1e-9))  # 0.28 * 25 is 7.000000000000001
        ranked = rows[rewards[rows].argsort(descending=True, stable=True)]
        chosen = ranked[:count][rewards[ranked[:count]] > 0]
        if len(chosen):
            weights[chosen] = 1.0 / len(chosen)
    return weights


def pairs(rewards: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """All ranked pairs within the groups, for DPO: (winners [P], losers [P]), row numbers with r_winner > r_loser.

    Uses the order of the rewards only. A constant group gives no pair. By group, then winner, then loser.

    Raises: TrainingError (see ``groups_of``; at least 2 a group).
    """
    winners, losers = [], []
    for rows in groups_of(rewards, group):
        r = rewards[rows]
        better = (r[:, None] > r[None, :]).nonzero()
        winners.append(rows[better[:, 0]])
        losers.append(rows[better[:, 1]])
    return torch.cat(winners), torch.cat(losers)


@torch.no_grad()
def gae(rewards_t: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eqs. 11–16): Â_t = δ_t + γλ Â_{t+1}.

    δ_t = r_t + γ V_{t+1} − V_t. Only places where ``mask`` is true are steps: t+1 is the row's next such place, and after the last
    one V = 0 (a rollout ends, it is not cut off). Rewards and values elsewhere are not read.

    Args:
        rewards_t: [N, L] reward received with the choice at each place (a terminal verifier: all at the last choice).
        values: [N, L] V of the state before each place.
        mask: [N, L] bool.
        gamma, lam: 0..1.

    Returns: (advantages, returns), [N, L] each, returns = advantages + values; both 0 where mask is false.
    Raises: TrainingError: shapes that differ, a mask that is not bool, gamma or lam out of range, a masked reward or value that is
        not finite.
    """
    if rewards_t.dim() != 2 or values.shape != rewards_t.shape or mask.shape != rewards_t.shape or mask.dtype != torch.bool:
        raise TrainingError(
            "gae: expected rewards, values and a bool mask of one shape [N, L], got "
            f"{list(rewards_t.shape)}, {list(values.shape)} and {list(mask.shape)} ({mask.dtype})."
        )
    for name, value in (("gamma", gamma), ("lam", lam)):
        if not 0 <= value <= 1:
            raise TrainingError(f"{name}: {value} is out of range; expected 0..1.")
    r, v = (torch.where(mask, x, 0.0).double() for x in (rewards_t, values))
    if not (torch.isfinite(r).all() and torch.isfinite(v).all()):
        raise TrainingError("gae: a reward or value of a chosen token is not finite; expected finite numbers.")
    advantages = torch.zeros_like(r)
    next_advantage = next_value = torch.zeros_like(r[:, 0])
    for t in reversed(range(r.shape[1])):
        step = r[:, t] + gamma * next_value - v[:, t] + gamma * lam * next_advantage
        advantages[:, t] = torch.where(mask[:, t], step, 0.0)
        next_advantage = torch.where(mask[:, t], step, next_advantage)
        next_value = torch.where(mask[:, t], v[:, t], next_value)
    return advantages.to(values.dtype), (advantages + v).to(values.dtype)
