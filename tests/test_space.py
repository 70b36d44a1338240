"""The declared space of specs: strict, canonical, and the same thing as its grammar."""

import itertools
import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_nb.errors import InvalidSolution
from sia_nb.tasks.space import Field, Space

SPACE = Space(
    [
        Field("kind", ("a", "ab", "b"), "which"),
        Field("size", (0.5, 1, 20), "how much", ordered=True),
        Field("on", (True, False, None), "switch"),
    ]
)


@given(st.integers())
def test_a_drawn_spec_survives_the_round_trip(seed):
    spec = SPACE.random(Random(seed))
    assert SPACE.parse(SPACE.dump(spec)) == spec


def test_the_grammar_writes_exactly_the_canonical_lines():
    lines = {"".join(parts) for parts in itertools.product(*SPACE.segments())}
    assert len(lines) == SPACE.size == 27
    assert all(SPACE.dump(SPACE.parse(line)) == line for line in lines)


@given(st.integers(), st.randoms())
def test_field_order_and_spaces_do_not_matter(seed, shuffle):
    spec = SPACE.random(Random(seed))
    items = list(spec.items())
    shuffle.shuffle(items)
    assert SPACE.dump(SPACE.parse(json.dumps(dict(items), indent=1))) == SPACE.dump(spec)


@pytest.mark.parametrize(
    ("text", "kind", "part"),
    [
        ("", "unparsable", "JSON"),
        ("[1]", "unparsable", "object"),
        ('{"kind":"a"', "unparsable", "JSON"),
        ('{"kind":"a","kind":"b","size":1,"on":true}', "unparsable", "twice"),
        ('{"knd":"a","size":1,"on":true}', "unknown_field", "Did you mean 'kind'?"),
        ('{"kind":"a","size":1}', "missing_field", "'on'"),
        ('{"kind":"c","size":1,"on":true}', "bad_value", '"ab"'),
        ('{"kind":"a","size":true,"on":true}', "bad_value", "'size' is true"),
        ('{"kind":"a","size":1,"on":0}', "bad_value", "'on' is 0"),
        ('{"kind":"a","size":1,"on":true} and more', "unparsable", "JSON"),
    ],
)
def test_what_is_no_spec_says_why(text, kind, part):
    with pytest.raises(InvalidSolution) as error:
        SPACE.parse(text)
    assert error.value.kind == kind
    assert part in str(error.value)


@given(st.text())
def test_any_text_parses_or_is_refused(text):
    try:
        SPACE.parse(text)
    except InvalidSolution:
        pass
