"""The gateway, the runner and execute: budgets exact, the record true, and whatever a scaffold does survived."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scaffold_fakes import GOOD, CountingPolicy, DigitsTask, DigitsVerifier, scaffold

from sia_nb.errors import ModelError, SandboxError, StoreError
from sia_nb.scaffold import sandbox
from sia_nb.scaffold.contract import Budget, ScaffoldError
from sia_nb.scaffold.execute import call_scaffold, execute, task_info
from sia_nb.scaffold.gateway import MAX_REFUSED, Gateway
from sia_nb.scaffold.runner import Channel, MessageError
from sia_nb.scaffold.sandbox import Limits
from sia_nb.trajectory import Trajectory, TrajectoryWriter, text_sha

ISOLATING = [name for name, reason in sandbox.backends().items() if not reason and name != "plain"]
PLENTY = Budget(8, 400, 20.0)
LOW = Limits(wall_seconds=float("inf"), cpu_seconds=10, memory_mb=300, processes=6, output_mb=4, file_mb=8)


def perform(folder: Path, source: str, *, budget: Budget = PLENTY, **more):
    """Execute with the fakes; returns (execution, trajectory, policy, verifier)."""
    parts = {"task": DigitsTask(), "policy": CountingPolicy(), "verifier": DigitsVerifier(), "seed": 5, "archive": []}
    parts |= {"trusted": False, "limits": LOW, "workdir": folder / "work", "trajectory_path": folder / "t.jsonl"} | more
    done = execute(source, budget=budget, **parts)
    record = Trajectory.read(folder / "t.jsonl")
    print(done.notice, *(e.data for e in record.of("error", "limit", "end")))  # shown where a test fails
    return done, record, parts["policy"], parts["verifier"]


def only(trajectory: Trajectory, kind: str) -> dict:
    (event,) = trajectory.of(kind)
    return event.data


# --- a good scaffold ------------------------------------------------------------------------------------------------
def test_record_budget_and_result(tmp_path):
    done, t, policy, verifier = perform(tmp_path, GOOD, budget=Budget(7, 200, 20.0))
    assert (done.score, done.valid, done.solution, done.reason) == (6 / 15, True, '{"a":1,"b":2}', "returned")
    assert {k: done.used[k] for k in ("verifier_calls", "tokens")} == {"verifier_calls": 7, "tokens": 80}
    assert verifier.asked == [f'{{"a":{i // 4},"b":{i % 4}}}' for i in range(7)]
    assert [s["score"] for s in done.solutions] == [i / 15 for i in range(6, -1, -1)]
    assert (done.counts["samples"], done.counts["responses"], done.counts["extracted"], done.counts["valid"]) == (4, 8, 8, 7)
    kinds = [e.kind for e in t]
    assert kinds[:7] == ["start", "sample", "response", "response", "extract", "evaluate", "verdict"]
    assert kinds[-3:] == ["limit", "submit", "end"]
    assert t[4].data == {"text_sha": text_sha(t[2].data["text"]), "ok": True, "solution": '{"a":0,"b":0}', "error": ""}
    assert t[6].data["evaluate"] == 5 and t[2].data["sample"] == 1
    assert only(t, "limit")["what"] == "verifier_calls"
    assert only(t, "end") == {"reason": "returned", "used": {"verifier_calls": 7, "tokens": 80}}
    assert [e.id for e in t] == list(range(len(t)))


def test_same_seed_same_bits_and_another_seed_differs(tmp_path):
    digests = [perform(tmp_path, GOOD, seed=seed)[1].digest() for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_what_the_verifier_remembers_from_elsewhere_changes_nothing(tmp_path):
    class Cold(DigitsVerifier):
        def score(self, solution):
            from dataclasses import replace

            return replace(super().score(solution), cached=False, seconds=9.0)

    warm, cold = perform(tmp_path, GOOD)[1].digest(), perform(tmp_path, GOOD, verifier=Cold())[1].digest()
    assert warm == cold


def test_env_is_what_the_contract_says(tmp_path):
    source = scaffold("""
