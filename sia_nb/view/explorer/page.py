"""A run as one HTML file that needs no server, kernel or network: a report to read, with the explorer in it.

``python -m sia_nb report RUN`` writes it; a notebook's explorer carries it for where no kernel is. The page holds what
``model.Explorer`` answers for the run (every step, decision, scaffold, rollout and ledger line, and the first events of
each trajectory), and may load nothing from elsewhere: its policy forbids it, and lets only this page's own script run, so
that no text of a model can. Figures' data are those of the paper's Figures 2(b) and 4(b).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import jinja2

from ...errors import SiaError
from ...store import Run, find_run, results_dir, write_atomic
from ..collect import COLUMNS, STEP_COLUMNS, Finished, progress_rows, step_rows
from . import assets, files
from .describe import clean
from .detail import detail
from .events import EventLog
from .model import Explorer

EVENTS = 5_000  # of the run, shared among its steps
TEXT = 20_000  # characters of one text
PAIRS = 12  # steps up to which each is compared with every other beforehand; of more, neighbours
MOST_ROLLOUTS = 2_000  # of a weight update
WINDOW = 500  # rows asked for at once
POOLED = 60  # characters from which a text is kept once and referred to
TABS = ("decision", "scaffold", "trajectory", "rollouts", "compare", "ledger")
MARK = "\x01"  # begins a reference to a kept text


def page(run: Run | str | Path, path: Path | None = None, *, events: int = EVENTS) -> Path:
    """Write the report of a run; returns the path.

    Args:
        run: the run, its folder or its name.
        path: the file to write; None: results/reports/<run>.html.
        events: how many events of its trajectories to take along, shared among the steps.

    Raises:
        StoreError: no such run, or the file cannot be written. A run that is unfinished, or damaged in parts, is shown as
            far as it goes, and the page says what is missing.
    """
    run = run if isinstance(run, Run) else find_run(str(run))
    path = Path(path) if path else results_dir() / "reports" / f"{run.path.name}.html"
    write_atomic(path, html_of(run, events=events))
    return path


def html_of(run: Run, *, events: int = EVENTS, first: dict[str, Any] | None = None, report: bool = True) -> str:
    """The page as text; with ``report`` false only the explorer. ``first`` may name the ``g`` and ``tab`` to begin with."""
    packed = pack(run, events)
    packed["first"] = first or {"tab": "decision"}
    script = assets.page_script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(packed, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    environment = jinja2.Environment(loader=jinja2.PackageLoader(__package__, "front"), autoescape=True, trim_blocks=True)
    return environment.get_template("page.html.jinja").render(
        title=run.path.name, style=assets.style(), script=script, digest=digest, data=data,
        report=_report(run) if report else None,
    )  # fmt: skip


def frame(run: Run, *, events: int, first: dict[str, Any] | None = None, height: int = 1100) -> str:
    """The explorer of a run as an HTML element of its own, for a notebook's output."""
    text = html.escape(html_of(run, events=events, first=first, report=False), quote=False).replace("'", "&#39;")
    allowed = "allow-scripts allow-downloads allow-popups"
    return f"<iframe sandbox='{allowed}' style='width:100%;height:{height}px;border:0' title='run explorer' srcdoc='{text}'></iframe>"


# -- what the explorer answers, packed --------------------------------------------------------------------


