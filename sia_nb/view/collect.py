"""From run folders to the rows that figures and tables are drawn from. Every row names its run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..store import Run, read_json, results_dir, write_atomic
from .paper import ARMS, PAPER

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
]


@dataclass(frozen=True)
class Finished:
    """A run whose report has been written."""

    run: Run
    report: dict[str, Any]
    source: str  # "ours" or "reference"

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.run.config.seed


def finished(task: str, *, profile: str = "", source: str = "ours", also: Path | None = None) -> list[Finished]:
    """The finished runs of a task and profile, one a seed (the newest), by seed; ``also`` names a run kept elsewhere.

    ``profile`` empty: that of the newest finished run. Runs of different profiles or agents are never pooled.
    """
    root = results_dir() / ("runs" if source == "ours" else f"reference/{task}")
    reports = {p.resolve() for p in root.glob("**/report.json")}
    if also and (also / "report.json").exists():
        reports.add((also / "report.json").resolve())
    found = []
    for path in sorted(reports):
        try:
            run = Run(path.parent)
        except StoreError:
            continue
        if run.config.task == task:
            found.append(Finished(run, read_json(path), source))
    found.sort(key=lambda f: f.run.info["created"])
    if not found:
        return []
    wanted = profile or found[-1].run.config.profile
    found = [f for f in found if f.run.config.profile == wanted]
    if not found:
        return []
    same = lambda f: (
        f.run.config.agent,
        f.run.config.agent_model,
        f.run.config.policy,
        f.run.config.steps,
        f.run.config.verifier_calls,
    )
    newest = same(found[-1])
    by_seed = {f.seed: f for f in found if same(f) == newest}
    return [by_seed[s] for s in sorted(by_seed)]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval (Student's t over seeds); with one seed the bounds are nan."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, float("nan"), float("nan")
    from scipy.stats import t

    sd = (sum((v - mean) ** 2 for v in values) / (n - 1)) ** 0.5
    half = float(t.ppf(0.975, n - 1)) * sd / n**0.5
    return mean, mean - half, mean + half


def arm_values(runs: Iterable[Finished], arm: str, metric: str) -> list[tuple[Finished, float]]:
    """(run, value) for each run whose report has the arm."""
    return [(f, f.report["arms"][arm]["test"][metric]) for f in runs if arm in f.report["arms"]]


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
                }
            )
            if len(found) > 1:
                for f, v in found:
                    a = f.report["arms"][arm]
                    out.append(
                        common
                        | {"value": v, "low": float("nan"), "high": float("nan"), "seeds": 1, "hardware": f.run.info["hardware"]}
                        | {"verifier_calls": a["verifier_calls"], "sampled_tokens": a["tokens"], "run": f.run.path.name}
                    )
    for arm in (*ARMS, "previous"):
        if arm in PAPER[task]:
            row = {
                "task": task,
                "arm": arm,
                "metric": metric,
                "value": PAPER[task][arm],
                "source": "paper",
                "run": "SIA v1, Table 3",
            }
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


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return value


def curve(run: Run) -> dict[str, list]:
    """A run's progress: each verdict's dev score by the run's count of verifier calls, and each step's fate."""
    from ..trajectory import Trajectory

    calls, out = 0, {"calls": [], "score": [], "step_end": [], "step_score": [], "accepted": [], "edits": []}
    for g in run.executed():
        for e in Trajectory.read(run.step(g) / "trajectory.jsonl").of("verdict"):
            if not e.data.get("repeat") and not e.data.get("final"):
                calls += 1
                out["calls"].append(calls)
                out["score"].append(e.data["score"] if e.data["valid"] else 0.0)
        m = run.metrics(g)
        out["step_end"].append(calls)
        out["step_score"].append(m["score"])
        out["accepted"].append(m["accepted"])
        out["edits"].append(run.origin(g)["edits"])
    return out
