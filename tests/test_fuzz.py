"""Fuzzing: parsers of specs, trajectories, records and configs by hypothesis, the gateway's reader guided by coverage."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sia_nb.agents.record import AgentRecorder, read_calls
from sia_nb.errors import ConfigError, InvalidSolution, SiaError, StoreError
from sia_nb.store import FORMAT, Run
from sia_nb.tasks.space import Field, Space
from sia_nb.trajectory import KINDS, Trajectory

ROOT = Path(__file__).parent.parent
FUZZ = ROOT / "tests" / "fuzz_gateway.py"
SPACE = Space(
    [
        Field("kind", ("a", "ab"), "which"),
        Field("size", (0.5, 1, 20), "how much", True),
        Field("on", (True, False, None), "switch"),
    ]
)
SEGMENTS = SPACE.segments()
counted = pytest.mark.trust(suite="fuzz", backend="hypothesis")

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
json_values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=4), max_leaves=12
)


def examples(trust):
    """Count one example of a property."""
    trust.cases(1)


# --- specs --------------------------------------------------------------------------------------------------------------
fields = st.dictionaries(
    st.sampled_from(["kind", "size", "on", "knd", ""]), scalars | st.sampled_from(["a", "ab", 1, 20, 0.5]), max_size=4
)


@counted
def test_any_text_is_a_spec_or_says_why_not(trust):
    @given(
        st.text()
        | json_values.map(json.dumps)
        | fields.map(json.dumps)
        | st.binary(max_size=40).map(lambda b: b.decode("utf-8", "surrogateescape"))
    )
    def check(text):
        examples(trust)
        try:
            spec = SPACE.parse(text)
        except InvalidSolution as error:
            assert error.kind in ("unparsable", "unknown_field", "missing_field", "bad_value") and str(error)
            assert len(str(error)) < 500 + len(text)
        else:
            assert SPACE.parse(SPACE.dump(spec)) == spec

    check()


@counted
@pytest.mark.parametrize("task", ["lawbench", "denoising", "trimul"])
def test_any_text_is_a_solution_of_a_task_or_says_why_not(task, trust):
    from sia_nb.tasks import get_task

    parse, space = get_task(task).parse, get_task(task).space
    dumped = st.integers(0, 2**32).map(lambda n: space.dump(space.random(__import__("random").Random(n))))

    @given(
        st.text()
        | dumped
        | st.tuples(dumped, st.integers(0, 400), st.text(max_size=3)).map(lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :])
    )
    def check(text):
        examples(trust)
        try:
            solution = parse(text)
        except InvalidSolution as error:
            assert error.kind and str(error)
        else:
            assert parse(solution.text) == solution

    check()


# --- what is read from a run's folder ------------------------------------------------------------------------------------
events = st.fixed_dictionaries({"id": st.integers(0, 99) | scalars, "kind": st.sampled_from(KINDS) | scalars, "seconds": st.floats() | scalars, "data": st.dictionaries(st.text(max_size=5), json_values, max_size=3) | scalars})  # fmt: skip


@counted
def test_any_bytes_are_read_as_a_trajectory_line_by_line(tmp_path, trust):
    path = tmp_path / "t.jsonl"

    @given(st.lists(st.binary(max_size=60) | events.map(lambda e: json.dumps(e).encode()), max_size=8))
    @example(
        [b'{"id": Infinity, "kind": "start", "seconds": 0, "data": {}}', b'{"id": 0, "kind": "start", "seconds": 1' + b"0" * 400]
    )
    @example([b"[" * 100_000])
    def check(lines):
        examples(trust)
        path.write_bytes(b"\n".join(lines) + b"\n")
        read = Trajectory.read(path)
        assert all(type(e.id) is int and isinstance(e.data, dict) for e in read)
        assert len(read.digest()) == 64 and len(read) + len(read.damaged) >= sum(bool(line.strip()) for line in lines)

    check()


entries = st.fixed_dictionaries({"event": st.sampled_from(["begin", "end", "result", "unusable", "other"]) | scalars, "call": st.integers() | scalars}, optional={"purpose": scalars, "output": json_values, "usage": json_values})  # fmt: skip


@counted
def test_any_bytes_are_read_as_a_record_of_calls_or_refused_with_the_line(tmp_path, trust):
    path = tmp_path / "agent_calls.jsonl"

    @given(
        st.lists(st.binary(max_size=60) | (entries | json_values).map(lambda e: json.dumps(e).encode()), max_size=6),
        st.binary(max_size=20),
    )
    def check(lines, torn):
        examples(trust)
        path.write_bytes(b"".join(line + b"\n" for line in lines) + torn)
        try:
            calls = read_calls(path)
        except StoreError as error:
            assert "line" in str(error)
            return
        assert all(type(e["call"]) is int for e in calls)

    check()


@counted
def test_any_run_json_opens_or_names_itself(tmp_path, trust):
    run = tmp_path / "run.json"
    configs = st.dictionaries(
        st.sampled_from(["task", "steps", "seed", "arm", "seconds", "prices", "nonsense"]), scalars, max_size=4
    )
    values = st.fixed_dictionaries({"format": st.just(FORMAT) | scalars, "config": configs | scalars}) | json_values

    @given(values.map(json.dumps) | st.text() | st.binary(max_size=40))
    def check(text):
        examples(trust)
        run.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))
        try:
            Run(tmp_path)
        except StoreError as error:
            assert "run.json" in str(error)

    check()


@counted
def test_any_folder_is_verified_without_a_crash(tmp_path, trust):
    """A committed run with one of its files replaced by other JSON of a like shape."""
    import shutil

    from test_verify import RUN

    from sia_nb.verify import verify

    target = tmp_path / RUN.name
    shutil.copytree(RUN, target, ignore=shutil.ignore_patterns(*[f"step_{g:03d}" for g in range(3, 9)]))
    (target / "manifest.json").unlink()
    names = [n for n in ("report.json", "ledger.jsonl", "agent_calls.jsonl", "step_001/metrics.json", "step_001/decision.json", "step_002/origin.json", "step_001/run.done.json")]  # fmt: skip

    def replaced(value, path, new):
        if not path or not isinstance(value, dict | list) or not value:
            return new
        keys = sorted(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[path[0] % len(keys)]
        out = dict(value) if isinstance(value, dict) else list(value)
        out[key] = replaced(value[key], path[1:], new)
        return out

    @settings(max_examples=settings().max_examples // 2)
    @given(st.sampled_from(names), st.lists(st.integers(0, 30), max_size=4), json_values)
    def check(name, path, new):
        examples(trust)
        file = target / name
        whole = file.read_bytes()
        if name.endswith(".jsonl"):
            changed = replaced([json.loads(line) for line in whole.splitlines()], path, new)
            changed = changed if isinstance(changed, list) else [changed]
            file.write_text("".join(json.dumps(line) + "\n" for line in changed))
        else:
            file.write_text(json.dumps(replaced(json.loads(whole), path, new)))
        try:
            assert verify(target).faults, "steps are missing, so that faults there are"
        finally:
            file.write_bytes(whole)

    check()


# --- configs ---------------------------------------------------------------------------------------------------------------
@counted
def test_any_command_line_is_a_config_or_a_clear_error(trust):
    from sia_nb.cli import _overrides
    from sia_nb.config import RunConfig, make_config

    words = st.sampled_from([f"--{n.replace('_', '-')}" for n in RunConfig.model_fields]) | st.text(max_size=8)

    @given(
        st.lists(
            words | st.integers().map(str) | st.sampled_from(["1.5", "true", "W+H", "lawbench", "nan", "inf", "--steps=3"]),
            max_size=6,
        )
    )
    def check(argv):
        examples(trust)
        try:
            given_ = _overrides(argv)
            given_.pop("profile", None)
            config = make_config("smoke", **given_)
        except ConfigError as error:
            assert str(error)
        except SiaError as error:
            pytest.fail(f"another error: {error!r}")
        else:
            assert RunConfig(**config.model_dump()) == config

    check()


# --- the gateway's message reader -------------------------------------------------------------------------------------------
def fuzzed(python, seconds):
    done = subprocess.run(
        [python, str(FUZZ), "--seconds", str(seconds)], capture_output=True, text=True, timeout=seconds * 20 + 120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.trust(suite="fuzz", backend="gateway, guided by coverage")
def test_the_gateway_and_its_reader_stand_a_fuzz_guided_by_coverage(trust):
    atheris = ROOT / "build" / "fuzz" / "bin" / "python"
    told = fuzzed(str(atheris) if atheris.exists() else sys.executable, 4)
    assert told["executions"] > 100 and told["kept"] > 20
    trust.cases(told["executions"])


@pytest.mark.slow
@pytest.mark.trust(suite="fuzz", backend="gateway, guided by coverage")
def test_a_longer_fuzz_of_the_gateway(trust):
    atheris = ROOT / "build" / "fuzz" / "bin" / "python"
    trust.cases(fuzzed(str(atheris) if atheris.exists() else sys.executable, 60)["executions"])


def test_the_fuzz_finds_a_reader_that_is_broken(tmp_path):
    """A test of the fuzz itself: the check for nesting is taken out of a copy of the reader, and the fuzz says so."""
    import shutil

    for name in ("sia_nb", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "explorer", "trimul*"))
    runner = tmp_path / "sia_nb" / "scaffold" / "runner.py"
    source = runner.read_text()
    broken = source.replace("        if not isinstance(message, dict):\n", "        if False:\n")
    assert broken != source
    runner.write_text(broken)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "tests" / "fuzz_gateway.py"), "--seconds", "20"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0 and "broken by" in done.stderr


def test_a_record_goes_on_after_any_torn_line(tmp_path):
    path = tmp_path / "agent_calls.jsonl"

    @given(st.binary(max_size=30).filter(lambda b: b"\n" not in b))
    def check(torn):
        path.unlink(missing_ok=True)
        AgentRecorder(path).begin("write", {"model": "m"})
        with open(path, "ab") as f:
            f.write(torn)
        assert AgentRecorder(path).begin("write", {}) == 1 and len(read_calls(path)) == 2

    check()
