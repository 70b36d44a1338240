"""PUCT state reuse, against the formula worked by hand and a simulation."""

import json
import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_nb.training import buffer
from sia_nb.training.buffer import Buffer


def child(name, score):
    return {"solution": name, "score": score}


def test_scores_are_the_formula():
    b = Buffer([child("a", 0.5)])
    b.add("a", [child("b", 0.7), child("c", 0.2)], rollouts=4)
    b.add("b", [child("d", 0.6)], rollouts=3)
    # ranks: b .7, d .6, a .5, c .2, root 0; found are b, d, c: scale .7 - .2
    explore = 0.5 * math.sqrt(1 + 7)
    by_hand = {
        "b": 0.7 + explore * 5 / 15 / (1 + 3),
        "d": 0.6 + explore * 4 / 15 / 1,
        "a": 0.7 + explore * 3 / 15 / (1 + 7),
        "c": 0.2 + explore * 2 / 15 / 1,
        "": 0.0 + explore * 1 / 15 / 1,
    }
    assert b.scores() == pytest.approx(by_hand)


def test_a_good_state_is_not_abandoned_for_its_poor_children():
    b = Buffer([child("good", 0.9)])
    b.add("good", [child(f"poor{i}", 0.01 * i) for i in range(8)], rollouts=8)
    assert b.states["good"].q == 0.9
    assert b.states["good"].best_child == 0.07
    assert b.pick(1)[0].solution == "good"


def test_a_better_child_raises_its_parent_but_not_its_grandparent():
    b = Buffer([child("a", 0.1)])
    b.add("a", [child("b", 0.2)], 1)
    b.add("b", [child("c", 0.9)], 1)
    assert (b.states["a"].q, b.states["b"].q, b.states["c"].q) == (0.2, 0.9, 0.9)


def test_two_children_a_group_and_no_duplicates():
    b = Buffer()
    b.add("", [child("a", 0.1), child("b", 0.3), child("c", 0.2), child("b", 0.3)], 4)
    assert sorted(b.states) == ["", "b", "c"]
    b.add("b", [child("c", 0.2), child("b", 0.3), child("d", 0.1)], 3)
    assert sorted(b.states) == ["", "b", "c", "d"] and b.states["c"].parent == ""


def test_failures_count_as_visits():
    b = Buffer([child("a", 0.5)])
    b.add("a", [], rollouts=5)
    assert b.rollouts == 5 and b.states["a"].visits == 5 and b.states[""].visits == 0


def test_a_batch_leaves_out_the_lineage_of_what_it_picked():
    b = Buffer([child("a", 0.9), child("z", 0.1)])
    b.add("a", [child("b", 0.95)], 1)
    b.add("b", [child("c", 0.97)], 1)
    picked = [s.solution for s in b.pick(2)]
    assert len({"a", "b", "c"} & set(picked)) == 1
    assert len(b.pick(9)) == 9


def test_capacity_keeps_the_given_and_the_best(monkeypatch):
    monkeypatch.setattr(buffer, "CAPACITY", 4)
    b = Buffer([child("given", 0.0)])
    for i in range(6):
        b.add("given", [child(f"s{i}", i / 10)], 1)
    assert set(b.states) == {"", "given", "s5", "s4"}


def test_a_state_that_was_dropped_and_found_again_below_itself_ends_the_walk(monkeypatch):
    b = Buffer()
    b.add("", [child("a", 0.1)], 1)
    b.add("a", [child("b", 0.2)], 1)
    b.states["a"].parent = "b"
    b.add("a", [], 1)
    assert b.states["b"].visits == 1


@given(st.integers(0, 10**6))
def test_a_buffer_read_back_goes_on_alike(seed):
    rng, b = Random(seed), Buffer([child("g", 0.3)])
    for i in range(12):
        parent = b.pick(1)[0].solution
        b.add(parent, [child(f"{i}.{j}", rng.random()) for j in range(rng.randrange(4))], 4)
    again = Buffer.from_dict(json.loads(json.dumps(b.to_dict())))
    assert again.scores() == b.scores()
    assert [s.solution for s in again.pick(5)] == [s.solution for s in b.pick(5)]


def test_search_with_it_finds_the_optimum_of_a_hill():
    """Mutating picked states climbs a one-dimensional hill, from its foot at 0.3 to its top."""
    rng, b = Random(0), Buffer()
    worth = lambda x: -abs(int(x) - 700) / 1000 + 1
    for _ in range(120):
        s = b.pick(1)[0].solution
        at = int(s) if s else 0
        children = [str(max(0, at + rng.randint(-20, 20))) for _ in range(4)]
        b.add(s, [child(c, worth(c)) for c in children], 4)
    assert max(s.value for s in b.states.values()) > 0.99
