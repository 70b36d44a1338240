"""A quick handful of notebooks in JupyterLab in a real browser: they run, they are drawn, and their widgets react to clicks."""

import json

from playwright.sync_api import expect

STEP = 2  # of the committed run: a harness update followed it


def test_the_meta_agents_notebook_runs_and_shows_what_it_wrote(sheet):
    page = sheet("01_init_scaffold")
    page.run_all()
    written = page.cell("phases.init_scaffold")
    expect(written).to_contain_text("def build_prompt")
    expect(written).to_contain_text("def extract")
    assert written.locator(".highlight span").count() > 100  # coloured, not a grey block
    page.shoot("scaffold")


def test_a_trajectory_is_filtered_searched_and_read_event_by_event(sheet, lab):
    run = lab.reference_run("lawbench-W+H")
    events = [json.loads(line) for line in (run / f"step_{STEP:03d}" / "trajectory.jsonl").read_text().splitlines()]
    page = sheet("02_run_generation", run_dir=str(run), step=STEP)
    page.run_all()
    box = page.cell("inspect_trajectory")
    options, pane, text = (box.locator(s) for s in (".widget-select option", ".widget-html", ".widget-text input"))
    expect(options).to_have_count(len(events))

    box.locator(".widget-dropdown select").select_option("verdict")
    verdicts = [e for e in events if e["kind"] == "verdict"]
    expect(options).to_have_count(len(verdicts))
    box.locator(".widget-select select").select_option(index=len(verdicts) - 1)
    expect(pane).to_contain_text(f"event {verdicts[-1]['id']}: verdict")
    expect(pane).to_contain_text(f"{verdicts[-1]['data']['score']:.3f}"[:4])

    text.fill("no event holds these words")
    text.press("Enter")
    expect(pane).to_have_text("no event matches")
    expect(options).to_have_count(0)
    text.fill("")
    text.press("Enter")
    expect(pane).to_contain_text(f"event {verdicts[0]['id']}: verdict")
    page.shoot("trajectory")


def test_a_decision_is_read_with_its_evidence_and_what_it_changed(sheet, lab):
    run = lab.reference_run("lawbench-W+H")
    decision = json.loads((run / f"step_{STEP:03d}" / "decision.json").read_text())
    source = (run / f"step_{STEP + 1:03d}" / "scaffold" / "agent.py").read_text()
    page = sheet("03_feedback_decision", run_dir=str(run), step=STEP, arm="W+H")
    page.run_all()
    for event in decision["evidence"][:3]:
        expect(page.cell("inspect.detail")).to_contain_text(f"event {event}: ")
    expect(page.cell("why_html")).to_contain_text("The budget left")
    tabs = page.cell("show_scaffold")
    shown = tabs.locator(".widget-tab-contents .widget-html:visible")
    expect(shown).to_contain_text("@@")
    page.shoot("decision")
    tabs.locator(".lm-TabBar-tab", has_text="agent.py").click()
    expect(shown).to_contain_text("SYSTEM_PROMPT =")
    expect(shown).to_contain_text(source.splitlines()[-1].strip())
    expect(shown).not_to_contain_text("@@")
