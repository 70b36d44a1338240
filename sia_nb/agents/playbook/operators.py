"""The changes of code behind the playbook's edits: source text in, source text out.

Each finds its place by the shape that the first draft and earlier edits gave the code, and raises
``LookupError`` where that place is not there. The functions that it puts in come from ``parts``.
"""

from __future__ import annotations

import inspect

from . import parts, surgery
from .surgery import add_constant, add_function, add_import, append, has, insert, set_docstring, substitute, wrap


def _part(source: str, name: str, before: str = "propose", *, named: str = "") -> str:
    text = inspect.getsource(getattr(parts, name))
    return add_function(source, text.replace(f"def {name}(", f"def {named or name}(", 1), before)


def _constants(source: str, *names: str) -> str:
    for name in names:
        value, comment = parts.CONSTANTS[name]
        source = add_constant(source, name, value, comment)
    return source


def structured_output(source: str) -> str:
    """Let the decoder write nothing but specs."""
    return surgery.add_keyword(source, "env.sample", "grammar", '"solution"')


def use_whole_budget(source: str) -> str:
    """One batch becomes rounds that go on while there are verifier calls."""
    source = _constants(source, "ROUNDS")
    source = wrap(source, "run", has(r"for solution in propose"), "for _ in range(ROUNDS):")
    stop = 'if env.budget()["verifier_calls"] < 1:\n    break'
    return insert(source, "run", has(r"for solution in propose"), stop, after=False)


def remember(source: str) -> str:
    """Keep the verdicts and pass over what was scored before."""
    source = insert(source, "run", has(r"state = "), 'state["tried"] = {}  # verdicts by solution')
    source = insert(source, "run", has(r"verdict = env\.evaluate"), 'if solution in state["tried"]:\n    continue', after=False)
    return insert(source, "run", has(r"verdict = env\.evaluate"), 'state["tried"][solution] = verdict')


def start_from_archive(source: str) -> str:
    """Begin with the best solutions of earlier steps."""
    text = """
        for entry in env.archive:
            state["best"].append({"solution": entry["solution"], "score": entry["score"]})
            state["tried"][entry["solution"]] = {"score": entry["score"], "valid": True, "failure": ""}
        """
    return insert(source, "run", has(r"state\['tried'\] = \{\}"), text)


def _proposals(source: str, constants: tuple[str, ...], functions: tuple[str, ...]) -> str:
    """Add a generator (the last of ``functions``) with its helpers, and a line that yields from it."""
    source = _constants(source, *constants)
    for name in functions:
        source = _part(source, name)
    source = append(source, "propose", f"yield from {functions[-1]}(env, state)")
    return set_docstring(source, "Yield solutions to score: the policy's answers, then those made in code.", "propose")


def local_search(source: str) -> str:
    """Small changes of the best solution."""
    functions = ("read_spec", "write_spec", "vary", "parent_spec", "neighbours")
    return _proposals(source, ("LOCAL", "PARENTS", "TWO_FIELDS", "LONG_STEP"), functions)


def crossover(source: str) -> str:
    """Combinations of two of the best solutions."""
    return _proposals(source, ("CROSS",), ("read_spec", "write_spec", "crossovers"))


def value_prior(source: str) -> str:
    """Draws by the values' estimated effects."""
    return _proposals(source, ("PRIOR", "SHRINK"), ("read_spec", "write_spec", "value_effects", "by_effects"))


def screen_changes(source: str) -> str:
    """Score the most promising of several changes, by an additive fit over the verdicts."""
    source = _constants(source, "POOL", "SHRINK")
    for name in ("value_effects", "most_promising"):
        source = _part(source, name, "neighbours")
    text = inspect.getsource(parts.screened_neighbours).replace("def screened_neighbours(", "def neighbours(", 1)
    return surgery.replace_function(source, "neighbours", text)


