"""Scaffold for denoising: the policy proposes, the verifier judges."""

import difflib
import json

SYSTEM_PROMPT = "You propose solutions to this task: Single-cell denoising. Single-cell RNA sequencing counts few of a cell's molecules: most entries of a cells x genes matrix are 0 by chance. The task is to estimate from such counts what a cell expresses. A solution is a program that takes a matrix of counts and returns one of expected counts. Judged by mse_norm on dev, soft-gated; higher is better."
BATCH = 8  # answers sampled at once
TEMPERATURE = 1.0
MAX_TOKENS = 128  # of one answer
ROUNDS = 200  # an upper bound; the budget ends the search before it


def build_prompt(state):
    """The chat messages that ask for one solution."""
    task = state["task"]
    lines = [task["instance"], "", "A solution gives each of these fields one of its values:"]
    for name, field in task["fields"].items():
        values = " | ".join(json.dumps(value, ensure_ascii=False) for value in field["values"])
        lines.append(f"{name}: {values}  ({field['doc']})")
    lines.append("")
    lines.append("Answer with one JSON object that holds every field, and nothing else.")
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": "\n".join(lines)}]


def extract(text):
    """The first {...} block of an answer as one line of JSON, or None."""
    start, end = text.find("{"), text.find("}")
    try:
        answer = json.loads(text[start : end + 1])
    except ValueError:
        return None
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")) if isinstance(answer, dict) else None


def read_spec(task, solution):
    """The solution as {field: value}, or None where it is not a full record of the task's fields."""
    try:
        spec = json.loads(solution)
    except ValueError:
        return None
    fields = task["fields"]
    if not isinstance(spec, dict) or set(spec) != set(fields):
        return None
    return spec if all(spec[name] in field["values"] for name, field in fields.items()) else None


def write_spec(task, spec):
    """The one line of JSON for a spec."""
    return json.dumps({name: spec[name] for name in task["fields"]}, ensure_ascii=False, separators=(",", ":"))


def nearest_value(values, value):
    """The allowed value that a wrong one most likely means, or None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        return min(numbers, key=lambda v: abs(v - value)) if numbers else None
    names = {str(v).casefold(): v for v in values}
    close = difflib.get_close_matches(str(value).casefold(), list(names), n=1, cutoff=0.6)
    return names[close[0]] if close else None


def mend(env, state, solution):
    """A record with unknown fields dropped, wrong values moved to the nearest, gaps filled from the best so far."""
    try:
        answer = json.loads(solution)
    except ValueError:
        return solution
    base = read_spec(env.task, state["best"][0]["solution"] if state["best"] else env.task["fallback"])
    if base is None or not isinstance(answer, dict):
        return solution
    for name, field in env.task["fields"].items():
        if name in answer:
            value = answer[name] if answer[name] in field["values"] else nearest_value(field["values"], answer[name])
            base[name] = base[name] if value is None else value
    return write_spec(env.task, base)


def propose(env, state):
    """Yield solutions to score: those that can be read from a batch of the policy's answers."""
    texts = env.sample(
        build_prompt(state),
        n=BATCH,
        temperature=TEMPERATURE,
        max_tokens=MAX_TOKENS,
        grammar="solution",
    )
    for text in texts:
        solution = extract(text)
        if solution is not None:
            yield mend(env, state, solution)


def run(env):
    """Score the proposals and submit the best; the fallback where there is none."""
    state = {"task": env.task, "best": [], "parent": None}
    state["tried"] = {}  # verdicts by solution
    for entry in env.archive:
        state["best"].append({"solution": entry["solution"], "score": entry["score"]})
        state["tried"][entry["solution"]] = {"score": entry["score"], "valid": True, "failure": ""}
    try:
        for _ in range(ROUNDS):
            if env.budget()["verifier_calls"] < 1:
                break
            for solution in propose(env, state):
                if solution in state["tried"]:
                    continue
                verdict = env.evaluate(solution)
                state["tried"][solution] = verdict
                if verdict["valid"]:
                    state["best"].append({"solution": solution, "score": verdict["score"]})
                    state["best"].sort(key=lambda entry: -entry["score"])
    except env.BudgetExhausted:
        env.log("budget", left=env.budget()["verifier_calls"])
    env.submit(state["best"][0]["solution"] if state["best"] else env.task["fallback"])
