"""Faults of the outside in whole runs: no memory, a verifier and a kernel that die, a cap in the middle, and a long soak."""

import contextlib
import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
from agent_server import Server
from test_crash import ROOT, story
from test_fuzz import SEGMENTS

from sia_nb.errors import ModelError


@pytest.mark.parametrize(
    "error", [MemoryError("no memory"), RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"), RuntimeError("[enforce fail] not enough memory: you tried to allocate 9 bytes")]
)  # fmt: skip
@pytest.mark.trust(suite="faults", backend="memory")
def test_no_memory_to_sample_is_a_clear_error_and_leaves_the_policy_as_it_was(error):
    from toy_problem import tiny_policy

    from sia_nb.policy import adapter
    from sia_nb.steps import sampling

    policy = tiny_policy()
    adapter.attach(policy, rank=4, seed=0)
    ask = {"n": 2, "max_tokens": 8, "seed": 3, "temperature": 1.0}
    before = [s.text for s in policy.sample([{"role": "user", "content": "go"}], **ask)]
    with pytest.raises(ModelError, match="memory does not suffice to sample from 'tiny'.*resume"), sampling(policy):
        raise error
    assert [s.text for s in policy.sample([{"role": "user", "content": "go"}], **ask)] == before
    with pytest.raises(RuntimeError, match="shape"), sampling(policy):
        raise RuntimeError("shape mismatch")


POLICY_TROUBLE = {
    "hangs": "hang", "drips": "drip", "cuts": "cut", "garbage": "\x00garbage", "HTML": (200, {"content-type": "text/html"}, "<html>"),
    "half a JSON": '{"choices": [{"mess', "an empty object": {}, "null": "null", "429": (429, {}, {}), "500": (500, {}, "<html>"), "529": (529, {}, ""),
}  # fmt: skip


@pytest.mark.parametrize("trouble", POLICY_TROUBLE)
@pytest.mark.trust(suite="faults", backend="policy server")
def test_a_policy_server_in_trouble_is_tried_again_and_then_named(trouble):
    from sia_nb.policy.endpoint import EndpointPolicy

    good = {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
    }  # fmt: skip
    server = Server(POLICY_TROUBLE[trouble], good, *[POLICY_TROUBLE[trouble]] * 2)
    try:
        policy = EndpointPolicy(server.url + "/v1", "m", tries=2, wait=0.01, timeout=0.5)
        assert [s.text for s in policy.sample([{"role": "user", "content": "go"}])] == ["hello"]
        with pytest.raises(ModelError, match="policy: "):
            policy.sample([{"role": "user", "content": "go"}])
        assert len(server.requests) == 4
    finally:
        server.close()


def test_a_policy_server_that_passes_over_the_grammar_is_named():
    from sia_nb.policy.endpoint import EndpointPolicy

    said = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}], "id": "c", "object": "chat.completion", "created": 1, "model": "m"}  # fmt: skip
    server = Server(said)
    try:
        with pytest.raises(ModelError, match="passed over the grammar"):
            EndpointPolicy(server.url + "/v1", "m", tries=1).sample([{"role": "user", "content": "go"}], segments=SEGMENTS)
    finally:
        server.close()


@pytest.mark.trust(suite="budgets", backend="a run that its cap ends")
def test_a_cap_in_the_middle_ends_a_run_with_its_report(tmp_path):
    """The first call fits under the cap, a later one could pass it: F stops, the sealed test is opened, nothing is lost."""
    said = story(
        tmp_path,
        """
import json
from sia_nb.replay import replay
from sia_nb.verify import verify
most = [json.loads(l)["most"] for l in open(fresh("whole") / "agent_calls.jsonl") if '"begin"' in l]
poor = tiny_run.config(root / "policy", server.url, dollars=most[0] + 0.0005)
assert most[1] > poor.dollars
asked = server.requests
status, out = forked(lambda: go(poor, fresh("poor")))
assert status == 0, out
run = store.Run(fresh("poor"))
decision = store.read_json(run.step(1) / "decision.json")
assert decision["action"] == "stop" and decision["rule"] == "budget" and "what is ahead may take" in decision["rationale"]
report = store.read_json(run.path / "report.json")
assert report["arms"]["W+H"]["verifier_calls"] == run.metrics(1)["used"]["verifier_calls"] > 0
spent = sum(e["dollars"] for e in map(json.loads, open(run.path / "ledger.jsonl")))
assert 0 < spent <= poor.dollars and server.requests == asked + 1
assert verify(run.path).faults == [], verify(run.path).faults
assert forked(lambda: go(poor, fresh("poor")))[0] == 0 and server.requests == asked + 1, "resuming asks for nothing"
assert replay(run.path, root / "again", echo=lambda _: None).exact
print("stopped with what it has")
""",
    )
    assert "stopped with what it has" in said


