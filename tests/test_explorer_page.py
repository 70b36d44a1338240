"""The report of a run as one HTML file: whole, harmless, truthful; the widget's messages; the command."""

import base64
import csv
import hashlib
import io
import json
import os
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from told_run import CHINESE, SCRIPT, told_run

from sia_nb.cli import main
from sia_nb.config import make_config
from sia_nb.errors import ConfigError, StoreError
from sia_nb.notebooks import execute
from sia_nb.store import Run
from sia_nb.view import collect
from sia_nb.view.explorer import assets, page


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    return tmp_path


class Read(HTMLParser):
    """The tags of a page, what they refer to, and the text of its scripts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.links, self.scripts, self.policy, self._into = [], [], [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [attrs[k] for k in ("src", "href", "data", "action") if k in attrs]
        if attrs.get("http-equiv") == "Content-Security-Policy":
            self.policy = attrs["content"]
        if tag == "script":
            self.scripts.append([attrs.get("type"), ""])
            self._into = self.scripts[-1]

    def handle_data(self, data):
        if self._into is not None:
            self._into[1] += data

    def handle_endtag(self, tag):
        if tag == "script":
            self._into = None


def data_of(read):
    return json.loads(next(text for kind, text in read.scripts if kind == "application/json"))


def unpack(value, strings):
    if isinstance(value, str):
        return strings[int(value[1:])] if value.startswith(page.MARK) else value
    if isinstance(value, dict):
        return {k: unpack(v, strings) for k, v in value.items()}
    return [unpack(v, strings) for v in value] if isinstance(value, list) else value


def test_the_page_loads_nothing_from_elsewhere_and_lets_only_its_own_script_run(results):
    read = Read(page.page(told_run(results)).read_text())
    assert all(link.startswith(("#", "data:text/csv")) for link in read.links)
    ours = [text for kind, text in read.scripts if kind == "module"]
    digest = base64.b64encode(hashlib.sha256(ours[0].encode()).digest()).decode()
    assert len(ours) == 1 and f"script-src 'sha256-{digest}'" in read.policy and "default-src 'none'" in read.policy


def test_texts_of_models_are_never_markup(results):
    read = Read(page.page(told_run(results)).read_text())
    assert "img" not in read.tags and read.tags.count("script") == 2 and "i" not in read.tags
    packed = data_of(read)
    answer = unpack(packed["answers"]["event/told/1/2"], packed["strings"])
    assert answer["response"] == SCRIPT
    assert answer["prompt"][1] == {"role": "user", "content": CHINESE}


def test_the_page_holds_every_part_of_the_run(results):
    text = page.page(told_run(results)).read_text()
    answers = data_of(Read(text))["answers"]
    for key in ("runs", "steps/told", "ledger/told"):
        assert key in answers
    for g in (1, 2, 3):
        assert {f"{what}/told/{g}" for what in ("decision", "scaffold", "events", "rollouts")} <= set(answers)
        assert sum(key.startswith(f"event/told/{g}/") for key in answers) == 12
    for said in (
        "0.7000",
        "rolled back",
        "No answer could be read: &lt;i&gt;structure&lt;/i&gt; it.",
        "made by hand &lt;b&gt;for tests",
    ):
        assert said in text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=90),
        lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=5), x, max_size=4),
        max_leaves=12,
    )
)
def test_packing_loses_nothing(value):
    pool = {}
    packed = page._packed(value, pool)
    assert unpack(json.loads(json.dumps(packed)), list(pool)) == value


def test_a_long_text_is_kept_once_and_a_very_long_one_is_cut_and_says_so():
    pool, long = {}, "x" * (page.TEXT + 5)
    packed = page._packed({"a": "y" * 200, "b": ["y" * 200], "c": long}, pool)
    assert packed["a"] == packed["b"][0] and len(pool) == 2
    kept = list(pool)[1]
    assert kept.startswith("x" * page.TEXT) and "20,000 of 20,005" in kept


def test_only_so_many_events_are_taken_along_and_the_page_knows_of_the_rest(results):
    answers = data_of(Read(page.page(told_run(results), events=15).read_text()))["answers"]
    for g in (1, 2, 3):
        table = answers[f"events/told/{g}"]
        assert (table["held"], table["total"], len(table["rows"])) == (5, 12, 5)
    assert sum(key.startswith("event/") for key in answers) == 15


def test_the_figures_data_are_those_of_the_figures(results):
    run = told_run(results)
    found = re.search(r'download="told_steps.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', page.page(run).read_text())
    table = list(csv.DictReader(io.StringIO(base64.b64decode(found[1]).decode())))
    expected = collect.step_rows([collect.Finished(run, {}, "ours")])
    assert [(r["step"], r["action"], float(r["value"]), r["accepted"]) for r in table] == [
        (str(r["step"]), r["action"], r["value"], str(r["accepted"])) for r in expected
    ]


def test_a_run_that_goes_on_and_one_without_a_step_have_a_report_that_says_so(results):
    run = told_run(results, finished=False)
    os.utime(run.step(3) / "weights" / "curve.jsonl", (0, 0))  # written long ago, so nothing goes on
    text = page.page(run).read_text()
    assert "It has not been opened" in text and "resume told" in text
    empty = Run.create(make_config("smoke"), results / "empty")
    text = page.page(empty).read_text()
    assert data_of(Read(text))["answers"]["steps/empty"]["steps"] == [] and "No decision has been taken" in text


@pytest.mark.parametrize("harm", ["trajectory.jsonl", "metrics.json", "decision.json", "weights/rollouts.jsonl"])
def test_one_damaged_file_is_named_and_hides_nothing_else(results, harm):
    run = told_run(results)
    path = next(p for g in (3, 2) if (p := run.step(g) / harm).exists())
    path.write_bytes(path.read_bytes()[:30] + b"\xff{\n" + (path.read_bytes()[30:] if harm.endswith("l") else b""))
    packed = data_of(Read(page.page(run).read_text()))
    told = json.dumps([packed["strings"], packed["answers"]])
    assert len(packed["answers"]["steps/told"]["steps"]) == 3 and "event/told/1/11" in packed["answers"]
    assert "damaged" in told
    if harm == "trajectory.jsonl":
        assert packed["answers"]["events/told/3"]["damaged"]


def test_the_command_writes_the_report_and_names_it(results, capsys):
    told_run(results / "runs")
    assert main(["report", "told"]) == 0
    said = capsys.readouterr().out.strip()
    assert said == str(results / "reports" / "told.html") and (results / "reports" / "told.html").stat().st_size > 50_000
    assert main(["report", "told", "--out", str(results / "x.html"), "--events", "0"]) == 0
    assert (results / "x.html").exists()


@pytest.mark.parametrize(
    ("argv", "code", "parts"),
    [
        (["report", "tolt"], 1, ["no run called 'tolt'", "Did you mean 'told'?"]),
        (["report", "old"], 1, ["run.json", "format 0"]),
        (["report", "told", "--events", "-1"], 2, ["--events", "-1"]),
        (["report", "told", "--out", "/proc/none/x.html"], 1, ["x.html", "cannot be written"]),
    ],
)
def test_a_mistake_is_named(results, argv, code, parts, capsys):
    told_run(results / "runs")
    old = told_run(results / "runs", name="old")
    (old.path / "run.json").write_text(json.dumps(old.info | {"format": 0}))
    assert main(argv) == code
    err = capsys.readouterr().err
    assert all(part in err for part in parts) and "Traceback" not in err


# -- the script ------------------------------------------------------------------------------------------


def test_the_script_holds_every_module_after_what_it_needs():
    names = {p.stem for p in assets.FRONT.glob("*.js")}
    order = re.findall(r"^modules\.(\w+) = ", assets.script(), re.MULTILINE)
    assert set(order) == names and len(order) == len(names) and order[-1] == assets.ENTRY
    assert not re.search(r"^(import|export) ", assets.script(), re.MULTILINE)
    assert "innerHTML" not in assets.script() and "http://www.w3.org/2000/svg" in assets.script()
    assert "</script" not in assets.script().lower()


def test_modules_that_import_each_other_are_refused(tmp_path, monkeypatch):
    for name, other in (("explorer", "other"), ("other", "explorer")):
        (tmp_path / f"{name}.js").write_text(f'import {{ x }} from "./{other}.js";\n')
    monkeypatch.setattr(assets, "FRONT", tmp_path)
    for cached in (assets.script, assets._source):
        cached.cache_clear()
    try:
        with pytest.raises(ValueError, match="imports itself"):
            assets.script()
    finally:
        for cached in (assets.script, assets._source):
            cached.cache_clear()


# -- the widget ------------------------------------------------------------------------------------------


@pytest.fixture
def widget_of(results, monkeypatch):
    from sia_nb.view.explorer import widget

    def make(*runs, **how):
        made = widget.explore(*runs, **how)
        made.sent = []
        monkeypatch.setattr(made, "send", lambda content, buffers=None: made.sent.append(content))
        return made

    return make


def test_a_message_is_answered_under_its_own_number_and_nothing_else_is(results, widget_of):
    widget = widget_of(told_run(results))
    widget._answer(widget, {"id": 7, "request": {"do": "steps", "run": "told"}}, [])
    widget._answer(widget, {"id": 8, "request": {"do": "nonsense"}}, [])
    for stray in ("text", {"id": 9}, {"id": 10, "request": "runs"}, None):
        widget._answer(widget, stray, [])
    assert [m["id"] for m in widget.sent] == [7, 8]
    assert [s["g"] for s in widget.sent[0]["answer"]["steps"]] == [1, 2, 3] and "nonsense" in widget.sent[1]["answer"]["error"]


def test_explore_shows_the_named_runs_or_all_there_are(results, widget_of):
    told_run(results / "runs", name="a")
    told_run(results / "runs", name="b")
    assert widget_of("b", step=2, tab="scaffold").first == {"tab": "scaffold", "run": "b", "g": 2}
    everything = widget_of()
    assert {r["name"] for r in everything.explorer.answer({"do": "runs"})["runs"]} == {"a", "b"}
    with pytest.raises(StoreError, match="Did you mean 'a'"):
        widget_of("aa")
    with pytest.raises(ConfigError, match="decision, scaffold"):
        widget_of("a", tab="decisions")


def test_the_static_copy_is_a_page_in_a_frame_that_cannot_reach_the_notebook(results, widget_of):
    copy = widget_of(told_run(results)).static_copy()
    read = Read(copy)
    assert read.tags[:2] == ["details", "summary"] and read.tags[-1] == "iframe" and "script" not in read.tags
    assert "allow-same-origin" not in copy
    inner = re.search(r"srcdoc='([^']*)'", copy)[1]
    import html

    packed = data_of(Read(html.unescape(inner)))
    assert [s["g"] for s in packed["answers"]["steps/told"]["steps"]] == [1, 2, 3]
    assert widget_of().static_copy() == ""  # no run, nothing to copy


@pytest.mark.slow
def test_the_notebook_shows_the_explorer_and_its_copy_and_writes_the_report(results):
    told_run(results / "runs")
    copy = results / "executed.ipynb"
    execute("explore_trajectories", {"runs": ["told"], "step": 3, "tab": "rollouts", "report": "told"}, copy, timeout=120)
    outputs = [o for c in json.loads(copy.read_text())["cells"] for o in c.get("outputs", [])]
    data = [o["data"] for o in outputs if o["output_type"] == "display_data"]
    assert "application/vnd.jupyter.widget-view+json" in data[0] and "srcdoc=" in "".join(data[1]["text/html"])
    assert (results / "reports" / "told.html").exists() and not any(o["output_type"] == "error" for o in outputs)
