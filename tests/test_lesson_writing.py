"""The lesson on writing a scaffold: what its checks say of scaffolds that fail in one way each, executed in the sandbox."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
from scaffold_fakes import HEAD, CountingPolicy, DigitsTask, DigitsVerifier, scaffold

from sia_nb.lessons import reading, writing, writing_checks
from sia_nb.scaffold.contract import Budget
from sia_nb.scaffold.execute import execute
from sia_nb.scaffold.sandbox import Limits
from sia_nb.trajectory import Trajectory

LOW = Limits(wall_seconds=float("inf"), cpu_seconds=10, memory_mb=300, processes=6, output_mb=4, file_mb=8)


@pytest.fixture
def attempt(tmp_path):
    """Executes a scaffold on the digits task with eight verifier calls; A_1 is worth 1/15, with a noise of 0.1."""

    def made(source: str, seconds: float = 20.0) -> writing.Attempt:
        budget = Budget(8, 400, seconds)
        done = execute(
            source, task=DigitsTask(), policy=CountingPolicy(), verifier=DigitsVerifier(), budget=budget, seed=0, archive=[],
            trusted=False, limits=LOW, workdir=tmp_path / "work", trajectory_path=tmp_path / "t.jsonl",
        )  # fmt: skip
        gain = done.score - 1 / 15
        metrics = {"score": done.score, "valid": done.valid, "reason": done.reason, "used": done.used, "budget": asdict(budget)}
        metrics |= {"noise": 0.1, "accepted": gain > 0.1, "note": f"{gain:+.4f} against step 1, noise 0.1000"}
        return writing.Attempt(source, metrics, Trajectory.read(tmp_path / "t.jsonl"))

    return made


ASK = 'texts = env.sample(build_prompt({"task": env.task}), n=4, grammar="solution")\n'
SCORE = 'best = max((env.evaluate(extract(t))["score"], extract(t)) for t in texts)\n'
GUESSES = scaffold(ASK + SCORE + "env.submit(best[1])")


@pytest.mark.parametrize(
    "source, says",
    [
        (GUESSES, "right: 4 of the policy's answers were scored; the best, 0.200"),
        (scaffold('env.submit(env.task["fallback"])'), "never asks the policy"),
        (scaffold(ASK + 'env.submit(env.task["fallback"])'), "none was handed to extract"),
        (scaffold(ASK + 'for t in texts: extract(t)\nenv.submit(env.task["fallback"])'), "it uses no budget: 0 of 8"),
        (scaffold(ASK + SCORE), "never calls env.submit"),
        (scaffold(ASK + SCORE + "env.submit(extract(texts[0]))"), "event 20 had scored 0.200. Keep the best"),
        (scaffold(ASK + SCORE + 'env.submit("the best")'), "is no valid solution: unparsable"),
        (
            scaffold(ASK + 'for t in texts: env.evaluate(t + "}")\nenv.submit(extract(t))'),
            "all 4 solutions were refused, the first (event 7) as invalid: unparsable",
        ),
        (scaffold(ASK + "env.submit(best[1])"), "NameError: name 'best' is not defined"),
        (HEAD, "function 'run' is missing"),
        (HEAD + "\ndef run(env)\n    pass\n", "syntax error in line"),
        (scaffold("import nothing_of_the_kind"), "ModuleNotFoundError"),
    ],
)
def test_exercise_2_says_what_is_wrong(source, says, attempt, capsys):
    assert writing_checks.check_run(attempt(source)) == says.startswith("right")
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    "ask, says",
    [
        (ASK, "they were masked: extract is at fault"),
        (ASK.replace(', grammar="solution"', ""), 'a small model needs a mask: grammar="solution"'),
    ],
)
def test_exercise_2_tells_an_unmasked_policy_from_a_bad_extract(ask, says, attempt, capsys):
    source = scaffold(ask + 'for t in texts: extract(t)\nenv.submit(env.task["fallback"])')
    assert not writing_checks.check_run(attempt(source.replace("return text[", "return None  # text[")))
    assert says in capsys.readouterr().out


def test_a_loop_without_end_is_killed_and_said(attempt, capsys):
    assert not writing_checks.check_run(attempt(scaffold("while True: pass"), seconds=1.0))
    assert "it was killed: all 1 are spent" in capsys.readouterr().out


CLIMB = scaffold("""
import json
best = (0, env.task["fallback"])
tried = set()
for text in env.sample(build_prompt({"task": env.task}), n=2, grammar="solution"):
    best = max(best, (env.evaluate(text)["score"], extract(text)))
while env.budget()["verifier_calls"] >= 1:
    spec = json.loads(best[1])
    spec["b" if spec["b"] < 3 else "a"] += 1
    if spec["a"] == 3 == spec["b"]: spec["b"] = 0
    solution = json.dumps(spec)
    best = max(best, (env.evaluate(solution)["score"], solution))
