"""Every number of README's findings equals the one recomputed from the committed runs, and every number has such a rule.

A claim is a sentence's pattern with the numbers as groups, and a function that recomputes them. What a claim captures is
compared at the precision that is written. A number that no claim captures, and that is not listed as no finding of the runs,
fails: write a claim for it. Where a sentence was reworded, its pattern here is reworded with it.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import pytest

from sia_nb.store import ROOT, read_json, read_lines
from sia_nb.tasks import get_task
from sia_nb.view import changes, collect, front, training, transfer
from sia_nb.view.paper import PAPER

N = r"([−+]?\d*\.?\d+)"  # a number as README writes it
W = r"([a-zA-Z]+)"  # one in words
B = rf"{N} \[{N}, {N}\]"  # with its interval
WORDS = dict(
    zip(
        ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
        range(13),
        strict=True,
    )
)
LAW, DEN = "LawBench", "single-cell denoising"


@lru_cache(4)
def section(name: str) -> str:
    """The text under ``## What came out: name``, on one line, without pictures and code."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = readme.split(f"## What came out: {name}\n")[1].split("\n## ")[0]
    text = re.sub(r"!\[.*?\]\(.*?\)|`[^`]*`", " ", text, flags=re.DOTALL)
    return " ".join(text.split())


# -- the facts ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def committed(monkeypatch):
    monkeypatch.delenv("SIA_RESULTS", raising=False)


@lru_cache(4)
def runs(task):
    found = collect.finished(task, source="reference")
    assert found, f"results/reference/{task} holds no run that can be read"
    return tuple(found)


def values(task, arm):
    return [v for _, v in collect.arm_values(runs(task), arm, PAPER[task]["metric"])]


def sealed(task, *arms):
    return [x for arm in arms for x in collect.interval(values(task, arm))]


def minus(task, arm, other):
    a, b = ({f.seed: v for f, v in collect.arm_values(runs(task), x, PAPER[task]["metric"])} for x in (arm, other))
    return list(collect.interval([a[s] - b[s] for s in sorted(a.keys() & b.keys())]))


def of_arm(task, arm):
    return [f for f in runs(task) if f.arm == arm]


def counts(task):
    return [len(runs(task)), len({f.arm for f in runs(task)}), len({f.seed for f in runs(task)})]


def budget(task):
    (told,) = {(f.run.config.steps, f.run.config.verifier_calls) for f in runs(task)}
    return list(told)


def updates(task, arm):
    return [(f.run, g) for f in of_arm(task, arm) for g in f.run.executed() if f.run.origin(g)["action"] == "weights"]


def learned(task, arm):
    """[updates, rose, (before, after) of each that rose, the training steps of the longest of these, fell, kept]."""
    results = [(training.result(run.step(g) / "weights"), run.metrics(g)["accepted"]) for run, g in updates(task, arm)]
    bounds = [training.gain(r["before"], r["after"])[1:] for r, _ in results]
    rose = [r for (r, _), (low, _) in zip(results, bounds, strict=True) if low > 0]
    pairs = [x for r in rose for x in (r["before"]["mean"], r["after"]["mean"])]
    fell = sum(high < 0 for _, high in bounds)
    return [len(results), len(rose), *pairs, max(r["steps"] for r in rose), fell, sum(bool(kept) for _, kept in results)]


def first_valid(task):
    """(fewest, most) updates until the policy of an arm W run writes its first valid answer, over the runs.

    An answer in an update's first training step was taught by those before it, a later one by this update as well.
    """
    out = []
    for f in of_arm(task, "W"):
        mine = [read_lines(run.step(g) / "weights" / "rollouts.jsonl") for run, g in updates(task, "W") if run is f.run]
        wrote = [(n, r["step"]) for n, lines in enumerate(mine) for r in lines if r["valid"] and r["source"] == "policy"]
        assert wrote, f"{f.run.path.name}: the policy never wrote a valid answer"
        update, step = min(wrote)
        out.append(update + (step > 1))
    return [min(out), max(out)]


def by_mutation(task):
    """In how many arm W runs code mutation, and not the policy, wrote the final answer first; and of how many."""
    found = []
    for f in of_arm(task, "W"):
        name = f.report["arms"]["W"]["solution_id"]
        written = [r["source"] for run, g in updates(task, "W") if run is f.run
                   for r in read_lines(run.step(g) / "weights" / "rollouts.jsonl") if r["solution_id"] == name]  # fmt: skip
        found.append(bool(written) and written[0] != "policy")
    return [sum(found), len(found)]


@lru_cache(1)
def study():
    data = read_json(transfer.find("lawbench-full"))
    return data, {(r["arm"], r["against"], r["calls"]): r for r in transfer.summary_from_data(data)}


def lead(arm, against, calls):
    row = study()[1][arm, against, calls]
    return [row["value"], row["low"], row["high"]]


def plan():
    p = study()[0]["plan"]
    return [len(p["train"]), len(p["held_out"]), len(p["seeds"])]


def level(arm, against, calls):
    row = study()[1][arm, against, calls]
    return row["low"] <= 0 <= row["high"]


