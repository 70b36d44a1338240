"""The lesson on the loop: what it reads from a committed run, its noise against the verifier's, and what its checks say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_nb.lessons import loop, loop_checks
from sia_nb.tasks.lawbench.verifier import macro, macro_se


@pytest.fixture(scope="module")
def run():
    return loop.open_run()


def made(seed: int, charges: int, most: int, agree: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits of two answers that agree on a share of the texts, with their labels; the first charge has one text."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(charges), [1, *rng.integers(2, most, charges - 1)])
    a = rng.random(len(labels)) < 0.6
    b = np.where(rng.random(len(labels)) < agree, a, rng.random(len(labels)) < 0.5)
    return a.astype(float), b.astype(float), labels


@pytest.fixture
def pair():
    a, b, labels = made(3, 12, 9, 0.6)
    return loop.Pair(a, b, labels, (8, 5), macro_se(list(a - b), list(labels)), 0.0)


@given(st.integers(0, 10**6), st.integers(2, 20), st.integers(3, 12), st.floats(0, 1))
def test_the_noise_by_hand_is_the_verifiers(seed, charges, most, agree):
    a, b, labels = made(seed, charges, most, agree)
    assert loop.standard_error(a - b, labels) == pytest.approx(macro_se(list(a - b), list(labels)), abs=1e-12)
    assert loop.macro(a, labels) == pytest.approx(macro(list(a > 0), list(labels)), abs=1e-12)


def test_the_table_does_not_tell_what_was_kept(run):
    table = loop.steps(run)
    assert list(table.index) == list(range(1, 9)) and list(table["lever"]) == ["A_1", "H", "H", "H", "W", "H", "W", "H"]
    assert not table["change"].str.contains("step").any() and "note" not in table


def test_incumbents_by_the_right_rule_and_by_those_it_is_mistaken_for(run):
    right = loop.incumbents(run)
    assert right == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 5, 7: 5, 8: 8}
    assert loop.incumbents(run, "last") == {g: g for g in right}
    assert loop.incumbents(run, "any") == {**right, 7: 7}
    assert loop.incumbents(run, "previous") == {**right, 8: 5}


PLACES = {symbol: file for symbol, (file, _) in loop.PLACES.items()}


@pytest.mark.parametrize(
    "answer, says",
    [
        (PLACES, "right"),
        ({**PLACES, "tau_g": ...}, "'tau_g' is still open"),
        ({**PLACES, "E_g": "trajectory.jsonl"}, "E_g is the numbers"),
        ({**PLACES, "E_g": "trajectory.jsonl"}, "tau_g: every event"),
        ({**PLACES, "A_g": "agent.py"}, "no file 'agent.py'"),
        ({**PLACES, "decision": "improvement.md"}, "made beside these"),
        ("agent.py", "expected a dict"),
    ],
)
def test_exercise_1_says_what_is_wrong(answer, says, run, capsys):
    assert loop_checks.check_places(run, 5, answer) == (says == "right")
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer, says",
    [
        ("noise", "right"),
        ("any", "compare it with the noise"),
        ("last", "you take every step"),
        ("previous", "what was rolled back is no rival"),
        ({3: 2}, "step 3: +0.0102 against step 2, the incumbent, is more than the noise, 0.0071"),
        ({7: 7, 3: 2}, "step 3:"),
        ({4: 9}, "after step 4: 9 is none"),
        ({5: "5"}, "'5' is none of the steps"),
        ({5: ...}, "5 is still open"),
    ],
)
def test_exercise_2_says_what_is_wrong(answer, says, run, capsys):
    given_ = loop.incumbents(run, answer) if isinstance(answer, str) else {**loop.incumbents(run), **answer}
    assert loop_checks.check_incumbents(run, given_) == (says == "right")
    assert says in capsys.readouterr().out


def by_charge(values, labels, ddof=1, pool=True, mean=True):
    groups = [values[labels == k] for k in np.unique(labels)]
    pooled = sum(((g - g.mean()) ** 2).sum() for g in groups) / sum(len(g) - 1 for g in groups)
    lone = (pooled if pool else 0.0,)
    total = sum((g.var(ddof=ddof) if len(g) > 1 else lone[0] * (ddof == 1)) / len(g) for g in groups)
    return np.sqrt(total) / (len(groups) if mean else 1)


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda a, b, y: by_charge(a - b, y), "right"),
        (lambda a, b, y: None, "returns nothing"),
        (lambda a, b, y: by_charge(a, y) + 1 / 0, "ZeroDivisionError"),
        (lambda a, b, y: a - b, "expected one number"),
        (lambda a, b, y: np.hypot(by_charge(a, y), by_charge(b, y)), "text by text first"),
        (lambda a, b, y: loop.macro(a, y) - loop.macro(b, y), "that is the gain"),
        (lambda a, b, y: (a - b).std(ddof=1) / np.sqrt(len(a)), "plain mean over texts"),
        (lambda a, b, y: (a - b).std(), "spread of single texts"),
        (lambda a, b, y: by_charge(a - b, y, ddof=0), "ddof=1"),
        (lambda a, b, y: by_charge(a - b, y, pool=False), "charges with one text count"),
        (lambda a, b, y: by_charge(a - b, y, mean=False), "divide by the number of charges"),
        (lambda a, b, y: by_charge(a - b, y) ** 2, "take its root"),
        (lambda a, b, y: float("nan"), "no variance of its own"),
        (lambda a, b, y: 12.0, "begin with d = a − b"),
    ],
)
def test_exercise_3_says_what_is_wrong(answer, says, pair, capsys):
    assert loop_checks.check_noise(answer, pair) == (says == "right")
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    "step, worth, lever, says",
    [
        (6, {"harness": 0, "weights": 6.06}, "weights", "right"),
        (5, {"harness": 14.16, "weights": 6.06}, "harness", "right"),
        (6, {"harness": 0, "weights": 6.06}, ..., "now say which lever"),
        (6, {"harness": 0, "weights": 6.06}, "harness", "pulled weights"),
        (6, {"harness": 3, "weights": 6.06}, "weights", "it is worth 0"),
        (7, {"harness": 0, "weights": 2.7}, "harness", "no more than its noise"),
        (6, {"harness": 0, "weights": 0.0606}, "weights", "give it for 100"),
        (6, {"harness": 0, "weights": 0.02433}, "weights", "divide by the noise"),
        (6, {"harness": 0, "weights": 1.576}, "weights", "paid with 26 verifier calls"),
        (6, {"harness": 0, "weights": 9}, "weights", "expected 6.06"),
        (6, {"harness": 0, "weights": "much"}, "weights", "weights gives str"),
        (6, {"harness": 0}, "weights", "'weights' is still open"),
    ],
)
def test_exercise_4_says_what_is_wrong(step, worth, lever, says, run, capsys):
    assert loop_checks.check_worth(run, step, worth, lever) == (says == "right")
    assert says in capsys.readouterr().out


@pytest.mark.slow
def test_answers_scored_anew_are_those_of_the_committed_run(run, lawbench_data):
    pair = loop.pair(run, 2, 1)
    assert pair.gain == pytest.approx(0.511, abs=0.005) and pair.noise == pytest.approx(pair.recorded, abs=5e-4)
    assert loop.agreement(pair).sum() == len(pair.labels)
    assert loop.intervals(pair)["paired, text by text"] == pytest.approx(pair.noise)
