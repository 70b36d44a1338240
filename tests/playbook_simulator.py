"""A run of the playbook in one process: toy tasks, made-up policies and an ``env`` that keeps the contract.

The execution writes a real trajectory file; the scaffold is executed as Python with nothing but the env.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from sia_nb.agents.base import Decision, StepSummary, View
from sia_nb.agents.playbook import PlaybookFeedbackAgent, PlaybookMetaAgent
from sia_nb.agents.rewards import of_proposals, structured
from sia_nb.errors import InvalidSolution
from sia_nb.scaffold.contract import Budget, check
from sia_nb.tasks.base import Solution
from sia_nb.tasks.space import Field, Space
from sia_nb.training.hyper import ALGORITHMS
from sia_nb.trajectory import Trajectory, TrajectoryWriter, text_sha


class BudgetExhausted(RuntimeError):
    """As in the sandbox."""


class ToyTask:
    """A space with a known objective: an additive part, products of pairs of fields, some values that crash."""

    metric = "score on dev"

    def __init__(self, name: str, sizes: list[int], seed: int, *, crash_rate: float = 0.0):
        self.name, self.title = name, f"Toy {name}"
        rng = Random(f"{name} {seed}")
        kinds = ("number", "word", "switch")
        fields = []
        for i, size in enumerate(sizes):
            kind = "switch" if size == 2 else kinds[i % 2]
            values = {
                "number": [round(0.5 * 2**k, 3) for k in range(size)],
                "word": [f"{name}{i}{c}" for c in "pqrstuvwx"[:size]],
            }
            fields.append(Field(f"{name}_{i}", tuple(values.get(kind, [False, True])), f"part {i}", ordered=kind == "number"))
        self.space = Space(fields)
        self.effect = []
        for f in fields:
            if f.ordered:
                peak, width = rng.uniform(0, len(f.values) - 1), rng.uniform(1, 3)
                column = [math.exp(-(((k - peak) / width) ** 2)) for k in range(len(f.values))]
            else:
                column = [rng.random() for _ in f.values]
            weight = rng.random() ** 2
            self.effect.append([weight * c for c in column])
        self.pairs = [
            (*rng.sample(range(len(fields)), 2), rng.uniform(0.2, 0.6), rng.randrange(97)) for _ in range(len(fields) // 2)
        ]
        self.crashing = {
            (f.name, k) for f in fields if len(f.values) > 3 for k in range(len(f.values)) if rng.random() < crash_rate
        }
        self.top = sum(map(max, self.effect)) + sum(p[2] for p in self.pairs)

    def spec_text(self) -> str:
        return f"# {self.title}\n\nFind the record with the highest score. Records have {len(self.space.fields)} fields.\n\n{self.space.describe()}\n"

    def reference(self) -> str:
        return "def solve():\n    return None\n"

    def fallback(self) -> Solution:
        return Solution("spec", self.space.dump({f.name: f.values[0] for f in self.space.fields}))

    def value(self, spec: dict) -> float | None:
        """The score in 0 to 1; None for a crash."""
        at = [f.values.index(spec[f.name]) for f in self.space.fields]
        if any((f.name, k) in self.crashing for f, k in zip(self.space.fields, at, strict=True)):
            return None
        total = sum(column[k] for column, k in zip(self.effect, at, strict=True))
        total += sum(w for i, j, w, salt in self.pairs if (at[i] * 31 + at[j] * 17 + salt) % 4 == 0)
        return total / self.top


@dataclass
class Policy:
    """Writes garbage when free; under the grammar uniform specs, or ``bias`` of the time a fixed value."""

    task: ToyTask
    bias: float = 0.0

    def write(self, rng: Random, grammar: bool) -> str:
        if grammar:
            spec = self.task.space.random(rng)
            for f in self.task.space.fields:
                if rng.random() < self.bias:
                    spec[f.name] = f.values[-1]
            return self.task.space.dump(spec)
        name = self.task.space.names[rng.randrange(len(self.task.space.names))]
        return rng.choice(
            ["Sure! Here it is.", f"{{{name}: yes", f'The best {name} is "high".', f'{{"{name}": "unsure"}}', f"{{'{name}': 1,}}"]
        )


@dataclass
class Run:
    """What lasts over the steps of a run: verdicts remembered and the archive."""

    task: ToyTask
    policy: Policy
    seed: int
    folder: Path
    budget: Budget = Budget(verifier_calls=28, tokens=12_000)
    known: dict[str, dict] = field(default_factory=dict)
    archive: list[dict] = field(default_factory=list)


class Env:
    """The scaffold's env, which also writes the trajectory."""

    BudgetExhausted = BudgetExhausted

    def __init__(self, run: Run, step: int, writer: TrajectoryWriter):
        self._run, self._writer = run, writer
        self._left = {"verifier_calls": run.budget.verifier_calls, "tokens": run.budget.tokens, "seconds": run.budget.seconds}
        self._policy_random = Random(f"policy {run.seed} {step}")
        self.random = Random(f"scaffold {run.seed} {step}")
        self.submitted: str | None = None
        self.archive = [dict(entry) for entry in run.archive]
        self.seen: set[str] = set()
        task = run.task
        self.task = {
            "name": task.name,
            "spec": task.spec_text(),
            "instance": "the only one",
            "metric": task.metric,
            "fallback": task.fallback().text,
            "fields": task.space.as_dict(),
        }

    def budget(self) -> dict:
        return dict(self._left)

    def sample(self, messages, n=1, temperature=1.0, max_tokens=160, grammar=None):
        assert grammar in (None, "solution") and n >= 1
        assert all(set(m) == {"role", "content"} and isinstance(m["content"], str) for m in messages)
        event = self._writer.write(
            "sample", messages=messages, n=n, temperature=temperature, max_tokens=max_tokens, grammar=grammar is not None
        )
        texts: list[str] = []
        if self._left["tokens"] <= 0:
            self._writer.write("limit", what="tokens", detail="")
            raise BudgetExhausted("tokens")
        while len(texts) < n and self._left["tokens"] > 0:
            text = self._run.policy.write(self._policy_random, grammar == "solution")
            tokens = min(max_tokens, len(re.findall(r"\w+|\W", text)) // 2)
            self._left["tokens"] = max(0, self._left["tokens"] - tokens)
            logprob = -1.0 - self._policy_random.random()
            self._writer.write("response", sample=event, index=len(texts), text=text, tokens=tokens, stop="end", logprob=logprob)
            texts.append(text)
        return texts

    def judge(self, text: str) -> dict:
        try:
            spec = self._run.task.space.parse(text)
        except InvalidSolution as error:
            return {"score": 0.0, "valid": False, "reason": f"{error.kind}: {error}", "failure": error.kind, "metrics": {}}
        value = self._run.task.value(spec)
        if value is None:
            return {"score": 0.0, "valid": False, "reason": "crash: in fit", "failure": "crash", "metrics": {}}
        return {"score": round(value, 6), "valid": True, "reason": "", "failure": "", "metrics": {}}

    def evaluate(self, solution: str) -> dict:
        event = self._writer.write("evaluate", solution=solution, dialect="spec")
        cached = solution in self._run.known
        if not cached:
            if self._left["verifier_calls"] < 1:
                self._writer.write("limit", what="verifier_calls", detail="")
                raise BudgetExhausted("verifier_calls")
            self._left["verifier_calls"] -= 1
            self._run.known[solution] = self.judge(solution)
        verdict = {**self._run.known[solution], "cached": cached}
        self._writer.write("verdict", evaluate=event, solution_id=text_sha(solution), repeat=solution in self.seen, **verdict)
        self.seen.add(solution)
        return verdict

    def log(self, kind: str, **data) -> None:
        json.dumps(data)
        self._writer.write("log", **{**data, "kind": kind})

    def submit(self, solution: str) -> None:
        known = self._run.known.get(solution)
        self.submitted = solution
        self._writer.write("submit", solution=solution, solution_id=text_sha(solution), score=known and known["score"])

    def final(self) -> float:
        """The score of the last submission; one that was never evaluated is scored uncounted."""
        if self.submitted is None:
            return 0.0
        if self.submitted not in self._run.known:
            event = self._writer.write("evaluate", solution=self.submitted, dialect="spec", final=True)
            verdict = self._run.known[self.submitted] = self.judge(self.submitted)
            self._writer.write(
                "verdict", evaluate=event, solution_id=text_sha(self.submitted), cached=False, repeat=False, final=True, **verdict
            )
        return self._run.known[self.submitted]["score"]

    def used(self) -> dict:
        cap = {
            "verifier_calls": self._run.budget.verifier_calls,
            "tokens": self._run.budget.tokens,
            "seconds": self._run.budget.seconds,
        }
        return {name: cap[name] - self._left[name] for name in cap}


def execute(run: Run, source: str, step: int) -> tuple[Trajectory, dict, float]:
    """Run one scaffold; its trajectory, metrics and the score of its submission."""
    check(source)
    path = run.folder / f"{run.task.name}_{run.seed}_{step}.jsonl"
    writer = TrajectoryWriter(path)
    env = Env(run, step, writer)
    writer.write(
        "start", format=1, task=run.task.name, instance="", scaffold="", seed=run.seed, budget=env.budget(), sandbox="none"
    )
    scope: dict = {"__name__": "agent"}
    exec(compile(source, "agent.py", "exec"), scope)
    reader = scope["extract"]

    def extract(text: str):
        solution = reader(text)
        writer.write("extract", text_sha=text_sha(text), ok=solution is not None, solution=solution, error=None)
        return solution

    scope["extract"] = extract
    reason = "returned"
    try:
        scope["run"](env)
    except Exception as error:  # a scaffold may fail in any way
        reason = "crashed"
        writer.write("error", where="run", message=repr(error), traceback="")
    messages = scope["build_prompt"]({"task": env.task, "best": [], "parent": None})
    assert messages and all(isinstance(m["content"], str) for m in messages)
    score = env.final()
    writer.write("end", reason=reason, used=env.used())
    writer.close()
    for text, verdict in run.known.items():
        if verdict["valid"] and all(entry["solution"] != text for entry in run.archive):
            run.archive.append({"solution": text, "score": verdict["score"]})
    run.archive.sort(key=lambda entry: -entry["score"])
    del run.archive[16:]
    return Trajectory.read(path), {"score": score, "used": env.used(), "budget": vars(run.budget)}, score


@dataclass
class Loop:
    """The steps of a whole run."""

    scores: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    history: list[StepSummary] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    calls: int = 0
    stopped: bool = False


def levers_of(history: list[StepSummary]) -> dict[str, dict[str, float]]:
    """What each lever was tried for and last gained."""
    out: dict[str, dict[str, float]] = {}
    for i, step in enumerate(history[1:], 1):
        tries = [s for s in history[1 : i + 1] if s.action == step.action]
        out[step.action] = {
            "tries": len(tries), "kept": sum(s.accepted for s in tries), "last_noise": step.noise,
            "last_gain": step.score - max(s.score for s in history[:i] if s.accepted),
            "last_verifier_calls": step.used["verifier_calls"], "last_tokens": step.used["tokens"],
        }  # fmt: skip
    return out


def loop(run: Run, steps: int = 8, noise: float = 0.001, allowed: tuple[str, ...] = ("harness", "stop")) -> Loop:
    """A_1 to A_steps as the real loop does it: accepted above the noise, else rolled back.

    A weight update changes nothing here: the policy samples on as before.
    """
    agent = PlaybookFeedbackAgent(run.task)
    spec = run.task.spec_text()
    source = incumbent = PlaybookMetaAgent(run.task).write(spec, run.task.reference())
    out, edits, kept = Loop(), (), -1.0
    for step in range(1, steps + 1):
        trajectory, metrics, score = execute(run, source, step)
        accepted = step == 1 or score > kept + noise
        if accepted:
            incumbent, kept, through = source, score, (trajectory, metrics)  # what a weight update would train through
        action = out.decisions[-1].action if out.decisions else "init"
        out.history.append(StepSummary(step, action, score, noise, accepted, edits, metrics["used"]))
        out.scores.append(score)
        out.best.append(max(out.scores))
        out.sources.append(source)
        out.digests.append(trajectory.digest())
        out.calls += metrics["used"]["verifier_calls"]
        if step == steps:
            break
        view = View(
            run.task.name, spec, step, source, incumbent, trajectory, metrics, tuple(out.history), steps - step, seed=run.seed,
            allowed=allowed, algorithms=ALGORITHMS if "weights" in allowed else (), levers=levers_of(out.history),
            rewards=of_proposals(*through), structured=structured(through[0]),
        )  # fmt: skip
        decision = agent.decide(view)
        out.decisions.append(decision)
        if decision.action == "stop":
            out.stopped = True
            break
        if decision.action == "weights":
            source, edits = incumbent, (decision.algorithm,)
            continue
        improvement = agent.improve(view)
        out.reports.append(improvement.report)
        source, edits = improvement.scaffold, improvement.edits
    return out


def hill_climb(task: ToyTask, calls: int, seed: int) -> float:
    """The control: (1+1) hill climbing from the fallback, one field at a time, never the same point twice."""
    rng = Random(f"climb {seed}")
    spec = task.space.parse(task.fallback().text)
    best, seen = task.value(spec) or 0.0, {task.space.dump(spec)}
    for _ in range(calls - 1):
        for _ in range(50):
            trial = dict(spec)
            f = rng.choice(task.space.fields)
            here = f.values.index(spec[f.name])
            near = [
                k for k in ((here - 1, here + 1) if f.ordered else range(len(f.values))) if 0 <= k < len(f.values) and k != here
            ]
            trial[f.name] = f.values[rng.choice(near)]
            if task.space.dump(trial) not in seen:
                break
        seen.add(task.space.dump(trial))
        value = task.value(trial) or 0.0
        if value >= best:
            spec, best = trial, value
    return best


TOYS = {
    "twelve": ([5, 4, 2, 6, 3, 2, 8, 4, 2, 5, 3, 6], 0.0),
    "crashy": ([4, 6, 5, 2, 7, 3, 9, 2], 0.12),
}


def toy(name: str, seed: int = 0) -> ToyTask:
    sizes, crash_rate = TOYS[name]
    return ToyTask(name, sizes, seed, crash_rate=crash_rate)