@lru_cache(1)
def tried():
    return front.points(runs("denoising"))


def through_the_published_gate():
    passed = [r for r in tried() if r["passes_published"]]
    return [len({f.run.path.name for f in runs("denoising")}), len(passed), sum(not r["passes_right"] for r in passed)]


def cells():
    (n,) = {f.report["arms"][f.arm]["test"]["n"] for f in runs("denoising")}
    return [2 * n]


def spent(task, arm):
    calls = [f.report["arms"][arm]["verifier_calls"] for f in of_arm(task, arm)]
    return [min(calls), max(calls)]


def best_run(task):
    best = max((v, f) for arm in ("H", "W", "W+H") for f, v in collect.arm_values(runs(task), arm, "mse_norm"))
    return [best[0], best[1].report["arms"][best[1].arm]["test"]["ratio_to_magic"]]


def times_magic(task):
    means = {arm: collect.interval(values(task, arm))[0] for arm in ("baseline", "H", "W", "W+H")}
    ratios = [f.report["arms"][f.arm]["test"]["ratio_to_magic"] for f in of_arm(task, max(["H", "W", "W+H"], key=means.get))]
    return [sum(ratios) / len(ratios)]


def kinds(arm, lever):
    rows = [r for r in changes.changes(runs("denoising"), get_task("denoising").space) if (r["arm"], r["lever"]) == (arm, lever)]
    return [sum(r["kind"] == kind for r in rows) for kind in ("parameter", "structure", "post-processing")]


def unchanged(task, arm):
    return [sum(f.report["arms"][arm]["solution_id"] == f.report["arms"]["baseline"]["solution_id"] for f in of_arm(task, arm))]


# -- the claims --------------------------------------------------------------------------------------


class Claim(NamedTuple):
    """A sentence's pattern and what its groups must be."""

    section: str
    pattern: str
    facts: Callable[[], list]


CLAIMS = [
    Claim(LAW, rf"{W} runs, {W} arms of {W} seeds at one budget", lambda: counts("lawbench")),
    Claim(LAW, rf"\({N} steps × {N} verifier calls\)", lambda: budget("lawbench")),
    Claim(LAW, rf"harness {B}, weights {B}, both {B}", lambda: sealed("lawbench", "H", "W", "W+H")),
    Claim(LAW, rf"both minus harness: {B}", lambda: minus("lawbench", "W+H", "H")),
    Claim(LAW, rf"Baseline {N}", lambda: sealed("lawbench", "baseline")[:1]),
    Claim(
        LAW,
        rf"of the {W} weight updates in the arm with both levers, the mean score of the policy's samples rose in {W} "
        rf"\({N} to {N}, {N} to {N}, {N} to {N}, {N} to {N} within {W} training steps\) and fell in {W}\. {W} were kept",
        lambda: learned("lawbench", "W+H"),
    ),
    Claim(LAW, rf"first valid answers in {W} to {W} updates", lambda: first_valid("lawbench")),
    Claim(LAW, rf"In {W} of {W} seeds the final answer was written by code mutation", lambda: by_mutation("lawbench")),
    Claim(LAW, rf"Trained on {N} subsets of the charges, tried on {W} others that share none with them \({N} seeds\)", plan),
    Claim(
        LAW,
        rf"the trained policy's answer is worth {N}, the untrained one's {N} \({B}\), a uniform draw {N}",
        lambda: [
            lead("trained", "", 0)[0],
            lead("untrained", "", 0)[0],
            *lead("trained", "untrained", 0),
            lead("random", "", 0)[0],
        ],
    ),
    Claim(LAW, rf"After {N} calls it still leads local search from scratch by {B}", lambda: [8, *lead("trained", "search", 8)]),
    Claim(LAW, rf"after {N} they are level", lambda: [64 if level("trained", "search", 64) else 0]),
    Claim(
        LAW,
        rf"do as well as the policy at {N} to {N} calls and better at {N}",
        lambda: [
            *((0, 8) if all(level("trained", "search_from_saved", k) for k in (0, 1, 8)) else (-1, -1)),
            64 if lead("trained", "search_from_saved", 64)[2] < 0 else -1,
        ],
    ),
    Claim(DEN, rf"by default {N} blood cells", cells),
    Claim(DEN, rf"{W} runs \({W} arms, {W} seeds, ", lambda: counts("denoising")),
    Claim(DEN, rf"{N} × {N} verifier calls\)", lambda: budget("denoising")),
    Claim(DEN, rf"that the {W} runs tried, {N} solutions pass it, and all {N} fail the right one", through_the_published_gate),
    Claim(DEN, rf"MAGIC, which is the baseline, {N}", lambda: sealed("denoising", "baseline")[:1]),
    Claim(DEN, rf"harness {B}; weights {B}; both {B}", lambda: sealed("denoising", "H", "W", "W+H")),
    Claim(DEN, rf"The best single run reaches {N}, {N} times MAGIC's", lambda: best_run("denoising")),
    Claim(DEN, rf"for the mean, which is {N}", lambda: times_magic("denoising")),
    Claim(DEN, rf"Both minus harness: {B}", lambda: minus("denoising", "W+H", "H")),
    Claim(
        DEN,
        rf"of {N} calls the harness arm made {N} to {N}, the weights {N} to {N}, both {N} to {N}",
        lambda: [
            budget("denoising")[0] * budget("denoising")[1],
            *(x for arm in ("H", "W", "W+H") for x in spent("denoising", arm)),
        ],
    ),
    Claim(DEN, rf"{W} run with both levers came back to MAGIC itself", lambda: unchanged("denoising", "W+H")),
    Claim(
        DEN,
        rf"harness updates {N} parameters, {N} of structure, {N} of post-processing; weight updates alone {N}, {N} and {N}",
        lambda: [*kinds("H", "harness"), *kinds("W", "weights")],
    ),
]

