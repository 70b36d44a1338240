"""The lesson on honest evaluation: what it reads from the committed runs, what it measures, and what its checks say."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import t

from sia_nb.errors import StoreError
from sia_nb.lessons import honest_evaluation as he
from sia_nb.lessons import honest_evaluation_checks as checks
from sia_nb.tasks.denoising import gates
from sia_nb.tasks.denoising.metrics import Yardstick
from sia_nb.tasks.denoising.split import Split
from sia_nb.view.collect import interval


@pytest.fixture(scope="module")
def bench():
    return he.Bench(0)


@pytest.fixture(scope="module")
def tried():
    return he.trials("denoising")


@pytest.fixture(scope="module")
def programs(tried):
    return he.programs_of(tried, "H", 0)[::28]


def test_the_verdicts_made_anew_are_those_that_the_run_recorded(bench, tried, programs):
    recorded = tried[(tried["arm"] == "H") & (tried["seed"] == 0)].set_index("program")["value"]
    assert len(programs) == 10 and recorded[programs].max() > 0.1
    for program in programs:
        assert bench.verdict(program).value == pytest.approx(recorded[program], abs=1e-6)


def test_trials_are_distinct_numbered_from_one_and_carry_the_best_so_far(tried):
    for _, run in tried.groupby("run"):
        assert list(run["call"]) == list(range(1, len(run) + 1))
        assert list(run["best"]) == list(itertools.accumulate(run["value"], max))
        assert run["program"].is_unique
    assert set(zip(tried["arm"], tried["seed"], strict=True)) == set(itertools.product(("H", "W", "W+H"), range(5)))


def test_reports_are_those_of_the_run_folders():
    for task, name in he.ON_DEV.items():
        table = he.reported(task)
        for row, run in zip(table.itertuples(), he.runs(task), strict=True):
            told = run.report["arms"][run.arm]
            assert (row.arm, row.seed, row.dev, row.calls) == (run.arm, run.seed, told["dev"], told["verifier_calls"])
            assert row.test == told["test"][name]


def test_a_run_that_is_not_there_is_named():
    with pytest.raises(StoreError, match="arm H and seed 7"):
        he.comparison("denoising", "H", 7)


def test_values_on_some_of_the_cells_are_the_verdicts_on_a_split_of_those_cells(bench, programs):
    made = he.halves(bench, he.judged_cells(bench, programs), 40, repeats=1, seed=3)
    cells = np.random.default_rng(3).permutation(bench.split.train.shape[0])
    for side, chosen in ((made.dev, cells[:40]), (made.rest, cells[40:])):
        part = Split(bench.split.train[chosen], bench.split.test[chosen])
        yardstick = Yardstick(part)
        yardstick.factor = bench.yardstick.factor  # the scale of the whole split
        ours = {name: {n: v[chosen] for n, v in getattr(bench.yardstick, name).items()} for name in ("none", "perfect")}
        yardstick.none, yardstick.perfect = ours["none"], ours["perfect"]
        some = lambda m, at=chosen, y=yardstick: y.recall({name: v[at] for name, v in m.cells.items()})
        gate = gates.Gate("poisson_norm", some(bench.magic).poisson_norm, soft=True)
        wanted = [gate.judge(some(bench.measures(p))).value for p in programs]
        assert side[:, 0] == pytest.approx(wanted, abs=1e-9)


def test_optimism_grows_with_the_choice_and_shrinks_with_the_data(bench, tried):
    gains = he.judged_cells(bench, he.programs_of(tried, "H", 0)[100::4])
    table = he.selection(bench, gains, (20, 175), (1, gains.shape[1])).set_index(["cells", "k"])
    k = gains.shape[1]
    assert table.loc[(20, k), "optimism"] > table.loc[(175, k), "optimism"] + 0.001
    assert table.loc[(20, k), "optimism"] > table.loc[(20, 1), "optimism"] + 0.001
    assert (table["oracle"] >= table["rest"] - 1e-12).all()


def test_random_search_draws_distinct_programs_and_is_the_same_twice(bench):
    first, again = (bench.draw(6, seed=1) for _ in range(2))
    assert first.equals(again) and first["program"].is_unique and first["best"].is_monotonic_increasing


def test_arms_are_compared_at_equal_calls(tried, bench):
    random = bench.draw(6, seed=1)
    table = he.compared(tried, {0: random}, 3)
    own = tried[(tried["arm"] == "H") & (tried["seed"] == 0)]
    assert table.loc[0, "loop"] == own["value"][:3].max() and table.loc[0, "random"] == random["value"][:3].max()


NOISE = np.random.default_rng(5)  # one stream, so that no two calls agree


def simulated(k, se, *, pick=lambda x: x.max(axis=1).mean(), width=lambda se: se):
    return pick(np.random.default_rng(0).normal(0, width(se), (20_000, k)))


@pytest.mark.parametrize(
    "answer, says",
    [
        (simulated, "right"),
        (lambda k, se: simulated(k, se, width=lambda se: 1.0), "standard deviation 1"),
        (lambda k, se: simulated(k, se, width=lambda se: se**2), "not a variance"),
        (lambda k, se: simulated(k, se, width=np.sqrt), "not a variance"),
        (lambda k, se: simulated(k, se, pick=np.mean), "take the best of the k"),
        (lambda k, se: NOISE.normal(0, se, 3 * k).max() * 3, "average over many"),
        (lambda k, se: se * math.sqrt(2 * math.log(k)), "√(2 ln k)"),
        (lambda k, se: simulated(k, se) + (se if k == 1 else 0), "nothing is chosen"),
        (lambda k, se: se * 0.8, "expected about"),
        (lambda k, se: None, "returns nothing"),
        (lambda k, se: [1, 2], "expected one number"),
    ],
)
def test_exercise_1_says_what_is_wrong(answer, says, capsys):
    assert checks.check_noise(answer) == (says == "right")
    assert says in capsys.readouterr().out


def winners(dev, rest):
    column = np.arange(dev.shape[1])
    return dev[dev.argmax(axis=0), column], rest[dev.argmax(axis=0), column], rest[rest.argmax(axis=0), column]


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda d, r: (winners(d, r)[0] - winners(d, r)[1]).mean(), "right"),
        (lambda d, r: (winners(d, r)[1] - winners(d, r)[0]).mean(), "sign is turned"),
        (lambda d, r: (d.max(axis=0) - r.max(axis=0)).mean(), "a seal is there"),
        (lambda d, r: (d - r).mean(), "nothing was chosen"),
        (lambda d, r: winners(d, r)[0].mean(), "subtract what it has on the rest"),
        (lambda d, r: winners(d, r)[1].mean(), "on dev"),
        (lambda d, r: d.max() - r.flat[d.argmax()], "one winner for all"),
        (lambda d, r: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_exercise_2_says_what_is_wrong(answer, says, capsys):
    halves = he.Halves(*np.random.default_rng(0).random((2, 5, 9)))
    assert checks.check_optimism(answer, halves) == (says == "right")
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda a, b: np.std(a - b, ddof=1) / np.sqrt(len(a)), "right"),
        (lambda a, b: np.hypot(np.std(a, ddof=1), np.std(b, ddof=1)) / np.sqrt(len(a)), "cells of its own"),
        (lambda a, b: np.std(a - b, ddof=1), "a √n-th"),
        (lambda a, b: np.var(a - b, ddof=1) / len(a), "take the root"),
        (lambda a, b: np.std(a - b) / np.sqrt(len(a)), "ddof=1"),
        (lambda a, b: abs(np.std(a, ddof=1) - np.std(b, ddof=1)) / np.sqrt(len(a)), "not their spreads"),
        (lambda a, b: 0.0, "expected"),
    ],
)
def test_exercise_3_says_what_is_wrong(answer, says, bench, capsys):
    pair = he.comparison()
    a, b = (bench.verdict(pair[name]).influence for name in ("program", "incumbent"))
    assert checks.check_paired_se(answer, a, b, pair["noise"]) == (says == "right")
    assert says in capsys.readouterr().out


def half(values, *, at=0.975, less=1, ddof=1, root=True, quantile=None):
    n = len(values)
    factor = quantile or t.ppf(at, n - less)
    return factor * np.std(values, ddof=ddof) / (np.sqrt(n) if root else 1)


def around(values, **how):
    return np.mean(values) - half(values, **how), np.mean(values) + half(values, **how)


@pytest.mark.parametrize(
    "answer, says",
    [
        (around, "right"),
        (lambda v: around(v, quantile=1.96), "1.96 is for many values"),
        (lambda v: around(v, root=False), "where single seeds lie"),
        (lambda v: around(v, ddof=0), "ddof=1"),
        (lambda v: around(v, at=0.95), "on each side"),
        (lambda v: around(v, less=0), "degrees of freedom"),
        (lambda v: around(v, quantile=1.0), "one standard error"),
        (lambda v: around(v)[::-1], "wrong way round"),
        (lambda v: (0.0, half(v)), "the middle of your interval"),
        (lambda v: interval(list(v)), "array of shape 3; expected an array of shape 2"),
    ],
)
def test_exercise_4_says_what_is_wrong(answer, says, capsys):
    assert checks.check_interval(answer) == (says == "right")
    assert says in capsys.readouterr().out


def best_at(tried, calls):
    return max(dict(reversed(tried))[p] for p in list(dict.fromkeys(p for p, _ in tried))[:calls])


@pytest.mark.parametrize(
    "answer, says",
    [
        (best_at, "right"),
        (lambda tried, calls: max(v for _, v in tried[:calls]), "costs no call"),
        (lambda tried, calls: max(v for _, v in tried), "past the budget"),
        (lambda tried, calls: list(dict(tried).values())[min(calls, 4) - 1], "take the best so far"),
        (lambda tried, calls: best_at(tried, calls) if len(tried) < 9 else 0.0, "right for a short list"),
        (lambda tried, calls: "b", "gives str"),
    ],
)
def test_exercise_5_says_what_is_wrong(answer, says, capsys):
    assert checks.check_best_at(answer, he.asked("denoising", "W", 0)) == (says == "right")
    assert says in capsys.readouterr().out


def test_three_seeds_need_students_t():
    assert he.coverage(around, 3) == pytest.approx(0.95, abs=0.015)
    assert he.coverage(lambda v: around(v, quantile=1.96), 3) < 0.85
