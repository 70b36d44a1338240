"""A scaffold as a training problem: its own prompts and extraction, verdicts counted as the gateway counts them."""

import json
import math
from random import Random

import pytest
import torch
from scaffold_fakes import GOOD, DigitsTask, DigitsVerifier
from toy_problem import ToyProblem, tiny_policy

from sia_nb.errors import ConfigError, TrainingError
from sia_nb.scaffold.execute import call_scaffold, task_info
from sia_nb.tasks.base import Instance, Score
from sia_nb.training import rollouts, scaffolded
from sia_nb.training.hyper import make_hyper
from sia_nb.training.problem import OutOfCalls
from sia_nb.training.rollouts import ScaffoldProblem
from sia_nb.training.trainer import train

PARENT = GOOD.replace('"content": state["task"]["spec"]}', '"content": str(state["parent"]) + state["task"]["instance"]}')


class Two(DigitsTask):
    """With two instances."""

    instances = (Instance("near", "a near one"), Instance("far", "a far one"))


def digits(source=GOOD, *, task=None, verifier=None, **more):
    task = task or DigitsTask()
    parts = {"segments": task.space.segments(), "max_tokens": 40, "calls": 100, "trusted": True} | more
    return ScaffoldProblem(source, task, verifier or DigitsVerifier(), **parts)


def spec(a, b):
    return f'{{"a":{a},"b":{b}}}'


def known(a, b):
    return {"solution": spec(a, b), "score": (4 * a + b) / 15}


# --- start states and prompts -----------------------------------------------------------------------------------------


def test_the_prompt_is_the_scaffolds_own():
    problem = digits()
    (start,) = problem.starts(1, "restart", Random(0))
    state = {"task": task_info(DigitsTask()), "best": [], "parent": None}
    assert start.messages == call_scaffold(GOOD, [("build_prompt", [state])], trusted=True)[0].value
    assert start.parent is None


def test_equal_states_are_built_once_and_all_of_a_step_in_one_sandbox(monkeypatch):
    asked = []
    real = scaffolded.call_scaffold
    monkeypatch.setattr(scaffolded, "call_scaffold", lambda *a, **k: asked.append(len(a[1])) or real(*a, **k))
    problem = digits(PARENT, task=Two(), verifier={"near": DigitsVerifier(), "far": DigitsVerifier()})
    starts = problem.starts(3, "restart", Random(0))
    assert [s.instance for s in starts] == ["near", "far", "near"]
    assert starts[0].messages == starts[2].messages and "a near one" in starts[0].messages[1]["content"]
    assert "a far one" in starts[1].messages[1]["content"]
    assert [s.instance for s in problem.starts(2, "restart", Random(0))] == ["far", "near"]
    assert asked == [2]


def test_the_incumbent_is_the_best_known_and_grows():
    problem = digits(PARENT, archive=[known(1, 0), known(0, 3)])
    (start,) = problem.starts(1, "incumbent", Random(0))
    assert start.parent == known(1, 0) and spec(1, 0) in start.messages[1]["content"]
    problem.result(start, problem.rewards(start, [spec(2, 2), spec(0, 0), None]))
    assert problem.starts(1, "incumbent", Random(0))[0].parent == known(2, 2)
    assert digits().starts(1, "incumbent", Random(0))[0].parent is None


def test_puct_starts_from_what_was_found():
    problem = digits(PARENT, archive=[known(1, 0)])
    for _ in range(6):
        for start in problem.starts(2, "puct", Random(0)):
            problem.result(start, problem.rewards(start, [spec(3, 2), None, spec(3, 3)]))
    states = problem.buffers["plain"].states
    assert spec(3, 2) in states and spec(3, 3) not in states  # the latter is not valid
    assert problem.buffers["plain"].rollouts == 36
    assert problem.starts(1, "puct", Random(0))[0].parent == known(3, 2)


def test_a_prompt_that_cannot_be_built_is_an_error():
    broken = GOOD.replace("def build_prompt(state):", "def build_prompt(state):\n    state['nothing']")
    with pytest.raises(TrainingError, match=r"(?s)build_prompt failed .*KeyError: 'nothing'.*mend agent.py"):
        digits(broken).starts(1, "restart", Random(0))


