"""The edits of agent.py: every one applies, composes with the others in any order, and leaves a scaffold that runs."""

from __future__ import annotations

import ast
import difflib
import json
import sys
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from playbook_simulator import TOYS, Policy, Run, execute, toy

from sia_nb.agents.playbook import PlaybookMetaAgent, surgery
from sia_nb.agents.playbook.edits import BY_NAME, EDITS
from sia_nb.agents.playbook.tuning import MOVES
from sia_nb.scaffold.contract import Budget, check


def draft(name: str = "twelve") -> str:
    task = toy(name)
    return PlaybookMetaAgent(task).write(task.spec_text(), task.reference())


def with_edit(source: str, name: str) -> str:
    for need in BY_NAME[name].needs:
        if BY_NAME[need].applicable(source):
            source = with_edit(source, need)
    return BY_NAME[name].apply(source)


def namespace(source: str) -> dict:
    scope: dict = {}
    exec(compile(source, "agent.py", "exec"), scope)
    return scope


def test_the_first_scaffold_is_a_plain_one_in_the_tasks_own_words():
    task = toy("twelve")
    source = draft()
    check(source)
    assert len(source.splitlines()) < 80
    assert "Toy twelve" in surgery.constant(source, "SYSTEM_PROMPT")
    assert "Find the record with the highest score." in surgery.constant(source, "SYSTEM_PROMPT")
    assert "grammar" not in source and "archive" not in source
    assert all(name not in source for name in task.space.names), "no field of the task may stand in the code"


@pytest.mark.parametrize("name", BY_NAME)
def test_each_edit_applies_once_and_only_adds_what_it_says(name):
    source = draft()
    assert BY_NAME[name].applicable(source)
    edited = with_edit(source, name)
    check(edited)
    assert edited != source and not BY_NAME[name].applicable(edited)
    changed = [line for line in difflib.ndiff(source.splitlines(), edited.splitlines()) if line[0] == "-"]
    assert len(changed) <= 20, "an edit leaves the rest of the code as it is"
    assert max(map(len, edited.splitlines()[10:])) <= 130


@settings(max_examples=12, deadline=None)
@given(st.permutations([e.name for e in EDITS]), st.sampled_from(sorted(TOYS)), st.integers(0, 5))
def test_any_order_of_edits_gives_a_scaffold_that_submits(tmp_path_factory, order, name, seed):
    source = draft(name)
    for edit in [*order, "structured_output"]:  # a retry samples too, and is masked in its turn
        if BY_NAME[edit].applicable(source):
            source = with_edit(source, edit)
    assert not any(e.applicable(source) for e in EDITS)
    names = {n.names[0].name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import)}
    assert names <= set(sys.stdlib_module_names)
    task = toy(name, seed)
    run = Run(task, Policy(task), seed, tmp_path_factory.mktemp("order"), Budget(verifier_calls=10, tokens=1_500))
    trajectory, _, score = execute(run, source, 1)
    assert trajectory.of("submit") and trajectory.of("end")[0].data["reason"] == "returned", trajectory.of("error")
    assert not [e for e in trajectory.of("log") if e.data["kind"] == "crash"]
    assert score > 0


@pytest.mark.parametrize("calls, tokens", [(0, 5_000), (1, 0), (5, 10), (3, 100_000)])
def test_a_full_scaffold_submits_at_any_budget(tmp_path, calls, tokens):
    source = draft()
    for edit in EDITS:
        if edit.applicable(source):
            source = with_edit(source, edit.name)
    task = toy("twelve")
    trajectory, metrics, _ = execute(Run(task, Policy(task), 0, tmp_path, Budget(calls, tokens)), source, 1)
    assert trajectory.of("end")[0].data["reason"] == "returned"
    assert len(trajectory.of("submit")) >= 1
    assert metrics["used"]["verifier_calls"] <= calls


