"""Every number of README's findings equals the one recomputed from the committed runs, and every number has such a rule.

A claim is a sentence's pattern with the numbers as groups, and a function that recomputes them. What a claim captures is
compared at the precision that is written. A number that no claim captures, and that is not listed as no finding of the runs,
fails: write a claim for it. Where a sentence was reworded, its pattern here is reworded with it.
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import pytest

from sia_nb.steps import rollouts
from sia_nb.store import ROOT, Run, read_json, read_lines
from sia_nb.tasks import get_task
from sia_nb.tasks.trimul.floor import geometric_mean
from sia_nb.trajectory import Trajectory
from sia_nb.view import changes, collect, controls, front, training, transfer
from sia_nb.view.paper import PAPER

N = r"([−+]?\d*\.?\d+)"  # a number as README writes it
W = r"([a-zA-Z]+)"  # one in words
B = rf"{N} \[{N}, {N}\]"  # with its interval
WORDS = dict(
    zip(
        ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
        + ["thirteen", "fourteen", "fifteen"],
        range(16),
        strict=True,
    )
)
LAW, DEN, CTL, TRI = "LawBench", "single-cell denoising", "controls", "the TriMul kernel"
ALL = ("H", "W", "W+H")
OTHERWISE = ("lawbench-half", "lawbench-improvement")  # transfer studies whose policies are trained otherwise
CARRIED = "denoising-full"


@lru_cache(8)
def section(name: str) -> str:
    """The text under ``## What came out: name``, on one line, without pictures and code."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = readme.split(f"## What came out: {name}\n")[1].split("\n## ")[0]
    text = re.sub(r"!\[.*?\]\(.*?\)|`[^`]*`", " ", text, flags=re.DOTALL)
    return " ".join(text.split())


# -- the facts ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def committed(monkeypatch, tmp_path):
    """The committed results alone: this machine's own runs would stand in their place."""
    (tmp_path / "reference").symlink_to(ROOT / "results" / "reference")
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))


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
    """[updates, rose, least and greatest score before and after of those, their most training steps, fell, kept]."""
    results = [(training.result(run.step(g) / "weights"), run.metrics(g)["accepted"]) for run, g in updates(task, arm)]
    bounds = [training.gain(r["before"], r["after"])[1:] for r, _ in results]
    rose = [r for (r, _), (low, _) in zip(results, bounds, strict=True) if low > 0]
    ends = [f(r[when]["mean"] for r in rose) for when in ("before", "after") for f in (min, max)]
    fell = sum(high < 0 for _, high in bounds)
    return [len(results), len(rose), *ends, max(r["steps"] for r in rose), fell, sum(bool(kept) for _, kept in results)]


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


def answers_by_mutation():
    """In how many runs of weights alone, of both tasks, code mutation wrote the final answer; and of how many."""
    return [sum(found) for found in zip(*(by_mutation(task) for task in ("lawbench", "denoising")), strict=True)]


@lru_cache(8)
def study(name="lawbench-full"):
    data = read_json(transfer.find(name))
    return data, {(r["arm"], r["against"], r["calls"]): r for r in transfer.summary_from_data(data)}


def lead(arm, against, calls, name="lawbench-full"):
    row = study(name)[1][arm, against, calls]
    return [row["value"], row["low"], row["high"]]


def plan(name="lawbench-full"):
    p = study(name)[0]["plan"]
    return [len(p["train"]), len(p["held_out"]), len(p["seeds"])]


def level(arm, against, calls, name="lawbench-full"):
    row = study(name)[1][arm, against, calls]
    return row["low"] <= 0 <= row["high"]


def behind(arm, against, calls, name):
    """``lead`` the other way round."""
    value, low, high = lead(arm, against, calls, name)
    return [-value, -high, -low]


def calls_of_training(name):
    """(fewest, most) verifier calls of a study's trainings."""
    spent = [t["verifier_calls"] for t in study(name)[0]["training"]]
    return [min(spent), max(spent)]


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


def kinds(arm, lever):
    rows = [r for r in changes.changes(runs("denoising"), get_task("denoising").space) if (r["arm"], r["lever"]) == (arm, lever)]
    return [sum(r["kind"] == kind for r in rows) for kind in ("parameter", "structure", "post-processing")]


def aim(task, wanted):
    """[wanted, how far the best arm's mean is below it, runs above it, runs, the best run's value]; that run is of weights alone."""
    best = max((v, arm) for arm in ALL for v in values(task, arm))
    assert best[1] == "W"
    above = [v for arm in ALL for v in values(task, arm) if v >= wanted]
    return [wanted, wanted - max(sealed(task, arm)[0] for arm in ALL), len(above), len(runs(task)), best[0]]


