"""Edits of Python source by the spans of its syntax tree: what is not edited stays as it was, byte for byte.

Standard library only. Every function takes source text and returns source text; a place that is not
found raises ``LookupError``.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable
from functools import lru_cache
from typing import Any

INDENT = "    "
Match = Callable[[ast.stmt], bool]


@lru_cache(64)
def _parse(source: str) -> ast.Module:
    return ast.parse(source)


def _lines(source: str) -> list[str]:
    return source.splitlines(keepends=True)


def _block(text: str, column: int) -> list[str]:
    return _lines(textwrap.indent(textwrap.dedent(text).strip("\n") + "\n", " " * column))


def function(source: str, name: str) -> ast.FunctionDef | None:
    """The top-level function of that name."""
    for node in _parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    return None


def _require(source: str, name: str) -> ast.FunctionDef:
    node = function(source, name)
    if node is None:
        raise LookupError(f"no function {name}")
    return node


def replace_function(source: str, name: str, text: str) -> str:
    """Put ``text`` in the place of a top-level function."""
    node = _require(source, name)
    lines = _lines(source)
    lines[node.lineno - 1 : node.end_lineno] = _block(text, 0)
    return "".join(lines)


def add_function(source: str, text: str, before: str) -> str:
    """Put a function in front of another one, unless one of its name is there."""
    definition = _parse(textwrap.dedent(text)).body[0]
    assert isinstance(definition, ast.FunctionDef)
    if function(source, definition.name) is not None:
        return source
    node = _require(source, before)
    lines = _lines(source)
    lines[node.lineno - 1 : node.lineno - 1] = [*_block(text, 0), "\n", "\n"]
    return "".join(lines)


def _assignment(source: str, name: str) -> ast.Assign | None:
    for node in _parse(source).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return node
    return None


def constant(source: str, name: str) -> Any:
    """The literal value of a module constant, or None where there is no such constant."""
    node = _assignment(source, name)
    try:
        return None if node is None else ast.literal_eval(node.value)
    except ValueError:
        return None


def literal(value: Any) -> str:
    """Python text of a literal, strings in double quotes on one line."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r") + '"'
    return repr(value)


def set_constant(source: str, name: str, value: Any) -> str:
    """Give a module constant another value; its comment stays."""
    node = _assignment(source, name)
    if node is None:
        raise LookupError(f"no constant {name}")
    return _replace(source, node.value, literal(value))


def add_constant(source: str, name: str, value: Any, comment: str = "") -> str:
    """Add a module constant below the last one, unless it is there."""
    if _assignment(source, name) is not None:
        return source
    heads = (ast.Assign, ast.Import, ast.ImportFrom)
    last = max((node.end_lineno or 1 for node in _parse(source).body if isinstance(node, heads)), default=1)
    lines = _lines(source)
    lines.insert(last, f"{name} = {literal(value)}" + (f"  # {comment}" if comment else "") + "\n")
    return "".join(lines)


def set_docstring(source: str, text: str, name: str = "") -> str:
    """Replace the docstring of a function, or of the module."""
    body = _require(source, name).body if name else _parse(source).body
    return _replace(source, body[0], '"""' + text.replace("\\", "\\\\").replace('"""', "'''") + '"""')


def add_import(source: str, module: str) -> str:
    """Add ``import module`` in alphabetical order to the imports that are there."""
    imports = [node for node in _parse(source).body if isinstance(node, ast.Import)]
    if any(alias.name == module for node in imports for alias in node.names):
        return source
    after = [node.end_lineno or 1 for node in imports if node.names[0].name < module]
    lines = _lines(source)
    lines.insert(max(after) if after else imports[0].lineno - 1, f"import {module}\n")
    return "".join(lines)


def _replace(source: str, node: Any, text: str) -> str:
    """Put text in the place of one node (``ast`` counts columns in bytes)."""
    lines = [line.encode() for line in _lines(source)]
    head, tail = lines[node.lineno - 1][: node.col_offset], lines[node.end_lineno - 1][node.end_col_offset :]
    lines[node.lineno - 1 : node.end_lineno] = [head + text.encode() + tail]
    return b"".join(lines).decode()


