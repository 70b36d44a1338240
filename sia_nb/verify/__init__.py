"""Whether a run's folder is what it says: ``python -m sia_nb verify RUN``.

Hashes (the manifest and the phases' marks), provenance, and arithmetic: everything that one file says and another one
implies is worked out again from the trajectories up to the report. Nothing is executed and the sealed test stays closed, so
the sealed figures themselves rest on the manifest's hash. It reads files through ``store``, ``trajectory`` and
``agents.record`` only.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import StoreError
from ..store import Run
from . import record, steps
from .findings import Fault, Findings

__all__ = ["Fault", "Findings", "verify"]


def verify(path: Path) -> Findings:
    """Check the run at ``path``; never raises for a damaged run: what is wrong stands in ``faults``."""
    path = Path(path).resolve()
    found = Findings(path)
    try:
        run = Run(path)
    except StoreError as error:
        found.fault("run.json", "", str(error).replace(str(path) + "/", ""))
        return found
    for check in (record.hashes, record.provenance, steps.all_steps, record.calls, record.ledger, record.report):
        try:
            check(run, found)
        except StoreError as error:  # a file that another check has named, or that is not there
            found.fault(_named(str(error), path), "", str(error).replace(str(path) + "/", "")[:300])
        except OSError as error:
            name = str(error.filename or "run folder").replace(str(path) + "/", "")
            found.fault(name, "", f"cannot be read: {error.strerror}")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            if not found.faults:
                name = check.__name__
                found.fault("run folder", name, f"cannot be checked: {type(error).__name__}: {str(error)[:200]}")
    return found


def _named(message: str, path: Path) -> str:
    start = message.find(str(path) + "/")
    return message[start + len(str(path)) + 1 :].split()[0].rstrip(",:") if start >= 0 else "run folder"