def screen_policy(source: str) -> str:
    """Sample more than can be scored and score the most promising part."""
    source = _constants(source, "SHRINK", "OVERSAMPLE")
    for name in ("read_spec", "value_effects", "most_promising"):
        source = _part(source, name)
    source = surgery.map_keyword(source, "env.sample", "n", lambda n: n.replace("BATCH", "BATCH * OVERSAMPLE"))
    text = """
        answers = sorted({extract(text) for text in texts} - {None} - set(state["tried"]))
        for _ in range(min(BATCH, len(answers))):
            solution = most_promising(env, state, answers)
            answers.remove(solution)
            yield solution
        """
    return substitute(source, "propose", has(r"for text in texts"), text)


def examples(source: str) -> str:
    """Show the policy the best solutions with their scores."""
    source = _constants(source, "EXAMPLES")
    text = """
        if state["best"]:
            lines += ["", "Solutions so far, with their scores; give a better one:"]
            lines += [f"{entry['score']:.4f}  {entry['solution']}" for entry in state["best"][:EXAMPLES]]
        """
    return insert(source, "build_prompt", has(r"lines\.append\(''\)"), text, after=False)


def prompt_hints(source: str) -> str:
    """Tell the policy which values did well and badly, by its own verdicts of this execution."""
    source = _constants(source, "SHRINK", "HINTS")
    for name in ("read_spec", "value_effects", "hints"):
        source = _part(source, name, "build_prompt")
    text = """
        if state.get("tried"):
            lines += ["", *hints(state)]
        """
    return insert(source, "build_prompt", has(r"lines\.append\(''\)"), text, after=False)


def sturdier_extraction(source: str) -> str:
    """Read fenced, loosely written and cut answers."""
    source = add_import(add_import(source, "ast"), "re")
    source = _part(source, "balanced", "extract")
    source = _part(source, "parse_loosely", "extract")
    text = inspect.getsource(parts.sturdy_extract).replace("def sturdy_extract(", "def extract(", 1)
    return surgery.replace_function(source, "extract", text)


def mend_answers(source: str) -> str:
    """Repair records with wrong values or gaps before they are scored."""
    source = add_import(source, "difflib")
    for name in ("read_spec", "write_spec", "nearest_value", "mend"):
        source = _part(source, name)
    return substitute(source, "propose", has(r"yield solution$"), "yield mend(env, state, solution)")


def retry_with_error(source: str) -> str:
    """Show the policy its unreadable answer and what is wrong with it, and read the second one."""
    for name in ("objection", "ask_again"):
        source = _part(source, name)
    text = "if solution is None:\n    solution = ask_again(env, state, text)"
    return insert(source, "propose", has(r"solution = extract\(text\)"), text)


def skip_failing_values(source: str) -> str:
    """Spend no verdict on a value that has only ever failed in the verifier."""
    source = _constants(source, "GIVE_UP")
    for name in ("read_spec", "hopeless"):
        source = _part(source, name, "run")
    return insert(source, "run", has(r"verdict = env\.evaluate"), "if hopeless(state, solution):\n    continue", after=False)


def submit_as_found(source: str) -> str:
    """Submit every new best at once, so that an execution cut short has an answer."""
    text = 'if state["best"][0]["solution"] == solution:\n    env.submit(solution)'
    return insert(source, "run", has(r"state\['best'\]\.sort"), text)


def survive_errors(source: str) -> str:
    """Note an error of the scaffold's own and submit what there is."""
    text = """
        except Exception as error:
            env.log("crash", error=repr(error))
        """
    return surgery.add_handler(source, "run", text)


def spare_tokens(source: str) -> str:
    """Ask the policy only while its answers can be paid for, so that the search in code goes on after that."""
    sampling = has(r"texts = env\.sample")
    source = wrap(source, "propose", sampling, "if affordable > 0:")
    source = insert(
        source,
        "propose",
        has(r"if affordable"),
        'affordable = int(env.budget()["tokens"] // MAX_TOKENS)\ntexts = []',
        after=False,
    )
    return surgery.map_keyword(source, "env.sample", "n", lambda n: f"min({n}, affordable)" if "affordable" not in n else n)
