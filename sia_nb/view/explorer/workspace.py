"""The runs that an explorer shows, by name, and the logs that it has open. Used by ``model`` only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, StoreError, nearest
from ...store import Run
from . import files
from .events import EventLog

OPEN_LOGS = 6  # trajectories whose columns are kept


class Workspace:
    """Run folders by name, and the indices of the trajectories looked at last.

    Args:
        run_folders: the folders; None: all under results/runs and results/reference.
    """

    def __init__(self, run_folders: Iterable[Path] | None):
        self._fixed = None if run_folders is None else [Path(folder) for folder in run_folders]
        self._logs: OrderedDict[tuple[str, int], EventLog] = OrderedDict()
        self._chosen: dict[tuple[str, int], tuple[Any, np.ndarray]] = {}  # the last filter of a step and the rows it chose
        self.folders: dict[str, Path] = {}
        self.find()

    def find(self) -> None:
        """Look for run folders anew; of two with one name the second is told by its parent's as well."""
        self.folders = {}
        for folder in map(Path.absolute, files.discover() if self._fixed is None else self._fixed):
            names = ["/".join(folder.parts[-n:]) for n in range(1, len(folder.parts))]
            name = next((n for n in names if self.folders.get(n, folder) == folder), str(folder))
            self.folders[name] = folder

    def folder(self, name: Any) -> Path:
        """The folder of the run of this name.

        Raises:
            StoreError: it is not among those shown; the message names the nearest.
        """
        if not isinstance(name, str) or name not in self.folders:
            known = ", ".join(self.folders) or "none"
            raise StoreError(f"run: {name!r} is not among the runs shown.{nearest(str(name), self.folders)} They are: {known}.")
        return self.folders[name]

    def run(self, name: Any) -> Run:
        """The run of this name.

        Raises:
            StoreError: it is not among those shown, is gone, or is damaged.
        """
        return files.open_run(self.folder(name))

    def step(self, run: Run, g: Any, key: str = "g") -> int:
        """``g``, if it is a step of the run.

        Raises:
            ConfigError: it is not; the message names those that are.
        """
        known = files.numbered(run)
        if type(g) is not int or g not in known:
            said = ", ".join(map(str, known)) or "none yet"
            raise ConfigError(f"{key}: {g!r} is no step of {run.path.name}; its steps: {said}")
        return g

    def log(self, run: Run, g: int) -> EventLog:
        """Step g's trajectory, up to date: the finished one, or the one that is being written.

        Raises:
            StoreError: the step has not been executed yet.
        """
        path, key = files.trajectory_path(run, g), (str(run.path), g)
        whole, log = path.name == files.TRAJECTORY, self._logs.get(key)
        if log is None:
            log = EventLog(path, whole=whole)
        else:
            log.path, log.whole = path, whole
            log.refresh()
        self._logs[key] = log
        self._logs.move_to_end(key)
        while len(self._logs) > OPEN_LOGS:
            old, closed = self._logs.popitem(last=False)
            self._chosen.pop(old, None)
            closed.close()
        return log

    def log_if_any(self, run: Run, g: int) -> EventLog | None:
        """``log``, or None where the step has not been executed yet."""
        try:
            return self.log(run, g)
        except StoreError:
            return None

    def chosen(self, run: Run, g: int, log: EventLog, filters: dict[str, Any]) -> np.ndarray:
        """The rows that ``EventLog.select`` chooses; scrolling asks for the same again, and is not made to wait.

        Raises:
            ConfigError: a filter is mistaken.
        """
        key, version = (str(run.path), g), (repr(sorted(filters.items())), log.version)
        if key not in self._chosen or self._chosen[key][0] != version:
            self._chosen[key] = (version, log.select(**filters))
        return self._chosen[key][1]

    def damage(self, run: Run) -> list[dict[str, Any]]:
        """{"g", "message"} of each open trajectory of the run that has damaged lines."""
        out = []
        for (path, g), log in sorted(self._logs.items()):
            if path == str(run.path) and log.damaged:
                first, more = log.damaged[0], len(log.damaged) - 1
                said = f"line {first}{f' and {more} more' if more else ''} of {log.path} holds no event; the others are shown."
                out.append({"g": g, "message": said})
        return out
