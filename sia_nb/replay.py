"""Repeat a finished run without its language models, and say where it departs: ``python -m sia_nb replay RUN``.

The agents' answers come from ``agent_calls.jsonl``, the policy's texts from the trajectories, a weight update's texts from
``rollouts.jsonl``; no model is loaded, only the policy's tokenizer where a grammar was used. All else is done anew and by
the code of today: sandbox, gateway, budgets, every verdict, the choice of what is kept, what F is shown, the report. After each
phase what it wrote is compared with the record, times and the sandbox's name aside; the first difference ends the replay.
A verdict whose figures differ from the recorded ones by no more than TOLERANCE, as between two processors, is told and counted,
and the recorded figures are gone on with, so that all that follows is compared to the last bit.
Where F would be shown something else today, the recorded answer is used all the same, and the names of what differs are told.
What training made of the weights cannot be repeated without the model and is taken over.

It may import everything but ``cli``.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import phases
from .agents.record import read_calls, view_inputs
from .config import validate
from .errors import ConfigError, StoreError
from .recorded import TOLERANCE, Departed, Departure, RecordedPolicy, RecordedVerifier, difference
from .scaffold.execute import call_scaffold
from .steps import open_verifier, prepare_data, spend, trusted
from .store import TRIMMED, Run, keeps, read_json, read_lines, results_dir
from .tasks import get_task
from .trajectory import Trajectory


@dataclass(frozen=True)
class Outcome:
    """What a replay came to."""

    departure: Departure | None  # where it ended; None: at the report, all files being the same
    shown: dict[str, list[int]]  # what F would be shown otherwise today, by name, and after which steps
    verdicts: int  # asked for anew
    differing: int  # of those, with figures that are not equal but within TOLERANCE
    largest: float  # difference between two figures

    @property
    def exact(self) -> bool:
        """The same to the last bit, and F shown the same."""
        return self.departure is None and not self.shown and not self.differing

    def __str__(self) -> str:
        if self.departure:
            return str(self.departure)
        said = ["every file repeated to the last bit, times aside"]
        said.append(f"{self.verdicts} verdicts asked for anew" if self.verdicts else "verdicts and report taken from the record")
        if self.differing:
            said.append(f"{self.differing} of them differ by at most {self.largest:.1e}, as between two processors or versions")
        for name, steps in self.shown.items():
            said.append(f"F is shown another '{name}' than then after step {', '.join(map(str, steps))}: that code has changed")
        return "; ".join(said)


def replay(source: Path, folder: Path | None = None, *, verdicts: str = "anew", echo: Callable[[str], None] = print) -> Outcome:
    """Repeat the run at ``source`` in ``folder`` (default: results/replays/<name>) as far as it goes.

    Args:
        verdicts: "anew" asks the verifier and repeats the report; "recorded" takes its figures from the record and leaves the
            sealed test closed, for a run of another machine, whose arithmetic is not this one's.

    Raises:
        ConfigError: ``folder`` holds something else. StoreError: ``source`` is damaged or not finished.
        SandboxError, DataError, …: this machine cannot do what the run did.
    """
    old = Run(source)
    if not (old.path / "report.json").exists():
        raise StoreError(f"{old.path.name} is not finished: `python -m sia_nb resume {old.path.name}` first")
    run = _begin(old, Path(folder) if folder else results_dir() / "replays" / old.path.name)
    prepare_data(run)
    asking = open_verifier(run, get_task(run.config.task)) if verdicts == "anew" else contextlib.nullcontext()
    with asking as real:
        verifier = RecordedVerifier(old, real)
        try:
            departure = _steps(old, run, verifier, echo)
        except Departed as departed:
            departure = departed.departure
    if verdicts == "anew":
        departure = departure or _report(old, run, verifier, echo)
    shown: dict[str, list[int]] = {}
    for g, name in verifier.shown:
        shown.setdefault(name, []).append(g)
    return Outcome(departure, shown, verifier.asked, len(verifier.differing), verifier.largest)


def _steps(old: Run, run: Run, verifier: RecordedVerifier, echo: Callable[[str], None]) -> Departure | None:
    if found := difference(old.info["data"], run.info["data"]):
        return Departure(0, "run.json", None, f"data.{found[0]}", *found[1:])
    for g in old.executed():
        verifier.step = g
        for step in (_first, _trained, _executed, _decided):
            if found := step(old, run, g, verifier):
                return found
        echo(f"step {g}: the same ({len(Trajectory.read(run.step(g) / 'trajectory.jsonl'))} events)")
    return None


def _report(old: Run, run: Run, verifier: RecordedVerifier, echo: Callable[[str], None]) -> Departure | None:
    phases.report(run)
    for name in ["report.json"] + [n for n in ("peers.json",) if (old.path / n).exists()]:
        then, now = ({k: v for k, v in read_json(r.path / name).items() if k != "run"} for r in (old, run))
        if not verifier.near(then, now, name):
            return Departure(0, name, None, *difference(then, now, within=TOLERANCE))
    echo("the report: the same")
    return None


def _begin(old: Run, folder: Path) -> Run:
    """A new run of the recorded config with the recorded agents."""
    config = validate({**old.config.model_dump(), "agent": "replay", "replay_of": str(old.path)})
    if folder.exists():
        if not (folder / "run.json").exists() or Run(folder).config.agent != "replay":
            raise ConfigError(f"{folder} holds something that is no replay; name another folder with --out")
        shutil.rmtree(folder)
    run = Run.create(config, folder)
    run.update(
        trimmed=True, strict=False, notices=[f"a replay of {old.path.name}: its agents' and policy's texts come from that record"]
    )
    return run


def _first(old: Run, run: Run, g: int, verifier: RecordedVerifier) -> Departure | None:
    if g > 1:
        return None
    phases.init_scaffold(run)
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
    shown, then = view_inputs(phases.feedback_view(run, g)), _question(old, g)
    verifier.shown += [(g, n) for n in dict.fromkeys([*then, *shown]) if then.get(n) != shown.get(n)]
    phases.feedback_decision(run, g)
    if found := _json(old, run, g, "decision.json"):
        return found
    if read_json(old.step(g) / "decision.json")["action"] != "harness":
        return None
    then, now = ((r.step(g) / "improvement.md").read_text(encoding="utf-8") for r in (old, run))
    if then != now:
        return Departure(g, f"step_{g:03d}/improvement.md", None, "", then, now)
    return _written(old, run, g + 1)


def _question(old: Run, g: int) -> dict[str, Any]:
    """Fingerprints of what F was given after step g."""
    results = (e for e in read_calls(old.path / "agent_calls.jsonl") if e["event"] == "result" and e["purpose"] == "decide")
    return next((e["inputs"] for e in results if e["inputs"]["step"] == g), {})


def _written(old: Run, run: Run, g: int) -> Departure | None:
    if old.scaffold(g) != run.scaffold(g):
        return Departure(g, f"step_{g:03d}/scaffold/agent.py", None, "", old.scaffold(g), run.scaffold(g))
    return _json(old, run, g, "origin.json")


@keeps
def _adopt(run: Run, old: Run, g: int) -> None:
    """Take over what training wrote; the weights themselves only as a hash."""
    names = [n for n in read_json(old.step(g) / "train.done.json")["files"] if not set(TRIMMED) & set(n.split("/"))]
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
        if r["solution_id"] and verifier.real is not None:
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