def pack(run: Run, events: int) -> dict[str, Any]:
    """The answers about one run by request (``steps/<run>``, ``event/<run>/<g>/<n>`` …), each long text kept once."""
    explorer, name = Explorer([run.path]), run.path.name
    pool: dict[str, int] = {}
    answers: dict[str, Any] = {}

    def keep(*key: Any, **more: Any) -> dict[str, Any]:
        names = ("do", "run", "g", "n")
        answer = explorer.answer(dict(zip(names, key, strict=False)) | more)
        answers["/".join(map(str, key))] = _packed(answer, pool)
        return answer

    keep("runs")
    steps = [s["g"] for s in keep("steps", name).get("steps", [])]
    keep("ledger", name)
    for g in steps:
        keep("decision", name, g)
        keep("scaffold", name, g, to="parent")
        answers[f"rollouts/{name}/{g}"] = _packed(_all(explorer, MOST_ROLLOUTS, do="rollouts", run=name, g=g, sort="id"), pool)
        table = _all(explorer, events // len(steps), do="events", run=name, g=g)
        answers[f"events/{name}/{g}"] = _packed(table, pool)
        for n, event in _details(run, g, table.get("rows", [])):
            answers[f"event/{name}/{g}/{n}"] = _packed(event, pool)
    for left, right in _pairs(steps):
        sides = {"left": {"run": name, "g": left}, "right": {"run": name, "g": right}}
        answer = explorer.answer({"do": "compare", **sides})
        answer.pop("scaffold", None)  # the page has both sources, and finds the difference itself
        answers[f"compare/{name}/{left}/{right}"] = _packed(answer, pool)
    return {"strings": list(pool), "answers": answers}


def _all(explorer: Explorer, most: int, **request: Any) -> dict[str, Any]:
    """The first ``most`` rows of a request that is answered page by page, in one answer; ``held`` says how many they are."""
    rows: list[dict[str, Any]] = []
    while True:
        answer = explorer.answer(request | {"offset": len(rows), "limit": min(WINDOW, most - len(rows))})
        if "error" in answer:
            return answer
        rows += answer["rows"]
        if not answer["rows"] or len(rows) >= min(most, answer["matched"]):
            return answer | {"rows": rows, "held": len(rows)}


def _details(run: Run, g: int, rows: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, what ``event`` answers) of these rows of one trajectory, which is opened once."""
    if not rows:
        return
    path = files.trajectory_path(run, g)
    log = EventLog(path, whole=path.name == files.TRAJECTORY)
    try:
        for n in (row["n"] for row in rows):
            yield n, clean(detail(log, n))
    finally:
        log.close()


def _pairs(steps: list[int]) -> Iterable[tuple[int, int]]:
    """Each pair of a short run's steps, the earlier first; of a long run's, the neighbours."""
    return combinations(steps, 2) if len(steps) <= PAIRS else pairwise(steps)


def _packed(value: Any, pool: dict[str, int]) -> Any:
    if isinstance(value, str):
        if len(value) > TEXT:
            value = f"{value[:TEXT]}\n… cut here: this page keeps the first {TEXT:,} of {len(value):,} characters"
        if len(value) < POOLED and not value.startswith(MARK):
            return value
        return f"{MARK}{pool.setdefault(value, len(pool))}"
    if isinstance(value, dict):
        return {k: _packed(v, pool) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(v, pool) for v in value]
    return value


# -- what stands around it --------------------------------------------------------------------------------


def _report(run: Run) -> dict[str, Any]:
    """What the page says in plain HTML, for reading without the explorer and for printing."""
    explorer, name = Explorer([run.path]), run.path.name
    about = next(iter(explorer.answer({"do": "runs"}).get("runs", [])), {})
    answer = explorer.answer({"do": "steps", "run": name})
    steps = answer.get("steps", [])
    decisions = [(s["g"], explorer.answer({"do": "decision", "run": name, "g": s["g"]})) for s in steps]
    config = {k: v for k, v in run.config.model_dump().items() if v not in ("", None)}
    return {
        "about": about,
        "answer": answer,
        "steps": steps,
        "sealed": _sealed(answer.get("report")),
        "decisions": [(g, d["decision"], d.get("improvement")) for g, d in decisions if d.get("decision")],
        "ledger": explorer.answer({"do": "ledger", "run": name}),
        "figures": _figures(run, answer.get("report")),
        "info": run.info,
        "config": config,
    }


def _sealed(report: dict[str, Any] | None) -> dict[str, Any] | None:
    if not report:
        return None
    names = list(dict.fromkeys(k for r in report["arms"].values() for k in r["test"]))
    return {"metric": report["metric"], "names": names, "arms": report["arms"]}


def _figures(run: Run, report: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Title, columns, rows and CSV of what the run contributes to Figures 2(b) and 4(b); ``error`` where a file is damaged."""
    found = [Finished(run, report or {}, "ours")]
    tables = (
        ("Figure 2(b): the levers pulled", "steps", STEP_COLUMNS, step_rows),
        ("Figure 4(b): the best dev score by verifier calls", "progress", COLUMNS, progress_rows),
    )
    out = []
    for title, short, columns, rows_of in tables:
        try:
            rows = rows_of(found)
        except (SiaError, ValueError, LookupError, TypeError) as error:
            out.append({"title": title, "error": str(error), "columns": [], "rows": []})
            continue
        used = [c for c in columns if any(r.get(c, "") not in ("", None) for r in rows)]
        out.append(
            {"title": title, "file": f"{run.path.name}_{short}.csv", "columns": used, "rows": rows, "csv": _csv(used, rows)}
        )
    return out


def _csv(columns: list[str], rows: list[dict[str, Any]]) -> str:
    """Rows as a ``data:`` address of a CSV file."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(buffer.getvalue().encode()).decode()
