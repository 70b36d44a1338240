"""From run folders to the rows that figures and tables are drawn from. Every row names its run."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..store import Run, read_lines, results_dir, write_atomic
from . import health
from .paper import ARMS, PAPER, TIMED

COLUMNS = [
    "task",
    "arm",
    "metric",
    "value",
    "low",
    "high",
    "seeds",
    "verifier_calls",
    "sampled_tokens",
    "hardware",
    "source",
    "run",
    "passes",  # share of the runs whose answer passes the task's hard gate on the sealed test; empty where there is none
]


# Runs are pooled where all of these agree: the arms of one figure have one budget, one policy and one kind of agent, and
# where times are measured, one machine.
SHARED = ("profile", "instance", "agent", "agent_model", "policy", "steps", "verifier_calls", "tokens")
# Runs of one arm that trains are pooled where these agree as well; an arm that does not train has no use for them.
TRAINING = ("weight_share", "algorithm", "group_size", "learning_rate")
USUAL = "cpu"  # the profile whose committed runs are drawn where no other is asked for
JITTER = 0.05  # how far apart two timings of one program may lie on a quiet machine, as a share


@dataclass(frozen=True)
class Finished:
    """A run whose report has been written."""

    run: Run
    report: dict[str, Any] = field(hash=False)
    source: str  # "ours" or "reference"

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.run.config.seed

    @property
    def profile(self) -> str:
        """The profile that its parameters came from."""
        return self.run.config.profile

    @property
    def arm(self) -> str:
        """The levers that the run was allowed: H, W or W+H."""
        return self.run.config.arm

    @property
    def settings(self) -> tuple:
        """What must agree with another run's before the two stand in one figure."""
        shared = tuple(getattr(self.run.config, name) for name in SHARED)
        return (*shared, self.hardware) if self.run.config.task in TIMED else shared

    @property
    def hardware(self) -> str:
        """The machine of the run."""
        return self.run.info["hardware"]

    @property
    def training(self) -> tuple:
        """What must agree as well with another run's of the same arm."""
        config = self.run.config.model_dump()
        return tuple(config.get(name) for name in TRAINING) if "W" in self.arm else ()


def finished(
    task: str, *, profile: str = "", source: str = "ours", also: Path | None = None, control: str = ""
) -> list[Finished]:
    """The finished runs of a task and profile, one an arm and seed (the newest), by arm, then seed.

    Runs of different profiles, agents, policies or budgets are never pooled, nor times of different machines: those that
    agree with one run are taken, the finished run of this task and profile at ``also``, wherever it is kept, else the
    newest; of committed runs the newest of the default profile, where it has any. ``profile`` empty: any. A run that is a
    control (``RunConfig.control``) is none of its arm's: those are had by the control's name alone. A run that is not whole is
    left out: ``health.gaps`` tells of it.
    """
    found = _of_a_task(task, source, profile, also, control)
    usual = source == "reference"
    return _pooled(found, lambda f: (also is not None and f.run.path == also.resolve(), usual and f.profile == USUAL))


def committed(task: str, ours: list[Finished], profile: str = "") -> list[Finished]:
    """The committed runs to set beside ours: of our settings, else of ``profile``, of ours or of the default one, else the newest."""
    told = profile or (ours[0].profile if ours else "")
    near = lambda f: (bool(ours) and f.settings == ours[0].settings, f.profile == told, f.profile == USUAL)
    return _pooled(_of_a_task(task, "reference"), near)


def _of_a_task(task: str, source: str, profile: str = "", also: Path | None = None, control: str = "") -> list[Finished]:
    whole, _ = health.examine(task, source, also)
    whole = [(run, report) for run, report in whole if run.config.control == control]
    return [Finished(run, report, source) for run, report in whole if profile in ("", run.config.profile)]


def _pooled(found: list[Finished], wanted: Callable[[Finished], tuple[bool, ...]]) -> list[Finished]:
    """The runs that agree with the one most ``wanted``, the newest of these: one an arm and seed."""
    found = sorted(found, key=lambda f: (*wanted(f), f.run.info["created"]))
    found = [f for f in found if f.settings == found[-1].settings]
    newest = {f.arm: f.training for f in found}
    chosen = {(ARMS.index(f.arm), f.seed): f for f in found if f.training == newest[f.arm]}
    return [chosen[key] for key in sorted(chosen)]


