"""Log-probabilities of rollouts under the policy, with gradients, and one pass of a loss back into its adapter.

A group of rollouts shares its prompt. The prompt is computed once, gradients flow into it; equal rollouts are computed
once, and so is what several rollouts begin with; tokens are packed without padding. The head is applied only where there was a choice, and with a grammar only to the tokens in use, so that log-probabilities
are those of masked sampling. Softmax and log-softmax are float32 whatever the model's format.
Models whose attention has sinks or a sliding window are computed row by row by transformers itself.

Imports torch; imported by the trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ModelError
from ..policy.sampling import Policy
from .attention import Prompt, Rows
from .fused import run
from .head import PLACES, Chosen


@dataclass
class Scored:
    """What the policy makes of N rollouts of at most L tokens."""

    logp: torch.Tensor  # [N, L] float32: of each token, given those before it; 0 where mask is False
    mask: torch.Tensor  # [N, L] bool: places where there was a choice
    hidden: torch.Tensor | None  # [N, L, H] float32: the state that each choice was made from; 0 where mask is False


@dataclass(frozen=True)
class Group:
    """Rollouts of one prompt."""

    prompt_ids: Sequence[int]
    rows: Sequence[tuple[int, ...]]
    segments: tuple[tuple[str, ...], ...] | None = None  # the grammar that the rows were drawn from
    temperature: float = 1.0


def log_probs(
    policy: Policy,
    prompt_ids: Sequence[int],
    rows: Sequence[tuple[int, ...]],
    *,
    segments: Sequence[tuple[str, ...]] | None = None,
    temperature: float = 1.0,
    hidden: bool = False,
    shared: bool = True,
) -> Scored:
    """The log-probability of every choice in ``rows``, the tokens written after ``prompt_ids``.

    Args:
        segments: the grammar that masked the sampling; probabilities are then over the allowed tokens.
        temperature: as in sampling: logits are divided by it, by 1 where it is 0.
        hidden: also give the state that each choice was made from (for a value head).
        shared: compute the prompt once. False: each row is one full sequence of its own through transformers, which is
            slower by far, and is done anyway for a model whose attention allows no sharing (``shares``).

    Raises:
        ModelError: no rows, an empty one, one that is not in the grammar, or one that is longer with its prompt than the
            model's context.
    """
    batch = _Rollouts(policy, Group(prompt_ids, rows, tuple(map(tuple, segments)) if segments is not None else None, temperature))
    return batch.scored(batch.all(shared and shares(policy.model)), hidden)


def step(
    policy: Policy,
    groups: Sequence[Group],
    loss: Callable[[list[Scored]], tuple[torch.Tensor, dict[str, float]]],
    *,
    token_budget: int = 4096,
    hidden: bool = False,
) -> dict[str, float]:
    """Add the gradient of ``loss`` to every parameter it reaches (``.grad``: the adapter's, and those of a value head).

    ``loss`` is called once, with one ``Scored`` a group. Where the groups' distinct tokens fit ``token_budget``, all is one
    forward and one backward. Else log-probabilities are computed without gradient, the loss's gradient is taken with
    regard to them, and the rows are computed again in micro-batches that fit, leaving out those that have no gradient.

    Returns:
        the loss's own figures, ``loss``, ``tokens`` (computed with gradient) and ``micro_batches``.

    Raises:
        ModelError: as ``log_probs``.
    """
    batches = [_Rollouts(policy, group) for group in groups]
    sharing = shares(policy.model)
    sizes = [batch.size(sharing) for batch in batches]
    if sum(sizes) <= token_budget:
        value, stats = loss([batch.scored(batch.all(sharing), hidden) for batch in batches])
        value.backward()
        return {**stats, "loss": float(value.detach()), "tokens": sum(sizes), "micro_batches": 1}
    with torch.no_grad():
        outs = [batch.in_parts(sharing, token_budget) for batch in batches]
    for out in outs:
        out.logp.requires_grad_()
        out.states.requires_grad_()
    value, stats = loss([batch.scored(out, hidden) for batch, out in zip(batches, outs, strict=True)])
    value.backward()
    tokens = parts = 0
    for batch, out in zip(batches, outs, strict=True):
        more, count = batch.backward(out, sharing, token_budget)
        tokens, parts = tokens + more, parts + count
    return {**stats, "loss": float(value.detach()), "tokens": tokens, "micro_batches": parts}


def shares(model: Any) -> bool:
    """Whether the prompt can be shared: every layer has full attention, without sinks and soft cap, that we can stand in for."""
    decoder = model.get_decoder()
    config = decoder.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        bool(getattr(decoder, "_supports_attention_backend", False))
        and kinds == {"full_attention"}
        and not getattr(config, "sliding_window", None)
        and not getattr(config, "attn_logit_softcapping", None)
        and not any(name.endswith("sinks") for name, _ in decoder.named_parameters())
    )


@dataclass
class _Out:
    """At the M choices of the distinct rows, one row's after another's."""

    logp: torch.Tensor  # [M] float32
    states: torch.Tensor  # [M, H]


class _Rollouts:
    """The distinct rows of a group, and where their choices are."""

    def __init__(self, policy: Policy, group: Group):
        self.model, self.group = policy.model, group
        self.head = policy.model.get_output_embeddings()
        self.device = self.head.weight.device
        self.grammar = policy.grammar(group.segments) if group.segments is not None else None
        given = [tuple(map(int, row)) for row in group.rows]
        if not given or not group.prompt_ids:
            raise ModelError("forward: a group has no rows or no prompt; expected at least one rollout of one token.")
        self.prompt = [int(t) for t in group.prompt_ids]
        self.rows = list(dict.fromkeys(given))
        self.which = torch.tensor([self.rows.index(row) for row in given], device=self.device)
        states = [self._walk(policy, i, row) for i, row in enumerate(self.rows)]
        self.choices = [
            [i for i in range(len(row)) if not self.grammar or len(self.grammar.transitions[state[i]]) > 1]
            for row, state in zip(self.rows, states, strict=True)
        ]
        self.states = [[state[i] for i in places] for state, places in zip(states, self.choices, strict=True)]
        self.fed = [places[-1] if places else 0 for places in self.choices]
        self.longest = max(map(len, self.rows))

    def _walk(self, policy: Policy, number: int, row: tuple[int, ...]) -> list[int]:
        """The grammar's state before each token; zeros without a grammar."""
        if not row:
            raise ModelError(f"forward: row {number} is empty; a rollout has at least its end token.")
        if len(self.prompt) + len(row) > policy.context:
            raise ModelError(
                f"forward: the prompt has {len(self.prompt)} tokens and row {number} has {len(row)}; the context of "
                f"'{policy.name}' holds {policy.context}. Shorten the prompt."
            )
        if not self.grammar:
            return [0] * len(row)
        try:
            states = self.grammar.walk(row)
        except ModelError as error:
            raise ModelError(f"forward: row {number} is not in the grammar it is scored by: {error}") from error
        if states[-1] != self.grammar.end:
            raise ModelError(f"forward: row {number} is not in the grammar it is scored by: it stops before the end token.")
        return states

    def size(self, sharing: bool) -> int:
        """Tokens that the distinct rows and their prompt take."""
        if not sharing:
            return sum(len(self.prompt) + n for n in self.fed)
        return len(self.prompt) + len(self._trie(range(len(self.rows)))[0])

    def all(self, sharing: bool) -> _Out:
        """Every distinct row in one go."""
        every = list(range(len(self.rows)))
        if not sharing:
            return self._head(torch.cat([self._alone(r) for r in every]), every)
        prompt, states = self._begin()
        return self._head(self._continue(prompt, states, every), every)

    def in_parts(self, sharing: bool, budget: int) -> _Out:
        """As ``all``, rows in micro-batches; for use without gradients."""
        begun = self._begin() if sharing else None
        outs = [
            self._head(self._continue(*begun, part) if begun else self._alone(part[0]), part)
            for part in self._parts(range(len(self.rows)), sharing, budget)
        ]
        return _Out(*(torch.cat([getattr(out, f) for out in outs]) for f in ("logp", "states")))

    def backward(self, out: _Out, sharing: bool, budget: int) -> tuple[int, int]:
        """Send the gradients gathered in ``out`` on to the parameters; tokens and micro-batches that took."""
        ends = torch.tensor([0, *map(len, self.choices)]).cumsum(0).tolist()
        slices = [slice(a, b) for a, b in zip(ends, ends[1:], strict=False)]
        grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in (out.logp, out.states)]
        rows = [r for r, at in enumerate(slices) if any(g[at].any() for g in grads)]
        if not rows:
            return 0, 0
        parts = self._parts(rows, sharing, budget)
        if sharing:
            prompt, states = self._begin()
            cut, cut_states = prompt.leaves(), states.detach().requires_grad_()
        for part in parts:
            new = self._head(self._continue(cut, cut_states, part) if sharing else self._alone(part[0]), part)
            torch.autograd.backward([new.logp, new.states], [torch.cat([g[slices[r]] for r in part]) for g in grads])
        if not sharing:
            return sum(len(self.prompt) + self.fed[r] for r in rows), len(parts)
        ends = [
            (x, y.grad) for x, y in zip([*prompt.keys, *prompt.values, states], [*cut.keys, *cut.values, cut_states], strict=True)
        ]
        ends = [(x, g) for x, g in ends if g is not None and x.requires_grad]
        torch.autograd.backward([x for x, _ in ends], [g for _, g in ends])
        return len(self.prompt) + sum(len(self._trie(part)[0]) for part in parts), len(parts)

    def scored(self, out: _Out, hidden: bool) -> Scored:
        """``out`` as padded matrices, for the rows as they were given."""
        row = torch.tensor([r for r, places in enumerate(self.choices) for _ in places], device=self.device)
        place = torch.tensor([i for places in self.choices for i in places], device=self.device)
        at = (row.long(), place.long())
        shape = (len(self.rows), self.longest)
        logp = torch.zeros(shape, device=self.device).index_put(at, out.logp)[self.which]
        mask = torch.zeros(shape, device=self.device, dtype=torch.bool)
        mask[at] = True
        states = None
        if hidden:
            states = torch.zeros(*shape, out.states.shape[1], device=self.device).index_put(at, out.states.float())[self.which]
        return Scored(logp, mask[self.which], states)

    def _parts(self, rows: Sequence[int], sharing: bool, budget: int) -> list[list[int]]:
        """Rows in micro-batches of at most ``budget`` tokens, but at least one row."""
        parts: list[list[int]] = []
        for r in rows:
            if parts and sharing and len(self._trie([*parts[-1], r])[0]) <= budget:
                parts[-1].append(r)
            else:
                parts.append([r])
        return parts

    def _trie(self, part: Sequence[int]) -> tuple[list[tuple[int, int]], list[list[int]]]:
        """The distinct (place, token) that the rows of ``part`` feed, each after the same ones, and each row's path in them."""
        nodes: dict[tuple[int, int, int], int] = {}
        paths = []
        for r in part:
            path = [-1]
            for i, token in enumerate(self.rows[r][: self.fed[r]]):
                path.append(nodes.setdefault((path[-1], i, token), len(nodes)))
            paths.append(path[1:])
        return [(place, token) for _, place, token in nodes], paths

    def _begin(self) -> tuple[Prompt, torch.Tensor]:
        """The prompt: its keys and values, and its last state, [1, H]."""
        memory = Prompt()
        states = run(self.model, self.prompt, list(range(len(self.prompt))), memory)
        return memory, states[-1:]

    def _continue(self, prompt: Prompt, states: torch.Tensor, part: list[int]) -> torch.Tensor:
        """The states that the choices of the rows of ``part`` are made from, [M, H]."""
        nodes, paths = self._trie(part)
        index = [path[i - 1] + 1 if i else 0 for r, path in zip(part, paths, strict=True) for i in self.choices[r]]
        if nodes:
            memory = Rows(prompt, [path for path in paths if path], states.device)
            positions = [len(self.prompt) + place for place, _ in nodes]
            states = torch.cat([states, run(self.model, [token for _, token in nodes], positions, memory)])
        return states[torch.tensor(index, device=states.device, dtype=torch.long)]

    def _alone(self, r: int) -> torch.Tensor:
        """As ``_continue`` for one row, by a plain pass over its full sequence."""
        ids = [*self.prompt, *self.rows[r][: self.fed[r]]]
        out = self.model.get_decoder()(input_ids=torch.tensor([ids], device=self.device), use_cache=False)
        places = torch.tensor(self.choices[r], device=self.device, dtype=torch.long) + len(self.prompt) - 1
        return out.last_hidden_state[0][places]

    def _head(self, states: torch.Tensor, part: list[int]) -> _Out:
        """Log-probability at the choices of ``part``."""
        tokens = [self.rows[r][i] for r in part for i in self.choices[r]]
        temperature = self.group.temperature or 1.0
        if self.grammar is None:
            chosen = torch.tensor(tokens, device=self.device, dtype=torch.long)
            if type(self.head) is torch.nn.Linear and not any(p.requires_grad for p in self.head.parameters()):
                return _Out(Chosen.apply(states, self.head.weight, self.head.bias, chosen, temperature), states)
            pieces = [
                torch.utils.checkpoint.checkpoint(_free, self.head, s, c, temperature, use_reentrant=False)
                for s, c in zip(states.split(PLACES), chosen.split(PLACES), strict=True)
            ]
            return _Out(torch.cat(pieces), states)
        column = {t: i for i, t in enumerate(self.grammar.tokens)}
        at = torch.tensor(self.grammar.tokens, device=self.device)
        if type(self.head) is torch.nn.Linear:
            bias = self.head.bias[at].float() if self.head.bias is not None else None
            logits = torch.nn.functional.linear(states.float(), self.head.weight[at].float(), bias)
        else:
            logits = self.head(states).float()[:, at]
        place, allowed = [], []
        for m, state in enumerate(s for r in part for s in self.states[r]):
            following = self.grammar.transitions[state]
            place += [m] * len(following)
            allowed += [column[t] for t in following]
        closed = torch.ones(logits.shape, dtype=torch.bool, device=self.device)
        closed[place, allowed] = False
        logs = (logits / temperature).masked_fill(closed, float("-inf")).log_softmax(-1)
        chosen = torch.tensor([column[t] for t in tokens], device=self.device, dtype=torch.long)
        return _Out(logs.gather(1, chosen[:, None])[:, 0], states)


def _free(head: Any, states: torch.Tensor, chosen: torch.Tensor, temperature: float) -> torch.Tensor:
    """Over the whole vocabulary: log-probability of ``chosen`` at each state."""
    logs = (head(states).float() / temperature).log_softmax(-1)
    return logs.gather(1, chosen[:, None])[:, 0]
