"""A local server that speaks the Messages API and chat completions from a script, and a small view to ask about."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sia_nb.agents.base import StepSummary, View
from sia_nb.trajectory import Event, Trajectory, text_sha

KEY = "sk-test-0123456789abcdef"
SCAFFOLD = """SYSTEM_PROMPT = "Write a spec."


def build_prompt(state):
    return [{"role": "user", "content": "go"}]


def extract(text):
    return text


def run(env):
    env.submit(env.task["fallback"])
"""
BETTER = SCAFFOLD.replace("Write a spec.", "Write one line of JSON.")


class Server:
    """Answers the n-th request with the n-th step: a dict (200), (status, headers, dict), or a raw string to send; also "cut", "hang" and "drip"."""

    def __init__(self, *steps):
        self.steps, self.requests, self.over = list(steps), [], threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.requests.append(
                    {"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}, "body": body}
                )
                step = outer.steps.pop(0) if outer.steps else (500, {}, {"error": {"message": "the script is at its end"}})
                if step == "cut":
                    self.send_response(200)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", "5000")
                    self.end_headers()
                    self.wfile.write(b'{"id": "msg_1", "con')
                    self.close_connection = True
                    return
                if step == "hang":
                    outer.over.wait(20)
                    return
                if step == "drip":
                    self.send_response(200)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", "5000")
                    self.end_headers()
                    try:
                        while not outer.over.wait(0.02):
                            self.wfile.write(b" ")
                            self.wfile.flush()
                    except OSError:
                        pass
                    return
                status, headers, reply = (200, {}, step) if isinstance(step, dict | str) else step
                raw = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", "content-length": str(len(raw)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self.over.set()
        self._http.shutdown()
        self._http.server_close()


def claude_says(tool, arguments, stop="tool_use", **usage):
    content = (
        [{"type": "tool_use", "id": "toolu_1", "name": tool, "input": arguments}]
        if tool
        else [{"type": "text", "text": arguments}]
    )
    counts = {"input_tokens": 100, "output_tokens": 50, "cache_read_input_tokens": 2000, "cache_creation_input_tokens": 1000}
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-6", "content": content,
        "stop_reason": stop, "stop_sequence": None, "usage": {**counts, **usage},
    }  # fmt: skip


def chat_says(tool, arguments, finish="tool_calls"):
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    calls = [{"id": "call_1", "type": "function", "function": {"name": tool, "arguments": text}}] if tool else None
    message = {"role": "assistant", "content": None if tool else text, "tool_calls": calls}
    usage = {"prompt_tokens": 300, "completion_tokens": 40, "total_tokens": 340, "prompt_tokens_details": {"cached_tokens": 120}}
    return {
        "id": "c1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }  # fmt: skip


def written(source=BETTER):
    return {"report": "# What\n\nbetter", "scaffold": source, "edits": ["prompt_guidance"]}


def decided(**more):
    return {"action": "harness", "rationale": "Nothing can be read.", "evidence": [2, 3], **more}


def trajectory(seconds=0.0, text="C is 1"):
    rows = [
        ("start", {"task": "t", "sandbox": "bwrap", "seed": 1}),
        (
            "sample",
            {"messages": [{"role": "user", "content": "go"}], "n": 1, "temperature": 1.0, "max_tokens": 9, "grammar": False},
        ),
        ("response", {"sample": 1, "index": 0, "text": text, "tokens": 4, "stop": "end", "logprob": -1.0}),
        ("extract", {"text_sha": text_sha(text), "ok": False, "solution": None, "error": "no JSON"}),
        ("evaluate", {"solution": "{}", "dialect": "spec"}),
        (
            "verdict",
            {"evaluate": 4, "solution_id": "a", "score": 0.5, "valid": True, "failure": "", "reason": "", "repeat": False},
        ),
        ("log", {"kind": "note", "what": "done"}),
        ("end", {"reason": "returned", "used": {}}),
    ]
    return Trajectory([Event(i, kind, seconds, data) for i, (kind, data) in enumerate(rows)])


def view(**more):
    given = {
        "task": "t", "spec": "# U\n\nthe task", "step": 1, "scaffold": SCAFFOLD, "incumbent": SCAFFOLD,
        "trajectory": trajectory(), "steps_left": 2, "seed": 3,
        "metrics": {"score": 0.5, "valid": True, "used": {"verifier_calls": 1, "seconds": 2.5}},
        "history": (StepSummary(1, "init", 0.5, 0.0, True, (), {"seconds": 2.5}),),
    }  # fmt: skip
    return View(**{**given, **more})
