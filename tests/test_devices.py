"""Several devices: two processes on the CPU give the adapter that one gives, and what goes wrong in one is met in both."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_trainer import WEIGHTS, read, run, small
from toy_problem import tiny_policy

from sia_nb.errors import ConfigError, TrainingError
from sia_nb.policy.model import load
from sia_nb.training import devices


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The toy policy, where another process finds it."""
    where = tmp_path_factory.mktemp("policy")
    policy = tiny_policy()
    policy.model.save_pretrained(where)
    policy.tokenizer.save_pretrained(where)
    return where


def policy_of(folder):
    return load(str(folder), dtype="float32", threads=1)


CASES = {
    "grpo": small("grpo", steps=3, kl=0.1, groups=2),
    "grpo in micro-batches": small("grpo", steps=2, token_budget=64),
    "ppo": small("ppo", steps=3, mutation=0.25),
    "dpo": small("dpo", steps=3),
    "entropic, an odd group": small("entropic", steps=3, group_size=7),
}


def test_two_processes_give_the_adapter_of_one(folder, tmp_path):
    with two_of(folder) as team:
        for case, hyper in CASES.items():
            run(tmp_path / case / "two", hyper, policy=policy_of(folder), team=team)
        with pytest.raises(TrainingError, match="one team at a time"), two_of(folder):
            raise AssertionError
    for case, hyper in CASES.items():
        run(tmp_path / case / "one", hyper, policy=policy_of(folder))
        near(tmp_path / case / "one", tmp_path / case / "two")


def near(a, b):
    """Two folders of one update hold the same rollouts and, to 1e-5, the same adapter."""
    assert [r["text"] for r in read(a, "rollouts.jsonl")] == [r["text"] for r in read(b, "rollouts.jsonl")]
    one, two = (load_file(folder / "adapter" / WEIGHTS) for folder in (a, b))
    assert all(torch.allclose(one[n], two[n], rtol=1e-5, atol=1e-5) for n in one)


def two_of(folder):
    return devices.open_team(2, str(folder), data_dir=folder, dtype="float32", threads=1)


def test_what_goes_wrong_in_the_other_process_is_met(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "WORKER", "failing_worker")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with (  # noqa: PT012
        pytest.raises(TrainingError, match=r"the process of device 1 ended \(exit 7\): the end"),
        two_of(folder) as team,
    ):
        result = run(tmp_path / "memory", small(steps=2), policy=policy_of(folder), team=team)
        curve = read(tmp_path / "memory", "curve.jsonl")
        assert result.stopped == "done" and curve[1]["notes"] == []
        assert [n.rsplit(" ", 1)[1] for n in curve[0]["notes"]] == ["2048", "1024", "512"]
        run(tmp_path / "end", small(steps=2, groups=2), policy=policy_of(folder), team=team)
    run(tmp_path / "one", small(steps=2, token_budget=512), policy=policy_of(folder))
    near(tmp_path / "one", tmp_path / "memory")


def test_a_process_that_does_not_start_says_so(folder, monkeypatch):
    monkeypatch.setattr(devices, "WORKER", "no_such_module")
    with pytest.raises(TrainingError, match=r"device 1 ended \(exit 1\): .*No module named no_such_module"), two_of(folder):
        raise AssertionError


def test_more_devices_than_there_are_are_refused():
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(ConfigError, match=rf"devices: {cores + 1}, but this machine has {cores} .*ask for {cores} or fewer"):
        devices.check(cores + 1, 1)
    devices.check(1, 10**6)


def test_rows_are_dealt_whole():
    class Part(devices.Alone):
        def __init__(self, rank, size):
            self.rank, self.size = rank, size

    for rows in (1, 2, 7, 32):
        assert [r for rank in range(3) for r in Part(rank, 3).span(rows)] == list(range(rows))
