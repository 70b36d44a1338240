"""The counting of `make trust`: what passes, fails, is skipped or says its own cases, in one process and in several."""

import json
from pathlib import Path

import pytest
from trust import table

pytest_plugins = ["pytester"]

SUITE = """
import pytest

@pytest.mark.trust(suite="crash")
def test_one():
    pass

@pytest.mark.trust(suite="crash")
@pytest.mark.slow
def test_many(trust):
    trust.cases(40)
    assert trust.case("a good one")
    trust.case("a bad one", held=False)

@pytest.mark.trust(suite="attacks")
@pytest.mark.parametrize("backend", ["moat", "wall"])
def test_each(backend):
    assert backend == "wall"

@pytest.mark.trust(suite="attacks", backend="moat")
def test_none():
    pytest.skip("no water")

def test_other():
    assert False
"""


@pytest.fixture
def suites(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    pytester.makeini("[pytest]\naddopts = -m 'not slow'\nmarkers = slow: long")
    pytester.makeconftest("pytest_plugins = ['trust']")
    pytester.makepyfile(test_suites=SUITE)
    return pytester


@pytest.mark.parametrize("more", [(), ("-n", "2")], ids=["one process", "two"])
def test_every_case_is_counted_once(suites, more):
    result = suites.runpytest_subprocess("-m", "trust", "--trust", "out/trust.json", *more)
    said = json.loads((suites.path / "out" / "trust.json").read_text())
    rows = said["rows"]
    assert said["commit"] and said["python"] and "cores" in said["hardware"] and said["seconds"] >= 0
    counted = {(r["suite"], r["backend"]): (r["tried"], r["held"], r["failed"], r["not_held"], r["skipped"]) for r in rows}
    assert counted == {
        ("attacks", "moat"): (1, 0, 1, ["test_each[moat]"], ["no water"]),
        ("attacks", "wall"): (1, 1, 0, [], []),
        ("crash", ""): (43, 42, 1, ["a bad one"], []),
    }
    assert rows[2]["command"] == "python -m pytest test_suites.py --suite crash"
    assert rows[1]["command"] == "python -m pytest test_suites.py --suite attacks:wall"
    result.stdout.fnmatch_lines(["| crash |  | 43 | 42 | 1 | *", "attacks, moat, not tried: no water"])


def test_a_suite_alone_runs_its_slow_tests_too(suites):
    result = suites.runpytest_subprocess("--suite", "crash")
    result.assert_outcomes(passed=2, deselected=4)


def test_a_suite_with_one_backend(suites):
    suites.runpytest_subprocess("--suite", "attacks:wall").assert_outcomes(passed=1, deselected=5)


def test_the_readme_s_table_is_that_of_the_committed_run():
    root = Path(__file__).parent.parent
    said = json.loads((root / "results" / "reference" / "trust.json").read_text())
    readme = (root / "README.md").read_text()
    lines = table(said["rows"]).splitlines()
    cells = [line.split(" | ") for line in lines if line.startswith("|")]
    assert all(" | ".join(c) in readme for c in cells), "run make trust, and put its table here"
    for row in said["rows"]:
        assert row["failed"] == 0 or (row["suite"], row["backend"]) in {("attacks", "plain"), ("attacks", "sandlock")}
        assert all(Path(word).exists() for word in row["command"].split() if word.startswith("tests/"))
    assert f"`make trust` took {said['seconds'] / 60:.0f} minutes" in " ".join(readme.split())