def tasks_with_runs(*, profile: str = "", also: Path | None = None) -> list[str]:
    """The tasks that have finished runs, ours or reference, in the order of their panels.

    Raises:
        StoreError: none has.
    """
    found = [t for t in PAPER if finished(t, profile=profile, also=also) or finished(t, source="reference")]
    if not found:
        lost = "".join(f"\n{gap.why}" for task in PAPER for gap in health.gaps(task))
        raise StoreError(f"no finished run of any task{' can be read' if lost else ''}: `python -m sia_nb run` makes one{lost}")
    return found


def comparable(task: str, ours: list[Finished], reference: list[Finished]) -> list[Finished]:
    """The reference runs that may share a panel with ours: where times are measured, only those of the same machine."""
    if task in TIMED and ours:
        return [f for f in reference if f.hardware == ours[0].hardware]
    return reference


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval (Student's t over seeds); with one seed the bounds are nan."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, float("nan"), float("nan")
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    sd = (sum((v - mean) ** 2 for v in values) / (n - 1)) ** 0.5
    half = float(stdtrit(n - 1, 0.975)) * sd / n**0.5
    return mean, mean - half, mean + half


def arm_values(runs: Iterable[Finished], arm: str, metric: str) -> list[tuple[Finished, float]]:
    """(run, value) for each run whose report has the arm; of the baseline, which every run measures, one a seed."""
    found = [(f, f.report["arms"][arm]["test"][metric]) for f in runs if arm in f.report["arms"]]
    if arm != "baseline":
        return found
    by_seed: dict[int, tuple[Finished, float]] = {}
    for f, value in found:
        by_seed.setdefault(f.seed, (f, value))
    return [by_seed[seed] for seed in sorted(by_seed)]


def passes(runs: list[Finished], arm: str) -> float | str:
    """The share of the runs whose answer passes the task's hard gate on the sealed test; "" where the task has none."""
    told = [f.report["arms"][arm]["test"].get("passes_right") for f in runs]
    return "" if None in told else sum(bool(t) for t in told) / len(told)


def disagreements(runs: Iterable[Finished], metric: str) -> list[str]:
    """A sentence for each seed whose runs measured different baselines: A_1 with the base weights should give one answer.

    A timing differs each time it is taken: of times, what differs by more than ``JITTER`` is told.
    """
    out, values = [], {}
    for f in runs:
        if "baseline" in f.report["arms"]:
            values.setdefault(f.seed, []).append((f.report["arms"]["baseline"]["test"][metric], f))
    for seed, found in sorted(values.items()):
        low, high = min(v for v, _ in found), max(v for v, _ in found)
        if high - low > (JITTER * high if found[0][1].run.config.task in TIMED else 1e-9):
            each = ", ".join(f"{v:.4f} in the {f.arm} run" for v, f in found)
            out.append(f"the runs of seed {seed} disagree on the baseline: {each}; the first is drawn")
    return out


def rows(task: str, ours: list[Finished], reference: list[Finished]) -> list[dict[str, Any]]:
    """The rows of fig1.csv for one task: a row a run, a row a mean, and the paper's."""
    metric, out = PAPER[task]["metric"], []
    for group in (ours, reference):
        for arm in ARMS:
            found = arm_values(group, arm, metric)
            if not found:
                continue
            spent = lambda key, found=found, arm=arm: sum(f.report["arms"][arm][key] for f, _ in found) / len(found)
            common = {"task": task, "arm": arm, "metric": metric, "source": found[0][0].source}
            hardware = "; ".join(sorted({f.run.info["hardware"] for f, _ in found}))
            mean, low, high = interval([v for _, v in found])
            out.append(
                common
                | {"value": mean, "low": low, "high": high, "seeds": len(found), "hardware": hardware}
                | {
                    "verifier_calls": spent("verifier_calls"),
                    "sampled_tokens": spent("tokens"),
                    "run": " ".join(f.run.path.name for f, _ in found),
                    "passes": passes([f for f, _ in found], arm),
                }
            )
            if len(found) > 1:
                for f, v in found:
                    a = f.report["arms"][arm]
                    out.append(
                        common
                        | {"value": v, "low": float("nan"), "high": float("nan"), "seeds": 1, "hardware": f.run.info["hardware"]}
                        | {"verifier_calls": a["verifier_calls"], "sampled_tokens": a["tokens"], "run": f.run.path.name}
                        | {"passes": passes([f], arm)}
                    )
    for arm in (*ARMS, "previous"):
        if arm in PAPER[task]:
            row = {"task": task, "arm": arm, "metric": metric, "value": PAPER[task][arm], "source": "paper"}
            row |= {"run": "SIA v1, Table 3", "hardware": PAPER[task].get("hardware", "")}
            out.append({c: row.get(c, "") for c in COLUMNS})
    return out


def write_csv(path: Path, table: list[dict[str, Any]], columns: list[str] | None = None) -> None:
    """Write rows as CSV; nan becomes an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns or COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow({k: _cell(row.get(k, "")) for k in writer.fieldnames})
    write_atomic(path, buffer.getvalue())


def write_table(
    name: str, text: str, rows: list[dict[str, Any]], columns: list[str] | None = None, out: Path | None = None
) -> tuple[str, dict[str, Path]]:
    """Write a table's Markdown and its rows as CSV to ``out`` (results/figures); returns the text and the files by suffix."""
    folder = out or results_dir() / "figures"
    paths = {suffix: folder / f"{name}.{suffix}" for suffix in ("csv", "md")}
    write_csv(paths["csv"], rows, columns)
    write_atomic(paths["md"], text + "\n")
    return text, paths


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return value


def training_verdicts(run: Run, g: int) -> list[float]:
    """The reward of each verifier call that the weight update before step g made, in order; empty where there was none."""
    if run.origin(g)["action"] != "weights":
        return []
    rollouts = read_lines(run.step(g) / "weights" / "rollouts.jsonl")
    return [r["score"] for r in rollouts if r["cached"] is False]  # None: the calls ended before it; True: known, or no solution


def curve(run: Run) -> dict[str, list]:
    """A run's progress: each verdict's dev score by the run's count of verifier calls, and each step's fate.

    ``calls`` and ``score`` hold every counted verdict: those of a weight update's training first, then those of the
    execution it led to. The other lists have one entry an executed step; ``step_end`` is the count when it ended.
    """
    from ..trajectory import Trajectory

    out: dict[str, list] = {"calls": [], "score": [], "step_end": [], "step_score": []}
    out |= {"accepted": [], "action": [], "algorithm": [], "edits": []}
    for g in run.executed():
        out["score"] += training_verdicts(run, g)
        for e in Trajectory.read(run.step(g) / "trajectory.jsonl").of("verdict"):
            if not e.data.get("repeat") and not e.data.get("final"):
                out["score"].append(e.data["score"] if e.data["valid"] else 0.0)
        m, origin = run.metrics(g), run.origin(g)
        out["step_end"].append(len(out["score"]))
        out["step_score"].append(m["score"])
        out["accepted"].append(m["accepted"])
        out["action"].append(origin["action"])
        out["algorithm"].append(origin.get("algorithm", ""))
        out["edits"].append(origin["edits"])
    out["calls"] = list(range(1, len(out["score"]) + 1))
    return out


def running_best(curve: dict[str, list]) -> list[float]:
    """The best score so far at each verifier call. What a step submitted counts from its end: it may have taken no call, as
    the fallback that A_1 answers with."""
    submitted = dict[int, float]()
    for end, v in zip(curve["step_end"], curve["step_score"], strict=True):
        submitted[end] = max(v, submitted.get(end, 0.0))
    told = [max(v, submitted.get(n, 0.0)) for n, v in enumerate(curve["score"], 1)]
    return list(accumulate(told, max, initial=submitted.get(0, 0.0)))[1:]


def progress_rows(runs: Iterable[Finished]) -> list[dict[str, Any]]:
    """What Figure 4 (b) is drawn from: the best dev score so far by the verifier calls spent, a row a call and run."""
    out = []
    for f in runs:
        common = {"task": f.run.config.task, "arm": f.arm, "metric": "dev_best", "seeds": 1, "source": f.source}
        common |= {"hardware": f.run.info["hardware"], "run": f.run.path.name}
        c = curve(f.run)
        out += [common | {"verifier_calls": n, "value": v} for n, v in zip(c["calls"], running_best(c), strict=True)]
    return out


STEP_COLUMNS = [*COLUMNS, "seed", "step", "action", "algorithm", "accepted"]


def step_rows(runs: Iterable[Finished]) -> list[dict[str, Any]]:
    """What Figure 2(b) is drawn from: a row an executed step, with the lever pulled before it and its fate."""
    out = []
    for f in runs:
        for g in f.run.executed():
            m, origin = f.run.metrics(g), f.run.origin(g)
            out.append(
                {"task": f.run.config.task, "arm": f.arm, "metric": "dev", "value": m["score"], "seeds": 1, "source": f.source}
                | {"verifier_calls": m["used"]["verifier_calls"], "sampled_tokens": m["used"]["tokens"]}
                | {"hardware": f.run.info["hardware"], "run": f.run.path.name, "seed": f.seed, "step": g}
                | {"action": origin["action"], "algorithm": origin.get("algorithm", ""), "accepted": bool(m["accepted"])}
            )
    return out
