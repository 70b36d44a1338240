"""Masked sampling of a 14-field spec, ours beside transformers' generate() with the same prompt, rows and lengths.

    python benchmarks/sampling.py [n] [threads]

The peer samples freely (its logits are not masked) and is made to write as many tokens a row as our longest row,
with its own key-value cache. Ours is timed from a cold prompt. Also prints the time of free sampling.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "tests")]

import torch  # noqa: E402
from _common import commit, hardware, versions, write  # noqa: E402
from policy_space import SPACE, messages  # noqa: E402

from sia_nb.policy.model import fetch, load  # noqa: E402
from sia_nb.store import data_dir  # noqa: E402


def best(work: Callable[[], Any], times: int = 2) -> tuple[float, Any]:
    """The least wall time of ``times`` calls, in seconds, and the last result."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def main(n: int = 24, threads: int | None = None) -> None:
    fetch(data_dir())
    policy = load(data_dir=data_dir(), threads=threads)
    chat = messages()
    prompt = policy.prompt_ids(chat)

    def masked() -> Any:
        policy.forget()
        return policy.sample(chat, n, segments=SPACE.segments(), seed=1)

    ours, samples = best(masked)
    length = max(s.tokens for s in samples)

    def peer() -> Any:
        ids = torch.tensor([prompt] * n)
        torch.manual_seed(0)
        return policy.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, pad_token_id=2,
            min_new_tokens=length, max_new_tokens=length,
        )  # fmt: skip

    theirs, _ = best(peer, 1)
    free, texts = best(lambda: policy.sample(chat, n, seed=1), 1)
    print(f"prompt {len(prompt)} tokens, {n} rows, up to {length} tokens a row, {torch.get_num_threads()} threads")
    print(f"ours {ours:.2f} s, generate() {theirs:.2f} s, {theirs / ours:.1f} times faster")
    print(f"free sampling of {n} x 160 tokens: {free:.2f} s, {sum(t.tokens for t in texts)} tokens")
    write(
        f"sampling_{n}",
        what=f"{n} grammar-masked samples of a 14-field spec, prompt of {len(prompt)} tokens, cold",
        unit="s",
        ours=ours,
        peers={"transformers generate()": theirs},
        ratio=theirs / ours,
        hardware=f"{hardware()}, {torch.get_num_threads()} threads",
        versions=versions("torch", "transformers"),
        commit=commit(),
        command=f"python benchmarks/sampling.py {n}",
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
