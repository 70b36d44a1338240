"""Repeat a finished run without its language models, and say where it departs: ``python -m sia_nb replay RUN``.

The agents' answers come from ``agent_calls.jsonl``, the policy's texts from the trajectories, a weight update's texts from
``rollouts.jsonl``; no model is loaded, only the policy's tokenizer where a grammar was used. All else is done anew and by
the code of today: sandbox, gateway, budgets, every verdict, the choice of what is kept, what F is shown, the report. After each
phase what it wrote is compared with the record, times and the sandbox's name aside; the first difference ends the replay.
A verdict whose figures differ from the recorded ones by no more than TOLERANCE, as between two processors, is told and counted,
and the recorded figures are gone on with, so that all that follows is compared to the last bit.
What training made of the weights cannot be repeated without the model and is taken over.

It may import everything but ``cli``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import phases
from .agents.record import MACHINE
from .config import validate
from .errors import AgentError, ConfigError, SiaError, StoreError
from .policy.sample import Sample
from .scaffold.execute import call_scaffold
from .steps import open_verifier, prepare_data, spend, trusted
from .store import Run, data_dir, keeps, read_json, read_lines, results_dir
from .tasks import get_task
from .tasks.base import Score, Solution, Verifier
from .trajectory import Trajectory

LEFT_OUT = (*MACHINE, "created")
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Departure:
    """The first place where a replay and its record are not the same."""

    step: int  # 0: the run as a whole
    file: str  # within the run's folder
    event: int | None  # of a trajectory; a line of a file of lines
    field: str
    recorded: Any
    now: Any

    def __str__(self) -> str:
        where = (
            f"{self.file}"
            + (f", event {self.event}" if self.event is not None else "")
            + (f", {self.field}" if self.field else "")
        )
        return f"departs at step {self.step}: {where}: recorded {_short(self.recorded)}, now {_short(self.now)}"


class Departed(SiaError):
    """The replay asked its policy for something that is not on record."""

    def __init__(self, departure: Departure):
        super().__init__(str(departure))
        self.departure = departure


class RecordedPolicy:
    """Gives back the texts of a recorded execution, in order, where it is asked what was asked then."""

    tokenizer = model = None

    def __init__(self, run: Run, step: int):
        self.run, self.step, self.name = run, step, f"record of {run.path.name}"
        self.file = f"step_{step:03d}/trajectory.jsonl"
        tau = Trajectory.read(run.path / self.file)
        self._asked = {e.id: e.data for e in tau.of("sample")}
        self._left = tau.of("response")
        self._longest: dict[Any, int] = {}

    def longest(self, segments: Sequence[tuple[str, ...]]) -> int:
        """As the run's own policy counts it."""
        config, key = self.run.config, tuple(segments)
        if key not in self._longest:
            if config.policy_url:
                from .policy.endpoint import longest

                self._longest[key] = longest(segments)
            else:
                from .policy.grammar import Grammar
                from .policy.model import open_tokenizer

                self._longest[key] = Grammar(key, open_tokenizer(config.policy, data_dir=data_dir())).longest
        return self._longest[key]

    def sample(
        self,
        messages: list[dict[str, str]],
        n: int = 1,
        *,
        temperature: float = 1.0,
        max_tokens: int = 160,
        segments: Sequence[tuple[str, ...]] | None = None,
        seed: int = 0,
    ) -> list[Sample]:
        """The next ``n`` recorded texts.

        Raises:
            Departed: the question is not the recorded one, or the record is at its end.
        """
        now = {"messages": messages, "temperature": temperature, "grammar": segments is not None}
        out = []
        for _ in range(n):
            if not self._left:
                raise Departed(Departure(self.step, self.file, None, "response", "no more of them", now))
            event = self._left.pop(0)
            asked = event.data["sample"]
            then = self._asked[asked]
            for name, value in now.items():
                if then[name] != value:
                    raise Departed(Departure(self.step, self.file, asked, name, then[name], value))
            d = event.data
            logprob = float("nan") if d["logprob"] is None else d["logprob"]
            out.append(Sample(d["text"], d["tokens"], (), logprob, d["stop"]))
        return out


