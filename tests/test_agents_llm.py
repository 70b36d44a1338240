"""The language-model agents with the real SDKs against a local server."""

import json
from pathlib import Path

import pytest
from agent_server import BETTER, KEY, SCAFFOLD, Server, chat_says, claude_says, decided, view, written
from playbook_simulator import toy
from stories import crossroads, lever

from sia_nb.agents import get_agents
from sia_nb.agents.record import AgentRecorder
from sia_nb.agents.tools import OPEN
from sia_nb.budget import Caps, Ledger
from sia_nb.errors import AgentError, BudgetExceeded
from sia_nb.training.hyper import MENU, Hyper

KINDS = {"claude": ("ANTHROPIC_API_KEY", "", claude_says), "openai_compatible": ("OPENAI_API_KEY", "/v1", chat_says)}


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture
def pair(tmp_path, monkeypatch, kind):
    """``make(*script) -> (server, M, F, recorder, waits)``; afterwards no file holds the key."""
    for variable, _, _ in KINDS.values():
        monkeypatch.setenv(variable, KEY)
    servers = []

    def make(*script, kind=kind, **options):
        server, waits = Server(*script), []
        servers.append(server)
        recorder = AgentRecorder(tmp_path / "agent_calls.jsonl", Ledger(tmp_path / "ledger.jsonl", Caps(dollars=1.0)))
        meta, feedback = get_agents(
            kind,
            model="claude-sonnet-4-6",
            recorder=recorder,
            base_url=server.url + KINDS[kind][1],
            sleep=waits.append,
            **options,
        )
        return server, meta, feedback, recorder, waits

    yield make
    for server in servers:
        server.close()
    for path in Path(tmp_path).rglob("*"):
        assert path.is_dir() or KEY not in path.read_text()


@pytest.fixture
def says(kind):
    return KINDS[kind][2]


def test_write_decide_improve(pair, says, kind):
    server, meta, feedback, recorder, waits = pair(
        says("write_scaffold", written(SCAFFOLD)), says("decide", decided()), says("write_scaffold", written())
    )
    assert meta.write("# U", "def reference(): pass") == SCAFFOLD
    decision = feedback.decide(view())
    assert (decision.action, decision.evidence) == ("harness", (2, 3))
    better = feedback.improve(view())
    assert (better.scaffold, better.edits) == (BETTER, ("prompt_guidance",))
    assert not waits and len(server.requests) == 3
    sent = server.requests[0]["headers"]
    # which of the two headers carries the key is the SDK's choice
    assert KEY in (sent.get("x-api-key"), sent.get("authorization", "").removeprefix("Bearer "))
    first, second, third = (r["body"] for r in server.requests)
    if kind == "claude":
        assert first["tool_choice"] == {"type": "tool", "name": "write_scaffold"}
        assert second["tool_choice"] == {"type": "tool", "name": "decide"}
        assert first["system"][-1]["cache_control"] == {"type": "ephemeral"}
        assert "def reference" in first["system"][0]["text"] and "env.submit" in first["system"][0]["text"]
        assert (second["system"], second["tools"]) == (third["system"], third["tools"])  # else the cache is lost
        enum = second["tools"][0]["input_schema"]["properties"]["action"]["enum"]
    else:
        assert second["tool_choice"] == {"type": "function", "function": {"name": "decide"}}
        assert "def reference" in first["messages"][0]["content"]
        enum = second["tools"][0]["function"]["parameters"]["properties"]["action"]["enum"]
    assert enum == ["harness", "stop"]
    assert "#3" in json.dumps(second["messages"]) and "no JSON" in json.dumps(second["messages"])


def test_usage_and_dollars(pair, says, kind):
    _, meta, _, recorder, _ = pair(says("write_scaffold", written()))
    meta.write("U", "R")
    usage = next(e for e in recorder.entries if e["event"] == "end")["usage"]
    if kind == "claude":
        expected = (100 * 3 + 50 * 15 + 2000 * 0.30 + 1000 * 3.75) / 1e6
        assert (usage["cache_read_tokens"], usage["cache_write_tokens"]) == (2000, 1000)
    else:
        expected = (180 * 3 + 40 * 15 + 120 * 0.30) / 1e6
    assert usage["dollars"] == pytest.approx(expected)
    assert recorder.ledger.total("init", 1).dollars == pytest.approx(expected)


