"""The lesson on honest evaluation: what the committed runs tried and reported, as tables, and trials of it on data of the lesson.

Runs are read from ``results/reference`` through ``view.collect`` and ``trajectory``. Where the lesson needs more verdicts than were
recorded it makes them on the loop's own cells of the denoising task, drawn anew in memory; no sealed cell is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InvalidSolution, StoreError
from ..store import read_json, results_dir
from ..tasks.denoising.data import offline_splits
from ..tasks.denoising.engine import Engine
from ..tasks.denoising.gates import KNEE, MARGIN, PRICE, TAIL, Verdict, right
from ..tasks.denoising.metrics import Measures, Yardstick, mean_se
from ..tasks.denoising.solution import FALLBACK, SPACE
from ..trajectory import Trajectory
from ..view.collect import Finished, finished

ON_DEV = {"lawbench": "macro", "denoising": "mse_norm"}  # task → what dev measures, as the sealed test calls it


def runs(task: str) -> list[Finished]:
    """The committed runs of a task, by arm, then seed.

    Raises:
        StoreError: there is none.
    """
    found = finished(task, source="reference")
    if not found:
        raise StoreError(f"no committed run of {task} in {results_dir() / 'reference'}; the lesson reads them from there")
    return found


# -- what was tried ----------------------------------------------------------------------------------


def trials(task: str) -> pd.DataFrame:
    """Every distinct program that the runs' scaffolds had scored, in the order of their calls.

    Returns:
        Columns run, arm, seed, call (1, 2, … within a run; a program that came before costs no call), step, program (text),
        value (the loop's verdict on dev; 0 where not valid), se (its standard error), best (of value up to this call).
    """
    rows = [row for f in runs(task) for row in _trials(f)]
    table = pd.DataFrame(rows, columns=["run", "arm", "seed", "call", "step", "program", "value", "se"])
    table["best"] = table.groupby("run", sort=False)["value"].cummax()
    return table


def _trials(run: Finished) -> Iterable[tuple[Any, ...]]:
    seen: set[str] = set()
    for step in run.run.executed():
        events = Trajectory.read(run.run.step(step) / "trajectory.jsonl")
        for verdict in events.of("verdict"):
            told = verdict.data
            if told["solution_id"] in seen:
                continue
            seen.add(told["solution_id"])
            value, se = (told["score"], told["metrics"].get("se", np.nan)) if told["valid"] else (0.0, np.nan)
            program = events[told["evaluate"]].data["solution"]
            yield run.run.path.name, run.arm, run.seed, len(seen), step, program, value, se


def reported(task: str) -> pd.DataFrame:
    """What the runs' reports say: the answer chosen on dev, and A_1's, on dev and on the sealed test, by one measure.

    Returns:
        Columns arm, seed, dev, test, test_se (of the reported metric), first_dev, first_test (of A_1's answer, which nothing chose), calls, tokens.
    """
    rows = []
    for f in runs(task):
        chosen, first, metric = f.report["arms"][f.arm], f.report["arms"]["baseline"], ON_DEV[task]
        se = chosen["test"][f"{f.report['metric']}_se"]
        tested = (chosen["dev"], chosen["test"][metric], se, first["dev"], first["test"][metric])
        rows.append((f.arm, f.seed, *tested, chosen["verifier_calls"], chosen["tokens"]))
    names = ["arm", "seed", "dev", "test", "test_se", "first_dev", "first_test", "calls", "tokens"]
    return pd.DataFrame(rows, columns=names)


def asked(task: str, arm: str, seed: int) -> list[tuple[str, float]]:
    """Everything that one run's scaffolds had scored, (program, value) in order, what had been scored before too."""
    run, out = _one(task, arm, seed).run, []
    for step in run.executed():
        events = Trajectory.read(run.step(step) / "trajectory.jsonl")
        out += [(events[v.data["evaluate"]].data["solution"], float(v.data["score"])) for v in events.of("verdict")]
    return out


def comparison(task: str = "denoising", arm: str = "H", seed: int = 0) -> dict[str, Any]:
    """The last step of a run that was kept: "step", "program", "incumbent" (the program before), "gain", "noise".

    Raises:
        StoreError: no such run, or no such step in it.
    """
    run = _one(task, arm, seed).run
    metrics = {step: run.metrics(step) for step in run.executed()}
    for before, step in reversed(list(pairwise(metrics))):
        now, incumbent = metrics[step], metrics[metrics[before]["incumbent"]]
        if now["accepted"] and now["noise"] > 0:
            told = {"step": step, "program": now["solution"], "incumbent": incumbent["solution"]}
            return told | {"gain": now["score"] - incumbent["score"], "noise": now["noise"]}
    raise StoreError(f"run {run.path.name} kept no step after its first; take another seed or arm")


def _one(task: str, arm: str, seed: int) -> Finished:
    for f in runs(task):
        if (f.arm, f.seed) == (arm, seed):
            return f
    seeds = ", ".join(str(n) for n in sorted({f.seed for f in runs(task)}))
    raise StoreError(f"no committed run of {task} with arm {arm} and seed {seed}; there are seeds {seeds} of H, W and W+H")


def transfer(name: str = "lawbench-full") -> pd.DataFrame:
    """The committed searches on held-out instances: columns arm, instance, seed, search, call, best (so far)."""
    told = read_json(results_dir() / "reference" / "transfer" / f"{name}.json")
    parts = []
    for run in told["runs"]:
        best = run["best"]
        keys = {k: run[k] for k in ("arm", "instance", "seed", "search")}
        parts.append(pd.DataFrame(keys | {"call": range(1, len(best) + 1), "best": best}))
    return pd.concat(parts, ignore_index=True)


# -- more verdicts on the loop's cells ---------------------------------------------------------------


class Bench:
    """The loop's cells of one seed of the denoising task, with verdicts as the loop has them.

    The cells and the split of their molecules are drawn by the generator that the runs' were, so that a program gets the value
    that a run with this seed recorded for it.
    """

    def __init__(self, seed: int):
        _, (loop, _) = next(iter(offline_splits(seed)))
        self.split, self.engine, self.yardstick = loop, Engine(), Yardstick(loop)

    def measures(self, program: str) -> Measures:
        """The losses of a program (a spec's text) cell by cell."""
        return self.yardstick.measure(self.engine.denoise(self.split.train, SPACE.parse(program)))

    @cached_property
    def magic(self) -> Measures:
        """MAGIC's, which the gate compares with."""
        return self.measures(SPACE.dump(FALLBACK))

    def verdict(self, program: str) -> Verdict:
        """The loop's verdict on a program: its value, soft-gated, and each cell's influence on it."""
        return right(self.magic, margin=MARGIN, soft=True).judge(self.measures(program))

    def draw(self, calls: int, seed: int) -> pd.DataFrame:
        """Random search: distinct programs drawn uniformly from the space; columns call, program, value, best."""
        rng, found = np.random.default_rng(seed), {}
        while len(found) < calls:
            program = SPACE.dump({f.name: f.values[rng.integers(len(f.values))] for f in SPACE.fields})
            if program not in found:
                found[program] = self.verdict(program).value
        table = pd.DataFrame({"call": range(1, calls + 1), "program": list(found), "value": list(found.values())})
        return table.assign(best=table["value"].cummax())


def programs_of(table: pd.DataFrame, arm: str, seed: int) -> list[str]:
    """The programs that one run tried, in order, without texts that are no spec."""
    own = table[(table["arm"] == arm) & (table["seed"] == seed)]
    return [p for p in own["program"] if _is_spec(p)]


def _is_spec(text: str) -> bool:
    try:
        SPACE.parse(text)
    except InvalidSolution:
        return False
    return True


@dataclass(frozen=True)
class Halves:
    """Programs judged on some cells, "dev", and on all others, "rest", for many random choices of the cells: [k, repeats] each."""

    dev: np.ndarray
    rest: np.ndarray


def judged_cells(bench: Bench, programs: list[str]) -> np.ndarray:
    """What the loop's value is made of, cell by cell: [2, k, n]: gains in mse and in the Poisson loss over no denoising."""
    found = [bench.measures(p) for p in programs]
    return np.stack([[m.none[name] - m.cells[name] for m in found] for name in ("mse", "poisson")])


def halves(bench: Bench, gains: np.ndarray, cells: int, *, repeats: int = 300, seed: int = 0) -> Halves:
    """Values of programs on ``cells`` random cells of the loop's and on the rest of them.

    Args:
        gains: [2, k, n] of ``judged_cells``.

    The value is the loop's, soft-gated, MAGIC being judged on the same cells; the gate's margin, one standard error, is left out.
    """
    rng, n = np.random.default_rng(seed), gains.shape[2]
    chosen = np.zeros((n, repeats))
    for column in chosen.T:
        column[rng.permutation(n)[:cells]] = 1
    return Halves(*(_values(bench.magic, gains, sides) for sides in (chosen, 1 - chosen)))


def _values(magic: Measures, gains: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Soft-gated values [k, repeats] over the cells that each column of ``cells`` [n, repeats] marks."""
    ranges = [(magic.none[name] - magic.perfect[name]) @ cells for name in ("mse", "poisson")]
    mse, poisson = (gain @ cells / of for gain, of in zip(gains, ranges, strict=True))
    threshold = (magic.none["poisson"] - magic.cells["poisson"]) @ cells / ranges[1]
    priced = mse - PRICE * np.maximum(0, threshold - poisson)
    return np.where(priced >= KNEE, priced, KNEE / (1 + (KNEE - np.minimum(priced, KNEE)) / TAIL))


def selection(bench: Bench, gains: np.ndarray, sizes: Iterable[int], counts: Iterable[int], *, seed: int = 0) -> pd.DataFrame:
    """Best of k by dev, for several sizes of dev.

    Returns:
        Columns cells, k, dev (mean value of the winner where it was chosen), rest (on the other cells), optimism (dev − rest),
        oracle (of the program that is best on the rest).
    """
    rows = []
    for cells in sizes:
        found = halves(bench, gains, cells, seed=seed)
        for k in counts:
            dev, rest = found.dev[:k], found.rest[:k]
            winner, column = dev.argmax(axis=0), np.arange(dev.shape[1])
            seen, real = dev[winner, column].mean(), rest[winner, column].mean()
            rows.append((cells, k, seen, real, seen - real, rest.max(axis=0).mean()))
    return pd.DataFrame(rows, columns=["cells", "k", "dev", "rest", "optimism", "oracle"])


def pairing(bench: Bench, programs: list[str], places: Iterable[int]) -> pd.DataFrame:
    """The best program against others by rank: columns place, gap (of values), paired (its SE), apart (were the cells others)."""
    found = sorted((bench.verdict(p) for p in programs), key=lambda v: -v.value)
    best, rows = found[0], []
    for place in places:
        other = found[place - 1]
        apart = np.hypot(mean_se(best.influence), mean_se(other.influence))
        rows.append((place, best.value - other.value, mean_se(best.influence - other.influence), apart))
    return pd.DataFrame(rows, columns=["place", "gap", "paired", "apart"])


def single_seeds(table: pd.DataFrame) -> pd.Series:
    """Of all pairs of one seed of each of two arms, the share in which the first is better on the sealed test."""
    tests = {arm: part["test"].to_numpy() for arm, part in table.groupby("arm")}
    pairs = (("H", "W"), ("W+H", "H"), ("W+H", "W"))
    return pd.Series({f"{a} above {b}": float((tests[a][:, None] > tests[b][None]).mean()) for a, b in pairs})


def compared(table: pd.DataFrame, drawn: dict[int, pd.DataFrame], calls: int, arm: str = "H") -> pd.DataFrame:
    """Best after ``calls`` distinct calls: the runs of an arm and random search, seed by seed; columns seed, loop, random, gain."""
    rows = []
    for seed, random in drawn.items():
        own = table[(table["arm"] == arm) & (table["seed"] == seed) & (table["call"] <= calls)]
        loop, best = own["value"].max(), random[random["call"] <= calls]["value"].max()
        rows.append((seed, loop, best, loop - best))
    return pd.DataFrame(rows, columns=["seed", "loop", "random", "gain"])


def coverage(interval: Callable[[np.ndarray], Any], seeds: int, *, repeats: int = 4000, seed: int = 0) -> float:
    """How often an interval of ``seeds`` normal values holds their true mean."""
    drawn = np.random.default_rng(seed).normal(size=(repeats, seeds))
    bounds = np.array([tuple(interval(row))[-2:] for row in drawn], dtype=np.float64)
    return float(((bounds[:, 0] <= 0) & (bounds[:, 1] >= 0)).mean())