def told(arm):
    """seed → what the report says of the arm's answer on the sealed cells."""
    return {f.seed: f.report["arms"][arm]["test"] for f in of_arm("denoising", arm)}


def failing(arm):
    """By how much each answer that fails the right gate on the sealed cells is short of MAGIC's measure."""
    return [t["magic_poisson_norm"] - t["poisson_norm"] for t in told(arm).values() if not t["passes_right"]]


def failures():
    """[failing of the harness arm, of, by how much the farthest falls short]; none of the other arms fails."""
    assert not failing("W") and not failing("W+H")
    return [len(failing("H")), len(told("H")), max(failing("H"))]


def counted(t, key="mse_norm"):
    """A figure of an answer, as MAGIC's where the answer fails the right gate."""
    return t[key] if t["passes_right"] else t["magic_mse_norm"] if key == "mse_norm" else 1.0


def behind_the_gate(arm, key="mse_norm"):
    """The arm's figure over seeds where an answer that fails the right gate counts as MAGIC's."""
    return list(collect.interval([counted(t, key) for t in told(arm).values()]))


def both_minus_harness_behind_the_gate():
    """Paired by seed, where an answer that fails the right gate counts as MAGIC's."""
    return list(collect.interval([counted(told("W+H")[s]) - counted(t) for s, t in told("H").items()]))


def the_aim_of_denoising(wanted=2.5):
    """Of both levers: runs that reach it behind the gate, runs, the best answer that passes and its multiple of MAGIC, the mean
    multiple; of the harness: the same mean behind the gate, and with what fails it."""
    means = {arm: behind_the_gate(arm, "ratio_to_magic")[0] for arm in ALL}
    assert means["W+H"] == max(means.values())
    passing = [t for t in told("W+H").values() if t["passes_right"]]
    best = max(passing, key=lambda t: t["ratio_to_magic"])
    return [
        sum(t["ratio_to_magic"] >= wanted for t in passing),
        len(told("W+H")),
        best["mse_norm"],
        best["ratio_to_magic"],
        means["W+H"],
        means["H"],
        collect.interval([t["ratio_to_magic"] for t in told("H").values()])[0],
    ]


def untouched_seeds():
    """The answers of seeds 3 and 4 by arm; which of them fail the gate is part of the sentence."""
    fails = [(arm, seed) for arm in ALL for seed in (3, 4) if not told(arm)[seed]["passes_right"]]
    assert fails == [("H", 3)]
    return [told(arm)[seed]["mse_norm"] for arm in ALL for seed in (3, 4)]


def first_edit_rolled_back(arm="W+H"):
    return [f for f in of_arm("denoising", arm) if not f.run.metrics(2)["accepted"]]


def masked(run, g):
    return bool(Trajectory.read(run.step(g) / "trajectory.jsonl").of("sample")[-1].data["grammar"])


def unmasked_updates():
    """[seeds whose first edit was rolled back, seeds, updates through a scaffold that masks no answer, updates]."""
    every = updates("denoising", "W+H")
    plain = [(run, g) for run, g in every if not masked(run, run.origin(g)["parent"])]
    return [len(first_edit_rolled_back()), len(of_arm("denoising", "W+H")), len(plain), len(every)]


def lead_at_equal_calls():
    """The harness's best so far less that of both levers, at as many calls as the run with both made, seed by seed."""
    best = {(f.arm, f.seed): collect.running_best(collect.curve(f.run)) for f in runs("denoising") if f.arm != "W"}
    seeds = [seed for arm, seed in best if arm == "W+H"]
    at = lambda line, n: line[min(n, len(line)) - 1]
    return list(collect.interval([at(best["H", s], len(best["W+H", s])) - best["W+H", s][-1] for s in seeds]))


def from_dev_to_sealed():
    """Dev minus sealed of the harness's answers, then of both levers'."""
    own = {arm: [f.report["arms"][arm] for f in of_arm("denoising", arm)] for arm in ("H", "W+H")}
    return [x for arm in own for x in collect.interval([o["dev"] - o["test"]["mse_norm"] for o in own[arm]])]


def at_the_gates():
    """(mean best value by the soft gate of harness and of both, mean best that passes the hard one of harness and of both)."""
    mean = lambda found: sum(found) / len(found)
    soft = [mean([collect.running_best(collect.curve(f.run))[-1] for f in of_arm("denoising", arm)]) for arm in ("H", "W+H")]
    return soft, [mean([f.report["arms"][arm]["dev"] for f in of_arm("denoising", arm)]) for arm in ("H", "W+H")]


@lru_cache(1)
def denoising_verdicts():
    return read_json(ROOT / "results/reference/bench/denoising_verdict.json")


