"""Functions that edits put into a scaffold, as running code: an edit takes their source text.

Inside agent.py they stand beside the functions of ``first_draft`` and the module constants named in
``CONSTANTS``; the values below are what an edit starts with. Standard library only.
"""

import ast
import difflib
import json
import re

from .first_draft import MAX_TOKENS, TEMPERATURE, build_prompt, extract

TWO_FIELDS = 0.25
LONG_STEP = 0.2
LOCAL = 8
CROSS = 4
PRIOR = 4
POOL = 12
SHRINK = 2.0
EXAMPLES = 3
HINTS = 4
GIVE_UP = 2
PARENTS = 1

CONSTANTS = {
    "ROUNDS": (200, "an upper bound; the budget ends the search before it"),
    "TWO_FIELDS": (TWO_FIELDS, "share of changes that move two fields at once"),
    "LONG_STEP": (LONG_STEP, "share of changes that move an ordered field anywhere, not to a neighbour"),
    "LOCAL": (LOCAL, "changes of the best solution in each round"),
    "PARENTS": (PARENTS, "how many of the best solutions changes start from"),
    "CROSS": (CROSS, "combinations of two good solutions in each round"),
    "PRIOR": (PRIOR, "draws by the values' effects in each round"),
    "POOL": (POOL, "candidates from which the most promising is scored"),
    "OVERSAMPLE": (4, "answers sampled for each one that is scored"),
    "SHRINK": (SHRINK, "verdicts that a value needs before its effect counts half"),
    "EXAMPLES": (EXAMPLES, "solutions shown in the prompt"),
    "HINTS": (HINTS, "values named in the prompt as good, and as bad"),
    "GIVE_UP": (GIVE_UP, "failures after which a value that never worked is left alone"),
}


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


def vary(task, rng, spec):
    """A copy with one or two fields moved: an ordered field mostly to an adjacent value, another to any."""
    fields = task["fields"]
    spec = dict(spec)
    free = [name for name in fields if len(fields[name]["values"]) > 1]
    for name in rng.sample(free, 2 if len(free) > 1 and rng.random() < TWO_FIELDS else 1):
        values = fields[name]["values"]
        here = values.index(spec[name])
        if fields[name]["ordered"] and rng.random() >= LONG_STEP:
            there = [i for i in (here - 1, here + 1) if 0 <= i < len(values)]
        else:
            there = [i for i in range(len(values)) if i != here]
        spec[name] = values[rng.choice(there)]
    return spec


def parent_spec(env, state):
    """The spec to change: one of the best so far, or the fallback while there is none."""
    known = [entry["solution"] for entry in state["best"][:PARENTS]] or [env.task["fallback"]]
    return read_spec(env.task, env.random.choice(known))


def neighbours(env, state):
    """Yield small changes of the best solution, each made from the best at that moment, none scored before."""
    for _ in range(LOCAL):
        parent = parent_spec(env, state)
        if parent is None:
            return
        for _ in range(20):
            solution = write_spec(env.task, vary(env.task, env.random, parent))
            if solution not in state["tried"]:
                yield solution
                break


def screened_neighbours(env, state):
    """Yield small changes of the best solution: the most promising of a pool, and in turn any, lest the fit rule out a way."""
    for turn in range(2 * LOCAL):
        parent = parent_spec(env, state)
        if parent is None:
            return
        pool = [write_spec(env.task, vary(env.task, env.random, parent)) for _ in range(POOL)]
        pool = [solution for solution in pool if solution not in state["tried"]]
        if pool:
            yield pool[0] if turn % 2 else most_promising(env, state, pool)


def crossovers(env, state):
    """Yield new combinations of two of the best solutions, field by field from either."""
    for _ in range(CROSS):
        parents = [read_spec(env.task, entry["solution"]) for entry in state["best"][:4]]
        parents = [spec for spec in parents if spec is not None]
        if len(parents) < 2:
            return
        one, two = env.random.sample(parents, 2)
        solution = write_spec(env.task, {name: env.random.choice((one[name], two[name])) for name in one})
        if solution not in state["tried"]:
            yield solution


def value_effects(state):
    """{field: [effect of each value on the score]}, an additive fit over the verdicts so far, shrunk towards 0.

    A failure counts as the lowest valid score.
    """
    fields = state["task"]["fields"]
    effects = {name: [0.0] * len(field["values"]) for name, field in fields.items()}
    valid = [verdict["score"] for verdict in state["tried"].values() if verdict["valid"]]
    if not valid:
        return effects
    rows = [(read_spec(state["task"], solution), verdict) for solution, verdict in state["tried"].items()]
    rows = [(spec, verdict["score"] if verdict["valid"] else min(valid)) for spec, verdict in rows if spec is not None]
    if not rows:
        return effects
    mean = sum(score for _, score in rows) / len(rows)
    rest = [score - mean for _, score in rows]
    hits = {name: [[] for _ in column] for name, column in effects.items()}
    for i, (spec, _) in enumerate(rows):
        for name, field in fields.items():
            hits[name][field["values"].index(spec[name])].append(i)
    for _ in range(8):
        for name, column in effects.items():
            for value, members in enumerate(hits[name]):
                old = column[value]
                column[value] = sum(rest[i] + old for i in members) / (len(members) + SHRINK)
                for i in members:
                    rest[i] += old - column[value]
    return effects


