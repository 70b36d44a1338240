"""The lesson on the loop: a committed run step by step, its decisions, and the noise that decides what is kept.

The run is kept in results/reference/lessons, so that a new study leaves the lesson as it is; only the noise is computed anew,
by the verifier, from two of the run's own answers.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..agents.base import Decision
from ..agents.rewards import gain_a_call
from ..steps import history, lever_records, open_verifier, prepare_data
from ..store import Run, find_run, read_json
from ..tasks import get_task
from ..view.text import steps_table

RUN = "lawbench-W+H-cpu-playbook-s0-ebf7a4"
PLACES = {  # what the paper writes → the file of a step's folder that holds it
    "A_g": ("scaffold/agent.py", "the scaffold's source"),
    "tau_g": ("trajectory.jsonl", "every event of the execution"),
    "E_g": ("metrics.json", "the numbers: score, noise, budget, what was kept"),
    "decision": ("decision.json", "what F chose after reading the three, and why"),
    "origin": ("origin.json", "which lever made A_g, and from which step"),
}


def open_run(name: str = RUN) -> Run:
    """A run by path or name, a committed one before one's own of the same name.

    Raises:
        StoreError: there is none.
    """
    return find_run(name, committed=True)


def files(run: Run, step: int) -> pd.DataFrame:
    """The files of a step's folder with their sizes; completion marks left out."""
    folder = run.step(step)
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith(".done.json")]
    return pd.DataFrame({"file": [str(p.relative_to(folder)) for p in found], "bytes": [p.stat().st_size for p in found]})


def steps(run: Run) -> pd.DataFrame:
    """A row a step: lever, what it changed, score on dev, noise of the difference to the incumbent, spent; not what was kept."""
    columns = ["step", "lever", "score", "noise", "verifier_calls", "tokens"]
    table = pd.DataFrame(steps_table(run))[columns].set_index("step")
    made = {g: run.origin(g) for g in table.index}
    return table.assign(change=[o.get("algorithm") or ", ".join(o["edits"]) or "the first draft" for o in made.values()])


def incumbents(run: Run, rule: str = "noise") -> dict[int, int]:
    """The incumbent after each step, by the loop's rule or by one that it is mistaken for.

    Args:
        rule: ``noise``: a step must beat the incumbent by more than the noise, as recorded. ``any``: by anything at all.
            ``last``: every step becomes the incumbent. ``previous``: it must beat the step before it by more than its noise.
    """
    out: dict[int, int] = {}
    for g in run.executed():
        m = run.metrics(g)
        if rule == "noise" or not out:
            out[g] = m["incumbent"]
            continue
        rival = g - 1 if rule == "previous" else out[g - 1]
        gain = m["score"] - run.metrics(rival)["score"]
        wins = rule == "last" or (m["valid"] and gain > (0 if rule == "any" else m["noise"]))
        out[g] = g if wins else out[g - 1]
    return out


def decisions(run: Run) -> pd.DataFrame:
    """What F chose after each step, with its rule and what it says of it."""
    rows = []
    for g in run.executed():
        path = run.step(g) / "decision.json"
        if path.exists():
            d = Decision(**read_json(path))
            rows.append({"after step": g, "chose": d.algorithm or d.action, "rule": d.rule, "because": d.rationale})
    return pd.DataFrame(rows).set_index("after step")


def last_gains(run: Run, step: int) -> dict[str, dict[str, float]]:
    """Of each lever's last try up to a step: gain over the incumbent, noise, verifier calls."""
    records = lever_records(history(run, step))
    return {k: {n: r[f"last_{n}"] for n in ("gain", "noise", "verifier_calls")} for k, r in records.items()}


def worth(run: Run, step: int) -> dict[str, float]:
    """What each lever's last try gained in noise units for 100 verifier calls; 0 where it was no more than the noise."""
    records = lever_records(history(run, step))
    return {lever: 100 * gain_a_call(record) for lever, record in records.items()}


@dataclass(frozen=True)
class Pair:
    """Two answers of a run on the same dev texts."""

    a: np.ndarray  # [n] 1.0 where step a's answer names the right charge
    b: np.ndarray  # [n] the same of step b's
    labels: np.ndarray  # [n] the charge of each text, a class number
    steps: tuple[int, int]
    noise: float  # the verifier's own paired standard error
    recorded: float  # the same as the committed run has it, from its machine

    @property
    def gain(self) -> float:
        """Difference of macro accuracies, a minus b."""
        return macro(self.a, self.labels) - macro(self.b, self.labels)


def pair(run: Run, a: int, b: int) -> Pair:
    """The answers of steps a and b of a LawBench run, scored anew on dev: some seconds each the first time, then remembered.

    Raises:
        DataError: `make data` has not run. StoreError: no such step.
    """
    task = get_task(run.config.task)
    found = [run.metrics(g) for g in (a, b)]
    with tempfile.TemporaryDirectory() as folder:
        work = Run.create(run.config, Path(folder) / "run")  # the committed run stays as it is
        prepare_data(work)
        with open_verifier(work, task) as verifier:
            ids = [verifier.score(task.parse(m["solution"])).solution_id for m in found]
            hits = [np.array(verifier.hits(i)) for i in ids]
            labels, noise = np.array(verifier.dev_labels()), verifier.paired_se(*ids)
    return Pair(*hits, labels, (a, b), noise, found[0]["noise"])


def macro(hits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over charges of the share of hits."""
    return float(pd.Series(hits).groupby(labels).mean().mean())


def standard_error(values: np.ndarray, labels: np.ndarray) -> float:
    """Standard error of the mean over K charges of the charges' means: sqrt(sum of s²/n over charges) / K.

    The variance s² within a charge is the unbiased one; a charge with one text takes the one pooled over the others.
    """
    groups = pd.Series(np.asarray(values, float)).groupby(labels)
    n, squares = groups.size(), groups.var(ddof=0) * groups.size()
    pooled = squares.sum() / (n - 1).sum()
    within = (squares / (n - 1)).where(n > 1, pooled)
    return float(np.sqrt((within / n).sum()) / len(n))


def agreement(pair: Pair) -> pd.Series:
    """How many dev texts both answers get right, one of them, or neither."""
    a, b = pair.a > 0, pair.b > 0
    names = (f"only step {pair.steps[0]}", f"only step {pair.steps[1]}")
    counts = {"both right": a & b, names[0]: a & ~b, names[1]: ~a & b, "both wrong": ~a & ~b}
    return pd.Series({k: int(v.sum()) for k, v in counts.items()}, name="dev texts")


def intervals(pair: Pair) -> dict[str, float]:
    """Standard errors of the gain: text by text, and as if the two had been scored on different texts."""
    alone = [standard_error(x, pair.labels) for x in (pair.a, pair.b)]
    return {
        "paired, text by text": standard_error(pair.a - pair.b, pair.labels),
        "as if on different texts": float(np.hypot(*alone)),
    }