NO_FINDING = [  # numbers that no committed run holds, and why they are there
    (LAW, r"intervals are 95 %"),  # how the intervals are made
    (LAW, r"top-1"),  # a name
    (LAW, r"made on 16 cores without the GPU, the transfer study on an H100"),  # see test_the_hardware_is_that_of_the_runs
    (LAW, r"with 16 cores, hours on two cores"),  # an estimate
    (DEN, r"In simulated cells the true rates score −0\.14"),  # of simulated cells, test_denoising_metrics
    (DEN, r"In simulated cells the \*true\* rates score −0\.14"),
    (DEN, r"their cube scores \.58"),
    (DEN, r"sets low values to 0"),
    (DEN, r"2\.5 times was aimed at"),  # an aim
    (DEN, r"seeing the results of seeds 0 and 1"),  # how a setting was chosen
]


def number(written: str) -> float:
    return float(WORDS[written.lower()]) if written.isalpha() else float(written.replace("−", "-"))


def agrees(written: str, value: float) -> bool:
    """Whether a number as written, at its own precision, is this value; a sign that is written counts."""
    if written.isalpha():
        return written.lower() in WORDS and number(written) == value
    digits = len(written.split(".")[1]) if "." in written else 0
    return abs(number(written) - value) <= 0.5 * 10**-digits + 1e-9


@lru_cache(64)
def computed(claim: Claim) -> list:
    return claim.facts()


def wrong(claim: Claim, text: str) -> list[str]:
    found = re.search(claim.pattern, text)
    if found is None:
        return [f"no sentence of README reads '{claim.pattern}'; where it was reworded, reword the claim in this file"]
    facts = computed(claim)
    assert len(facts) == len(found.groups()), f"{claim.pattern}: {len(found.groups())} numbers, {len(facts)} facts: {facts}"
    return [
        f"README says {w}, the runs say {v:.6g}, in '{found[0]}'"
        for w, v in zip(found.groups(), facts, strict=True)
        if not agrees(w, v)
    ]


NAMES = [f"{c.section[:3]}-{n}" for n, c in enumerate(CLAIMS)]


@pytest.mark.parametrize("claim", CLAIMS, ids=NAMES)
def test_a_number_of_the_readme_is_the_one_of_the_runs(claim):
    assert wrong(claim, section(claim.section)) == []


@pytest.mark.parametrize("claim", CLAIMS, ids=NAMES)
def test_an_altered_number_is_found(claim):
    text = section(claim.section)
    found = re.search(claim.pattern, text)
    for n in range(1, len(found.groups()) + 1):
        written, (start, end) = found[n], found.span(n)
        if written.isalpha():
            altered = "seven" if written.lower() != "seven" else "eight"
        else:
            altered = written[:-1] + ("4" if written[-1] != "4" else "7")
        assert wrong(claim, text[:start] + altered + text[end:]), f"{written} → {altered} in '{found[0]}' goes unnoticed"


@pytest.mark.parametrize("name", [LAW, DEN])
def test_every_number_of_the_findings_has_a_rule(name):
    text = section(name)
    for pattern in [c.pattern for c in CLAIMS if c.section == name] + [p for s, p in NO_FINDING if s == name]:
        text = re.sub(pattern, " ", text)
    left = re.findall(r".{0,40}\d.{0,40}", text)
    assert left == [], f"no claim of this file recomputes the numbers in: {left}"


def test_the_hardware_is_that_of_the_runs():
    data, _ = study()
    assert all("16 cores" in f.hardware and "NVIDIA" not in f.hardware for f in runs("lawbench"))
    assert "H100" in data["provenance"]["hardware"]
    assert "made on 16 cores without the GPU, the transfer study on an H100" in section(LAW)


def test_csv_of_figure_1_holds_the_numbers_of_the_readme(tmp_path):
    rows = collect.rows("lawbench", [], list(runs("lawbench")))
    said = re.search(rf"harness {B}", section(LAW)).groups()
    row = next(r for r in rows if r["arm"] == "H" and r["seeds"] == len(values("lawbench", "H")))
    assert all(agrees(w, row[k]) for w, k in zip(said, ("value", "low", "high"), strict=True))