def most_promising(env, state, solutions):
    """The solution whose values have the largest summed effect."""
    effects = value_effects(state)
    fields = env.task["fields"]

    def promise(solution):
        spec = read_spec(env.task, solution)
        if spec is None:
            return float("-inf")
        return sum(effects[name][field["values"].index(spec[name])] for name, field in fields.items())

    return max(solutions, key=promise)


def by_effects(env, state):
    """Yield new draws in which every value has a chance that grows with its effect on the score so far."""
    fields = env.task["fields"]
    for _ in range(PRIOR):
        effects = value_effects(state)
        spread = max((max(column) - min(column) for column in effects.values()), default=0.0)
        if spread == 0.0:
            return
        spec = {}
        for name, field in fields.items():
            weights = [2.0 ** (8.0 * (effect - max(effects[name])) / spread) for effect in effects[name]]
            spec[name] = env.random.choices(field["values"], weights)[0]
        solution = write_spec(env.task, spec)
        if solution not in state["tried"]:
            yield solution


def hopeless(state, solution):
    """Whether the solution has a value that failed in the verifier each time it was tried, GIVE_UP times or more."""
    spec = read_spec(state["task"], solution) or {}
    tried = [(read_spec(state["task"], other) or {}, verdict["valid"]) for other, verdict in state["tried"].items()]
    for name, value in spec.items():
        fates = [valid for other, valid in tried if other.get(name) == value]
        if len(fates) >= GIVE_UP and not any(fates):
            return True
    return False


def hints(state):
    """Lines on the values that did well and badly in the verdicts so far."""
    effects = value_effects(state)
    ranked = [
        (effect, name, value)
        for name, field in state["task"]["fields"].items()
        for effect, value in zip(effects[name], field["values"], strict=True)
        if effect != 0.0
    ]
    ranked.sort(key=lambda entry: -entry[0])
    good = [f"{name}={json.dumps(value, ensure_ascii=False)}" for effect, name, value in ranked[:HINTS] if effect > 0]
    bad = [f"{name}={json.dumps(value, ensure_ascii=False)}" for effect, name, value in ranked[-HINTS:] if effect < 0]
    lines = ["Did well so far: " + ", ".join(good)] if good else []
    return lines + (["Did badly so far: " + ", ".join(bad)] if bad else [])


def objection(task, text):
    """What is wrong with an answer from which no solution could be read, as a sentence for the policy."""
    if "{" not in text:
        return "There is no JSON object in it."
    missing = [name for name in task["fields"] if name not in text]
    if missing:
        return "These fields are missing: " + ", ".join(missing) + "."
    return "It is not valid JSON: one {...} with double quotes, commas between the fields and nothing after it."


def ask_again(env, state, text):
    """A second answer by the policy, which is shown its first one and what is wrong with it; or None."""
    messages = build_prompt(state) + [
        {"role": "assistant", "content": text},
        {"role": "user", "content": objection(env.task, text) + " Answer again with the JSON object only."},
    ]
    return extract(env.sample(messages, n=1, temperature=TEMPERATURE, max_tokens=MAX_TOKENS)[0])


def balanced(text):
    """Every {...} of a text whose braces balance outside strings, in order; an open last one is closed."""
    blocks, start, depth, quote = [], 0, 0, ""
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[i - 1] != "\\" else quote
        elif letter == '"' and depth:
            quote = letter
        elif letter == "{":
            start = start if depth else i
            depth += 1
        elif letter == "}" and depth:
            depth -= 1
            if depth == 0:
                blocks.append(text[start : i + 1])
    return blocks + ([text[start:].rstrip().rstrip(",") + "}"] if depth else [])


def parse_loosely(block):
    """A block as a dict: JSON, or with bare keys, single quotes or trailing commas; None where nothing helps."""
    tidy = re.sub(r",\s*}", "}", block)
    tidy = re.sub(r"([{,]\s*)([A-Za-z_]\w*)\s*:", r'\1"\2":', tidy)
    for attempt, parse in ((block, json.loads), (tidy, json.loads), (tidy, ast.literal_eval)):
        try:
            answer = parse(attempt)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(answer, dict):
            return answer
    return None


def sturdy_extract(text):
    """The last {...} of an answer that reads as a record, as one line of JSON, or None."""
    for block in reversed(balanced(text)):
        answer = parse_loosely(block)
        if answer:
            return json.dumps(answer, ensure_ascii=False, separators=(",", ":"), default=str)
    return None


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
