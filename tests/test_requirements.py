"""What pyproject.toml asks for and requirements.lock pins: one environment can have all extras."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from sia_nb.store import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split() if "==" in line)
LOCK = {name.lower().replace("_", "-"): version for name, version in LOCK.items()}
ASKED = [Requirement(r) for r in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"])]
# what unsloth 2026.10.9, of the extra gpu, says in its own metadata
UNSLOTH = {"torch": "<2.15,>=2.4", "datasets": "!=4.4.*,!=4.5.0,<5,>=3.4.1", "trl": "<=1.15,>=0.18.2", "transformers": "<=5.17.0"}


@pytest.mark.parametrize("asked", ASKED, ids=lambda r: r.name)
def test_the_lock_pins_what_is_asked_for(asked):
    assert asked.specifier.contains(LOCK[asked.name.lower().replace("_", "-")])


@pytest.mark.parametrize("name", UNSLOTH)
def test_the_gpu_extra_can_be_added_to_the_locked_environment(name):
    assert SpecifierSet(UNSLOTH[name]).contains(LOCK[name])
    assert [r for r in ASKED if r.name == name]
    assert re.fullmatch(r"unsloth>=2026\.10.*", PROJECT["optional-dependencies"]["gpu"][0])
