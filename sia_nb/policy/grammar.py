"""A token-level grammar: which tokens may come next so that the text is one of a finite set.

A grammar is declared as segments, each a tuple of alternative strings; a text is one alternative of each
segment, concatenated (``Space.segments``). The canonical tokens of a text are what the tokenizer gives for it as
a whole wherever the segments allow that: each literal is cut at a place where the tokenizer never merges across,
and what stands between two cuts (a choice with its surroundings) is tokenised in one go. So a masked sample has
the tokens that the same text has in a prompt. Every text has exactly one token path, which ends in the end
token, so log-probabilities over the allowed tokens are a distribution over the texts.

Imports no torch; imported by ``sampling`` and by training.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from ..errors import ModelError

MAX_ALTERNATIVES = 4096  # of one block; more means that the segments leave no place to cut


class Grammar:
    """An automaton over token ids. State 0 is the start; ``end`` is the state after the end token.

    Attributes:
        transitions: for each state, {allowed token id: next state}, ids ascending.
        blocks: the alternatives between two cuts, as texts.
        longest: tokens of the longest path, end token included.
    """

    def __init__(self, segments: Sequence[tuple[str, ...]], tokenizer: Any):
        """Compile ``segments`` for ``tokenizer``.

        Raises:
            ModelError: a segment is empty or repeats an alternative, or two choices of segments give the same text,
                or the tokenizer does not give a text back as it was.
        """
        for i, segment in enumerate(segments):
            if not segment or len(set(segment)) != len(segment):
                raise ModelError(f"grammar: segment {i} is empty or repeats an alternative: {segment!r}")
        self.tokenizer = tokenizer
        self._end_token = int(tokenizer.eos_token_id)
        self.transitions: list[dict[int, int]] = [{}]
        self.blocks: list[tuple[str, ...]] = []
        pending: tuple[str, ...] = ("",)
        blocks = _cut([tuple(s) for s in segments], tokenizer)
        state = longest = 0
        for i, block in enumerate(blocks):
            pending = tuple(a + b for a, b in product(pending, block))
            if len(pending) > MAX_ALTERNATIVES or len(set(pending)) != len(pending):
                raise ModelError(
                    f"grammar: the segments before {block[0]!r} do not tell where a choice ends; "
                    "put a literal between the choices that none of their values contains."
                )
            last = i == len(blocks) - 1
            paths = [p + [self._end_token] * last for p in _encode(list(pending), tokenizer)]
            if last or (_prefix_free(paths) and _prefix_free(pending)):
                state = self._add(state, paths)
                longest += max(map(len, paths))
                self.blocks.append(pending)
                pending = ("",)
        self.end = state
        self.longest = longest
        self.tokens = tuple(sorted({t for allowed in self.transitions for t in allowed}))

    def allowed(self, state: int) -> tuple[int, ...]:
        """The token ids that may follow in ``state``, ascending; empty at the end."""
        return tuple(self.transitions[state])

    def forced(self, state: int) -> tuple[list[int], int]:
        """The tokens that must follow ``state`` up to the next choice or the end, and the state reached."""
        run: list[int] = []
        while len(self.transitions[state]) == 1:
            ((token, state),) = self.transitions[state].items()
            run.append(token)
        return run, state

    def encode(self, text: str) -> list[int]:
        """The one token path of ``text``, end token included.

        Raises:
            ModelError: ``text`` is not in the grammar.
        """
        starts = {0: ()}
        for block in self.blocks:
            starts = {at + len(b): (*chosen, b) for at, chosen in starts.items() for b in block if text.startswith(b, at)}
        if len(text) not in starts:
            raise ModelError(f"grammar: the text is not in the grammar: {text[:200]!r}")
        return [t for ids in _encode(list(starts[len(text)]), self.tokenizer) for t in ids] + [self._end_token]

    def walk(self, ids: Sequence[int]) -> list[int]:
        """The state before each token of ``ids``, and the one after the last.

        Raises:
            ModelError: a token is not allowed where it stands.
        """
        states = [0]
        for i, token in enumerate(ids):
            following = self.transitions[states[-1]].get(int(token))
            if following is None:
                raise ModelError(
                    f"grammar: token {token} is not allowed at place {i}; expected one of {self.allowed(states[-1])}"
                )
            states.append(following)
        return states

    def _add(self, root: int, paths: list[list[int]]) -> int:
        """Hang a trie of prefix-free ``paths`` under ``root``; returns the state in which all of them meet."""
        goal = len(self.transitions)
        self.transitions.append({})
        for path in paths:
            state = root
            for token in path[:-1]:
                if token not in self.transitions[state]:
                    self.transitions[state][token] = len(self.transitions)
                    self.transitions.append({})
                state = self.transitions[state][token]
            self.transitions[state][path[-1]] = goal
        for state, allowed in enumerate(self.transitions):
            self.transitions[state] = dict(sorted(allowed.items()))
        return goal


def _encode(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of each text on its own, checked to give the text back."""
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for text, row in zip(texts, ids, strict=True):
        if not row or tokenizer.decode(row, skip_special_tokens=False, clean_up_tokenization_spaces=False) != text:
            raise ModelError(f"grammar: this tokenizer does not give {text!r} back as it was; use a byte-level tokenizer.")
    return [list(row) for row in ids]


def _prefix_free(paths: Sequence[Any]) -> bool:
    """No path (or text) is equal to, or the beginning of, another."""
    ordered = sorted(paths)
    return all(a != b[: len(a)] for a, b in zip(ordered, ordered[1:], strict=False))


def _cut(segments: list[tuple[str, ...]], tokenizer: Any) -> list[tuple[str, ...]]:
    """The same texts as other segments, whose borders lie where the tokenizer never merges across.

    Neighbouring literals are joined first. A literal without such a place is cut at its end.
    """
    joined: list[tuple[str, ...]] = []
    for segment in segments:
        if joined and len(segment) == 1 and len(joined[-1]) == 1:
            joined[-1] = (joined[-1][0] + segment[0],)
        else:
            joined.append(segment)
    blocks: list[tuple[str, ...]] = []
    head = ""
    for i, segment in enumerate(joined):
        last = i == len(joined) - 1
        if len(segment) > 1:
            tail = ""
            if not last and len(joined[i + 1]) == 1:
                literal = joined[i + 1][0]
                after = joined[i + 2] if i + 2 < len(joined) else ("",)
                at = len(literal) if i + 2 >= len(joined) else _place(segment, literal, after, tokenizer)
                tail, rest = literal[:at], literal[at:]
            else:
                rest = ""
            blocks.append(tuple(head + value + tail for value in segment))
            head = rest
        elif i == 0:
            if last:
                blocks.append(segment)
            head = segment[0]
    return [b for b in blocks if b != ("",)]


def _place(before: tuple[str, ...], literal: str, after: tuple[str, ...], tokenizer: Any) -> int:
    """Where to cut ``literal`` so that both sides tokenise alike alone and together, whatever stands around."""
    for at in range(1, len(literal)):
        left, right = [b + literal[:at] for b in before], [literal[at:] + a for a in after]
        pairs = list(product(left, right))
        whole = tokenizer([a + b for a, b in pairs], add_special_tokens=False)["input_ids"]
        alone = dict(zip([*left, *right], tokenizer([*left, *right], add_special_tokens=False)["input_ids"], strict=True))
        if all(list(w) == list(alone[a]) + list(alone[b]) for w, (a, b) in zip(whole, pairs, strict=True)):
            return at
    return len(literal)