env.log("task", value=env.task)
env.log("archive", value=env.archive)
env.log("budget", value=sorted(env.budget()))
env.log("error", value=env.BudgetExhausted is BudgetExhausted and issubclass(BudgetExhausted, RuntimeError))
env.submit(env.task["fallback"])
""")
    archive = [{"solution": '{"a":2,"b":1}', "score": 0.6}]
    done, t, _, _ = perform(tmp_path, source, archive=archive)
    logs = {e.data["kind"]: e.data["value"] for e in t.of("log")}
    assert logs["task"] == task_info(DigitsTask()) and logs["archive"] == archive and logs["error"] is True
    assert logs["budget"] == ["seconds", "tokens", "verifier_calls"]
    assert done.score == 1 / 15 and done.used["verifier_calls"] == 0


# --- budgets --------------------------------------------------------------------------------------------------------
def test_repeats_are_free_and_unparsable_ones_are_not(tmp_path):
    source = scaffold("""
for text in ['{"a":1,"b":1}', '{"b":1, "a":1}', "nonsense", '{"a":1}', '{"a":9,"b":1}', '{"a":3,"b":3}', '{"a":2,"b":2}']:
    v = env.evaluate(text)
    env.log("v", failure=v["failure"], cached=v["cached"], left=env.budget()["verifier_calls"])
env.submit('{"a":2,"b":2}')
""")
    known = DigitsTask().parse('{"a":2,"b":2}').id
    done, t, _, _ = perform(tmp_path, source, budget=Budget(5, 10, 20.0), scored={known})
    seen = [(e.data["failure"], e.data["cached"], e.data["left"]) for e in t.of("log")]
    assert seen == [
        ("", False, 4), ("", True, 4), ("unparsable", False, 3), ("missing_field", False, 2), ("bad_value", False, 1),
        ("timeout", False, 0), ("", True, 0),
    ]  # fmt: skip
    assert [e.data["repeat"] for e in t.of("verdict")] == [False, True, False, False, False, False, True]
    assert done.used["verifier_calls"] == 5 and done.counts["repeats"] == 2
    assert done.counts["failures"] == {"unparsable": 1, "missing_field": 1, "bad_value": 1, "timeout": 1}


_TWO_SAMPLES = """
ask = [{{"role": "user", "content": "x"}}]
env.log("n", got=len(env.sample(ask, n=10, max_tokens=30, grammar={grammar})))
try:
    env.sample(ask, grammar={grammar})
except env.BudgetExhausted as error:
    env.log("refused", why=str(error))
"""


def test_a_free_sample_is_cut_to_the_tokens_left(tmp_path):
    done, t, policy, _ = perform(tmp_path, scaffold(_TWO_SAMPLES.format(grammar=None)), budget=Budget(5, 65, 20.0))
    assert done.used["tokens"] == 65  # six texts of 10 and one cut to 5
    assert [e.data["tokens"] for e in t.of("response")] == [10] * 6 + [5]
    assert [e.data["index"] for e in t.of("response")] == list(range(7))
    assert [(c["n"], c["max_tokens"]) for c in policy.calls] == [(2, 30), (1, 30), (1, 30), (1, 25), (1, 15), (1, 5)]
    assert len({c["seed"] for c in policy.calls}) == 6
    assert t.of("log")[0].data["got"] == 7 and "tokens" in t.of("log")[1].data["why"]
    assert [e.data["what"] for e in t.of("limit")] == ["tokens"]


def test_a_masked_sample_is_whole_or_left_out(tmp_path):
    source = scaffold(_TWO_SAMPLES.format(grammar='"solution"'))
    done, t, policy, _ = perform(tmp_path, source, budget=Budget(5, 65, 20.0))
    assert done.used["tokens"] == 60
    assert [e.data["tokens"] for e in t.of("response")] == [10] * 6
    assert [c["n"] for c in policy.calls] == [6] and policy.calls[0]["segments"] == DigitsTask.space.segments()
    assert t.of("log")[0].data["got"] == 6 and "tokens" in t.of("log")[1].data["why"]
    assert [e.data["what"] for e in t.of("limit")] == ["tokens"]


def test_time_in_the_verifier_counts_and_a_moment_is_left_to_submit(tmp_path):
    class Slow(DigitsVerifier):
        def score(self, solution):
            time.sleep(0.7)
            return super().score(solution)

    source = scaffold("""
