"""What learns: the LoRA adapter, PPO's value head and their optimiser; and one update of them on a step's rollouts.

Adam(0.9, 0.95) with a constant learning rate and no weight decay, as TTT-Discover (arXiv 2601.16175). The reference
policy of every KL and of DPO is the same model with the adapter off. ``old`` is the log-probability under the weights at
the beginning of the update, whatever the number of epochs.

PPO's value of a choice is linear in the model's last hidden state before it, scaled to length 1, so that one learning
rate serves models of any width. The head starts at 0. Its loss trains the adapter too, weighted by ``value_coef``.

Imported by ``trainer`` only.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ModelError, StoreError, TrainingError
from ..policy import adapter
from . import advantages, devices, forward, objectives
from .hyper import Hyper
from .rollouts import Rolled

if TYPE_CHECKING:
    from ..policy.sampling import Policy

MEASURED = 8  # rollouts whose KL to the base is measured where the algorithm has no use for it
NO_MEMORY = re.compile("allocate memory|out of memory|not enough memory|ALLOC_FAILED|MemoryAllocation")
FLOOR = 16  # tokens a micro-batch under which it is no use to go on halving


class NonFinite(Exception):
    """A loss or a gradient that is not finite; the weights are as they were before the update."""


class OutOfMemory(Exception):
    """Memory did not suffice at the smallest micro-batch; the weights are as they were before the update."""


def teaches(hyper: Hyper, group: Rolled) -> bool:
    """Whether a group is large enough, and its rewards differ in a way that the algorithm learns from."""
    values = [r.reward.value for r in group.rollouts]
    least = 4 if hyper.algorithm == "entropic" and hyper.beta == "adaptive" else 2
    if len(values) < least or len(set(values)) < 2:
        return False
    return hyper.algorithm != "bon_bc" or max(values) > 0


def weigh(hyper: Hyper, rewards: Tensor, group: Tensor) -> Tensor:
    """What each rollout's log-probability is pushed by, [N]; for DPO, won less lost pairs as a share of the group."""
    if hyper.algorithm == "grpo":
        return advantages.group_normalised(rewards, group)
    if hyper.algorithm == "entropic":
        return advantages.entropic(rewards, group, hyper.beta)
    if hyper.algorithm == "bon_bc":
        return advantages.best_of(rewards, group, hyper.best)
    if hyper.algorithm == "dpo":
        winners, losers = advantages.pairs(rewards, group)
        wins = torch.bincount(winners, minlength=len(rewards)) - torch.bincount(losers, minlength=len(rewards))
        return wins / (torch.bincount(group)[group] - 1)
    return advantages.leave_one_out(rewards, group)


def stacked(parts: list[Tensor]) -> Tensor:
    """[n_i, L_i, ...] of several groups as one [N, L, ...], padded with 0 on the right."""
    longest = max(p.shape[1] for p in parts)
    padded = [torch.cat([p, p.new_zeros(p.shape[0], longest - p.shape[1], *p.shape[2:])], 1) for p in parts]
    return torch.cat(padded)


class _Loss:
    """The objective of one update; it remembers on its first call what the later epochs compare with."""

    def __init__(self, hyper: Hyper, rewards: Tensor, group: Tensor, weights: Tensor, ref: Tensor | None, head: Any):
        self.hyper, self.rewards, self.group, self.weights, self.ref, self.head = hyper, rewards, group, weights, ref, head
        self.old: Tensor | None = None
        self.per_choice: Tensor | None = None  # PPO's advantages [N, L]

    def __call__(self, scored: list[Any]) -> tuple[Tensor, dict[str, float]]:
        h = self.hyper
        logp, mask = stacked([s.logp for s in scored]), stacked([s.mask for s in scored])
        if self.old is None:
            self.old, self.mask = logp.detach().clone(), mask
        if h.algorithm == "grpo":
            loss, stats = objectives.grpo(logp, self.old, self.ref, mask, self.weights, clip=h.clip, kl=h.kl)
        elif h.algorithm == "entropic":
            loss, stats = objectives.entropic(logp, self.old, self.ref, mask, self.weights, kl=h.kl)
        elif h.algorithm == "reinforce_kl":
            loss, stats = objectives.reinforce_kl(logp, self.old, self.ref, mask, self.weights, kl=h.kl)
        elif h.algorithm == "bon_bc":
            loss, stats = objectives.bon_bc(logp, mask, self.weights)
        elif h.algorithm == "dpo":
            winners, losers = advantages.pairs(self.rewards, self.group)
            loss, stats = objectives.dpo(logp, self.ref, mask, winners, losers, beta=h.dpo_beta)
        else:
            loss, stats = self._ppo(logp, mask, stacked([s.hidden for s in scored]))
        return loss, stats

    def _ppo(self, logp: Tensor, mask: Tensor, hidden: Tensor) -> tuple[Tensor, dict[str, float]]:
        h = self.hyper
        values = self.head(torch.nn.functional.normalize(hidden.float(), dim=-1))[..., 0] * mask
        if self.per_choice is None:
            self.old_values = values.detach().clone()
            last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
            reward = torch.zeros_like(self.old).scatter_(1, last[:, None], self.rewards[:, None].to(self.old))
            raw, self.returns = advantages.gae(reward, self.old_values, mask, h.gamma, h.lam)
            centred = raw - raw[mask].mean()
            self.per_choice = centred / (centred[mask].std() + 1e-8) * mask
        return objectives.ppo(
            logp, self.old, mask, self.per_choice, values, self.old_values, self.returns,
            clip=h.clip, value_coef=h.value_coef,
        )  # fmt: skip


