"""Every notebook and every lesson, run from top to bottom in JupyterLab in a real browser, then read as HTML without a kernel.

They are found by their files: a new one is tested without a word here. Those that take minutes get smaller parameters.
"""

import re

import pytest
from browser_lab import check_outputs
from playwright.sync_api import expect

from sia_nb.notebooks import NOTEBOOKS

ALL = sorted(
    str(p.relative_to(NOTEBOOKS).with_suffix("")) for p in NOTEBOOKS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)
PARAMETERS = {  # a run of their own beside the quickstart's, so that each really executes; 03 goes on from 02's
    "01_init_scaffold": {"seed": 1},
    "02_run_generation": {"seed": 1},
    "03_feedback_decision": {"seed": 1},
    "04_grpo_training": {"verifier_calls": 16, "tokens": 3000, "steps": 2, "group_size": 4},
    "05_ablation_figures": {"tasks": ["lawbench"]},
}
SEEN = {  # what must stand in the page: a cell's words, and a pattern in what it shows
    "00_quickstart": [("loop.run_loop", "H.*kept|rolled back"), ("phases.report", r"sealed test top1 0\.\d{4}")],
    "01_init_scaffold": [("phases.init_scaffold", "def build_prompt"), ("contract.CONTRACT", "extract")],
    "02_run_generation": [("phases.run_generation", r"dev score \d\.\d{4}"), ("steps_html", "the first scaffold")],
    "03_feedback_decision": [("feedback_decision", "action:  harness"), ("inspect.detail", r"event \d+: ")],
    "04_grpo_training": [
        ("phases.weight_update", "grpo: 2 steps"),
        ("formula_markdown", "def grpo"),
        ("rollouts_html", "last training step: [1-9]"),
    ],
    "05_ablation_figures": [("tables.table_3", "LawBench"), ("text.findings", r"\d")],
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ALL)
def test_a_notebook_runs_and_is_drawn_in_jupyterlab_and_as_html(name, sheet, still):
    page = sheet(name, **PARAMETERS.get(name, {}))
    cells = page.run_all(seconds=1000)
    for source, pattern in SEEN.get(name, ()):
        expect(page.cell(source).locator(".jp-Cell-outputWrapper")).to_contain_text(re.compile(pattern))
    name = name.replace("/", "_")
    picture = page.shoot(name, whole=True)
    exported = still(page.lab.notebooks / f"{page.name}.ipynb")
    check_outputs(exported.locator(".jp-Cell"), cells, f"{name}.html", live=False)
    exported.screenshot(path=picture.with_name(f"{name}_html.png"), full_page=True)


def test_no_notebook_is_left_out():
    assert {
        "00_quickstart",
        "05_ablation_figures",
        "explore_trajectories",
        "lessons/denoising_metrics",
        "lessons/solutions/denoising_metrics",
    } <= set(ALL)
    assert set(PARAMETERS) | set(SEEN) <= set(ALL)
