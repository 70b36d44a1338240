"""From log-probabilities and advantages to a loss: the six objectives of the weight lever, a function each.

Tensors: ``logp`` [N, L], log-probability of the token chosen at each place under the policy being trained, with gradient;
``old`` [N, L] the same under the policy that sampled (None: it is the policy itself, the ratio is 1); ``ref`` [N, L] the same
under the base policy (None where no KL is asked for); ``mask`` [N, L] bool, true at the places where the policy had a choice.
What stands at other places is never read and gets no gradient. Only ``logp`` (and PPO's ``values``) get gradients.
Each returns (loss, a scalar to minimise; statistics, floats). Statistics: ``ratio`` mean of π/π_old a choice, ``clipped`` share of
choices whose gradient the clip stopped, ``kl`` nats a choice of the policy to the base (k3, see ``k3``; where ``ref`` is given).
Pure functions; may import ``errors`` only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..errors import TrainingError

Outcome = tuple[Tensor, dict[str, float]]


def k3(logp: Tensor, ref: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(π ‖ π_ref) at each place: exp(d) − d − 1 with d = log π_ref − log π. Never negative."""
    d = ref - logp
    return torch.exp(d) - d - 1


def _prepare(mask: Tensor, **tensors: Tensor | None) -> list[Tensor | None]:
    """Every tensor with 0 at the places that are not chosen; None stays None.

    Raises: TrainingError: a mask that is not bool or all false, a tensor whose shape is not the mask's.
    """
    if mask.dim() != 2 or mask.dtype != torch.bool:
        raise TrainingError(f"mask: expected a bool tensor [N, L], got {mask.dtype} {list(mask.shape)}.")
    for name, x in tensors.items():
        if x is not None and x.shape != mask.shape:
            raise TrainingError(f"{name}: expected the mask's shape [N, L] = {list(mask.shape)}, got {list(x.shape)}.")
    if not mask.any():
        raise TrainingError("mask: all false, the batch has no choice to learn from; expected at least one.")
    with_gradient = ("logp", "values")
    tensors = {name: x if x is None or name in with_gradient else x.detach() for name, x in tensors.items()}
    return [None if x is None else torch.where(mask, x, 0.0) for x in tensors.values()]


def _rows(name: str, x: Tensor, mask: Tensor) -> Tensor:
    """[N], detached. Raises: TrainingError: another shape."""
    if x.shape != mask.shape[:1]:
        raise TrainingError(f"{name}: expected one number a rollout, [N] = {list(mask.shape[:1])}, got {list(x.shape)}.")
    return x.detach()


