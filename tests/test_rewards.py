"""The statistics of the policy's own rewards, against a count by hand and against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from stories import Story, lever

from sia_nb.agents.reading import Reading
from sia_nb.agents.rewards import gain_a_call, of_proposals, proposals, structured
from sia_nb.trajectory import Trajectory


def test_what_counts_as_a_reward():
    story = Story()
    unread = story.answer("no idea")
    story.answer("a", "A")
    story.answer("a again", "A")
    story.answer("b", "B")
    story.answer("never scored", "C")
    story.add("response", sample=0, index=0, text="never looked at", tokens=5, stop="end", logprob=-1.0)
    first = story.verdict("A", 0.5)
    story.verdict("A", 0.5, again=True)
    failed = story.verdict("B", 0.9, failure="crash")
    story.verdict("by code", 0.8)
    tau = story.end()
    known = proposals(Reading(tau, {}))
    assert [(p.event, p.reward) for p in known] == [(unread, 0.0), (first, 0.5), (first, 0.5), (failed, 0.0)]
    seen = of_proposals(tau, {})
    assert (seen["n"], seen["zero_share"], seen["mean"], seen["best"]) == (4, 0.5, 0.25, 0.5)
    assert seen["sd"] == pytest.approx((4 * 0.0625 / 3) ** 0.5) and seen["skew"] == pytest.approx(0.0)
    assert (seen["levels"], seen["scored"], seen["distinct_share"]) == (2, 2, 0.75)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_moments_are_those_of_numpy_and_scipy(rewards):
    story = Story()
    for i, reward in enumerate(rewards):
        story.answer(f"text {i}", str(i))
        story.verdict(str(i), reward)
    seen = of_proposals(story.end(), {})
    assert seen["n"] == len(rewards) and seen["distinct_share"] == 1.0
    assert seen["mean"] == pytest.approx(np.mean(rewards)) and seen["best"] == max(rewards)
    assert seen["zero_share"] == pytest.approx(np.mean(np.array(rewards) <= 0))
    if np.std(rewards) > 1e-6:
        assert seen["sd"] == pytest.approx(np.std(rewards, ddof=1))
        assert seen["skew"] == pytest.approx(stats.skew(rewards), rel=1e-6, abs=1e-6)


def test_equal_rewards_have_no_spread_and_no_skew():
    story = Story()
    for i in range(5):
        story.answer(f"text {i}", str(i))
        story.verdict(str(i), 0.1)
    seen = of_proposals(story.end(), {})
    assert (seen["sd"], seen["skew"], seen["levels"]) == (0.0, 0.0, 1)


def test_nothing_sampled_is_all_zero():
    assert set(of_proposals(Trajectory([]), {}).values()) == {0.0}


def test_structured_looks_at_the_last_sample():
    story = Story()
    assert not structured(story.end())
    for masked in (True, False, True):
        story.add("sample", messages=[], n=1, temperature=1.0, max_tokens=9, grammar=masked)
        assert structured(Trajectory(story.events)) is masked


def test_gain_counts_in_noise_units_for_a_call_and_only_above_the_noise():
    assert gain_a_call(lever(0.02, 0.01, 20)) == pytest.approx(2 / 20)
    assert gain_a_call(lever(0.02, 0.01, 40)) == pytest.approx(2 / 40)
    assert gain_a_call(lever(0.01, 0.01, 20)) == gain_a_call(lever(-0.1, 0.0, 20)) == gain_a_call(None) == 0.0
    assert gain_a_call(lever(0.2, 0.0, 0)) == pytest.approx(200)
