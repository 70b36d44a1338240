"""replay: committed runs repeat to the last bit without a model; a changed code path is named with its file, step and event."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from test_crash import ROOT, STORY
from test_verify import REFERENCE

from sia_nb import recorded, replay
from sia_nb.agents.record import sha
from sia_nb.errors import ConfigError, StoreError
from sia_nb.recorded import difference
from sia_nb.tasks import get_task

SMALL = next(p.parent for p in REFERENCE if p.parent.name.startswith("denoising-W-cpu-playbook-s0"))


def again(source, tmp_path, **more):
    return replay.replay(source, tmp_path / "again", echo=lambda _: None, **{"verdicts": "recorded", **more})


@pytest.fixture
def quiet(monkeypatch, embedded_model):
    """The denoising task's data, and no model to be had."""
    from sia_nb.policy import model
    from sia_nb.tasks import get_task

    get_task("denoising").fetch(embedded_model, seed=0)
    monkeypatch.setattr(model, "load", lambda *a, **k: pytest.fail("a replay loads no model"))


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """The first two steps of a committed run: quick to repeat."""
    target = tmp_path_factory.mktemp("cut") / SMALL.name
    shutil.copytree(SMALL, target, ignore=shutil.ignore_patterns(*[f"step_{g:03d}" for g in range(3, 9)]))
    return target


@pytest.mark.trust(suite="replay", backend="committed runs")
def test_steps_of_a_committed_run_repeat_to_the_last_bit(quiet, cut, tmp_path):
    outcome = again(cut, tmp_path)
    assert outcome.departure is None and not outcome.differing
    assert (tmp_path / "again" / "step_002" / "metrics.json").exists()
    assert again(cut, tmp_path).departure is None, "and may be repeated once more"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p.parent, marks=() if n % 3 else pytest.mark.trust(suite="replay", backend="committed runs"))
        for n, p in enumerate(REFERENCE)
    ],
    ids=lambda p: p.name,
)
def test_every_committed_run_repeats_to_the_last_bit(quiet, lawbench_data, path, tmp_path):
    departure = again(path, tmp_path).departure
    if of_an_earlier_space(path):
        assert departure is not None and departure.step == 1
    else:
        assert departure is None


def of_an_earlier_space(path):
    """Whether the task's text, its space of solutions included, has changed since the run."""
    written = json.loads((path / "agent_calls.jsonl").read_text().splitlines()[0])
    task = json.loads((path / "run.json").read_text())["config"]["task"]
    return written["inputs"]["spec"] != sha(get_task(task).spec_text())


def test_the_runs_of_an_earlier_space_are_two_of_trimul_on_a_gpu():
    earlier = [p.parent.parent for p in REFERENCE if of_an_earlier_space(p.parent)]
    gpu = "intel-xeon-processor-3-of-32-cores-252-gib-2-nvidia-h200"
    assert [f"{p.parent.name}/{p.name}" for p in earlier] == [f"trimul_cuda/{gpu}"] * 2


def test_a_changed_code_path_is_named(quiet, cut, tmp_path, monkeypatch):
    from sia_nb.scaffold import gateway

    verdict = gateway.Gateway._verdict
    monkeypatch.setattr(gateway.Gateway, "_verdict", lambda self, *a, **k: verdict(self, *a, **{**k, "colour": "blue"}))
    found = again(cut, tmp_path).departure
    assert (found.step, found.file, found.field, found.now) == (1, "step_001/trajectory.jsonl", "colour", "blue")
    assert found.event == next(e["id"] for e in lines(cut, 1) if e["kind"] == "verdict")
    assert "departs at step 1: step_001/trajectory.jsonl, event" in str(found)


def test_a_scaffold_that_asks_otherwise_is_named(quiet, cut, tmp_path, monkeypatch):
    from sia_nb.scaffold import execute

    put = execute._put
    monkeypatch.setattr(execute, "_put", lambda folder, source: put(folder, source.replace("You propose", "You suggest")))
    found = again(cut, tmp_path).departure
    assert found.step == 1 and "messages" in found.field and found.file == "step_001/trajectory.jsonl"


def test_another_choice_of_what_is_kept_is_named(quiet, cut, tmp_path, monkeypatch):
    from sia_nb import phases

    kept = phases._keep_or_roll_back
    monkeypatch.setattr(phases, "_keep_or_roll_back", lambda *a: {**kept(*a), "note": "a coin was thrown"})
    found = again(cut, tmp_path).departure
    assert (found.step, found.file, found.field) == (1, "step_001/metrics.json", "note")


def lines(run, g):
    return [json.loads(line) for line in (run / f"step_{g:03d}" / "trajectory.jsonl").read_text().splitlines()]


def test_an_altered_record_is_named(quiet, cut, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(cut, copy)
    path = copy / "step_001" / "trajectory.jsonl"
    path.write_text(path.read_text().replace('"temperature":1.0', '"temperature":0.5', 1))
    found = again(copy, tmp_path).departure
    assert (found.step, found.field, found.recorded, found.now) == (1, "temperature", 0.5, 1.0)


def test_what_cannot_be_replayed_says_so(cut, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="no replay"):
        replay.replay(cut, tmp_path / "full")
    copy = tmp_path / "copy"
    shutil.copytree(cut, copy)
    (copy / "report.json").unlink()
    with pytest.raises(StoreError, match="not finished"):
        replay.replay(copy, tmp_path / "x")


@pytest.mark.parametrize(
    ("then", "now", "within", "found"),
    [
        ({"a": 1, "seconds": 2}, {"a": 1, "seconds": 3}, 0, None),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, 0, ("a[1].b", 2, 3)),
        ({"a": 1}, {"a": 1, "b": 2}, 0, ("b", "nothing", 2)),
        ({"a": True}, {"a": 1}, 0, ("a", True, 1)),
        ({"a": 0.5}, {"a": 0.5 + 1e-12}, 0, ("a", 0.5, 0.5 + 1e-12)),
        ({"a": 0.5}, {"a": 0.5 + 1e-12}, recorded.TOLERANCE, None),
        ({"a": 3}, {"a": 4}, 10.0, ("a", 3, 4)),
        ([1, 2], [1], 0, ("", [1, 2], [1])),
    ],
)
def test_the_first_difference(then, now, within, found):
    assert difference(then, now, within=within) == found


@pytest.mark.trust(suite="replay", backend="a run of language-model agents")
def test_a_run_with_agents_and_training_repeats_with_its_verdicts_and_report(tmp_path):
    """The tiny run of the crash tests, asked for every verdict anew, its agents' server gone."""
    text = (
        STORY
        + """
from sia_nb.replay import replay
from sia_nb.verify import verify
server.close()
assert verify(fresh("whole")).faults == [], verify(fresh("whole")).faults
before = dict(os.environ)
outcome = replay(fresh("whole"), root / "again", echo=lambda _: None)
assert outcome.exact, outcome
assert outcome.verdicts >= 10
copy = wiped(contents(root / "again"))
for name, value in copy.items():
    if name.startswith("step_") and not name.endswith(".done.json"):
        assert value == whole[name], name
print("repeated")
"""
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", text, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0 and "repeated" in done.stdout, done.stderr[-3000:]