def test_cap_stops_before_the_call(pair, says):
    server, meta, _, recorder, _ = pair(says("write_scaffold", written()))
    recorder.ledger.add("init", 1, "earlier", dollars=1.0)
    with pytest.raises(BudgetExceeded, match="dollars"):
        meta.write("U", "R")
    assert not server.requests


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_key_fails_at_once(pair, kind, status):
    server, meta, _, recorder, waits = pair(
        (status, {}, {"error": {"type": "authentication_error", "message": f"bad key {KEY}"}})
    )
    with pytest.raises(AgentError, match=KINDS[kind][0]) as caught:
        meta.write("U", "R")
    assert KEY not in str(caught.value) and len(server.requests) == 1 and not waits
    assert recorder.interrupted == []


def test_bad_request_shows_the_servers_words(pair):
    server, meta, _, _, _ = pair((400, {}, {"error": {"type": "invalid_request_error", "message": f"prompt too long {KEY}"}}))
    with pytest.raises(AgentError, match="prompt too long") as caught:
        meta.write("U", "R")
    assert len(server.requests) == 1 and KEY not in str(caught.value)


def test_rate_limit_waits_as_told(pair, says):
    _, meta, _, _, waits = pair((429, {"retry-after": "7"}, {"error": {"message": "slow"}}), says("write_scaffold", written()))
    assert meta.write("U", "R") == BETTER and waits == [7.0]


def test_a_wait_too_long_is_given_up(pair):
    _, meta, _, _, waits = pair((429, {"retry-after": "9999"}, {"error": {"message": "slow"}}))
    with pytest.raises(AgentError, match="9999"):
        meta.write("U", "R")
    assert not waits


@pytest.mark.parametrize("trouble", [(529, {}, {"error": {"message": "overloaded"}}), "cut", "no json at all"])
def test_passing_trouble_is_tried_again(pair, says, trouble):
    server, meta, _, recorder, waits = pair(trouble, says("write_scaffold", written()))
    assert meta.write("U", "R") == BETTER and waits == [1.0] and len(server.requests) == 2
    assert len(next(e for e in recorder.entries if e["event"] == "end")["response"]["failed_tries"]) == 1


