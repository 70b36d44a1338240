"""Counts what the tests of trust try: a pytest plugin that writes ``results/reference/trust.json`` and prints its table.

A test says where it counts with ``@pytest.mark.trust(suite="crash", backend="")``: one case, held where it passes. The
backend may be left out: a parameter of the test called ``backend`` or else "" stands for it. A test of many cases takes
the fixture ``trust`` and says each (``trust.case("what was tried", held)``) or their number (``trust.cases(tried, held)``);
where it fails, one case more has failed. A skipped test has tried nothing and is listed with its reason.

    python -m pytest -m trust --trust results/reference/trust.json    all suites: make trust
    python -m pytest tests --suite crash                              one suite, fast and slow tests
    python -m pytest tests --suite attacks:sandlock                   one suite with one backend

It may import nothing of the kit, so that what it says does not hang on what it tests.
"""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sia_nb.store import cores

MARKER = "trust(suite, backend): a test that `make trust` counts, see tests/trust.py"


@dataclass
class Row:
    """One line of the table: a suite with one backend."""

    suite: str
    backend: str
    tried: int = 0
    held: int = 0
    files: set[str] = field(default_factory=set)  # that hold its tests
    not_held: list[str] = field(default_factory=list)  # what was tried and not held, by name
    skipped: list[str] = field(default_factory=list)  # reasons

    def as_dict(self) -> dict:
        """Plain JSON data; ``command`` repeats the suite."""
        out = {"suite": self.suite, "backend": self.backend, "tried": self.tried, "held": self.held}
        name = f"{self.suite}:{self.backend}" if self.backend else self.suite
        out["failed"] = self.tried - self.held
        out["command"] = f"python -m pytest {' '.join(sorted(self.files))} --suite {shlex.quote(name)}"
        return out | {"not_held": sorted(self.not_held), "skipped": sorted(set(self.skipped))}


class Count:
    """What one test has tried, for the plugin."""

    def __init__(self) -> None:
        self.said = False
        self.tried = self.held = 0
        self.not_held: list[str] = []

    def case(self, name: str, held: bool = True) -> bool:
        """Count one case; returns ``held``, so that it can be asserted."""
        self.cases(1, int(held))
        if not held:
            self.not_held.append(name)
        return held

    def cases(self, tried: int, held: int | None = None) -> None:
        """Count ``tried`` cases, of which ``held`` (all by default) held."""
        self.said = True
        self.tried += tried
        self.held += tried if held is None else held


COUNT = pytest.StashKey[Count]()


@pytest.fixture
def trust(request: pytest.FixtureRequest) -> Count:
    """Where a test of many cases says them."""
    return request.node.stash.setdefault(COUNT, Count())


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("trust")
    group.addoption("--trust", metavar="FILE", default="", help="write what the tests marked trust tried to this JSON file")
    name = "NAME or NAME:BACKEND"
    group.addoption("--suite", metavar=name, default="", help="run only this suite of the tests marked trust, slow ones too")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    if config.option.suite:
        config.option.markexpr = "trust"
    if not hasattr(config, "workerinput"):  # the workers of xdist send their reports to this process
        config.pluginmanager.register(Table(config), "trust-table")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the suite that was asked for."""
    if not config.option.suite:
        return
    suite, _, backend = config.option.suite.partition(":")
    kept = [i for i in items if (place := placed(i)) and place[0] == suite and backend in ("", place[1])]
    config.hook.pytest_deselected(items=[i for i in items if i not in kept])
    items[:] = kept


def placed(item: pytest.Item) -> tuple[str, str] | None:
    """Suite and backend of a test, None where it is not marked."""
    marker = item.get_closest_marker("trust")
    if marker is None:
        return None
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return marker.kwargs["suite"], marker.kwargs.get("backend", str(parameters.get("backend", "")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Put what a marked test tried into its report, which also travels between the processes of xdist."""
    report = yield
    place = placed(item)
    if place is None or not (call.when == "call" or (call.when == "setup" and report.outcome != "passed")):
        return report
    count, passed = item.stash.get(COUNT, Count()), report.outcome == "passed"
    tried, held, not_held = count.tried, count.held, list(count.not_held)
    if report.outcome == "failed" or (passed and not count.said):
        tried, held = tried + 1, held + passed
        not_held += [] if passed else [item.name]
    why = report.longrepr[2].removeprefix("Skipped: ") if report.skipped and isinstance(report.longrepr, tuple) else ""
    said = {"suite": place[0], "backend": place[1], "tried": tried, "held": held, "not_held": not_held}
    report.user_properties.append(("trust", said | {"file": item.location[0], "skipped": why}))
    return report


class Table:
    """Adds the reports up; writes the file and prints the table at the end."""

    def __init__(self, config: pytest.Config):
        self.config, self.began = config, time.monotonic()
        self.rows: dict[tuple[str, str], Row] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, said in report.user_properties:
            if name == "trust":
                row = self.rows.setdefault((said["suite"], said["backend"]), Row(said["suite"], said["backend"]))
                row.tried += said["tried"]
                row.held += said["held"]
                row.files.add(said["file"])
                row.not_held += said["not_held"]
                row.skipped += [said["skipped"]] if said["skipped"] else []

    def pytest_terminal_summary(self, terminalreporter) -> None:
        rows = [self.rows[key].as_dict() for key in sorted(self.rows)]
        if not rows or not (self.config.option.trust or self.config.option.suite):
            return
        terminalreporter.section("trust")
        terminalreporter.write_line(table(rows))
        if self.config.option.trust:
            path = Path(self.config.option.trust)
            path.parent.mkdir(parents=True, exist_ok=True)
            said = {
                "format": 1,
                **machine(Path(self.config.rootpath)),
                "seconds": round(time.monotonic() - self.began),
                "rows": rows,
            }
            path.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
            terminalreporter.write_line(f"\nwritten: {path}")


def machine(root: Path) -> dict[str, str]:
    """Of what this was said, and where: the commit, with + where the tree was changed, Python, kernel and cores."""
    git = lambda *words: subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True).stdout.strip()
    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    return {
        "commit": commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else ""),
        "python": platform.python_version(),
        "hardware": f"{platform.system()} {platform.release()}, {platform.machine()}, {cores()} cores",
    }


def table(rows: list[dict]) -> str:
    """The README's table and, below it, what was not held and what was not tried."""
    lines = ["| suite | backend | tried | held | failed | command |", "|---|---|---|---|---|---|"]
    for r in rows:
        lines.append("| {suite} | {backend} | {tried} | {held} | {failed} | `{command}` |".format(**r))
    for r in rows:
        where = r["suite"] + (f", {r['backend']}" if r["backend"] else "")
        for what, items in (("not held", r["not_held"]), ("not tried", r["skipped"])):
            if items:
                named = [name if n == 1 else f"{name} (×{n})" for name, n in Counter(items).items()]
                lines += ["", f"{where}, {what}: {'; '.join(named)}"]
    return "\n".join(lines)
