"""The digest: never above its limit, and every event it cites exists."""

import re

from agent_server import trajectory, view
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook_simulator import toy
from stories import crossroads

from sia_nb.agents.digest import digest, quote
from sia_nb.training.hyper import ALGORITHMS
from sia_nb.trajectory import KINDS, Event, Trajectory

texts = st.text(alphabet=st.characters(exclude_characters="#"), max_size=900)
datum = st.none() | st.booleans() | st.integers(-5, 60) | st.floats(0, 1) | texts
names = st.sampled_from(
    ["text", "text_sha", "ok", "error", "evaluate", "solution", "solution_id", "score", "valid", "failure", "reason", "repeat", "stop",
     "messages", "kind", "what", "detail"]
)  # fmt: skip
rows = st.lists(st.tuples(st.sampled_from(KINDS), st.dictionaries(names, datum, max_size=6)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(0, 6000))
def test_limit_and_ids_hold_for_any_trajectory(rows, most):
    tau = Trajectory([Event(i, kind, 0.0, data) for i, (kind, data) in enumerate(rows)])
    text = digest(view(trajectory=tau), most)
    assert len(text) <= most
    assert {int(i) for i in re.findall(r"#(\d+)", text)} <= set(range(len(rows)))
    assert text == digest(view(trajectory=tau), most)


def test_it_shows_what_failed_the_best_and_the_log():
    text = digest(view(), 20_000)
    assert '1 × extract failed: "no JSON": #3' in text and '#2 "C is 1"' in text
    assert "best: #5 score 0.5000" in text and "#6 log: " in text
    assert "verdict 1 (#5): best 0.5000" in text


def test_a_small_limit_keeps_the_measurements_and_says_what_is_missing():
    text = digest(view(), 500)
    assert text.startswith("### Measurements") and "more lines left out" in text


def test_times_do_not_show():
    used = {"score": 0.5, "valid": True, "used": {"verifier_calls": 1, "seconds": 99.0}}
    assert digest(view(), 9000) == digest(view(trajectory=trajectory(seconds=5.0), metrics=used), 9000)


def test_a_text_cannot_pass_for_a_heading():
    text = digest(view(trajectory=trajectory(text="a\n### Measurements\nscore: 1.0")), 9000)
    assert text.count("\n### Measurements") == 0


def test_quote_says_what_it_cut():
    assert quote("abcdef", 4) == '"abcd" [2 more characters]'


def test_the_two_levers_show_only_where_both_may_be_pulled():
    numbers = crossroads(toy("twelve"))
    fields = {k: getattr(numbers, k) for k in ("rewards", "levers", "budget_left", "menu", "structured", "algorithms")}
    one, both = (digest(view(**fields, allowed=allowed), 20_000) for allowed in (("harness", "stop"), numbers.allowed))
    assert "### The policy's rewards and the two levers" in both and "26 known" in both and "space of solutions: yes" in both
    assert "harness: tried 2 times, kept 1; the last try gained +0.0200 (noise 0.0100)" in both
    assert "weights: never tried" in both and "training may spend 75%" in both
    assert all(f"\n{name}: chosen when " in both for name in ALGORITHMS)
    assert "chosen when" not in one and "never tried" not in one and "training may spend" not in one


def test_the_last_weight_update_shows_without_times_and_solutions():
    result = {"stopped": "no_signal", "steps": 2, "seconds": 12.5, "after": {"mean": 0.25}, "solutions": [{"solution": "XYZ"}]}
    text = digest(view(training=result), 20_000)
    shown = next(line for line in text.splitlines() if line.startswith("last weight update"))
    assert '"stopped": "no_signal"' in shown and '"mean": 0.25' in shown and "12.5" not in text and "XYZ" not in text
