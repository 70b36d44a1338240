"""What the playbook sees in a trajectory, and what it decides from that."""

from __future__ import annotations

import json

import pytest
from playbook_simulator import Policy, Run, execute, loop, toy
from stories import Story

from sia_nb.agents.base import StepSummary, View
from sia_nb.agents.playbook import PlaybookFeedbackAgent, PlaybookMetaAgent, diagnose
from sia_nb.trajectory import Trajectory


def names(trajectory: Trajectory, history=()) -> dict:
    return {f.name: f for f in diagnose(trajectory, {}, history)}


def test_answers_are_told_apart_by_why_they_cannot_be_read():
    story = Story()
    none, broken, cut = story.answer("no idea"), story.answer("{a: }"), story.answer('{"a": 1, "b', stop="length")
    story.answer('{"a": 1}', '{"a":1}')
    refused = story.verdict('{"a":1}', failure="missing_field")
    found = names(story.end())
    assert found["no_json"].evidence == (none,) and found["no_json"].weight == 0.25
    assert found["broken_json"].evidence == (broken,)
    assert found["truncated"].evidence == (cut,)
    assert found["missing_field"].evidence == (refused,) and found["missing_field"].weight == 1.0


@pytest.mark.parametrize(
    "failure, name", [("crash", "verifier_crash"), ("memory", "verifier_crash"), ("timeout", "verifier_timeout")]
)
def test_failures_in_the_verifier_and_repeats(failure, name):
    story = Story()
    story.verdict("a", 0.5)
    failed, again = story.verdict("b", failure=failure), story.verdict("a", 0.5, again=True)
    found = names(story.end())
    assert found[name].evidence == (failed,) and found["repeats"].evidence == (again,)


def test_budget_progress_and_ending():
    story = Story()
    for i in range(8):
        story.verdict(str(i), 0.9 if i == 1 else 0.1)
    limit = story.add("limit", what="tokens", detail="")
    found = names(story.end(submit=False, verifier_calls=8))
    assert found["unused_calls"].weight == pytest.approx(0.2)
    assert found["tokens_first"].evidence == (limit,)
    assert found["flat"].weight == pytest.approx(6 / 8)
    assert "no_submission" in found and "rising" not in found


def test_alike_answers_and_a_field_that_explains_the_score():
    story = Story()
    for i in range(12):
        solution = json.dumps({"a": i % 2, "b": i // 6})
        story.answer(f"{i} {solution}", solution)
    for i in range(12):
        story.verdict(json.dumps({"a": i % 2, "b": i % 3}), float(i % 2))
    found = names(story.end())
    assert found["low_diversity"].weight == pytest.approx(1 - 4 / 12, abs=1e-3)
    assert "a explains 100%" in found["uneven_fields"].prose


def test_an_empty_trajectory_is_no_crash():
    assert [f.name for f in diagnose(Trajectory([]), {})] == ["no_submission"]


def view_of(tmp_path, **changes) -> tuple[PlaybookFeedbackAgent, View]:
    task = toy("twelve")
    source = PlaybookMetaAgent(task).write(task.spec_text(), task.reference())
    trajectory, metrics, score = execute(Run(task, Policy(task), 0, tmp_path), source, 1)
    history = (StepSummary(1, "init", score, 0.01, True, (), {}),)
    values = {
        "scaffold": source,
        "incumbent": source,
        "trajectory": trajectory,
        "metrics": metrics,
        "history": history,
        **changes,
    }
    return PlaybookFeedbackAgent(task), View(task=task.name, spec="", step=1, steps_left=5, **values)


def test_the_first_edits_answer_the_first_failures(tmp_path):
    agent, view = view_of(tmp_path)
    decision, improvement = agent.decide(view), agent.improve(view)
    assert decision.action == "harness" and decision.rule == "edit_answers_finding"
    assert set(improvement.edits) == {"structured_output", "use_whole_budget"}
    assert decision.evidence and all(view.trajectory[i] for i in decision.evidence)
    assert "no_json" in improvement.report and "`structured_output`" in improvement.report
    assert agent.improve(view) == improvement


def test_a_combination_that_was_rolled_back_is_not_tried_again(tmp_path):
    agent, view = view_of(tmp_path)
    tried = agent.improve(view)
    worse = StepSummary(2, "harness", view.history[0].score - 0.5, 0.01, False, tried.edits, {})
    _, again = view_of(tmp_path, history=(*view.history, worse))
    other = agent.improve(again)
    assert set(other.edits) != set(tried.edits) and other.edits
    neutral = StepSummary(2, "harness", view.history[0].score, 0.01, False, tried.edits, {})
    _, again = view_of(tmp_path, history=(*view.history, neutral))
    assert set(agent.improve(again).edits) > set(tried.edits), "edits that did no harm stay, with another one"


def test_foreign_code_without_a_place_for_an_edit_ends_in_stop_only_once_idle(tmp_path):
    foreign = (
        "SYSTEM_PROMPT = ''\n\n\ndef build_prompt(state):\n    return []\n\n\n"
        "def extract(text):\n    return None\n\n\ndef run(env):\n    env.submit('')\n"
    )
    story = Story()
    story.verdict("a", 0.5)
    changes = {"scaffold": foreign, "incumbent": foreign, "trajectory": story.end()}
    agent, view = view_of(tmp_path, **changes)
    assert agent.decide(view).rule == "search_on" and agent.improve(view).scaffold == foreign
    failed = tuple(StepSummary(i, "harness", 0.4, 0.01, False, (), {}) for i in (2, 3))
    _, idle = view_of(tmp_path, **{**changes, "history": (*view.history, *failed)})
    assert agent.decide(idle).action == "stop"


def test_reports_cite_events_of_the_trajectory_and_name_their_edits(tmp_path):
    out = loop(Run(toy("crashy", 1), Policy(toy("crashy", 1)), 1, tmp_path), 5)
    for report, step in zip(out.reports, out.history[1:], strict=True):
        assert "events " in report and all(f"`{name}`" in report for name in step.edits)