def _per_choice(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages [N] or [N, L] as [N, L], detached, 0 at the places that are not chosen. Raises: TrainingError: another shape."""
    if advantages.dim() == 2:
        return _prepare(mask, advantages=advantages)[0]
    return torch.where(mask, _rows("advantages", advantages, mask)[:, None], 0.0)


def _needs_ref(ref: Tensor | None, kl: float) -> None:
    if kl < 0:
        raise TrainingError(f"kl: {kl} is negative; expected 0 or more.")
    if kl and ref is None:
        raise TrainingError(f"ref: expected the base policy's log-probabilities [N, L], as kl is {kl}; got None.")


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over all choices of the batch."""
    return torch.where(mask, x, 0.0).sum() / mask.sum()


@torch.no_grad()
def _statistics(logp: Tensor, old: Tensor | None, ref: Tensor | None, mask: Tensor) -> dict[str, float]:
    stats = {} if old is None else {"ratio": _mean(torch.exp(logp - old), mask).item()}
    return stats if ref is None else stats | {"kl": _mean(k3(logp, ref), mask).item()}


def _clipped_surrogate(logp: Tensor, old: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """PPO's −min(ρ A, clip(ρ, 1 ± ε) A) at each place [N, L], and where the clip stops the gradient (bool [N, L])."""
    ratio = torch.exp(logp - old)
    plain, bounded = ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages
    return -torch.minimum(plain, bounded), bounded < plain


def grpo(
    logp: Tensor, old: Tensor | None, ref: Tensor | None, mask: Tensor, advantages: Tensor, *, clip: float, kl: float
) -> Outcome:
    """Group relative policy optimisation: mean over rollouts of the mean over their choices of −min(ρ A, clip(ρ) A) + β k3.

    ρ = π/π_old a choice, β = ``kl``. DeepSeekMath (Shao et al. 2024, eq. 3), TRL's ``loss_type="grpo"``. A rollout without a choice
    counts as one with loss 0.

    Args:
        advantages: [N] (``advantages.group_normalised``) or [N, L].
        clip: ε.
        kl: β ≥ 0.

    Returns: (loss, {ratio, clipped, kl where ref is given}).
    Raises: TrainingError: shapes, or ``kl`` without ``ref``.
    """
    _needs_ref(ref, kl)
    logp, old, ref = _prepare(mask, logp=logp, old=old, ref=ref)
    old = logp.detach() if old is None else old
    loss, stopped = _clipped_surrogate(logp, old, _per_choice(advantages, mask), clip)
    if kl:
        loss = loss + kl * k3(logp, ref)
    of_rollout = torch.where(mask, loss, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return of_rollout.mean(), _statistics(logp, old, ref, mask) | {"clipped": _mean(stopped.to(loss.dtype), mask).item()}


def entropic(logp: Tensor, old: Tensor | None, ref: Tensor | None, mask: Tensor, advantages: Tensor, *, kl: float) -> Outcome:
    """The entropic objective's policy gradient: the mean over all choices of −ρ (A + λ (mean d − d_t)), unclipped.

    ρ = π/π_old a choice, d_t = log π_old − log π_ref, its mean over all choices of the batch, λ = ``kl``: the KL to the base shapes
    the advantages and carries no gradient of its own (TTT-Discover, arXiv 2601.16175). There the choices are summed; the
    mean differs by a factor, to which Adam is blind, and keeps the gradient's norm independent of the batch's size.

    Args:
        advantages: [N] (``advantages.entropic``) or [N, L].
        kl: λ ≥ 0; published runs use 0 to 0.1.

    Returns: (loss, {ratio, kl where ref is given}).
    Raises: TrainingError: shapes, or ``kl`` without ``ref``.
    """
    _needs_ref(ref, kl)
    logp, old, ref = _prepare(mask, logp=logp, old=old, ref=ref)
    old = logp.detach() if old is None else old
    shaped = _per_choice(advantages, mask)
    if kl:
        d = old - ref
        shaped = shaped + kl * (_mean(d, mask) - d)
    return -_mean(torch.exp(logp - old) * shaped, mask), _statistics(logp, old, ref, mask)


def ppo(
    logp: Tensor,
    old: Tensor | None,
    mask: Tensor,
    advantages: Tensor,
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    *,
    clip: float,
    value_coef: float,
) -> Outcome:
    """Proximal policy optimisation: the mean over all choices of −min(ρ A, clip(ρ) A) + c · ½ max((V − R)², (V_clip − R)²).

    ρ = π/π_old a choice, V_clip = V_old + clip(V − V_old, ±ε), c = ``value_coef`` (Schulman et al. 2017, eqs. 7 and 9, with the
    clipped value loss of its released implementation, as in TRL). No entropy bonus.

    Args:
        advantages, returns: [N, L] (``advantages.gae``, with ``old_values``).
        values: [N, L] the value head's V of the state before each place, with gradient.
        old_values: [N, L] the same when the rollouts were sampled.
        clip: ε, of policy and value alike.

    Returns: (loss, {ratio, clipped, value_loss (unweighted), explained (share of the returns' variance that V explains)}).
    Raises: TrainingError: shapes.
    """
    logp, old, values, old_values, returns = _prepare(
        mask, logp=logp, old=old, values=values, old_values=old_values, returns=returns
    )
    old = logp.detach() if old is None else old
    policy, stopped = _clipped_surrogate(logp, old, _per_choice(advantages, mask), clip)
    near = old_values + (values - old_values).clamp(-clip, clip)
    value_loss = 0.5 * _mean(torch.maximum((values - returns) ** 2, (near - returns) ** 2), mask)
    loss = _mean(policy, mask) + value_coef * value_loss
    stats = {"clipped": _mean(stopped.to(loss.dtype), mask).item(), "value_loss": value_loss.item()}
    return loss, _statistics(logp, old, None, mask) | stats | {"explained": _explained(values.detach()[mask], returns[mask])}


def _explained(values: Tensor, returns: Tensor) -> float:
    """1 − Var(R − V) / Var(R); 0 where the returns do not vary."""
    spread = returns.var(correction=0).item()
    return 1 - (returns - values).var(correction=0).item() / spread if spread > 0 else 0.0


def reinforce_kl(logp: Tensor, old: Tensor | None, ref: Tensor | None, mask: Tensor, advantages: Tensor, *, kl: float) -> Outcome:
    """REINFORCE with KL to the base: the mean over rollouts of −ρ_i (A_i − λ (d_i − mean_{j≠i} d_j)), by whole sequences.

    ρ_i = π(y_i)/π_old(y_i), d_i = log π_old(y_i) − log π_ref(y_i), λ = ``kl``. On the sampling policy ρ = 1 and the gradient is that of
    −A log π(y). This is RLOO (Ahmadian et al. 2024; Kool et al. 2019) without clipping: the reward less λ d, then leave one out,
    split in two as leaving one out is linear; d's baseline is the batch's other rollouts, whatever their group.

    Args:
        advantages: [N] (``advantages.leave_one_out``).
        kl: λ ≥ 0.

    Returns: (loss, {ratio, sequence_kl (nats a rollout, mean of d), kl; the last two where ref is given}).
    Raises: TrainingError: shapes, ``kl`` without ``ref`` or with a single rollout.
    """
    _needs_ref(ref, kl)
    logp, old, ref = _prepare(mask, logp=logp, old=old, ref=ref)
    old = logp.detach() if old is None else old
    shaped, stats = _rows("advantages", advantages, mask), _statistics(logp, old, ref, mask)
    if ref is not None:
        d = (old - ref).sum(dim=1)
        stats["sequence_kl"] = d.mean().item()
        if kl:
            if len(d) < 2:
                raise TrainingError("kl: its baseline is the batch's other rollouts; expected at least 2 rollouts, got 1.")
            shaped = shaped - kl * (d - (d.sum() - d) / (len(d) - 1))
    return -(torch.exp((logp - old).sum(dim=1)) * shaped).mean(), stats


def bon_bc(logp: Tensor, mask: Tensor, weights: Tensor) -> Outcome:
    """Best-of-N behaviour cloning: −Σ_i w_i Σ_t log π_it / Σ_i w_i L_i, the weighted cross-entropy a choice of the imitated.

    L_i is the number of choices of rollout i. Filtered imitation of the policy's own best samples, the loss that of supervised
    fine-tuning.

    Args:
        weights: [N] ≥ 0 (``advantages.best_of``).

    Returns: (loss, {imitated: rollouts with a weight above 0}).
    Raises: TrainingError: shapes, a negative weight, or no rollout with a weight and a choice.
    """
    (logp,) = _prepare(mask, logp=logp)
    weights = _rows("weights", weights, mask)
    length = (weights * mask.sum(dim=1)).sum()
    if (weights < 0).any() or length <= 0:
        raise TrainingError(
            "weights: expected at least one rollout with a weight above 0 and none below; no rollout is imitated."
        )
    return -(weights * logp.sum(dim=1)).sum() / length, {"imitated": float((weights > 0).sum())}


def dpo(logp: Tensor, ref: Tensor, mask: Tensor, winners: Tensor, losers: Tensor, *, beta: float) -> Outcome:
    """Direct preference optimisation: the mean over pairs of −log σ(β (d_winner − d_loser)).

    d = log π(y) − log π_ref(y), by whole sequences (Rafailov et al. 2023, eq. 7). log 2 where the policy is the base.

    Args:
        winners, losers: [P] int, row numbers (``advantages.pairs``).
        beta: β > 0.

    Returns: (loss, {margin: mean of β (d_winner − d_loser), accuracy: share of the pairs with a margin above 0, kl}).
    Raises: TrainingError: shapes, no pair, ``ref`` missing, or a beta that is not above 0.
    """
    if not beta > 0:
        raise TrainingError(f"dpo_beta: {beta} is out of range; expected a number above 0.")
    if winners.shape != losers.shape or winners.dim() != 1 or not len(winners):
        raise TrainingError(
            "winners and losers: expected two vectors of row numbers of one length [P], at least one pair, got "
            f"{list(winners.shape)} and {list(losers.shape)}. Rollouts with equal rewards make no pair."
        )
    if ref is None:
        raise TrainingError("ref: expected the base policy's log-probabilities [N, L], got None.")
    logp, ref = _prepare(mask, logp=logp, ref=ref)
    d = (logp - ref).sum(dim=1)
    margin = beta * (d[winners] - d[losers])
    stats = {"margin": margin.mean().item(), "accuracy": (margin > 0).to(d.dtype).mean().item()}
    return -logsigmoid(margin).mean(), stats | _statistics(logp, None, ref, mask)
