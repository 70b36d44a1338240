"""The explorer without its looks: a request as a JSON object in, an answer as a JSON object out.

    {"do": "runs"}                                  the run folders and how they stand
    {"do": "steps", run}                            a run's steps: lever, score with noise, fate, cost
    {"do": "decision", run, g}                      F's choice after step g, and the events it cites
    {"do": "scaffold", run, g, to}                  A_g beside its parent's, or that of step ``to``
    {"do": "events", run, g, …, offset, limit}      a page of a step's trajectory, filtered and sorted as ``EventLog.select``
    {"do": "event", run, g, n}                      one event in full, with those that belong to it; ``event`` (its id) in place of n
    {"do": "text", run, g, n, field, offset}        more of a text that was cut
    {"do": "rollouts", run, g, sort, when}          the rollouts of a weight update
    {"do": "ledger", run}                           what each phase spent
    {"do": "compare", left: {run, g}, right: …}     two steps, or two runs (their incumbents' steps) where there is no g
    {"do": "refresh", run}                          whether anything changed since this was last asked
    {"do": "notes", run}                            the notes on a run
    {"do": "save", run, g, n, note, tags}           keep a note, beside the run folder

A mistake of the user's, a damaged file and a run that is gone are answered by {"error": …}, never by an exception. Answers
hold model text as it is: whoever shows it must show it as text. It may import this folder, ``store``, ``trajectory`` and
``view``'s plain functions; ``widget``, ``page`` and the tests use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ...errors import ConfigError, SiaError, StoreError, nearest
from ...store import Run
from ...trajectory import FORMAT
from . import compare, detail, files, notes, rollouts, runs
from .describe import TEXT, clean
from .events import EventLog
from .workspace import Workspace

PAGE = 200  # rows of a page where the request does not say
MOST_ROWS = 2_000  # rows of a page at most
FILTERS = ("kinds", "text", "instance", "failure", "failed", "reward", "sort", "descending")
BIG = 2**62

Request = dict[str, Any]
Answer = dict[str, Any]


class Explorer:
    """Answers requests about run folders.

    Args:
        run_folders: the folders; None: all under results/runs and results/reference, looked for anew at each ``runs``.
    """

    def __init__(self, run_folders: Iterable[Path] | None = None):
        self._shown = Workspace(run_folders)
        self._seen: dict[str, tuple] = {}  # run → what ``refresh`` last saw of it
        self._requests: dict[str, Callable[[Request], Answer]] = {
            "runs": self._runs, "steps": self._steps, "decision": self._decision, "scaffold": self._scaffold,
            "events": self._events, "event": self._event, "text": self._text, "rollouts": self._rollouts,
            "ledger": self._ledger, "compare": self._compare, "refresh": self._refresh, "notes": self._notes, "save": self._save,
        }  # fmt: skip

    def answer(self, request: Request) -> Answer:
        """The answer to one request; {"error": message} where it cannot be given."""
        try:
            if not isinstance(request, dict):
                raise ConfigError(f"request: {str(request)[:60]!r}; expected a JSON object such as {{'do': 'runs'}}")
            do = request.get("do")
            if not isinstance(do, str) or do not in self._requests:
                known = ", ".join(self._requests)
                raise ConfigError(f"do: {do!r} is no request; expected one of {known}.{nearest(str(do), self._requests)}")
            return clean(self._requests[do](request))
        except SiaError as error:
            return clean({"error": str(error)})
        except OSError as error:
            return clean(
                {"error": f"{error.filename or 'a file of the run'} cannot be read: {error.strerror}. Check the folder."}
            )

    # -- a run -----------------------------------------------------------------------------------------

    def _runs(self, request: Request) -> Answer:
        self._shown.find()
        return {"runs": [runs.describe(name, folder) for name, folder in self._shown.folders.items()]}

    def _run(self, request: Request) -> Run:
        return self._shown.run(request.get("run"))

    def _run_and_step(self, request: Request) -> tuple[Run, int]:
        run = self._run(request)
        return run, self._shown.step(run, request.get("g"))

    def _steps(self, request: Request) -> Answer:
        run = self._run(request)
        told = runs.steps(run)
        told["damaged"] += self._shown.damage(run)
        report: dict[str, Any] | None = None
        try:
            report = runs.report(run)
        except StoreError as error:
            told["damaged"].append({"g": None, "message": str(error)})
        told |= {"report": report, "live": files.live(run), "planned": run.config.steps}
        return told | {"budget": {k: getattr(run.config, k) for k in ("verifier_calls", "tokens", "seconds")}}

    def _ledger(self, request: Request) -> Answer:
        return runs.ledger(self._run(request))

    def _refresh(self, request: Request) -> Answer:
        run = self._run(request)
        now, key = files.fingerprint(run), str(run.path)
        before, self._seen[key] = self._seen.get(key), now
        counted = [files.count_lines(files.trajectory_path(run, g)) for g in files.numbered(run)]
        told = {"changed": now != before, "steps": len(counted), "events": sum(counted), "live": files.live(run)}
        try:
            return told | {"progress": files.table(run.path / ".progress.json") or None}
        except StoreError:
            return told | {"progress": None}

    # -- a step ----------------------------------------------------------------------------------------

    def _decision(self, request: Request) -> Answer:
        run, g = self._run_and_step(request)
        return runs.decision(run, g, self._shown.log_if_any(run, g))

    def _scaffold(self, request: Request) -> Answer:
        run, g = self._run_and_step(request)
        to = request.get("to")
        to = None if to in (None, "parent") else self._shown.step(run, to, "to")
        return compare.scaffold(run, g, to)

    def _rollouts(self, request: Request) -> Answer:
        run, g = self._run_and_step(request)
        offset, limit = _whole(request, "offset", 0, BIG), _whole(request, "limit", MOST_ROWS, MOST_ROWS)
        return rollouts.rollouts(run, g, request.get("sort", "reward"), request.get("when", "all"), offset, limit)

    def _compare(self, request: Request) -> Answer:
        sides = [self._side(request, name) for name in ("left", "right")]
        (left, g, one), (right, h, other) = [(side["run"], side["g"], side["log"]) for side in sides]
        told = [compare.metrics(s["run"], s["g"], s["log"], s["whole"]) for s in sides]
        sources = [files.text(run.step(step) / "scaffold" / "agent.py") for run, step in ((left, g), (right, h))]
        unnamed = [run.config.instance or run.config.task for run in (left, right)]
        found = [compare.instances(log, name) for log, name in zip((one, other), unnamed, strict=True)]
        answer = {"metrics": compare.paired(*told), "instances": compare.paired(*found)}
        return answer | {"scaffold": compare.side_by_side(*sources), "left": {"g": g}, "right": {"g": h}}

    def _side(self, request: Request, name: str) -> dict[str, Any]:
        """One side of a comparison; of a whole run its incumbent's step is compared."""
        side = request.get(name)
        if not isinstance(side, dict):
            raise ConfigError(f"{name}: {side!r}; expected an object such as {{'run': NAME, 'g': 3}}")
        run = self._run(side)
        g, known = side.get("g"), files.numbered(run)
        whole = g is None
        if whole:
            if not known:
                raise ConfigError(f"{name}: {run.path.name} has no step yet; nothing can be compared")
            done = [h for h in known if files.executed(run, h)]
            g = runs.incumbent(run, done[-1]) if done else known[0]
        g = self._shown.step(run, g, f"{name}.g")
        return {"run": run, "g": g, "whole": whole, "log": self._shown.log_if_any(run, g)}

    # -- events ----------------------------------------------------------------------------------------

    def _events(self, request: Request) -> Answer:
        run, g = self._run_and_step(request)
        log = self._shown.log(run, g)
        filters = {name: request[name] for name in FILTERS if request.get(name) is not None}
        offset, limit = _whole(request, "offset", 0, BIG), _whole(request, "limit", PAGE, MOST_ROWS)
        numbers = self._shown.chosen(run, g, log, filters)
        answer = {
            "total": len(log),
            "matched": len(numbers),
            "offset": offset,
            "rows": log.rows(numbers[offset : offset + limit]),
        }
        answer |= {f"{word}s": log.counts(word) for word in ("kind", "failure", "instance")}
        answer |= {"damaged": log.damaged[:MOST_ROWS], "pending": log.pending, "generation": log.generation}
        return answer | {"note": _format_note(log)}

    def _event(self, request: Request) -> Answer:
        log = self._shown.log(*self._run_and_step(request))
        n = _row(log, request)
        about, told = (request["g"], log.event(n)["id"]), {"note": "", "tags": []}
        try:
            kept = notes.read(self._shown.folder(request["run"]))
            mine = next((note for note in kept if (note.get("g"), note.get("event")) == about), {})
            told |= {key: mine[key] for key in told if key in mine}
        except StoreError as error:
            told["notes_error"] = str(error)
        return detail.detail(log, n) | told

    def _text(self, request: Request) -> Answer:
        log = self._shown.log(*self._run_and_step(request))
        n, field, offset = _row(log, request), request.get("field"), _whole(request, "offset", 0, BIG)
        whole = detail.text(log, n, field) if isinstance(field, str) else None
        if whole is None:
            raise ConfigError(f"field: {field!r} names no text of this event; expected a path such as 'response'")
        end = offset + TEXT
        return {"text": whole[offset:end], "offset": offset, "total": len(whole), "next": end if end < len(whole) else None}

    # -- notes -----------------------------------------------------------------------------------------

    def _notes(self, request: Request) -> Answer:
        self._run(request)
        return {"notes": notes.read(self._shown.folder(request["run"]))}

    def _save(self, request: Request) -> Answer:
        run = self._run(request)
        about: dict[str, Any] = {"g": None, "n": None, "event": None, "kind": ""}
        if request.get("g") is not None:
            about["g"] = self._shown.step(run, request["g"])
            if request.get("n") is not None or request.get("event") is not None:
                log = self._shown.log(run, about["g"])
                n = _row(log, request)
                event = log.event(n)
                about |= {"n": n, "event": event["id"], "kind": event["kind"]}
        return notes.save(self._shown.folder(request["run"]), about, request.get("note", ""), request.get("tags", []))


def _whole(request: Request, key: str, default: int, high: int) -> int:
    value = request.get(key, default)
    if type(value) is not int or not 0 <= value <= high:
        raise ConfigError(f"{key}: {value!r}; expected a whole number from 0 to {high}")
    return value


def _row(log: EventLog, request: Request) -> int:
    """The row that a request names, by ``n`` or by ``event``, its id, as a decision cites it."""
    n, event_id = request.get("n"), request.get("event")
    if n is None and type(event_id) is int:
        n = log.row_of(event_id)
        if n is None:
            raise ConfigError(f"event: no event of this step has the id {event_id}")
    if type(n) is not int or not 0 <= n < len(log):
        raise ConfigError(f"n: {n!r} is no row of this step's trajectory; expected a number from 0 to {len(log) - 1}")
    return n


def _format_note(log: EventLog) -> str:
    """What to say of a trajectory that another version wrote; "" of our own."""
    first = log.event(0) if len(log) else None
    written = first["data"].get("format") if first and first["kind"] == "start" else FORMAT
    if written == FORMAT:
        return ""
    return f"written in format {written}; this version reads format {FORMAT}, so some columns may be empty"