def test_an_instance_that_is_not_there():
    two = {"near": DigitsVerifier()}
    with pytest.raises(ConfigError, match="instance: 'nea' is not known; instances of digits: near, far. Did you mean 'near'"):
        digits(task=Two(), verifier=DigitsVerifier(), instances=["near", "nea"])
    with pytest.raises(ConfigError, match="instance: 'far' is not given a verifier"):
        digits(task=Two(), verifier=two, instances=["near", "far"])
    assert digits(task=Two(), verifier=two).instances == ("near",) == digits(task=Two()).instances


# --- reading ----------------------------------------------------------------------------------------------------------


def test_reading_is_the_scaffolds_own():
    texts = ["so " + spec(1, 2), "nothing", spec(0, 0), "nothing"]
    assert digits().read(texts) == [spec(1, 2), None, spec(0, 0), None]


def test_a_text_that_ends_the_sandbox_is_passed_over():
    hostile = GOOD.replace("def extract(text):", "def extract(text):\n    if text == 'die': import os; os._exit(3)")
    assert digits(hostile).read([spec(1, 1), "die", spec(2, 2), spec(1, 1)]) == [spec(1, 1), None, spec(2, 2), spec(1, 1)]


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_calls_are_counted_as_the_gateway_counts_them():
    v = DigitsVerifier()
    old = DigitsTask().parse(spec(1, 1))
    given = {old.id}
    problem = digits(verifier=v, scored=given)
    (start,) = problem.starts(1, "restart", Random(0))
    out = problem.rewards(start, [spec(1, 1), spec(2, 0), '{"b":0, "a":2}', "{}", "{}", None, spec(3, 3)])
    assert [r.cached for r in out] == [True, False, True, False, False, True, False]
    assert problem.used == 4
    assert [r.valid for r in out] == [True, True, True, False, False, False, False]
    assert [r.value for r in out] == [5 / 15, 8 / 15, 8 / 15, 0, 0, 0, 0]
    assert [r.reason.split(":")[0] for r in out] == ["", "", "", "missing_field", "missing_field", "not_extracted", "timeout"]
    assert out[1].solution_id == out[2].solution_id == DigitsTask().parse(spec(2, 0)).id
    assert v.asked == [spec(1, 1), spec(2, 0), spec(3, 3)] and given == {old.id}


def test_out_of_calls_scores_what_it_may():
    problem = digits(calls=2)
    (start,) = problem.starts(1, "restart", Random(0))
    with pytest.raises(OutOfCalls) as out:
        problem.rewards(start, [spec(0, 1), spec(0, 2), spec(0, 3), spec(0, 1), None])
    assert [r and round(15 * r.value) for r in out.value.rewards] == [1, 2, None, 1, 0] and problem.used == 2
    assert [r.value for r in problem.rewards(start, [spec(0, 1)])] == [1 / 15]


def test_instances_are_scored_apart():
    class Upside(DigitsVerifier):
        def score(self, solution):
            spec = json.loads(solution.text)
            return Score(1 - (4 * spec["a"] + spec["b"]) / 15, True, solution_id=solution.id)

    problem = digits(task=Two(), verifier={"near": DigitsVerifier(), "far": Upside()})
    near, far = problem.starts(2, "restart", Random(0))
    for start, value in ((near, 1 / 15), (far, 14 / 15)):
        (reward,) = problem.rewards(start, [spec(0, 1)])
        assert reward.value == pytest.approx(value) and not reward.cached
        problem.result(start, [reward])
    assert problem.used == 2
    assert [problem.best[n]["score"] for n in ("near", "far")] == pytest.approx([1 / 15, 14 / 15])


# --- mutation ---------------------------------------------------------------------------------------------------------


def test_mutation_changes_one_or_two_fields_to_any_other_value():
    problem = digits(archive=[known(2, 1)])
    (start,) = problem.starts(1, "incumbent", Random(0))
    children = [json.loads(t) for t in problem.mutate(start, 400, Random(1))]
    changed = [(c["a"] != 2) + (c["b"] != 1) for c in children]
    assert set(changed) == {1, 2} and 0.4 < changed.count(1) / 400 < 0.6
    assert {c["a"] for c in children} == {c["b"] for c in children} == {0, 1, 2, 3}
    assert problem.mutate(start, 5, Random(1)) == problem.mutate(start, 5, Random(1))


