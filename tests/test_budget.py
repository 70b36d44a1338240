"""The ledger, its caps and the price table."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_nb.agents.record import AgentRecorder
from sia_nb.budget import PRICED, Caps, Ledger, Price, Spent, dollars, read_prices
from sia_nb.errors import BudgetExceeded, ConfigError, StoreError


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


# --- what is on the way, threads and resumption --------------------------------------------------------------------------
@pytest.mark.trust(suite="budgets", backend="threads")
def test_no_thread_passes_the_cap_while_others_are_on_the_way(tmp_path, trust):
    """Sixteen threads ask for calls of at most $0.10 each, which come to less: never may all of them together pass $1."""
    recorder = AgentRecorder(tmp_path / "calls.jsonl", Ledger(tmp_path / "ledger.jsonl", Caps(dollars=1.0)))
    worst, made, refused = [], [], []

    def ask(thread):
        for n in range(6):
            try:
                number = recorder.begin("decide", {"thread": thread, "n": n}, 0.1)
            except BudgetExceeded:
                refused.append(thread)
                return
            worst.append(recorder.ledger.total().dollars + recorder.committed())
            recorder.end(number, {"message": {}}, {"dollars": 0.03, "input_tokens": 7})
            made.append(number)

    threads = [threading.Thread(target=ask, args=(t,)) for t in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert max(worst) <= 1.0 + 1e-9 and refused and len(set(made)) == len(made)
    trust.cases(len(made) + len(refused))
    again = AgentRecorder(tmp_path / "calls.jsonl", Ledger(tmp_path / "ledger.jsonl", Caps(dollars=1.0)))
    assert again.ledger.total() == recorder.ledger.total() == Spent(dollars=pytest.approx(0.03 * len(made)))
    assert len([e for e in again.entries if e["event"] == "end"]) == len(made)


@pytest.mark.trust(suite="budgets", backend="threads")
def test_ledgers_of_one_file_lose_and_tear_nothing(tmp_path, trust):
    path = tmp_path / "ledger.jsonl"

    def write(thread):
        for n in range(25):
            Ledger(path).add("run", n, f"thread {thread}", verifier_calls=1, tokens=10, note="x" * 500)

    threads = [threading.Thread(target=write, args=(t,)) for t in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert Ledger(path).total() == Spent(200, 2000)
    trust.cases(200)


def test_a_cap_counts_what_is_ahead(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", Caps(verifier_calls=10, tokens=1000, seconds=60.0, dollars=1.0))
    ledger.add("run", 1, "x", verifier_calls=6, tokens=600, seconds=30.0, dollars=0.5)
    ledger.check(Spent(4, 400, 30.0, 0.5))
    for ahead, name in [
        (Spent(verifier_calls=5), "verifier calls"),
        (Spent(tokens=401), "tokens"),
        (Spent(seconds=30.1), "seconds"),
        (Spent(dollars=0.51), "dollars"),
    ]:
        with pytest.raises(BudgetExceeded, match=f"{name}: .* and what is ahead may take"):
            ledger.check(ahead)


# --- a table of prices of one's own -----------------------------------------------------------------------------------------
def test_a_table_of_ones_own_lies_over_the_kits(tmp_path):
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"dated": "2027-01", "models": {"mine": {"input": 2, "output": 8, "cache_read": 0.2}}}))
    table = read_prices(path)
    assert table == {"dated": "2027-01", "models": {"mine": {"input": 2.0, "output": 8.0, "cache_write": 2.0, "cache_read": 0.2}}}
    mine = {n: Price(**p) for n, p in table["models"].items()}
    assert dollars("mine", input_tokens=10**6, output_tokens=10**6, prices=mine) == 10.0 and dollars("mine") is None
    assert len(PRICED) == 7


def test_the_runs_table_is_kept_with_the_run(tmp_path):
    from sia_nb.agents import open_agents
    from sia_nb.config import make_config
    from sia_nb.store import Run, run_name
    from sia_nb.tasks import get_task

    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"dated": "2027-01", "models": {"m": {"input": 2, "output": 8}}}))
    given = {"agent": "openai_compatible", "agent_model": "m", "agent_url": "http://localhost:1/v1"}
    run = Run.create(make_config("smoke", prices=str(path), **given), tmp_path / "run")
    path.unlink()
    assert Run(run.path).info["prices"]["dated"] == "2027-01", "the file may go, the prices stay"
    with open_agents(run, get_task("lawbench")) as (meta, _):
        assert meta.agent._caller._most({"max_tokens": 1000}) == pytest.approx((8 * 1000 + 2 * 1020) / 1e6, rel=0.01)
    assert run.info["notices"] == []
    other = Run.create(make_config("smoke", **given), tmp_path / "other")
    with open_agents(other, get_task("lawbench")):
        assert "the price of 'm' is not known" in other.info["notices"][0]
    assert run_name(make_config("smoke")) == run_name(make_config("smoke", prices=""))


BAD = {
    "no file": (None, "cannot be read"), "no JSON": ("{", "is no JSON"), "a list": ("[]", "expected {"), "no date": ('{"models": {}}', "expected {"),
    "a number for a model": ('{"dated": "x", "models": {"m": 3}}', "model 'm' is 3"),
    "a word for a price": ('{"dated": "x", "models": {"m": {"input": "1", "output": 1}}}', "input is '1'; expected US dollars"),
    "a negative price": ('{"dated": "x", "models": {"m": {"input": -1, "output": 1}}}', "input is -1"),
    "no finite price": ('{"dated": "x", "models": {"m": {"input": Infinity, "output": 1}}}', "input is inf"),
    "true": ('{"dated": "x", "models": {"m": {"input": true, "output": 1}}}', "input is True"),
    "a misspelt field": ('{"dated": "x", "models": {"m": {"input": 1, "ouput": 1}}}', "Did you mean 'output'"),
    "a price missing": ('{"dated": "x", "models": {"m": {"input": 1}}}', "'output' is missing"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_table_names_file_model_and_field(tmp_path, what, capsys):
    from sia_nb.cli import main

    text, said = BAD[what]
    path = tmp_path / "prices.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_prices(path)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert main(["run", "--profile", "smoke", "--prices", str(path), "--run-dir", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda v: (
        st.lists(v, max_size=3)
        | st.dictionaries(st.sampled_from(["dated", "models", "m", "input", "output"]) | st.text(), v, max_size=4)
    ),
    max_leaves=10,
)


@given(json_values | st.fixed_dictionaries({"dated": st.text(), "models": st.dictionaries(st.text(), json_values, max_size=3)}))
def test_any_table_is_read_or_refused_clearly(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "prices.json"
    path.write_text(json.dumps(value))
    try:
        table = read_prices(path)
    except ConfigError as error:
        assert str(path) in str(error)
    else:
        assert all(p >= 0 for m in table["models"].values() for p in m.values())


@given(
    st.lists(
        st.binary(max_size=60)
        | st.sampled_from([b'{"phase":"run","step":1,"what":"x","verifier_calls":1,"tokens":2,"seconds":0.5,"dollars":0.0}']),
        max_size=5,
    )
)
def test_any_ledger_is_read_or_refused_and_what_is_read_stays(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "fuzz-ledger.jsonl"
    path.write_bytes(b"\n".join(lines))
    try:
        total = Ledger(path).total()
    except StoreError as error:
        assert "line" in str(error)
    else:
        Ledger(path).add("run", 9, "y", tokens=1)
        assert Ledger(path).total() == total + Spent(tokens=1)
