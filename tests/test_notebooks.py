"""The notebook runner: strict before, clear after; and the notebooks' own form."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sia_nb import notebooks
from sia_nb.errors import ConfigError, DataError, SiaError
from sia_nb.notebooks import NOTEBOOKS, NotebookError, check_parameters, execute, parameters

ALL = sorted(NOTEBOOKS.glob("*.ipynb"))


def make(path: Path, *cells: str) -> Path:
    """A notebook whose first cell holds the parameters."""
    made = [
        {
            "cell_type": "code",
            "id": f"c{n}",
            "metadata": {"tags": ["parameters"]} if n == 0 else {},
            "source": c,
            "outputs": [],
            "execution_count": None,
        }
        for n, c in enumerate(cells)
    ]
    path.write_text(
        json.dumps(
            {
                "cells": made,
                "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
                "nbformat": 4,
                "nbformat_minor": 5,
            }
        )
    )
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    return tmp_path


def gone(pid: int) -> bool:
    """Whether the process ends within some seconds."""
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_each_notebook_is_thin_stripped_and_parameterised(path):
    cells = json.loads(path.read_text())["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    assert not any(c["outputs"] or c["execution_count"] for c in code)
    assert code[0]["metadata"]["tags"] == ["parameters"]
    for line in code[0]["source"]:
        assert ": " in line and "  # " in line, line
    assert all(len(c["source"]) <= 25 for c in code)
    assert cells[0]["cell_type"] == "markdown" and "**Time.**" in "".join(cells[0]["source"])
    assert parameters(path)


def test_there_is_a_notebook_for_each_phase():
    assert {p.stem for p in ALL} >= {
        "00_quickstart",
        "01_init_scaffold",
        "02_run_generation",
        "03_feedback_decision",
        "04_grpo_training",
        "05_ablation_figures",
    }


def test_the_training_notebook_leaves_open_what_the_feedback_agent_decides():
    values = parameters(notebooks.find("04_grpo_training"))
    decided = {"run_dir": "", "step": 0, "algorithm": "", "steps": 0, "group_size": 0, "learning_rate": 0.0}
    assert {name: values[name] for name in decided} == decided
    check_parameters(notebooks.find("04_grpo_training"), {"algorithm": "entropic", "learning_rate": 1e-4, "group_size": 4})
    with pytest.raises(ConfigError, match="algorithm"):
        check_parameters(notebooks.find("04_grpo_training"), {"algorithm": 3})


def test_unknown_and_ill_typed_parameters_are_refused(folder):
    path = make(folder / "a.ipynb", "steps: int = 3  # how many\nname: str = 'x'  # = a # trap\nrate: float = 0.5  # r")
    assert parameters(path) == {"steps": 3, "name": "x", "rate": 0.5}
    check_parameters(path, {"steps": 4, "rate": 1})
    for bad, parts in (
        ({"step": 4}, ["step", "Did you mean 'steps'?"]),
        ({"steps": "4"}, ["steps", "str", "int"]),
        ({"steps": True}, ["bool"]),
    ):
        with pytest.raises(ConfigError) as error:
            check_parameters(path, bad)
        assert all(p in str(error.value) for p in parts)


@pytest.mark.parametrize("cell", ["x = f()", "import os", "x: int = y"])
def test_parameters_must_be_plain_literals(folder, cell):
    with pytest.raises(NotebookError):
        parameters(make(folder / "a.ipynb", cell))


def test_an_unknown_notebook_names_the_nearest(folder):
    make(folder / "02_run.ipynb", "x: int = 1")
    with pytest.raises(ConfigError, match="Did you mean '02_run'"):
        execute("02_rum", {}, folder / "out.ipynb")


def test_parameters_reach_the_kernel_and_the_copy_is_kept(folder):
    make(folder / "a.ipynb", "x: int = 1  # x", "print(x * 2)")
    execute("a", {"x": 21}, folder / "out" / "a.ipynb")
    assert "42" in (folder / "out" / "a.ipynb").read_text()
    assert [p.name for p in (folder / "out").iterdir()] == ["a.ipynb"]


def test_an_error_of_the_kit_comes_back_as_itself(folder):
    make(folder / "a.ipynb", "x: int = 1  # x", "from sia_nb.errors import DataError\nraise DataError('train.csv: truncated')")
    with pytest.raises(DataError, match="^train.csv: truncated$"):
        execute("a", {}, folder / "out.ipynb")
    assert not (folder / "out.ipynb").exists()


def test_another_error_names_notebook_and_cell(folder):
    make(folder / "a.ipynb", "x: int = 1  # x", "1 / 0")
    with pytest.raises(NotebookError, match="a.ipynb, cell .*ZeroDivisionError"):
        execute("a", {}, folder / "out.ipynb")


def test_a_dying_kernel_is_an_error_and_not_a_hang(folder):
    make(folder / "a.ipynb", "x: int = 1  # x", "import os; os._exit(3)")
    with pytest.raises(SiaError, match="a.ipynb"):
        execute("a", {}, folder / "out.ipynb", timeout=120)


def test_a_time_out_ends_the_kernel_too(folder):
    make(
        folder / "a.ipynb",
        "x: int = 1  # x",
        f"open({str(folder / 'pid')!r}, 'w').write(str(__import__('os').getpid()))\nimport time; time.sleep(600)",
    )
    with pytest.raises(NotebookError, match="time-out of 12 s"):
        execute("a", {}, folder / "out.ipynb", timeout=12)
    pid = int((folder / "pid").read_text())
    for _ in range(100):
        if not psutil.pid_exists(pid):
            break
        time.sleep(0.1)
    assert not psutil.pid_exists(pid)


def test_notebooks_of_one_process_are_each_a_fresh_state(folder):
    make(
        folder / "a.ipynb",
        "x: int = 1  # x",
        "import os, random, sys, zipfile\nassert not hasattr(zipfile, 'mark') and 'y' not in globals() and 'wave' in sys.modules",
        "zipfile.mark = y = x\nprint('told', os.getpid(), random.random())",
    )
    told = []
    with notebooks.NotebookProcess(["zipfile", "wave"]) as process:
        for x in (1, 2):
            execute("a", {"x": x}, folder / "out.ipynb", process=process)
            (line,) = [o["text"] for c in json.loads((folder / "out.ipynb").read_text())["cells"] for o in c.get("outputs", [])]
            told.append("".join(line).split())
    assert told[0][0] == told[1][0] == "told" and told[0][1] != told[1][1] and told[0][2] != told[1][2]


def test_what_a_notebook_is_to_find_ready_is_made_once_and_before_the_fork(folder):
    make(folder / "a.ipynb", "x: int = 1  # x", "import colorsys, os\nprint('told', os.getppid(), getattr(colorsys, 'mark', 0))")
    make(folder / "b.ipynb", "x: int = 1  # x", "print(x + 1)")
    told = []
    with notebooks.NotebookProcess(["colorsys"]) as process:
        for ready in (None, *2 * [("builtins", "exec", "import colorsys; colorsys.mark = getattr(colorsys, 'mark', 0) + 1")]):
            process.ready = ready
            execute("a", {}, folder / "out.ipynb", process=process)
            (line,) = [o["text"] for c in json.loads((folder / "out.ipynb").read_text())["cells"] for o in c.get("outputs", [])]
            told.append("".join(line).split()[2])
        process.ready = ("builtins", "exec", "1 / 0")  # the notebook that needs it will say so itself
        execute("b", {"x": 41}, folder / "out.ipynb", process=process)
    assert told == (["0", "1", "1"] if notebooks.FORKS else ["0", "0", "0"])
    assert "42" in (folder / "out.ipynb").read_text()


def test_a_process_goes_on_after_a_notebook_whose_kernel_died(folder):
    make(folder / "a.ipynb", "x: int = 1  # x", "import os; os._exit(3)")
    make(folder / "b.ipynb", "x: int = 1  # x", "print(x + 1)")
    with notebooks.NotebookProcess() as process:
        with pytest.raises(NotebookError, match="a.ipynb: the kernel died"):
            execute("a", {}, folder / "out.ipynb", process=process)
        execute("b", {"x": 41}, folder / "out.ipynb", process=process)
    assert "42" in (folder / "out.ipynb").read_text()


@pytest.mark.skipif(not notebooks.FORKS, reason="an ordinary kernel has ports")
@pytest.mark.parametrize("deep", [False, True])
def test_a_kernel_takes_no_port_that_another_might_have_found_free(folder, monkeypatch, deep):
    if deep:  # a socket's path has to be short
        long = folder / ("x" * 100)
        long.mkdir()
        monkeypatch.setenv("TMPDIR", str(long))
        monkeypatch.setattr("tempfile.tempdir", None)
    make(
        folder / "a.ipynb",
        "x: int = 1  # x",
        "import ipykernel\nprint('reached by', ipykernel.get_connection_info(unpack=True)['transport'])",
    )
    execute("a", {}, folder / "out.ipynb")
    assert "reached by ipc" in (folder / "out.ipynb").read_text()


def test_where_processes_cannot_be_forked_each_notebook_starts_anew(folder, monkeypatch):
    monkeypatch.setattr(notebooks, "FORKS", False)
    make(folder / "a.ipynb", "x: int = 1  # x", "print(x * 2)")
    make(folder / "b.ipynb", "x: int = 1  # x", "1 / 0")
    with notebooks.NotebookProcess(["wave"]) as process:
        for x in (21, 22):
            execute("a", {"x": x}, folder / "out.ipynb", process=process)
            assert str(2 * x) in (folder / "out.ipynb").read_text()
        with pytest.raises(NotebookError, match="b.ipynb, cell .*ZeroDivisionError"):
            execute("b", {}, folder / "out.ipynb", process=process)


@pytest.mark.skipif(not notebooks.FORKS, reason="ends with its parent by a means of Linux")
def test_kernel_and_papermill_end_with_a_loop_that_is_killed(folder):
    pid_file = folder / "pid"
    make(
        folder / "a.ipynb",
        "x: int = 1  # x",
        f"import os, time\nopen({str(pid_file)!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}}\\n')\ntime.sleep(600)",
    )
    code = (
        "import sys; from pathlib import Path; from sia_nb import notebooks\n"
        "notebooks.NOTEBOOKS = Path(sys.argv[1]); notebooks.execute('a', {}, Path(sys.argv[1]) / 'out.ipynb')"
    )
    loop = subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=NOTEBOOKS.parent)
    end = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text().endswith("\n")):
        assert time.monotonic() < end and loop.poll() is None
        time.sleep(0.05)
    loop.kill()
    loop.wait()
    assert all(gone(int(pid)) for pid in pid_file.read_text().split())


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, sia_nb, sia_nb.cli; print([m for m in ('torch', 'sklearn', 'scipy', 'transformers', 'scanpy', 'matplotlib', 'pandas') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=NOTEBOOKS.parent)
    assert out.stdout.strip() == "[]"
