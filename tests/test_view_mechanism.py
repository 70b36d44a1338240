"""RQ2: edits classed by name and by diff, what the policy learned against chance, choices and costs, each linked."""

import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from view_runs import a_result, a_rollout, a_run, a_step

from sia_nb.agents.playbook.edits import EDITS
from sia_nb.agents.playbook.tuning import MOVES
from sia_nb.store import ROOT, read_json, write_json
from sia_nb.view import collect, levers, mechanism
from sia_nb.view.mechanism import CLASSES, difference, shift

BEFORE = "LIMIT = 8\n\n\ndef build_prompt(state):\n    return []\n\n\ndef extract(text):\n    return text\n\n\ndef run(env):\n    pass\n"


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    return tmp_path


def test_every_edit_of_the_playbook_has_a_class():
    assert {e.name for e in EDITS} == set(mechanism.NAMED)
    assert set(mechanism.NAMED.values()) <= set(CLASSES)
    assert all(mechanism.class_by_name(f"{move[0]}=3") == "constant" for move in MOVES)
    assert mechanism.class_by_name("think step by step") == mechanism.UNNAMED


def test_a_diff_is_classed_by_the_parts_it_touches():
    after = BEFORE.replace("return []", "return hints()").replace("LIMIT = 8", "LIMIT = 9") + "\n\ndef hints():\n    return [1]\n"
    told = difference(BEFORE, after)
    assert set(told["parts_changed"].split()) == {"LIMIT", "build_prompt"} and told["functions_added"] == "hints"
    assert told["classes_by_diff"] == "prompt, constant" and told["lines_removed"] == 2
    assert difference(BEFORE, BEFORE.replace("\n\n\n", "\n\n"))["classes_by_diff"] == ""  # layout alone
    assert difference("no python (", BEFORE)["parts_changed"] == ""


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_the_distance_is_a_distance(before, after):
    distance, threshold, value, (p, q) = shift(before, after)
    assert 0 <= distance <= 1 + 1e-12 and 0 <= threshold <= 1 + 1e-12
    assert distance == pytest.approx(shift(after, before)[0])
    assert (p, q) == pytest.approx((before.count(value) / len(before), after.count(value) / len(after)))
    assert shift(before, before)[0] == 0
    if min(len(before), len(after)) < mechanism.LEAST:
        assert distance <= threshold  # never called a shift


def test_a_shift_is_told_from_chance():
    assert shift(list("aaaaaaaa"), list("bbbbbbbb"))[0] > shift(list("aaaaaaaa"), list("bbbbbbbb"))[1]
    distance, threshold, _, _ = shift(list("aabbabab"), list("ababaabb"))
    assert distance <= threshold


def spec(**fields):
    return json.dumps(fields)


