"""The tasks trimul and trimul_cuda as the loop sees them."""

import subprocess
import sys

import pytest

from sia_nb.config import make_config
from sia_nb.errors import ConfigError
from sia_nb.tasks import get_task
from sia_nb.tasks.base import find_instance
from sia_nb.tasks.trimul.reference import ATOL

NAMES = ("trimul", "trimul_cuda")


@pytest.mark.parametrize("name", NAMES)
def test_what_agents_read(name):
    task = get_task(name)
    text = task.spec_text()
    assert task.name == name and task.fallback().text in text and task.space.describe() in text
    assert f"{ATOL:g} + " in text and "trimul(x, mask, weights)" in text and "mask" in text
    assert ("1500 /" in text) == (name == "trimul_cuda")
    assert "{" not in text.replace(task.fallback().text, "")  # nothing is left unfilled
    assert task.parse(task.fallback().text) == task.fallback()
    assert "def trimul(" in task.reference()
    assert task.parse(task.reference()).dialect == "code"


@pytest.mark.parametrize("name", NAMES)
def test_there_is_nothing_to_fetch(name, tmp_path):
    task = get_task(name)
    assert task.fetch(tmp_path) == task.check(tmp_path) == {"files": {}}
    assert not list(tmp_path.iterdir())


def test_instances_are_the_device_s_own(tmp_path):
    assert find_instance(get_task("trimul"), "").name == "cpu"
    assert find_instance(get_task("trimul_cuda"), "").name == "cuda"
    assert make_config("smoke", task="trimul", instance="cpu-n32-b2-c128").instance == "cpu-n32-b2-c128"
    with pytest.raises(ConfigError, match="instance: 'cuda' is not known to task 'trimul'"):
        get_task("trimul").verifier(tmp_path, tmp_path, instance="cuda")
    with get_task("trimul").verifier(tmp_path, tmp_path, instance="cpu-n32-b2-c128") as verifier:
        assert [c.name for c in verifier.cases.timed] == ["n32-b2-c128"]


def test_importing_the_tasks_is_light():
    code = (
        "import sys, sia_nb.tasks as t; [t.get_task(n).spec_text() for n in ('trimul', 'trimul_cuda')];"
        "print([m for m in ('torch', 'numpy', 'triton') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
