"""Tasks: a specification U, data with splits, a space of solutions, a verifier V, a reference R.

A task is a folder with ``task.py`` holding a ``Task``; ``REGISTRY`` names them. Imports nothing from
``agents``, ``policy`` or ``loop``.
"""

from __future__ import annotations

from importlib import import_module

from ..errors import ConfigError, nearest

REGISTRY = {
    "lawbench": "sia_nb.tasks.lawbench.task:LawBench",
    "denoising": "sia_nb.tasks.denoising.task:Denoising",
    "trimul": "sia_nb.tasks.trimul.task:TriMul",
    "trimul_cuda": "sia_nb.tasks.trimul.task:TriMulCuda",
}


def get_task(name: str):
    """The ``Task`` called ``name``.

    Raises:
        ConfigError: no such task; the message names the nearest.
    """
    if name not in REGISTRY:
        raise ConfigError(f"task: '{name}' is not known; known tasks: {', '.join(sorted(REGISTRY))}.{nearest(name, REGISTRY)}")
    module, attribute = REGISTRY[name].split(":")
    return getattr(import_module(module), attribute)()
