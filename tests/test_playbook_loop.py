"""The playbook's loop on toy tasks: it improves, keeps up with hill climbing, and repeats bit for bit."""

from __future__ import annotations

import pytest
from playbook_simulator import Policy, Run, hill_climb, loop, toy


def run(tmp_path, name="twelve", seed=0, bias=0.0, steps=8):
    task = toy(name, seed)
    return task, loop(Run(task, Policy(task, bias), seed, tmp_path), steps)


@pytest.mark.parametrize("name", ["twelve", "crashy"])
def test_the_first_scaffold_scores_the_fallback_and_later_ones_more(tmp_path, name):
    task, out = run(tmp_path, name)
    assert out.scores[0] == pytest.approx(task.value(task.space.parse(task.fallback().text)), abs=1e-6)
    assert out.best[-1] > out.scores[0] + 0.2


def test_the_same_seed_gives_the_same_bits(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = run(tmp_path / "a")[1], run(tmp_path / "b")[1]
    assert one.digests == two.digests
    assert one.sources == two.sources and one.reports == two.reports


@pytest.mark.parametrize(
    "name, bias",
    [("twelve", 0.0), ("crashy", 0.0), *(pytest.param(n, 0.5, marks=pytest.mark.slow) for n in ("twelve", "crashy"))],
)
def test_it_ends_near_hill_climbing_at_equal_calls(tmp_path, name, bias):
    ours, climbed = [], []
    for seed in range(5):
        task, out = run(tmp_path, name, seed, bias)
        ours.append(out.best[-1])
        climbed.append(hill_climb(task, int(out.calls), seed))
    assert sum(ours) / 5 >= sum(climbed) / 5 - 0.02


@pytest.mark.parametrize("name", ["twelve", "crashy"])
def test_both_levers_have_their_turn_within_eight_steps(tmp_path, name):
    undone = 0
    for seed in range(3):
        task = toy(name, seed)
        out = loop(Run(task, Policy(task), seed, tmp_path), 8, allowed=("harness", "weights", "stop"))
        actions = [d.action for d in out.decisions]
        assert actions[0] == "harness" and out.decisions[0].rule.startswith("first_structured_output/")
        assert actions[:4].count("weights") >= 1 and actions.count("harness") >= 3
        assert out.best[-1] > out.scores[0] + 0.2
        for i, step in enumerate(out.history[:7]):
            if step.action == "weights" and not step.accepted:
                undone += 1
                assert actions[i] == "harness", "a lever that brought nothing hands over"
    assert undone, "no weight update was taken back in any seed"


def test_weights_alone_imitate_what_mutation_writes_while_no_answer_can_be_read(tmp_path):
    task = toy("twelve")
    out = loop(Run(task, Policy(task), 0, tmp_path), 8, allowed=("weights", "stop"))
    assert {d.rule for d in out.decisions} == {"only_lever/cold_start"} and {d.algorithm for d in out.decisions} == {"bon_bc"}
    assert all(d.hyperparameters["mutation"] == 0.5 for d in out.decisions)
