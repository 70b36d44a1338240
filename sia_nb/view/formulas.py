"""The six objectives as formulas, for a page to show beside their functions (``training.objectives``, ``training.advantages``).

Notation: rollout i of a group of G from one prompt, choice t; ρ = π_θ/π_old; r the reward; A the advantage; x̄ a group's mean.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Formula:
    """One algorithm in mathematical notation (LaTeX), and the functions that compute it."""

    name: str
    loss: str  # what is minimised
    weight: str  # what a rollout's rewards become
    advantages: str  # the function of training.advantages
    says: str  # the weight in words


FORMULAS = {
    "grpo": Formula(
        "Group relative policy optimisation",
        r"L = -\frac1G\sum_i \frac1{L_i}\sum_t \min\big(\rho_{it}A_i,\ \mathrm{clip}(\rho_{it}, 1\pm\varepsilon)A_i\big)"
        r" + \beta\,\mathrm{KL}(\pi_\theta\,\|\,\pi_{\mathrm{base}})",
        r"A_i = \frac{r_i - \bar r}{\mathrm{std}(r) + 10^{-4}}",
        "group_normalised",
        "A rollout is pushed by how many standard deviations it lies above the mean of its own group; no value function is needed.",
    ),
    "entropic": Formula(
        "The entropic utility",
        r"L = -\frac1{\sum_i L_i}\sum_{i,t} \rho_{it}\,\big(A_i + \lambda(\bar d - d_{it})\big),\qquad"
        r" d_{it} = \log\pi_{\mathrm{old}} - \log\pi_{\mathrm{base}}",
        r"A_i = \frac{e^{\beta r_i}}{\frac1{G-1}\sum_{j\ne i} e^{\beta r_j}} - 1,"
        r"\qquad \beta:\ \mathrm{KL}\big(\mathrm{softmax}(\beta r)\,\|\,\mathrm{uniform}\big) = \ln 2",
        "entropic",
        "The best few of a group are pushed hard and the rest are told apart little: for rewards of which a few are great.",
    ),
    "ppo": Formula(
        "Proximal policy optimisation with generalised advantages",
        r"L = -\overline{\min\big(\rho_{it}A_{it},\ \mathrm{clip}(\rho_{it}, 1\pm\varepsilon)A_{it}\big)}"
        r" + c\,\tfrac12\,\overline{\max\big((V-R)^2, (V_{\mathrm{clip}}-R)^2\big)}",
        r"A_{it} = \sum_{k\ge0} (\gamma\lambda)^k \delta_{i,t+k},\qquad \delta_{it} = r_{it} + \gamma V_{i,t+1} - V_{it}",
        "gae",
        "A learned value of each state is the baseline, choice by choice. The example shows where it starts: the reward less the "
        "mean of the others, before the value head has learned anything.",
    ),
    "reinforce_kl": Formula(
        "REINFORCE with a KL to the base policy",
        r"L = -\frac1G\sum_i \rho_i\,\big(A_i - \lambda(d_i - \bar d_{j\ne i})\big),\qquad"
        r" d_i = \log\pi_{\mathrm{old}}(y_i) - \log\pi_{\mathrm{base}}(y_i)",
        r"A_i = r_i - \frac1{G-1}\sum_{j\ne i} r_j",
        "leave_one_out",
        "The mean of the other rollouts is the baseline; what strays from the base policy pays for it.",
    ),
    "bon_bc": Formula(
        "Best-of-N behaviour cloning",
        r"L = -\frac{\sum_i w_i\sum_t \log\pi_\theta(y_{it})}{\sum_i w_i L_i}",
        r"w_i = \tfrac1k\ \text{for the } k \text{ best rewards above 0},\quad 0\ \text{otherwise}",
        "best_of",
        "The best of a group are imitated, the others ignored: it learns even where nearly all rewards are 0.",
    ),
    "dpo": Formula(
        "Direct preference optimisation",
        r"L = -\overline{\log\sigma\big(\beta\,(d_{\mathrm{winner}} - d_{\mathrm{loser}})\big)},\qquad"
        r" d = \log\pi_\theta(y) - \log\pi_{\mathrm{base}}(y)",
        r"(\mathrm{winner}, \mathrm{loser}):\ r_{\mathrm{winner}} > r_{\mathrm{loser}}\ \text{in one group}",
        "pairs",
        "Only the order of the rewards counts. The example shows each rollout's won less its lost pairs, as a share.",
    ),
}


def formula_markdown(algorithm: str) -> str:
    """The algorithm's loss and what it makes of the rewards, as Markdown with LaTeX."""
    f = FORMULAS[algorithm]
    return f"### {f.name}\n\n$${f.loss}$$\n\n$${f.weight}$$\n\n{f.says}"
