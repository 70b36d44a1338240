"""Scaffold for trimul_cuda: the policy proposes, the verifier judges."""

import json

SYSTEM_PROMPT = "You propose solutions to this task: TriMul kernel on a GPU. AlphaFold's triangular multiplicative update (\"outgoing edges\") takes a table x of pairs and returns one of the same shape. The task is to compute it faster than PyTorch does step by step, on one CUDA GPU. Judged by 1500 / run time in µs on dev shapes; higher is better."
BATCH = 8  # answers sampled at once
TEMPERATURE = 1.0
MAX_TOKENS = 128  # of one answer


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


def propose(env, state):
    """Yield solutions to score: those that can be read from a batch of the policy's answers."""
    texts = env.sample(
        build_prompt(state),
        n=BATCH,
        temperature=TEMPERATURE,
        max_tokens=MAX_TOKENS,
    )
    for text in texts:
        solution = extract(text)
        if solution is not None:
            yield solution


def run(env):
    """Score the proposals and submit the best; the fallback where there is none."""
    state = {"task": env.task, "best": [], "parent": None}
    try:
        for solution in propose(env, state):
            verdict = env.evaluate(solution)
            if verdict["valid"]:
                state["best"].append({"solution": solution, "score": verdict["score"]})
                state["best"].sort(key=lambda entry: -entry["score"])
    except env.BudgetExhausted:
        env.log("budget", left=env.budget()["verifier_calls"])
    env.submit(state["best"][0]["solution"] if state["best"] else env.task["fallback"])