def large_denoising():
    """[cells, genes of the small counts; thousands of both of the large; least and most seconds, most GB of a program there]."""
    found = denoising_verdicts()
    assert ", 2 cores, " in found["hardware"]
    seconds = [spec["seconds"] for spec in found["large"]["specs"]]
    gigabytes = max(spec["peak_bytes"] for spec in found["large"]["specs"]) / 1e9
    shape = [int(n) / 1000 for n in found["large"]["counts"].split("x")]
    return [found["small"]["cells"], found["small"]["genes"], *shape, min(seconds), max(seconds), gigabytes]


@lru_cache(4)
def beside(task):
    """arm or control → seed → its figures."""
    return {e["arm"]: e["seeds"] for e in controls.entries_of(task)}


ROWS = {"harness": "H", "weights": "W", "both": "W+H", "weights, rewards shuffled": "W shuffled"}
ROWS |= {"random draws": "random", "local search": "local", "best of N": "best_of_n"}


def row(arm):
    """A row of the table: both tasks' means with their intervals, and how many answers pass denoising's gate."""
    found = [x for task in ("lawbench", "denoising") for x in collect.interval([s["sealed"] for s in beside(task)[arm].values()])]
    return [*found, sum(bool(s["passes"]) for s in beside("denoising")[arm].values()), len(beside("denoising")[arm])]


def paired(task, arm, other):
    a, b = beside(task)[arm], beside(task)[other]
    return list(collect.interval([a[s]["sealed"] - b[s]["sealed"] for s in sorted(a.keys() & b.keys())]))


def behind_the_gate_minus(arm, control):
    """Paired by seed, where an answer that fails the right gate counts as MAGIC's; of the control's none fails."""
    own = {seed: counted(t) for seed, t in told(arm).items()}
    other = beside("denoising")[control]
    assert all(s["passes"] for s in other.values())
    return list(collect.interval([value - other[seed]["sealed"] for seed, value in own.items()]))


def seconds_of(arm):
    found = [s["seconds"] for s in beside("denoising")[arm].values()]
    return sum(found) / len(found)


def all_calls():
    out = []
    for task in ("lawbench", "denoising"):
        (calls,) = {s["calls"] for arm in ("random", "local", "best_of_n") for s in beside(task)[arm].values()}
        assert calls > max(s["calls"] for arm in ALL for s in beside(task)[arm].values())
        out.append(calls)
    return out


def told_apart():
    """Half of the interval of harness minus local search, on either task."""
    return [(high - low) / 2 for _, low, high in (paired(task, "H", "local") for task in ("lawbench", "denoising"))]


def chosen_at_the_end():
    """benchmarks/final_choice.py: of how many runs, their answers' mean, of how many the best and its mean, the best of all."""
    found = read_json(ROOT / "results/reference/bench/final_choice.json")
    assert found["runs"].keys() == {f.run.path.name for f in runs("lawbench")}
    (looked_at,) = re.findall(r"--best (\d+)", found["command"])
    (best,) = found["peers"].values()
    return [len(found["runs"]), found["ours"], int(looked_at), best, found["best_anywhere"]]


def wider_space():
    """benchmarks/wider_space.py: six stacked, three, their difference with its interval, nine, nine reranked, a vote, the answers."""
    found = read_json(ROOT / "results/reference/bench/wider_space.json")
    assert found["runs"].keys() == {f.run.path.name for f in runs("lawbench")}
    peers, means = found["peers"], found["means"]
    stacks = [peers["6 stacked"], found["ours"], *found["minus_ours"]["6 stacked"], peers["9 stacked"], peers["9 reranked"]]
    return [*stacks, means["vote"], means["answer"]]


@lru_cache(1)
def kernel():
    return read_json(ROOT / "results/reference/trimul/nvidia-h200/best.json")


def own_passes():
    """benchmarks/trimul_cpu.py: the best of each passes, and what whole is worth in the same formats within a round."""
    found = read_json(ROOT / "results/reference/bench/trimul_cpu.json")
    best = {p: max((v["geometric_mean"], k) for k, v in found["speedup"].items() if k.startswith(p)) for p in ("whole", "fused")}
    formats = best["whole"][1].split()[1]
    return best["whole"][0], best["fused"][0], found["whole_over_fused"][formats]["geometric_mean"]


def timed(name):
    """A program's geometric means: µs by the device, that by the floor, µs on the board."""
    m = kernel()["means"][name]
    return [m["device"], m["device"] / m["floor"], m["board"]]


def times_its_floor(part, cases=""):
    """Geometric mean over the shapes, or the large ones of so many channels, of a pass's time by its own floor."""
    found = kernel()
    of = [c for c in found["passes"] if not cases or (cases in c and "n256" not in c)]
    return geometric_mean([found["passes"][c][part] / found["cases"][c]["floor"][part] for c in of])


