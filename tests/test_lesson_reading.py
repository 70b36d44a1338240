"""The lesson on reading a trajectory: its counts against the runs' own, and what its checks say."""

import json

import pytest

from sia_nb.lessons import reading, reading_checks
from sia_nb.store import find_run
from sia_nb.trajectory import Trajectory, text_sha

A, B, C = reading.CASES


@pytest.mark.parametrize("name", sorted({name for name, _ in reading.CASES.values()}))
def test_counts_agree_with_what_the_gateway_counted(name):
    run = find_run(name)
    for step, row in reading.by_step(run).iterrows():
        metrics = run.metrics(step)
        assert row["refused"] == sum(metrics["counts"]["failures"].values())
        assert row["repeats"] == metrics["counts"]["repeats"]
        assert row["unreadable"] == metrics["counts"]["not_extracted"]
        assert row["unused"] == 26 - metrics["used"]["verifier_calls"]
        assert row["answers"] == metrics["counts"]["responses"]


def test_the_three_cases_fail_in_three_ways():
    worst = {c: max(reading.MODES[:3], key=lambda m: reading.failures(reading.trajectory(c))[m]) for c in reading.CASES}
    assert worst == {"A": "unreadable", "B": "refused", "C": "repeats"}
    for letter, mode in worst.items():
        n, of = reading.share(reading.trajectory(letter), mode)
        assert n > of / 2


def test_events_of_any_kind_have_their_line():
    for letter in reading.CASES:
        table = reading.events(reading.trajectory(letter))
        assert table["says"].str.len().between(1, 160).all()
    assert "repeat" in reading.events(reading.trajectory("C"), "verdict").loc[18, "says"]
    assert list(reading.events(Trajectory([])).columns) == ["kind", "says"]


def of(tau, kind, **wanted):
    return [e.id for e in tau.of(kind) if all(e.data.get(k) == v for k, v in wanted.items())]


def not_read(tau):
    """Also those that nobody tried to read."""
    good = {e.data["text_sha"] for e in tau.of("extract") if e.data["ok"]}
    return [e.id for e in tau.of("response") if text_sha(e.data["text"]) not in good]


@pytest.mark.parametrize(
    "answer, says",
    [
        (reading.unreadable, "right"),
        (lambda tau: ..., "returns nothing"),
        (lambda tau: len(reading.unreadable(tau)), "expected a list of event ids"),
        (lambda tau: tau.of("response"), "is of type Event"),
        (lambda tau: [9999], "no event 9999"),
        (lambda tau: of(tau, "extract", ok=False), "of kind 'extract'"),
        (lambda tau: of(tau, "response"), "response 2 was read: extract 10 gave"),
        (not_read, "never handed to extract"),
        (lambda tau: reading.unreadable(tau)[1:], "is not in your list"),
        (lambda tau: reading.unreadable(tau) * 2, "stands twice"),
        (lambda tau: tau["x"], "KeyError"),
    ],
)
def test_exercise_1_says_what_is_wrong(answer, says, capsys):
    assert reading_checks.check_unreadable(answer) == (says == "right")
    assert says in capsys.readouterr().out


def but(**changed):
    return lambda tau: {**reading.failures(tau), **{k: f(tau) for k, f in changed.items()}}


verdicts = lambda tau: [e.data for e in tau.of("verdict")]
own = lambda tau: [v for v in verdicts(tau) if not v.get("final")]
cap = lambda tau: tau.of("start")[0].data["budget"]["verifier_calls"]


@pytest.mark.parametrize(
    "answer, says",
    [
        (reading.failures, "right"),
        (lambda tau: {}, "'unreadable' is still open"),
        (lambda tau: 3, "expected a dict"),
        (but(unreadable=lambda t: len(not_read(t))), "what exercise 1 finds"),
        (but(refused=lambda t: 99), "by their `failure`"),
        (but(refused=lambda t: len(reading.unreadable(t)) + reading.failures(t)["refused"]), "never reached the verifier"),
        (but(repeats=lambda t: sum(v["repeat"] for v in verdicts(t))), "is marked `final`"),
        (but(repeats=lambda t: 0), "its `repeat`"),
        (but(unused=lambda t: cap(t) - len(verdicts(t))), "it costs no call"),
        (but(unused=lambda t: cap(t) - len(own(t))), "A repeat costs no call"),
        (but(unused=lambda t: 26 - t.of("end")[-1].data["used"]["verifier_calls"]), "says what might be spent"),
        (lambda tau: {**reading.failures(tau), "lost": 1}, "'lost' is not asked for"),
    ],
)
def test_exercise_2_says_what_is_wrong(answer, says, capsys):
    assert reading_checks.check_failures(answer) == (says == "right")
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    "structured, whole, says",
    [
        ([2, 3, 4, 5, 6], [21], "right"),
        (..., [21], "'structured_output' is still open"),
        ([2, 3, 4, 5], [21], "event 6 (response:"),
        ([2, 3, 4, 5, 6, 21], [21], "calls for `use_whole_budget`"),
        ([1, 2, 3, 4, 5, 6], [21], "is what was asked of the policy"),
        ([2, 3, 4, 5, 6], [20], "is what the verifier said; the decision does not cite it"),
        ([2, 3, 4, 5, 6], ["21"], "is of type str"),
        ([2, 3, 4, 5, 6], [77], "no event 77"),
    ],
)
def test_exercise_3_says_what_is_wrong(structured, whole, says, capsys):
    assert reading_checks.check_evidence("A", {"structured_output": structured, "use_whole_budget": whole}) == (says == "right")
    assert says in capsys.readouterr().out


WORST = {"A": "unreadable", "B": "refused", "C": "repeats"}
CURE = {"A": "structured_output", "B": "mend_answers", "C": "remember"}


@pytest.mark.parametrize(
    "worst, cure, says",
    [
        (WORST, CURE, "right"),
        (WORST, {**CURE, "B": "structured_output"}, "right"),
        ({**WORST, "A": ...}, CURE, "'A' is still open"),
        ({**WORST, "A": "unused"}, CURE, "that is a consequence"),
        ({**WORST, "B": "unreadable"}, CURE, "1 of 8 are 'unreadable'"),
        ({**WORST, "C": "repeat"}, CURE, "Did you mean 'repeats'?"),
        (WORST, {**CURE, "C": "structured_output"}, "`structured_output` would not have helped"),
        (WORST, {**CURE, "B": "use_whole_budget"}, "field 'min_df' is 6"),
        (WORST, {**CURE, "B": "mend"}, "is none of the edits"),
    ],
)
def test_exercise_4_says_what_is_wrong(worst, cure, says, capsys):
    assert reading_checks.check_diagnosis(worst, cure) == (says == "right")
    assert says in capsys.readouterr().out


def test_a_line_of_script_in_an_answer_is_shown_as_text(tmp_path):
    lines = [
        {"id": 0, "kind": "response", "seconds": 0, "data": {"text": "<script>alert(1)</script>", "stop": "end"}},
        {"id": 1, "kind": "extract", "seconds": 0, "data": {"text_sha": text_sha("<script>alert(1)</script>"), "ok": False}},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tau = Trajectory.read(tmp_path / "t.jsonl")
    assert reading.unreadable(tau) == [0]
    assert "<script>" not in reading.events(tau)._repr_html_()
