"""The loop's structure, read from the code and from a run's folder: what Figures 2(a) and 3 (paper §5) are drawn from.

Nothing is listed here that the code does not say. Which notebooks the loop runs, in which order and under which mark, is
read from the syntax tree of ``loop``; which phase function a notebook calls, from its cells; what a phase reads, from the
calls in that function; what it writes, from the completion marks of a real run. ``READS`` and ``WRITES`` only give these
calls and files the paper's symbols (§3.4). Nothing is imported to be looked at, so no torch comes with it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import StoreError
from ..store import ROOT, Run, read_json

PACKAGE = ROOT / "sia_nb"
READS = {  # a call in a phase's function, and the symbol of what it brings in
    "spec_text": "U",
    "reference": "R",
    "open_verifier": "V",
    "prepare_data": "D",
    "seal": "sealed",
    "scaffold": "A",
    "trajectory": "tau",
    "metrics": "E",
    "open_policy": "theta",
    "_decided": "decision",
}
WRITES = {  # how a file that a mark names begins, below its step, and the symbol it is
    "scaffold/": "A",
    "origin.json": "A",
    "trajectory.jsonl": "tau",
    "metrics.json": "E",
    "decision.json": "decision",
    "improvement.md": "decision",
    "weights/": "theta",
    "report.json": "report",
}
INPUTS = ("U", "R", "V", "D", "sealed")  # what no phase writes
ROLES = {  # the paper's name of whoever acts in a phase, by the phase's mark
    "init": "Meta-Agent",
    "run": "Task-Specific Agent",
    "decision": "Feedback-Agent",
    "train": "weight update",
    "report": "sealed test",
}


@dataclass(frozen=True)
class Phase:
    """One notebook of the loop."""

    notebook: str
    mark: str  # the completion mark that the loop asks for; "report" for the notebook that has none
    function: str  # of ``phases``: the one that the notebook calls and that sets the mark
    reads: tuple[str, ...]  # symbols
    writes: tuple[str, ...]  # symbols

    @property
    def role(self) -> str:
        """Who acts in it, in the paper's words; the mark where the paper has no name."""
        return ROLES.get(self.mark, self.mark)


def phases_of(runs: Iterable[Run]) -> list[Phase]:
    """The loop's phases in the order of their notebooks, with what each writes in these runs.

    Raises:
        StoreError: there is no run, or a source file cannot be read.
    """
    runs = list(runs)
    if not runs:
        raise StoreError("the loop's structure is read from the completion marks of finished runs, and there is none")
    own = {k: f for name in ("phases", "weights", "sealed_report") for k, f in _functions(PACKAGE / f"{name}.py").items()}
    notebooks, out = loop_notebooks(), []
    mains = {notebook: _main(mark, notebook_calls(notebook), own) for notebook, mark in notebooks.items()}
    for notebook, mark in notebooks.items():
        found = _closure(mains[notebook], own, stop=set(mains.values()))
        reads = tuple(dict.fromkeys(symbol for call, symbol in READS.items() if call in found))
        out.append(Phase(notebook, mark, mains[notebook], reads, _written(runs, mark)))
    return sorted(out, key=lambda p: p.notebook)


def loop_notebooks() -> dict[str, str]:
    """notebook → mark, of every ``_notebook(run, "…")`` in the loop's source; the mark is that of the ``if not run.done``
    around it."""
    found: dict[str, str] = {}

    def visit(node: ast.AST, mark: str) -> None:
        if isinstance(node, ast.If):
            asked = [
                c.args[1] for c in ast.walk(node.test) if isinstance(c, ast.Call) and _name(c) == "done" and len(c.args) == 2
            ]
            inner = next((a.value for a in asked if isinstance(a, ast.Constant)), mark)
            for child in node.body:
                visit(child, inner)
            for child in node.orelse:
                visit(child, mark)
            return
        if isinstance(node, ast.Call) and _name(node) == "_notebook" and isinstance(node.args[1], ast.Constant):
            found.setdefault(node.args[1].value, mark)
        for child in ast.iter_child_nodes(node):
            visit(child, mark)

    visit(_tree(PACKAGE / "loop.py"), "report")
    return found


@lru_cache(32)
def notebook_calls(name: str) -> tuple[str, ...]:
    """The functions of ``phases`` that a notebook's cells call, in order."""
    path = ROOT / "notebooks" / f"{name}.ipynb"
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    found = []
    for cell in cells:
        if cell["cell_type"] == "code":
            for node in ast.walk(ast.parse("".join(cell["source"]))):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "phases":
                    found.append(node.attr)
    return tuple(dict.fromkeys(found))


def functions_of(source: str) -> list[str]:
    """The top-level functions of a scaffold, in order; none where it is no Python."""
    try:
        return [n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    except SyntaxError:
        return []


def _main(mark: str, names: tuple[str, ...], own: dict[str, ast.FunctionDef]) -> str:
    """Of the functions that a notebook calls, the one that sets the phase's mark, or writes the report."""
    for name in names:
        if name == mark or (name in own and mark in _marks_set(own[name])):
            return name
    raise StoreError(f"none of {', '.join(names) or 'no function'} sets the mark '{mark}' that the loop asks for")


def _marks_set(node: ast.FunctionDef) -> set[str]:
    """The marks that a function sets with ``run.finish(step, mark, files)``."""
    calls = [c for c in ast.walk(node) if isinstance(c, ast.Call) and _name(c) == "finish" and len(c.args) == 3]
    return {c.args[1].value for c in calls if isinstance(c.args[1], ast.Constant)}


def _written(runs: list[Run], mark: str) -> tuple[str, ...]:
    """The symbols of the files that this phase's marks name. A scaffold that is its parent's, byte for byte, is not written."""
    found = []
    for run in runs:
        if mark == "report":
            found += ["report.json"] if (run.path / "report.json").exists() else []
        for g in run.steps():
            done = run.step(g) / f"{mark}.done.json"
            if not done.exists():
                continue
            origin = run.origin(g)
            same = mark == "train" and run.scaffold(g) == run.scaffold(origin["parent"])
            names = [Path(name).parts[1:] for name in read_json(done)["files"]]
            found += ["/".join(n) for n in names if not (same and (n[0] == "scaffold" or n[-1] == "origin.json"))]
    symbols = [next((s for start, s in WRITES.items() if name.startswith(start)), name) for name in found]
    return tuple(dict.fromkeys(symbols))


@lru_cache(8)
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None


def _functions(path: Path) -> dict[str, ast.FunctionDef]:
    return {n.name: n for n in _tree(path).body if isinstance(n, ast.FunctionDef)}


def _closure(name: str, own: dict[str, ast.FunctionDef], stop: set[str]) -> set[str]:
    """All names that a function calls, through the functions beside it, but not through those in ``stop``, nor where it only
    gives back what it has done before."""
    out, todo, seen = set(), [name], set()
    while todo:
        here = todo.pop()
        if here in seen or here not in own:
            continue
        seen.add(here)
        called = set(_calls(own[here]))
        out |= called
        todo += [c for c in called if c not in stop]
    return out


def _calls(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and any(isinstance(c, ast.Call) and _name(c) == "done" for c in ast.walk(node.test)):
        return
    if isinstance(node, ast.Call):
        yield _name(node)
    for child in ast.iter_child_nodes(node):
        yield from _calls(child)


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""
