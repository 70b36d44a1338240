"""The trajectory explorer in a real browser: as a page that is one file, with no server at all, and alive in JupyterLab."""

import json
import shutil

import pytest
from browser_lab import REFERENCE, SCREENSHOTS
from playwright.sync_api import expect

NOTEBOOK = "explore_trajectories"
RUN = "lawbench-W+H"  # a committed run with steps of both levers
HARNESS, WEIGHTS = 2, 5  # steps of it that were made by a harness update and by a weight update


def events_of(run, g):
    return [json.loads(line) for line in (run / f"step_{g:03d}" / "trajectory.jsonl").read_text(encoding="utf-8").splitlines()]


def walk(explorer, run):
    """Click through an explorer that shows ``run``; what it shows is what the run's files say."""
    at = explorer.get_by_test_id
    expect(at("run-picker")).to_contain_text(run.name)
    steps = sorted(int(p.name[5:]) for p in run.glob("step_*"))
    for g in steps:
        expect(at(f"step-{g}")).to_have_count(1)

    at(f"step-{HARNESS}").click()
    at("tab-decision").click()
    decision = json.loads((run / f"step_{HARNESS:03d}" / "decision.json").read_text())
    expect(explorer).to_contain_text(decision["rationale"][:60])
    at(f"evidence-{decision['evidence'][0]}").first.click()
    expect(at("tab-trajectory")).to_have_attribute("aria-selected", "true")
    expect(at("detail")).to_contain_text(f"#{decision['evidence'][0]}")

    events = events_of(run, HARNESS)
    verdicts = [n for n, e in enumerate(events) if e["kind"] == "verdict"]
    at("filter-kind").select_option("verdict")
    expect(at("matched")).to_have_text(f"{len(verdicts)} of {len(events)} events")
    best = max(events[n]["data"]["score"] for n in verdicts)
    at("filter-reward-low").fill(str(best))
    expect(at("matched")).to_have_text(f"1 of {len(events)} events")
    winner = next(n for n in verdicts if events[n]["data"]["score"] == best)
    at(f"row-{winner}").click()
    expect(at("detail")).to_contain_text(f"{best:.3f}"[:4])
    at("filter-reward-low").fill("")
    at("filter-text").fill("no event holds these words")
    expect(at("matched")).to_have_text(f"0 of {len(events)} events")
    at("filter-text").fill("")
    at("filter-kind").select_option("")
    expect(at("matched")).to_have_text(f"{len(events)} events")
    at("row-0").click()
    at("table").focus()
    at("table").press("j")
    expect(at("detail")).to_contain_text(f"#{events[1]['id']}")

    at("tab-scaffold").click()
    after, before = (set((run / f"step_{g:03d}/scaffold/agent.py").read_text().splitlines()) for g in (HARNESS, HARNESS - 1))
    for line in sorted(after - before)[:2] + sorted(before - after)[:2]:  # step 2's parent is step 1
        expect(explorer).to_contain_text(line.strip())

    at(f"step-{WEIGHTS}").click()
    at("tab-rollouts").click()
    result = json.loads((run / f"step_{WEIGHTS:03d}/weights/result.json").read_text())
    expect(explorer).to_contain_text(result["algorithm"])
    best = max(
        r["reward"] or 0 for r in map(json.loads, (run / f"step_{WEIGHTS:03d}/weights/rollouts.jsonl").open(encoding="utf-8"))
    )
    expect(at("rollouts").get_by_role("row").first).to_contain_text(f"{best:.3f}"[:4])
    at("tab-compare").click()
    expect(explorer).to_contain_text("verifier calls")
    at("tab-ledger").click()
    expect(at("ledger")).to_contain_text("in all")
    themes = {explorer.get_attribute("data-theme")}
    for _ in range(2):
        at("theme").click()
        themes.add(explorer.get_attribute("data-theme"))
    assert themes == {"light", "dark"}
    at("theme").click()  # back to that of what is around it
    at("tab-trajectory").click()


@pytest.fixture
def page_of(chromium, tmp_path):
    """Opens a run's report in a browser that has no network; fails where a script fails or something is asked for elsewhere."""
    from sia_nb.view.explorer.page import page

    context = chromium.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    context.set_default_timeout(60_000)
    problems = []

    def open_(run):
        opened = context.new_page()
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or problems.append(r.url))
        opened.goto(page(run, tmp_path / "report.html").as_uri(), timeout=30_000)
        return opened

    yield open_
    context.close()
    assert not problems


def reference_run(words, folder):
    """A copy of a committed run."""
    found = next(p.parent for p in sorted(REFERENCE.glob(f"lessons/*/{words}*/run.json")))
    return shutil.copytree(found, folder / found.name)


@pytest.mark.slow
def test_a_report_is_clicked_through_without_a_server(page_of, tmp_path):
    run = reference_run(RUN, tmp_path)
    page = page_of(run)
    walk(page.get_by_test_id("explorer"), run)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "report.png", full_page=True)


def test_the_explorer_is_clicked_through_in_jupyterlab_and_keeps_notes(sheet, lab):
    run = lab.reference_run(RUN)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    page = sheet(NOTEBOOK, runs=[str(run)], step=HARNESS)
    page.run_all()
    explorer = page.notebook.get_by_test_id("explorer").first
    expect(page.notebook.locator("details[data-sia-static]")).not_to_have_attribute("open", "")  # the copy for where no kernel is
    explorer.scroll_into_view_if_needed()
    walk(explorer, run)
    explorer.get_by_test_id("row-2").click()
    page.shoot("explorer", top=explorer)
    note = explorer.get_by_test_id("note")
    note.fill("worth a second look")
    explorer.get_by_test_id("save-note").click()
    expect(explorer.get_by_test_id("detail")).to_contain_text("Saved in")
    assert "worth a second look" in run.with_name(f"{run.name}.notes.json").read_text()  # beside the run
    assert before == {p: p.stat().st_mtime_ns for p in before}  # the record itself is untouched


@pytest.mark.slow
def test_the_explorer_is_dark_where_jupyterlab_is(sheet, lab):
    page = sheet(NOTEBOOK, runs=[str(lab.reference_run(RUN))])
    page.run_all()
    explorer = page.notebook.get_by_test_id("explorer").first
    expect(explorer).to_have_attribute("data-theme", "light")
    page.theme("JupyterLab Dark")
    expect(explorer).to_have_attribute("data-theme", "dark")
    page.shoot("explorer_dark", top=explorer)
    page.theme("JupyterLab Light")
    expect(explorer).to_have_attribute("data-theme", "light")


@pytest.mark.slow
def test_the_exported_notebook_holds_an_explorer_that_needs_no_kernel(sheet, lab, still):
    run = lab.reference_run(RUN)
    page = sheet(NOTEBOOK, runs=[str(run)])
    page.run_all()
    copy = still(lab.notebooks / f"{NOTEBOOK}.ipynb").frame_locator("iframe")
    copy.get_by_test_id(f"step-{WEIGHTS}").click()
    copy.get_by_test_id("tab-rollouts").click()
    expect(copy.get_by_test_id("rollouts").get_by_role("row").first).to_be_visible()
    copy.get_by_test_id("tab-decision").click()
    decision = json.loads((run / f"step_{WEIGHTS:03d}" / "decision.json").read_text())
    expect(copy.get_by_test_id("explorer")).to_contain_text(decision["rationale"][:60])
