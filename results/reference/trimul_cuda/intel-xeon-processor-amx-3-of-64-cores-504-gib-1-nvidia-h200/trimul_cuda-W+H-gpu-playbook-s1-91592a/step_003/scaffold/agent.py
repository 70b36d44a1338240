"""Scaffold for trimul_cuda: the policy proposes, the verifier judges."""

import json

SYSTEM_PROMPT = "You propose solutions to this task: TriMul kernel on a GPU. AlphaFold's triangular multiplicative update (\"outgoing edges\") takes a table x of pairs and returns one of the same shape. The task is to compute it faster than PyTorch does step by step, on one CUDA GPU. Judged by 1500 / run time in µs on dev shapes; higher is better."
BATCH = 8  # answers sampled at once
TEMPERATURE = 1.0
MAX_TOKENS = 128  # of one answer
ROUNDS = 200  # an upper bound; the budget ends the search before it
LOCAL = 8  # changes of the best solution in each round
PARENTS = 1  # how many of the best solutions changes start from
TWO_FIELDS = 0.25  # share of changes that move two fields at once
LONG_STEP = 0.2  # share of changes that move an ordered field anywhere, not to a neighbour
POOL = 12  # candidates from which the most promising is scored
SHRINK = 2.0  # verdicts that a value needs before its effect counts half


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


def neighbours(env, state):
    """Yield small changes of the best solution: the most promising of a pool, and in turn any, lest the fit rule out a way."""
    for turn in range(2 * LOCAL):
        parent = parent_spec(env, state)
        if parent is None:
            return
        pool = [write_spec(env.task, vary(env.task, env.random, parent)) for _ in range(POOL)]
        pool = [solution for solution in pool if solution not in state["tried"]]
        if pool:
            yield pool[0] if turn % 2 else most_promising(env, state, pool)


def propose(env, state):
    """Yield solutions to score: the policy's answers, then those made in code."""
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
            yield solution
    yield from neighbours(env, state)


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
