"""Three lessons run from top to bottom, open and solved: what their checks say, and that every picture is shown."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from sia_nb.notebooks import NOTEBOOKS

TIMED = "every check passed"  # what the judge of kernels says of a right program on a machine too busy to tell its speed


@pytest.mark.slow
@pytest.mark.parametrize("folder", [".", "solutions"])
@pytest.mark.parametrize("name", ["policy_gradient", "honest_evaluation", "fast_kernels"])
def test_a_lesson_runs_to_its_end(name, folder):
    path = NOTEBOOKS / "lessons" / folder / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS / "lessons")}}).execute()
    code = [c for c in notebook.cells if c.cell_type == "code"]
    said = [o.get("text", "") for c in code for o in c.outputs if "_checks." in c.source]
    told = [line for text in said for line in text.splitlines() if line.startswith(("right: ", "not yet: "))]
    assert len(told) == sum(len(re.findall(r"_checks\.check_", c.source)) for c in code)
    solved = [line.startswith("right: ") or (folder == "solutions" and TIMED in line) for line in told]
    assert all(solved) if folder == "solutions" else not any(solved)
    for cell in code:
        shown = sum("image/png" in o.get("data", {}) for o in cell.outputs)
        assert shown == len(re.findall(r"_pictures\.\w+\(", cell.source))
