"""The ledger, its caps and the price table."""

from __future__ import annotations

import pytest

from sia_nb.budget import Caps, Ledger, Price, Spent, dollars
from sia_nb.errors import BudgetExceeded, StoreError


def filled(path, **more) -> Ledger:
    ledger = Ledger(path, **more)
    ledger.add("execute", 1, "scaffold", verifier_calls=8, tokens=400, seconds=2.5)
    ledger.add("feedback", 1, "decide", seconds=1.0, dollars=0.25, model="claude-haiku-4-5")
    ledger.add("feedback", 2, "improve", seconds=1.5, dollars=None, model="unheard-of")
    return ledger


def test_sums(tmp_path):
    ledger = filled(tmp_path / "ledger.jsonl")
    assert ledger.total() == Spent(8, 400, 5.0, 0.25, 1)
    assert ledger.by_phase() == {"execute": Spent(8, 400, 2.5), "feedback": Spent(0, 0, 2.5, 0.25, 1)}
    assert ledger.total(step=2) == Spent(0, 0, 1.5, 0.0, 1) and ledger.total("execute", 2) == Spent()


def test_reading_back_and_a_torn_last_line(tmp_path):
    path = tmp_path / "ledger.jsonl"
    filled(path)
    whole = path.read_bytes()
    for torn in (b'{"phase":"exec', b'{"phase":"x","step":1}\n', b"\xff\xfe\n", whole.splitlines()[0]):
        path.write_bytes(whole + torn)
        again = Ledger(path)
        assert again.total() == Spent(8, 400, 5.0, 0.25, 1) and path.read_bytes() == whole
    again.add("execute", 2, "scaffold", tokens=1)
    assert Ledger(path).total().tokens == 401


def test_a_damaged_line_elsewhere_is_an_error(tmp_path):
    path = tmp_path / "ledger.jsonl"
    filled(path)
    path.write_bytes(b"oops\n" + path.read_bytes())
    with pytest.raises(StoreError, match="line 1"):
        Ledger(path)


@pytest.mark.parametrize(
    "cap, text",
    [({"verifier_calls": 8}, "verifier calls: 8 of 8"), ({"dollars": 0.2}, r"\$0.25 of \$0.20"), ({"seconds": 5.0}, "'seconds'")],
)
def test_a_reached_cap_names_itself_and_the_parameter(tmp_path, cap, text):
    with pytest.raises(BudgetExceeded, match=text):
        filled(tmp_path / "ledger.jsonl", caps=Caps(**cap)).check()


def test_caps_not_reached(tmp_path):
    filled(tmp_path / "ledger.jsonl", caps=Caps(9, 401, 5.1, 0.26)).check()
    filled(tmp_path / "other.jsonl").check()


def test_prices():
    usage = {"input_tokens": 1000, "output_tokens": 200, "cache_write_tokens": 4000, "cache_read_tokens": 10_000}
    assert dollars("claude-sonnet-4-6", **usage) == pytest.approx(0.003 + 0.003 + 0.015 + 0.003)
    assert dollars("claude-haiku-4-5-20251001", **usage) == pytest.approx(0.001 + 0.001 + 0.005 + 0.001)
    assert dollars("claude-haiku-4-5") == 0.0
    assert dollars("gpt-oss-120b", **usage) is None
    assert dollars("gpt-oss-120b", **usage, prices={"gpt-oss-120b": Price(1, 1, 1, 1)}) == pytest.approx(0.0152)


def test_a_full_disk(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(StoreError, match="Free some space"):
        ledger.add("execute", 1, "x")
