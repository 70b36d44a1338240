"""A strict runner over papermill: parameters checked before a kernel starts, one process and one
time-out a notebook, a clear error instead of a traceback, the executed copy renamed into place.

papermill alone only warns of unknown parameters and passes strings through; a notebook that exists after
a kill says nothing, so whoever calls this keeps a completion mark of its own.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import ConfigError, SiaError, nearest
from .store import ROOT

NOTEBOOKS = ROOT / "notebooks"
_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


class NotebookError(SiaError):
    """A notebook that failed for a reason of its own; the message names notebook and cell."""


class Interrupted(SiaError):
    """Stopped by Ctrl-C or a signal; what is done is kept."""


def find(name: str) -> Path:
    """The path of the notebook called ``name`` (with or without ``.ipynb``).

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    path = NOTEBOOKS / f"{name.removesuffix('.ipynb')}.ipynb"
    if not path.exists():
        known = [p.stem for p in sorted(NOTEBOOKS.glob("*.ipynb"))]
        raise ConfigError(f"notebook '{name}' does not exist.{nearest(name, known)} Known: {', '.join(known)}.")
    return path


def parameters(path: Path) -> dict[str, Any]:
    """The defaults in the cell tagged ``parameters``: plain literals, read from the syntax tree.

    Raises:
        NotebookError: no such cell, or a line in it that is no ``name: type = literal``.
    """
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise NotebookError(f"{path}: {len(tagged)} cells are tagged 'parameters', expected one")
    found = {}
    for node in ast.parse("".join(tagged[0]["source"])).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            target = node.target.id
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            target = node.targets[0].id
        else:
            raise NotebookError(f"{path}: line {node.lineno} of the parameters cell is not 'name: type = literal'")
        try:
            found[target] = ast.literal_eval(node.value)
        except ValueError:
            raise NotebookError(f"{path}: parameter '{target}' has no plain literal as its default") from None
    return found


def check_parameters(path: Path, values: dict[str, Any]) -> None:
    """Refuse unknown names and wrong types before a kernel starts.

    Raises:
        ConfigError: names the notebook, the parameter, its value and what was expected.
    """
    defaults = parameters(path)
    for name, value in values.items():
        if name not in defaults:
            raise ConfigError(
                f"{path.name}: parameter '{name}' is not known.{nearest(name, defaults)} Known: {', '.join(defaults)}."
            )
        expected = type(defaults[name])
        fits = type(value) is expected or (expected is float and type(value) is int)
        if not fits:
            raise ConfigError(
                f"{path.name}: parameter '{name}' is {value!r} ({type(value).__name__}), expected {expected.__name__}"
            )


def execute(
    name: str,
    values: dict[str, Any],
    output: Path,
    *,
    timeout: float = 3600.0,
    poll: Callable[[], None] | None = None,
) -> float:
    """Run a notebook in a process of its own; the executed copy lands at ``output``. Returns its seconds.

    ``poll`` is called a few times a second meanwhile.

    Raises:
        ConfigError: bad parameters. NotebookError: a cell failed, the kernel died, or time ran out.
        Interrupted: SIGINT or SIGTERM; the notebook and its kernel are ended first.
        SiaError: the error a phase raised, with its own message.
    """
    source = find(name)
    check_parameters(source, values)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial.ipynb")
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    child = subprocess.Popen(
        [sys.executable, "-m", "sia_nb.notebooks", str(source), str(partial), json.dumps(values)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=environment,
        preexec_fn=_die_with_parent,
    )
    try:
        while True:
            try:
                log, _ = child.communicate(timeout=0.3)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() - start > timeout:
                    _end(child)
                    raise NotebookError(f"{source.name}: stopped after its time-out of {timeout:.0f} s; see {partial}") from None
                if poll:
                    poll()
    except KeyboardInterrupt:
        _end(child)
        raise Interrupted(
            "interrupted; everything finished so far is kept. `python -m sia_nb resume RUN` goes on from here."
        ) from None
    except BaseException:
        _end(child)
        raise
    if child.returncode != 0:
        raise _failure(source, partial, log)
    os.replace(partial, output)
    return time.monotonic() - start


def _die_with_parent() -> None:
    """End the notebook where the loop is killed: it must not go on writing into a run that is resumed meanwhile."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; the kernel watches for its own parent


def _end(child: subprocess.Popen) -> None:
    """End the notebook's process group, politely first, so that sandboxes are torn down."""
    for signum, patience in ((signal.SIGINT, 5.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _failure(source: Path, partial: Path, log: str) -> SiaError:
    """The error of the executed notebook: a phase's own message where there is one."""
    from . import errors

    with contextlib.suppress(OSError, ValueError, KeyError):
        for number, cell in enumerate(json.loads(partial.read_text(encoding="utf-8"))["cells"]):
            for out in cell.get("outputs", []):
                if out.get("output_type") == "error":
                    kind = getattr(errors, out["ename"], None)
                    if isinstance(kind, type) and issubclass(kind, SiaError) and kind is not errors.InvalidSolution:
                        return kind(out["evalue"])
                    return NotebookError(
                        f"{source.name}, cell {number}: {out['ename']}: {out['evalue']}\nThe executed copy with the traceback: {partial}"
                    )
    tail = re.sub(r"\x1b\[[0-9;]*m", "", log or "").strip().splitlines()[-3:]
    return NotebookError(f"{source.name}: the kernel died or could not start: {' | '.join(tail) or 'no output'}")


def _main(source: str, partial: str, values: str) -> None:
    import logging

    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    papermill.execute_notebook(
        source, partial, parameters=json.loads(values), kernel_name="python3", progress_bar=False, log_output=False
    )


if __name__ == "__main__":
    _main(*sys.argv[1:4])
