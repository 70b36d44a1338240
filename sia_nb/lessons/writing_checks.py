"""Checks of the exercises on writing a scaffold: each reads what the learner's code did and says what is wrong with it."""

from __future__ import annotations

import json
import math
from typing import Any

from ..errors import SiaError
from ..scaffold.contract import ScaffoldError, check
from ..scaffold.execute import call_scaffold
from ..view.inspect import summary
from .answers import Wrong, judged
from .writing import Attempt, Bench, task_state

OPEN_RUN = '\n\ndef run(env):\n    env.submit(env.task["fallback"])\n'
LEFT, AGAIN = 0.1, 0.1  # shares of the verifier calls left, and of repeated verdicts, that exercise 3 lets pass


@judged
def check_prompt_and_extract(bench: Bench, head: Any) -> str:
    """Exercise 1: SYSTEM_PROMPT, build_prompt and extract as source text; both functions are called in the sandbox."""
    if not isinstance(head, str):
        raise Wrong(f"expected the file's text, got {type(head).__name__}")
    source = head if "def run(" in head else head + OPEN_RUN
    state = task_state(bench)
    fallback = state["task"]["fallback"]
    texts = [r.data["text"] for r in bench.first.trajectory.of("response")]
    without = next((t for t in texts if "{" not in t), "I do not know.")
    answers = [
        ("a bare answer", fallback, fallback),
        ("an answer with words around it", f"Here is my solution:\n```json\n{fallback}\n```\nGood luck!", fallback),
        ("an answer without JSON, as A_1's policy gave it", without, None),
        ("an answer cut off in the middle", fallback[: len(fallback) // 2], None),
    ]
    try:
        check(source)
        calls = [("build_prompt", [state]), *(("extract", [text]) for _, text, _ in answers)]
        prompt, *read = call_scaffold(source, calls, trusted=False)
    except ScaffoldError as error:
        raise Wrong(f"{error}. The loop refuses such a file before anything of it runs") from error
    except SiaError as error:
        raise Wrong(str(error)) from error
    if prompt.error:
        raise Wrong(prompt.error)
    said = "\n".join(m["content"] for m in prompt.value)
    for name, field in state["task"]["fields"].items():
        if name not in said:
            raise Wrong(f"build_prompt: the field '{name}' is not in your prompt; the policy knows only what the prompt says")
        unsaid = [v for v in field["values"] if str(v) not in said]
        if unsaid:
            raise Wrong(
                f"build_prompt: the value {unsaid[0]!r} of field '{name}' is not in your prompt; name all that are allowed"
            )
    for (what, text, wanted), got in zip(answers, read, strict=True):
        _extracted(what, text, wanted, got)
    return f"the prompt names all {len(state['task']['fields'])} fields, and extract reads what can be read and nothing else"


def _extracted(what: str, text: str, wanted: str | None, got: Any) -> None:
    if got.error:
        raise Wrong(f"{got.error}. That was {what}; an exception here ends the whole execution: return None instead")
    if wanted is None and got.value is not None:
        raise Wrong(f"extract gave {got.value[:40]!r} for {what}; return None, or a verifier call is spent on it")
    if wanted is None:
        return
    if got.value is None:
        raise Wrong(f"extract gave None for {what}: {text[:60]!r}…; there is a {{…}} in it")
    try:
        if json.loads(got.value) != json.loads(wanted):
            raise Wrong(f"extract gave another object than stands in {what}: {got.value[:60]!r}…")
    except ValueError:
        raise Wrong(
            f"extract gave {got.value[:40]!r}… for {what}; hand back the {{…}} alone, without what stands around it"
        ) from None


@judged
def check_run(attempt: Attempt) -> str:
    """Exercise 2: a scaffold that asks the policy, has its answers scored and submits the best."""
    _ended(attempt)
    _asked(attempt)
    _scored(attempt)
    _submitted(attempt)
    own = [v for v in attempt.reading.verdicts if v.by_policy and v.valid]
    return f"{len(own)} of the policy's answers were scored; the best, {attempt.metrics['score']:.3f}, is what you submitted"


@judged
def check_worth(attempt: Attempt) -> str:
    """Exercise 3: a scaffold that beats A_1 beyond the noise, with a search that spends its budget and learns from verdicts."""
    _ended(attempt)
    _scored(attempt)
    _submitted(attempt)
    reading, metrics = attempt.reading, attempt.metrics
    again = [v for v in reading.verdicts if v.again]
    if len(again) > AGAIN * len(reading.verdicts):
        raise Wrong(
            f"{len(again)} of {len(reading.verdicts)} verdicts were on solutions scored before, e.g. event {again[0].event}: they "
            "cost no call and bring nothing; keep what you have tried in a set, and pass it over"
        )
    used, cap = reading.used["verifier_calls"], reading.budget["verifier_calls"]
    if cap - used > LEFT * cap:
        raise Wrong(
            f"{cap - used:.0f} of {cap:.0f} verifier calls are left: go on while env.budget()['verifier_calls'] is at least 1"
        )
    _learns([v.score for v in reading.verdicts])
    score = metrics["score"]
    if not metrics["accepted"]:
        raise Wrong(f"{metrics['note']}: the gain over A_1 must be larger than the noise")
    return f"score {score:.3f}; {metrics['note']}, with {used:.0f} of {cap:.0f} verifier calls and {len(again)} repeats"


def _ended(attempt: Attempt) -> None:
    """Raises ``Wrong`` unless the execution ran to its end."""
    if attempt.trajectory is None:
        raise Wrong(f"your scaffold was not executed: {attempt.error}")
    if errors := attempt.trajectory.of("error"):
        event = errors[0]
        line = event.data["traceback"].strip().splitlines()[-1:] or [""]
        hint = " (see the contract above)" if event.data["where"] == "contract" else f" ({line[0]})" if line[0] else ""
        raise Wrong(f"it ended with an error: {event.data['message']}{hint}")
    end = attempt.reading.end
    if end is None or end.data["reason"] == "killed":
        why = [e.data["detail"] for e in attempt.reading.limits][-1:] or ["no reason is on record"]
        raise Wrong(f"it was killed: {why[0]}. Does every loop of yours come to an end?")


def _asked(attempt: Attempt) -> None:
    """Raises ``Wrong`` unless the policy was asked and an answer of its could be read."""
    reading = attempt.reading
    if not reading.samples:
        raise Wrong("run never asks the policy: texts = env.sample(build_prompt(state), n=…)")
    if not any(a.extracted for a in reading.answers):
        raise Wrong(f"the policy answered {len(reading.answers)} times and none was handed to extract")
    tried = [a for a in reading.answers if a.extracted]
    if all(a.solution is None for a in tried):
        begin = " ".join(tried[0].text.split())[:50]
        masked = any(s.data["grammar"] for s in reading.samples)
        cure = "but they were masked: extract is at fault" if masked else 'a small model needs a mask: grammar="solution"'
        raise Wrong(f"none of {len(tried)} answers could be read (event {tried[0].event} begins {begin!r}); {cure}")


def _scored(attempt: Attempt) -> None:
    """Raises ``Wrong`` unless a solution was scored as valid."""
    reading = attempt.reading
    if not reading.verdicts:
        raise Wrong(
            f"it uses no budget: 0 of {reading.budget['verifier_calls']:.0f} verifier calls. env.evaluate(solution) is what tells "
            "a good solution from a poor one"
        )
    if not any(v.valid for v in reading.verdicts):
        first = attempt.trajectory[reading.verdicts[0].event]
        raise Wrong(f"all {len(reading.verdicts)} solutions were refused, the first (event {first.id}) as {summary(first)}")


def _submitted(attempt: Attempt) -> None:
    """Raises ``Wrong`` unless the best that was scored is the answer."""
    reading, metrics = attempt.reading, attempt.metrics
    if not reading.submits:
        raise Wrong("it never calls env.submit(solution): whatever it has found is lost")
    if not metrics["valid"]:
        raise Wrong(f"what it submitted (event {reading.submits[-1].id}) is no valid solution: {metrics['reason']}")
    best = max((v for v in reading.verdicts if v.valid), key=lambda v: v.score)
    if metrics["score"] < best.score:
        raise Wrong(
            f"it submitted a solution worth {metrics['score']:.3f}; event {best.event} had scored {best.score:.3f}. Keep the best"
        )


def _learns(scores: list[float]) -> None:
    """Raises ``Wrong`` unless later verdicts are better than earlier ones by more than one standard error."""
    half = len(scores) // 2
    if half < 2:
        raise Wrong(f"{len(scores)} verdicts are too few to see a search; give the bench more verifier calls")
    early, late = scores[:half], scores[half:]
    means = [sum(s) / len(s) for s in (early, late)]
    spread = [sum((x - m) ** 2 for x in s) / max(1, len(s) - 1) / len(s) for s, m in zip((early, late), means, strict=True)]
    if means[1] - means[0] <= math.sqrt(sum(spread)):
        raise Wrong(
            f"your later solutions (mean {means[1]:.3f}) are no better than your first ones ({means[0]:.3f}): they take no notice "
            "of the verdicts. Change the best so far a little, rather than start anew"
        )
