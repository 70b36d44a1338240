"""A run of the real loop that takes about a second, and instants at which to harm it.

A space of 1,296 solutions, a random two-layer policy, language-model agents behind a local server whose answers follow
from the question alone. Phases, record, budget, gateway and trainer are the kit's own; papermill is left out, and
scaffolds run in a plain process, since neither is what these tests look at.

Every write into the run's folder is an *instant*: Python tells an audit hook of each file that is opened for writing,
renamed or removed and each folder made or removed *before* it happens, and each line appended and flushed is counted too.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agent_server import chat_says
from toy_problem import SPACE, worth

from sia_nb import loop, phases, store, tasks, trajectory
from sia_nb.config import make_config
from sia_nb.scaffold import sandbox
from sia_nb.tasks.base import Instance, Score, Solution, SpecTask
from sia_nb.trajectory import TrajectoryWriter

SCAFFOLD = '''"""{note}"""

SYSTEM_PROMPT = "Write a spec."


def build_prompt(state):
    best = state["best"][0]["solution"] if state["best"] else ""
    return [{{"role": "system", "content": SYSTEM_PROMPT}}, {{"role": "user", "content": "Improve " + best}}]


def extract(text):
    return text if text.startswith("{{") else None


def run(env):
    found = [(s["score"], s["solution"]) for s in env.archive[:1]]
    try:
        while True:
            prompt = build_prompt({{"task": env.task, "best": env.archive, "parent": None}})
            for text in env.sample(prompt, n=2, max_tokens={most}, grammar={grammar}):
                verdict = env.evaluate(extract(text) or "nothing")
                if verdict["valid"]:
                    found.append((verdict["score"], text))
            env.log("found", n=len(found))
    except env.BudgetExhausted:
        pass
    env.submit(max(found)[1] if found else env.task["fallback"])
'''


class TinyTask(SpecTask):
    """Four fields of six values; worth more the nearer each stands to an optimum."""

    name, title, metric, report_metric = "tiny", "Tiny", "worth on dev", "top1"
    space, default = SPACE, {"w": 0, "x": 5, "y": 0, "z": 5}
    instances = (Instance("plain", "no instance in particular"),)

    def spec_text(self) -> str:
        return "# Tiny\n\nFind the spec with the highest worth.\n\n" + self.space.describe()

    def parse(self, text: str) -> Solution:
        return Solution("spec", self.space.dump(self.space.parse(text)))

    def compile_spec(self, spec: dict[str, Any]) -> str:
        return f"def solve():\n    return {spec!r}\n"

    def fetch(self, data_dir: Path, seed: int = 0) -> dict[str, Any]:
        return {"files": {"tiny.json": hashlib.sha256(b"%d" % seed).hexdigest()}}

    def verifier(self, data_dir: Path, cache_dir: Path, **_: Any) -> TinyVerifier:
        return TinyVerifier()


class TinyVerifier:
    """Exact and quick; ``trouble`` is called before each verdict, for tests that let a verifier fail."""

    trouble: Callable[[], None] = staticmethod(lambda: None)

    def score(self, solution: Solution) -> Score:
        self.trouble()
        value = worth(SPACE.parse(solution.text))
        return Score(value, True, metrics={"worth": value}, solution_id=solution.id, seconds=0.01)

    full = score

    def paired_se(self, a: str, b: str) -> float:
        return 0.0 if a == b else 0.01

    def seal(self, solution: Solution) -> dict[str, float]:
        return {"top1": worth(SPACE.parse(solution.text)), "n": 1.0}

    def close(self) -> None:
        pass


class AgentServer:
    """Chat completions: A_1 writes prose, A_2 asks for structured output, and then the weights are trained where that is allowed.

    ``trouble(handler) -> bool`` may answer a request in its own way, for tests of faults.
    """

    def __init__(self, trouble: Callable[[Any], bool] = lambda _: False):
        outer = self
        self.trouble, self.requests = trouble, 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                raw = self.rfile.read(int(self.headers["content-length"]))
                outer.requests += 1
                if outer.trouble(self):
                    return
                body = json.loads(raw)
                reply = json.dumps(chat_says(body["tool_choice"]["function"]["name"], answer(body))).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the tool that is asked for: the same question has the same answer."""
    text = body["messages"][1]["content"]
    mark = hashlib.sha256(text.encode()).hexdigest()[:12]
    if body["tool_choice"]["function"]["name"] == "write_scaffold":
        first = "# What its last execution did" not in text
        grammar = "None" if first else '"solution"'
        source = SCAFFOLD.format(note="first" if first else f"second {mark}", grammar=grammar, most=8 if first else 48)
        return {"report": f"# Report {mark}", "scaffold": source, "edits": ["structured_output"]}
    chosen = {"rationale": f"by {mark}", "evidence": [0, 1]}
    allowed = body["tools"][0]["function"]["parameters"]["properties"]["action"]["enum"]
    if '"""second' not in text or "weights" not in allowed:
        return {"action": "harness", **chosen}
    hyper = {"steps": 1, "group_size": 2, "learning_rate": 0.003}
    return {"action": "weights", "algorithm": "grpo", "hyperparameters": hyper, **chosen}


