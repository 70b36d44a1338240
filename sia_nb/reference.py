"""The study on a CPU as one list of commands, and how what it made is put into results/reference.

The commands are those of the command line: all arms and seeds of each task, weight updates on shuffled rewards, the controls,
the figures. Each goes on where it stopped, so the list as a whole does. May import everything but ``cli``.
"""

from __future__ import annotations

import shlex
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .config import ARMS, make_config
from .config import CONTROLS as CONTROL_ARMS
from .controls import Control, publish_folder
from .errors import ConfigError, StoreError
from .store import TRIMMED, Run, publish, read_json, results_dir, run_name
from .study import publish_transfer
from .verify import verify
from .view.paper import TIMED

TASKS = ("lawbench", "denoising", "trimul")  # what "all" means: those that need no GPU
SEEDS = {"lawbench": 5, "denoising": 5, "trimul": 3}
SHUFFLED = ("lawbench", "denoising")
GUESS = {"run": 600.0, "control": 300.0}  # seconds of one, of which no committed one tells


def parse_tasks(text: str) -> list[str]:
    """The tasks in ``text``: names with commas between, or ``all``.

    Raises:
        ConfigError: a task is named twice; an unknown one is told by ``make_config``.
    """
    names = list(TASKS) if text == "all" else [name.strip() for name in text.split(",")]
    if len(set(names)) < len(names):
        raise ConfigError(f"task: '{text}' names a task twice")
    return names


@dataclass(frozen=True)
class Part:
    """One command of the study."""

    argv: tuple[str, ...]
    left: int  # runs or controls that it has not finished
    of: int
    seconds: float  # what these may take, one after the other

    @property
    def line(self) -> str:
        """The command as one writes it."""
        return "python -m sia_nb " + shlex.join(self.argv)


def parts(tasks: list[str], seeds: int = 0, profile: str = "cpu") -> list[Part]:
    """The study's commands in their order, figures last.

    Args:
        seeds: of each task; 0: as many as the committed runs have.

    Raises:
        ConfigError: an unknown task, profile, or a number of seeds that is none.
    """
    if seeds < 0:
        raise ConfigError(f"--seeds: {seeds}; expected at least 1, or 0 for the study's own number")
    out = []
    for task in tasks:
        numbers = range(seeds or SEEDS.get(task, 3))
        known = _seconds(task)
        base = ("--task", task, "--profile", profile, "--seeds", str(len(numbers)))

        def runs(argv: tuple[str, ...], arms: tuple[str, ...], task=task, numbers=numbers, known=known, **more: str) -> Part:
            configs = [make_config(profile, task=task, seed=s, arm=arm, **more) for s in numbers for arm in arms]
            left = [c for c in configs if not (results_dir() / "runs" / run_name(c) / "report.json").exists()]
            seconds = sum(known.get(f"{c.arm} shuffled" if c.control else c.arm, GUESS["run"]) for c in left)
            return Part(argv, len(left), len(configs), seconds)

        out.append(runs(("run", *base, "--arms", "all"), ARMS))
        if task in SHUFFLED:
            out.append(runs(("run", *base, "--arms", "W", "--control", "shuffled_rewards"), ("W",), control="shuffled_rewards"))
        controls = [Control(arm, make_config(profile, task=task, seed=s)) for s in numbers for arm in CONTROL_ARMS]
        left = [c for c in controls if not (c.folder / "control.json").exists()]
        spent = sum(known.get(c.arm, GUESS["control"]) for c in left)
        out.append(Part(("controls", *base), len(left), len(controls), spent))
    return [*out, Part(("figures", "--profile", profile), 0, 0, 0.0)]


def _seconds(task: str) -> dict[str, float]:
    """Mean seconds of a committed run or control by arm; empty where none is committed."""
    from .view.controls import entries_of

    try:
        entries = entries_of(task)
    except StoreError:
        return {}
    return {e["arm"]: sum(s["seconds"] for s in e["seeds"].values()) / len(e["seeds"]) for e in entries}


def announcement(todo: list[Part], jobs: int) -> str:
    """What is left, and about how long it takes: runs ``jobs`` at a time, controls one after the other."""
    hours = sum(p.seconds / (jobs if p.argv[0] == "run" else 1) for p in todo) / 3600
    lines = [f"{p.line}" + (f"    # {p.left} of {p.of} left" if p.of else "") for p in todo]
    return "\n".join([*lines, f"About {hours:.1f} hours, {jobs} runs at a time; the same command goes on where it stopped."])


def publish_study(folder: Path, *, replace: bool = False, echo: Callable[[str], None] = print) -> list[Path]:
    """Verify every finished run under ``folder`` and copy it, the controls and the transfer studies to results/reference.

    Args:
        folder: a results folder, or one that holds several.
        replace: afterwards remove the committed runs of the same task, profile and control that ``folder`` does not hold, and
            the controls of the same name; of a task whose results are times, those of the same machine.

    Raises:
        StoreError: nothing finished is there, or a run does not hold; nothing is copied then.
    """
    finished = {p.parent for p in Path(folder).rglob("report.json") if (p.parent / "run.json").exists()}
    finished = sorted(p for p in finished if p.parent.name == "runs")
    controls = sorted(p.parent for p in Path(folder).rglob("controls/*/*/*/control.json"))
    transfers = sorted(Path(folder).rglob("transfer/*/transfer.json"))
    if not (finished or controls or transfers):
        raise StoreError(f"{folder} holds no finished run, control or transfer study")
    wrong = []
    for path in finished:
        found = verify(path)
        faults = [fault for fault in found.faults if not _trimmed(path, fault.file)]
        wrong += [f"{path.name}: {fault}" for fault in faults[:3]]
        echo(f"{path.name}: {len(faults) or 'no'} faults in {found.checked} comparisons")
    if wrong:
        raise StoreError("nothing was published, since not every run is what it says:\n" + "\n".join(wrong))
    made = [publish(Run(path)) for path in finished]
    root = results_dir() / "reference"
    made += [publish_folder(path) for path in controls]
    if replace:
        for old in _earlier(made, root):
            echo(f"{old.relative_to(root)}: removed")
            shutil.rmtree(old)
            if not any(old.parent.iterdir()):
                old.parent.rmdir()
    transfers = [path for path in transfers if not str(read_json(path)["plan"]["name"]).endswith("-smoke")]
    return made + [publish_transfer(path) for path in transfers]


def _trimmed(path: Path, name: str) -> bool:
    """Whether a file is one that a committed run lacks anyway, and was left behind on the way here."""
    return bool(set(TRIMMED) & set(Path(name).parts)) and not (path / name).exists()


def _kind(run: Run) -> tuple[str, str, str]:
    return run.config.task, run.config.profile, run.config.control


def _earlier(made: list[Path], root: Path) -> list[Path]:
    """The committed runs and controls that what was ``made`` takes the place of."""
    runs = {path: _kind(Run(path)) for path in made if (path / "run.json").exists()}
    of = defaultdict(set)
    for path, kind in runs.items():
        of[kind, path.parent if kind[0] in TIMED else None].add(path)
    out = []
    for (kind, machine), mine in of.items():
        for old in sorted(p.parent for p in (machine or root / kind[0]).glob("*/run.json" if machine else "*/*/run.json")):
            if old not in mine and _kind(Run(old)) == kind:
                out.append(old)
    for path in (p for p in made if p not in runs):
        machines = () if path.parts[-3] in TIMED else path.parent.parent.glob(f"*/{path.name}")
        out += [old for old in sorted(machines) if old != path]
    return out
