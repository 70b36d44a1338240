"""The trajectory file: append, read, survive damage."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_nb.errors import StoreError
from sia_nb.trajectory import KINDS, Trajectory, TrajectoryWriter


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.dictionaries(st.text(), st.text() | st.integers() | st.none()))))
def test_what_is_written_is_read(tmp_path_factory, events):
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    writer = TrajectoryWriter(path)
    for kind, data in events:
        writer.write(kind, **{k: v for k, v in data.items() if k not in ("self", "kind")})
    writer.close()
    back = Trajectory.read(path)
    assert [e.id for e in back] == list(range(len(events)))
    assert [e.kind for e in back] == [k for k, _ in events]
    assert back.damaged == []


def test_damaged_lines_are_passed_over_and_named(tmp_path):
    path = tmp_path / "t.jsonl"
    writer = TrajectoryWriter(path)
    writer.write("start", task="x")
    writer.write("log", text="y")
    writer.close()
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "\x00garbage", '{"id": 7}', lines[1], lines[1][:10]]))
    back = Trajectory.read(path)
    assert [e.kind for e in back] == ["start", "log"]
    assert back.damaged == [2, 3, 5]


def test_the_digest_ignores_time_and_nothing_else(tmp_path):
    def record(text, delay):
        path = tmp_path / f"{text}{delay}.jsonl"
        path.write_text(json.dumps({"id": 0, "kind": "log", "seconds": delay, "data": {"text": text}}) + "\n")
        return Trajectory.read(path).digest()

    assert record("a", 1.0) == record("a", 2.0)
    assert record("a", 1.0) != record("b", 1.0)


def test_a_missing_file_is_a_clear_error(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        Trajectory.read(tmp_path / "none.jsonl")