env.submit(best[1])
""")


def evaluates(*numbers: int) -> str:
    """A scaffold that scores these numbers, a and b their digits in base 4, and submits the largest."""
    specs = [f'{{"a":{n // 4},"b":{n % 4}}}' for n in numbers]
    return scaffold(f"for s in {specs!r}: env.evaluate(s)\nenv.submit({max(specs)!r})")


@pytest.mark.parametrize(
    "source, says",
    [
        (CLIMB, "right: score"),
        (evaluates(0, 1, 2, 3, 8, 9, 10, 11), "right: score 0.733"),
        (evaluates(0, 1, 2, 8), "4 of 8 verifier calls are left"),
        (evaluates(0, 1, 2, 8, 8, 8, 8, 8, 9, 10, 11, 12), "4 of 12 verdicts were on solutions scored before, e.g. event 10"),
        (evaluates(8, 9, 10, 11, 4, 5, 6, 7), "take no notice of the verdicts"),
        (evaluates(2, 14, 9, 1, 13, 3, 10, 0), "take no notice of the verdicts"),
        (scaffold('env.submit(env.task["fallback"])'), "it uses no budget"),
        (scaffold("1 / 0"), "ZeroDivisionError"),
    ],
)
def test_exercise_3_says_what_is_wrong(source, says, attempt, capsys):
    assert writing_checks.check_worth(attempt(source)) == says.startswith("right")
    assert says in capsys.readouterr().out


def test_exercise_3_wants_more_than_the_noise(attempt, capsys):
    made = attempt(evaluates(0, 1, 2, 3, 8, 9, 10, 11))
    small = {**made.metrics, "accepted": False, "note": "rolled back to step 1: +0.0100 against step 1, noise 0.0200"}
    assert not writing_checks.check_worth(writing.Attempt(made.source, small, made.trajectory))
    assert "+0.0100 against step 1, noise 0.0200: the gain over A_1 must be larger than the noise" in capsys.readouterr().out


def test_what_was_not_executed_says_why(capsys):
    assert not writing_checks.check_run(writing.Attempt("x = 1", error="no sandbox is usable here"))
    assert "no sandbox is usable here" in capsys.readouterr().out


@pytest.fixture(scope="module")
def bench():
    """What exercise 1 reads of a bench: the instance, and A_1's answers, here those of a committed run."""
    first = writing.Attempt("", {}, reading.trajectory("A"))
    return SimpleNamespace(run=SimpleNamespace(config=SimpleNamespace(instance=writing.INSTANCE)), first=first)


PROMPT = """
import json
SYSTEM_PROMPT = "You answer in JSON."

def build_prompt(state):
    lines = [n + ": " + json.dumps(f["values"]) for n, f in state["task"]["fields"].items()]
    return [{"role": "user", "content": "\\n".join(lines)}]
"""
EXTRACT = """
def extract(text):
    try:
        return json.dumps(json.loads(text[text.find("{"):text.rfind("}") + 1]))
    except ValueError:
        return None
"""


@pytest.mark.parametrize(
    "head, says",
    [
        (PROMPT + EXTRACT, "right"),
        (None, "got NoneType"),
        (PROMPT, "function 'extract' is missing"),
        (EXTRACT + PROMPT.replace("SYSTEM_PROMPT", "SYSTEM"), "SYSTEM_PROMPT is missing"),
        (PROMPT + EXTRACT + "def broken(:\n", "syntax error in line"),
        (PROMPT.replace("import json", "") + EXTRACT, "name 'json' is not defined"),
        (PROMPT.replace('"role": "user"', '"role": "judge"') + EXTRACT, "build_prompt: messages: each is"),
        (PROMPT.replace("items()", "items() if n != 'view2'") + EXTRACT, "the field 'view2' is not in your prompt"),
        (PROMPT.replace('f["values"]', 'f["values"][:2]') + EXTRACT, "is not in your prompt; name all that are allowed"),
        (PROMPT + "def extract(text):\n    return text\n", "hand back the {…} alone"),
        (PROMPT + "def extract(text):\n    return None\n", "extract gave None for a bare answer"),
        (PROMPT + EXTRACT.replace("return None", "raise"), "an exception here ends the whole execution"),
        (PROMPT + EXTRACT.replace("return None", "return text"), "return None, or a verifier call is spent on it"),
        (PROMPT + EXTRACT.replace("return json.dumps(", "return ("), "extract: returned dict"),
        (PROMPT + 'def extract(text):\n    return "{}"\n', "another object than stands in a bare answer"),
    ],
)
def test_exercise_1_says_what_is_wrong(head, says, bench, capsys):
    assert writing_checks.check_prompt_and_extract(bench, head) == (says == "right")
    assert says in capsys.readouterr().out


@pytest.mark.slow
def test_a_bench_executes_scaffolds_as_the_loop_does(lawbench_data, embedded_model):
    bench = writing.Bench(verifier_calls=4, tokens=1200)
    assert bench.first.metrics["accepted"] and not bench.first.reading.verdicts
    wrong, right = bench.attempt("x = 1"), bench.attempt(GUESSES)
    assert "'build_prompt' is missing" in wrong.trajectory.of("error")[0].data["message"] and "rolled back" in repr(wrong)
    counts = right.metrics["counts"]  # its prompt shows the fallback, which the policy may copy: a repeat, and no call
    assert right.metrics["step"] == 2 and counts["evaluations"] == counts["valid"] == 4
    assert right.metrics["used"]["verifier_calls"] == 4 - counts["repeats"]
    assert bench.attempt(GUESSES).trajectory.digest() == right.trajectory.digest()
    bench.close()
    assert not bench.run.path.exists()