@lru_cache(1)
def before_early_launches():
    """arm → (run, its report's arm) of the committed runs on a GPU from before the space had early launches."""
    (folder,) = (ROOT / "results/reference/trimul_cuda").glob("*-3-of-32-cores-*")
    found = [Run(p.parent) for p in folder.glob("*/run.json")]
    return {run.config.arm: (run, read_json(run.path / "report.json")["arms"][run.config.arm]) for run in found}


def earlier_on_a_gpu():
    """Steps and calls of those runs, and the sealed scores of both levers and of weights alone, whose answer is by
    mutation, from its last update."""
    found = before_early_launches()
    ((steps, calls),) = {(run.config.steps, run.config.verifier_calls) for run, _ in found.values()}
    run, arm = found["W"]
    first = next(r for g in run.executed() for r in rollouts(run, g) if r["solution_id"] == arm["solution_id"])
    assert first["source"] != "policy"
    assert all(r["solution_id"] != arm["solution_id"] for g in run.executed()[:-1] for r in rollouts(run, g))
    return [steps, calls, *(found[a][1]["test"]["score"] for a in ("W+H", "W"))]


def most_calls_on_a_gpu():
    """The most calls that an arm made, of either set."""
    made = [f.report["arms"][f.arm]["verifier_calls"] for f in runs("trimul_cuda")]
    return [max(*made, *(arm["verifier_calls"] for _, arm in before_early_launches().values()))]


def speed_of_the_baselines():
    """Least and greatest sealed speed-up of the arms' own baselines."""
    found = [f.report["arms"]["baseline"]["test"]["speedup"] for f in runs("trimul")]
    return [min(found), max(found)]


@lru_cache(1)
def without_amx():
    """arm → the reports of its committed runs on a processor with AVX-512 and without AMX."""
    found = [Run(p.parent) for p in (ROOT / "results/reference/trimul").glob("*-avx-512-*/*/run.json")]
    assert len(found) == 9 and len({run.info["hardware"] for run in found}) == 1
    reports = {run: read_json(run.path / "report.json") for run in found}
    return {arm: [r["arms"][arm]["test"] for run, r in reports.items() if run.config.arm == arm] for arm in ALL}


def eager_by_its_floor():
    """The eager reference's time by the floor, the geometric mean over the sealed tests of those runs' answers."""
    return [geometric_mean([t["reference_us"] / t["floor_us"] for tests in without_amx().values() for t in tests])]


@lru_cache(1)
def kernel_answers():
    """(the spec, its full score on dev, its sealed speed-up, why it failed) of each arm's and control's answer on a CPU."""
    own = [f.report["arms"][f.arm] for f in runs("trimul")]
    made = [read_json(p) for p in (ROOT / "results/reference/controls/trimul").glob("*/*/control.json")]
    return [(json.loads(x["solution"]), x["dev"], x["test"]["speedup"], x.get("reason") or "") for x in (*own, *made)]


def too_coarse():
    """[answers, those in two parts of bfloat16, of these that fail, channels at which they do, least and greatest error]."""
    parts = [x for x in kernel_answers() if x[0]["format"] == "bfloat16x2"]
    failed = [re.search(r"-c(\d+)-.*found ([\d.]+) times", why).groups() for _, _, speed, why in kernel_answers() if speed == 0]
    assert len(failed) == sum(speed == 0 for _, _, speed, _ in parts)
    (channels,), times = {int(c) for c, _ in failed}, [float(x) for _, x in failed]
    return [len(kernel_answers()), len(parts), len(failed), channels, min(times), max(times)]


def one_program():
    """[answers, sealed tests passed and failed, least and greatest speed-up] of the program found most in that format, told by
    the time on dev that a machine remembers of it."""
    found = [dev for spec, dev, _, _ in kernel_answers() if spec["format"] == "bfloat16x2"]
    most = max(found, key=found.count)
    speeds = [speed for _, dev, speed, _ in kernel_answers() if dev == most]
    return [len(speeds), len(speeds) - 1, speeds.count(0), min(v for v in speeds if v), max(speeds)]


def kernel_controls():
    """Sealed speed-ups: mean and interval of local search and of best of N, then the one random draw that passes."""
    found = {arm: [s["sealed"] for s in beside("trimul")[arm].values()] for arm in ("local", "best_of_n", "random")}
    (passes,) = [v for v in found["random"] if v]
    assert len(found["random"]) == 3
    return [*collect.interval(found["local"]), *collect.interval(found["best_of_n"]), passes]


def calls_on_a_cpu():
    """Verifier calls of each control, and the most that an arm made."""
    (made,) = {s["calls"] for arm in ("random", "local", "best_of_n") for s in beside("trimul")[arm].values()}
    return [made, max(s["calls"] for arm in ALL for s in beside("trimul")[arm].values())]


