"""The loop's training problem: a scaffold, a task and its verifier.

Prompts and solutions come from the scaffold's own ``build_prompt`` and ``extract``, run in the sandbox, so that a rollout
is scaffolded exactly as an execution is; rewards are the task's verdicts, counted as ``scaffold.gateway`` counts them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

from ..errors import ConfigError, InvalidSolution, TrainingError, nearest
from ..scaffold.execute import call_scaffold, task_info
from ..tasks.base import Solution, Task, Verifier
from .buffer import Buffer
from .problem import OutOfCalls, Reward, Start


class ScaffoldProblem:
    """A scaffold, a task and its verifier as a training problem.

    Args:
        source: the scaffold's ``agent.py``.
        verifier: of all instances, or one for each by name.
        instances: names of those that the starts go round over; by default those of ``verifier``, else the task's first.
        segments: the task's grammar where the scaffold asks for it, else None.
        max_tokens: of a free answer.
        trusted, unsafe: see ``sandbox.launch``.
        archive: known solutions, {"solution", "score"}, best first; one list, or one for each instance by name.
        scored: ids of the solutions scored before in this run (where there are several instances, "instance/id"); copied.
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
        known = [i.name for i in task.instances]
        each = dict(verifier) if isinstance(verifier, Mapping) else None
        self.instances = tuple(instances) or tuple(each if each is not None else known[:1])
        self.verifiers = dict.fromkeys(self.instances, verifier) if each is None else each
        for name in self.instances or ("",):
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
        if not wanted:
            return
        states = [
            {"task": task_info(self.task, name), "best": [parent] if parent else [], "parent": parent}
            for name, parent in wanted.values()
        ]
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
        """The scaffold's ``extract`` of each text, equal texts once; None also where it raises.

        A text that ends the sandbox is passed over and the others are read in a new one.
        """
        left, found = list(dict.fromkeys(texts)), {}
        while left:
            called = call_scaffold(self.source, [("extract", [t]) for t in left], **self._rights())
            ended = next((i for i, c in enumerate(called) if c.error.startswith(("killed", "crashed"))), len(left) - 1)
            found |= {t: c.value for t, c in zip(left[: ended + 1], called, strict=False)}
            left = left[ended + 1 :]
        return [found.get(t) for t in texts]

    def mutate(self, start: Start, n: int, rng: Random) -> list[str]:
        """``n`` specs that differ from the parent's (else the best known, else the fallback's) in one or two fields."""
        space, spec = self.task.space, None
        for known in (start.parent, self.best[start.instance], {"solution": self.task.fallback().text}):
            try:
                spec = spec or space.parse(known["solution"] if known else "")
            except InvalidSolution:
                continue
        return [space.dump(space.changed(spec, rng)) for _ in range(n)]

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
                out.append(Reward(value, verdict.valid, verdict.reason, one[2], one[0].id, value, dict(verdict.metrics)))
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