def test_a_fallback_that_is_no_record_ends_the_search_in_code_quietly(tmp_path):
    source = with_edit(draft(), "local_search")
    scope = namespace(source)

    class Env:
        task = {**{"fields": toy("twelve").space.as_dict()}, "fallback": "def solve():\n    return 1"}
        random = Random(0)

    assert list(scope["neighbours"](Env, {"task": Env.task, "best": [], "tried": {}})) == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ('```json\n{"a": 1, "b": "x"}\n```', {"a": 1, "b": "x"}),
        ("{'a': 1, 'b': 'x',}", {"a": 1, "b": "x"}),
        ("{a: 1, b: true}", {"a": 1, "b": True}),
        ('first {"a": 1} then {"a": 2}', {"a": 2}),
        ('{"a": 1, "b": "x",', {"a": 1, "b": "x"}),
        ('{"a": "has } in it"}', {"a": "has } in it"}),
        ("nothing here", None),
        ("{{{{", None),
        ("", None),
    ],
)
def test_sturdier_extraction_reads(text, expected):
    got = namespace(with_edit(draft(), "sturdier_extraction"))["extract"](text)
    assert (got and json.loads(got)) == expected


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="{}[]\"':,\\ab1 \n", max_size=60))
@example("{[]}")
def test_extraction_never_raises(text):
    for source in EXTRACTORS:
        got = source["extract"](text)
        assert got is None or isinstance(json.loads(got), dict)


EXTRACTORS = [namespace(draft()), namespace(with_edit(draft(), "sturdier_extraction"))]


def test_mending_moves_wrong_values_to_the_nearest_and_fills_gaps():
    task = toy("twelve")
    scope = namespace(with_edit(draft(), "mend_answers"))
    number = next(f for f in task.space.fields if f.ordered)
    word = next(f for f in task.space.fields if isinstance(f.values[0], str))

    class Env:
        pass

    Env.task = {"fields": task.space.as_dict(), "fallback": task.fallback().text}
    answer = json.dumps({number.name: number.values[1] + 0.01, word.name: word.values[1].upper(), "other": 3})
    spec = task.space.parse(scope["mend"](Env, {"best": []}, answer))
    assert spec[number.name] == number.values[1] and spec[word.name] == word.values[1]


def test_the_additive_fit_finds_the_effects_of_an_additive_score():
    scope = namespace(with_edit(draft(), "screen_changes"))
    fields = {"a": {"values": [0, 1, 2], "ordered": True, "doc": ""}, "b": {"values": ["x", "y"], "ordered": False, "doc": ""}}
    effect = {"a": [0.0, 0.2, 0.6], "b": [0.1, 0.0]}
    tried = {}
    for i, a in enumerate(fields["a"]["values"]):
        for j, b in enumerate(fields["b"]["values"]):
            tried[json.dumps({"a": a, "b": b})] = {"score": effect["a"][i] + effect["b"][j], "valid": True}
    found = scope["value_effects"]({"task": {"fields": fields}, "tried": tried})
    assert found["a"][0] < found["a"][1] < found["a"][2] and found["b"][0] > found["b"][1]
    assert abs(sum(found["a"])) < 1e-9


def test_tuning_moves_name_constants_that_the_edits_put_in():
    source = draft()
    for edit in EDITS:
        if edit.applicable(source):
            source = with_edit(source, edit.name)
    assert all(surgery.constant(source, name) is not None for name, *_ in MOVES)


def test_surgery_leaves_the_rest_byte_for_byte():
    source = 'X = 1  # noté\nS = "é"; T = 2\n\n\ndef f(a):\n    return g(a)\n'
    assert surgery.set_constant(source, "T", 3) == source.replace("T = 2", "T = 3")
    assert surgery.set_constant(source, "S", 'q"\n') == source.replace('"é"', r'"q\"\n"')
    assert surgery.add_keyword(source, "g", "b", "1") == source.replace("g(a)", "g(a, b=1)")
    with pytest.raises(LookupError):
        surgery.set_constant(source, "Y", 1)
    with pytest.raises(LookupError):
        surgery.append(source, "h", "pass")
