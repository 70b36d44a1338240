"""The lesson on the policy gradient: a softmax policy over a handful of answers, its exact gradient, and learning curves.

The policy is one vector θ [K] of logits; an answer a is drawn with π = softmax(θ) and has a random reward. That is the kit's weight
update without its language model: one choice a rollout, one state. Advantages come from ``training.advantages``, and the
gradient's estimate is checked against ``training.objectives``. torch is loaded inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

METHODS = ("none", "leave_one_out", "group_normalised", "entropic")
Advantages = Callable[[np.ndarray], np.ndarray]  # rewards [S, N], a group a row → advantages [S, N]


@dataclass(frozen=True)
class Bandit:
    """Answers with a random reward: ``height`` with probability ``chance``, else 0; then noise, a scale and an offset."""

    height: np.ndarray  # [K]
    chance: np.ndarray  # [K]
    noise: float = 0.0
    scale: float = 1.0
    offset: float = 0.0

    @property
    def means(self) -> np.ndarray:
        """Expected reward of each answer before scale and offset, [K]."""
        return self.height * self.chance

    def draw(self, actions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Rewards of answers, of the same shape."""
        hit = rng.random(actions.shape) < self.chance[actions]
        plain = self.height[actions] * hit + self.noise * rng.normal(size=actions.shape)
        return self.offset + self.scale * plain


def ladder(*, scale: float = 1.0, offset: float = 0.0) -> Bandit:
    """Ten answers whose mean rewards rise from 0 to 1, with noise of 0.1."""
    return Bandit(np.linspace(0, 1, 10), np.ones(10), 0.1, scale, offset)


def safe_or_risky() -> Bandit:
    """Eight poor answers, a safe one (always 0.5) and a risky one (1 in a fifth of the tries, else 0)."""
    return Bandit(np.array([0.1] * 8 + [0.5, 1.0]), np.array([1.0] * 9 + [0.2]))


SAFE, RISKY = 8, 9  # their numbers


