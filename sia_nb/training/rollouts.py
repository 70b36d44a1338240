"""The rollouts of one training step: a group of G texts for each start state, read, scored and told of.

A group may mix the policy's texts with ones made by code mutation of the parent. Those are off-policy: their tokens are
the grammar's path of the text, their log-probability under the policy of the moment stands for the one they were drawn
with (importance ratio 1 on the first pass), so they act as behaviour cloning weighted by the advantage. Each says so in
its ``source``. Whether that helps differs by setting; so does it whether the group's baseline should see them.

``ScaffoldProblem`` is the loop's problem: prompts and solutions through the scaffold's own ``build_prompt`` and
``extract`` in the sandbox, rewards by the task's verifier.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, InvalidSolution, nearest
from ..tasks.base import Solution, Task, Verifier
from .buffer import Buffer
from .hyper import Hyper
from .problem import OutOfCalls, Problem, Reward, Start, TrainingError

if TYPE_CHECKING:
    from ..policy.sampling import Policy


@dataclass
class Rollout:
    """One text of a group."""

    text: str
    ids: tuple[int, ...]  # its tokens, the end token included where it was written
    source: str  # "policy", or "mutation" for one that code mutation wrote
    logprob: float | None = None  # of the distribution drawn from; None for a mutation
    choices: int = 0  # its tokens that were not forced
    solution: str | None = None
    reward: Reward | None = None  # None: the verifier calls ended before
    advantage: float | None = None  # mean over its choices; None where its group taught nothing


@dataclass
class Rolled:
    """A start state and its group."""

    start: Start
    prompt_ids: list[int]
    rollouts: list[Rollout]

    @property
    def scored(self) -> list[Rollout]:
        """Those that have a reward."""
        return [r for r in self.rollouts if r.reward is not None]


def derived(*parts: Any) -> int:
    """A 63-bit seed from any values that print alike when they are alike."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def mutations(hyper: Hyper) -> int:
    """How many of a group are written by code mutation."""
    return round(hyper.mutation * hyper.group_size)


def most_tokens(policy: Policy, problem: Problem, hyper: Hyper) -> int:
    """The tokens that a step's sampling may take at most."""
    longest = policy.longest(problem.segments) if problem.segments else problem.max_tokens
    return hyper.groups * (hyper.group_size - mutations(hyper)) * longest


def sample(policy: Policy, problem: Problem, hyper: Hyper, step: int, seed: int) -> list[Rolled]:
    """Draw a step's groups and read their solutions; no verifier call is made.

    The random numbers of group g are those of (seed, step, g), so no generator's state needs to be kept.

    Raises:
        ModelError: a prompt and its answer are longer than the model's context.
    """
    grammar = policy.grammar(problem.segments) if problem.segments else None
    starts = problem.starts(hyper.groups, hyper.start, Random(derived(seed, step, "starts")))
    groups = []
    for g, start in enumerate(starts):
        drawn = policy.sample(
            start.messages, hyper.group_size - mutations(hyper), temperature=hyper.temperature,
            max_tokens=problem.max_tokens, segments=problem.segments, seed=derived(seed, step, g),
        )  # fmt: skip
        rollouts = [Rollout(s.text, tuple(s.token_ids), "policy", s.logprob) for s in drawn]
        for text in problem.mutate(start, mutations(hyper), Random(derived(seed, step, g, "mutation"))):
            ids = grammar.encode(text) if grammar else _free_ids(policy, text)
            rollouts.append(Rollout(text, tuple(ids), "mutation"))
        for r in rollouts:
            r.choices = sum(len(grammar.allowed(s)) > 1 for s in grammar.walk(r.ids)[:-1]) if grammar else len(r.ids)
        groups.append(Rolled(start, policy.prompt_ids(start.messages), rollouts))
    everything = [r for group in groups for r in group.rollouts]
    for rollout, solution in zip(everything, problem.read([r.text for r in everything]), strict=True):
        rollout.solution = solution
    return groups


def _free_ids(policy: Policy, text: str) -> list[int]:
    return [*policy.tokenizer(text, add_special_tokens=False)["input_ids"], policy.tokenizer.eos_token_id]


def score(groups: list[Rolled], problem: Problem, hyper: Hyper) -> bool:
    """Give every rollout its reward, group by group; False where the verifier calls ended before (the rest has none).

    Raises:
        TrainingError: a reward is not a finite number; names the solution.
    """
    for group in groups:
        ended = False
        solutions = [r.solution for r in group.rollouts]
        try:
            rewards: list[Reward | None] = list(problem.rewards(group.start, solutions))
        except OutOfCalls as out:
            ended = True
            rewards = out.rewards or [None] * len(solutions)
        for rollout, reward in zip(group.rollouts, rewards, strict=True):
            if reward is None:
                continue
            if not (math.isfinite(reward.value) and math.isfinite(reward.score)):
                raise TrainingError(
                    f"training: the verifier gave the reward {reward.value} (score {reward.score}) to the solution "
                    f"{rollout.solution!r}; expected a finite number. Mend the verifier; the last checkpoint is kept."
                )
            if hyper.reward == "improvement" and group.start.parent is not None:
                reward = replace(reward, value=max(0.0, reward.score - float(group.start.parent["score"])))
            rollout.reward = reward
        problem.result(group.start, [r.reward for r in group.scored])
        if ended:
            return False
    return True


