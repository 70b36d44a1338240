"""The hyperparameters of a weight update, and the menu of algorithms (paper §3.4; the menu is that of its second version).

Validated and frozen; plain JSON on disk. Imports no torch: the agents and the configuration read it.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import ConfigError, nearest

ALGORITHMS = ("grpo", "entropic", "ppo", "reinforce_kl", "bon_bc", "dpo")

MENU: dict[str, str] = {
    "ppo": "step rewards are dense and stability binds (PPO with GAE and a value head)",
    "grpo": "rollouts are cheap and a terminal verifier scores them (group-normalised advantages)",
    "entropic": "rewards are right-skewed: most rollouts poor, a few great (log E exp(beta R), leave-one-out)",
    "reinforce_kl": "there is a risk of regression (REINFORCE with a KL to the base policy)",
    "bon_bc": "the mean reward is about 0, a cold start (behaviour cloning of the best of each group)",
    "dpo": "there are ranks but no scores worth their size (preferences between ranked pairs)",
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "entropic": {},
    "ppo": {"epochs": 2},
    "reinforce_kl": {"kl": 0.05},
    "bon_bc": {},
    "dpo": {},
}


class Hyper(BaseModel):
    """One weight update. A field that an algorithm has no use for is kept and has no effect on it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    algorithm: Literal["grpo", "entropic", "ppo", "reinforce_kl", "bon_bc", "dpo"] = Field(
        "grpo", description="which of the six objectives is optimised"
    )
    steps: int = Field(24, ge=1, le=10_000, description="optimisation steps: sample, score, update")
    groups: int = Field(1, ge=1, le=1024, description="start states a step")
    group_size: int = Field(32, ge=2, le=4096, description="rollouts a start state (G); at least 4 with entropic's adaptive beta")
    learning_rate: float = Field(3e-4, gt=0, le=1e-2, description="Adam's constant learning rate of the adapter")
    temperature: float = Field(1.0, ge=0.1, le=3, description="of the sampling, and of the log-probabilities trained on")
    kl: float = Field(0.0, ge=0, le=10, description="weight of the KL to the base policy (grpo, entropic, reinforce_kl)")
    clip: float = Field(0.2, ge=0, le=1, description="how far the importance ratio may leave 1 (grpo, ppo)")
    epochs: int = Field(1, ge=1, le=16, description="updates on one step's rollouts")
    beta: Literal["adaptive"] | float = Field(
        "adaptive", description="entropic: inverse temperature of the utility, above 0, or 'adaptive' (a KL of ln 2)"
    )
    gamma: float = Field(1.0, ge=0, le=1, description="ppo: discount from one choice to the next")
    lam: float = Field(0.95, ge=0, le=1, description="ppo: lambda of the generalised advantage estimate")
    value_coef: float = Field(0.5, ge=0, le=100, description="ppo: weight of the value loss")
    value_lr: float = Field(1e-3, gt=0, le=1, description="ppo: learning rate of the value head")
    best: float = Field(0.25, gt=0, le=1, description="bon_bc: share of a group that is imitated, at least one rollout")
    dpo_beta: float = Field(0.1, gt=0, le=100, description="dpo: inverse temperature of the preference")
    start: Literal["restart", "incumbent", "puct"] = Field(
        "restart", description="start states: no parent, the best known solution, or states reused by PUCT"
    )
    mutation: float = Field(
        0.0, ge=0, le=0.5, description="share of a group written by code mutation of the parent (the incumbent where none)"
    )
    reward: Literal["score", "improvement"] = Field(
        "score", description="the verifier's score, or by how much it beats the parent's, at least 0"
    )
    max_grad_norm: float = Field(1.0, gt=0, le=1e6, description="gradients longer than this are scaled down to it")
    token_budget: int = Field(4096, ge=16, le=10_000_000, description="tokens a micro-batch: bounds the memory")
    entropy_floor: float = Field(
        0.02, ge=0, le=10, description="mean entropy of a choice, in nats, under which training stops as collapsed"
    )
    rank: int = Field(32, ge=1, le=256, description="LoRA rank")

    @model_validator(mode="after")
    def _fits_together(self) -> Hyper:
        if isinstance(self.beta, float) and self.beta <= 0:
            raise ValueError(f"beta: {self.beta!r} is not valid: expected 'adaptive' or a number greater than 0.")
        if self.algorithm == "entropic" and self.beta == "adaptive" and self.group_size < 4:
            raise ValueError(
                f"group_size: {self.group_size} is not valid: the adaptive beta needs at least 4 rollouts a group. "
                "Raise group_size or give beta a number."
            )
        return self


def make_hyper(algorithm: str, **overrides: Any) -> Hyper:
    """The algorithm's defaults with ``overrides`` laid over them.

    Raises:
        ConfigError: an unknown algorithm or field, a wrong type or a value out of range; the message names the field,
            the value, what was expected and the nearest known name.
    """
    if algorithm not in ALGORITHMS:
        raise ConfigError(
            f"algorithm: {algorithm!r} is not known; known algorithms: {', '.join(ALGORITHMS)}.{nearest(algorithm, ALGORITHMS)}"
        )
    known = Hyper.model_fields
    for name in overrides:
        if name not in known or name == "algorithm":
            raise ConfigError(
                f"hyperparameter '{name}' is not known.{nearest(name, known)} Known: {', '.join(k for k in known if k != 'algorithm')}."
            )
    values = {**DEFAULTS[algorithm], **overrides, "algorithm": algorithm}
    floats = {name for name, field in known.items() if field.annotation is float or name == "beta"}
    values = {k: float(v) if k in floats and type(v) is int else v for k, v in values.items()}
    try:
        return Hyper(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    """One sentence a field."""
    said: dict[str, str] = {}
    for e in error.errors():
        if not e["loc"]:
            said[""] = e["msg"].removeprefix("Value error, ")
            continue
        name = str(e["loc"][0])
        if name == "beta":
            expected, choices = "expected 'adaptive' or a number greater than 0", ("adaptive",)
        else:
            expected, choices = e["msg"][0].lower() + e["msg"][1:], get_args(Hyper.model_fields[name].annotation)
        hint = nearest(str(e["input"]), choices) if choices else ""
        said[name] = f"{name}: {e['input']!r} ({type(e['input']).__name__}) is not valid: {expected}.{hint}"
    return " ".join(said.values())