best = None
try:
    for b in range(4):
        env.evaluate('{"a":1,"b":%d}' % b)
        best = b
except BudgetExhausted:
    env.submit('{"a":1,"b":%d}' % best)
""")
    done, t, _, _ = perform(tmp_path, source, budget=Budget(8, 10, 1.2), verifier=Slow())
    assert done.valid and done.reason == "returned" and only(t, "limit")["what"] == "seconds"


@pytest.mark.parametrize(
    "call, word",
    [
        ("env.sample(build_prompt({'task': env.task}), n=0)", "n is 0"),
        ("env.sample(build_prompt({'task': env.task}), n=257)", "1 to 256"),
        ("env.sample(build_prompt({'task': env.task}), n=True)", "n is True"),
        ("env.sample(build_prompt({'task': env.task}), max_tokens=1025)", "max_tokens"),
        ("env.sample(build_prompt({'task': env.task}), temperature=2.1)", "temperature"),
        ("env.sample(build_prompt({'task': env.task}), temperature='hot')", "temperature"),
        ("env.sample(build_prompt({'task': env.task}), grammar='json')", "grammar"),
        ("env.sample('hello')", "messages"),
        ("env.sample([{'role': 'god', 'content': 'x'}])", "messages"),
        ("env.sample([{'role': 'user', 'content': 'x' * 300000}])", "messages"),
        ("env.evaluate(None)", "NoneType"),
        ("env.evaluate('x' * 70000)", "characters"),
        ("env.evaluate('x' * 5000000)", "bytes"),
        ("env.submit(3)", "int"),
        ("env.log('big', text='x' * 70000)", "characters"),
        ("env.log('odd', value=float('nan'))", "float"),
    ],
)
def test_arguments_out_of_range(tmp_path, call, word):
    source = scaffold(f"try:\n    {call}\nexcept ValueError as error:\n    env.log('told', text=str(error))\nenv.submit('x')")
    done, t, policy, _ = perform(tmp_path, source)
    assert word in only(t, "log")["text"] and policy.calls == [] and done.reason.startswith("unparsable")
    assert t.of("limit", "error") == [] and done.used["verifier_calls"] == 0


# --- submissions ----------------------------------------------------------------------------------------------------
def test_the_last_submission_counts_and_is_scored_once_uncounted(tmp_path):
    source = scaffold("""env.submit('{"a":3,"b":2}'); env.submit('{"a":2,"b":0}')""")
    done, t, _, verifier = perform(tmp_path, source)
    assert (done.score, done.solution, done.used["verifier_calls"]) == (8 / 15, '{"a":2,"b":0}', 0)
    assert verifier.asked == ['{"a":2,"b":0}'] and only(t, "verdict")["final"] is True
    assert [e.data["score"] for e in t.of("submit")] == [None, None]


def test_no_submission(tmp_path):
    done, t, _, _ = perform(tmp_path, scaffold('env.evaluate(\'{"a":3,"b":0}\')'))
    assert (done.score, done.valid, done.reason, done.solution) == (0.0, False, "no_submission", None)
    assert only(t, "end")["reason"] == "no_submission" and len(done.solutions) == 1


def test_an_invalid_submission_says_why(tmp_path):
    done, _, _, _ = perform(tmp_path, scaffold('env.submit(\'{"a":3,"b":3}\')'))
    assert (done.score, done.valid, done.reason, done.solution) == (0.0, False, "timeout: 20 s", '{"a":3,"b":3}')


# --- bad scaffolds --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "source, word",
    [("def run(env:\n", "syntax error in line 1"), ("x = 1", "'build_prompt' is missing"), ("\0", "agent.py")],
)
def test_a_scaffold_that_is_none(tmp_path, source, word):
    done, t, _, _ = perform(tmp_path, source)
    assert (done.reason, done.score) == ("crashed", 0.0) and word in only(t, "error")["message"]
    assert [e.kind for e in t] == ["start", "error", "end"]


def test_a_crash_shows_the_scaffolds_own_lines(tmp_path):
    source = scaffold('env.submit(\'{"a":1,"b":0}\')\nhelper(object())') + "\ndef helper(x):\n    raise KeyError(x)\n"
    done, t, _, _ = perform(tmp_path, source)
    error = only(t, "error")
    assert error["where"] == "run" and error["message"] == "KeyError: <object object at 0x…>"
    assert [line.split(":", 1)[1].strip() for line in error["traceback"].splitlines()] == [
        "helper(object())",
        "raise KeyError(x)",
    ]
    assert "runner" not in error["traceback"]
    assert (done.reason, done.score, done.valid) == ("crashed", 4 / 15, True)


def test_a_crash_on_import(tmp_path):
    _, t, _, _ = perform(tmp_path, "import numpy_that_is_not_there\n" + GOOD)
    assert only(t, "error")["where"] == "import"


def test_extract_that_fails_is_reported(tmp_path):
    source = scaffold("""