class RecordedVerifier:
    """Asks the verifier, and gives back the recorded figures where it says the same up to TOLERANCE."""

    def __init__(self, run: Run, real: Verifier):
        self.run, self.real, self.step = run, real, 0
        self.asked = 0
        self.largest = 0.0  # difference between two figures
        self.differing: set[str] = set()  # solutions whose figures differ at all
        self._known: dict[str, dict[str, Any]] = {}
        for g in run.executed():
            for e in Trajectory.read(run.step(g) / "trajectory.jsonl").of("verdict"):
                self._known.setdefault(e.data["solution_id"], e.data)

    def score(self, solution: Solution) -> Score:
        """The verdict; where it departs, the trajectory will."""
        score, then = self.real.score(solution), self._known.get(solution.id)
        self.asked += 1
        if then is None:
            return score
        now = {"score": score.value, "valid": score.valid, "reason": score.reason, "metrics": dict(score.metrics)}
        if self.near({k: then[k] for k in now}, now, solution.id):
            return replace(score, value=then["score"], metrics=then["metrics"])
        return score

    def paired_se(self, a: str, b: str) -> float:
        """The noise."""
        now, then = self.real.paired_se(a, b), self.run.metrics(self.step)["noise"]
        return then if self.near(then, now, a) else now

    def near(self, then: Any, now: Any, name: str) -> bool:
        """Whether two figures or records of some are the same up to TOLERANCE; counts those that are not equal."""
        if difference(then, now) is None:
            return True
        if difference(then, now, within=TOLERANCE) is not None:
            return False
        self.differing.add(name)
        self.largest = max(self.largest, _largest(then, now))
        return True


def _largest(then: Any, now: Any) -> float:
    if isinstance(then, dict):
        return max((_largest(then[k], now[k]) for k in then if k not in LEFT_OUT), default=0.0)
    if isinstance(then, list):
        return max((_largest(a, b) for a, b in zip(then, now, strict=True)), default=0.0)
    return abs(then - now) if isinstance(then, int | float) else 0.0


def replay(source: Path, folder: Path | None = None, *, echo: Callable[[str], None] = print) -> Departure | None:
    """Repeat the run at ``source`` in ``folder`` (default: results/replays/<name>); where it departs, None where nowhere.

    Raises:
        ConfigError: ``folder`` holds something else. StoreError: ``source`` is damaged or not finished.
        SandboxError, DataError, …: this machine cannot do what the run did.
    """
    old = Run(source)
    if not (old.path / "report.json").exists():
        raise StoreError(f"{old.path.name} is not finished: `python -m sia_nb resume {old.path.name}` first")
    run = _begin(old, Path(folder) if folder else results_dir() / "replays" / old.path.name)
    prepare_data(run)
    if found := difference(old.info["data"], run.info["data"]):
        return Departure(0, "run.json", None, f"data{found[0]}", *found[1:])
    try:
        with open_verifier(run, get_task(run.config.task)) as real:
            verifier = RecordedVerifier(old, real)
            for g in old.executed():
                verifier.step = g
                for step in (_first, _trained, _executed, _decided):
                    if found := step(old, run, g, verifier):
                        return found
                echo(f"step {g}: the same ({len(Trajectory.read(run.step(g) / 'trajectory.jsonl'))} events)")
        phases.report(run)
    except Departed as departed:
        return departed.departure
    for name in ["report.json"] + [n for n in ("peers.json",) if (old.path / n).exists()]:
        then, now = ({k: v for k, v in read_json(r.path / name).items() if k != "run"} for r in (old, run))
        if not verifier.near(then, now, name):
            return Departure(0, name, None, *difference(then, now, within=TOLERANCE))
    echo("the report: the same")
    if verifier.differing:
        echo(
            f"{len(verifier.differing)} of {verifier.asked} verdicts differ from the record by at most {verifier.largest:.1e}, "
            "as between two processors or versions; everything else is the same to the last bit"
        )
    return None


def _begin(old: Run, folder: Path) -> Run:
    """A new run of the recorded config with the recorded agents."""
    config = validate({**old.config.model_dump(), "agent": "replay", "replay_of": str(old.path)})
    if folder.exists():
        if not (folder / "run.json").exists() or Run(folder).config.agent != "replay":
            raise ConfigError(f"{folder} holds something that is no replay; name another folder with --out")
        shutil.rmtree(folder)
    run = Run.create(config, folder)
    run.update(trimmed=True, notices=[f"a replay of {old.path.name}: its agents' and policy's texts come from that record"])
    return run


def _first(old: Run, run: Run, g: int, verifier: RecordedVerifier) -> Departure | None:
    if g > 1:
        return None
    try:
        phases.init_scaffold(run)
    except AgentError as error:
        return Departure(1, "agent_calls.jsonl", None, "write", "see there", str(error))
    return _written(old, run, 1)


def _executed(old: Run, run: Run, g: int, verifier: RecordedVerifier) -> Departure | None:
    policy = RecordedPolicy(old, g)
    try:
        phases.run_generation(run, g, policy=policy, verifier=verifier)
    except Departed as departed:  # the events before it may say more
        partial = run.step(g) / ".trajectory.jsonl.tmp"
        return (partial.exists() and _events(old, partial, g, prefix=True)) or departed.departure
    if found := _events(old, run.step(g) / "trajectory.jsonl", g):
        return found
    return _json(old, run, g, "metrics.json")


