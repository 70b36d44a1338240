"""The local policy: many samples of one prompt, freely or masked to a grammar.

Rows that have written the same tokens so far are computed once and part when their choices do. With a grammar,
what is forced is fed together with the choice before it, so each forward serves one real choice of every row.
Random numbers belong to (seed, row, choice), so a sample does not depend on how many others are drawn with it.

Imports torch; imported by ``phases``, the gateway's caller and training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..errors import ModelError
from .frozen import Frozen, Layer
from .grammar import Grammar
from .prefix import SUPPORTED, Prefix, Rows, kind
from .sample import Sample

MEMORY = 2**30  # bytes of keys and values that the rows of one micro-batch may take


@dataclass
class _Leaf:
    """The rows that have written the same tokens so far."""

    rows: list[int]
    written: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)  # of each written token
    state: int = 0  # of the grammar
    pending: list[int] = field(default_factory=list)  # written but not yet fed

    @property
    def slot(self) -> int:
        return self.rows[0]


class Policy:
    """A causal language model and its tokenizer, both plain transformers objects."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str = ""):
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.context = _context(model)
        self._prefixes: list[Prefix] = []  # latest first, at most two
        self._weights: Any = None
        self._grammars: dict[tuple[tuple[str, ...], ...], Grammar] = {}

    def grammar(self, segments: Sequence[tuple[str, ...]]) -> Grammar:
        """The compiled grammar of ``segments``, remembered."""
        key = tuple(tuple(s) for s in segments)
        if key not in self._grammars:
            self._grammars[key] = Grammar(key, self.tokenizer)
        return self._grammars[key]

    def longest(self, segments: Sequence[tuple[str, ...]]) -> int:
        """Tokens of the grammar's longest text, its end token included."""
        return self.grammar(segments).longest

    def prompt_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """The token ids of a chat, ready for the answer."""
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def sample(
        self,
        messages: list[dict[str, str]],
        n: int = 1,
        *,
        temperature: float = 1.0,
        max_tokens: int = 160,
        segments: Sequence[tuple[str, ...]] | None = None,
        seed: int = 0,
        first: int = 0,
    ) -> list[Sample]:
        """``n`` continuations of ``messages``.

        With ``segments`` every text is one of their grammar, whose longest text takes the place of ``max_tokens``;
        forced tokens add nothing to ``logprob``. Temperature 0 takes the likeliest token. ``first`` numbers the first row:
        rows 4 to 7 of eight are what ``n=4, first=4`` gives.

        Raises:
            ModelError: the prompt and the answer are longer than the model's context, or a logit is not finite.
        """
        grammar = self.grammar(segments) if segments is not None else None
        room = grammar.longest if grammar else max_tokens
        ids = self.prompt_ids(messages)
        if len(ids) + room > self.context:
            raise ModelError(
                f"sampling: the prompt has {len(ids)} tokens and the answer may have {room}; the context of "
                f"'{self.name}' holds {self.context}. Shorten the prompt or lower max_tokens."
            )
        prefix = self._prefix(ids)
        each = 2 * len(prefix.keys) * prefix.keys[0].shape[0] * prefix.keys[0].shape[2] * prefix.keys[0].element_size()
        batch = max(1, MEMORY // (each * room))
        out: list[Sample] = []
        for at in range(first, first + n, batch):
            rows = range(at, min(first + n, at + batch))
            out += _Batch(self, prefix, grammar, rows, room, temperature, seed).run()
        return out

    def forget(self) -> None:
        """Drop the computed prompts (never needed for right results: changed weights and adapters are noticed)."""
        self._prefixes = []

    def _prefix(self, ids: list[int]) -> Prefix:
        """The prompt's keys and values, from the last two prompts where these weights computed them."""
        weights = (
            [(p.data_ptr(), p._version) for p in self.model.parameters()],
            [(m.disable_adapters, str(m.active_adapters)) for m in self.model.modules() if hasattr(m, "disable_adapters")],
        )
        if weights != self._weights:
            self._weights = weights
            self.forget()
        for old in self._prefixes:
            if old.ids == ids:
                return old
        prefix = Prefix(ids)
        prefix.begin(self.model, self._prefixes)
        self._prefixes = [prefix, *self._prefixes[:1]]
        return prefix


def _context(model: Any) -> int:
    """Tokens that the model's positions allow."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(found, int):
        raise ModelError(f"model: {kind(model)} does not say how many positions it has (max_position_embeddings). {SUPPORTED}")
    return found


class _Batch:
    """One micro-batch on its way."""

    def __init__(
        self, policy: Policy, prefix: Prefix, grammar: Grammar | None, rows: range, room: int, temperature: float, seed: int
    ):
        self.model, self.tokenizer = policy.model, policy.tokenizer
        self.prefix, self.grammar, self.room, self.temperature = prefix, grammar, room, temperature
        self.memory = Rows(prefix, len(rows), room)
        self.random = [np.random.default_rng([seed, r]) for r in rows]
        self.end = policy.tokenizer.eos_token_id
        head = self.model.get_output_embeddings()
        self.columns = np.array(grammar.tokens) if grammar else np.arange(head.weight.shape[0])
        self.head = head
        self.product = Frozen(Layer(head)) if grammar is None and type(head) is torch.nn.Linear else head
        self.done: dict[int, Sample] = {}

    def run(self) -> list[Sample]:
        leaf = _Leaf(list(range(len(self.random))))
        leaves = self._follow(leaf)
        while leaves:
            hidden = self._feed(leaves)
            choices = self._choose(leaves, hidden)
            parts = [self._part(leaf, c) for leaf, c in zip(leaves, choices, strict=True)]
            leaves = sorted((new for part in parts for new in part), key=lambda new: new.slot)
        return [self.done[r] for r in sorted(self.done)]

    def _feed(self, leaves: list[_Leaf]) -> torch.Tensor:
        if not leaves[0].pending:  # only at the start, where the prompt's last state decides
            return self.prefix.hidden[None]
        return self.memory.feed(self.model, [leaf.slot for leaf in leaves], [leaf.pending for leaf in leaves])

    def _choose(self, leaves: list[_Leaf], hidden: torch.Tensor) -> list[list[tuple[int, float]]]:
        """For each leaf, the token and its log-probability that each of its rows draws."""
        logits = self._logits(hidden)
        if not np.isfinite(logits).all():
            raise ModelError("sampling: the model gave logits that are not finite; its weights are damaged or diverged.")
        out = []
        for leaf, row in zip(leaves, logits, strict=True):
            if self.grammar:
                tokens = np.array(self.grammar.allowed(leaf.state))
                row = row[np.searchsorted(self.columns, tokens)]
            else:
                tokens = self.columns
            scaled = (row - row.max()) / np.float32(self.temperature or 1.0)
            cumulative = np.exp(scaled).cumsum(dtype=np.float64)
            norm = float(np.log(cumulative[-1]))
            drawn = []
            for r in leaf.rows:
                u = self.random[r].random()
                at = int(scaled.argmax()) if self.temperature == 0 else int(cumulative.searchsorted(u * cumulative[-1], "right"))
                at = min(at, len(tokens) - 1)
                drawn.append((int(tokens[at]), float(scaled[at]) - norm))
            out.append(drawn)
        return out

    def _logits(self, hidden: torch.Tensor) -> np.ndarray:
        """Logits over ``columns``, float32 [leaves, columns]."""
        with torch.no_grad():
            if self.grammar and type(self.head) is torch.nn.Linear:
                at = torch.from_numpy(self.columns).to(hidden.device)
                weight = self.head.weight[at].float()
                out = hidden.float() @ weight.T
                if self.head.bias is not None:
                    out = out + self.head.bias[at].float()
            else:
                out = self.product(hidden).float()
                out = out[:, self.columns] if self.grammar else out
        return out.cpu().numpy()

    def _part(self, leaf: _Leaf, drawn: list[tuple[int, float]]) -> list[_Leaf]:
        """The leaf's children, one for each token drawn, in the order of their first rows."""
        groups: dict[int, _Leaf] = {}
        for r, (token, logprob) in zip(leaf.rows, drawn, strict=True):
            if token not in groups:
                state = self.grammar.transitions[leaf.state][token] if self.grammar else 0
                groups[token] = _Leaf([], [*leaf.written, token], [*leaf.logprobs, logprob], state, [token])
            groups[token].rows.append(r)
        out = []
        for new in groups.values():
            if new.slot != leaf.slot:
                self.memory.fork(leaf.slot, new.slot)
            out += self._follow(new)
        return out

    def _follow(self, leaf: _Leaf) -> list[_Leaf]:
        """Add what is forced; a leaf that has come to its end is put away."""
        if self.grammar:
            run, leaf.state = self.grammar.forced(leaf.state)
            leaf.written += run
            leaf.logprobs += [0.0] * len(run)
            leaf.pending += run
            stop = "end" if leaf.state == self.grammar.end else ""
        else:
            stop = "end" if leaf.written[-1:] == [self.end] else "length" if len(leaf.written) == self.room else ""
        if not stop:
            return [leaf]
        ids = tuple(leaf.written)
        text = self.tokenizer.decode(ids[:-1] if stop == "end" else ids, skip_special_tokens=False)
        for r in leaf.rows:
            self.done[r] = Sample(text, len(ids), ids, sum(leaf.logprobs), stop, tuple(leaf.logprobs))
        return []
