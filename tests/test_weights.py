"""The weight update as a phase: what it refuses, what a run fixes, what a trimmed run still answers."""

import json

import pytest

from sia_nb import phases, steps, weights
from sia_nb.agents.base import StepSummary
from sia_nb.config import make_config
from sia_nb.errors import ConfigError
from sia_nb.store import Run, write_json


@pytest.fixture
def run(tmp_path):
    """A run whose first step is on file, made by hand: no model, no verifier."""
    run = Run.create(make_config("smoke", arm="W+H", group_size=6, learning_rate=0.002), tmp_path / "run")
    steps.place_scaffold(run, 1, "SYSTEM_PROMPT = ''\n", {"action": "init", "parent": 0, "edits": [], "author": "playbook"})
    used = {"verifier_calls": 2, "tokens": 90, "seconds": 1.0}
    metrics = {"step": 1, "score": 0.4, "valid": True, "noise": 0.0, "accepted": True, "incumbent": 1, "note": "", "used": used}
    write_json(run.step(1) / "metrics.json", metrics | {"solutions": [{"solution": "a", "score": 0.4}]})
    (run.step(1) / "trajectory.jsonl").write_text("")
    run.finish(1, "run", [run.step(1) / "metrics.json", run.step(1) / "trajectory.jsonl"])
    return run


def test_without_a_decision_for_weights_an_algorithm_must_be_named(run):
    with pytest.raises(ConfigError, match="chose no weight update; name an algorithm"):
        phases.weight_update(run, 1)
    with pytest.raises(ConfigError, match="'gprpo' is not known"):
        phases.weight_update(run, 1, algorithm="gprpo")
    with pytest.raises(ConfigError, match="hyperparameter 'groupsize' is not known.*group_size"):
        phases.weight_update(run, 1, algorithm="grpo", hyperparameters={"groupsize": 4})
    assert not (run.path / "by_hand").exists() and not run.step(2).exists()


def test_the_runs_config_lies_over_what_the_agent_chose(run):
    chosen = weights.choose(run, "entropic", {"group_size": 16, "steps": 3, "learning_rate": 1e-4})
    assert (chosen.algorithm, chosen.group_size, chosen.steps, chosen.learning_rate) == ("entropic", 6, 3, 0.002)


def made_by_training(run):
    folder = run.step(2) / "weights"
    folder.mkdir(parents=True)
    lines = [
        {"solution": "b", "solution_id": "1", "score": 0.6, "valid": True},
        {"solution": "a", "solution_id": "2", "score": 0.4, "valid": True},
        {"solution": None, "solution_id": "", "score": 0.0, "valid": False},
        {"solution": "c", "solution_id": "", "score": None, "valid": None},  # the calls had ended
    ]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(folder / "result.json", {"algorithm": "grpo"})
    run.finish(2, "train", [folder / "rollouts.jsonl", folder / "result.json"])


def test_what_training_found_is_in_the_archive_of_the_step_it_made(run):
    made_by_training(run)
    assert [s["solution"] for s in steps.archive(run, before=1)] == []
    assert [s["solution"] for s in steps.archive(run, before=2)] == ["b", "a"]
    assert steps.scored_before(run, 2) == {"1", "2"} and steps.scored_before(run, 1) == set()
    assert steps.training_summary(run, 2) == {"algorithm": "grpo"} and steps.training_summary(run, 1) is None


def test_a_lever_record_compares_with_the_incumbent_of_its_time():
    used = {"verifier_calls": 5, "tokens": 100}
    past = tuple(
        StepSummary(g, action, score, 0.01, kept, (), used)
        for g, (action, score, kept) in enumerate(
            [("init", 0.2, True), ("harness", 0.7, True), ("weights", 0.65, False), ("harness", 0.72, True)], 1
        )
    )
    records = steps.lever_records(past)
    assert records["weights"]["tries"] == 1 and records["weights"]["kept"] == 0
    assert records["weights"]["last_gain"] == pytest.approx(-0.05)
    assert records["harness"]["last_gain"] == pytest.approx(0.02) and records["harness"]["kept"] == 2


def test_the_worn_weights_are_those_of_the_step_named_in_the_origin(run):
    assert steps.worn(run, 1) == 0
    steps.place_scaffold(
        run, 2, "SYSTEM_PROMPT = ''\n", {"action": "weights", "parent": 1, "edits": [], "author": "p", "weights": 2}
    )
    assert steps.worn(run, 2) == 2


def test_training_has_its_share_of_the_caps_and_a_cut_is_told_in_the_run(run, monkeypatch):
    import contextlib

    from sia_nb.policy import adapter
    from sia_nb.training import trainer

    given = {}

    def train(policy, problem, hyper, *, folder, **more):
        given.update(more, calls=problem.calls)
        result = trainer.Result("grpo", 1, "out_of_time", "cut: 1 of 24 steps", {}, {}, None, 0, 0, "", [])
        write_json(folder / "result.json", result.__dict__)
        return result

    monkeypatch.setattr(trainer, "train", train)
    monkeypatch.setattr(adapter, "attach", lambda *a, **k: None)
    monkeypatch.setattr(weights, "open_policy", lambda *a: None)
    monkeypatch.setattr(weights, "open_verifier", lambda *a: contextlib.nullcontext())
    monkeypatch.setattr(weights, "prepare_data", lambda run: None)
    result = weights.weight_update(run, 1, algorithm="grpo")
    share = run.config.weight_share
    assert given["seconds"] == share * run.config.seconds and given["calls"] == int(share * run.config.verifier_calls)
    assert result["stopped"] == "out_of_time"
    assert [n for n in run.info["notices"] if "cut short" in n and "1 of 24 steps" in n]
