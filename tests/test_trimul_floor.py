"""The floor by hand, the speed-up's formula and its error, CUDA's clocks where there is a GPU."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_nb.tasks.trimul.floor import floor_us, geometric_mean, measure_rates, passes
from sia_nb.tasks.trimul.judge import Timing, speedup
from sia_nb.tasks.trimul.reference import BENCHMARK, case


def test_bytes_and_operations_by_hand():
    found = passes(case(2, 3, 5, hidden=7))
    rows = 12
    assert found["project"] == (rows * (5 * 4 + 4 + 3 * 7 * 2), rows * 5 * 7 * 5 * 2)
    assert found["product"] == (3 * rows * 7 * 2, 3 * 2 * 2 * 2 * 7 * 2)
    assert found["output"] == (rows * (2 * 7 * 2 + 5 * 4), rows * 7 * 5 * 2)
    assert passes(case(2, 3, 5, hidden=7), 4)["product"][0] == 3 * rows * 7 * 4


def test_each_pass_takes_the_longer_of_moving_and_computing():
    rates = {"copy": 4.26e12, "matmul": 783e12}
    wide, narrow = floor_us(BENCHMARK[6], rates), floor_us(BENCHMARK[4], rates)
    # measured on an H200 with these rates: 658, 351, 504 µs and 315, 351, 252 µs
    assert [round(wide[p]) for p in ("project", "product", "output")] == pytest.approx([658, 351, 504], rel=0.02)
    assert [round(narrow[p]) for p in ("project", "product", "output")] == pytest.approx([315, 351, 252], rel=0.02)
    assert wide["total"] == wide["project"] + wide["product"] + wide["output"]


def test_rates_of_this_machine():
    rates = measure_rates("cpu")
    assert 1e8 < rates["copy"] < 1e13 and 1e8 < rates["matmul"] < 1e15


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9), st.floats(0.1, 10))
def test_the_geometric_mean(values, factor):
    assert geometric_mean(values) == pytest.approx(math.prod(values) ** (1 / len(values)), rel=1e-6)
    assert geometric_mean([v * factor for v in values]) == pytest.approx(factor * geometric_mean(values))


def test_overhead_is_taken_off_both_sides():
    timing = Timing(case(2, 1, 2), [0.011, 0.021], [0.006, 0.001], 0.001)
    assert timing.log_ratios == pytest.approx([(math.log(2) + math.log(0.02 / 0.0001)) / 2])  # of two turns, each first once


def taken(log_ratios: list[float]) -> Timing:
    """Timing of turns in which the candidate took a second and the reference as much longer as the logarithms say."""
    return Timing(case(2, 1, 2), [math.exp(r) for r in log_ratios], [1.0] * len(log_ratios), 0.0)


def test_the_speedup_by_hand():
    value, se = speedup([taken([math.log(2)] * 6), taken([math.log(8)] * 10)])
    assert value == pytest.approx(4) and se == pytest.approx(0, abs=1e-9)
    assert speedup([taken([0.5, 0.5])]) == (pytest.approx(math.exp(0.5)), math.inf)
    value, se = speedup([taken([0.5, 0.3]), taken([0.9, 0.5])])  # half their differences: .1, .2
    assert value == pytest.approx(math.exp(0.55)) and se == pytest.approx(value * math.sqrt(2 * 0.005) / 2)


def test_what_going_first_costs_is_no_error():
    assert speedup([taken([0.5, 0.3] * 3), taken([0.9, 0.7] * 3)])[1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("turns", [2, 4, 30])
def test_the_error_is_that_of_repeated_measurements(turns):
    draw = random.Random(1)
    runs = [speedup([taken([draw.gauss(m, 0.1) for _ in range(turns)]) for m in (0.2, 0.6, 1.0)]) for _ in range(400)]
    mean = sum(v for v, _ in runs) / len(runs)
    spread = math.sqrt(sum((v - mean) ** 2 for v, _ in runs) / (len(runs) - 1))
    assert mean == pytest.approx(math.exp(0.6), rel=0.02)
    assert sum(e for _, e in runs) / len(runs) == pytest.approx(spread, rel=0.2)
