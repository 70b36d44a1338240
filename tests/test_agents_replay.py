"""Records of agents' calls, their resumption and their replay."""

import json

import pytest
from agent_server import SCAFFOLD, trajectory, view

from sia_nb.agents import get_agents
from sia_nb.agents.base import Decision, Improvement
from sia_nb.agents.record import AgentRecorder, Recorded, view_inputs
from sia_nb.errors import AgentError, ConfigError, StoreError


class Counting:
    """An agent whose answers hold awkward text and say how often it was asked."""

    kind = model = "counting"
    asked = 0

    def write(self, spec, reference):
        self.asked += 1
        return SCAFFOLD + f"# {self.asked} 罪名 \ud800\n"

    def decide(self, view):
        self.asked += 1
        return Decision("harness", f"asked {self.asked}", (1, 2), None, {"lr": 3e-4}, "rule")

    def improve(self, view):
        self.asked += 1
        return Improvement(f"report {self.asked}", SCAFFOLD, ("a", "b"))


def record(folder):
    agent = Counting()
    wrapped = Recorded(agent, AgentRecorder(folder / "agent_calls.jsonl"))
    return wrapped.write("U", "R"), wrapped.decide(view()), wrapped.improve(view()), agent


def replaying(tmp_path, name="new", **more):
    recorder = AgentRecorder(tmp_path / name / "agent_calls.jsonl")
    return get_agents("replay", recorder=recorder, replay_of=str(tmp_path / "old"), **more)


def test_replay_is_bit_for_bit_whatever_the_clock_and_sandbox(tmp_path):
    source, decision, improvement, _ = record(tmp_path / "old")
    meta, feedback = replaying(tmp_path)
    later = trajectory(seconds=9.0)
    later[0].data["sandbox"] = "sandlock"
    other = view(trajectory=later, metrics={"score": 0.5, "valid": True, "used": {"verifier_calls": 1, "seconds": 77.0}})
    assert meta.write("U", "R") == source
    assert feedback.decide(other) == decision
    assert feedback.improve(other) == improvement
    with pytest.raises(AgentError, match="all 3 results"):
        feedback.decide(view(step=2))


def test_replay_goes_on_after_a_kill(tmp_path):
    _, decision, _, _ = record(tmp_path / "old")
    replaying(tmp_path)[0].write("U", "R")
    meta, feedback = replaying(tmp_path)
    assert feedback.decide(view()) == decision


@pytest.mark.parametrize(
    ("change", "field"), [({"scaffold": SCAFFOLD + "#"}, "scaffold"), ({"step": 5}, "step"), ({"trajectory": trajectory(text="x")}, "trajectory"),
                          ({"metrics": {"score": 0.6, "valid": True, "used": {"verifier_calls": 1}}}, "metrics.score")],
)  # fmt: skip
def test_replay_says_where_it_departs(tmp_path, caplog, change, field):
    _, decision, _, _ = record(tmp_path / "old")
    meta, feedback = replaying(tmp_path)
    meta.write("U", "R")
    with pytest.raises(AgentError, match=f"call 1 .*decide.*'{field}'"):
        feedback.decide(view(**change))
    meta, feedback = replaying(tmp_path, "lenient", strict=False)
    meta.write("U", "R")
    assert feedback.decide(view(**change)) == decision and field in caplog.text


def test_what_the_choice_of_a_lever_rests_on_is_part_of_the_question():
    two = {"allowed": ("harness", "weights", "stop"), "algorithms": ("grpo",)}
    more = {"rewards": {"n": 4.0}, "levers": {"harness": {"tries": 1}}, "training": {"stopped": "done"}, "structured": True}
    assert set(view_inputs(view(**two))) - set(view_inputs(view())) >= set(more), "and runs of one lever replay as before"
    for name, value in more.items():
        changed = view_inputs(view(**two, **{name: value}))
        assert changed[name] != view_inputs(view(**two))[name]
        assert view_inputs(view(**{name: value})) == view_inputs(view())


def test_replay_of_another_order_or_of_nothing(tmp_path):
    record(tmp_path / "old")
    with pytest.raises(AgentError, match="'write'.*'decide'"):
        replaying(tmp_path)[1].decide(view())
    with pytest.raises(StoreError, match="cannot read"):
        get_agents("replay", recorder=AgentRecorder(tmp_path / "r.jsonl"), replay_of=str(tmp_path / "nowhere.jsonl"))


def test_what_is_on_record_is_not_asked_again(tmp_path):
    source, decision, _, _ = record(tmp_path / "old")
    agent = Counting()
    again = Recorded(agent, AgentRecorder(tmp_path / "old" / "agent_calls.jsonl"))
    assert again.write("U", "R") == source and again.decide(view()) == decision and agent.asked == 0
    again.decide(view(step=2))
    assert agent.asked == 1


def test_begin_is_on_disk_before_the_call_and_a_torn_line_is_dropped(tmp_path):
    path = tmp_path / "calls.jsonl"
    recorder = AgentRecorder(path)
    assert recorder.begin("write", {"model": "m"}) == 0
    assert json.loads(path.read_text())["event"] == "begin"
    with open(path, "a") as f:
        f.write('{"event":"end","call":0,"respo')
    again = AgentRecorder(path)
    assert again.interrupted == [0] and again.begin("write", {}) == 1
    again.end(1, {"text": "x"}, {"dollars": 0.5})
    assert AgentRecorder(path).interrupted == [0] and AgentRecorder(path).spent().dollars == 0.5


def test_damage_before_the_last_line_is_an_error(tmp_path):
    path = tmp_path / "calls.jsonl"
    path.write_text('nonsense\n{"event":"begin","call":0}\n')
    with pytest.raises(StoreError, match="line 1"):
        AgentRecorder(path)


def test_unknown_kind_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="claude"):
        get_agents("cluade", recorder=AgentRecorder(tmp_path / "c.jsonl"))


def test_a_playbook_run_replays(tmp_path):
    from sia_nb.tasks import get_task

    task = get_task("lawbench")
    meta, _ = get_agents("playbook", recorder=AgentRecorder(tmp_path / "old" / "agent_calls.jsonl"), task=task)
    source = meta.write(task.spec_text(), task.reference())
    assert replaying(tmp_path)[0].write(task.spec_text(), task.reference()) == source
