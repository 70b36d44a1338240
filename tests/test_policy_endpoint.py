"""A served policy: the real openai client against a small local server."""

import json
import math
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import pytest
from policy_space import SPACE, messages

from sia_nb.errors import ConfigError, ModelError
from sia_nb.policy.endpoint import EndpointPolicy, regex


class Server(ThreadingHTTPServer):
    """Answers chat completions with specs; ``script`` holds statuses to answer first."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict] = []
        self.script: list[int] = []
        self.keys: list[str] = []
        self.heed = "structured_outputs"
        self.limit = 99  # choices a request
        self.logprobs = True
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        server: Server = self.server
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.requests.append(asked)
        server.keys.append(self.headers["Authorization"])
        status = server.script.pop(0) if server.script else 200
        if status == 0:
            self.close_connection = True
            return
        body = {"error": {"message": f"scripted {status}"}}
        if status == 200:
            rng = Random(asked["seed"])
            texts = [SPACE.dump(SPACE.random(rng)) if server.heed in asked else "I think so" for _ in range(asked["n"])]
            body = {
                "id": "x", "object": "chat.completion", "created": 0, "model": asked["model"],
                "choices": [
                    {
                        "index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": text},
                        "logprobs": {"content": [{"token": "t", "logprob": -0.5, "top_logprobs": []}] * 4} if server.logprobs else None,
                    }
                    for i, text in enumerate(texts[: server.limit])
                ],
                "usage": {"prompt_tokens": 9, "completion_tokens": 4 * len(texts), "total_tokens": 9},
            }  # fmt: skip
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def make(server, **options) -> EndpointPolicy:
    return EndpointPolicy(server.url, "big-model", wait=0.01, **options)


def test_grammar_goes_as_a_regex_and_specs_come_back(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    out = make(server, key="MY_KEY").sample(messages(), 5, segments=SPACE.segments(), temperature=0.7, seed=9)
    assert len(out) == 5 and all(SPACE.parse(s.text) for s in out)
    (asked,) = server.requests
    assert asked["structured_outputs"] == {"regex": regex(SPACE.segments())}
    assert (asked["n"], asked["seed"], asked["temperature"], asked["model"]) == (5, 9, 0.7, "big-model")
    assert server.keys == ["Bearer secret"]
    assert (out[0].tokens, out[0].logprob, out[0].stop) == (4, -2.0, "end")


def test_the_regex_takes_the_specs_and_only_them():
    pattern, rng = re.compile(regex(SPACE.segments())), Random(0)
    for _ in range(50):
        text = SPACE.dump(SPACE.random(rng))
        assert pattern.fullmatch(text)
        assert not pattern.fullmatch(text[:-1]) and not pattern.fullmatch(text.replace('"tf"', '"ft"'))
    assert re.fullmatch(regex([("a.b*[c]\\",)]), "a.b*[c]\\") and not re.fullmatch(regex([("0.1",)]), "0x1")


def test_one_request_each_or_the_rest_again_where_a_server_gives_fewer(server):
    assert len(make(server, many=False).sample(messages(), 3, seed=5)) == 3
    assert [(r["n"], r["seed"]) for r in server.requests] == [(1, 5), (1, 6), (1, 7)]
    server.requests.clear()
    server.limit = 2
    assert len(make(server).sample(messages(), 5, seed=5)) == 5
    assert [(r["n"], r["seed"]) for r in server.requests] == [(5, 5), (3, 7), (1, 9)]


def test_busy_servers_and_cut_connections_are_tried_again(server):
    server.script = [429, 529, 0, 503]
    assert len(make(server).sample(messages(), 1)) == 1
    assert len(server.requests) == 5
    server.script = [429] * 9
    with pytest.raises(ModelError, match="answered 429 3 times"):
        make(server, tries=3).sample(messages(), 1)


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "Set POLICY_API_KEY"), (404, "may not serve 'big-model'"), (400, "takes mode 'structured_outputs'")],
)
def test_refusals_say_what_to_do(server, status, says):
    server.script = [status]
    with pytest.raises(ModelError, match=f"(?s)refused the request \\({status}\\): .*{says}"):
        make(server).sample(messages(), 1, segments=SPACE.segments())
    assert len(server.requests) == 1


def test_a_server_that_passes_over_the_grammar_is_found_out(server):
    with pytest.raises(ModelError, match="passed over the grammar .mode 'guided_regex'.*Name the mode"):
        make(server, mode="guided_regex").sample(messages(), 1, segments=SPACE.segments())


def test_no_server_no_url_no_such_mode(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(ModelError, match="no server answers at .*2 tries"):
        make(server, tries=2).sample(messages(), 1)
    with pytest.raises(ConfigError, match="Did you mean 'guided_regex'"):
        EndpointPolicy("http://x/v1", "m", mode="guided_regx")
    with pytest.raises(ConfigError, match="base URL is empty"):
        EndpointPolicy("", "m")


def test_a_server_without_logprobs_leaves_them_unknown(server):
    server.logprobs = False
    out = make(server).sample(messages(), 2)
    assert [s.tokens for s in out] == [4, 4] and all(math.isnan(s.logprob) for s in out)