def softmax(theta: np.ndarray) -> np.ndarray:
    """exp(θ) / Σ exp(θ) over the last axis."""
    e = np.exp(theta - theta.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def exact_gradient(theta: np.ndarray, means: np.ndarray) -> np.ndarray:
    """∇θ Σ_a π(a) μ(a) = π (μ − π·μ), [K]."""
    pi = softmax(theta)
    return pi * (means - (pi * means).sum(axis=-1, keepdims=True))


def estimate(theta: np.ndarray, actions: np.ndarray, advantages: np.ndarray) -> np.ndarray:
    """The score-function estimate (1/N) Σ_i A_i (onehot(a_i) − π): θ [S, K], actions and advantages [S, N] → [S, K]."""
    pulled = np.zeros_like(theta)
    np.add.at(pulled, (np.arange(len(theta))[:, None], actions), advantages)
    return (pulled - advantages.sum(axis=1, keepdims=True) * softmax(theta)) / actions.shape[1]


# -- the kit's own -----------------------------------------------------------------------------------


def advantages(method: str, beta: float | str = "adaptive") -> Advantages:
    """One of ``METHODS``: the kit's own function of rewards [S, N], a group a row; "none" hands the rewards on."""
    if method == "none":
        return lambda rewards: rewards

    def of(rewards: np.ndarray) -> np.ndarray:
        import torch

        from ..training import advantages as kit

        given = torch.from_numpy(np.ascontiguousarray(rewards, dtype=np.float64))
        group = torch.arange(len(given)).repeat_interleave(given.shape[1])
        named = {"beta": beta} if method == "entropic" else {}
        return getattr(kit, method)(given.flatten(), group, **named).reshape(given.shape).numpy()

    return of


def kit_beta(rewards: np.ndarray) -> float:
    """``training.advantages.adaptive_beta`` of one group's rewards [N]."""
    import torch

    from ..training.advantages import adaptive_beta

    return adaptive_beta(torch.from_numpy(np.asarray(rewards, dtype=np.float64)))


def kit_gradient(theta: np.ndarray, actions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """−∇θ of ``training.objectives.reinforce_kl`` by autograd, [K]: a rollout is one choice; actions and advantages [N]."""
    import torch

    from ..training.objectives import reinforce_kl

    logits = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    logp = torch.log_softmax(logits, dim=0)[torch.from_numpy(actions)][:, None]
    mask = torch.ones_like(logp, dtype=torch.bool)
    loss, _ = reinforce_kl(logp, None, None, mask, torch.from_numpy(np.asarray(weights, dtype=np.float64)), kl=0.0)
    loss.backward()
    return -logits.grad.numpy()


# -- experiments -------------------------------------------------------------------------------------


def draw_actions(theta: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Answers of S policies θ [S, K], [S, size] int."""
    edges = softmax(theta).cumsum(axis=1)[:, None, :-1]
    return (rng.random((len(theta), size, 1)) > edges).sum(axis=2)


def estimates(bandit: Bandit, method: str, *, size: int = 16, repeats: int = 4000, seed: int = 0) -> np.ndarray:
    """The estimate of the gradient at θ = 0, projected on the true one's direction, from ``repeats`` groups, [repeats].

    Its expectation is the true gradient's length wherever the estimate is without bias.
    """
    rng, theta = np.random.default_rng(seed), np.zeros((repeats, len(bandit.means)))
    actions = draw_actions(theta, size, rng)
    found = estimate(theta, actions, advantages(method)(bandit.draw(actions, rng)))
    true = exact_gradient(theta[0], bandit.scale * bandit.means)
    return found @ true / np.linalg.norm(true)


def variance(offsets: tuple[float, ...] = (0.0, 1.0, 5.0), *, size: int = 16, seed: int = 0) -> pd.DataFrame:
    """Mean and spread of the gradient's estimate with no baseline and with the others' mean.

    Returns:
        Columns offset, baseline, truth (length of the true gradient), mean, sd (of one estimate), signal (truth / sd).
    """
    rows = []
    for offset in offsets:
        bandit = ladder(offset=offset)
        truth = float(np.linalg.norm(exact_gradient(np.zeros(len(bandit.means)), bandit.means)))
        for method in METHODS[:2]:
            found = estimates(bandit, method, size=size, seed=seed)
            rows.append((offset, method, truth, found.mean(), found.std(ddof=1), truth / found.std(ddof=1)))
    return pd.DataFrame(rows, columns=["offset", "baseline", "truth", "mean", "sd", "signal"])


def curves(
    bandit: Bandit,
    methods: dict[str, Advantages],
    *,
    seeds: int = 10,
    steps: int = 120,
    size: int = 16,
    rate: float = 0.5,
    seed: int = 0,
) -> pd.DataFrame:
    """Gradient ascent on θ from 0 with each method, all seeds side by side.

    Args:
        methods: name → advantages.
        size: rollouts a step, one group. rate: of θ ← θ + rate · estimate.

    Returns:
        Columns method, seed, step, value (the policy's expected reward before scale and offset), risky (its
        probability of the last answer).
    """
    tables = []
    for name, function in methods.items():
        rng, theta = np.random.default_rng(seed), np.zeros((seeds, len(bandit.means)))
        for step in range(steps + 1):
            pi = softmax(theta)
            told = {"seed": range(seeds), "step": step, "value": pi @ bandit.means, "risky": pi[:, -1]}
            tables.append(pd.DataFrame({"method": name, **told}))
            actions = draw_actions(theta, size, rng)
            theta = theta + rate * estimate(theta, actions, function(bandit.draw(actions, rng)))
    return pd.concat(tables, ignore_index=True)


def summary(table: pd.DataFrame, value: str = "value") -> pd.DataFrame:
    """The last step over seeds: columns method, mean, low, high (95 %, Student's t), worst, best."""
    from ..view.collect import interval

    last, rows = table[table["step"] == table["step"].max()], []
    for name, part in last.groupby("method", sort=False):
        mean, low, high = interval(list(part[value]))
        rows.append((name, mean, low, high, part[value].min(), part[value].max()))
    return pd.DataFrame(rows, columns=["method", "mean", "low", "high", "worst", "best"])


def utility(beta: np.ndarray, bandit: Bandit, answer: int) -> np.ndarray:
    """(1/β) log E[exp(β R)] of one answer without noise: its mean as β → 0, its best reward as β → ∞."""
    height, chance = bandit.height[answer], bandit.chance[answer]
    return np.log1p(chance * np.expm1(beta * height)) / beta