def test_mutation_without_a_parent_starts_from_the_best_or_the_fallback():
    far = lambda text, a, b: (json.loads(text)["a"] != a) + (json.loads(text)["b"] != b)
    problem = digits(archive=[{"solution": "import os", "score": 0.9}])
    (start,) = problem.starts(1, "restart", Random(0))
    assert {far(t, 0, 1) for t in problem.mutate(start, 50, Random(0))} == {1, 2}
    problem.result(start, problem.rewards(start, [spec(3, 2)]))
    problem.best["plain"] = known(3, 2)
    assert {far(t, 3, 2) for t in problem.mutate(start, 50, Random(0))} == {1, 2}


def test_a_mutation_has_the_tokens_that_sampling_would_have_given_it():
    policy, problem = tiny_policy(), ToyProblem()
    groups = rollouts.sample(policy, problem, make_hyper("grpo", group_size=8, mutation=0.25), 1, 0)
    grammar = policy.grammar(problem.segments)
    for r in groups[0].rollouts:
        assert list(r.ids) == grammar.encode(r.text) and r.choices == 4
    assert [r.source for r in groups[0].rollouts] == ["policy"] * 6 + ["mutation"] * 2


def test_the_random_numbers_belong_to_seed_step_and_group():
    policy, problem, hyper = tiny_policy(), ToyProblem(), make_hyper("grpo", group_size=6, groups=2)
    texts = lambda step, seed: [[r.text for r in g.rollouts] for g in rollouts.sample(policy, problem, hyper, step, seed)]
    first = texts(1, 0)
    assert texts(1, 0) == first and first[0] != first[1]
    assert texts(2, 0) != first and texts(1, 1) != first


# --- the whole --------------------------------------------------------------------------------------------------------


def test_state_is_json_and_goes_on_alike():
    def problem():
        return digits(PARENT, archive=[known(1, 0)], calls=30)

    def some(p, steps):
        out = []
        for i in steps:
            for start in p.starts(2, "puct", Random(i)):
                rewards = p.rewards(start, p.mutate(start, 3, Random(i)))
                p.result(start, rewards)
                out.append((start, rewards))
        return out

    whole = problem()
    some(whole, range(2))
    again = problem()
    again.restore(json.loads(json.dumps(whole.state())))
    assert some(whole, range(2, 4)) == some(again, range(2, 4))


@pytest.mark.parametrize("start", ["restart", "incumbent", "puct"])
def test_training_through_a_scaffold(start, tmp_path):
    torch.set_num_threads(1)
    problem = digits(PARENT, calls=14, archive=[known(0, 1)])
    hyper = make_hyper("grpo", steps=6, group_size=8, groups=2, start=start, mutation=0.25, learning_rate=5e-3, rank=4)
    result = train(tiny_policy(), problem, hyper, folder=tmp_path, seed=0)
    assert result.stopped in ("done", "out_of_calls", "no_signal", "entropy_collapse")
    assert result.verifier_calls == problem.used <= 14
    assert result.best["score"] == max(s["score"] for s in result.solutions) and math.isfinite(result.after["mean"])
    rows = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    assert sum(r["cached"] is False for r in rows) == problem.used
    assert all(r["metrics"] == ({"worth": r["score"]} if r["valid"] else {}) for r in rows)
    parents = {r["parent"]["solution"] for r in rows if r["parent"]}
    assert bool(parents) == (start != "restart")


def test_a_free_policy_that_writes_nothing_useful_stops_early(tmp_path):
    """Every rollout fails: told as no signal after two steps, and no verifier call is paid for what was not extracted."""
    problem = digits(segments=None, max_tokens=12)
    result = train(tiny_policy(), problem, make_hyper("grpo", group_size=8, rank=4), folder=tmp_path, seed=0)
    assert (result.stopped, result.steps, result.verifier_calls) == ("no_signal", 2, 0)
    assert result.tokens <= 2 * 8 * 12
