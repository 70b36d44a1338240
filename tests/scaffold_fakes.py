"""A task, a policy and a verifier whose outputs one can compute by hand, for the tests of the scaffold's machinery."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sia_nb.tasks.base import Instance, Score, Solution
from sia_nb.tasks.space import Field, Space


class DigitsTask:
    """Specs {"a": 0..3, "b": 0..3}; worth (4a + b) / 15; a = b = 3 is not valid (it "times out")."""

    name, title, metric, report_metric = "digits", "Digits", "worth", "worth"
    space = Space([Field("a", (0, 1, 2, 3), "high digit", True), Field("b", (0, 1, 2, 3), "low digit", True)])
    instances = (Instance("plain", "no instance in particular"),)

    def spec_text(self) -> str:
        return "Find large digits. 数字"

    def fallback(self) -> Solution:
        return self.parse('{"a":0,"b":1}')

    def parse(self, text: str) -> Solution:
        return Solution("spec", self.space.dump(self.space.parse(text)))


class DigitsVerifier:
    """Counts how often it really worked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def score(self, solution: Solution) -> Score:
        self.asked.append(solution.text)
        spec = json.loads(solution.text)
        if spec["a"] == spec["b"] == 3:
            return Score(0.0, False, "timeout: 20 s", solution_id=solution.id)
        value = (4 * spec["a"] + spec["b"]) / 15
        return Score(value, True, metrics={"worth": value}, solution_id=solution.id, seconds=0.1, cached=True)


@dataclass(frozen=True)
class Text:
    text: str
    tokens: int
    stop: str = "end"
    logprob: float = -1.0


class CountingPolicy:
    """Its i-th text ever is {"a": i // 4 % 4, "b": i % 4} at 10 tokens, or, without a grammar, prose around it."""

    def __init__(self) -> None:
        self.calls: list[dict] = []
        self.drawn = 0

    def longest(self, segments):
        return 10

    def sample(self, messages, n, *, temperature, max_tokens, segments, seed):
        self.calls.append({"n": n, "max_tokens": max_tokens, "seed": seed, "segments": segments})
        out = []
        for _ in range(n):
            spec = f'{{"a":{self.drawn // 4 % 4},"b":{self.drawn % 4}}}'
            self.drawn += 1
            out.append(Text(spec if segments else f"Sure: {spec}", min(10, max_tokens)))
        return out


HEAD = """
SYSTEM_PROMPT = "You answer in JSON."

def build_prompt(state):
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": state["task"]["spec"]}]

def extract(text):
    start, end = text.find("{"), text.rfind("}")
    return text[start:end + 1] if 0 <= start < end else None
"""


def scaffold(body: str) -> str:
    """A scaffold whose ``run`` has this body."""
    return HEAD + "\ndef run(env):\n" + "\n".join("    " + line for line in body.strip("\n").splitlines()) + "\n"


GOOD = scaffold("""
best = None
messages = build_prompt({"task": env.task, "best": env.archive, "parent": None})
while True:
    try:
        texts = env.sample(messages, n=2, temperature=0.7, max_tokens=20)
        for text in texts:
            solution = extract(text)
            verdict = env.evaluate(solution)
            if best is None or verdict["score"] > best[0]:
                best = (verdict["score"], solution)
        env.log("progress", best=best[0], draw=env.random.random())
    except BudgetExhausted:
        break
env.submit(best[1])
""")
