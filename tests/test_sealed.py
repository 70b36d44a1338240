"""The sealed test: the loop neither opens nor depends on it; ``report`` opens it, once, and writes that down first.

Non-interference, on a real loop with the real model: other labels and a canary in the sealed test change no byte of the
run folder before the report, times aside, and are seen by the report. So nothing that scaffold, solution, prompt, trajectory
or decision holds can come from there.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sealed_loop import INSTANCES

from sia_nb import sealed_report
from sia_nb.errors import StoreError
from sia_nb.store import ROOT, read_json
from sia_nb.tasks.base import Solution
from sia_nb.tasks.files import sha256

CANARY = "canary-7d20e5-sealed"
KEY = "sk-canary-of-a-key-51c7"
pytestmark = pytest.mark.timeout(1800)
sealed = pytest.mark.trust(suite="sealed test", backend="")
TIMES = re.compile(rb'"(seconds|created|hardware|load)": ?("[^"]*"|[0-9.e+-]+)')


def linked(source: Path, machine: Path, target: Path) -> None:
    """A data folder of its own whose files are those of ``source``, verdicts aside; ``machine`` has its measured speed."""
    for part in ("lawbench", "denoising", "sealed"):
        if (source / part).exists():
            shutil.copytree(source / part, target / part, copy_function=os.link, dirs_exist_ok=True)
    (target / "cache").mkdir()
    for name in ("dtype.json", "speed.json"):  # this machine's, part of what makes a run repeat bit for bit
        if (machine / "cache" / name).exists():
            shutil.copy(machine / "cache" / name, target / "cache" / name)


def replace(path: Path, data: bytes) -> str:
    """Write a file anew, leaving what it was linked to alone; its SHA-256."""
    path.unlink()
    path.write_bytes(data)
    return sha256(data)


def plant_lawbench(folder: Path) -> None:
    """Other labels and a canary among the texts of the sealed test."""
    from sia_nb.tasks.lawbench.files import Layout

    layout = Layout(folder)
    test, manifest = read_json(layout.test), read_json(layout.public / "manifest.json")
    test["labels"] = test["labels"][::-1]
    test["texts"][0] = CANARY
    manifest["sealed"]["test.json"] = replace(layout.test, json.dumps(test, ensure_ascii=False).encode())
    replace(layout.public / "manifest.json", json.dumps(manifest).encode())


def plant_denoising(folder: Path) -> None:
    """Other molecules in the sealed cells."""
    from sia_nb.tasks.denoising import data
    from sia_nb.tasks.denoising.files import Layout, write_counts

    layout = Layout(folder)
    split, manifest = data.sealed(layout, INSTANCES["denoising"]), read_json(layout.manifest)
    path = layout.sealed(INSTANCES["denoising"])
    path.unlink()
    manifest["sealed"][path.name] = write_counts(path, train=split.train[::-1], test=split.test[::-1])
    replace(layout.manifest, json.dumps(manifest).encode())


def run(task: str, data: Path, folder: Path) -> dict:
    """What ``sealed_loop`` prints for a run on this data; the environment holds a key."""
    keys = {"ANTHROPIC_API_KEY": KEY, "OPENAI_API_KEY": KEY, "POLICY_API_KEY": KEY, "MY_SECRET_TOKEN": KEY}
    environment = {**os.environ, **keys, "SIA_DATA": str(data), "SIA_RESULTS": str(folder / "results"), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, str(Path(__file__).with_name("sealed_loop.py")), task, str(folder / "run")]
    out = subprocess.run(argv, capture_output=True, text=True, env=environment, cwd=folder)
    assert out.returncode == 0, out.stderr[-3000:]
    return json.loads(out.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=["denoising", "lawbench"])
def pair(request, tmp_path_factory, lawbench_data, embedded_model):
    """(task, a run on the data as it is, one on data with another sealed test, the folder of the latter)."""
    task, outs = request.param, []
    for planted in (False, True):
        folder = tmp_path_factory.mktemp(f"{task}-{'planted' if planted else 'plain'}")
        data = folder / "data"
        source = lawbench_data if task == "lawbench" else request.getfixturevalue("denoising_data")
        data.mkdir()
        linked(source.resolve(), embedded_model.resolve(), data)
        (data / "models").symlink_to((embedded_model / "models").resolve())
        if planted:
            {"lawbench": plant_lawbench, "denoising": plant_denoising}[task](data)
        outs.append(run(task, data, folder))
    return task, *outs, folder


def is_sealed(path: str) -> bool:
    """Whether a file is the sealed test's, and not dev's answers beside it."""
    name = Path(path).name
    return not name.startswith("dev_seed_") and not name.endswith("-dev.npz")


@sealed
@pytest.mark.slow
def test_the_loop_never_opens_it_and_the_report_does_once(trust, pair):
    _, plain, planted, _ = pair
    for out in (plain, planted):
        early = [p for phase in ("import", "loop") for p in out["opened"].get(phase, []) if is_sealed(p)]
        assert trust.case("opened in the loop", early == []), early
        assert trust.case("opened by the report", any(is_sealed(p) for p in out["opened"]["report"]))
        assert trust.case("opened again", "second report" not in out["opened"] and out["same"])


@sealed
@pytest.mark.slow
def test_another_sealed_test_changes_nothing_before_the_report(trust, pair):
    task, plain, planted, _ = pair
    assert set(plain["before"]) == set(planted["before"]) and len(plain["before"]) > 10
    for name, content in plain["before"].items():
        one, other = (TIMES.sub(b"", bytes.fromhex(c)) for c in (content, planted["before"][name]))
        if name.endswith(".done.json") or name == ".progress.json":
            one, other = (re.sub(rb"[0-9a-f]{64}", b"", c) for c in (one, other))  # of files that hold times
        assert trust.case(name, one == other)
        assert CANARY.encode() not in other
    scores = [list(out["report"]["arms"].values())[-1]["test"] for out in (plain, planted)]
    assert scores[0] != scores[1], "the report does depend on it"


@sealed
@pytest.mark.slow
def test_it_is_written_down_before_it_is_opened(trust, pair):
    _, _, planted, folder = pair
    log = read_json(folder / "run" / "seal.json")
    assert trust.case("logged", set(log["solutions"]) == set(planted["report"]["arms"]) and log["created"].startswith("20"))


@pytest.mark.trust(suite="secrets", backend="")
@pytest.mark.slow
def test_no_key_of_the_environment_is_in_any_file_of_a_run(trust, pair):
    """A scanner over the run folder, executed notebooks and reports included, and over what the data folder has gained."""
    *_, folder = pair
    files = [p for p in folder.rglob("*") if p.is_file() and "models" not in p.parts]
    assert len(files) > 15
    for path in files:
        assert trust.case(path.name, KEY.encode() not in path.read_bytes())


@pytest.mark.trust(suite="no telemetry", backend="")
@pytest.mark.slow
def test_no_code_of_a_run_opens_a_connection(pair):
    _, plain, planted, _ = pair
    assert plain["reached"] == planted["reached"] == []


@sealed
def test_a_second_report_may_not_choose_again(tmp_path):
    a, b = Solution("spec", "{}"), Solution("spec", '{"x":1}')
    sealed_report.log_opening(tmp_path, {"baseline": None, "H": a})
    before = (tmp_path / "seal.json").read_text()
    sealed_report.log_opening(tmp_path, {"baseline": None, "H": a})
    assert (tmp_path / "seal.json").read_text() == before
    with pytest.raises(StoreError, match="opened once a run"):
        sealed_report.log_opening(tmp_path, {"baseline": None, "H": b})


@sealed
def test_only_the_report_breaks_the_seal(trust):
    """In the whole package ``seal`` and what reads the sealed files are called from these places alone."""
    callers: dict[str, set[str]] = {}
    for path in (ROOT / "sia_nb").rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                        callers.setdefault(name, set()).add(f"{path.relative_to(ROOT)}:{function.name}")
    assert trust.case("seal", callers["seal"] <= {
        "sia_nb/sealed_report.py:open_seal", "sia_nb/tasks/lawbench/subset.py:seal",
    })  # fmt: skip
    assert trust.case("open_seal", callers["open_seal"] == {"sia_nb/phases.py:report", "sia_nb/controls.py:_report"})
    assert trust.case("peers", callers["peers"] <= {"sia_nb/phases.py:report"})
    assert trust.case("sealed", {c for c in callers["sealed"] if "verifier" in c} <= {
        "sia_nb/tasks/denoising/verifier.py:seal", "sia_nb/tasks/denoising/verifier.py:peers",
    })  # fmt: skip