def in_the_loop_and_again():
    """The highest score in the loop of any arm, and of any answer timed in full."""
    loop = max(f.run.metrics(g)["score"] for f in runs("trimul") for g in f.run.executed())
    return [loop, max(f.report["arms"][f.arm]["dev"] for f in runs("trimul"))]


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
    Claim(
        LAW,
        rf"both minus harness: {B}, weights minus harness: {B}",
        lambda: [*minus("lawbench", "W+H", "H"), *minus("lawbench", "W", "H")],
    ),
    Claim(
        LAW,
        rf"The aim, {N} for the best arm's mean, is missed by {N}; {W} of the {W} runs, of weights alone, is above it \({N}\)",
        lambda: aim("lawbench", 0.80),
    ),
    Claim(
        LAW,
        rf"the {W} answers have a macro accuracy of {N} in the mean, the best of each run's {W} best {N}, "
        rf"and the best that any run met {N}",
        chosen_at_the_end,
    ),
    Claim(
        LAW,
        rf"six stacked models have {N} where the space's most, three, have {N} \({N} \[{N}, {N}\]\), nine have {N}, "
        rf"nine reranked {N}; the vote of a run's five best has {N} in the mean, its answer {N}",
        wider_space,
    ),
    Claim(LAW, rf"Baseline {N}", lambda: sealed("lawbench", "baseline")[:1]),
    Claim(
        LAW,
        rf"of the {N} weight updates in the arm with both levers, the mean score of the policy's samples rose in {W}, "
        rf"from {N} to {N} before to {N} to {N} after, within {W} training steps, and fell in {W}\. {W} were kept",
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
    Claim(LAW, rf"on the same instances, {W} seeds each", lambda: plan("lawbench-half")[2:]),
    Claim(
        LAW,
        rf"first answer is worth {N} and its best of {N} calls {N}; with the improvement over a parent as the reward {N} and {N}\.",
        lambda: [
            lead("trained", "", 0, "lawbench-half")[0],
            64,
            lead("trained", "", 64, "lawbench-half")[0],
            *(lead("trained", "", k, "lawbench-improvement")[0] for k in (0, 64)),
        ],
    ),
    Claim(
        LAW,
        rf"stay ahead at {N} calls, by {B} and {B}; a local search from the policy's answers is level with them",
        lambda: [
            64 if all(level("trained_then_search", "search_from_saved", 64, name) for name in OTHERWISE) else -1,
            *(x for name in OTHERWISE for x in behind("trained", "search_from_saved", 64, name)),
        ],
    ),
    Claim(DEN, rf"Trained on {N} subsets, depths and simulated sets, tried on {W} others \({N} seeds\)", lambda: plan(CARRIED)),
    Claim(
        DEN,
        rf"the trained policy's answer is worth {N}, the untrained one's {N} \({B}\)",
        lambda: [
            *(lead(arm, "", 0, CARRIED)[0] for arm in ("trained", "untrained")),
            *lead("trained", "untrained", 0, CARRIED),
        ],
    ),
    Claim(
        DEN,
        rf"After {N} calls it leads local search from scratch by {B}; after {N} a local search from its answers still does, by {B}",
        lambda: [8, *lead("trained", "search", 8, CARRIED), 64, *lead("trained_then_search", "search", 64, CARRIED)],
    ),
    Claim(
        DEN,
        rf"ahead of the policy at {N} calls, by {B}, and at {N}, by {B}",
        lambda: [x for k in (0, 64) for x in (k, *behind("trained", "search_from_saved", k, CARRIED))],
    ),
    Claim(DEN, rf"by default {N} blood cells", cells),
    Claim(DEN, rf"{W} runs \({W} arms, {W} seeds, ", lambda: counts("denoising")),
    Claim(DEN, rf"{N} × {N} verifier calls\)", lambda: budget("denoising")),
    Claim(DEN, rf"that the {W} runs tried, {N} solutions pass it, and all {N} fail the right one", through_the_published_gate),
    Claim(DEN, rf"in means over {W} seeds", lambda: counts("denoising")[2:]),
    Claim(DEN, rf"MAGIC, which is the baseline, {N}", lambda: sealed("denoising", "baseline")[:1]),
    Claim(DEN, rf"harness {B}; weights {B}; both {B}", lambda: sealed("denoising", *ALL)),
    Claim(DEN, rf"{W} of {W} of the harness arm fails it, by {N} of the measure, and none of the others", failures),
    Claim(
        DEN,
        rf"Both minus harness is {B} as they stand, {B} where a failing answer counts as MAGIC's; the harness then has {B}",
        lambda: [*minus("denoising", "W+H", "H"), *both_minus_harness_behind_the_gate(), *behind_the_gate("H")],
    ),
    Claim(
        DEN,
        rf"is met by {W} of the {W} runs with both levers, the best at {N}, {N} times\. In the mean they come to {N} times, the "
        rf"harness to {N}, {N} with the failing answer",
        the_aim_of_denoising,
    ),
    Claim(
        DEN,
        rf"untouched by that choice: harness {N} \(fails the gate\) and {N}, weights {N} and {N}, both {N} and {N}",
        untouched_seeds,
    ),
    Claim(
        DEN,
        rf"Of the {N} weight updates with both levers {W} were kept; over all of them the mean score of the policy's samples rose in "
        rf"{W} and fell in {W}",
        lambda: [(told := learned("denoising", "W+H"))[0], told[-1], told[1], told[-2]],
    ),
    Claim(
        DEN,
        rf"In {W} of {W} seeds the first edit was rolled back, yet {W} of the {N} was trained through",
        unmasked_updates,
    ),
    Claim(
        DEN,
        rf"best values are level \({N} and {N}; at equal calls, harness minus both {B}\)",
        lambda: [*at_the_gates()[0], *lead_at_equal_calls()],
    ),
    Claim(DEN, rf"comes to {N} with the harness, to {N} with both", lambda: at_the_gates()[1]),
    Claim(
        DEN,
        rf"Of {N} calls the harness made {N} to {N}, both {N} to {N}, weights alone {N} to {N}",
        lambda: [
            budget("denoising")[0] * budget("denoising")[1],
            *(x for arm in ("H", "W+H", "W") for x in spent("denoising", arm)),
        ],
    ),
    Claim(DEN, rf"or nothing \(harness {B}, both {B}\)", from_dev_to_sealed),
    Claim(
        DEN,
        rf"harness updates {N} parameters, {N} of structure, {N} of post-processing; weight updates alone {N}, {N} and {N}",
        lambda: [*kinds("H", "harness"), *kinds("W", "weights")],
    ),
    Claim(
        DEN,
        rf"takes {N} s in the mean where an earlier one had the same graph, {N} s where none had, and {N} s by",
        lambda: [denoising_verdicts()["small"]["seconds"][k]["mean"] for k in ("graph shared", "not shared", "compiled source")],
    ),
    Claim(
        DEN,
        rf"\({N} × {N} counts, 2 cores, \); {N},000 × {N},000 counts take {N} to {N} s and {N} GB at most",
        large_denoising,
    ),
    *(Claim(CTL, rf"\| {name} \| {B} \| {B} \| {N} of {N} \|", lambda arm=arm: row(arm)) for name, arm in ROWS.items()),
    Claim(
        CTL,
        rf"Harness minus random draws, over {W} seeds: {B}, minus local search {B}; both levers minus random draws {B}",
        lambda: [
            len(beside("lawbench")["random"]),
            *(x for arm, other in (("H", "random"), ("H", "local"), ("W+H", "random")) for x in paired("lawbench", arm, other)),
        ],
    ),
    Claim(
        CTL,
        rf"it takes {N} s where a run of the harness takes {N} s",
        lambda: [seconds_of("local"), seconds_of("H")],
    ),
    Claim(
        CTL,
        rf"Both levers minus local search: {B}; harness minus local search: {B}, {B} where a failing answer counts as MAGIC's",
        lambda: [
            *paired("denoising", "W+H", "local"),
            *paired("denoising", "H", "local"),
            *behind_the_gate_minus("H", "local"),
        ],
    ),
    Claim(
        CTL,
        rf"better than the best of N \({B}\), the harness is as well \({B}\), weights alone are not beyond their interval \({B}\)",
        lambda: [x for arm in ("W+H", "H", "W") for x in paired("denoising", arm, "best_of_n")],
    ),
    Claim(CTL, rf"The controls made all of the {N} and {N} calls", all_calls),
    Claim(
        CTL,
        rf"over the {W} seeds that both have, on LawBench {B}, on denoising {B}",
        lambda: [
            len(beside("lawbench")["W shuffled"]),
            *paired("lawbench", "W", "W shuffled"),
            *paired("denoising", "W", "W shuffled"),
        ],
    ),
    Claim(CTL, rf"in {W} of the {W} runs of weights alone", answers_by_mutation),
    Claim(CTL, rf"differences below about {N} on LawBench and {N} on denoising", told_apart),
    Claim(TRI, rf"then {N} programs around the best", lambda: [kernel()["tried"]["programs"]]),
    Claim(TRI, rf"at every published shape with {W} seeds", lambda: [kernel()["seeds"]]),
    Claim(TRI, rf"over the {W} shapes", lambda: [len(kernel()["cases"])]),
    Claim(TRI, rf"uses {N} % of the tolerance", lambda: [100 * kernel()["worst"]["best"][0]]),
    Claim(TRI, rf"eager float32 \| {N} \| {N} \| {N} \|", lambda: timed("eager float32")),
    Claim(TRI, rf"eager TF32 \| {N} \| {N} \| {N} \|", lambda: timed("eager TF32")),
    Claim(TRI, rf"torch\.compile TF32 \| {N} \| {N} \| {N} \|", lambda: timed("compile TF32")),
    Claim(TRI, rf"the kit's best \| {N} \| {N} \| {N} \|", lambda: timed("best")),
    Claim(TRI, rf"The floor, {N} µs", lambda: [kernel()["means"]["best"]["floor"]]),
    Claim(
        TRI,
        rf"copying {N} TB/s, float16 products {N} TFLOP/s",
        lambda: [kernel()["rates"]["copy"] / 1e12, kernel()["rates"]["matmul"] / 1e12],
    ),
    Claim(TRI, rf"the best stands at {N} times the floor", lambda: [timed("best")[2] / kernel()["means"]["best"]["floor"]]),
    Claim(
        TRI,
        rf"the projections stand at {N}, the batched product at {N}, the output at {N}:",
        lambda: [times_its_floor(part) for part in ("project", "product", "output")],
    ),
    Claim(TRI, rf"at 384 channels {N} times their floor", lambda: [times_its_floor("project", "c384")]),
    Claim(TRI, rf"which is met by {N},", lambda: [1.6 - timed("best")[1]]),
    Claim(
        TRI,
        rf"of {N} steps × {N} verifier calls: baseline {N}, harness {N} \({W} seed; {N} µs\), both levers {N} \({W} seed\), "
        rf"weights alone {N} and {N} \({W} seeds,",
        lambda: [
            *budget("trimul_cuda"),
            *(sealed("trimul_cuda", arm)[0] for arm in ("baseline", "H")),
            len(of_arm("trimul_cuda", "H")),
            of_arm("trimul_cuda", "H")[0].report["arms"]["H"]["test"]["board_us"],
            *values("trimul_cuda", "W+H"),
            len(of_arm("trimul_cuda", "W+H")),
            *values("trimul_cuda", "W"),
            len(of_arm("trimul_cuda", "W")),
        ],
    ),
    Claim(
        TRI,
        rf"{N} steps × {N} calls in the space without early launches, both levers came to {N} and weights alone to {N},",
        earlier_on_a_gpu,
    ),
    Claim(TRI, rf"at {N} and at {N} says", lambda: values("trimul_cuda", "W")),
    Claim(TRI, rf"far ahead of what {N} calls find", most_calls_on_a_gpu),
    Claim(
        TRI,
        rf"Trained on {W} shapes in {N} to {N} verifier calls, tried on {W} others \({N} seeds, {N} cores with AMX\)",
        lambda: [
            plan("trimul-full")[0],
            *calls_of_training("trimul-full"),
            *plan("trimul-full")[1:],
            int(study("trimul-full")[0]["provenance"]["hardware"].split("(AMX), ")[1].split()[0]),
        ],
    ),
    Claim(
        TRI,
        rf"first answer runs at {N} times eager, the untrained policy's at {N} \({B}\), a uniform draw's at {N};",
        lambda: [
            *(lead(arm, "", 0, "trimul-full")[0] for arm in ("trained", "untrained")),
            *lead("trained", "untrained", 0, "trimul-full"),
            lead("random", "", 0, "trimul-full")[0],
        ],
    ),
    Claim(
        TRI,
        rf"after {N} calls uniform draws are ahead of it, {N} to {N}, by {B}",
        lambda: [
            8,
            *(lead(arm, "", 8, "trimul-full")[0] for arm in ("random", "trained")),
            *behind("trained", "random", 8, "trimul-full"),
        ],
    ),
    Claim(
        TRI,
        rf"are drawn \({W} arms, {W} seeds, {N} steps × {N} verifier calls\) were made on {N} cores with AMX each, all at once on one host of {N}\.",
        lambda: [
            *counts("trimul")[1:],
            *budget("trimul"),
            *map(int, re.findall(r"\), (\d+) of (\d+) cores", runs("trimul")[0].hardware)[0]),
        ],
    ),
    Claim(
        TRI,
        rf"harness {B}, both levers {B}, each beside a baseline of {N} to {N}\.",
        lambda: [*sealed("trimul", "H", "W+H"), *speed_of_the_baselines()],
    ),
    Claim(
        TRI,
        rf"Weights alone came to {N} and {N}, and to nothing in the third",
        lambda: sorted(v for v in values("trimul", "W") if v),
    ),
    Claim(
        TRI,
        rf"Of these {N} answers {N} multiply in two parts of bfloat16, and {W} of those fail the sealed test: at {N} channels they are off "
        rf"by {N} to {N} times what is allowed",
        too_coarse,
    ),
    Claim(
        TRI,
        rf"{W} answers come to one program, which passes {W} sealed tests and fails {W}; where it passes it is timed at {N} to {N},",
        one_program,
    ),
    Claim(TRI, rf"The controls made {N} calls where the arms made {N} at most", calls_on_a_cpu),
    Claim(TRI, rf"local search {B}, best of N {B}, random draws {N} once", kernel_controls),
    Claim(TRI, rf"timed at up to {N}, and at {N} at most when", in_the_loop_and_again),
    Claim(
        TRI,
        rf"harness {B}, weights {B}, both {B}\. Their",
        lambda: [x for arm in ALL for x in collect.interval([t["speedup"] for t in without_amx()[arm]])],
    ),
    Claim(TRI, rf"reference stands at {N} times the floor measured there", eager_by_its_floor),
    Claim(TRI, rf"stands at {N} times eager, the best of the fused passes at {N}, {N} times slower in", own_passes),
]

