"""A training problem with a known optimum and a policy small enough to train in seconds; nothing of it is fetched.

The policy is a random two-layer Llama over bytes; the space has four fields of six values, and a spec earns the mean over
its fields of how near each stands to the optimum: 1 at the optimum, on average about a half at random.
"""

from __future__ import annotations

import hashlib
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sia_nb.policy.sampling import Policy
from sia_nb.tasks.space import Field, Space
from sia_nb.training.problem import OutOfCalls, Reward, Start

SPACE = Space([Field(name, (0, 1, 2, 3, 4, 5), f"the {name}", True) for name in ("w", "x", "y", "z")])
OPTIMUM = {"w": 5, "x": 1, "y": 4, "z": 0}
END, CHAT = "<end>", "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: one token a byte, and an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*alphabet, END])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END, chat_template=CHAT)


def tiny_policy(seed: int = 0) -> Policy:
    """A random policy; equal seeds give equal weights."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=257, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.1, eos_token_id=256, pad_token_id=256,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    torch.set_rng_state(state)
    return Policy(model, tokenizer(), name="tiny")


def worth(spec: dict[str, int]) -> float:
    """1 at the optimum, less by a fifth of a field for each place off."""
    return sum(1 - abs(spec[name] - best) / 5 for name, best in OPTIMUM.items()) / len(OPTIMUM)


class ToyProblem:
    """Rewards by ``worth``; a start's parent is the best spec met so far where the kind asks for one.

    Args:
        calls: how many fresh verdicts are to be had.
        shuffle: give the rewards of a group to its rollouts in another order.
        constant: every rollout earns this.
    """

    segments = tuple(SPACE.segments())
    max_tokens = 64

    def __init__(self, calls: int = 10**9, *, shuffle: bool = False, constant: float | None = None):
        self.calls, self.shuffle, self.constant = calls, shuffle, constant
        self.used, self.turn, self.scored, self.best = 0, 0, set(), None

    def starts(self, n, kind, rng):
        parent = self.best if kind != "restart" else None
        prompt = f"Improve {parent['solution']}" if parent else "Write a spec."
        return [Start(prompt, [{"role": "user", "content": prompt}], parent, "plain") for _ in range(n)]

    def read(self, texts):
        return list(texts)

    def mutate(self, start, n, rng: Random):
        base = SPACE.parse(start.parent["solution"]) if start.parent else SPACE.random(rng)
        out = []
        for _ in range(n):
            field = rng.choice(SPACE.fields)
            out.append(SPACE.dump({**base, field.name: rng.choice([v for v in field.values if v != base[field.name]])}))
        return out

    def rewards(self, start, solutions):
        out = []
        for text in solutions:
            cached = text in self.scored
            if not cached and self.used >= self.calls:
                out.append(None)
                continue
            self.used += not cached
            self.scored.add(text)
            value = worth(SPACE.parse(text)) if self.constant is None else self.constant
            out.append(Reward(value, True, "", cached, hashlib.sha256(text.encode()).hexdigest()[:16], value))
            if self.best is None or value > self.best["score"]:
                self.best = {"solution": text, "score": value}
        if None in out:
            raise OutOfCalls(out)
        if self.shuffle:
            self.turn += 1
            Random(self.turn).shuffle(out)
        return out

    def result(self, start, rewards):
        pass

    def state(self):
        return {"used": self.used, "turn": self.turn, "scored": sorted(self.scored), "best": self.best}

    def restore(self, state):
        self.used, self.turn, self.best = state["used"], state["turn"], state["best"]
        self.scored = set(state["scored"])
