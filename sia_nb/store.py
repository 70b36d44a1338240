"""The run folder: the one module that knows where a run keeps what.

Everything is written to a temporary name, flushed and renamed; a phase is done when its mark
(``<phase>.done.json``, with the hashes of what it wrote) is there, and only then. What a killed phase
left behind is overwritten by the next try.

    run.json              config, seed, versions, commit, hardware, data checksums
    agent_calls.jsonl     what the agents were asked and answered
    ledger.jsonl          what each phase spent
    step_001/             A_1 and all that came of it; step g holds A_g
      scaffold/agent.py   origin.json  trajectory.jsonl  metrics.json
      weights/            of a step that a weight update made: adapter/  curve.jsonl  rollouts.jsonl  hyper.json  result.json
      decision.json  improvement.md  notebooks/  *.done.json
    report.json           written once, when the sealed test is opened
    peers.json            known methods on the same data, of a task that has some; written with the report
    manifest.json         the SHA-256 of all of this, written last
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__
from .budget import read_prices
from .config import RunConfig, validate
from .errors import ConfigError, StoreError

FORMAT = 1
ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = ("notebooks", "figures", "work", "by_hand", "checkpoint")  # folders that are no part of the record
TRIMMED = ("adapter",)  # folders of the record that a committed run lacks
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE)
ARITHMETIC = {"amx_bf16": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}  # the processor's flag → its name, the widest first
_VERSIONED = ("torch", "transformers", "numpy", "scikit-learn", "scipy", "papermill", "anthropic", "sandlock")


def data_dir() -> Path:
    """Where data and models live: ``$SIA_DATA``, else ``data/`` beside the package."""
    return Path(os.environ.get("SIA_DATA") or ROOT / "data")


def results_dir() -> Path:
    """Where results live: ``$SIA_RESULTS``, else ``results/`` beside the package."""
    return Path(os.environ.get("SIA_RESULTS") or ROOT / "results")


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` so that a reader sees the old file or the whole new one.

    Raises:
        StoreError: the disk is full, or the folder is missing or not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        what = "the disk is full; free some space" if error.errno == errno.ENOSPC else f"{error.strerror}; check the folder"
        raise StoreError(
            f"{path}: cannot be written: {what}, then `python -m sia_nb resume RUN`. What was done so far is kept."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """``write_atomic`` of indented JSON."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=1, sort_keys=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in ``path``.

    Raises:
        StoreError: missing or damaged; the message names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path} is missing; is this a run folder, and has the phase that writes it run?") from None
    except (ValueError, OSError) as error:
        raise StoreError(f"{path} is damaged: {error}. Delete the step's folder and resume the run.") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line. A last line that has no end is still being written, and is left out.

    Raises:
        StoreError: missing or damaged; the message names the file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}; has this step been trained?") from None
    out = []
    for number, line in enumerate(text.split("\n")[:-1], 1):  # not splitlines: model text may hold U+2028
        try:
            out.append(json.loads(line))
        except ValueError:
            raise StoreError(f"{path}, line {number} is damaged. Delete the step's folder and resume the run.") from None
    return out


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def commit() -> str:
    """The checked-out commit, with ``+`` if the tree has changes; "unknown" outside git."""
    try:
        run = lambda *a: subprocess.run(["git", "-C", str(ROOT), *a], capture_output=True, text=True, timeout=10)
        head = run("rev-parse", "--short=12", "HEAD")
        if head.returncode:
            return "unknown"
        return head.stdout.strip() + ("+" if run("status", "--porcelain", "--untracked-files=no").stdout.strip() else "")
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def cores() -> int:
    """How many cores this process may use: those that it is kept to (taskset), where the system says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> str:
    """This machine in one line: processor with its widest arithmetic, without which a kernel's time says little, cores ("2 of 64
    cores" where this process is kept to some), memory, GPUs."""
    told: dict[str, str] = {}
    with contextlib.suppress(OSError):
        lines = (line.partition(":") for line in open("/proc/cpuinfo"))
        told = {name.strip(): value.strip() for name, _, value in lines}
    cpu = told.get("model name") or platform.processor() or platform.machine()
    flags = set(told.get("flags", "").split())
    widest = next((f" ({name})" for flag, name in ARITHMETIC.items() if flag in flags), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    here, there = cores(), os.cpu_count() or 1
    of = f"{here} of {there}" if here < there else f"{here}"
    return ", ".join([cpu + widest, f"{of} cores", f"{memory:.0f} GiB", *_gpus()])


def _gpus() -> list[str]:
    """The GPUs that this process may use, as "2 × name"."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":  # hidden from what runs here
        return []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
        told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.split("\n")
        gpus = [tuple(part.strip() for part in line.split(",", 2)) for line in told if line.count(",") >= 2]
        names = [name for *which, name in gpus if visible is None or set(which) & set(visible.split(","))]
        return [f"{names.count(name)} × {name}" for name in dict.fromkeys(names)]
    return []


def provenance() -> dict[str, Any]:
    """What a number needs to be traced: commit, versions, hardware, time."""
    versions = {"sia_nb": __version__, "python": platform.python_version()}
    for name in _VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "commit": commit(),
        "versions": versions,
        "hardware": hardware(),
        "platform": sys.platform,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


class Run:
    """One run folder."""

    def __init__(self, path: Path):
        self.path = Path(path).resolve()
        raw = read_json(self.path / "run.json")
        if not isinstance(raw, dict):
            raise StoreError(
                f"{self.path / 'run.json'} is damaged: expected an object, found {type(raw).__name__}; is this a run folder?"
            )
        if raw.get("format") != FORMAT:
            raise StoreError(
                f"{self.path / 'run.json'}: format {raw.get('format')!r}, expected {FORMAT}; it was written by another version"
            )
        try:
            self.config: RunConfig = validate(raw["config"])
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{self.path / 'run.json'} holds no valid config: {error}") from None
        self.info: dict[str, Any] = raw
        for name, kind in (("data", dict), ("notices", list)):
            if not isinstance(raw.setdefault(name, kind()), kind):
                raise StoreError(f"{self.path / 'run.json'} is damaged: {name} is {raw[name]!r:.60}, expected a {kind.__name__}")
        self._lock = None

    # -- making and opening ------------------------------------------------------------------------

    @classmethod
    def create(cls, config: RunConfig, path: Path | None = None) -> Run:
        """A new run folder, or the one at ``path`` if it holds the same config.

        Raises:
            StoreError: ``path`` holds a run of another config, or something else.
        """
        path = Path(path) if path else results_dir() / "runs" / run_name(config)
        if (path / "run.json").exists():
            run = cls(path)
            if run.config != config:
                changed = [k for k, v in config if getattr(run.config, k) != v]
                raise StoreError(
                    f"{path} holds a run with other parameters ({', '.join(changed)}). Name another folder, or resume it as it is."
                )
            return run
        if path.exists() and any(path.iterdir()):
            raise StoreError(f"{path} is not empty and holds no run.json; name an empty or new folder")
        prices = {"prices": read_prices(config.prices)} if config.prices else {}
        given = {"format": FORMAT, "config": config.model_dump(), **provenance(), **prices, "data": {}, "notices": []}
        write_json(path / "run.json", given)
        return cls(path)

    def update(self, **changes: Any) -> None:
        """Add to run.json, e.g. data checksums or a notice; the config never changes."""
        self.info.update(changes)
        write_json(self.path / "run.json", self.info)
        if (self.path / "manifest.json").exists():
            self.write_manifest()

    def notice(self, text: str) -> None:
        """A sentence that stays in the run's provenance, once."""
        if text and text not in self.info["notices"]:
            self.update(notices=[*self.info["notices"], text])

    @contextlib.contextmanager
    def lock(self):
        """Hold the folder: a second process is refused.

        Raises:
            StoreError: another process is working in it.
        """
        with self.writing():
            handle = open(self.path / ".lock", "a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            holder = handle.read().strip()
            handle.close()
            raise StoreError(f"{self.path} is in use by process {holder or '?'}; wait for it, or name another folder") from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        try:
            yield self
        finally:
            handle.close()

    @contextlib.contextmanager
    def writing(self):
        """What the disk refuses meanwhile becomes a clear error.

        Raises:
            StoreError: the disk is full, read-only or not writable, or the folder went away.
        """
        self._present()
        try:
            yield self
        except StoreError:
            self._present()  # a file may be missing because everything is
            raise
        except OSError as error:
            if error.errno not in _DISK:
                raise
            self._present()
            what = (
                "the disk is full; free some space"
                if error.errno == errno.ENOSPC
                else f"{error.strerror}; check the disk and its rights"
            )
            raise StoreError(
                f"{error.filename or self.path}: {what}, then `python -m sia_nb resume {self.path.name}`. What was done so far is kept."
            ) from error
        self._present()

    def _present(self) -> None:
        if not (self.path / "run.json").exists():
            raise StoreError(
                f"{self.path} went away, or its run.json did; put the folder back and resume the run, or begin a new one"
            )

    def record(self) -> dict[str, Path]:
        """Every file of the run's record by name; notebooks, figures, working folders and hidden files are none of it."""
        found = {}
        for path in sorted(self.path.rglob("*")):
            parts = path.relative_to(self.path).parts
            if path.is_file() and not any(p.startswith(".") or p in LEFT_OUT for p in parts) and parts != ("manifest.json",):
                found["/".join(parts)] = path
        return found

    def write_manifest(self) -> None:
        """Note the SHA-256 of every file of the record, the run being finished."""
        write_json(self.path / "manifest.json", {"format": FORMAT, "files": {n: sha256(p) for n, p in self.record().items()}})

    # -- steps and phases --------------------------------------------------------------------------

    def step(self, g: int) -> Path:
        """The folder of step g (g ≥ 1)."""
        return self.path / f"step_{g:03d}"

    def steps(self) -> list[int]:
        """The steps that have a scaffold, in order."""
        return sorted(int(p.parent.parent.name[5:]) for p in self.path.glob("step_*/scaffold/agent.py"))

    def done(self, g: int, phase: str) -> bool:
        """Whether the phase's mark is there and what it wrote is unharmed.

        Raises:
            StoreError: a file it wrote was altered or lost.
        """
        mark = self.step(g) / f"{phase}.done.json"
        if not mark.exists():
            return False
        for name, digest in read_json(mark)["files"].items():
            file = self.path / name
            if self.info.get("trimmed") and not file.exists():
                continue
            if not file.exists() or sha256(file) != digest:
                raise StoreError(
                    f"{file} is {'altered' if file.exists() else 'missing'} since its phase '{phase}' of step {g} ended. Delete {mark} to run that phase again."
                )
        return True

    def finish(self, g: int, phase: str, files: list[Path]) -> None:
        """Set the phase's mark, with the hashes of what it wrote."""
        self._present()
        write_json(
            self.step(g) / f"{phase}.done.json",
            {"phase": phase, "files": {str(f.relative_to(self.path)): sha256(f) for f in files}},
        )

    def scaffold(self, g: int) -> str:
        """A_g's source."""
        try:
            return (self.step(g) / "scaffold" / "agent.py").read_text(encoding="utf-8")
        except FileNotFoundError:
            raise StoreError(f"step {g} of {self.path} has no scaffold yet; run the phase before it first") from None

    def metrics(self, g: int) -> dict[str, Any]:
        """E_g."""
        return read_json(self.step(g) / "metrics.json")

    def origin(self, g: int) -> dict[str, Any]:
        """What produced A_g: action, parent step, edits."""
        return read_json(self.step(g) / "origin.json")

    def executed(self) -> list[int]:
        """The steps whose execution is done."""
        return [g for g in self.steps() if (self.step(g) / "run.done.json").exists()]

    def progress(self, what: str, done: float, total: float) -> None:
        """Tell whoever watches how far the phase in hand is; never an error."""
        with contextlib.suppress(StoreError):
            self._present()
            write_json(self.path / ".progress.json", {"what": what, "done": done, "total": total})


def keeps(phase: Callable[..., Any]) -> Callable[..., Any]:
    """A phase, a function of a run, whose troubles with the disk are clear errors: see ``Run.writing``."""

    @functools.wraps(phase)
    def guarded(run: Run, *args: Any, **more: Any) -> Any:
        with run.writing():
            return phase(run, *args, **more)

    return guarded


@contextlib.contextmanager
def alone(folder: Path, otherwise: str) -> Iterator[None]:
    """Hold a folder, made where it is not there, so that processes side by side do different things.

    Args:
        otherwise: what a second process may do instead of waiting, for the error.

    Raises:
        StoreError: another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror}; check the disk and its rights") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(f"{folder} is in use by another process; wait for it, or {otherwise}") from None
        yield


def machine_name(hardware: str) -> str:
    """A machine's line (``hardware``) as the name of a folder."""
    words = re.sub(r"\((R|TM|r|tm)\)|@.*?(?=,)", "", hardware)
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def publish(run: Run) -> Path:
    """Copy a finished run, trimmed (no notebooks, working folders or adapters), to results/reference/<task>/<hardware>/.

    Raises:
        StoreError: the run has no report yet.
    """
    if not (run.path / "report.json").exists():
        raise StoreError(f"{run.path.name} is not finished: `python -m sia_nb resume {run.path.name}` first")
    target = results_dir() / "reference" / run.config.task / machine_name(run.info["hardware"]) / run.path.name
    shutil.rmtree(target, ignore_errors=True)
    left_out = (*LEFT_OUT, *TRIMMED, ".*")
    shutil.copytree(run.path, target, ignore=shutil.ignore_patterns(*left_out))
    copy = Run(target)
    copy.update(trimmed=True)
    copy.write_manifest()
    return target


def run_name(config: RunConfig) -> str:
    """The folder name of a run with this config: readable, and one config has one name."""
    values = config.model_dump()
    if values["devices"] == 1:
        del values["devices"]  # the names of runs made before it could be chosen stay
    for name in ("prices", "control"):
        if not values[name]:
            del values[name]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:6]
    control = f"-{config.control}" if config.control else ""
    return f"{config.task}-{config.arm}{control}-{config.profile}-{config.agent}-s{config.seed}-{digest}"


def find_run(name: str, *, committed: bool = False) -> Run:
    """The run called ``name``: a path, or a folder name under results/runs or results/reference.

    A run that repeats a committed one has its name: ``committed`` says which of the two is meant. Of committed ones a run that
    a lesson was written about, kept under results/reference/lessons, comes before one of the study that stands there now.

    Raises:
        StoreError: there is none; the message names the nearest.
    """
    return Run(find_folder(name, committed=committed))


def find_folder(name: str, *, committed: bool = False) -> Path:
    """The folder of the run called ``name``, be it damaged; see ``find_run``.

    Raises:
        StoreError: there is none; the message names the nearest.
    """
    from .errors import nearest

    own = [results_dir() / "runs" / name]
    reference = sorted((results_dir() / "reference").glob(f"*/*/{name}")) if name and "/" not in name else []
    reference.sort(key=lambda path: (path.parent.parent.name == "lessons") is not committed)
    candidates = [Path(name), *(reference + own if committed else own + reference)]
    for path in candidates:
        if (path / "run.json").exists():
            return path
    known = [p.parent.name for p in sorted((results_dir() / "runs").glob("*/run.json"))]
    raise StoreError(
        f"no run called '{name}'.{nearest(name, known)} Known: {', '.join(known) or 'none yet; `python -m sia_nb run` makes one'}."
    )