def _decided(old: Run, run: Run, g: int, verifier: RecordedVerifier) -> Departure | None:
    if not (old.step(g) / "decision.done.json").exists():
        return None
    try:
        phases.feedback_decision(run, g)
    except AgentError as error:
        return Departure(g, "agent_calls.jsonl", None, "inputs", "see there", str(error))
    if found := _json(old, run, g, "decision.json"):
        return found
    if read_json(old.step(g) / "decision.json")["action"] != "harness":
        return None
    then, now = ((r.step(g) / "improvement.md").read_text(encoding="utf-8") for r in (old, run))
    if then != now:
        return Departure(g, f"step_{g:03d}/improvement.md", None, "", then, now)
    return _written(old, run, g + 1)


def _written(old: Run, run: Run, g: int) -> Departure | None:
    if old.scaffold(g) != run.scaffold(g):
        return Departure(g, f"step_{g:03d}/scaffold/agent.py", None, "", old.scaffold(g), run.scaffold(g))
    return _json(old, run, g, "origin.json")


@keeps
def _adopt(run: Run, old: Run, g: int) -> None:
    """Take over what training wrote; the weights themselves only as a hash."""
    names = [n for n in read_json(old.step(g) / "train.done.json")["files"] if "/adapter/" not in n]
    for name in names:
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(old.path / name, run.path / name)
    result = read_json(run.step(g) / "weights" / "result.json")
    spend(run, g, "train", **{k: result[k] for k in ("verifier_calls", "tokens")})
    run.finish(g, "train", [run.path / n for n in names])


def _trained(old: Run, run: Run, g: int, verifier: RecordedVerifier) -> Departure | None:
    """A step that a weight update made: its rollouts are read and judged anew, the rest is taken over."""
    if not (old.step(g) / "train.done.json").exists():
        return None
    file = f"step_{g:03d}/weights/rollouts.jsonl"
    rollouts, task = read_lines(old.path / file), get_task(run.config.task)
    parent = old.origin(g)["parent"]
    own = [r["text"] for r in rollouts if r["source"] == "policy"]
    rights = {"trusted": trusted(run, parent), "unsafe": run.config.unsafe_no_sandbox}
    called = call_scaffold(run.scaffold(parent), [("extract", [t]) for t in dict.fromkeys(own)], **rights)
    read = dict(zip(dict.fromkeys(own), (c.value for c in called), strict=True))
    for line, r in enumerate(rollouts, 1):
        if r["source"] == "policy" and read[r["text"]] != r["solution"]:
            return Departure(g, file, line, "solution", r["solution"], read[r["text"]])
        if r["solution_id"]:
            verdict = verifier.score(task.parse(r["solution"]))
            then = {k: r[k] for k in ("score", "valid", "reason")}
            now = {"score": verdict.value if verdict.valid else 0.0, "valid": verdict.valid, "reason": verdict.reason}
            if not verifier.near(then, now, r["solution_id"]):
                return Departure(g, file, line, *difference(then, now, within=TOLERANCE))
    _adopt(run, old, g)
    return _written(old, run, g)


def _json(old: Run, run: Run, g: int, name: str) -> Departure | None:
    found = difference(read_json(old.step(g) / name), read_json(run.step(g) / name))
    return Departure(g, f"step_{g:03d}/{name}", None, *found) if found else None


def _events(old: Run, path: Path, g: int, *, prefix: bool = False) -> Departure | None:
    """The first event that differs; with ``prefix`` of those that there are."""
    file = f"step_{g:03d}/trajectory.jsonl"
    then, now = Trajectory.read(old.path / file).events, Trajectory.read(path).events
    if prefix:
        now = now[:-1]  # an end that tells only of the departure
    for a, b in zip(then, now, strict=False):
        if a.kind != b.kind:
            return Departure(g, file, a.id, "kind", a.kind, b.kind)
        if found := difference(a.data, b.data):
            return Departure(g, file, a.id, *found)
    if len(then) != len(now) and not prefix:
        return Departure(g, file, min(len(then), len(now)), "", f"{len(then)} events", f"{len(now)} events")
    return None


def difference(then: Any, now: Any, where: str = "", *, within: float = 0.0) -> tuple[str, Any, Any] | None:
    """The first place where two pieces of plain data differ, with both values; times and sandboxes' names are left out.

    Numbers that are not whole count as equal where they differ by no more than ``within``.
    """
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*then, *now]):
            if key in LEFT_OUT:
                continue
            if key not in then or key not in now:
                return f"{where}.{key}".lstrip("."), then.get(key, "nothing"), now.get(key, "nothing")
            if found := difference(then[key], now[key], f"{where}.{key}", within=within):
                return found
        return None
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        each = (difference(a, b, f"{where}[{n}]", within=within) for n, (a, b) in enumerate(zip(then, now, strict=True)))
        return next((found for found in each if found), None)
    if isinstance(then, float) and isinstance(now, float) and abs(then - now) <= within:
        return None
    same = then == now and isinstance(then, bool) == isinstance(now, bool)
    return None if same else (where.lstrip("."), then, now)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"
