"""A quick handful of notebooks in JupyterLab in a real browser: they run, they are drawn, and their widgets react to clicks."""

import json
import os

import psutil
import pytest
from browser_lab import Lab, find_browser

STEP = 2  # of the committed run: a harness update followed it


def words(locator):
    return " ".join(locator.inner_text().split())


def test_the_meta_agents_notebook_runs_and_shows_what_it_wrote(sheet):
    page = sheet("01_init_scaffold")
    page.run_all()
    written = page.cell("phases.init_scaffold")
    assert "def build_prompt" in written.inner_text() and "def extract" in written.inner_text()
    assert written.locator(".highlight span").count() > 100  # coloured, not a grey block
    page.shoot("01_init_scaffold")


def test_a_trajectory_is_filtered_searched_and_read_event_by_event(sheet, lab):
    run = lab.reference_run("lawbench-W+H")
    events = [json.loads(line) for line in (run / f"step_{STEP:03d}" / "trajectory.jsonl").read_text().splitlines()]
    page = sheet("02_run_generation", run_dir=str(run), step=STEP)
    page.run_all()
    box = page.cell("inspect_trajectory")
    options, pane = box.locator(".widget-select select option"), box.locator(".widget-html")
    assert options.count() == len(events)

    box.locator(".widget-dropdown select").select_option("verdict")
    verdicts = [e for e in events if e["kind"] == "verdict"]
    page.page.wait_for_function("n => document.querySelectorAll('.widget-select option').length == n", arg=len(verdicts))
    last = verdicts[-1]
    box.locator(".widget-select select").select_option(index=len(verdicts) - 1)
    pane.get_by_text(f"event {last['id']}: verdict").wait_for()
    assert f"{last['data']['score']:.3f}"[:4] in words(pane)

    box.locator(".widget-text input").fill("no event holds these words")
    box.locator(".widget-text input").press("Enter")
    pane.get_by_text("no event matches").wait_for()
    assert options.count() == 0
    box.locator(".widget-text input").fill("")
    box.locator(".widget-text input").press("Enter")
    pane.get_by_text(f"event {verdicts[0]['id']}: verdict").wait_for()
    page.shoot("02_run_generation")


def test_a_decision_is_read_with_its_evidence_and_what_it_changed(sheet, lab):
    run = lab.reference_run("lawbench-W+H")
    decision = json.loads((run / f"step_{STEP:03d}" / "decision.json").read_text())
    page = sheet("03_feedback_decision", run_dir=str(run), step=STEP, arm="W+H")
    page.run_all()
    for event in decision["evidence"][:3]:
        assert f"event {event}: " in words(page.cell("inspect.detail"))
    assert "The budget left" in words(page.cell("why_html")) and "entropic" in words(page.cell("why_html"))
    tabs = page.cell("show_scaffold")
    assert "+def " in tabs.inner_text() or "+    " in tabs.inner_text()
    page.shoot("03_feedback_decision")
    tabs.locator(".lm-TabBar-tab", has_text="agent.py").click()
    tabs.get_by_text("SYSTEM_PROMPT =").first.wait_for(state="visible")
    source = (run / f"step_{STEP + 1:03d}" / "scaffold" / "agent.py").read_text()
    assert source.splitlines()[-1].strip() in tabs.inner_text()
