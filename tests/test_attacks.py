"""Attacks on the sandbox: each program of ``tests/attacks`` as a scaffold, a solution and a kernel, with every backend here.

What each shows if it succeeded stands at its head. What is known not to be stopped is asserted as such: see the README.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
from attack_runs import HARMLESS, LIMITS, QUIET, SECRET, Host, as_kernel, as_scaffold, as_solution, exhausting, left_in
from scaffold_fakes import CountingPolicy, DigitsTask, DigitsVerifier

from sia_nb.scaffold import sandbox
from sia_nb.scaffold.contract import Budget
from sia_nb.scaffold.execute import execute
from sia_nb.scaffold.sandbox import Limits
from sia_nb.tasks import get_task
from sia_nb.trajectory import Trajectory

USABLE = [name for name, reason in sandbox.backends().items() if not reason]
ISOLATING = [name for name in USABLE if name != "plain"]
LOW = Limits(wall_seconds=math.inf, cpu_seconds=10, memory_mb=300, processes=6, output_mb=4, file_mb=8)
attacks = pytest.mark.trust(suite="attacks")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="written for Linux")


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_TEST_API_KEY", SECRET)
    host = Host(tmp_path)
    yield host
    host.close()


def perform(folder: Path, source: str, backend: str, seconds: float = 20.0, limits: Limits = LOW):
    """Execute as a scaffold; returns (execution, trajectory)."""
    done = execute(
        source, task=DigitsTask(), policy=CountingPolicy(), verifier=DigitsVerifier(), budget=Budget(8, 400, seconds), seed=5,
        archive=[], workdir=folder / "work", trajectory_path=folder / "work.jsonl", trusted=True, limits=limits, backend=backend,
    )  # fmt: skip
    return done, Trajectory.read(folder / "work.jsonl")


def count(trust, got: list[str], tried: int) -> None:
    """Count attacks of which those in ``got`` were not stopped."""
    trust.cases(tried - len(got))
    for what in got:
        trust.case(what, held=False)


@attacks
@pytest.mark.parametrize("backend", ISOLATING)
def test_as_a_scaffold(trust, host, backend, tmp_path):
    done, trajectory = perform(tmp_path, as_scaffold(QUIET, host.target), backend)
    (log,) = (e.data for e in trajectory.of("log"))
    count(trust, log["got"], len(log["tried"]))
    assert log["got"] == [] and len(log["tried"]) > 200
    assert host.state() == host.before and done.reason == "returned"
    assert SECRET not in (tmp_path / "work.jsonl").read_text().replace(repr(host.target), "")