PAGE = (200, {"content-type": "text/html"}, "<!doctype html><html><body><h1>502 Bad Gateway</h1></body></html>")
TROUBLE = {
    "hangs": "hang", "drips": "drip", "cuts": "cut", "garbage": "\x00\x01 garbage", "HTML": PAGE, "half a JSON": '{"id": "msg_1", "content": [{"ty',
    "an empty object": {}, "null": "null", "a number": "17", "a list": "[]", "nothing at all": "", "no message": {"id": "x", "choices": [], "content": None},
    "429": (429, {}, {"error": {"message": "slow"}}), "500": (500, {}, "<html>"), "502": (502, {}, ""), "503": (503, {}, {"error": None}),
    "529": (529, {}, {"error": {"message": "overloaded"}}), "408": (408, {}, {}), "409": (409, {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.trust(suite="faults", backend="language-model server")
def test_every_trouble_that_passes_is_survived_and_written_down(pair, says, trouble):
    server, meta, _, recorder, waits = pair(TROUBLE[trouble], says("write_scaffold", written()), deadline=4.0)
    assert meta.write("U", "R") == BETTER and len(server.requests) == 2 and waits == [1.0]
    assert recorder.interrupted == [] and recorder.committed() == 0.0
    (end,) = [e for e in recorder.entries if e["event"] == "end"]
    assert len(end["response"]["failed_tries"]) == 1


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.trust(suite="faults", backend="language-model server")
def test_trouble_that_does_not_pass_ends_in_a_clear_error(pair, trouble):
    _, meta, _, recorder, _ = pair(*[TROUBLE[trouble]] * 2, attempts=2, deadline=0.3)
    with pytest.raises(AgentError, match="no answer after 2 tries.*resume the run later"):
        meta.write("U", "R")
    assert recorder.interrupted == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
@pytest.mark.trust(suite="faults", backend="language-model server")
def test_what_does_not_pass_is_not_tried_again(pair, status):
    server, meta, _, _, waits = pair((status, {}, "<html>no</html>"))
    with pytest.raises(AgentError, match=f"HTTP {status}"):
        meta.write("U", "R")
    assert len(server.requests) == 1 and not waits


@pytest.mark.trust(suite="faults", backend="language-model server")
def test_an_empty_message_and_another_tools_name_are_mended(pair, says, kind):
    empty = claude_says(None, "") | {"content": []} if kind == "claude" else chat_says(None, "")
    other = says("launch_missiles", {"where": "home"})
    server, meta, _, recorder, _ = pair(empty, other, says("write_scaffold", written()))
    assert meta.write("U", "R") == BETTER and len(server.requests) == 3
    assert "launch_missiles" in json.dumps(server.requests[2]["body"]["messages"])


def test_an_answer_that_a_kill_left_unused_is_not_asked_for_again(pair, says):
    """The answer is on disk before it is used: here the process ends just after, and another one goes on."""
    server, meta, _, recorder, _ = pair(says("write_scaffold", written("def run(:")), says("write_scaffold", written()))
    used = recorder.result
    recorder.result = lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        meta.write("U", "R")
    before, spent = len(server.requests), recorder.ledger.total().dollars
    _, again, _, resumed, _ = pair()
    assert again.write("U", "R") == BETTER and before == 2, "from the record: this server's script is empty"
    assert resumed.ledger.total().dollars == spent and used is not None
    assert [e["event"] for e in resumed.entries] == ["begin", "end"] * 2 + ["result"]


def test_answers_that_led_nowhere_are_not_used_again(pair, says):
    _, meta, _, _, _ = pair(*[says(None, "I would rather talk.")] * 3)
    with pytest.raises(AgentError, match="no usable answer"):
        meta.write("U", "R")
    server, again, _, _, _ = pair(says("write_scaffold", written()))
    assert again.write("U", "R") == BETTER and len(server.requests) == 1


def test_a_call_that_the_ledger_missed_is_put_into_it_once(pair, says, tmp_path):
    _, meta, _, recorder, _ = pair(says("write_scaffold", written()))
    meta.write("U", "R")
    cost = recorder.ledger.total()
    (tmp_path / "ledger.jsonl").write_text("")
    for _ in range(2):
        _, _, _, again, _ = pair()
        assert again.ledger.total() == cost and again.ledger.total("init", 1).dollars == cost.dollars


def test_a_call_that_was_cut_off_counts_at_the_most_it_can_have_cost(pair, says, tmp_path):
    _, meta, _, recorder, _ = pair(says("write_scaffold", written()))
    number = recorder.begin("write", {"max_tokens": 9}, 0.9)
    assert recorder.committed() == 0.9
    with pytest.raises(BudgetExceeded, match=r"\$0.00 of \$1.00 are spent, and what is ahead may take \$1\.[0-9]+"):
        meta.write("U", "R")
    _, meta, _, again, _ = pair(says("write_scaffold", written()))
    assert again.interrupted == [number] and again.committed() == 0.9
    with pytest.raises(BudgetExceeded):
        meta.write("U", "R")
    again.end(number, {"message": {}}, {"dollars": 0.01})
    assert meta.write("U", "R") == BETTER


def test_errors_until_the_tries_are_spent(pair):
    server, meta, _, recorder, waits = pair(*[(500, {}, {"error": {"message": "broken"}})] * 4, attempts=4)
    with pytest.raises(AgentError, match="4 tries.*broken"):
        meta.write("U", "R")
    assert waits == [1.0, 2.0, 4.0] and len(server.requests) == 4
    assert "broken" in recorder.entries[-1]["response"]["error"]


def test_nobody_listens(pair):
    server, meta, _, _, waits = pair(attempts=2)
    server.close()
    with pytest.raises(AgentError, match="connection failed"):
        meta.write("U", "R")


def test_syntax_error_is_shown_and_repaired(pair, says):
    server, meta, _, recorder, _ = pair(says("write_scaffold", written("def run(:\n")), says("write_scaffold", written()))
    assert meta.write("U", "R") == BETTER
    assert "syntax error in line 1" in json.dumps(server.requests[1]["body"]["messages"][-1])
    assert [e["purpose"] for e in recorder.entries if e["event"] == "begin"] == ["write", "write repair 1"]


@pytest.mark.parametrize(
    ("tool", "arguments"), [("write_scaffold", written()), (None, "I would rather talk."), ("decide", decided(action="weights")),
                            ("decide", {"action": "harness"}), ("decide", decided(evidence="all"))],
)  # fmt: skip
def test_answers_that_break_the_schema_end_in_an_error(pair, says, tool, arguments):
    server, _, feedback, _, _ = pair(*[says(tool, arguments)] * 3)
    with pytest.raises(AgentError, match="no usable answer"):
        feedback.decide(view())
    assert len(server.requests) == 3


def test_garbage_arguments_and_cut_answers_are_repaired(pair, says, kind):
    garbage = chat_says("decide", '{"action": "harn') if kind != "claude" else claude_says("decide", {})
    cut = says("decide", decided(), "length" if kind != "claude" else "max_tokens")
    server, _, feedback, _, _ = pair(garbage, cut, says("decide", decided()))
    assert feedback.decide(view()).action == "harness"
    assert "cut off" in json.dumps(server.requests[2]["body"]["messages"][-1])


def test_invented_evidence_is_dropped_and_noted(pair, says):
    _, _, feedback, _, _ = pair(says("decide", decided(evidence=[3, 99, "x", 3])))
    decision = feedback.decide(view())
    assert decision.evidence == (3,) and "99" in decision.rationale


BOTH = {"allowed": ("harness", "weights", "stop"), "algorithms": ("entropic", "dpo")}


def test_weights_with_an_algorithm_and_hyperparameters(pair, says, kind):
    chosen = {"steps": 6, "group_size": 8, "learning_rate": 1e-3, "beta": 2, "start": "puct"}
    server, _, feedback, recorder, _ = pair(
        says("decide", decided(action="weights", algorithm="entropic", hyperparameters=chosen))
    )
    decision = feedback.decide(view(**BOTH))
    assert (decision.algorithm, decision.hyperparameters) == ("entropic", chosen)
    assert recorder.results[-1]["output"]["hyperparameters"] == chosen
    tool = server.requests[0]["body"]["tools"][0]
    schema = (tool["input_schema"] if kind == "claude" else tool["function"]["parameters"])["properties"]
    assert schema["action"]["enum"] == ["harness", "weights", "stop"] and schema["algorithm"]["enum"] == ["entropic", "dpo"]
    fields = schema["hyperparameters"]["properties"]
    assert set(fields) == set(OPEN) and not schema["hyperparameters"]["additionalProperties"]
    assert fields["group_size"] == {"type": "integer", "minimum": 2, "maximum": 4096} | {
        "description": Hyper.model_fields["group_size"].description
    }
    assert fields["learning_rate"]["exclusiveMinimum"] == 0 and fields["learning_rate"]["maximum"] == 1e-2
    assert fields["start"]["enum"] == ["restart", "incumbent", "puct"]
    assert all(field["description"] for field in fields.values())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"algorithm": "grpo"}, "expected one of entropic, dpo"),
        ({"algorithm": None}, "expected one of entropic, dpo"),
        ({"hyperparameters": {"group_size": 3}}, "at least 4 rollouts"),
        ({"hyperparameters": {"learning_rate": 0.5}}, "learning_rate: 0.5"),
        ({"hyperparameters": {"lr": 3e-4}}, "not open to you"),
        ({"hyperparameters": {"rank": 8}}, "not open to you"),
        ({"hyperparameters": {"steps": "six"}}, "steps: 'six'"),
        ({"hyperparameters": ["steps"]}, "not an object"),
    ],
)
def test_a_choice_that_does_not_hold_is_shown_once_and_mended(pair, says, kind, wrong, said):
    good = decided(action="weights", algorithm="entropic", hyperparameters={"steps": 6})
    server, _, feedback, _, _ = pair(says("decide", good | wrong), says("decide", good))
    assert feedback.decide(view(**BOTH)).hyperparameters == {"steps": 6}
    answer = server.requests[1]["body"]["messages"][-1]
    shown = answer["content"][0] if kind == "claude" else answer
    assert (shown["type"] == "tool_result") if kind == "claude" else (shown["role"] == "tool")
    assert said in shown["content"] and len(server.requests) == 2


