"""Reading what a policy wrote, as a spec of a task's space or as free Python, without running it.

Imports no numpy, so that texts can be checked without it.
"""

from __future__ import annotations

import ast

from ..errors import InvalidSolution
from .base import Solution
from .space import Space

MAX_BYTES = 200_000
NUMBERS = {1: "one argument", 2: "two arguments", 3: "three arguments"}


def parse(text: str, space: Space, entry: str, arguments: tuple[str, ...]) -> Solution:
    """The solution in ``text``: Python where a line starts with ``def `` or ``import ``, else a spec.

    Args:
        text: what was written.
        space: the task's space of specs.
        entry: the function that code must define.
        arguments: the names of its arguments, for messages; their number is checked.

    Raises:
        InvalidSolution: unparsable, unknown_field, missing_field, bad_value, syntax or no_entry.
    """
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise InvalidSolution("unparsable", f"longer than {MAX_BYTES} bytes")
    if any(line.startswith(("def ", "import ")) for line in text.splitlines()):
        return Solution("code", check(text, entry, arguments))
    return Solution("spec", space.dump(space.parse(text.strip())))


def check(text: str, entry: str, arguments: tuple[str, ...]) -> str:
    """Free Python, its syntax and entry checked without running it; lines without trailing space.

    Raises:
        InvalidSolution: syntax or no_entry.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise InvalidSolution("syntax", f"{getattr(error, 'msg', error)}{f' in line {line}' if line else ''}") from None
    entries = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == entry]
    names = ", ".join(arguments)
    if not entries:
        raise InvalidSolution("no_entry", f"no function '{entry}({names})' at the top level")
    if len(entries[-1].args.posonlyargs + entries[-1].args.args) != len(arguments) and entries[-1].args.vararg is None:
        raise InvalidSolution("no_entry", f"'{entry}' must take {NUMBERS[len(arguments)]}: {names}")
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"