class Learner:
    """The trainable part of a policy: the adapter that it wears, or else a fresh one.

    Args:
        seed: of the fresh adapter.
        segments: the grammar of masked decoding, or None.
        team: the devices that share the work; the others' learners do the same as this one at the same time (``following``).

    Attributes:
        notes: what had to be said since they were last taken.
    """

    def __init__(self, policy: Policy, hyper: Hyper, seed: int, segments: Any, team: devices.Alone = devices.ALONE):
        self.team = team
        self.policy, self.hyper, self.segments, self.token_budget = policy, hyper, segments, hyper.token_budget
        self.notes: list[str] = []
        try:
            adapter.parameters(policy)
        except ModelError:
            adapter.attach(policy, rank=hyper.rank, seed=seed)
        worn = adapter.rank(policy)
        if worn != hyper.rank:
            raise TrainingError(
                f"rank: {hyper.rank}, but the adapter to go on from has rank {worn}; leave rank at {worn}, or start from the base."
            )
        self.head = None
        if hyper.algorithm == "ppo":
            device = policy.model.get_input_embeddings().weight.device
            self.head = torch.nn.Linear(policy.model.config.hidden_size, 1, device=device)
            torch.nn.init.zeros_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)
        self._optimise()

    @classmethod
    def following(cls, team: devices.Alone, policy: Policy, hyper: Hyper, segments: Any, rank: int, budget: int) -> Learner:
        """In another process than the first: a learner that takes over from ``lead``."""
        adapter.attach(policy, rank=rank)
        learner = cls(policy, hyper, 0, segments, team)
        learner.token_budget = budget
        learner._agree()
        return learner

    def lead(self) -> None:
        """In the first process: have the others' learners begin where this one is.

        Raises:
            TrainingError: another process has another base model.
        """
        self.team.share(("begin", self.hyper, self.segments, adapter.rank(self.policy), self.token_budget))
        if self.team.size > 1:
            self._agree()

    def _agree(self) -> None:
        marks = self.team.gather(adapter.fingerprint(self.policy))
        if len(set(marks)) > 1:
            raise TrainingError(f"devices: the processes loaded different base models ({', '.join(m[:12] for m in marks)}).")
        self.restore(self.team.share(devices.plain(self.snapshot())))

    def _optimise(self) -> None:
        self.parameters = adapter.parameters(self.policy)
        groups = [{"params": self.parameters, "lr": self.hyper.learning_rate}]
        if self.head is not None:
            groups.append({"params": list(self.head.parameters()), "lr": self.hyper.value_lr})
        self.optimiser = torch.optim.Adam(groups, betas=(0.9, 0.95), eps=1e-8)

    @property
    def needs_reference(self) -> bool:
        """Whether the algorithm compares with the base policy."""
        return self.hyper.algorithm == "dpo" or (
            self.hyper.kl > 0 and self.hyper.algorithm in ("grpo", "entropic", "reinforce_kl")
        )

    def update(self, groups: list[Rolled], *, measure: bool = False) -> dict[str, float]:
        """Learn from groups whose rollouts all have rewards, none of them constant; sets their advantages.

        Args:
            measure: where the algorithm does not compare with the base policy, do so for ``MEASURED`` rollouts.

        Returns:
            loss, grad_norm (before clipping, of the last epoch), kl (nats a choice of the policy to the base, where it was
            compared), and what the objective says of itself.

        Raises:
            NonFinite, OutOfMemory: the weights and the optimiser are as before.
        """
        device = self.parameters[0].device
        rewards = torch.tensor([r.reward.value for g in groups for r in g.rollouts], dtype=torch.float64).to(device)
        index = torch.tensor([i for i, g in enumerate(groups) for _ in g.rollouts], device=device)
        told = weigh(self.hyper, rewards, index).float()
        used = torch.ones_like(told, dtype=torch.bool)
        if self.hyper.algorithm == "bon_bc" and not measure:
            used = told > 0  # the loss does not see the others: computing them would take most of the time
        rewards, index, weights = rewards[used], index[used], told[used]
        rows = iter(used.tolist())
        batch = [
            forward.Group(g.prompt_ids, [r.ids for r in g.rollouts if next(rows)], self.segments, self.hyper.temperature)
            for g in groups
        ]
        before = self.snapshot()
        try:
            ref = self._in_memory(lambda: self.reference(batch)) if self.needs_reference else None
            objective = _Loss(self.hyper, rewards, index, weights, ref, self.head)
            for _ in range(self.hyper.epochs):
                stats = self._epoch(batch, objective)
            if ref is None and measure:
                some = [replace(batch[0], rows=batch[0].rows[:MEASURED])]
                base = self._in_memory(lambda: self.reference(some))
                at = (slice(len(base)), slice(base.shape[1]))
                stats["kl"] = float(objectives.k3(objective.old[at], base)[objective.mask[at]].mean())
        except BaseException:
            self.restore(before)
            raise
        finally:
            self.optimiser.zero_grad(set_to_none=True)
        self._note(groups, objective, told)
        return stats

    def _epoch(self, batch: list[Any], objective: _Loss) -> dict[str, float]:
        def backward() -> dict[str, float]:
            self.optimiser.zero_grad(set_to_none=True)
            how = {"token_budget": self.token_budget, "hidden": self.head is not None}
            if self.team.size == 1:
                return forward.step(self.policy, batch, objective, **how)
            head = list(self.head.parameters()) if self.head is not None else []
            return devices.step(self.team, self.policy, batch, objective, parameters=self.parameters, head=head, **how)

        stats = self._in_memory(backward)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.hyper.max_grad_norm))
        others = [p.grad for p in self.head.parameters()] if self.head is not None else []
        if not (math.isfinite(norm) and math.isfinite(stats["loss"]) and all(bool(g.isfinite().all()) for g in others)):
            raise NonFinite(f"loss {stats['loss']:g}, gradient norm {norm:g}")
        self.optimiser.step()
        return {**stats, "grad_norm": norm}

    def _note(self, groups: list[Rolled], objective: _Loss, weights: Tensor) -> None:
        told = weights
        if objective.per_choice is not None:
            told = objective.per_choice.sum(1) / objective.mask.sum(1).clamp(min=1)
        for rollout, value in zip((r for g in groups for r in g.rollouts), told.tolist(), strict=True):
            rollout.advantage = value

    def reference(self, batch: list[Any]) -> Tensor:
        """The base policy's log-probabilities of the rows, [N, L], without gradient."""

        def of_group(group: Any) -> Tensor:
            parts = []
            size = max(1, self.token_budget // max(map(len, group.rows)))
            for at in range(0, len(group.rows), size):
                rows = group.rows[at : at + size]
                scored = forward.log_probs(
                    self.policy, group.prompt_ids, rows, segments=group.segments, temperature=group.temperature
                )
                parts.append(scored.logp)
            return stacked(parts)

        with torch.no_grad(), adapter.reference(self.policy):
            return stacked(devices.rows_of(self.team, batch, of_group, self.parameters[0].device))

    def _in_memory(self, work: Callable[[], Any]) -> Any:
        """``work()``; with half the tokens a micro-batch, and again, where memory does not suffice."""
        while True:
            try:
                return work()
            except (MemoryError, RuntimeError) as error:
                if not short_of_memory(error):
                    raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self.token_budget <= FLOOR:
                raise OutOfMemory(f"memory does not suffice for micro-batches of {self.token_budget} tokens")
            self.token_budget = max(FLOOR, self.token_budget // 2)
            self.notes.append(f"out of memory: token_budget halved to {self.token_budget}")

    def halve_rate(self) -> float:
        """Halve the learning rates; returns the adapter's."""
        for group in self.optimiser.param_groups:
            group["lr"] /= 2
        return self.optimiser.param_groups[0]["lr"]

    def snapshot(self) -> dict[str, Any]:
        """A copy of weights and optimiser."""
        head = self.head.state_dict() if self.head is not None else {}
        return copy.deepcopy({"optimiser": self.optimiser.state_dict(), "head": head}) | {
            "adapter": [p.detach().clone() for p in self.parameters]
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Undo everything since ``snapshot``."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, snapshot["adapter"], strict=True):
                parameter.copy_(value)
        self.optimiser.load_state_dict(snapshot["optimiser"])
        if self.head is not None:
            self.head.load_state_dict(snapshot["head"])

    def save(self, folder: Path) -> None:
        """Write everything to an existing folder."""
        adapter.save(self.policy, folder / "adapter")
        head = self.head.state_dict() if self.head is not None else {}
        state = {"optimiser": self.optimiser.state_dict(), "head": head, "token_budget": self.token_budget}
        try:
            torch.save(state, folder / "optimiser.pt")
        except RuntimeError as error:  # how torch says that the disk is full
            raise StoreError(f"checkpoint: {folder} cannot be written: {error}. Free some space and call it again.") from error

    def load(self, folder: Path) -> None:
        """Go on from what ``save`` wrote."""
        adapter.load(self.policy, folder / "adapter")
        self._optimise()
        state = torch.load(folder / "optimiser.pt", weights_only=True, map_location=self.parameters[0].device)
        self.optimiser.load_state_dict(state["optimiser"])
        self.token_budget = state["token_budget"]
        if self.head is not None:
            self.head.load_state_dict(state["head"])


def short_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice; where it is no class of its own, torch and CUDA's libraries say so."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(NO_MEMORY.search(str(error)))