for text in ("none", "int", "raise"):
    try:
        extract(text)
    except ZeroDivisionError:
        pass
""").replace(
        "def extract", "def extract(text):\n    return {'none': None, 'int': 3}[text] if text != 'raise' else 1 / 0\n\ndef other"
    )
    done, t, _, _ = perform(tmp_path, source)
    assert [(e.data["ok"], e.data["error"]) for e in t.of("extract")] == [
        (False, ""), (False, "extract returned int, expected str or None"), (False, "ZeroDivisionError: division by zero"),
    ]  # fmt: skip
    assert done.counts["not_extracted"] == 3


@pytest.mark.parametrize("backend", ISOLATING)
@pytest.mark.parametrize(
    "body, what",
    [
        ("while True: pass", "seconds"),
        ("import time\ntime.sleep(60)", "seconds"),
        ("x = bytearray(10 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1", "memory"),
        ("import sys\nfor i in range(1000): sys.stdout.write('x' * (1 << 20)); sys.stdout.flush()", "output"),
    ],
)
def test_limits_end_an_execution(tmp_path, backend, body, what):
    source = scaffold('env.submit(\'{"a":1,"b":0}\')\n' + body)
    done, t, _, _ = perform(tmp_path, source, budget=Budget(8, 10, 1.5), backend=backend)
    assert only(t, "limit")["what"] == what and only(t, "end")["reason"] == "killed"
    assert (done.reason, done.score, done.backend) == ("killed", 4 / 15, backend)


@pytest.mark.parametrize("backend", ISOLATING)
def test_a_fork_bomb_ends_an_execution(tmp_path, backend):
    """2^9 processes if nothing stops it, each with the socket in hand."""
    body = (
        "import os, time\nfor i in range(9):\n    try: os.fork()\n    except OSError: pass\n    time.sleep(0.05)\ntime.sleep(30)"
    )
    done, t, _, _ = perform(tmp_path, scaffold(body), budget=Budget(8, 10, 1.5), backend=backend)
    assert done.reason == "killed" and t.of("limit")


@pytest.mark.parametrize(
    "body", ["import os\nos._exit(0)", "import ctypes\nctypes.string_at(0)", "import os\nos.closerange(3, 100)"]
)
def test_a_process_that_ends_without_a_word(tmp_path, body):
    done, t, _, _ = perform(tmp_path, scaffold(body), limits=LOW)
    assert done.reason == "crashed" and only(t, "error")["where"] in ("process", "run") and t.of("end")


def test_exit_is_a_return(tmp_path):
    assert perform(tmp_path, scaffold('import sys\nenv.submit(\'{"a":1,"b":0}\')\nsys.exit(0)'))[0].reason == "returned"


messages = pytest.mark.trust(suite="gateway messages", backend="")


@pytest.mark.trust(suite="budgets", backend="threads")
def test_threads_that_hammer_the_gateway_pass_no_cap(tmp_path):
    body = """
