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