def lines(groups: list[Rolled], step: int) -> list[dict[str, Any]]:
    """The step's lines of rollouts.jsonl."""
    out = []
    for g, group in enumerate(groups):
        for row, r in enumerate(group.rollouts):
            told = r.reward
            out.append(
                {
                    "step": step, "group": g, "row": row, "instance": group.start.instance, "text": r.text,
                    "tokens": len(r.ids), "logprob": r.logprob, "solution": r.solution,
                    "reward": told.value if told else None, "score": told.score if told else None,
                    "valid": told.valid if told else None, "reason": told.reason if told else "out of verifier calls",
                    "advantage": r.advantage, "source": r.source, "parent": group.start.parent,
                    "cached": told.cached if told else None,
                }
            )  # fmt: skip
    return out


class ScaffoldProblem:
    """A scaffold, a task and its verifier as a training problem.

    Args:
        source: the scaffold's ``agent.py``.
        verifier: one, or one for each instance by name.
        segments: the task's grammar where the scaffold asks for it, else None.
        max_tokens: of a free answer.
        instances: names of the task's instances that the starts go round over; the first alone by default.
        trusted, unsafe: see ``sandbox.launch``.
        archive: known solutions, {"solution", "score"}, best first; one list, or one for each instance by name.
        scored: ids of the solutions scored before in this run (for several instances "instance/id"); not changed.
        calls: how many fresh verifier calls may be made. A solution scored before is free, and a text that is no
            solution at all costs one each time, as in ``scaffold.gateway``; a text in which ``extract`` finds nothing is
            never asked about.
        workers: verdicts asked for at once.

    Raises:
        ConfigError: an instance that the task does not have, or one without a verifier.
    """

    def __init__(
        self,
        source: str,
        task: Task,
        verifier: Verifier | Mapping[str, Verifier],
        *,
        segments: Iterable[tuple[str, ...]] | None,
        max_tokens: int,
        calls: int,
        instances: Iterable[str] = (),
        trusted: bool = False,
        unsafe: bool = False,
        archive: list[dict[str, Any]] | Mapping[str, list[dict[str, Any]]] = (),
        scored: Iterable[str] = (),
        workers: int = 1,
    ):
        self.source, self.task, self.calls, self.workers = source, task, calls, workers
        self.segments = None if segments is None else tuple(tuple(s) for s in segments)
        self.max_tokens, self.trusted, self.unsafe = max_tokens, trusted, unsafe
        self.instances = tuple(instances) or (task.instances[0].name,)
        known = [i.name for i in task.instances]
        self.verifiers = dict(verifier) if isinstance(verifier, Mapping) else dict.fromkeys(self.instances, verifier)
        for name in self.instances:
            if name not in known or name not in self.verifiers:
                raise ConfigError(
                    f"instance: '{name}' is not {'known' if name not in known else 'given a verifier'}; "
                    f"instances of {task.name}: {', '.join(known)}.{nearest(name, known)}"
                )
        given = archive if isinstance(archive, Mapping) else dict.fromkeys(self.instances, list(archive))
        self.used = 0  # fresh verifier calls so far
        self.scored = set(scored)
        self.best = {n: max(given.get(n, []), key=lambda s: s["score"], default=None) for n in self.instances}
        self.buffers = {n: Buffer(given.get(n, [])) for n in self.instances}
        self._turn = 0
        self._prompts: dict[str, list[dict[str, str]]] = {}
        self._texts: dict[str, str] = {}  # by solution id

    def starts(self, n: int, kind: str, rng: Random) -> list[Start]:
        """``n`` start states, the instances in turn; see ``Problem``."""
        names = [self.instances[(self._turn + i) % len(self.instances)] for i in range(n)]
        self._turn += n
        picked = {name: self.buffers[name].pick(names.count(name)) for name in set(names)} if kind == "puct" else {}
        out: list[tuple[str, dict[str, Any] | None]] = []
        for name in names:
            parent = self.best[name] if kind == "incumbent" else None
            if kind == "puct":
                state = picked[name].pop(0)
                parent = {"solution": state.solution, "score": state.value} if state.solution else None
            out.append((name, parent))
        keys = [json.dumps([name, parent], ensure_ascii=False) for name, parent in out]
        self._build({k: one for k, one in zip(keys, out, strict=True) if k not in self._prompts})
        return [Start(k, self._prompts[k], parent, name) for k, (name, parent) in zip(keys, out, strict=True)]

    def _build(self, wanted: dict[str, tuple[str, dict[str, Any] | None]]) -> None:
        """Build the prompts that are not known yet, in one sandbox."""
        from ..scaffold.execute import call_scaffold, task_info

        if not wanted:
            return
        states = [{"task": task_info(self.task, name), "best": [], "parent": parent} for name, parent in wanted.values()]
        calls = [("build_prompt", [state]) for state in states]
        for key, called in zip(wanted, call_scaffold(self.source, calls, **self._rights()), strict=True):
            if called.error:
                raise TrainingError(
                    f"training: the scaffold's build_prompt failed on the state {key}: {called.error}. It must work with "
                    "{'task': ..., 'best': [], 'parent': None or a solution}; mend agent.py."
                )
            self._prompts[key] = called.value

    def _rights(self) -> dict[str, bool]:
        return {"trusted": self.trusted, "unsafe": self.unsafe}

    def read(self, texts: list[str]) -> list[str | None]:
        """The scaffold's ``extract`` of each text, equal texts once; None also where it raises."""
        from ..scaffold.execute import call_scaffold

        distinct = list(dict.fromkeys(texts))
        called = call_scaffold(self.source, [("extract", [t]) for t in distinct], **self._rights()) if distinct else []
        found = dict(zip(distinct, called, strict=True))
        return [found[t].value if not found[t].error else None for t in texts]

    def mutate(self, start: Start, n: int, rng: Random) -> list[str]:
        """``n`` specs that differ from the parent's (else the best known, else the fallback's) in one or two fields."""
        space, spec = self.task.space, None
        for known in (start.parent, self.best[start.instance], {"solution": self.task.fallback().text}):
            try:
                spec = spec or space.parse(known["solution"] if known else "")
            except InvalidSolution:
                continue
        open_fields = [f for f in space.fields if len(f.values) > 1]
        out = []
        for _ in range(n):
            child = dict(spec)
            for field in rng.sample(open_fields, min(rng.choice((1, 2)), len(open_fields))):
                now = json.dumps(spec[field.name])
                child[field.name] = rng.choice([v for v in field.values if json.dumps(v) != now])
            out.append(space.dump(child))
        return out

    def rewards(self, start: Start, solutions: list[str | None]) -> list[Reward]:
        """The verifier's verdicts; see ``Problem``."""
        name, asked = start.instance, {}
        plan: list[tuple[Solution | None, str, bool] | None] = []  # solution, reason, cached
        for text in solutions:
            try:
                solution = None if text is None else self.task.parse(text)
            except InvalidSolution as error:
                solution, reason = None, f"{error.kind}: {error}"
            else:
                reason = "" if text is not None else "not_extracted: extract found no solution in the text"
            key = solution and (solution.id if len(self.instances) == 1 else f"{name}/{solution.id}")
            free = text is None or key in self.scored
            if not free and self.used >= self.calls:
                plan.append(None)
                continue
            self.used += not free
            if solution is not None:
                self.scored.add(key)
                asked[solution.id] = solution
            plan.append((solution, reason, free))
        with ThreadPoolExecutor(self.workers) as pool:
            verdicts = dict(zip(asked, pool.map(self.verifiers[name].score, asked.values()), strict=True))
        out: list[Reward | None] = []
        for one in plan:
            if one is None:
                out.append(None)
            elif one[0] is None:
                out.append(Reward(0.0, False, one[1], one[2]))
            else:
                verdict = verdicts[one[0].id]
                self._texts[one[0].id] = one[0].text
                value = verdict.value if verdict.valid else 0.0
                out.append(Reward(value, verdict.valid, verdict.reason, one[2], one[0].id, value))
        if None in out:
            raise OutOfCalls(out)
        return out

    def result(self, start: Start, rewards: list[Reward]) -> None:
        """Keep the best, and grow the buffer by the valid children."""
        name = start.instance
        children = [{"solution": self._texts[r.solution_id], "score": r.score} for r in rewards if r.valid]
        best = max(children, key=lambda c: c["score"], default=None)
        if best and (self.best[name] is None or best["score"] > self.best[name]["score"]):
            self.best[name] = best
        self.buffers[name].add(start.parent["solution"] if start.parent else "", children, len(rewards))

    def state(self) -> dict[str, Any]:
        """Plain JSON data."""
        buffers = {n: b.to_dict() for n, b in self.buffers.items()}
        return {"turn": self._turn, "used": self.used, "scored": sorted(self.scored), "best": self.best, "buffers": buffers}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a ``state()``."""
        self._turn, self.used, self.scored = state["turn"], state["used"], set(state["scored"])
        self.best = dict(state["best"])
        self.buffers = {n: Buffer.from_dict(b) for n, b in state["buffers"].items()}