def test_a_choice_that_never_holds_ends_in_an_error(pair, says):
    bad = decided(action="weights", algorithm="entropic", hyperparameters={"group_size": 1})
    server, _, feedback, _, _ = pair(*[says("decide", bad)] * 3)
    with pytest.raises(AgentError, match="group_size: 1"):
        feedback.decide(view(**BOTH))
    assert len(server.requests) == 3


def test_the_model_sees_the_numbers_of_the_choice(pair, says):
    server, _, feedback, _, _ = pair(says("decide", decided()))
    numbers = crossroads(toy("twelve"), levers={"harness": lever(0.02, 0.01)}, training={"stopped": "no_signal"})
    feedback.decide(view(**BOTH, **{k: getattr(numbers, k) for k in ("rewards", "levers", "training", "budget_left", "menu")}))
    asked = json.dumps(server.requests[0]["body"]["messages"])
    for shown in ("mean 0.5000", "skew 0.30", "gained +0.0200 (noise 0.0100) for 26 verifier calls", "weights: never tried",
                  "verifier calls 130", "no_signal", f"entropic: chosen when {MENU['entropic']}"):  # fmt: skip
        assert shown in asked
    assert f"grpo: chosen when {MENU['grpo']}" not in asked


def test_no_key_names_the_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    meta, _ = get_agents("claude", recorder=AgentRecorder(tmp_path / "calls.jsonl"))
    with pytest.raises(AgentError, match="ANTHROPIC_API_KEY"):
        meta.write("U", "R")