def prepare(folder: Path) -> Path:
    """Make the policy; returns its folder."""
    from toy_problem import tiny_policy

    policy, where = tiny_policy(), Path(folder) / "policy"
    policy.model.save_pretrained(where)
    policy.tokenizer.save_pretrained(where)
    return where


def config(policy: Path, url: str, **more: Any) -> Any:
    """Three steps by default: A_1, a harness update, a weight update."""
    given = {
        "task": "tiny", "arm": "W+H", "steps": 3, "verifier_calls": 5, "tokens": 2000, "seconds": 120.0, "agent": "openai_compatible",
        "agent_model": "claude-haiku-4-5", "agent_url": url, "policy": str(policy), "dtype": "float32", "unsafe_no_sandbox": True,
    }  # fmt: skip
    return make_config("smoke", **{**given, **more})


def install() -> None:
    """Make the task known, run phases in this process in place of notebooks, and scaffolds in plain processes."""
    tasks.REGISTRY["tiny"] = "tiny_run:TinyTask"
    loop.notebooks.execute = execute
    sandbox.probe = lambda name: "" if name == "plain" else "not used here"


def execute(name: str, values: dict[str, Any], output: Path, **_: Any) -> float:
    """What the notebook ``name`` calls, and a file where its executed copy would be."""
    run, step = store.Run(values["run_dir"]), values.get("step", 1)
    output.parent.mkdir(parents=True, exist_ok=True)
    {
        "01_init_scaffold": lambda: phases.init_scaffold(run),
        "02_run_generation": lambda: phases.run_generation(run, step),
        "03_feedback_decision": lambda: phases.feedback_decision(run, step),
        "04_grpo_training": lambda: phases.weight_update(run, step),
        "05_ablation_figures": lambda: phases.report(run),
    }[name]()
    output.write_text("{}")
    after(name, step)
    return 1.0


def after(name: str, step: int) -> None:
    """Called when a phase is done; tests put something else here."""


def go(config: Any, path: Path) -> store.Run:
    """Begin the run or go on with it, to its report."""
    return loop.run_loop(store.Run.create(config, path), echo=lambda _: None)


# -- what must be the same -----------------------------------------------------------------------------------------

TIMES = ("seconds", "agent_seconds", "created")


