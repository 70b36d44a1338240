"""What ``agent.py`` must define, and what it is given. The text below is shown to the agents as it stands."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from ..errors import SiaError

CONTRACT = """\
A scaffold is one Python file, agent.py, standard library only, that defines

    SYSTEM_PROMPT: str
    def build_prompt(state: dict) -> list[dict]     # chat messages [{"role": ..., "content": ...}, ...]
    def extract(text: str) -> str | None            # the solution in a response, or None
    def run(env) -> None                            # calls env; must call env.submit(...) at least once

state is a dict; run passes to build_prompt what it likes, but build_prompt must work with
{"task": env.task, "best": [], "parent": None}, since weight updates call it so:
    task    env.task (below)
    best    a list of {"solution": str, "score": float}, best first
    parent  a {"solution": str, "score": float} to improve on, or None

env offers
    env.task      {"name", "spec" (text), "instance" (text), "metric", "fallback" (a solution),
                   "fields": {name: {"values": [...], "ordered": bool, "doc": str}}}
    env.archive   [{"solution", "score"}, ...]: the run's best solutions from earlier steps, best first
    env.random    a random.Random, seeded by the run
    env.budget()  {"verifier_calls", "tokens", "seconds"}: what is left for this execution; seconds differ
                   between runs, so neither log them nor decide by them
    env.sample(messages, n=1, temperature=1.0, max_tokens=160, grammar=None) -> list of n texts
                  grammar="solution" masks decoding to the task's declared space: every text is then
                  a valid spec
    env.evaluate(solution) -> {"score", "valid", "reason", "failure", "metrics", "cached"}
                  a counted verifier call on dev; a solution scored before in this run is not counted
    env.log(kind, **data)
    env.submit(solution)    the answer; the last call counts

env raises BudgetExhausted (a RuntimeError, also env.BudgetExhausted) when a cap is spent. There is no
network and no file to read but the working directory.
"""

REQUIRED = {"build_prompt": 1, "extract": 1, "run": 1}
MAX_BYTES = 200_000


class ScaffoldError(SiaError):
    """A scaffold that does not meet the contract."""


@dataclass(frozen=True)
class Budget:
    """Caps for one execution of a scaffold."""

    verifier_calls: int = 24
    tokens: int = 20_000  # sampled by the policy
    seconds: float = 300.0  # wall time; generous, so that a slower machine takes the same decisions


def check(source: str) -> None:
    """Raise ``ScaffoldError`` unless ``source`` parses and defines what the contract asks for.

    Looks at the syntax tree only; nothing is executed.
    """
    if len(source.encode("utf-8", "replace")) > MAX_BYTES:
        raise ScaffoldError(f"agent.py: larger than {MAX_BYTES} bytes")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise ScaffoldError(
            f"agent.py: syntax error{f' in line {line}' if line else ''}: {getattr(error, 'msg', error)}"
        ) from None
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    for name, count in REQUIRED.items():
        if name not in functions:
            raise ScaffoldError(f"agent.py: function '{name}' is missing; expected {name} with {count} argument(s)")
        if len(functions[name].args.args) < count:
            raise ScaffoldError(
                f"agent.py: function '{name}' takes {len(functions[name].args.args)} argument(s), expected {count}"
            )
    assigned = {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    assigned |= {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    if "SYSTEM_PROMPT" not in assigned:
        raise ScaffoldError("agent.py: SYSTEM_PROMPT is missing; expected a top-level string")
