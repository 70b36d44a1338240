"""The weight update: a LoRA adapter trained by reinforcement learning on the verifier's reward (paper §3.4).

One training step
    1. takes start states and samples a group of G texts for each, the adapter fused into the weights;
    2. reads the solutions out of the texts and has them scored;
    3. stops where the policy has collapsed, and drops the groups whose rewards are all equal;
    4. learns: advantages, objective, gradient, clipping, Adam, once for each epoch;
    5. writes its lines to curve.jsonl and rollouts.jsonl, and then a checkpoint.

What is left at the end, or after a kill at any instant, is resumed from by the same call: all random numbers are derived
from (seed, step, group), so a checkpoint has no generator's state to keep, and on a CPU the weights are the same bit for
bit. What goes wrong is met here: see ``STOPS``.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StoreError, TrainingError
from ..policy import adapter
from ..store import read_lines, write_json
from . import checkpoint, devices, rollouts
from .hyper import Hyper
from .learner import Learner, NonFinite, OutOfMemory, short_of_memory, teaches
from .problem import Problem

if TYPE_CHECKING:
    from ..policy.sampling import Policy

PATIENCE = 2  # steps in a row without a usable group
TRIES = 3  # updates in a row that were not finite
KL_EVERY = 4  # steps between measurements of the KL to the base, for an algorithm that has no use for it
KEPT = 32  # solutions named in the result

STOPS = {
    "done": "all steps are done",
    "no_signal": f"in {PATIENCE} steps in a row no group had rewards that differ: there is nothing to learn from",
    "entropy_collapse": "the policy writes nearly the same text always: its entropy is below entropy_floor",
    "out_of_calls": "the verifier calls are spent; what they had scored was still learned from",
    "out_of_tokens": "the tokens left are fewer than a step may take",
    "out_of_time": "the time cap was reached; the weights are those of the last step that was done",
    "non_finite": f"{TRIES} updates in a row had a loss or gradient that is not finite; each was undone",
    "out_of_memory": "memory does not suffice for the smallest micro-batch",
}


@dataclass(frozen=True)
class Result:
    """What a weight update came to; ``result.json``."""

    algorithm: str
    steps: int  # training steps done
    stopped: str  # one of STOPS
    note: str  # why, in a sentence
    before: dict[str, float]  # mean score of the policy's samples in the first steps, its standard error se, their number n
    after: dict[str, float]  # the same of the last steps
    best: dict[str, Any] | None  # the best {"solution", "score", "instance"} met
    verifier_calls: int
    tokens: int  # sampled
    adapter: str  # SHA-256 of its weights
    solutions: list[dict[str, Any]]  # the best distinct valid ones, as ``best``


@dataclass
class _State:
    """What a checkpoint knows beside weights and problem."""

    step: int = 0
    tokens: int = 0
    verifier_calls: int = 0
    barren: int = 0  # steps in a row without a usable group
    failed: int = 0  # updates in a row that were not finite
    best: float | None = None
    seconds: float = 0.0  # taken so far, by all processes that went on with the update
    stopped: str = ""
    note: str = ""
    sizes: dict[str, int] = field(default_factory=lambda: {"curve.jsonl": 0, "rollouts.jsonl": 0})  # bytes that count


def train(
    policy: Policy,
    problem: Problem,
    hyper: Hyper,
    *,
    folder: Path,
    seed: int,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    tokens: int | None = None,
    seconds: float | None = None,
    team: devices.Alone = devices.ALONE,
    shuffled: bool = False,
) -> Result:
    """Train the adapter that ``policy`` wears (a fresh one where it wears none); it wears the result afterwards.

    Args:
        folder: gets curve.jsonl (a line a step), rollouts.jsonl (a line a rollout), checkpoint/, and at the end adapter/
            and result.json. Where it holds a checkpoint of the same update, training goes on from there.
        seed: of the fresh adapter, the sampling and the mutations.
        on_step: told of each line of curve.jsonl once the step's checkpoint is written.
        tokens: cap on the sampled tokens, never exceeded.
        seconds: cap on the time: no step begins once it is reached. An update that never reaches it does not depend on it.
        team: the devices that share the work (``devices.open_team``).
        shuffled: a control: what is learned from are the rewards permuted within each group (``rollouts.shuffle``).

    Raises:
        TrainingError: a reward is not a finite number, the scaffold builds no prompt, or ``folder`` holds another update.
        ModelError: a prompt and its answer are longer than the context.
        StoreError: the disk is full or not writable.
    """
    return _Training(policy, problem, hyper, Path(folder), seed, on_step, tokens, seconds, team, shuffled).run()


class _Training:
    """One weight update on its way."""

    def __init__(
        self,
        policy: Policy,
        problem: Problem,
        hyper: Hyper,
        folder: Path,
        seed: int,
        on_step: Callable[[dict[str, Any]], None] | None,
        tokens: int | None,
        seconds: float | None,
        team: devices.Alone,
        shuffled: bool,
    ):
        self.policy, self.problem, self.hyper, self.folder, self.seed = policy, problem, hyper, folder, seed
        self.on_step, self.cap, self.time_cap, self.team = on_step, tokens, seconds, team
        self.shuffled = shuffled
        self.arguments = {"hyper": hyper.model_dump(), "seed": seed, "tokens": tokens}
        self.state = _State()

    def run(self) -> Result:
        self._begin()
        self.learner.lead()
        while not self.state.stopped:
            began = time.monotonic()
            line = self._step()
            if line is not None:
                took = time.monotonic() - began
                line["seconds"] = round(took, 3)
                self.state.seconds += took
                if self.time_cap is not None and self.state.seconds >= self.time_cap and self.state.step < self.hyper.steps:
                    self._stop("out_of_time", f"{self.state.step} of {self.hyper.steps} steps in {self.time_cap:g} s")
                self._append("curve.jsonl", [line])
                self._checkpoint()  # a stop before a step is found again on resume: the last checkpoint is left alone
                if self.on_step:
                    self.on_step(line)
        return self._finish()

    def _begin(self) -> None:
        """Take up the last checkpoint, or make the first."""
        self.learner = Learner(self.policy, self.hyper, self.seed, self.problem.segments, self.team)
        found = checkpoint.latest(self.folder / "checkpoint")
        if found is None:
            self._truncate()
            self._checkpoint()
            return
        where, saved = found
        for name, value in self.arguments.items():
            if saved["arguments"][name] != value:
                raise TrainingError(
                    f"training: {self.folder} holds an update with {name} {saved['arguments'][name]}, and {value} was asked for. "
                    "Name another folder, or call it with the same arguments to go on."
                )
        self.state = _State(**saved["training"])
        self.problem.restore(saved["problem"])
        self.learner.load(where)
        self._truncate()

    def _step(self) -> dict[str, Any] | None:
        """One training step; its line of the curve, None where it did not begin."""
        state, hyper = self.state, self.hyper
        if state.step >= hyper.steps:
            return self._stop("done")
        if self.cap is not None and state.tokens + rollouts.most_tokens(self.policy, self.problem, hyper) > self.cap:
            return self._stop("out_of_tokens", f"{self.cap - state.tokens} of {self.cap} are left")
        step = state.step + 1
        try:
            with adapter.merged(self.policy):
                groups = rollouts.sample(self.policy, self.problem, hyper, step, self.seed, self.team)
        except (MemoryError, RuntimeError) as error:
            if not short_of_memory(error):
                raise
            return self._stop("out_of_memory", f"in sampling: {error}")
        enough = rollouts.score(groups, self.problem, hyper)
        if self.shuffled:
            rollouts.shuffle(groups, step, self.seed)
        state.step = step
        line = self._measure(groups)
        usable = [g for g in map(rollouts.Rolled.scored_part, groups) if teaches(hyper, g)]
        if line["entropy"] < hyper.entropy_floor:
            self._stop("entropy_collapse", f"{line['entropy']:.4f} nats a choice")
        elif usable:
            line |= self._learn(usable)
        state.barren = 0 if usable else state.barren + 1
        if state.barren >= PATIENCE:
            self._stop("no_signal", _commonest_failure(groups))
        if not enough:
            self._stop("out_of_calls")
        line["notes"], self.learner.notes = self.learner.notes, []
        self._append("rollouts.jsonl", rollouts.lines(groups, step))
        return line

    def _learn(self, groups: list[rollouts.Rolled]) -> dict[str, Any]:
        """Update on the usable groups; what the curve shows of it. A bad update is undone."""
        state, measure = self.state, self.state.step % KL_EVERY == 0
        self.team.share(("update", groups, measure))
        try:
            stats = self.learner.update(groups, measure=measure)
        except NonFinite as error:
            state.failed += 1
            rate = self.learner.halve_rate()
            self.learner.notes.append(f"not finite ({error}): update undone, learning rate halved to {rate:g}")
            if state.failed >= TRIES:
                self._stop("non_finite", str(error))
            return {}
        except OutOfMemory as error:
            self._stop("out_of_memory", str(error))
            return {}
        state.failed = 0
        shown = {name: stats.pop(name, None) for name in ("loss", "grad_norm", "kl")}
        return {**shown, "objective": stats}

    def _measure(self, groups: list[rollouts.Rolled]) -> dict[str, Any]:
        """The step's line of the curve before it is learned from; counts are cumulative."""
        state = self.state
        everything = [r for g in groups for r in g.rollouts]
        state.tokens += sum(len(r.ids) for r in everything if r.source == "policy")
        state.verifier_calls += sum(r.reward is not None and not r.reward.cached for r in everything)
        known = [r.reward.score for r in everything if r.reward is not None and r.reward.valid]
        state.best = max([*known, *([] if state.best is None else [state.best])], default=None)
        empty = {"loss": None, "grad_norm": None, "kl": None, "objective": {}}
        spent = {"verifier_calls": state.verifier_calls, "tokens": state.tokens}
        return {"step": state.step, **rollouts.figures(groups), "best": state.best, **empty, **spent}

    def _stop(self, why: str, more: str = "") -> None:
        if not self.state.stopped:
            self.state.stopped, self.state.note = why, f"{STOPS[why]} ({more})" if more else STOPS[why]

    def _checkpoint(self) -> None:
        state = {"arguments": self.arguments, "training": asdict(self.state), "problem": self.problem.state()}
        checkpoint.save(self.folder / "checkpoint", self.state.step, state, self.learner.save)

    def _append(self, name: str, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
        try:
            with open(self.folder / name, "ab") as f:
                f.write(text.encode("utf-8", "replace"))
                f.flush()
                os.fsync(f.fileno())
                self.state.sizes[name] = f.tell()
        except OSError as error:
            raise StoreError(
                f"training: cannot append to {self.folder / name}: {error.strerror}. Free some space and call it again; the "
                "last checkpoint is kept."
            ) from error

    def _truncate(self) -> None:
        """Drop the lines of a step that was not finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, size in self.state.sizes.items():
            with open(self.folder / name, "ab") as f:
                if f.tell() < size:
                    raise StoreError(
                        f"training: {self.folder / name} was cut since its checkpoint; delete {self.folder} to begin anew"
                    )
                f.truncate(size)

    def _finish(self) -> Result:
        lines = read_lines(self.folder / "rollouts.jsonl")
        own = [r for r in lines if r["source"] == "policy"]
        cut = {r["step"] for r in own if r["score"] is None}  # only repeats were scored there: no fair sample
        own = [r for r in own if r["step"] not in cut]
        last = max((r["step"] for r in own), default=0)
        some = max(1, last // 8)
        found = {(r["instance"], r["solution_id"]): r for r in lines if r["valid"]}
        known = [{k: r[k] for k in ("solution", "score", "instance")} for r in found.values()]
        ranked = sorted(known, key=lambda s: -s["score"])
        result = Result(
            algorithm=self.hyper.algorithm,
            steps=self.state.step,
            stopped=self.state.stopped,
            note=self.state.note,
            before=_mean([r["score"] for r in own if r["step"] <= some]),
            after=_mean([r["score"] for r in own if r["step"] > last - some]),
            best=ranked[0] if ranked else None,
            verifier_calls=self.state.verifier_calls,
            tokens=self.state.tokens,
            adapter=adapter.save(self.policy, self.folder / "adapter"),
            solutions=ranked[:KEPT],
        )
        write_json(self.folder / "result.json", asdict(result))
        return result


def _commonest_failure(groups: list[rollouts.Rolled]) -> str:
    """What most rollouts failed of, where all did; "" where one was valid."""
    rewards = [r.reward for g in groups for r in g.scored]
    if not rewards or any(r.valid for r in rewards):
        return ""
    reasons = [r.reason for r in rewards]
    return f"no rollout was valid, most often: {max(reasons, key=reasons.count)[:200]}"


def _mean(values: list[float]) -> dict[str, float]:
    n = len(values)
    se = statistics.stdev(values) / n**0.5 if n > 1 else 0.0
    return {"mean": statistics.fmean(values) if n else 0.0, "se": se, "n": n}