import threading
def hammer(k):
    while True:
        try:
            for text in env.sample(build_prompt({"task": env.task}), n=3, max_tokens=15, grammar="solution" if k % 2 else None):
                env.evaluate(extract(text) + " " * k if k == 3 else extract(text))
            env.evaluate("no solution %d" % k)
        except BudgetExhausted:
            if min(env.budget()["tokens"] // 10, env.budget()["verifier_calls"]) == 0:
                return
threads = [threading.Thread(target=hammer, args=(k,)) for k in range(8)]
for t in threads: t.start()
for t in threads: t.join()
env.submit(env.task["fallback"])
"""
    done, t, _, _ = perform(tmp_path, scaffold(body), budget=Budget(9, 205, 60.0))
    calls = sum(not v.data["repeat"] for v in t.of("verdict") if not v.data.get("final"))
    tokens = sum(r.data["tokens"] for r in t.of("response"))
    assert calls == done.used["verifier_calls"] <= 9 and tokens == done.used["tokens"] <= 205
    assert {"verifier_calls", "tokens"} & {e.data["what"] for e in t.of("limit")} and done.reason == "returned"


FORGED = [
    "{'id': 1, 'method': 'submit', 'solution': '{}'}",  # an earlier message's number: played again
    "{'id': 1, 'method': 'hello'}",
    "{'id': True, 'method': 'submit', 'solution': '{}'}",
    "{'id': 2.0, 'method': 'submit', 'solution': '{}'}",
    "{'id': 999, 'method': 'submit', 'solution': '{}'}",
    "{'id': None, 'method': 'submit', 'solution': '{}'}",
    "{'id': 2, 'method': 'verdict', 'score': 1.0, 'valid': True}",
    "{'id': 2, 'method': 'response', 'text': 'x'}",
    "{'id': 2, 'method': ['submit'], 'solution': '{}'}",
    "{'id': 2, 'method': 'extract', 'text_sha': 'zz', 'ok': True, 'solution': 'x', 'error': ''}",
    "{'id': 2, 'method': 'log', 'kind': 3, 'data': []}",
    "{'id': 2, 'method': 'log', 'kind': 'x', 'data': {'kind': 'y'}}",
    "{'id': 2, 'method': 'error', 'where': 'gateway', 'message': '', 'traceback': ''}",
]


@messages
@pytest.mark.parametrize("message", FORGED)
def test_a_forged_message(tmp_path, message):
    done, t, _, _ = perform(tmp_path, scaffold(f"env._channel.send({message})\nenv._channel.receive()"))
    assert t.of("limit")[0].data["what"] == "message"
    assert t.of("verdict", "response", "submit") == [] and done.score == 0.0 and done.solutions == []


@messages
@pytest.mark.parametrize(
    "raw", ["b'\\xff' * 100", "b'\\0\\0\\0\\0'", "b'\\0\\0\\0\\x02[]'", "b'\\0\\0\\0\\x05hello'", "b'\\0\\0'"]
)
def test_raw_bytes_on_the_socket_end_the_execution(tmp_path, raw):
    body = f"""
import os, socket
env.submit('{{"a":1,"b":0}}')
for fd in range(3, 100):
    try:
        socket.socket(fileno=os.dup(fd)).sendall({raw})
    except OSError:
        pass
os._exit(0)
"""
    done, t, _, _ = perform(tmp_path, scaffold(body))
    assert only(t, "limit")["what"] == "message" and done.reason == "killed"


@messages
def test_refusals_and_floods_come_to_an_end(tmp_path):
    body = "n = 2\nwhile True:\n    env._channel.send({'id': n, 'method': 'x'}); env._channel.receive(); n += 1"
    done, t, _, _ = perform(tmp_path, scaffold(body))
    assert done.reason == "killed" and len(t.of("limit")) == MAX_REFUSED + 1


@messages
def test_a_flood_without_reading_the_answers(tmp_path):
    body = "n = 2\nwhile True:\n    env._channel.send({'id': n, 'method': 'budget'}); n += 1"
    done, t, _, _ = perform(tmp_path, scaffold(body), budget=Budget(8, 10, 3.0))
    assert done.reason == "killed" and t.of("limit")[0].data["what"] in ("message", "seconds")


@messages
def test_a_message_after_the_end(tmp_path):
    body = "env._call('done')\nenv._channel.send({'id': 3, 'method': 'submit', 'solution': '{}'})\nimport time\ntime.sleep(9)"
    done, t, _, _ = perform(tmp_path, scaffold(body))
    assert only(t, "limit")["detail"] == "a message after the end" and t.of("submit") == []


@messages
def test_half_a_surrogate_does_not_break_the_record(tmp_path):
    done, t, _, _ = perform(tmp_path, scaffold("env.log('odd', text='a\\ud800b')\nenv.submit('\\udfff')"))
    assert only(t, "log")["text"] == "a?b" and done.reason.startswith("unparsable")


@messages
def test_a_link_left_in_the_working_folder_is_not_followed(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "work" / "agent.py").symlink_to(tmp_path / "victim")
    perform(tmp_path, GOOD)
    assert (tmp_path / "victim").read_text() == "precious"


# --- the host's own troubles ----------------------------------------------------------------------------------------
def test_a_policy_that_fails_is_the_hosts_error(tmp_path):
    class Broken(CountingPolicy):
        def sample(self, *args, **kwargs):
            raise ModelError("policy: gone")

    with pytest.raises(ModelError, match="gone"):
        perform(tmp_path, GOOD, policy=Broken())
    assert only(Trajectory.read(tmp_path / "t.jsonl"), "end")["reason"] == "killed"


def test_a_full_disk(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    (tmp_path / "t.jsonl").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="Free some space"):
        perform(tmp_path, GOOD)


def test_no_sandbox_for_an_untrusted_scaffold(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "probe", lambda name: "" if name == "plain" else "not here")
    with pytest.raises(SandboxError, match="--unsafe-no-sandbox"):
        perform(tmp_path, GOOD)
    done, t, _, _ = perform(tmp_path, GOOD, trusted=True)
    assert done.backend == only(t, "start")["sandbox"] == "plain" and "plain process" in done.notice and done.valid


def heed_ctrl_c():
    """A shell's background job starts with SIGINT ignored, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_the_tree_and_closes_the_record(tmp_path):
    host = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_gateway import *
perform(Path({str(tmp_path)!r}), scaffold("env.log('up')\\nimport time\\ntime.sleep(60)"), budget=Budget(1, 1, 60.0))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", host], cwd=Path(__file__).parent.parent, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    )
    path = tmp_path / "t.jsonl"
    while not (path.exists() and '"log"' in path.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert only(Trajectory.read(path), "end")["reason"] == "killed"


# --- the wire -------------------------------------------------------------------------------------------------------
@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_a_message_an_end_or_an_error(raw, framed):
    a, b = socket.socketpair()
    with a, b:
        a.sendall(struct.pack(">I", len(raw)) + raw if framed else raw)
        a.shutdown(socket.SHUT_WR)
        channel = Channel(b)
        try:
            message = channel.receive(time.monotonic() + 1)
        except MessageError:
            return
        assert message is None and not raw and not framed or isinstance(message, dict)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_any_object_survives_the_wire(message):
    a, b = socket.socketpair()
    with a, b:
        Channel(a).send(message)
        assert Channel(b).receive() == message


METHODS = ["hello", "budget", "sample", "evaluate", "log", "submit", "extract", "error", "done", "nothing", None, 3]
FIELDS = ["messages", "n", "temperature", "max_tokens", "grammar", "solution", "kind", "data", "text_sha", "ok", "error", "where"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(METHODS), st.dictionaries(st.sampled_from(FIELDS), json_values)), max_size=8))
def test_no_sequence_of_messages_breaks_the_gateway(tmp_path_factory, sequence):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    writer = TrajectoryWriter(path)
    task, verifier = DigitsTask(), DigitsVerifier()
    gateway = Gateway(task_info(task), CountingPolicy(), verifier, task, Budget(2, 30, 0.2), 0, [], writer)
    a, b = socket.socketpair()
    with a, b:
        for number, (method, params) in enumerate(sequence, 1):
            Channel(a).send({**params, "id": number, "method": method})
        a.shutdown(socket.SHUT_WR)
        assert gateway.serve(b) in ("returned", "crashed", "killed")
    gateway.judge()
    writer.close()
    trajectory = Trajectory.read(path)
    assert trajectory.damaged == [] and gateway.verifier_calls <= 2 and gateway.tokens <= 30
    assert all(json.dumps(e.data, allow_nan=False) for e in trajectory)


