"""The explorer's index of a trajectory: it holds what ``Trajectory.read`` reads, chooses as plain Python would, and follows."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_nb.errors import ConfigError, StoreError
from sia_nb.store import ROOT
from sia_nb.trajectory import KINDS, Trajectory, TrajectoryWriter, text_sha
from sia_nb.view.explorer.columns import text_number
from sia_nb.view.explorer.events import SORTS, EventLog

REFERENCE = sorted((ROOT / "results" / "reference").glob("*/*/*/step_*/trajectory.jsonl"))


def event(number: int, kind: str = "log", seconds: float = 0.5, /, **data) -> str:
    return (
        json.dumps({"id": number, "kind": kind, "seconds": seconds, "data": data}, ensure_ascii=False, separators=(",", ":"))
        + "\n"
    )


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(lines), encoding="utf-8")
    return path


# -- the same events as Trajectory.read ------------------------------------------------------------------


@pytest.mark.parametrize("path", REFERENCE[::16], ids=lambda p: f"{p.parts[-3]}-{p.parts[-2]}")
def test_a_recorded_run_is_read_whole(path):
    log, trajectory = EventLog(path, whole=True), Trajectory.read(path)
    assert len(log) == len(trajectory) and log.damaged == trajectory.damaged == []
    for n, e in enumerate(trajectory):
        assert log.event(n) == {"id": e.id, "kind": e.kind, "seconds": e.seconds, "data": e.data}
    assert log.counts("kind") == {k: len(trajectory.of(k)) for k in dict.fromkeys(e.kind for e in trajectory)}


scalars = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6
)
FIELDS = (
    "text",
    "solution",
    "score",
    "valid",
    "failure",
    "reason",
    "tokens",
    "sample",
    "evaluate",
    "instance",
    "ok",
    "text_sha",
    "what",
)
words = st.sampled_from(
    ["", "crash", "timeout", "Ärger", "案件", "verifier_calls", "returned", "İ", "ß", "\\", '"', "\n", "a\u2028b"]
)
datas = st.dictionaries(st.sampled_from(FIELDS), words | scalars, max_size=6) | st.dictionaries(
    st.text(max_size=6), values, max_size=4
)
events = st.tuples(st.sampled_from([*KINDS, "other"]), st.floats(0, 99, width=32), datas)
junk = st.binary(max_size=40).map(lambda b: b.replace(b"\n", b" ").replace(b"\r", b" ")) | st.sampled_from(
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b'{"id":1}',
        b'{"id":1,"kind":"log","seconds":0.1,"data":{}} x',
        b'{"id":0.5,"kind":1,"seconds":"2","data":[]}',
        b"[" * 5000,
    ]
)
writings = st.sampled_from([{"ensure_ascii": False, "separators": (",", ":")}, {"ensure_ascii": True}, {"ensure_ascii": False}])


@st.composite
def files(draw) -> bytes:
    """A trajectory as written by us, or otherwise, with lines that are none in between."""
    out, number = [], 0
    for line in draw(st.lists(events | junk, max_size=12)):
        if isinstance(line, bytes):
            out.append(line)
            continue
        kind, seconds, data = line
        raw = {"id": number, "kind": kind, "seconds": seconds, "data": data}
        text = json.dumps(raw, **draw(writings)).encode("utf-8", "replace")
        out.append(text)
        number += draw(st.integers(1, 2))
    return b"".join(line + b"\n" for line in out)


def as_read(path: Path) -> list[dict]:
    return [{"id": e.id, "kind": e.kind, "seconds": e.seconds, "data": e.data} for e in Trajectory.read(path)]


def same(a, b) -> bool:
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)  # nan is nan


@settings(max_examples=100, deadline=None)
@given(content=files())
def test_what_is_an_event_and_what_is_damaged_is_as_trajectory_read_says(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("t") / "trajectory.jsonl"
    path.write_bytes(content)
    try:
        expected = as_read(path)
    except RecursionError:  # Trajectory.read gives up on lines nested this deep
        content = b"\n".join(line for line in content.split(b"\n") if not line.startswith(b"[[["))
        path.write_bytes(content)
        expected = as_read(path)
    log = EventLog(path, whole=True)
    assert same([log.event(n) for n in range(len(log))], expected)
    assert log.damaged == Trajectory.read(path).damaged


# -- choosing: as plain Python would ---------------------------------------------------------------------


def holds(data: dict, text: str) -> bool:
    """Whether the JSON of ``data`` holds the text, letter by letter, in either case."""
    letters = lambda s: re.findall(r"\\u[0-9a-f]{4}|\\.|[^\\]", s, re.S)
    hay, needle = (
        letters(json.dumps(data, ensure_ascii=False, separators=(",", ":"))),
        letters(json.dumps(text, ensure_ascii=False)[1:-1]),
    )

    def alike(wanted: str, letter: str) -> bool:
        if len(wanted) > 1:
            return wanted == letter
        cased = [c for c in (wanted, wanted.lower(), wanted.upper()) if len(c) == 1 and (c.isascii() or not wanted.isascii())]
        return letter in cased

    return any(all(map(alike, needle, hay[i:])) for i in range(len(hay) - len(needle) + 1))


def naive(events: list[dict], kinds, text, failed, low, high, sort, descending) -> list[int]:
    """``select`` over plain Python objects, for events that hold what the gateway writes."""
    out = []
    for n, e in enumerate(events):
        d = e["data"]
        score = d.get("score") if e["kind"] in ("verdict", "submit") else None
        went_wrong = {
            "verdict": not d.get("valid"), "extract": not d.get("ok"), "error": True,
            "limit": str(d.get("what") or "limit") not in ("verifier_calls", "tokens"), "end": str(d.get("reason", "returned")) not in ("returned", ""),
        }.get(e["kind"], False)  # fmt: skip
        number = score if type(score) in (int, float) and score == score and abs(score) < 1e300 else None
        if kinds and e["kind"] not in kinds or failed is not None and went_wrong != failed:
            continue
        if (low is not None or high is not None) and (
            number is None or not (low is None or number >= low) or not (high is None or number <= high)
        ):
            continue
        if holds(d, text):
            tokens = d.get("tokens") if e["kind"] == "response" else None
            key = {
                "id": n,
                "seconds": e["seconds"],
                "reward": number,
                "tokens": tokens if type(tokens) is int and tokens >= 0 else None,
            }[sort]
            out.append((key is None, (-key if descending else key) if key is not None else 0, n))
    if sort == "id":
        return [n for *_, n in sorted(out, key=lambda o: o[2], reverse=descending)]
    return [n for *_, n in sorted(out)]


needles = st.sampled_from(
    ["", "a", "N", "crash", "ÄRGER", "ärger", "案", '"', "\\", "\n", "i", "k", "ß", "\u2028", "}", ":", "0", "text", "İ"]
) | st.text(max_size=3)


@pytest.mark.parametrize("text, found", [("0", [0]), ("001f", []), ("u001f", []), ("n", [2]), ("f", [1])])
def test_a_match_does_not_begin_inside_an_escape(tmp_path, text, found):
    path = tmp_path / "trajectory.jsonl"
    values = ['{"a":10}', '{"a":"\\u001ff"}', '{"a":"\\\\n"}', '{"a":"\\n"}']
    path.write_text("".join(f'{{"id":{n},"kind":"log","seconds":1.5,"data":{v}}}\n' for n, v in enumerate(values)))
    assert EventLog(path, whole=True).select(text=text).tolist() == found


def pieces(events: list[dict]) -> list[str]:
    """The texts that events hold, and their data as JSON: what a piece of is worth searching for."""
    out = []
    for e in events:
        out += [json.dumps(e["data"], ensure_ascii=False), *(v for v in e["data"].values() if isinstance(v, str))]
    return [text for text in out if text]


@settings(max_examples=60, deadline=None)
@given(content=files(), draw=st.data())
def test_a_search_finds_what_events_hold(tmp_path_factory, content, draw):
    path = tmp_path_factory.mktemp("s") / "trajectory.jsonl"
    path.write_bytes(b"\n".join(line for line in content.split(b"\n") if not line.startswith(b"[[[")))
    events = as_read(path)
    whole = draw.draw(st.sampled_from(pieces(events) or ["?"]))
    begin = draw.draw(st.integers(0, len(whole) - 1))
    text = whole[begin : begin + draw.draw(st.integers(1, 4))].swapcase()
    assert EventLog(path, whole=True).select(text=text).tolist() == [n for n, e in enumerate(events) if holds(e["data"], text)]


@settings(max_examples=150, deadline=None)
@given(
    content=files(), kinds=st.sets(st.sampled_from(KINDS), max_size=3), text=needles, failed=st.none() | st.booleans(),
    low=st.none() | st.floats(-2, 2), high=st.none() | st.floats(-2, 2), sort=st.sampled_from(list(SORTS)), descending=st.booleans(),
)  # fmt: skip
def test_select_is_a_plain_filter(tmp_path_factory, content, kinds, text, failed, low, high, sort, descending):
    path = tmp_path_factory.mktemp("s") / "trajectory.jsonl"
    path.write_bytes(b"\n".join(line for line in content.split(b"\n") if not line.startswith(b"[[[")))
    events = as_read(path)
    log = EventLog(path, whole=True)
    chosen = log.select(kinds=sorted(kinds), text=text, failed=failed, reward=(low, high), sort=sort, descending=descending)
    assert chosen.tolist() == naive(events, kinds, text, failed, low, high, sort, descending)
    assert [row["n"] for row in log.rows(chosen)] == chosen.tolist()


@pytest.mark.parametrize("path", REFERENCE[5::48], ids=lambda p: f"{p.parts[-3]}-{p.parts[-2]}")
@pytest.mark.parametrize("text", ["char12", "RETURNED", '"model":"svc"', "案", "no such thing"])
def test_search_in_a_recorded_run(path, text):
    log, events = EventLog(path), as_read(path)
    assert log.select(text=text).tolist() == [n for n, e in enumerate(events) if holds(e["data"], text)]


def test_a_search_over_many_blocks_and_over_gaps_between_chosen_rows(tmp_path):
    lines = [event(n, "log" if n % 7 else "submit", kind="x", text=f"word{n % 10} " + "pad " * 5000) for n in range(1500)]
    log = EventLog(write(tmp_path / "t.jsonl", *lines))
    assert os.path.getsize(log.path) > 3 * 8 << 20
    assert log.select(text="WORD3 ").tolist() == [n for n in range(1500) if n % 10 == 3]
    assert log.select(kinds=["submit"], text="word3 ").tolist() == [n for n in range(0, 1500, 7) if n % 10 == 3]


def test_a_search_never_begins_inside_an_escape_nor_ends_behind_the_data(tmp_path):
    texts = ["one\nbar", "two\\nbar", "nbar", "\\\nbar", 'say "n"', "tab\tnbar"]
    log = EventLog(write(tmp_path / "t.jsonl", *(event(n, text=text) for n, text in enumerate(texts))))
    for piece in ("nbar", "\nbar", "\\nbar", "\\", "\n", 'y "n"', '"N"', "tnbar", "\tn", "bar"):
        assert log.select(text=piece).tolist() == [n for n, text in enumerate(texts) if piece.lower() in text.lower()], piece
    assert log.select(text="}").tolist() == list(range(6)) and log.select(text="}}").tolist() == []


def test_filters_of_a_wrong_kind_say_so(tmp_path):
    log = EventLog(write(tmp_path / "t.jsonl", event(0)))
    for wrong, said in (
        ({"sort": "size"}, "sort: 'size'"), ({"kinds": "log"}, "kinds: 'log'"), ({"text": 3}, "text: 3"), ({"kinds": [1]}, "kinds"),
        ({"reward": "high"}, "reward: 'high'"), ({"reward": (1,)}, "reward"), ({"instance": None}, "instance"), ({"kinds": 5}, "kinds: 5"),
        ({"sort": []}, "sort: []"), ({"failed": "yes"}, "failed: 'yes'"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=re.escape(said)):
            log.select(**wrong)
    for n in (1, -1, "0", None, True, 0.0):
        with pytest.raises(ConfigError, match="no row"):
            log.event(n)


def test_instances_and_failures(tmp_path):
    lines = [
        event(0, "start", instance="small"), event(1, "verdict", score=0.5, valid=True, failure=""),
        event(2, "verdict", score=0.0, valid=False, failure="crash", reason="crash: no"), event(3, "log", instance="large", kind="x"),
        event(4, "start", instance="large"), event(5, "verdict", score=0.0, valid=False, reason="?"), event(6, "limit", what="tokens"),
        event(7, "limit", what="memory"), event(8, "end", reason="killed"), event(9, "extract", ok=False),
    ]  # fmt: skip
    log = EventLog(write(tmp_path / "t.jsonl", *lines))
    assert log.counts("instance") == {"small": 3, "large": 7}
    assert log.counts("failure") == {"crash": 1, "invalid": 1, "tokens": 1, "memory": 1, "killed": 1, "not_extracted": 1}
    assert log.select(instance="small").tolist() == [0, 1, 2]
    assert log.select(failure="memory").tolist() == [7]
    assert log.select(failed=True).tolist() == [2, 5, 7, 8, 9]
    assert log.select(failed=False).tolist() == [0, 1, 3, 4, 6]
    assert log.select(reward=(0.5, 0.5)).tolist() == [1] and log.select(reward=(0.0, None)).tolist() == [1, 2, 5]
    assert log.select(reward=[None, 0.0]).tolist() == [2, 5]
    assert (
        log.select(instance="medium").tolist() == log.select(failure="fire").tolist() == log.select(kinds=["fire"]).tolist() == []
    )


@pytest.mark.parametrize("descending", [False, True])
def test_ties_stay_in_the_order_of_the_file_and_rows_without_a_value_come_last(tmp_path, descending):
    lines = [event(n, "verdict", score=n % 3 / 2, valid=True) if n % 4 else event(n, "log") for n in range(1000)]
    chosen = EventLog(write(tmp_path / "t.jsonl", *lines)).select(sort="reward", descending=descending).tolist()
    key = lambda n: (n % 4 == 0, (-1 if descending else 1) * (n % 3) if n % 4 else 0, n)
    assert chosen == sorted(range(1000), key=key)


def test_what_belongs_together(tmp_path):
    answer, prose = '{"a":1}', 'I think it is 1: {"a":1}'
    lines = [
        event(10, "sample", messages=[{"role": "user", "content": "?"}], n=2), event(11, "response", sample=10, index=0, text=prose, tokens=4),
        event(12, "response", sample=10, index=1, text="no", tokens=1), event(13, "extract", text_sha=text_sha(prose), ok=True, solution=answer, error=""),
        event(14, "extract", text_sha=text_sha("no"), ok=False, solution=None, error=""), event(15, "evaluate", solution=answer, dialect="spec"),
        event(16, "verdict", evaluate=15, score=0.5, valid=True), event(17, "submit", solution=answer, score=0.5), event(18, "end", reason="returned"),
    ]  # fmt: skip
    log = EventLog(write(tmp_path / "t.jsonl", *lines))
    expected = {
        0: [1, 2],
        1: [0, 3, 5, 6, 7],
        2: [0, 4],
        3: [1, 5, 6, 7],
        4: [2],
        5: [1, 3, 6, 7],
        6: [1, 3, 5, 7],
        7: [1, 3, 5, 6],
        8: [],
    }
    assert {n: log.linked(n) for n in range(9)} == expected
    assert log.row_of(16) == 6 and log.row_of(3) is None
    assert f"{text_number(prose):016x}" == text_sha(prose)


def test_one_solution_evaluated_over_and_over(tmp_path):
    lines = []
    for n in range(0, 20_000, 2):
        lines += [event(n, "evaluate", solution="same"), event(n + 1, "verdict", evaluate=n, score=0.5, valid=True)]
    log = EventLog(write(tmp_path / "t.jsonl", *lines))
    start = time.process_time()
    assert log.linked(10) == [n for n in range(20_000) if n != 10]
    assert time.process_time() - start < 1  # not a pass over the log for each of them


# -- following -------------------------------------------------------------------------------------------


def test_follows_a_writer_and_reads_only_what_was_appended(tmp_path, monkeypatch):
    path = tmp_path / "t.jsonl"
    writer = TrajectoryWriter(path)
    writer.write("start", task="x")
    log, read = EventLog(path), []
    monkeypatch.setattr(os, "pread", lambda fd, size, offset, pread=os.pread: read.append(got := pread(fd, size, offset)) or got)
    assert not log.refresh() and not read  # nothing happened: nothing is read
    for n in range(1, 400):
        writer.write("log", kind="n", n=n, pad="x" * 500)
        assert log.refresh() and len(log) == n + 1 and log.event(n)["data"]["n"] == n
    assert sum(map(len, read)) < 399 * 3500  # a line, what it is told by, and its event; not the file 399 times over
    writer.close()


def test_a_half_written_line_waits(tmp_path):
    path, line = tmp_path / "t.jsonl", event(1, "log", text="案件 — ok").encode()
    path.write_bytes(event(0).encode())
    log = EventLog(path)
    for cut in range(1, len(line)):
        with open(path, "ab") as f:
            f.write(line[cut - 1 : cut])
        log.refresh()
        assert len(log) == 1 and log.damaged == [] and log.pending == cut
    with open(path, "ab") as f:
        f.write(line[-1:])
    assert log.refresh() and len(log) == 2 and log.pending == 0 and log.event(1)["data"]["text"] == "案件 — ok"


def test_a_last_line_without_end_of_a_finished_file_is_read_or_damaged(tmp_path):
    path = write(tmp_path / "t.jsonl", event(0), event(1)[:-1])
    assert len(EventLog(path)) == 1 and len(EventLog(path, whole=True)) == 2
    write(path, event(0), event(1)[:-5])
    assert EventLog(path).damaged == [] and EventLog(path, whole=True).damaged == [2]
    log = EventLog(path)
    log.whole = True  # the step has ended since
    assert log.refresh() and log.damaged == [2] and not log.refresh()


@pytest.mark.parametrize("how", ["renamed over", "written in place"])
def test_a_step_that_is_executed_again_is_read_anew(tmp_path, how):
    path = write(tmp_path / "t.jsonl", *(event(n, text="first") for n in range(50)))
    log = EventLog(path)
    short = "".join(event(n, text="second") for n in range(5))
    if how == "renamed over":
        os.replace(write(tmp_path / "new", short), path)
    else:
        path.write_text(short)
    assert log.refresh() and len(log) == 5 and log.generation == 1 and log.event(4)["data"] == {"text": "second"}
    longer = [event(n, text="third") for n in range(80)]
    write(path, *longer)  # the same file, longer than before: it is not what was read with more behind it
    assert log.refresh() and len(log) == 80 and log.generation == 2 and log.select(text="second").tolist() == []


def test_an_execution_that_begins_alike_and_goes_on_otherwise_is_read_anew(tmp_path):
    start = event(0, "sample", messages=[{"role": "user", "content": "the same prompt " * 100}])
    log = EventLog(write(tmp_path / "t.jsonl", start, event(1, text="first")))
    write(log.path, start, event(1, text="other"), event(2, text="more"))
    assert log.refresh() and log.generation == 1 and [log.event(n)["data"]["text"] for n in (1, 2)] == ["other", "more"]


def test_damaged_lines_keep_their_numbers_while_the_file_grows(tmp_path):
    log = EventLog(write(tmp_path / "t.jsonl", "?\n", event(0)))
    with open(log.path, "a") as f:
        f.write(event(1) + "?\n")
    assert log.refresh() and log.damaged == [1, 4] and len(log) == 2


def test_a_file_cut_short_while_it_is_read_is_an_error_and_no_crash(tmp_path):
    path = write(tmp_path / "t.jsonl", *(event(n, text="x" * 300) for n in range(50)))
    log = EventLog(path)
    os.truncate(path, 1000)
    with pytest.raises(StoreError, match="written anew"):
        log.event(40)
    assert set(log.select(text="xxx")) <= {0, 1, 2}
    assert log.refresh() and len(log) == 2


def test_renamed_at_the_end_of_its_step_the_file_goes_on(tmp_path):
    log = EventLog(write(tmp_path / ".t.tmp", event(0)))
    log.path = tmp_path / "t.jsonl"
    os.rename(tmp_path / ".t.tmp", log.path)
    with open(log.path, "a") as f:
        f.write(event(1))
    assert log.refresh() and len(log) == 2 and log.generation == 0
    os.remove(log.path)
    assert not log.refresh() and log.event(1)["id"] == 1


def test_no_file(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        EventLog(tmp_path / "t.jsonl")
    log = EventLog(write(tmp_path / "t.jsonl"))
    assert len(log) == 0 and log.select(text="x").tolist() == [] and log.counts("kind") == {} and log.rows([]) == []


# -- what a text may be ----------------------------------------------------------------------------------


def test_huge_binary_and_foreign_text(tmp_path):
    texts = [
        "x" * 9_000_000 + "NEEDLE",
        "".join(map(chr, range(256))),
        "<script>alert(1)</script>",
        "שלום עולם",
        "罪名：盗窃",
        "a\u2028b\u2029c",
    ]
    log = EventLog(write(tmp_path / "t.jsonl", *(event(n, "response", text=t, tokens=n) for n, t in enumerate(texts))))
    assert [log.event(n)["data"]["text"] for n in range(len(texts))] == texts
    for n, piece in enumerate(["needle", "\x00\x01", "<SCRIPT>", "עולם", "盗窃", "\u2028b"]):
        assert log.select(text=piece).tolist() == [n], piece
    rows = log.rows(range(len(texts)))
    assert all(len(row["summary"]) <= 200 for row in rows) and rows[2]["summary"] == texts[2]
    assert not any(ord(c) < 32 for row in rows for c in row["summary"])


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(
        event(0).encode()
        + os.urandom(5000).replace(b"\n", b"")
        + b"\n"
        + b"\x00" * 100
        + b"\n"
        + event(1).encode()
        + b'{"id":2,"kind":"log","seconds":0.1,"data":{"text":"\xff\xfe"}}\n'
    )
    log = EventLog(path)
    assert log.damaged == [2, 3] and len(log) == 3 and log.event(2)["data"]["text"] == "\ufffd\ufffd"


def test_columns_are_small(tmp_path):
    log = EventLog(write(tmp_path / "t.jsonl", *(event(n, "verdict", score=0.1, valid=True, evaluate=1) for n in range(3000))))
    assert sum(log.table[name].itemsize for name in ("start", "id", "seconds", "reward", "text")) == 40
    assert sum(a.nbytes for a in log.table._arrays.values()) < 3000 * 1.6 * 100
    assert isinstance(log.select(), np.ndarray)