@pytest.fixture
def story(results):
    """A run of three steps: a harness update, then a weight update that moves ``view`` and the score, and is rolled back."""
    run = a_run(results, 0, 0.5, arm="W+H", name="lawbench-W+H-smoke-playbook-s0-abc")
    a_step(run, 2, 0.6, action="harness", parent=1)
    origin = read_json(run.step(2) / "origin.json")
    write_json(run.step(2) / "origin.json", origin | {"edits": ["examples", "LIMIT=9"]})
    (run.step(1) / "scaffold" / "agent.py").write_text(BEFORE)
    (run.step(2) / "scaffold" / "agent.py").write_text(BEFORE.replace("[]", "[1]").replace("= 8", "= 9"))
    rollouts = [a_rollout(0.4, solution=spec(view="char1", tf="raw")) for _ in range(8)]
    rollouts += [a_rollout(0.1, solution=spec(view="word1", tf="log"), source="mutation") for _ in range(4)]
    rollouts += [a_rollout(0.6, step=2, solution=spec(view="char2", tf="raw")) for _ in range(8)]
    a_step(run, 3, 0.6, action="weights", algorithm="grpo", parent=2, accepted=False, rollouts=rollouts)
    write_json(run.step(3) / "weights" / "result.json", a_result(0.4, 0.6))
    for g, rule, events in ((1, "harness_first/edit_answers_finding", [2, 3]), (2, "harness_stalled/terminal_verifier", [5])):
        write_json(run.step(g) / "decision.json", {"rule": rule, "evidence": events})
    ledger = [("run", 1, 8, 100, 2.0), ("run", 2, 8, 50, 1.0), ("train", 3, 16, 200, 4.5)]
    lines = [
        {"phase": p, "step": g, "what": "phase", "verifier_calls": c, "tokens": t, "seconds": s, "dollars": 0.5}
        for p, g, c, t, s in ledger
    ]
    (run.path / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (found,) = collect.finished("lawbench")
    return found


def test_edits_name_their_step_class_diff_and_evidence(story):
    first, second = mechanism.edits([story])
    assert (first["edit"], first["class_by_name"], second["class_by_name"]) == ("examples", "prompt", "constant")
    assert first["classes_by_diff"] == "prompt, constant" and first["gain"] == pytest.approx(0.1)
    assert (first["step"], first["decided_after"], first["events"], first["kept"]) == (2, 1, "2 3", True)


def test_learned_behaviours_are_the_policys_own_shifts(story):
    rows = mechanism.behaviours([story], {"view": "structure", "tf": "parameter"})
    assert [(r["behaviour"], r.get("field")) for r in rows] == [("score", None), ("field", "view")]
    score, view = rows
    assert score["value"] == "rose" and (score["before"], score["after"]) == (0.4, 0.6)
    assert (view["kind"], view["n_before"], view["n_after"]) == ("structure", 8, 8)  # mutations are not the policy's
    assert {view["before"], view["after"]} == {0.0, 1.0} and view["rollouts"] == "1-8 13-20"
    assert view["fields_tested"] == 3 and not view["kept"]


def test_an_update_that_teaches_nothing_or_too_few_says_so(results, story):
    folder = story.run.step(3) / "weights" / "rollouts.jsonl"
    same = [a_rollout(0.4, step=s, solution=spec(view="char1")) for s in (1, 2) for _ in range(8)]
    write_json(folder.with_name("result.json"), a_result(0.4, 0.4, se=0.1))
    for lines, said in ((same, "no shift"), (same[:8], "too few to tell"), ([], "too few to tell")):
        folder.write_text("".join(json.dumps(r) + "\n" for r in lines))
        assert [r["behaviour"] for r in mechanism.behaviours([story], {})] == [said]


def test_choices_hold_the_rules_and_costs_add_up(story):
    harness, weights = mechanism.choices([story])
    assert (harness["lever_rule"], harness["rule"], harness["algorithm"]) == ("harness_first", "edit_answers_finding", "")
    assert (weights["lever_rule"], weights["rule"], weights["algorithm"], weights["kept"]) == (
        "harness_stalled", "terminal_verifier", "grpo", False,
    )  # fmt: skip
    run, train = mechanism.costs([story])
    assert (run["phase"], run["times"], run["verifier_calls"], run["seconds"]) == ("run", 2, 16, 3.0)
    assert train["dollars"] == 0.5 and train["tokens"] == 200


def test_tables_are_counted_and_their_links_lead_to_the_files(story, results, monkeypatch):
    monkeypatch.chdir(results)
    told = dict(levers.tables("lawbench"))
    assert "| prompt | 1, 1 | examples 1 | 1 of 1 |" in told["What the harness updates changed"]
    taught = told["What the weight updates taught"]
    assert "| SIA-W+H | 1 | 0 | 1 | 0 | 1 | 0 | 0 | 0 |" in taught and "1 shifts beyond chance of 3" in taught
    chosen = told["What the Feedback-Agent chose, and by which rule"]
    assert "A₁ H w" in chosen and "| grpo | terminal_verifier | 1 | 0 |" in chosen and "1 of 2 updates were rolled back" in chosen
    assert "| SIA-W+H | **all, mean of 1** |  | 32 | 350 | 7.5 | 1.50 |" in told["What the runs cost"]
    for base, texts in (
        (results, told.values()),
        (results / "figures", [p.read_text() for p in (results / "figures").glob("*.md")]),
    ):
        links = [link for text in texts for link in re.findall(r"\]\((.*?)\)", text)]
        assert links and all((base / link.replace("%20", " ")).is_file() for link in links)


def test_the_figure_counts_what_the_tables_count(story):
    data = levers.figure_rows(levers.rows_of("lawbench")[1])
    assert [(r["lever"], r["name"], r["kept"], r["rolled_back"]) for r in data] == [
        ("harness", "prompt", 1, 0), ("harness", "constant", 1, 0),
        ("weights", "mean score rose", 0, 1), ("weights", "view (structure)", 0, 1),
    ]  # fmt: skip
    assert levers.figure_levers("lawbench")["png"].stat().st_size > 1000


def test_events_of_the_committed_runs_exist(monkeypatch):
    """An edit's evidence is in the trajectory that its row names."""
    from sia_nb.trajectory import Trajectory

    monkeypatch.delenv("SIA_RESULTS")
    for task in ("lawbench", "denoising", "trimul"):
        one = next(f for f in collect.finished(task, source="reference") if f.arm == "W+H")
        rows = mechanism.edits([one])
        assert rows
        for r in rows:
            tau = Trajectory.read(one.run.step(r["decided_after"]) / "trajectory.jsonl")
            assert all(tau[int(event)].id == int(event) for event in r["events"].split())


def test_the_figures_import_no_torch():
    code = "import sys, sia_nb.view.everything; sys.exit(bool({'torch', 'transformers', 'scipy.stats', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