def heed_ctrl_c():
    """A shell's background job starts with SIGINT ignored, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGINT,
        signal.SIGTERM,
        pytest.param(signal.SIGKILL, marks=pytest.mark.trust(suite="crash", backend="the smoke run and its notebooks")),
    ],
)
def test_the_smoke_run_itself(tmp_path, lawbench_data, embedded_model, signum, trust):
    """The real program, stopped again and again after some seconds until it is through, and then verified."""
    from sia_nb.verify import verify

    path, stops = tmp_path / "run", 0
    command = [sys.executable, "-m", "sia_nb", "run", "--profile", "smoke", "--run-dir", str(path), "--no-figures"]
    for seconds in (6, 11, 17, 23, 31, 45, 10_000):
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c)
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signum)
            stops += 1
        _, err = child.communicate(timeout=120)
        assert b"Traceback" not in err, err[-2000:]
        if child.returncode == 0:
            break
        assert child.returncode == (130 if signum != signal.SIGKILL else -9), err
        time.sleep(0.5)
    assert child.returncode == 0 and stops >= 2
    trust.cases(stops)
    assert verify(path).faults == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.trust(suite="faults", backend="a kernel that dies")
def test_a_kernel_that_dies_is_named_and_the_run_goes_on(tmp_path, lawbench_data, embedded_model):
    from sia_nb.verify import verify

    path = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "sia_nb",
        "run",
        "--profile",
        "smoke",
        "--steps",
        "2",
        "--run-dir",
        str(path),
        "--no-figures",
    ]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    kernels = []
    while not kernels:
        assert child.poll() is None
        with contextlib.suppress(psutil.Error):  # one that ended meanwhile
            below = psutil.Process(child.pid).children(recursive=True)
            forks = [p for p in below if "sia_nb.notebook_process" in " ".join(p.cmdline())]  # the kernel is the last of a chain
            kernels = [p for p in forks[2:] if (path / "step_001" / "work").exists()]
        time.sleep(0.1)
    kernels[0].send_signal(signal.SIGKILL)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 1 and b"kernel died" in err and b"Traceback" not in err, err
    again = subprocess.run(
        [*command[:3], "resume", str(path), "--report-only"], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert again.returncode == 0, again.stderr
    assert verify(path).faults == []


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.trust(suite="faults", backend="soak of 200 steps")
def test_a_soak_of_200_steps_with_random_faults_ends_valid_and_flat(tmp_path, trust):
    said = story(
        tmp_path,
        """
import random, resource, json, psutil
from sia_nb.errors import DataError
from sia_nb.verify import verify
STEPS = int(os.environ.get("SOAK_STEPS", "200"))
chance, faults, memory = random.Random(0), {}, {}
def count(kind):
    faults[kind] = faults.get(kind, 0) + 1
def trouble(handler):
    if chance.random() > 0.15:
        return False
    count("language-model server")
    status, reply = chance.choice([(500, b"{}"), (529, b""), (429, b"{}"), (503, b"<html>"), (0, b"")])
    if status:
        handler.send_response(status)
        handler.send_header("retry-after", "0")
        handler.send_header("content-length", str(len(reply)))
        handler.end_headers()
        handler.wfile.write(reply)
    handler.close_connection = True
    return True
server.trouble = trouble
def verdict():
    if chance.random() < 0.01:
        count("verifier")
        raise DataError("tiny: the verifier died")
tiny_run.TinyVerifier.trouble = staticmethod(verdict)
def at(number, label, fd):
    draw = chance.random()
    if draw < 0.002:
        count("full disk")
        raise OSError(28, "No space left on device", label)
    if draw < 0.003:
        count("interrupted")
        raise KeyboardInterrupt
def keep(name, step):
    if name == "02_run_generation":
        memory[step] = psutil.Process().memory_info().rss / 2**20
tiny_run.after = keep
long = tiny_run.config(root / "policy", server.url, arm="H", steps=STEPS, verifier_calls=3, tokens=300, dollars=100.0)
store.Run.create(long, fresh("soak"))
with tiny_run.Instants(fresh("soak"), at):
    for attempt in range(2000):
        try:
            go(long, fresh("soak"))
            break
        except (SiaError, KeyboardInterrupt) as error:
            what = str(error)
    else:
        raise SystemExit(f"never ended: {what}")
run = store.Run(fresh("soak"))
assert run.executed() == list(range(1, STEPS + 1))
found = verify(run.path)
assert found.faults == [], found.faults[:5]
phases_done = [(e["phase"], e["step"]) for e in map(json.loads, open(run.path / "ledger.jsonl")) if e["what"] == "phase"]
assert len(phases_done) == len(set(phases_done)) == 2 * STEPS + 1
early, late = memory[STEPS // 4], memory[STEPS]
assert late - early < 40, (early, late)
print(json.dumps({"faults": faults, "attempts": attempt + 1, "MiB": [round(early), round(late)]}))
""",
        timeout=2300,
    )
    counted = json.loads(said.splitlines()[-1])
    assert len(counted["faults"]) >= 3 and counted["attempts"] > 3
    trust.cases(sum(counted["faults"].values()))