def calls(source: str, dotted: str) -> list[ast.Call]:
    """The calls of ``dotted`` (e.g. ``env.sample``), in order of their place."""
    found = [node for node in ast.walk(_parse(source)) if isinstance(node, ast.Call) and ast.unparse(node.func) == dotted]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def add_keyword(source: str, dotted: str, keyword: str, value: str) -> str:
    """Add ``keyword=value`` to every call of ``dotted`` that lacks it; on a line of its own where each argument has one."""
    for call in reversed(calls(source, dotted)):
        if all(k.arg != keyword for k in call.keywords):
            old = (ast.get_source_segment(source, call) or "")[:-1]
            bare = old.rstrip()
            if "\n" in old and bare.endswith(","):
                last = bare.splitlines()[-1]
                margin = last[: len(last) - len(last.lstrip())]
                new = f"{bare}\n{margin}{keyword}={value},{old[len(bare) :]})"
            else:
                comma = "" if bare.endswith("(") else " " if bare.endswith(",") else ", "
                new = f"{bare}{comma}{keyword}={value})"
            source = _replace(source, call, new)
    return source


def statement(source: str, name: str, match: Match) -> ast.stmt:
    """The first statement inside a function for which ``match`` holds, in order of its place."""
    function_node = _require(source, name)
    inner = [node for node in ast.walk(function_node) if isinstance(node, ast.stmt) and node is not function_node]
    for node in sorted(inner, key=lambda n: (n.lineno, n.col_offset)):
        if match(node):
            return node
    raise LookupError(f"no such statement in {name}")


def has(pattern: str) -> Match:
    """Matches a statement whose first line, as ``ast`` writes it, starts with the regular expression."""
    return lambda node: re.match(pattern, ast.unparse(node).splitlines()[0]) is not None


@lru_cache(1024)
def found(source: str, name: str, pattern: str) -> bool:
    """Whether a function of that name has a statement that ``has`` matches."""
    try:
        statement(source, name, has(pattern))
    except LookupError:
        return False
    return True


def insert(source: str, name: str, match: Match, text: str, *, after: bool = True) -> str:
    """Insert statements beside the first one that matches, at its indentation."""
    node = statement(source, name, match)
    lines = _lines(source)
    at = (node.end_lineno or node.lineno) if after else node.lineno - 1
    lines[at:at] = _block(text, node.col_offset)
    return "".join(lines)


def substitute(source: str, name: str, match: Match, text: str) -> str:
    """Put statements in the place of the first one that matches."""
    node = statement(source, name, match)
    lines = _lines(source)
    lines[node.lineno - 1 : node.end_lineno] = _block(text, node.col_offset)
    return "".join(lines)


def wrap(source: str, name: str, match: Match, header: str) -> str:
    """Put the first statement that matches under ``header``, one level deeper."""
    node = statement(source, name, match)
    lines = _lines(source)
    body = [INDENT + line if line.strip() else line for line in lines[node.lineno - 1 : node.end_lineno]]
    lines[node.lineno - 1 : node.end_lineno] = [*_block(header, node.col_offset), *body]
    return "".join(lines)


def append(source: str, name: str, text: str) -> str:
    """Add statements at the end of a function's body."""
    node = _require(source, name)
    lines = _lines(source)
    lines[node.end_lineno : node.end_lineno] = _block(text, node.body[0].col_offset)
    return "".join(lines)


def add_handler(source: str, name: str, text: str) -> str:
    """Add an ``except`` clause below the last one of the first ``try`` in a function."""
    node = statement(source, name, lambda n: isinstance(n, ast.Try))
    assert isinstance(node, ast.Try)
    last = node.handlers[-1]
    lines = _lines(source)
    end = last.end_lineno or last.lineno
    lines[end:end] = _block(text, last.col_offset)
    return "".join(lines)


def map_keyword(source: str, dotted: str, keyword: str, change: Callable[[str], str]) -> str:
    """Rewrite the value of a keyword in every call of ``dotted`` that has it."""
    for call in reversed(calls(source, dotted)):
        for k in call.keywords:
            if k.arg == keyword:
                source = _replace(source, k.value, change(ast.unparse(k.value)))
    return source
