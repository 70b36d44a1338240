"""The run folder: atomic, locked, and honest about what is done."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sia_nb.config import make_config
from sia_nb.errors import StoreError
from sia_nb.store import Run, find_run, hardware, publish, read_json, run_name, write_atomic, write_json


@pytest.fixture
def run(tmp_path):
    return Run.create(make_config("smoke"), tmp_path / "run")


def test_a_run_opens_again_with_the_same_config(run):
    again = Run(run.path)
    assert again.config == run.config
    assert {"commit", "versions", "hardware"} <= set(again.info)


def test_one_config_has_one_name():
    assert run_name(make_config("smoke")) == run_name(make_config("smoke"))
    assert run_name(make_config("smoke")) != run_name(make_config("smoke", steps=4))


def test_a_folder_of_another_config_is_refused(run):
    with pytest.raises(StoreError, match="other parameters .*seed"):
        Run.create(make_config("smoke", seed=1), run.path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match="not empty"):
        Run.create(make_config("smoke"), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "x"


@pytest.mark.parametrize(
    "text", ["", "{", '{"format": 99, "config": {}}', '{"format": 1}', '{"format": 1, "config": {"steps": "no"}}']
)
def test_a_damaged_run_json_names_the_file(run, text):
    (run.path / "run.json").write_text(text)
    with pytest.raises(StoreError, match="run.json"):
        Run(run.path)


def test_a_second_process_is_refused(run):
    code = "import sys, time; from sia_nb.store import Run\nwith Run(sys.argv[1]).lock():\n print('held', flush=True); time.sleep(60)"
    root = Path(__file__).parent.parent
    holder = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(StoreError, match=f"in use by process {holder.pid}"), run.lock():
            pass
    finally:
        holder.kill()
        holder.wait()
    with run.lock():
        pass


def test_a_phase_is_done_only_with_its_mark_and_unharmed(run):
    file = run.step(1) / "metrics.json"
    write_json(file, {"score": 1})
    assert not run.done(1, "run")
    run.finish(1, "run", [file])
    assert run.done(1, "run")
    file.write_text('{"score": 2}')
    with pytest.raises(StoreError, match="metrics.json is altered"):
        run.done(1, "run")
    file.unlink()
    with pytest.raises(StoreError, match="metrics.json is missing"):
        run.done(1, "run")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"v": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match="disk is full"):
        write_json(path, {"v": 2})
    assert read_json(path) == {"v": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_really_full_disk_is_a_clear_error_and_loses_nothing(small_disk):
    write_json(small_disk / "kept.json", {"v": 1})
    with pytest.raises(StoreError, match="disk is full"):
        write_atomic(small_disk / "big.txt", "x" * 1_000_000)
    assert read_json(small_disk / "kept.json") == {"v": 1}
    assert not (small_disk / "big.txt").exists()
    write_atomic(small_disk / "small.txt", "x" * 1000)


def test_a_trajectory_on_a_full_disk_says_so(small_disk):
    from sia_nb.trajectory import TrajectoryWriter

    writer = TrajectoryWriter(small_disk / "t.jsonl")
    with pytest.raises(StoreError, match="cannot append"):
        for _ in range(1000):
            writer.write("log", text="x" * 1000)


def test_an_unknown_run_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    Run.create(make_config("smoke"), tmp_path / "runs" / "lawbench-one")
    with pytest.raises(StoreError, match="Did you mean 'lawbench-one'"):
        find_run("lawbench-on")


def test_a_published_run_is_trimmed_and_still_opens(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path / "results"))
    with pytest.raises(StoreError, match="not finished"):
        publish(run)
    write_json(run.path / "report.json", {"arms": {}})
    write_json(run.step(1) / "metrics.json", {"score": 1})
    (run.step(1) / "notebooks").mkdir()
    (run.step(1) / "notebooks" / "02.ipynb").write_text("{}")
    run.finish(1, "run", [run.step(1) / "metrics.json"])
    copy = Run(publish(run))
    assert copy.config == run.config and copy.done(1, "run")
    assert not list(copy.path.glob("**/*.ipynb"))
    assert copy.path.parent.parent == tmp_path / "results" / "reference" / "lawbench"


def test_a_run_that_repeats_a_committed_one_is_told_from_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    own = Run.create(make_config("smoke"), tmp_path / "runs" / "same").path
    reference = Run.create(make_config("smoke"), tmp_path / "reference" / "lawbench" / "machine" / "same").path
    assert find_run("same").path == own and find_run("same", committed=True).path == reference
    assert find_run(str(own), committed=True).path == own
    told = Run.create(make_config("smoke"), tmp_path / "reference" / "lessons" / "machine" / "same").path
    assert find_run("same", committed=True).path == told
    shutil.rmtree(own)
    assert find_run("same").path == reference
    Run.create(make_config("smoke"), own)
    shutil.rmtree(told)
    shutil.rmtree(reference)
    assert find_run("same", committed=True).path == own


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2, reason="needs taskset's call and two cores"
)
def test_a_process_kept_to_some_cores_says_so_and_uses_no_more():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); os.environ.pop('OMP_NUM_THREADS', None)\n"
        "from sia_nb.store import cores, hardware; from sia_nb.arms import default_jobs\n"
        "from sia_nb.policy.model import _cores; from sia_nb.tasks.trimul import machine\n"
        "print(hardware()); print(machine.describe()); print(cores(), default_jobs(9), _cores(), machine.threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here, described, numbers = done.stdout.splitlines()
    assert f", 1 of {os.cpu_count()} cores, " in here and described.startswith(here) and numbers == "1 1 1 1"
    every = {*range(os.cpu_count())} == os.sched_getaffinity(0)
    assert not every or f", {os.cpu_count()} cores, " in hardware()


@pytest.mark.parametrize(
    "flags, cpu",
    [
        ("fpu avx2 avx512f amx_bf16", "Some CPU (AMX)"),
        ("avx512f avx2", "Some CPU (AVX-512)"),
        ("avx2", "Some CPU (AVX2)"),
        ("", "Some CPU"),
    ],
)
def test_the_hardware_says_how_wide_the_processor_reckons(monkeypatch, flags, cpu):
    told = f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n\nprocessor\t: 1\nmodel name\t: Some CPU\nflags\t\t: {flags}\n"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("builtins.open", lambda *_: io.StringIO(told))
    assert hardware().startswith(f"{cpu}, ")


@pytest.mark.parametrize(
    "visible, said",
    [
        (None, ["2 × NVIDIA H200", "1 × NVIDIA T4"]),
        ("1", ["1 × NVIDIA H200"]),
        ("0,GPU-c", ["1 × NVIDIA H200", "1 × NVIDIA T4"]),
        ("", []),
    ],
)
def test_the_hardware_names_the_gpus_that_the_process_may_use(tmp_path, monkeypatch, visible, said):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '0, GPU-a, NVIDIA H200\\n1, GPU-b, NVIDIA H200\\n2, GPU-c, NVIDIA T4\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [part for part in hardware().split(", ") if " × " in part] == said
