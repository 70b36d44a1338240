"""Where weights pay: a policy trained on some instances of a task, tried on held-out ones with few verifier calls.

For each seed a policy is trained on the training instances together. Then, on each held-out instance and at equal numbers
of *distinct* verifier calls, the best value so far is compared between the arms of ``transfer_plan``. Nobody knows anything of a
held-out instance but its description. What the search arms carry over are the best solutions that the same training run
met, so they have had the same verifier calls before; those without a past have had none, which is said beside them.

    folder/plan.json                     what is compared; the same plan goes on where it stopped
    folder/seed_000/training/            the weight update (``trainer``)
    folder/seed_000/trained.json         what it came to, and the best solution of each training instance
    folder/seed_000/proposals-*.json     what the trained and the untrained policy propose
    folder/seed_000/reference.json       what the task's reference is worth on the held-out instances
    folder/seed_000/<instance>-<n>.json  the curves of the n-th search on a held-out instance
    folder/transfer.json                 all of it, with provenance

Imported by ``study``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, InvalidSolution, StoreError
from ..policy import adapter
from ..store import alone, provenance, read_json, read_lines, write_json
from ..tasks.base import Task, Verifier, find_instance
from .clock import Clock
from .proposals import proposals
from .rollouts import ScaffoldProblem, derived
from .searchers import Curve, Searcher, climb, distance, follow, listed, uniform
from .trainer import train
from .transfer_plan import ARMS, FIRST, GRID, PATIENCE, SAVED, Plan

if TYPE_CHECKING:
    from ..policy.sampling import Policy

FORMAT = 1


class Transfer:
    """A study on its way; every finished part is on file and is not done again.

    Args:
        policy: opens the base policy; called only where something is left to sample or train.
        source: the scaffold that prompts come from; its answers are masked to the task's space.
        verifier: opens a verifier of an instance by name.
        workers: arms compared at once.
        clock: is told of each part done; its parts are training steps ("train"), a policy's proposals for one search
            ("draw") and searches by all arms on one instance ("compare").
        trusted: see ``sandbox.launch``.

    Raises:
        ConfigError: the plan does not fit the task. StoreError: ``folder`` holds another study.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        task: Task,
        policy: Callable[[], Policy],
        source: str,
        verifier: Callable[[str], Verifier],
        folder: Path,
        workers: int = 1,
        clock: Clock | None = None,
        trusted: bool = True,
    ):
        plan.check(task)
        self.plan, self.task, self.source, self.folder = plan, task, source, Path(folder)
        self.workers, self.trusted, self._open, self._verifier = workers, trusted, policy, verifier
        self._policy: Policy | None = None
        self._clock = clock or Clock()
        known = self.folder / "plan.json"
        if not known.exists():
            write_json(known, plan.to_dict())
        elif read_json(known) != plan.to_dict():
            raise StoreError(f"{known} is of another study; choose another name or folder, or delete {self.folder}")

    def run(self, seeds: tuple[int, ...] = ()) -> dict[str, Any] | None:
        """Do what is left of ``seeds`` (all of the plan's where empty); the result once nothing is left of any seed.

        Raises:
            ConfigError: a seed that is not the plan's. TrainingError, ModelError, StoreError: as they come.
        """
        for seed in seeds:
            if seed not in self.plan.seeds:
                raise ConfigError(f"transfer: seed {seed} is not in the plan; its seeds: {', '.join(map(str, self.plan.seeds))}")
        mine = seeds or self.plan.seeds
        self._clock.plan(
            {"train": len(mine) * self.plan.hyper.steps, "draw": 2 * len(mine) * self._cells, "compare": len(mine) * self._cells}
        )
        for seed in mine:
            with alone(self.at(seed), "name other seeds"):
                self._train(seed)
                for arm in ("trained", "untrained"):
                    self._draw(seed, arm)
                self._compare(seed)
        return self.gather()

    @property
    def _cells(self) -> int:
        return len(self.plan.held_out) * self.plan.searches

    def at(self, seed: int) -> Path:
        """A seed's folder."""
        return self.folder / f"seed_{seed:03d}"

    # -- training ----------------------------------------------------------------------------------
    def _problem(self, names: tuple[str, ...], verifiers: list[Verifier], calls: int) -> ScaffoldProblem:
        return ScaffoldProblem(
            self.source, task=self.task, verifier=dict(zip(names, verifiers, strict=True)), trusted=self.trusted,
            segments=self.task.space.segments(), max_tokens=160, calls=calls, workers=self.workers,
        )  # fmt: skip

    def _train(self, seed: int) -> None:
        path, hyper = self.at(seed) / "trained.json", self.plan.hyper
        if path.exists():
            self._clock.skip("train", hyper.steps)
            return
        policy, folder = self._base(), self.at(seed) / "training"
        verifiers = [self._verifier(name) for name in self.plan.train]
        last = [0]

        def told(line: dict[str, Any]) -> None:
            self._clock.skip("train", line["step"] - last[0] - 1)  # done before a kill
            last[0] = line["step"]
            self._clock.done(
                "train", f"seed {seed}: training step {line['step']} of {hyper.steps}, reward {line['reward_mean']:.3f}"
            )

        try:
            problem = self._problem(self.plan.train, verifiers, hyper.steps * hyper.groups * hyper.group_size)
            self._clock.start()
            result = train(policy, problem, hyper, folder=folder, seed=seed, on_step=told)
        finally:
            for verifier in verifiers:
                verifier.close()
        self._clock.skip("train", hyper.steps - last[0])
        saved: dict[str, dict[str, Any]] = {}
        for line in read_lines(folder / "rollouts.jsonl"):
            known = saved.get(line["instance"])
            if line["valid"] and (known is None or line["score"] > known["score"]):
                saved[line["instance"]] = {"solution": line["solution"], "score": line["score"]}
        told_of = {k: v for k, v in asdict(result).items() if k not in ("solutions", "best")}
        seconds = sum(line["seconds"] for line in read_lines(folder / "curve.jsonl"))
        write_json(path, {"seed": seed, **told_of, "seconds": seconds, "saved": saved, "provenance": provenance()})

    def _base(self) -> Policy:
        """The untrained policy."""
        if self._policy is None:
            self._policy = self._open()
        adapter.detach(self._policy)
        return self._policy

    # -- what the policies propose -------------------------------------------------------------------
    def _draw(self, seed: int, arm: str) -> None:
        """The likeliest answer first, then samples at the training's temperature, until enough are distinct."""
        path = self.at(seed) / f"proposals-{arm}.json"
        if path.exists():
            self._clock.skip("draw", self._cells)
            return
        policy, out = self._base(), {}
        if arm == "trained":
            adapter.load(policy, self.at(seed) / "training" / "adapter")
        verifiers = [self._verifier(name) for name in self.plan.held_out]
        try:
            problem = self._problem(self.plan.held_out, verifiers, 0)
            starts = {s.instance: s for s in problem.starts(len(self.plan.held_out), "restart", Random(0))}
        finally:
            for verifier in verifiers:
                verifier.close()
        self._clock.start()
        with adapter.merged(policy):
            for name in self.plan.held_out:
                for search in range(self.plan.searches):
                    out[f"{name}-{search}"] = self._propose(policy, problem, starts[name], derived("transfer", seed, search))
                    self._clock.done("draw", f"seed {seed}: proposals of the {arm} policy, {name}")
        adapter.detach(policy)
        write_json(path, out)

    def _propose(self, policy: Policy, problem: ScaffoldProblem, start: Any, seed: int) -> dict[str, Any]:
        batches = list(
            proposals(
                policy, problem, start, wanted=self.plan.calls, most=PATIENCE * self.plan.calls,
                temperature=self.plan.hyper.temperature, seed=seed,
            )
        )  # fmt: skip
        texts = [s for batch in batches for s in batch.solutions]
        return {"solutions": texts, "samples": sum(b.samples for b in batches), "tokens": sum(b.tokens for b in batches)}

    # -- the comparison ------------------------------------------------------------------------------
    def _compare(self, seed: int) -> None:
        drawn = {arm: read_json(self.at(seed) / f"proposals-{arm}.json") for arm in ("trained", "untrained")}
        saved = read_json(self.at(seed) / "trained.json")["saved"]
        for name in self.plan.held_out:
            missing = [n for n in range(self.plan.searches) if not self._cell(seed, name, n).exists()]
            self._clock.skip("compare", self.plan.searches - len(missing))
            if not missing:
                continue
            carried = self._nearest(saved, name)
            verifier = self._verifier(name)
            self._clock.start()
            try:
                for search in missing:
                    proposals = {arm: drawn[arm][f"{name}-{search}"]["solutions"] for arm in drawn}
                    curves = self._curves(verifier, self._searchers(seed, name, search, proposals, carried))
                    write_json(self._cell(seed, name, search), {arm: asdict(c) for arm, c in curves.items()})
                    self._clock.done("compare", f"seed {seed}: {name}, search {search + 1} of {self.plan.searches}")
                self._refer(seed, name, verifier)
            finally:
                verifier.close()

    def _refer(self, seed: int, name: str, verifier: Verifier) -> None:
        """Note what the task's reference is worth on an instance: everybody has it, so it costs no call."""
        path = self.at(seed) / "reference.json"
        known = read_json(path) if path.exists() else {}
        verdict = verifier.score(self.task.fallback())
        write_json(path, known | {name: {"value": verdict.value, "metrics": dict(verdict.metrics)}})

    def _cell(self, seed: int, name: str, search: int) -> Path:
        return self.at(seed) / f"{name}-{search}.json"

    def _nearest(self, saved: dict[str, dict[str, Any]], name: str) -> list[str]:
        """The saved solutions of the training instances whose descriptions lie nearest to that of ``name``."""
        here = find_instance(self.task, name).description
        order = sorted(saved, key=lambda n: (distance(find_instance(self.task, n).description, here), n))
        return list(dict.fromkeys(saved[n]["solution"] for n in order))[:SAVED]

    def _searchers(
        self, seed: int, name: str, search: int, proposals: dict[str, list[str]], carried: list[str]
    ) -> dict[str, Searcher]:
        space = self.task.space
        rng = lambda what: Random(derived("transfer", seed, name, search, what))
        first = space.dump(space.random(rng("uniform")))
        arms = {
            "trained": listed(proposals["trained"]),
            "untrained": listed(proposals["untrained"]),
            "trained_then_search": climb(space, rng("trained"), proposals["trained"][:FIRST]),
            "search": climb(space, rng("scratch"), [first]),
            "search_from_saved": climb(space, rng("saved"), carried or [first]),
            "random": uniform(space, rng("uniform")),
        }
        return {arm: arms[arm] for arm in ARMS}

    def _curves(self, verifier: Verifier, searchers: dict[str, Searcher]) -> dict[str, Curve]:
        def value(text: str) -> float:
            try:
                return verifier.score(self.task.parse(text)).value
            except InvalidSolution:
                return 0.0

        with ThreadPoolExecutor(self.workers) as pool:
            found = pool.map(lambda searcher: follow(searcher, value, self.plan.calls), searchers.values())
            return dict(zip(searchers, found, strict=True))

    # -- the result ----------------------------------------------------------------------------------
    def gather(self) -> dict[str, Any] | None:
        """Everything as plain data, written to transfer.json; None while a part of it is missing."""
        plan, runs, training, reference = self.plan, [], [], {}
        for seed in plan.seeds:
            cells = [(name, n) for name in plan.held_out for n in range(plan.searches)]
            if not all(self._cell(seed, *cell).exists() for cell in cells):
                return None
            training.append({k: v for k, v in read_json(self.at(seed) / "trained.json").items() if k != "saved"})
            drawn = {arm: read_json(self.at(seed) / f"proposals-{arm}.json") for arm in ("trained", "untrained")}
            known = self.at(seed) / "reference.json"
            reference |= read_json(known) if known.exists() else {}
            for name, search in cells:
                for arm, curve in read_json(self._cell(seed, name, search)).items():
                    one = {"seed": seed, "search": search, "instance": name, "arm": arm, "distinct": curve["distinct"]}
                    asked = drawn.get(arm, {}).get(f"{name}-{search}", {})
                    one["samples"] = asked.get("samples", 0)
                    runs.append(one | {"best": [round(v, 6) for v in curve["best"]]})
        result = {
            "format": FORMAT, "plan": plan.to_dict(), "metric": self.task.metric, "arms": ARMS, "provenance": provenance(),
            "grid": [k for k in GRID if k <= plan.calls], "training": training, "runs": runs,
            "reference": reference,
        }  # fmt: skip
        write_json(self.folder / "transfer.json", result)
        return result