NO_FINDING = [  # numbers that no committed run holds, and why they are there
    (LAW, r"intervals are 95 %"),  # how the intervals are made
    (LAW, r"top-1"),  # a name
    (
        LAW,
        r"side by side on 26 cores without their GPUs, LawBench's seed 3 of|on 2 cores, the first transfer study on an H100, the others on an H200",
    ),  # see test_the_hardware_is_that_of_the_runs
    (LAW, r"with 16 cores, hours on two cores"),  # an estimate
    (DEN, r"In simulated cells the true rates score −0\.14"),  # of simulated cells, test_denoising_metrics
    (DEN, r"In simulated cells the \*true\* rates score −0\.14"),
    (DEN, r"their cube scores \.58"),
    (DEN, r"sets low values to 0"),
    (DEN, r"The aim, 2\.5 times MAGIC"),  # an aim
    (DEN, r"of seeds 0 to 2\. Seeds 3 and 4 are|Seeds 3 and 4 apart"),  # how a setting was chosen
    (CTL, r"a \(1\+1\) local search"),  # a name
    (CTL, r"with 95 % intervals"),  # how the intervals are made
    (CTL, r"top-1"),  # a name
    (CTL, r"notebook 05"),  # a name
    (CTL, r"about 6 hours on two cores"),  # an estimate, of `reference --list`
    (
        TRI,
        r"on one H200|an H200 of its own|is 1500 µs by|made on 2 cores|AVX-512|(tiles|parts) of bfloat16|product of float32",
    ),  # names
    (TRI, r"At most 1\.60 was asked|and 1\.30 in the best case"),  # aims
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


@pytest.mark.parametrize("name", [LAW, DEN, CTL, TRI])
def test_every_number_of_the_findings_has_a_rule(name):
    text = section(name)
    for pattern in [c.pattern for c in CLAIMS if c.section == name] + [p for s, p in NO_FINDING if s == name]:
        text = re.sub(pattern, " ", text)
    left = re.findall(r".{0,40}\d.{0,40}", text)
    assert left == [], f"no claim of this file recomputes the numbers in: {left}"


def test_the_hardware_is_that_of_the_runs():
    data, _ = study()
    every = (*runs("lawbench"), *runs("denoising"))
    others = {(f.run.config.task, f.arm, f.seed) for f in every if ", 26 of 32 cores, " not in f.hardware}
    assert others == {("lawbench", "W+H", 3)} and not any("NVIDIA" in f.hardware for f in every)
    assert ", 2 cores, " in next(f for f in of_arm("lawbench", "W+H") if f.seed == 3).hardware
    assert {f.hardware for f in runs("trimul")} == {"Intel(R) Xeon(R) Processor (AMX), 2 of 64 cores, 504 GiB"}
    assert "H100" in data["provenance"]["hardware"] and all("H200" in f.hardware for f in runs("trimul_cuda"))
    assert {e["hardware"].split(", ")[1] for e in (s for a in ("random", "local") for s in beside("lawbench")[a].values())} == {
        "2 cores",
        "26 of 32 cores",
    }
    said = (
        "made side by side on 26 cores without their GPUs, LawBench's seed 3 of both levers and some of its controls on 2 cores, "
        "the first transfer study on an H100, the others on an H200"
    )
    assert all("H200" in study(name)[0]["provenance"]["hardware"] for name in (*OTHERWISE, CARRIED, "trimul-full"))
    assert said in section(LAW)


def test_csv_of_figure_1_holds_the_numbers_of_the_readme(tmp_path):
    rows = collect.rows("lawbench", [], list(runs("lawbench")))
    said = re.search(rf"harness {B}", section(LAW)).groups()
    row = next(r for r in rows if r["arm"] == "H" and r["seeds"] == len(values("lawbench", "H")))
    assert all(agrees(w, row[k]) for w, k in zip(said, ("value", "low", "high"), strict=True))
