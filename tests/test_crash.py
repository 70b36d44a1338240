"""Kills, full disks and signals at the writes of a tiny run: what is resumed is what nothing befell, nothing is done twice.

The trials run in a process of their own (``kill_points.py``), which forks a child for each. The fast test takes every so-many-th
write, ``make trust`` every one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def tried(folder, *options, least):
    """The trials of ``kill_points.py`` with these options: none may have gone wrong."""
    command = [sys.executable, str(ROOT / "tests" / "kill_points.py"), str(folder), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1700)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0 and len(lines) >= least, done.stderr[-3000:]
    return lines


def hold(lines, trust):
    """Count the trials and say which did not hold."""
    wrong = [f"{t.get('phase', '')} {t['label']}: {t['wrong']}" for t in lines if t["wrong"]]
    trust.cases(len(lines), len(lines) - len(wrong))
    trust.not_held += [w[:120] for w in wrong]
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize(("what", "offset"), [("kill", 0), ("full", 17)])
def test_some_instants(tmp_path, what, offset):
    lines = tried(tmp_path, "--every", "60", "--offset", str(offset), "--what", what, least=4)
    assert [t for t in lines if t["wrong"]] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.trust(suite="crash", backend="SIGKILL at every write")
def test_a_kill_at_every_write(tmp_path, trust):
    hold(tried(tmp_path, least=250), trust)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.trust(suite="crash", backend="SIGKILL in the middle of a line")
def test_a_kill_in_the_middle_of_a_line(tmp_path, trust):
    hold(tried(tmp_path, "--torn", "--every", "2", least=30), trust)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.trust(suite="crash", backend="SIGKILL at random instants")
def test_kills_at_random_instants(tmp_path, trust):
    hold(tried(tmp_path, "--every", "100000", "--random", "12", least=12), trust)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", ["full", "readonly", "int", "term"])
@pytest.mark.trust(suite="faults", backend="disk and signals at the writes")
def test_the_disk_refuses_or_a_signal_comes(tmp_path, trust, what):
    hold(tried(tmp_path, "--every", "13", "--what", what, least=20), trust)


# --- whole runs under trouble: in a process of their own too ----------------------------------------------------------

STORY = """
import contextlib, os, shutil, subprocess, sys, time
from pathlib import Path
import tiny_run
from tiny_run import AgentServer, contents, forked, go
from kill_points import wiped
from sia_nb import steps, store
from sia_nb.errors import SiaError

root = Path(sys.argv[1])
os.environ["SIA_DATA"] = str(root / "data")
tiny_run.install()
server = AgentServer()
config = tiny_run.config(tiny_run.prepare(root), server.url)
path = root / "disk" / "run"
def fresh(name="run"):
    return root / name / "run"
assert forked(lambda: go(config, fresh("whole")))[0] == 0
whole = wiped(contents(fresh("whole")))
def clear(job):
    status, said = forked(job)
    assert status == 1 and said.splitlines()[0].startswith("StoreError: "), said
    return said.splitlines()[0]
"""


def story(tmp_path, text, *, timeout=500):
    """Run a story about a tiny run; what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STORY + text, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.trust(suite="faults", backend="disk")
def test_a_really_full_disk_ends_the_run_clearly_and_space_lets_it_go_on(tmp_path):
    story(
        tmp_path,
        """
disk = root / "disk"
disk.mkdir()
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)], capture_output=True).returncode:
    print("mounting a small file system needs root")
    sys.exit(77)
try:
    said = clear(lambda: go(config, path))
    assert "full" in said or "space" in said, said
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    assert forked(lambda: go(config, path))[0] == 0
    assert wiped(contents(path)) == whole
finally:
    subprocess.run(["umount", "-l", str(disk)], check=True)
""",
    )


@pytest.mark.trust(suite="faults", backend="disk")
def test_a_folder_that_vanishes_or_is_read_only_is_named(tmp_path):
    story(
        tmp_path,
        """
def vanish(name, step):
    if name == "02_run_generation":
        shutil.rmtree(path)
tiny_run.after = vanish
said = clear(lambda: go(config, path))
assert "went away" in said and str(path) in said, said
left = [p for p in path.rglob("*") if p.is_file()] if path.exists() else []
assert not left, left

tiny_run.after = lambda name, step: None
def refused():
    with tiny_run.Instants(path, tiny_run.fail_always(30)):
        go(config, path)
said = clear(refused)
assert "Read-only" in said and "resume" in said, said
assert forked(lambda: go(config, path))[0] == 0
assert wiped(contents(path)) == whole
""",
    )


@pytest.mark.trust(suite="faults", backend="clock")
def test_a_clock_set_back_changes_nothing(tmp_path):
    story(
        tmp_path,
        """
import datetime as d
real, shift = time.time, [0.0]
time.time = lambda: real() + shift[0]
class Late(d.datetime):
    @classmethod
    def now(cls, tz=None):
        return d.datetime.fromtimestamp(time.time(), tz)
store.datetime = Late
def back(name, step):
    shift[0] -= 86400.0 * 400
    for file in path.rglob("*"):
        os.utime(file, (time.time(), time.time()))
tiny_run.after = back
assert forked(lambda: go(config, path))[0] == 0
assert wiped(contents(path)) == whole
""",
    )
