"""The explorer without its looks: a request as a JSON object in, an answer as a JSON object out.

    {"do": "runs"}                         the run folders and how they stand
    {"do": "steps", run}                   a run's steps: lever, score with noise, fate, cost
    {"do": "events", run, g, …}            a page of a step's trajectory, filtered and sorted
    {"do": "event", run, g, n}             one event in full, with those that belong to it
    {"do": "text", run, g, n, field, offset}   more of a text that was cut

A mistake of the user's, a damaged file and a run that is gone are answered by {"error": …}, never by an exception. Answers
hold model text as it is: whoever shows it must show it as text. It may import this folder, ``store``, ``trajectory`` and
``view``'s plain functions; ``widget``, ``page`` and the tests use it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ...errors import ConfigError, SiaError, StoreError, nearest
from ...store import Run
from . import detail, runs
from .describe import TEXT, clean
from .events import EventLog

PAGE = 200  # rows of a page where the request does not say
MOST_ROWS = 2_000  # rows of a page at most
OPEN_LOGS = 6  # trajectories whose columns are kept
FILTERS = ("kinds", "text", "instance", "failure", "failed", "reward", "sort", "descending")

Request = dict[str, Any]
Answer = dict[str, Any]


class Explorer:
    """Answers requests about run folders.

    Args:
        run_folders: the folders; None: all under results/runs and results/reference, looked for anew at each ``runs``.
    """

    def __init__(self, run_folders: Iterable[Path] | None = None):
        self._fixed = None if run_folders is None else [Path(folder) for folder in run_folders]
        self.folders: dict[str, Path] = {}
        self._logs: OrderedDict[tuple[str, int], EventLog] = OrderedDict()
        self._chosen: dict[tuple[str, int], tuple[Any, Any]] = {}  # the last filter of a step and the rows it chose
        self._find_folders()
        self._requests: dict[str, Callable[[Request], Answer]] = {
            "runs": self._runs, "steps": self._steps, "events": self._events, "event": self._event, "text": self._text,
        }  # fmt: skip

    def answer(self, request: Request) -> Answer:
        """The answer to one request; {"error": message} where it cannot be given."""
        try:
            if not isinstance(request, dict):
                raise ConfigError(f"request: {request!r}; expected a JSON object such as {{'do': 'runs'}}")
            do = request.get("do")
            if not isinstance(do, str) or do not in self._requests:
                known = ", ".join(self._requests)
                raise ConfigError(f"do: {do!r} is no request; expected one of {known}.{nearest(str(do), self._requests)}")
            return clean(self._requests[do](request))
        except (SiaError, OSError) as error:
            return clean({"error": str(error)})

    # -- what a request names ------------------------------------------------------------------------

    def _find_folders(self) -> None:
        folders = runs.discover() if self._fixed is None else self._fixed
        self.folders = {}
        for folder in map(Path.absolute, folders):
            name = folder.name
            if name in self.folders and self.folders[name] != folder:
                name = f"{folder.parent.name}/{name}"
            self.folders[name] = folder

    def _folder(self, request: Request) -> Path:
        name = request.get("run")
        if not isinstance(name, str) or name not in self.folders:
            known = ", ".join(self.folders) or "none"
            raise StoreError(f"run: {name!r} is not among the runs shown ({known}).{nearest(str(name), self.folders)}")
        folder = self.folders[name]
        if not folder.is_dir():
            raise StoreError(f"run: {folder} does not exist; was it moved or deleted? Choose another run.")
        return folder

    def _run(self, request: Request) -> Run:
        return Run(self._folder(request))

    def _step(self, run: Run, request: Request, key: str = "g") -> int:
        g = request.get(key)
        if type(g) is not int or g not in run.steps():
            known = ", ".join(map(str, run.steps())) or "none yet"
            raise ConfigError(f"{key}: {g!r} is no step of {run.path.name}; its steps: {known}")
        return g

    def _log(self, run: Run, request: Request) -> EventLog:
        """The step's trajectory, up to date."""
        g = self._step(run, request)
        path, key = runs.trajectory_path(run, g), (str(run.path), g)
        log = self._logs.get(key)
        if log is None:
            log = EventLog(path, whole=path.name == runs.TRAJECTORY)
        else:
            log.path, log.whole = path, path.name == runs.TRAJECTORY
            log.refresh()
        self._logs[key] = log
        self._logs.move_to_end(key)
        while len(self._logs) > OPEN_LOGS:
            old, closed = self._logs.popitem(last=False)
            self._chosen.pop(old, None)
            closed.close()
        return log

    # -- answers ---------------------------------------------------------------------------------------

    def _runs(self, request: Request) -> Answer:
        self._find_folders()
        return {"runs": [runs.describe(name, folder) for name, folder in self.folders.items()]}

    def _steps(self, request: Request) -> Answer:
        run = self._run(request)
        counted = [(g, runs.count_events(runs.trajectory_path(run, g))) for g in run.steps()]
        told = runs.steps(run, counted)
        try:
            report = runs.report(run)
        except StoreError as error:
            report = None
            told["damaged"].append({"g": None, "message": str(error)})
        return told | {"report": report, "live": runs.live(run), "metric": (report or {}).get("metric", "")}

    def _events(self, request: Request) -> Answer:
        run = self._run(request)
        log = self._log(run, request)
        chosen = {name: request[name] for name in FILTERS if request.get(name) is not None}
        offset, limit = _whole(request, "offset", 0, 0, 2**62), _whole(request, "limit", PAGE, 0, MOST_ROWS)
        key, version = (str(run.path), request["g"]), (repr(sorted(chosen.items())), log.version)
        if self._chosen.get(key, (None, None))[0] != version:  # scrolling asks for the same rows again
            self._chosen[key] = (version, log.select(**chosen))
        numbers = self._chosen[key][1]
        answer = {
            "total": len(log),
            "matched": len(numbers),
            "offset": offset,
            "rows": log.rows(numbers[offset : offset + limit]),
        }
        answer |= {f"{word}s": log.counts(word) for word in ("kind", "failure", "instance")}
        return answer | {"damaged": log.damaged[:MOST_ROWS], "pending": log.pending, "generation": log.generation}

    def _event(self, request: Request) -> Answer:
        log = self._log(self._run(request), request)
        return detail.detail(log, self._row(log, request))

    def _row(self, log: EventLog, request: Request) -> int:
        n = request.get("n")
        if n is None and type(request.get("event")) is int:  # by its id, as a decision cites it
            n = log.row_of(request["event"])
            if n is None:
                raise ConfigError(f"event: no event of this step has the id {request['event']}")
        if type(n) is not int or not 0 <= n < len(log):
            raise ConfigError(f"n: {n!r} is no row of this step's trajectory; expected a number from 0 to {len(log) - 1}")
        return n

    def _text(self, request: Request) -> Answer:
        log = self._log(self._run(request), request)
        n, field, offset = self._row(log, request), request.get("field"), _whole(request, "offset", 0, 0, 2**62)
        whole = detail.text(log, n, field) if isinstance(field, str) else None
        if whole is None:
            raise ConfigError(f"field: {field!r} names no text of this event; expected a path such as 'response'")
        end = offset + TEXT
        return {"text": whole[offset:end], "offset": offset, "total": len(whole), "next": end if end < len(whole) else None}


def _whole(request: Request, key: str, default: int, low: int, high: int) -> int:
    value = request.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{key}: {value!r}; expected a whole number from {low} to {high}")
    return value
