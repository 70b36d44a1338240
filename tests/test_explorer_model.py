"""What the explorer answers: a JSON object in, a JSON object out, for recorded runs and for all that may be wrong with a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sia_nb.store import ROOT
from sia_nb.trajectory import Trajectory
from sia_nb.view.explorer.model import Explorer

REFERENCE = sorted(p.parent for p in (ROOT / "results" / "reference").glob("*/*/*/run.json"))
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
    assert {r["state"] for r in found} == {"finished"} and {r["task"] for r in found} == {"lawbench", "denoising"}
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
