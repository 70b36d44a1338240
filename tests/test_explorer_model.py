"""What the explorer answers: a JSON object in, a JSON object out, for recorded runs and for all that may be wrong with a run."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_nb.budget import Ledger
from sia_nb.config import make_config
from sia_nb.store import ROOT, Run, sha256, write_json
from sia_nb.trajectory import Trajectory, TrajectoryWriter
from sia_nb.view import training
from sia_nb.view.explorer import compare, files
from sia_nb.view.explorer.model import Explorer

COMMITTED = sorted(p.parent for p in (ROOT / "results" / "reference").glob("*/*/*/run.json"))
# one a name: those of lessons, which a new study leaves as they are, come last
REFERENCE = list({path.name: path for path in COMMITTED}.values())
BOTH = next(p for p in REFERENCE if p.name.startswith("lawbench-W+H") and "-s0-" in p.name)  # weight updates in steps 5 and 7


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer(REFERENCE)


def ask(explorer: Explorer, do: str, run: str | Path = BOTH, **request) -> dict:
    """The answer, which must be strict JSON that UTF-8 can carry."""
    answer = explorer.answer({"do": do, "run": getattr(run, "name", run), **request})
    json.dumps(answer, ensure_ascii=False, allow_nan=False).encode("utf-8")
    return answer


def test_runs(explorer):
    found = ask(explorer, "runs")["runs"]
    assert [r["name"] for r in found] == [p.name for p in REFERENCE]
    assert {r["state"] for r in found} == {"finished"} and {r["task"] for r in found} == {p.name.split("-")[0] for p in REFERENCE}
    row = next(r for r in found if r["name"] == BOTH.name)
    report = json.loads((BOTH / "report.json").read_text())
    assert row["report"] == report and (row["arm"], row["seed"], row["agent"], row["steps"]) == ("W+H", 0, "playbook", 8)
    assert row["score"] == json.loads((BOTH / "step_008/metrics.json").read_text())["score"]


def test_steps(explorer):
    answer = ask(explorer, "steps")
    steps = answer["steps"]
    assert [s["lever"] for s in steps] == ["start", "H", "H", "H", "W", "H", "W", "H"]
    assert [s["algorithm"] for s in steps] == ["", "", "", "", "grpo", "", "grpo", ""]
    assert [s["incumbent"] for s in steps] == [True, True, True, True, True, False, False, True]
    assert [s["rolled_back"] for s in steps] == [not s["incumbent"] for s in steps]
    assert [s["best"] for s in steps][4:7] == [steps[4]["score"]] * 3 and all(s["done"] for s in steps)
    assert [s["events"] for s in steps] == [len(Trajectory.read(BOTH / f"step_{g:03d}/trajectory.jsonl")) for g in range(1, 9)]
    assert steps[6]["rule"] == "weights_gained_more/terminal_verifier" and steps[0]["rule"] == ""
    ledger = [json.loads(line) for line in (BOTH / "ledger.jsonl").read_text().splitlines()]
    assert [s["seconds"] for s in steps] == pytest.approx(
        [sum(e["seconds"] for e in ledger if e["step"] == g) for g in range(1, 9)]
    )
    assert answer["damaged"] == [] and answer["live"] is False and answer["report"]["metric"] == "top1"


def test_events_and_pages(explorer):
    whole = ask(explorer, "events", g=5)
    trajectory = Trajectory.read(BOTH / "step_005/trajectory.jsonl")
    assert whole["total"] == whole["matched"] == len(trajectory) and [r["id"] for r in whole["rows"]] == [
        e.id for e in trajectory
    ]
    assert whole["kinds"] == {k: len(trajectory.of(k)) for k in dict.fromkeys(e.kind for e in trajectory)}
    best = ask(explorer, "events", g=5, kinds=["verdict"], sort="reward", descending=True, offset=1, limit=3)
    scores = sorted((e.data["score"] for e in trajectory.of("verdict")), reverse=True)
    assert [r["reward"] for r in best["rows"]] == scores[1:4] and best["matched"] == len(scores) == 12
    assert ask(explorer, "events", g=5, kinds=["verdict"], reward=[scores[2], None])["matched"] == sum(
        s >= scores[2] for s in scores
    )


def test_event(explorer):
    verdict = ask(explorer, "events", g=5, kinds=["verdict"], limit=1)["rows"][0]
    answer = ask(explorer, "event", g=5, n=verdict["n"])
    trajectory = Trajectory.read(BOTH / "step_005/trajectory.jsonl")
    event = trajectory[verdict["id"]]
    assert answer["event"] == {"id": event.id, "kind": "verdict", "seconds": event.seconds, "data": event.data}
    assert answer["verdict"] == event.data and answer["answer"] == trajectory[event.data["evaluate"]].data["solution"]
    assert answer["prompt"] == trajectory.of("sample")[0].data["messages"] and answer["response"] == answer["answer"]
    assert [link["kind"] for link in answer["linked"]] == ["response", "extract", "evaluate", "submit"][: len(answer["linked"])]
    (call, *_) = answer["tool_calls"]
    assert call["name"] == "evaluate" and call["result"] == event.data and call["arguments"]["solution"] == answer["answer"]
    assert ask(explorer, "event", g=5, event=event.id) == answer


@pytest.mark.parametrize(
    "request_, said",
    [
        ({"do": "evens"}, "Did you mean 'events'"), ({}, "expected one of"), ({"do": ["runs"]}, "no request"), ([], "expected a JSON object"),
        ({"do": "steps", "run": BOTH.name[:-1]}, f"Did you mean '{BOTH.name}'"), ({"do": "steps"}, "run: None"),
        ({"do": "events", "run": BOTH.name, "g": 9}, "its steps: 1, 2, 3, 4, 5, 6, 7, 8"), ({"do": "events", "run": BOTH.name, "g": True}, "no step"),
        ({"do": "events", "run": BOTH.name, "g": 1, "offset": -1}, "offset: -1"), ({"do": "events", "run": BOTH.name, "g": 1, "limit": 1e9}, "limit"),
        ({"do": "events", "run": BOTH.name, "g": 1, "sort": "size"}, "sort: 'size'"), ({"do": "event", "run": BOTH.name, "g": 1, "n": 99}, "from 0 to 21"),
        ({"do": "event", "run": BOTH.name, "g": 1}, "n: None"), ({"do": "event", "run": BOTH.name, "g": 1, "event": 999}, "id 999"),
        ({"do": "text", "run": BOTH.name, "g": 1, "n": 1, "field": "prompt.9"}, "names no text"), ({"do": "text", "run": BOTH.name, "g": 1, "n": 1}, "field: None"),
    ],
)  # fmt: skip
def test_a_mistaken_request_is_answered(explorer, request_, said):
    answer = explorer.answer(request_)
    assert list(answer) == ["error"] and said in answer["error"], answer


# -- the other requests ----------------------------------------------------------------------------------


def test_a_decision_with_the_events_that_it_cites(explorer):
    answer = ask(explorer, "decision", g=6)
    d, trajectory = json.loads((BOTH / "step_006/decision.json").read_text()), Trajectory.read(BOTH / "step_006/trajectory.jsonl")
    told = answer["decision"]
    assert {k: told[k] for k in ("action", "algorithm", "rule", "rationale", "hyperparameters")} == {
        k: d[k] for k in told if k != "evidence"
    }
    assert [e["event"] for e in told["evidence"]] == d["evidence"] and {e["g"] for e in told["evidence"]} == {6}
    for e in told["evidence"]:
        assert e["kind"] == trajectory[e["event"]].kind
        assert ask(explorer, "event", g=6, n=e["n"])["event"]["id"] == e["event"]
    assert ask(explorer, "decision", g=5)["improvement"] == (BOTH / "step_005/improvement.md").read_text()
    assert ask(explorer, "decision", g=8) == {"decision": None, "improvement": ""}  # the last step: nothing was left to choose


def test_a_scaffold_beside_its_parent_or_any_other(explorer):
    answer = ask(explorer, "scaffold", g=8)
    assert answer["parent_g"] == 5 and answer["source"] == (BOTH / "step_008/scaffold/agent.py").read_text()
    assert answer["parent_source"] == (BOTH / "step_005/scaffold/agent.py").read_text()
    assert ask(explorer, "scaffold", g=8, to="parent") == answer
    assert {d["tag"] for d in ask(explorer, "scaffold", g=5)["diff"]} == {"equal"}  # a weight update leaves it as it is
    assert {d["tag"] for d in ask(explorer, "scaffold", g=1)["diff"]} == {"insert"}
    other = ask(explorer, "scaffold", g=8, to=2)
    assert other["parent_g"] == 2 and other["parent_source"] == (BOTH / "step_002/scaffold/agent.py").read_text()
    assert "to: 9" in ask(explorer, "scaffold", g=8, to=9)["error"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abcd"), max_size=8))
def test_a_diff_holds_both_texts_line_by_line(left, right):
    rows = compare.side_by_side("\n".join(left), "\n".join(right))
    for side, lines in (("left", left), ("right", right)):
        assert [row[side] for row in rows if row[side]] == [[n, line] for n, line in enumerate(lines, 1)]
    for row in rows:
        a, b = (row[side] and row[side][1] for side in ("left", "right"))
        assert row["tag"] == ("delete" if b is None else "insert" if a is None else "equal" if a == b else "replace")


def test_rollouts(explorer):
    lines = training.rollouts(BOTH / "step_005/weights")
    answer = ask(explorer, "rollouts", g=5, sort="id")
    assert [{k: v for k, v in row.items() if k != "id"} for row in answer["rows"]] == lines
    assert answer["curve"] == training.curve_lines(BOTH / "step_005/weights") and answer["result"]["algorithm"] == "grpo"
    for when, group in zip(("before", "after"), training.before_after(lines), strict=True):
        rows = ask(explorer, "rollouts", g=5, when=when)["rows"]
        assert [row["reward"] for row in rows] == [r["reward"] for r in group] and {row["step"] for row in rows} == {
            group[0]["step"]
        }
    advantages = [row["advantage"] for row in ask(explorer, "rollouts", g=5, sort="advantage")["rows"]]
    assert advantages == sorted(advantages, reverse=True) and len(advantages) == len(lines)
    page = ask(explorer, "rollouts", g=5, sort="id", offset=3, limit=2)
    assert [row["id"] for row in page["rows"]] == [3, 4] and page["matched"] == len(lines)
    assert "steps that were: 5, 7" in ask(explorer, "rollouts", g=4)["error"]
    assert "Did you mean 'reward'" in ask(explorer, "rollouts", g=5, sort="rewards")["error"]
    assert "when: 'now'" in ask(explorer, "rollouts", g=5, when="now")["error"]


def test_ledger(explorer, tmp_path):
    ledger = Ledger(Path(shutil.copy(BOTH / "ledger.jsonl", tmp_path)))
    answer = ask(explorer, "ledger")
    for told, (phase, spent) in zip(answer["phases"], ledger.by_phase().items(), strict=True):
        assert (told["phase"], told["verifier_calls"], told["sampled_tokens"]) == (phase, spent.verifier_calls, spent.tokens)
        assert (told["seconds"], told["dollars"]) == pytest.approx((spent.seconds, spent.dollars))
    assert answer["total"]["seconds"] == pytest.approx(ledger.total().seconds) and answer["total"]["unpriced"] == 0


def test_a_ledger_with_calls_of_a_language_model(tmp_path):
    run = a_run(tmp_path)
    ledger = Ledger(run.path / "ledger.jsonl")
    ledger.add(
        "decision",
        1,
        "agent decide",
        dollars=0.5,
        call=0,
        agent_seconds=3.0,
        input_tokens=100,
        output_tokens=20,
        cache_read_tokens=40,
    )
    ledger.add("decision", 1, "agent improve", dollars=None, call=1, input_tokens=1, output_tokens=2)
    ledger.add("decision", 1, "phase", seconds=5.0)
    (told,) = ask(Explorer([run.path]), "ledger", run.path)["phases"]
    expected = {"input_tokens": 141, "output_tokens": 22, "seconds": 5.0, "dollars": 0.5, "unpriced": 1, "entries": 3}
    assert {k: told[k] for k in expected} == expected


def test_two_steps_and_two_runs_side_by_side(explorer):
    answer = ask(explorer, "compare", left={"run": BOTH.name, "g": 4}, right={"run": BOTH.name, "g": 7})
    told = {m["name"]: (m["left"], m["right"]) for m in answer["metrics"]}
    m4, m7 = (json.loads((BOTH / f"step_00{g}/metrics.json").read_text()) for g in (4, 7))
    assert told["score"] == (m4["score"], m7["score"]) and told["fate"] == ("kept", "rolled back") and told["lever"] == ("H", "W")
    assert (
        told["valid verdicts"] == (m4["counts"]["valid"], m7["counts"]["valid"]) and told["mean score after training"][0] is None
    )
    assert answer["scaffold"] == ask(explorer, "scaffold", g=7, to=4)["diff"]
    (instance,) = answer["instances"]
    for side, g in (("left", 4), ("right", 7)):
        scores = [
            e.data["score"] for e in Trajectory.read(BOTH / f"step_00{g}/trajectory.jsonl").of("verdict") if e.data["valid"]
        ]
        assert (instance[side]["best"], instance[side]["valid"]) == (max(scores), len(scores))
        assert instance[side]["mean"] == pytest.approx(sum(scores) / len(scores))
    other = next(p for p in REFERENCE if p.name.startswith("denoising-W-"))
    answer = ask(explorer, "compare", left={"run": BOTH.name}, right={"run": other.name})
    told = {m["name"]: (m["left"], m["right"]) for m in answer["metrics"]}
    assert told["task"] == ("lawbench", "denoising") and told["steps of the run"] == (8, 8)
    assert answer["left"]["g"] == 8 and told["score"][0] == json.loads((BOTH / "step_008/metrics.json").read_text())["score"]
    assert told["sealed test, the run's answer: top1"][1] is None and [i["name"] for i in answer["instances"]] == [
        "lawbench",
        "denoising",
    ]
    for left, said in ((None, "left: None"), ({"run": "x"}, "'x'"), ({"run": BOTH.name, "g": 99}, "left.g: 99")):
        assert said in ask(explorer, "compare", left=left, right={"run": BOTH.name})["error"]


# -- a run as it grows -----------------------------------------------------------------------------------


def a_run(folder: Path, name: str = "run", steps: int = 2) -> Run:
    return Run.create(make_config("smoke", task="lawbench", steps=steps), folder / name)


def place(run: Run, g: int, source: str = "x = 1\n", **origin) -> Path:
    """Step g with a scaffold."""
    (run.step(g) / "scaffold").mkdir(parents=True)
    (run.step(g) / "scaffold" / "agent.py").write_text(source)
    write_json(run.step(g) / "origin.json", {"action": "init", "parent": 0, "edits": [], "author": "playbook"} | origin)
    return run.step(g)


def finish(run: Run, g: int, score: float = 0.5, accepted: bool = True, incumbent: int = 1) -> None:
    metrics = {
        "step": g,
        "score": score,
        "valid": True,
        "solution": "{}",
        "noise": 0.01,
        "accepted": accepted,
        "incumbent": incumbent,
    }
    metrics |= {
        "note": "kept",
        "used": {"verifier_calls": 3, "tokens": 9, "seconds": 1.0},
        "counts": {"valid": 1, "failures": {"crash": 2}},
    }
    write_json(run.step(g) / "metrics.json", metrics)
    run.finish(g, "run", [run.step(g) / "trajectory.jsonl", run.step(g) / "metrics.json"])


def age(run: Run, seconds: float = 1000.0) -> None:
    """As if nothing had been written for a while."""
    then = time.time() - seconds
    for path in run.path.rglob("*"):
        os.utime(path, (then, then))


def state(explorer: Explorer) -> tuple[str, str]:
    (row,) = ask(explorer, "runs")["runs"]
    return row["state"], row["note"]


def test_a_run_is_followed_from_nothing_to_its_end(tmp_path):
    run = a_run(tmp_path)
    x = Explorer([run.path])
    name = run.path.name
    assert state(x) == ("unfinished", "0 of 2 steps are done: `python -m sia_nb resume run` goes on.")
    assert ask(x, "steps", name)["steps"] == [] and ask(x, "ledger", name)["phases"] == []
    assert "its steps: none yet" in ask(x, "events", name, g=1)["error"]
    assert "no step yet" in ask(x, "compare", left={"run": name}, right={"run": name})["error"]
    assert ask(x, "refresh", name)["changed"] and not ask(x, "refresh", name)["changed"]
    place(run, 1)
    assert "not been executed yet" in ask(x, "events", name, g=1)["error"]
    assert ask(x, "refresh", name) == {"changed": True, "steps": 1, "events": 0, "live": False, "progress": None}
    writer = TrajectoryWriter(run.step(1) / ".trajectory.jsonl.tmp")
    writer.write("start", task="lawbench", format=1)
    run.progress("step 1: verifier call 1", 1, 8)
    assert state(x)[0] == "running" and ask(x, "refresh", name)["progress"]["what"] == "step 1: verifier call 1"
    for n in range(5):
        writer.write("log", kind="n", n=n)
        assert [r["summary"] for r in ask(x, "events", name, g=1)["rows"]][1:] == [f'n {{"n": {m}}}' for m in range(n + 1)]
        told = ask(x, "refresh", name)
        assert told["changed"] and told["events"] == n + 2 and not ask(x, "refresh", name)["changed"]
    with open(writer.path, "a") as f:
        f.write('{"id":6,"kind":"log"')  # caught in the middle of a line
    told = ask(x, "events", name, g=1)
    assert told["total"] == 6 and told["pending"] == 20 and told["damaged"] == []
    with open(writer.path, "a") as f:
        f.write(',"seconds":1.0,"data":{"kind":"end"}}\n')
    writer.close()
    writer.path.rename(run.step(1) / "trajectory.jsonl")
    finish(run, 1)
    told = ask(x, "events", name, g=1)
    assert told["total"] == 7 and told["generation"] == 0 and told["pending"] == 0
    (row,) = ask(x, "steps", name)["steps"]
    assert row["done"] and row["score"] == row["best"] == 0.5 and row["events"] == 7
    weights = run.step(2) / "weights"  # a weight update begins: there is no scaffold yet
    weights.mkdir(parents=True)
    write_json(weights / "hyper.json", {"algorithm": "dpo"})
    (weights / "curve.jsonl").write_text('{"step":1,"reward_mean":0.2}\n{"step":2,"rew')
    row = ask(x, "steps", name)["steps"][1]
    assert (row["lever"], row["algorithm"], row["done"], row["best"]) == ("W", "dpo", False, 0.5)
    told = ask(x, "rollouts", name, g=2)
    assert told["rows"] == [] and told["result"] is None and told["curve"] == [{"step": 1, "reward_mean": 0.2}]
    age(run)
    assert state(x)[0] == "unfinished"
    with run.lock():
        assert state(x)[0] == "running" and ask(x, "steps", name)["live"] is True
    assert state(x)[0] == "unfinished"
    write_json(run.path / "report.json", {"format": 1, "metric": "top1", "arms": {}})
    assert state(x)[0] == "finished"


def test_a_step_that_is_executed_again(tmp_path):
    run = a_run(tmp_path)
    x, path = Explorer([run.path]), place(run, 1) / "trajectory.jsonl"
    writer = TrajectoryWriter(path)
    for n in range(30):
        writer.write("log", kind="first", n=n)
    writer.close()
    finish(run, 1)
    assert ask(x, "events", run.path, g=1, text="first")["matched"] == 30 and ask(x, "refresh", run.path)["events"] == 30
    (run.step(1) / "run.done.json").unlink()
    writer = TrajectoryWriter(run.step(1) / ".trajectory.jsonl.tmp")
    writer.write("log", kind="second")
    told = ask(x, "events", run.path, g=1)
    assert (told["total"], told["generation"]) == (1, 1) and told["rows"][0]["summary"] == "second"
    assert ask(x, "refresh", run.path)["events"] == 1
    writer.close()
    writer.path.replace(path)
    finish(run, 1)
    assert ask(x, "events", run.path, g=1, text="first")["matched"] == 0 and ask(x, "events", run.path, g=1)["generation"] == 1


def test_events_are_counted_anew_where_a_file_was_written_anew(tmp_path):
    path = tmp_path / "t.jsonl"
    for content, count in (("a\n" * 30, 30), ("a\n" * 31, 31), ("a\n" * 31 + "b", 31), ("c\n" * 2, 2), ("d" * 99 + "\n" * 5, 5)):
        path.write_text(content)
        assert files.count_lines(path) == files.count_lines(path) == count
    assert files.count_lines(tmp_path / "none") == 0


def test_the_explorer_leaves_no_trace(tmp_path):
    run = Run(shutil.copytree(BOTH, tmp_path / BOTH.name))
    x = Explorer([run.path])
    stamps = lambda: {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in tmp_path.rglob("*")}
    before = stamps()
    for do in ("runs", "steps", "ledger", "refresh", "notes"):
        assert "error" not in ask(x, do, run.path)
    for g in range(1, 9):
        for do in ("events", "decision", "scaffold"):
            assert "error" not in ask(x, do, run.path, g=g)
        assert "error" not in ask(x, "event", run.path, g=g, n=3)
    assert "error" not in ask(x, "rollouts", run.path, g=5)
    assert stamps() == before


def test_many_steps_are_looked_at_with_few_open_files(explorer):
    before = len(os.listdir("/proc/self/fd"))
    for path in REFERENCE[:3]:
        for g in range(1, 9):
            assert ask(explorer, "events", path, g=g)["total"] > 0
    assert len(os.listdir("/proc/self/fd")) < before + 8


# -- notes -----------------------------------------------------------------------------------------------


def test_notes_are_kept_beside_the_run(tmp_path):
    run = Run(shutil.copytree(BOTH, tmp_path / BOTH.name))
    before = {p: sha256(p) for p in run.path.rglob("*") if p.is_file()}
    x, other = Explorer([run.path]), Explorer([run.path])
    saved = ask(x, "save", run.path, g=5, n=67, note="看这里 <b>!</b>", tags=["odd", " odd ", ""])["saved"]
    assert saved == str(tmp_path / f"{BOTH.name}.notes.json")
    assert {p: sha256(p) for p in run.path.rglob("*") if p.is_file()} == before and run.done(5, "run")
    ask(other, "save", run.path, g=5, event=69, note="second", tags=[])
    ask(other, "save", run.path, note="on the whole run")
    told = ask(x, "event", run.path, g=5, n=67)
    assert (told["note"], told["tags"]) == ("看这里 <b>!</b>", ["odd"])
    notes = ask(x, "notes", run.path)["notes"]
    assert [(n["g"], n["event"], n["kind"], n["note"]) for n in notes] == [
        (5, 67, "verdict", "看这里 <b>!</b>"), (5, 69, "verdict", "second"), (None, None, "", "on the whole run"),
    ]  # fmt: skip
    ask(x, "save", run.path, g=5, n=67, note="better", tags=["odd"])
    assert [n["note"] for n in ask(other, "notes", run.path)["notes"]] == ["second", "on the whole run", "better"]
    ask(x, "save", run.path, g=5, n=67, note=" ", tags=[])
    assert len(ask(x, "notes", run.path)["notes"]) == 2 and ask(x, "event", run.path, g=5, n=67)["note"] == ""


def test_notes_that_cannot_be_kept_or_read(tmp_path):
    run = Run(shutil.copytree(BOTH, tmp_path / BOTH.name))
    x = Explorer([run.path])
    for wrong, said in (
        ({"note": 3}, "note: '3'"),
        ({"note": "x" * 20_001}, "at most 20000"),
        ({"note": "", "tags": "a"}, "tags: 'a'"),
        ({"note": "", "tags": [1]}, "tags"),
    ):
        assert said in ask(x, "save", run.path, g=1, n=1, **wrong)["error"]
    assert not list(tmp_path.glob("*.json"))
    path = tmp_path / f"{BOTH.name}.notes.json"
    path.write_text("{")
    assert str(path) in ask(x, "notes", run.path)["error"] and str(path) in ask(x, "save", run.path, note="lost?")["error"]
    assert path.read_text() == "{"  # what cannot be read is not written over
    assert str(path) in ask(x, "event", run.path, g=1, n=1)["notes_error"]
    path.write_text('{"format": 0}')
    assert "format 0, expected 1" in ask(x, "notes", run.path)["error"]
    path.write_text("[]")
    assert "Mend it, or move it away" in ask(x, "notes", run.path)["error"]


def test_notes_on_a_full_disk(tmp_path, monkeypatch):
    run = a_run(tmp_path)
    x = Explorer([run.path])
    ask(x, "save", run.path, note="kept")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, "replace", full)
        assert "run.notes.json cannot be written: No space left on device" in ask(x, "save", run.path, note="lost")["error"]
    assert [n["note"] for n in ask(x, "notes", run.path)["notes"]] == ["kept"]
    assert [p.name for p in tmp_path.iterdir() if p.name != "run"] == ["run.notes.json"]


# -- what may be wrong with a run ------------------------------------------------------------------------


def damaged_copy(tmp_path: Path) -> tuple[Explorer, Path]:
    folder = shutil.copytree(BOTH, tmp_path / BOTH.name)
    return Explorer([folder]), folder


def test_no_such_folder_and_no_run_in_it(tmp_path):
    (tmp_path / "empty").mkdir()
    x = Explorer([tmp_path / "gone", tmp_path / "empty"])
    gone, empty = ask(x, "runs")["runs"]
    assert gone["state"] == empty["state"] == "damaged" and "gone does not exist" in gone["note"] and "run.json" in empty["note"]
    assert "gone does not exist" in ask(x, "steps", "gone")["error"] and "run.json" in ask(x, "steps", "empty")["error"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        '{"format": 1}',
        '{"format": 1, "config": []}',
        '{"format": 1, "config": {"task": "no"}}',
        "[" * 100_000,
        "\x00\xff",
    ],
)
def test_a_damaged_run_json(tmp_path, content):
    x, folder = damaged_copy(tmp_path)
    (folder / "run.json").write_text(content, encoding="latin-1")
    (row,) = ask(x, "runs")["runs"]
    assert row["state"] == "damaged" and "run.json" in row["note"]
    assert "run.json" in ask(x, "steps", folder)["error"]


def test_a_run_of_an_older_format(tmp_path):
    x, folder = damaged_copy(tmp_path)
    info = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", info | {"format": 0})
    assert (
        "format 0, expected 1" in ask(x, "runs")["runs"][0]["note"]
        and "another version" in ask(x, "events", folder, g=1)["error"]
    )
    write_json(folder / "run.json", info)
    path = folder / "step_001/trajectory.jsonl"
    path.write_text(path.read_text().replace('"data":{"format":1', '"data":{"format":0'))
    assert ask(x, "events", folder, g=2)["note"] == "" and "format 0" in ask(x, "events", folder, g=1)["note"]


def test_one_damaged_line_hides_nothing_else(tmp_path):
    x, folder = damaged_copy(tmp_path)
    path = folder / "step_005/trajectory.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[9] = lines[9][:40] + b"\xff\x00" + lines[9][42:]
    path.write_bytes(b"\n".join(lines))
    told = ask(x, "events", folder, g=5)
    assert told["damaged"] == [10] and told["total"] == 93 and [r["id"] for r in told["rows"]][8:10] == [8, 10]
    assert ask(x, "event", folder, g=5, event=10)["event"]["id"] == 10
    (said,) = ask(x, "steps", folder)["damaged"]
    assert said["g"] == 5 and "line 10 of" in said["message"]
    cited = json.loads((folder / "step_006/decision.json").read_text())["evidence"][0]
    path = folder / "step_006/trajectory.jsonl"
    path.write_bytes(
        b"".join(b"?\n" if n == cited else line + b"\n" for n, line in enumerate(path.read_bytes().split(b"\n")[:-1]))
    )
    first, second, *_ = ask(x, "decision", folder, g=6)["decision"]["evidence"]
    assert (first["event"], first["n"], first["kind"]) == (cited, None, "missing") and second["kind"] == "verdict"


@pytest.mark.parametrize("name", ["origin.json", "metrics.json", "decision.json"])
@pytest.mark.parametrize("content", ["{", "[1]", "\x00"])
def test_a_damaged_file_of_a_step(tmp_path, name, content):
    x, folder = damaged_copy(tmp_path)
    (folder / "step_003" / name).write_text(content)
    told = ask(x, "steps", folder)
    assert len(told["steps"]) == 8 and str(folder / "step_003" / name) in told["damaged"][0]["message"]
    assert ask(x, "runs")["runs"][0]["state"] == "finished"
    do = {"origin.json": "scaffold", "metrics.json": "compare", "decision.json": "decision"}[name]
    sides = {side: {"run": folder.name, "g": 3} for side in ("left", "right")}
    assert name in ask(x, do, folder, g=3, **sides)["error"]


def test_damaged_lines_of_a_ledger_and_of_rollouts(tmp_path):
    x, folder = damaged_copy(tmp_path)
    for path in (folder / "ledger.jsonl", folder / "step_005/weights/rollouts.jsonl", folder / "step_005/weights/curve.jsonl"):
        lines = path.read_text().split("\n")
        path.write_text("\n".join([lines[0], "[]", *lines[2:]]))
    assert (
        ask(x, "ledger", folder)["damaged"] == [2] and "ledger.jsonl, line 2" in ask(x, "steps", folder)["damaged"][0]["message"]
    )
    told = ask(x, "rollouts", folder, g=5)
    assert told["damaged"] == {"rollouts.jsonl": [2], "curve.jsonl": [2]} and len(told["rows"]) == 15
    (folder / "report.json").write_text("{")
    told = ask(x, "steps", folder)
    assert told["report"] is None and "report.json" in told["damaged"][-1]["message"] and len(told["steps"]) == 8
    assert ask(x, "runs")["runs"][0]["state"] == "damaged"


def test_a_run_that_is_deleted_while_it_is_looked_at(tmp_path):
    x, folder = damaged_copy(tmp_path)
    assert ask(x, "events", folder, g=5)["total"] == 94
    shutil.rmtree(folder / "step_005")
    assert "no step" in ask(x, "events", folder, g=5)["error"]
    shutil.rmtree(folder)
    for do in ("steps", "events", "ledger", "refresh", "notes", "save"):
        assert "does not exist" in ask(x, do, folder, g=5)["error"]


HOSTILE = {
    "script": "<script>alert('x')</script><img src=x onerror=alert(1)>", "right to left": "שלום \u202eabc\u202c مرحبا", "Chinese": "罪名：盗窃罪",
    "control": "".join(map(chr, range(32))) + "\x7f\x9b", "separators": "a\u2028b\u2029c\x85d", "emoji": "👩🏽‍🔬", "quotes": "\"'`\\\n{}",
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[Explorer, Path]:
    """A run whose policy, scaffold and verifier wrote what one would rather not read."""
    run = a_run(tmp_path_factory.mktemp("hostile"))
    writer = TrajectoryWriter(place(run, 1, source="<script>\n") / "trajectory.jsonl")
    writer.write("start", format=1, task="<b>x</b>")
    for text in HOSTILE.values():
        sample = writer.write(
            "sample", messages=[{"role": text, "content": text}], n=1, temperature=text, max_tokens=1, grammar=False
        )
        writer.write("response", sample=sample, index=0, text=text, tokens=1, stop="end", logprob=None)
    writer.write("log", kind="nan", value=float("nan"), more=[float("inf"), {"x": -float("inf")}])
    writer.write("response", sample=1, index=0, text="0123456789" * 60_000, tokens=9)
    writer.write("log", kind="many", items=list(range(5000)), keys={str(n): n for n in range(5000)})
    writer.write("sample", messages="none", n=None)
    writer.write("verdict", evaluate="x", score="high", valid=None, metrics=[])
    writer.write("log", **{"a.b": {"c": "z" * 300_000}})
    writer.close()
    with open(writer.path, "a") as f:
        f.write('{"id":99,"kind":"response","seconds":1.5,"data":{"text":"half \\ud800 pair","sample":null}}\n')
    (run.step(1) / "scaffold/agent.py").write_bytes(b"\xff\xfe = 1\n\x00<script>")
    (run.step(1) / "improvement.md").write_bytes(b"<script>\xff")
    finish(run, 1)
    return Explorer([run.path]), run.path


@pytest.mark.parametrize("name", HOSTILE)
def test_text_is_handed_over_as_it_is(hostile, name):
    x, folder = hostile
    n = 2 * list(HOSTILE).index(name) + 2
    told = ask(x, "event", folder, g=1, n=n)
    assert told["response"] == HOSTILE[name] and told["prompt"] == [{"role": HOSTILE[name], "content": HOSTILE[name]}]
    row = ask(x, "events", folder, g=1, offset=n, limit=1)["rows"][0]
    assert not any(ord(c) < 32 for c in row["summary"]) and row["kind"] == "response"
    if name != "control":
        assert ask(x, "events", folder, g=1, text=HOSTILE[name], kinds=["response"])["rows"][0]["n"] == n


def test_what_is_no_json_and_no_text_does_not_get_out(hostile):
    x, folder = hostile
    n = 2 * len(HOSTILE) + 1
    assert ask(x, "event", folder, g=1, n=n)["event"]["data"] == {"kind": "nan", "value": None, "more": [None, {"x": None}]}
    assert ask(x, "event", folder, g=1, event=99)["response"] == "half \ufffd pair"
    assert ask(x, "scaffold", folder, g=1)["source"] == "\ufffd\ufffd = 1\n\x00<script>"
    assert ask(x, "decision", folder, g=1)["improvement"] == "<script>\ufffd"
    for g_n in range(ask(x, "events", folder, g=1)["total"]):
        assert "error" not in ask(x, "event", folder, g=1, n=g_n)


def test_huge_texts_are_cut_and_read_page_by_page(hostile):
    x, folder = hostile
    n = 2 * len(HOSTILE) + 2
    told = ask(x, "event", folder, g=1, n=n)
    assert len(told["response"]) == 200_000 and told["cut"] == {"response": 600_000, "event.data.text": 600_000}
    for field in told["cut"]:
        whole, offset = "", 0
        while offset is not None:
            page = ask(x, "text", folder, g=1, n=n, field=field, offset=offset)
            whole, offset = whole + page["text"], page["next"]
            assert page["total"] == 600_000
        assert whole == "0123456789" * 60_000
    told = ask(x, "event", folder, g=1, n=n + 1)
    assert told["cut"] == {"event.data.items": 5000, "event.data.keys": 5000} and len(told["event"]["data"]["items"]) == 1000
    assert json.loads(ask(x, "text", folder, g=1, n=n + 1, field="event.data.items")["text"]) == list(range(5000))
    assert ask(x, "event", folder, g=1, n=n + 4)["cut"] == {"event.data.a.b.c": 300_000}
    assert ask(x, "text", folder, g=1, n=n + 4, field="event.data.a.b.c")["total"] == 300_000
    assert len(json.dumps(ask(x, "events", folder, g=1))) < 50_000


# -- the package -----------------------------------------------------------------------------------------


def test_all_runs_are_found_and_names_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    x = Explorer()
    assert ask(x, "runs") == {"runs": []} and "They are: none" in ask(x, "steps", "x")["error"]
    a_run(tmp_path / "runs")
    shutil.copytree(BOTH, tmp_path / "reference/lawbench/machine" / BOTH.name)
    assert [r["name"] for r in ask(x, "runs")["runs"]] == ["run", BOTH.name]
    two = [a_run(tmp_path / "a").path, a_run(tmp_path / "b").path]
    assert [r["name"] for r in ask(Explorer([*two, two[0]]), "runs")["runs"]] == ["run", "b/run"]


def test_it_is_light():
    code = "import sys; import sia_nb.view.explorer.model; print([m for m in ('torch', 'IPython', 'ipywidgets', 'anywidget', 'matplotlib', 'pandas', 'scipy') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == "[]"
    )
