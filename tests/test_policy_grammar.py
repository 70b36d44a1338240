"""The grammar: one token path for every text, and nothing else."""

import json
from itertools import product
from math import prod
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_space import SPACE, tokenizer

from sia_nb.errors import ModelError
from sia_nb.policy.grammar import Grammar
from sia_nb.tasks.space import Field, Space


def paths(grammar: Grammar, state: int = 0, so_far: tuple[int, ...] = ()):
    """Every token path of a small grammar."""
    if state == grammar.end:
        yield so_far
    for token in grammar.allowed(state):
        yield from paths(grammar, grammar.transitions[state][token], (*so_far, token))


def texts(segments) -> list[str]:
    return ["".join(parts) for parts in product(*segments)]


def decode(ids) -> str:
    return tokenizer().decode(ids[:-1], skip_special_tokens=False)


scalars = st.one_of(
    st.integers(-20, 2000), st.booleans(), st.none(), st.floats(0.001, 99, allow_nan=False).map(lambda x: round(x, 3)),
    st.text(st.characters(max_codepoint=0x9FFF, exclude_categories=["Cs"]), max_size=6),
)  # fmt: skip
names = st.text(st.characters(max_codepoint=0x9FFF, categories=["L", "N", "P"]), min_size=1, max_size=8)


@st.composite
def spaces(draw):
    fields = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    return Space([Field(n, tuple(draw(st.lists(scalars, min_size=1, max_size=4, unique_by=json.dumps))), "") for n in fields])


@settings(max_examples=60, deadline=None)
@given(spaces())
def test_the_paths_of_a_space_are_its_specs_one_each(space):
    grammar = Grammar(space.segments(), tokenizer())
    found = list(paths(grammar))
    assert sorted(map(decode, found)) == sorted(texts(space.segments()))
    assert len(found) == prod(len(f.values) for f in space.fields)
    for ids in found:
        assert space.dump(space.parse(decode(ids))) == decode(ids)
        assert grammar.encode(decode(ids)) == list(ids)


def test_a_spec_has_the_tokens_it_has_in_a_prompt():
    grammar = Grammar(SPACE.segments(), tokenizer())
    rng = Random(1)
    for _ in range(200):
        text = SPACE.dump(SPACE.random(rng))
        ids = grammar.encode(text)
        assert ids[:-1] == tokenizer()(text, add_special_tokens=False)["input_ids"]
        assert ids[-1] == tokenizer().eos_token_id
        assert grammar.walk(ids)[-1] == grammar.end
        assert len(ids) <= grammar.longest


@pytest.mark.parametrize(
    "segments",
    [
        [("1", "10", "100")],  # a value that begins another, at the very end
        [("a", "ab"), ("x", "y")],  # and before a choice
        [("1", "12", "x"), ("3",)],
        [("k:",), ("", "no")],
        [("only",)],
        [("a",), ("b",), ("c", "d"), ("e",), ("f",)],
        [("char", "chart"), ("ed\n\n", "ing  "), ("1",)],
    ],
)
def test_awkward_segments_keep_one_path_a_text(segments):
    grammar = Grammar(segments, tokenizer())
    found = list(paths(grammar))
    assert sorted(map(decode, found)) == sorted(texts(segments))
    assert all(grammar.encode(decode(ids)) == list(ids) for ids in found)


def test_forced_runs_lead_to_the_next_choice():
    grammar = Grammar([("{",), ("1", "2"), ("}",)], tokenizer())
    run, state = grammar.forced(0)
    assert decode([*run, 2]) == "{" and len(grammar.allowed(state)) == 2
    after = grammar.transitions[state][grammar.allowed(state)[0]]
    run, state = grammar.forced(after)
    assert decode(run) == "}" and state == grammar.end and grammar.allowed(state) == ()


@pytest.mark.parametrize(
    ("segments", "says"),
    [
        ([("a", "ab"), ("bc", "c")], "where a choice ends"),  # abc in two ways
        ([("a", "a")], "repeats"),
        ([("a",), ()], "empty"),
    ],
)
def test_a_grammar_that_is_none_is_refused(segments, says):
    with pytest.raises(ModelError, match=says):
        Grammar(segments, tokenizer())


def test_texts_and_tokens_outside_are_refused():
    grammar = Grammar(SPACE.segments(), tokenizer())
    with pytest.raises(ModelError, match="not in the grammar"):
        grammar.encode('{"view":"char9"}')
    with pytest.raises(ModelError, match="not allowed at place 1"):
        grammar.walk([grammar.allowed(0)[0], 7])
