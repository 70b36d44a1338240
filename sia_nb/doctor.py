"""What this machine can do, and what to do about what is missing."""

from __future__ import annotations

import os
import shutil
from importlib import metadata, util

from .store import data_dir, hardware, results_dir


def examine(echo=print) -> int:
    """Print one line a capability. Returns 0 if the offline loop can run here, else 1."""
    essential = [_sandbox(), _packages(), _data(), _model(), _disk()]
    optional = [_gpu(), _key(), _jupyter()]
    echo(f"machine    {hardware()}")
    for mark, name, text in essential + optional:
        echo(f"{mark:4} {name:10} {text}")
    bad = [name for mark, name, _ in essential if mark == "MISS"]
    echo("ready for the offline loop." if not bad else f"not ready: {', '.join(bad)}.")
    return 1 if bad else 0


def _sandbox() -> tuple[str, str, str]:
    from .scaffold.sandbox import backends

    found = backends()
    good = [name for name, why in found.items() if not why and name != "plain"]
    if good:
        return "ok", "sandbox", f"{good[0]} (usable here: {', '.join(good)})"
    why = "; ".join(f"{name}: {reason}" for name, reason in found.items() if reason)
    return (
        "warn",
        "sandbox",
        f"none ({why}). The kit's own scaffolds and specs run; model-written code is refused without --unsafe-no-sandbox.",
    )


def _packages() -> tuple[str, str, str]:
    missing = [n for n in ("torch", "transformers", "sklearn", "papermill", "jieba", "matplotlib") if util.find_spec(n) is None]
    if missing:
        return "MISS", "packages", f"{', '.join(missing)}: run `make setup`"
    return "ok", "packages", f"torch {metadata.version('torch')}, transformers {metadata.version('transformers')}"


def _data() -> tuple[str, str, str]:
    from .errors import SiaError
    from .tasks import get_task

    try:
        good = get_task("lawbench").check(data_dir())
    except SiaError as error:
        return "MISS", "data", str(error)
    return (
        ("ok", "data", "lawbench, checksums right") if good else ("MISS", "data", "lawbench is not fetched yet; run `make data`")
    )


def _model() -> tuple[str, str, str]:
    from .errors import SiaError
    from .policy.model import EMBEDDED, FOLDER, verify

    try:
        verify(data_dir() / "models" / FOLDER)
    except SiaError as error:
        return "MISS", "model", str(error)
    return "ok", "model", f"{EMBEDDED}, checksums right"


def _disk() -> tuple[str, str, str]:
    free = shutil.disk_usage(results_dir() if results_dir().exists() else ".").free / 2**30
    return ("ok" if free > 2 else "MISS", "disk", f"{free:.0f} GiB free" + ("" if free > 2 else "; 2 GiB are needed"))


def _gpu() -> tuple[str, str, str]:
    if util.find_spec("torch") is None:
        return "none", "gpu", "torch is not installed"
    import torch

    if torch.cuda.is_available():
        return "ok", "gpu", torch.cuda.get_device_name(0)
    return "none", "gpu", "no CUDA device; the embedded model runs on the CPU"


def _key() -> tuple[str, str, str]:
    if os.environ.get("ANTHROPIC_API_KEY"):
        return "ok", "key", "ANTHROPIC_API_KEY is set: --agent claude can be used"
    return "none", "key", "ANTHROPIC_API_KEY is not set; the playbook agents need none"


def _jupyter() -> tuple[str, str, str]:
    good = util.find_spec("jupyterlab") is not None
    return (
        ("ok", "jupyter", f"jupyterlab {metadata.version('jupyterlab')}: `make lab`")
        if good
        else ("none", "jupyter", "run `make setup`")
    )