def timeless(value: Any) -> Any:
    """Plain data without times."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def contents(path: Path) -> dict[str, Any]:
    """Every file of a finished run by name: JSON without times, all else by its hash. Names of calls cut off are left out."""
    out: dict[str, Any] = {}
    for file in sorted(p for p in Path(path).rglob("*") if p.is_file() and not p.name.startswith(".")):
        name = str(file.relative_to(path))
        if file.suffix == ".json" and not name.endswith(".done.json") and name != "manifest.json":
            out[name] = timeless(json.loads(file.read_text()))
        elif file.suffix == ".jsonl":
            out[name] = [timeless(json.loads(line)) for line in file.read_text().splitlines()]
        else:
            out[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    for name in [n for n in out if n.endswith(".done.json") or n == "manifest.json"]:  # hashes of files that hold times
        out[name] = sorted(json.loads((Path(path) / name).read_text())["files"])
    return out


# -- instants ------------------------------------------------------------------------------------------------------

CHANGES = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.truncate": 0}


class Broken:
    """A file that cannot be written."""

    def __init__(self, error: OSError):
        self.error = error

    def write(self, text: str) -> None:
        raise self.error


class Instants:
    """Counts the writes under ``root`` and does something at one of them.

    ``at(number, label)`` is called before each; ``seen`` lists the labels. Torn lines: ``at`` gets the open descriptor of
    an append as ``fd`` where there is one. Only one object a process: an audit hook cannot be taken out again.
    """

    _active: Instants | None = None
    _hooked = False

    def __init__(self, root: Path, at: Callable[[int, str, int | None], None]):
        self.root, self.at, self.seen = os.path.realpath(root) + os.sep, at, []
        self._inside = False

    def __enter__(self) -> Instants:
        Instants._active = self
        if not Instants._hooked:
            Instants._hooked = True
            sys.addaudithook(lambda event, args: Instants._active and Instants._active._audit(event, args))
            self._patch()
        return self

    def __exit__(self, *_: object) -> None:
        Instants._active = None

    @staticmethod
    def _patch() -> None:
        write = TrajectoryWriter.write

        def synced(fd):
            if Instants._active:
                Instants._active._path("fsync", os.readlink(f"/proc/self/fd/{fd}"), fd)
            # nothing is flushed: a process that is killed loses nothing of what it has written, a machine would

        def written(self, kind, /, **data):
            file = self._file
            try:
                if Instants._active:
                    Instants._active._path(f"event {kind}", str(self.path), file.fileno())
                return write(self, kind, **data)
            except OSError as error:  # as the disk would say it, through the writer's own handling
                self._file = Broken(error)
                return write(self, kind, **data)
            finally:
                self._file = file

        os.fsync, trajectory.TrajectoryWriter.write = synced, written

    def _audit(self, event: str, args: tuple) -> None:
        if event == "open":
            path, mode, flags = args
            writes = any(c in (mode or "") for c in "wax+") or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
            if writes and isinstance(path, (str, bytes)):
                self._path("open", os.fsdecode(path))
        elif event in CHANGES and isinstance(args[CHANGES[event]], (str, bytes, os.PathLike)):
            self._path(event, os.fsdecode(args[CHANGES[event]]))

    def _path(self, event: str, path: str, fd: int | None = None) -> None:
        path = os.path.abspath(path)
        if event == "os.mkdir" and os.path.isdir(path):
            return  # nothing will change
        if not path.startswith(self.root) or ".progress.json" in path or self._inside:
            return
        label = f"{event} {re.sub(r'[.][0-9]+[.][0-9]+[.]tmp$', '.tmp', path[len(self.root) :])}"
        self.seen.append(label)
        self._inside = True
        try:
            self.at(len(self.seen), label, fd)
        finally:
            self._inside = False


def kill(number: int, *, torn: bool = False) -> Callable[[int, str, int | None], None]:
    """SIGKILL to this process before its ``number``-th write; ``torn``: a line being appended is cut in two."""

    def at(now: int, label: str, fd: int | None) -> None:
        if now == number:
            if torn and fd is not None:
                size = os.fstat(fd).st_size
                os.ftruncate(fd, max(0, size - 7))
            os.kill(os.getpid(), signal.SIGKILL)

    return at


def fail(number: int, code: int = errno.ENOSPC) -> Callable[[int, str, int | None], None]:
    """An OSError in place of the ``number``-th write, and of no other."""

    def at(now: int, label: str, fd: int | None) -> None:
        if now == number:
            raise OSError(code, os.strerror(code), label)

    return at


def send(number: int, signum: int) -> Callable[[int, str, int | None], None]:
    """A signal to this process before its ``number``-th write."""

    def at(now: int, label: str, fd: int | None) -> None:
        if now == number:
            os.kill(os.getpid(), signum)

    return at


def forked(job: Callable[[], Any], *, kill_after: float | None = None) -> tuple[int, str]:
    """Run ``job`` in a forked child; its exit status (negative: the signal) and what it wrote to stderr."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os.close(reading)
        os.dup2(writing, 2)
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            job()
            status = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode()[:4000])
            import traceback

            os.write(2, traceback.format_exc().encode()[-3000:])
        finally:
            os._exit(status)
    os.close(writing)
    if kill_after is not None:
        timer = threading.Timer(kill_after, lambda: os.kill(pid, signal.SIGKILL))
        timer.start()
    with os.fdopen(reading, errors="replace") as said:
        text = said.read()
    _, status = os.waitpid(pid, 0)
    if kill_after is not None:
        timer.cancel()
    return os.waitstatus_to_exitcode(status), text


def fail_always(number: int, code: int = errno.EROFS) -> Callable[[int, str, int | None], None]:
    """An OSError in place of the ``number``-th write and of every later one."""

    def at(now: int, label: str, fd: int | None) -> None:
        if now >= number:
            raise OSError(code, os.strerror(code), label)

    return at
