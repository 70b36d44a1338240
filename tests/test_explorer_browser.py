"""The explorer in a real browser: clicked, typed and walked through on a static page and on answers of a million rows."""

import json

import pytest
from browsers import MISSING, find_browser
from told_run import CHINESE, HEBREW, SCRIPT, SECOND, events, told_run

from sia_nb.config import make_config
from sia_nb.store import Run, write_json
from sia_nb.view.explorer import assets, describe, model
from sia_nb.view.explorer.model import Explorer
from sia_nb.view.explorer.page import page as write_page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e .[dev]")
sync_api.expect.set_options(timeout=30_000)  # a busy machine draws late
CHROMIUM = find_browser()
pytestmark = pytest.mark.skipif(not CHROMIUM, reason=MISSING)


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=60_000)
        yield browser
        browser.close()


@pytest.fixture
def view(chromium):
    """An offline page of 1280 × 900 on which no script error may happen and nothing may be asked of a network."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, offline=True, color_scheme="light")
    context.set_default_timeout(30_000)
    opened, problems = context.new_page(), []
    opened.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    opened.on("request", lambda r: None if r.url.startswith(("file:", "data:", "about:", "blob:")) else problems.append(r.url))
    yield opened
    context.close()
    assert not problems


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told")
    return write_page(told_run(folder), folder / "told.html")


@pytest.fixture
def told(view, report):
    """The report of the run that tells a story."""
    view.goto(report.as_uri())
    view.get_by_test_id("step-3").wait_for()
    return view


def test_a_step_is_chosen_by_a_click_and_by_the_arrow_keys(told):
    assert "Step 2" in told.get_by_test_id("step-name").inner_text()  # the incumbent comes first
    told.get_by_test_id("step-3").click()
    said = told.get_by_test_id("step-name").inner_text()
    assert all(word in said for word in ("Step 3", "W", "grpo", "rolled back"))
    told.keyboard.press("ArrowLeft")
    told.keyboard.press("ArrowLeft")
    sync_api.expect(told.get_by_test_id("step-1")).to_have_attribute("aria-pressed", "true")
    sync_api.expect(told.get_by_test_id("step-1")).to_be_focused()
    told.keyboard.press("]")
    sync_api.expect(told.get_by_test_id("step-name")).to_contain_text("Step 2")
    assert "score 0.7000 ± 0.0100" in told.get_by_test_id("step-3").get_attribute("aria-label")


def test_evidence_leads_to_its_event(told):
    told.get_by_test_id("tab-decision").click()
    told.get_by_text("How step 2 came about: harness update").wait_for()
    assert "No answer could be read: <i>structure</i> it." in told.get_by_test_id("explorer").inner_text()
    told.get_by_test_id("evidence-3").click()
    sync_api.expect(told.get_by_test_id("step-name")).to_contain_text("Step 1")
    sync_api.expect(told.get_by_test_id("detail")).to_contain_text(f"{HEBREW} {CHINESE}")
    sync_api.expect(told.get_by_test_id("row-3")).to_have_attribute("aria-selected", "true")


def test_texts_of_models_are_shown_and_do_nothing(told):
    told.get_by_test_id("step-1").click()
    told.get_by_test_id("tab-trajectory").click()
    told.get_by_test_id("row-2").click()
    detail = told.get_by_test_id("detail")
    sync_api.expect(detail).to_contain_text(SCRIPT)
    told.get_by_test_id("row-3").click()
    sync_api.expect(detail).to_contain_text("␀␇␛[31mred")
    told.get_by_test_id("tab-decision").click()
    told.get_by_text("The report on step 1").wait_for()
    assert told.title() == "told" and told.locator("img").count() == 0
    assert told.locator("pre[dir=auto]").count() > 0


def test_filters_narrow_the_table_and_can_be_cleared(told):
    told.get_by_test_id("tab-trajectory").click()
    matched = told.get_by_test_id("matched")
    sync_api.expect(matched).to_have_text("12 events")
    told.get_by_test_id("filter-kind").select_option("response")
    sync_api.expect(matched).to_have_text("3 of 12 events")
    told.get_by_test_id("filter-text").fill("ALONG OR NOT")
    sync_api.expect(matched).to_have_text("0 of 12 events")
    told.get_by_text("No event matches these filters.").wait_for()
    told.get_by_test_id("filter-text").fill(CHINESE[:4])
    sync_api.expect(matched).to_have_text("1 of 12 events")
    told.get_by_text("clear", exact=True).click()
    sync_api.expect(matched).to_have_text("12 events")
    told.get_by_test_id("filter-failure").select_option("=crash")
    sync_api.expect(matched).to_have_text("1 of 12 events")
    told.get_by_test_id("filter-failure").select_option("")
    told.get_by_test_id("filter-reward-low").fill("0.5")
    sync_api.expect(told.get_by_test_id("row-7")).to_be_visible()
    assert int(matched.inner_text().split()[0]) < 4


def test_the_table_is_walked_by_keys(told):
    told.get_by_test_id("tab-trajectory").click()
    told.keyboard.press("/")
    sync_api.expect(told.get_by_test_id("filter-text")).to_be_focused()
    told.keyboard.type("line 399")
    sync_api.expect(told.get_by_test_id("matched")).to_have_text("1 of 12 events")
    told.keyboard.press("Enter")
    sync_api.expect(told.get_by_test_id("table")).to_be_focused()
    detail = told.get_by_test_id("detail")
    sync_api.expect(detail).to_contain_text("Show all 400 lines")
    assert "line 399" not in detail.inner_text()
    detail.get_by_text("Show all 400 lines").click()
    assert "line 399" in detail.inner_text()
    told.keyboard.press("Escape")
    told.keyboard.press("/")
    told.keyboard.press("Escape")
    sync_api.expect(told.get_by_test_id("matched")).to_have_text("12 events")
    told.get_by_test_id("table").focus()
    for key, row in (("Home", 0), ("j", 1), ("ArrowDown", 2), ("k", 1), ("End", 11)):
        told.keyboard.press(key)
        sync_api.expect(told.get_by_test_id(f"row-{row}")).to_have_attribute("aria-selected", "true")
    told.keyboard.press("Enter")
    sync_api.expect(detail).to_be_focused()
    told.keyboard.press("Escape")
    sync_api.expect(told.get_by_test_id("table")).to_be_focused()


def test_a_verdict_shows_its_reason_its_answer_and_what_it_belongs_to(told):
    told.get_by_test_id("tab-trajectory").click()
    told.get_by_test_id("row-9").click()
    detail = told.get_by_test_id("detail")
    sync_api.expect(detail).to_contain_text("it crashed")
    assert "crash" in detail.inner_text()
    told.get_by_test_id("linked-8").click()
    sync_api.expect(told.get_by_test_id("row-8")).to_have_attribute("aria-selected", "true")
    sync_api.expect(detail).to_contain_text("nb")


def test_the_difference_to_the_parent_and_to_any_other_step(told):
    told.get_by_test_id("tab-scaffold").click()
    panel = told.get_by_role("tabpanel")
    sync_api.expect(panel).to_contain_text("step 1")
    assert panel.locator("mark").all_inner_texts()[:2] == ["fir", "second"[:4]] or panel.locator("mark").count() >= 2
    assert panel.locator(".sia-was").count() == 2 and panel.locator(".sia-now").count() == 3
    told.get_by_test_id("step-1").click()
    told.get_by_text("This is the first scaffold").wait_for()
    told.get_by_test_id("diff-to").select_option("3")
    sync_api.expect(panel.locator(".sia-now")).to_have_count(2)
    told.get_by_test_id("scaffold-source").click()
    sync_api.expect(panel.locator(".sia-code")).to_have_count(5)


def test_rollouts_are_sorted_and_split_into_before_and_after(told):
    told.get_by_test_id("tab-rollouts").click()
    told.get_by_text("No weight update led to this step").wait_for()
    told.get_by_test_id("step-3").click()
    rows = told.get_by_test_id("rollouts").get_by_role("row")
    sync_api.expect(rows).to_have_count(3)
    rewards = lambda: [r.split("\n")[1] for r in rows.all_inner_texts()]
    assert rewards() == ["0.9000", "0.6000", "0.2000"]
    told.get_by_test_id("rollout-sort").select_option("advantage")
    sync_api.expect(rows.first).to_contain_text("0.6000")
    assert rewards() == ["0.6000", "0.9000", "0.2000"]
    told.get_by_test_id("rollout-when").select_option("after")
    sync_api.expect(rows).to_have_count(1)
    told.get_by_text("0.4000 ± 0.0100 (n = 2)").wait_for()


def test_two_steps_side_by_side_and_the_ledger(told):
    told.get_by_test_id("tab-compare").click()
    panel = told.get_by_role("tabpanel")
    sync_api.expect(panel).to_contain_text("+0.5000")
    told.get_by_test_id("compare-left-step").select_option("3")
    sync_api.expect(panel).to_contain_text("+0.0500")
    sync_api.expect(panel).to_contain_text("No line differs between step 3 and step 2")
    told.get_by_test_id("tab-ledger").click()
    ledger = told.get_by_test_id("ledger")
    sync_api.expect(ledger.get_by_role("row")).to_have_count(4)
    sync_api.expect(ledger).to_contain_text("$0.75")  # 6 entries of 12.5 cents


def test_light_and_dark(told):
    root = told.get_by_test_id("explorer")
    brightness = lambda: told.evaluate(
        "getComputedStyle(document.querySelector('[data-testid=explorer]')).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0)"
    )
    assert root.get_attribute("data-theme") == "light" and brightness() > 700
    told.emulate_media(color_scheme="dark")
    sync_api.expect(root).to_have_attribute("data-theme", "dark")
    assert brightness() < 150
    told.get_by_test_id("theme").click()
    sync_api.expect(root).to_have_attribute("data-theme", "light")
    told.evaluate("document.body.dataset.jpThemeLight = 'false'")
    told.get_by_test_id("theme").click()
    told.get_by_test_id("theme").click()
    told.emulate_media(color_scheme="light")
    sync_api.expect(root).to_have_attribute("data-theme", "dark")  # as JupyterLab has it


def test_a_page_alone_says_where_notes_are_kept(told):
    told.get_by_test_id("tab-trajectory").click()
    told.get_by_test_id("row-1").click()
    told.get_by_test_id("note").fill("odd")
    told.get_by_test_id("save-note").click()
    sync_api.expect(told.get_by_test_id("detail")).to_contain_text("Notes are kept beside the run")


# -- asked as a kernel is asked -----------------------------------------------------------------------------

ASKING = """
const transport = { live: true, close() {}, ask: (request) => window.answer(request) };
modules.explorer.mount(document.getElementById("here"), transport, %s);
"""


@pytest.fixture
def asking(view, tmp_path):
    """Opens the explorer over real answers about these run folders."""

    def open_(*folders, **first):
        explorer = Explorer(list(folders))
        view.expose_function("answer", explorer.answer)
        file = tmp_path / "asking.html"
        script = assets.script() + ASKING % json.dumps(first)
        file.write_text(
            f"<meta charset=utf-8><style>{assets.style()}</style><body><div id=here></div><script type=module>{script}</script>"
        )
        view.goto(file.as_uri())
        view.get_by_test_id("run-picker").locator("option").first.wait_for(state="attached")
        return view

    return open_


def test_two_runs_side_by_side_and_a_note_beside_the_run(asking, tmp_path):
    one, two = told_run(tmp_path, name="one"), told_run(tmp_path, name="two", seed=1)
    page = asking(one.path, two.path, run="one", tab="compare")
    page.get_by_test_id("compare-left-run").select_option("two")
    page.get_by_test_id("compare-left-step").select_option("whole")
    panel = page.get_by_role("tabpanel")
    sync_api.expect(panel).to_contain_text("sealed test")
    page.get_by_test_id("tab-trajectory").click()
    page.get_by_test_id("row-7").click()
    page.get_by_test_id("note").fill("remember")
    page.get_by_test_id("save-note").click()
    sync_api.expect(page.get_by_test_id("detail")).to_contain_text("Saved")
    page.get_by_test_id("run-picker").select_option("two")
    page.get_by_test_id("row-7").click()
    sync_api.expect(page.get_by_test_id("note")).to_have_value("")
    page.get_by_test_id("run-picker").select_option("one")
    page.get_by_test_id("row-7").click()
    sync_api.expect(page.get_by_test_id("note")).to_have_value("remember")


def test_runs_that_are_gone_damaged_or_empty_are_said_to_be_so(asking, tmp_path):
    good, empty = told_run(tmp_path, name="good"), Run.create(make_config("smoke"), tmp_path / "empty")
    bad = told_run(tmp_path, name="bad")
    (bad.path / "run.json").write_text("{")
    harmed = told_run(tmp_path, name="harmed")
    path = harmed.step(2) / "trajectory.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"id":4', b'{"id:4', 1))
    page = asking(good.path, empty.path, bad.path, harmed.path, tmp_path / "gone")
    root = page.get_by_test_id("explorer")
    for name, said in (
        ("empty", "no step to look at yet"),
        ("bad", "run.json is damaged"),
        ("gone", "gone"),
        ("good", "12 events"),
    ):
        page.get_by_test_id("run-picker").select_option(name)
        sync_api.expect(root).to_contain_text(said)
    page.get_by_test_id("run-picker").select_option("harmed")
    sync_api.expect(root).to_contain_text("1 damaged line of trajectory.jsonl")
    sync_api.expect(page.get_by_test_id("matched")).to_have_text("11 events")


def test_a_huge_text_is_cut_and_can_be_read_on(asking, tmp_path, monkeypatch):
    for module in (describe, model):
        monkeypatch.setattr(module, "TEXT", 2_000)  # of 200,000, so that a slow machine draws it in time
    run = told_run(tmp_path)
    path = run.step(2) / "trajectory.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    event = json.loads(lines[2])
    event["data"]["text"] = "<b>" + "word " * 1_000 + "the end"
    path.write_text("\n".join([*lines[:2], json.dumps(event), *lines[3:]]) + "\n", encoding="utf-8")
    page = asking(run.path, tab="trajectory")
    page.get_by_test_id("row-2").click()
    detail = page.get_by_test_id("detail")
    detail.get_by_text("Show all 1 lines, 5 010 characters").first.click()
    for _ in range(2):
        assert "the end" not in detail.locator("section pre").last.inner_text()
        detail.get_by_text("Load more").click()
    sync_api.expect(detail).to_contain_text("word the end")
    assert page.locator("b", has_text="word").count() == 0


def test_a_step_in_the_making_is_followed_from_its_file(asking, tmp_path):
    run = told_run(tmp_path, finished=False)
    folder, lines = run.step(4), [json.dumps(e) + "\n" for e in events(2)]
    (folder / "scaffold").mkdir(parents=True)
    (folder / "scaffold" / "agent.py").write_text(SECOND)
    write_json(folder / "origin.json", run.origin(2) | {"parent": 2})
    growing = folder / ".trajectory.jsonl.tmp"
    growing.write_text("".join(lines[:2]) + lines[2][:9])
    page = asking(run.path, g=4, tab="trajectory")
    sync_api.expect(page.get_by_test_id("status")).to_have_text("running")
    sync_api.expect(page.get_by_test_id("step-name")).to_contain_text("not finished")
    sync_api.expect(page.get_by_test_id("matched")).to_have_text("2 events")
    page.get_by_test_id("row-1").click()
    with growing.open("a") as file:
        file.write(lines[2][9:] + "".join(lines[3:]))
    sync_api.expect(page.get_by_test_id("matched")).to_have_text("12 events", timeout=15_000)
    sync_api.expect(page.get_by_test_id("row-1")).to_have_attribute("aria-selected", "true")
    growing.rename(folder / "trajectory.jsonl")
    write_json(folder / "metrics.json", run.metrics(2) | {"step": 4, "score": 0.8, "incumbent": 4})
    write_json(folder / "run.done.json", {"phase": "run", "files": {}})
    sync_api.expect(page.get_by_test_id("step-name")).to_contain_text("kept", timeout=15_000)
    sync_api.expect(page.get_by_test_id("detail")).to_contain_text(CHINESE)


# -- answers of any size, and a run that goes on ------------------------------------------------------------

HARNESS = """
const asked = window.asked = [], state = window.state = { total: %(total)d, live: %(live)s, changed: false };
const row = (n) => ({ n, id: n, kind: n %% 2 ? "verdict" : "response", seconds: n / 100, summary: `row ${n}`, reward: n %% 2 ? 0.5 : null, valid: true, failure: "", instance: "", tokens: 3 });
const answers = {
  runs: () => ({ runs: [{ name: "big", state: "running", steps: 1, arm: "H", seed: 0, note: "" }] }),
  steps: () => ({ live: state.live, damaged: [], report: null, steps: [{ g: 1, lever: "start", score: 0.5, se: 0.1, best: 0.5, incumbent: true, rolled_back: false, done: true, verifier_calls: 1, tokens: 2, seconds: 3, dollars: 0, events: state.total }] }),
  events: (q) => ({ total: state.total, matched: state.total, kinds: { response: 1, verdict: 1 }, failures: {}, instances: {}, damaged: [],
    rows: Array.from({ length: Math.max(0, Math.min(q.limit, state.total - q.offset)) }, (_, i) => row(q.offset + i)) }),
  event: (q) => ({ event: { id: q.n, kind: "response", seconds: 0, data: {} }, prompt: null, response: `text of ${q.n}`, answer: null, tool_calls: [], verdict: null, linked: [], cut: {} }),
  refresh: () => { const changed = state.changed; state.changed = false; return { changed }; },
  save: (q) => ({ saved: `notes.json: ${q.note} [${q.tags.join("|")}]` }),
};
const transport = { live: true, close() {}, ask: async (q) => { asked.push(q); return answers[q.do]?.(q) ?? { error: `no ${q.do}` }; } };
window.stop = modules.explorer.mount(document.getElementById("here"), transport, { tab: "trajectory" });
"""


def shown(view, tmp_path, total, live=False):
    script = assets.script() + HARNESS % {"total": total, "live": json.dumps(live)}
    file = tmp_path / "big.html"
    file.write_text(
        f"<meta charset=utf-8><style>{assets.style()}</style><body><div id=here></div><script type=module>{script}</script>"
    )
    view.goto(file.as_uri())
    view.get_by_test_id("row-0").wait_for()
    return view


def test_of_a_million_rows_only_those_in_sight_are_in_the_page(view, tmp_path):
    page = shown(view, tmp_path, 1_000_000)
    page.get_by_test_id("row-3").click()
    for key, row in (("End", 999_999), ("k", 999_998), ("PageUp", None), ("Home", 0), ("j", 1)):
        page.keyboard.press(key)
        if row is not None:
            sync_api.expect(page.get_by_test_id(f"row-{row}")).to_have_attribute("aria-selected", "true")
            sync_api.expect(page.get_by_test_id("detail")).to_contain_text(f"text of {row}")
    assert page.get_by_test_id("table").get_by_role("row").count() < 60
    page.get_by_test_id("table").evaluate("t => { t.scrollTop = t.scrollHeight / 2; }")
    page.wait_for_function("""() => {
        const index = document.querySelectorAll('[data-testid=table] [role=row]')[5]?.getAttribute('aria-rowindex');
        return 450_000 < index && index < 550_000;
    }""")  # the rows of before the jump are there until its rows have come
    sync_api.expect(page.get_by_test_id("table").get_by_role("row").nth(5)).to_contain_text("row ")
    windows = [q for q in page.evaluate("asked") if q["do"] == "events"]
    assert max(q["limit"] for q in windows) <= 200 and len(windows) < 20
    seconds = page.evaluate("""async () => {
        const table = document.querySelector('[data-testid=table]'), start = performance.now();
        for (let i = 1; i <= 12; i += 1) { table.scrollTop = (table.scrollHeight * i) / 12; await new Promise(requestAnimationFrame); }
        return (performance.now() - start) / 1000;
    }""")
    assert seconds < 20  # 12 jumps on a busy machine; a table that draws a million rows takes minutes


def test_a_run_that_goes_on_is_followed_without_losing_the_place(view, tmp_path):
    page = shown(view, tmp_path, 250, live=True)
    page.get_by_test_id("row-4").click()
    page.evaluate("Object.assign(state, {total: 260, changed: true})")
    sync_api.expect(page.get_by_test_id("matched")).to_have_text("260 events")
    sync_api.expect(page.get_by_test_id("row-4")).to_have_attribute("aria-selected", "true")
    page.get_by_test_id("follow").check()
    page.evaluate("Object.assign(state, {total: 270, changed: true})")
    sync_api.expect(page.get_by_test_id("row-269")).to_have_attribute("aria-selected", "true")
    page.evaluate("stop()")
    before = page.evaluate("asked.length")
    page.wait_for_timeout(2500)
    assert page.evaluate("asked.length") == before


def test_a_note_is_sent_with_its_tags(view, tmp_path):
    page = shown(view, tmp_path, 3)
    page.get_by_test_id("row-2").click()
    page.get_by_test_id("note").fill("look here")
    page.get_by_test_id("tags").fill("odd, model ,")
    page.get_by_test_id("save-note").click()
    sync_api.expect(page.get_by_test_id("detail")).to_contain_text("look here [odd|model]")


def test_an_error_is_shown_and_the_rest_goes_on(view, tmp_path):
    page = shown(view, tmp_path, 3)
    page.get_by_test_id("tab-ledger").click()
    page.get_by_text("no ledger").wait_for()
    page.get_by_test_id("tab-trajectory").click()
    page.get_by_test_id("row-1").click()
    sync_api.expect(page.get_by_test_id("detail")).to_contain_text("text of 1")