@pytest.mark.parametrize(
    "body",
    ['{"id":1,"n":1e999}', '{"id":1,"n":NaN}', '{"id":' + "[" * 60 + "]" * 60 + "}", "[" * 100_000, '{"id":' + "9" * 5000 + "}"],
)
def test_json_that_python_would_take_but_the_record_could_not(body):
    a, b = socket.socketpair()
    with a, b:
        a.sendall(struct.pack(">I", len(body)) + body.encode())
        with pytest.raises(MessageError):
            Channel(b).receive()


def test_a_message_above_the_cap_is_not_even_read():
    a, b = socket.socketpair()
    with a, b:
        a.sendall(struct.pack(">I", 5 << 20))
        with pytest.raises(MessageError, match="expected 2 to"):
            Channel(b).receive()


def test_a_slow_message_meets_its_deadline():
    a, b = socket.socketpair()
    with a, b:
        threading.Timer(0.05, a.sendall, [b"\0\0"]).start()
        with pytest.raises(TimeoutError):
            Channel(b).receive(time.monotonic() + 0.2)


# --- calls of the pure functions --------------------------------------------------------------------------------------
def test_call_scaffold():
    state = {"task": task_info(DigitsTask()), "best": [], "parent": None}
    prompt, found, none, broken = call_scaffold(
        GOOD, [("build_prompt", [state]), ("extract", ["a {1} b"]), ("extract", ["no"]), ("build_prompt", [{}])], trusted=False
    )
    assert prompt.value[1] == {"role": "user", "content": "Find large digits. 数字"} and prompt.error == ""
    assert (found.value, none.value, none.error) == ("{1}", None, "")
    assert broken.value is None and "KeyError: 'task'" in broken.error and "agent.py, line" in broken.error


def test_call_scaffold_with_hostile_ones():
    with pytest.raises(ScaffoldError):
        call_scaffold("def", [], trusted=False)
    loop = GOOD.replace("def extract(text):", "def extract(text):\n    while text == 'loop': pass")
    limits = Limits(wall_seconds=1, memory_mb=300, processes=4)
    first, second, third = call_scaffold(
        loop, [("extract", ["{}"]), ("extract", ["loop"]), ("extract", ["{}"])], trusted=False, limits=limits
    )
    assert first.value == "{}" and second.error.startswith("killed") and third.error.startswith("killed")
    wrong = GOOD.replace("def extract(text):", "def extract(text):\n    return {'a': 1}")
    assert "dict" in call_scaffold(wrong, [("extract", [""])], trusted=False)[0].error
    lost = GOOD.replace("def extract(text):", "def extract(text):\n    import os; os._exit(3)")
    assert call_scaffold(lost, [("extract", [""])], trusted=False)[0].error == "crashed: the process ended"
    late = GOOD + "\nraise RuntimeError('no')"
    assert call_scaffold(late, [("extract", [""])], trusted=False)[0].error.startswith("import: RuntimeError: no")
