"""Tables 1 and 2 of the paper: which strategies there are and what was measured of them, and how each task is evaluated.

Table 1 has the arms on the sealed test and the ways of proposing solutions of the transfer study, with what they reached;
the other systems of the paper's table stand below as not implemented. Table 2 sets the paper's rows beside ours, which
are read from the tasks' own code and from the runs.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..store import read_json
from . import collect, figures, markdown, transfer
from .paper import ARM_NAMES, ARMS, NAMES, PAPER, SETUP, SYSTEMS

COLUMNS_1 = [
    "strategy", "group", "edits_harness", "edits_weights", "task", "measure", "value", "low", "high", "seeds", "verifier_calls",
    "hardware", "run",
]  # fmt: skip
COLUMNS_2 = [
    "task", "source", "domain", "data", "metric_of_the_loop", "metric", "previous_best", "verifier", "sealed", "budget",
    "arms_and_seeds", "run",
]  # fmt: skip
TRAINED = ("trained", "trained_then_search")  # arms of the transfer study whose weights were changed


def table_1(
    tasks: list[str] | None = None, *, profile: str = "", out: Path | None = None, also: Path | None = None
) -> tuple[str, dict[str, Path]]:
    """Strategies and what each reached: a row an arm, a row a searcher of each transfer study, a row a system of the paper.

    Whether an arm of ours edits the harness or the weights is counted from its runs. Returns Markdown and the files.

    Raises:
        StoreError: a task has no finished run and no reference run.
    """
    tasks = tasks or collect.tasks_with_runs(profile=profile, also=also)
    used = {}
    for task in tasks:
        ours, reference = figures.gather(task, profile, also)
        used[task] = ours or reference
    studies = [read_json(path) for path in transfer.studies() if not transfer.trouble(path)]
    heads = [f"{NAMES[t]}, {PAPER[t]['metric']}" for t in tasks]
    heads += [f"{s['plan']['name']}: best after {s['grid'][-1]} calls" for s in studies]
    lines = markdown.head(["strategy", "edits harness", "edits weights", *heads])
    rows: list[dict[str, Any]] = []
    for arm in ARMS:
        flags, cells = _edits(arm, used), []
        for task in tasks:
            found = collect.arm_values(used[task], arm, PAPER[task]["metric"])
            value = collect.interval([v for _, v in found]) if found else None
            cells.append(markdown.interval(value))
            if value:
                rows.append(_arm_row(arm, flags, task, found, value))
        lines.append(markdown.line([f"{ARM_NAMES[arm]} (this kit)", *flags, *cells, *[""] * len(studies)]))
    for n, study in enumerate(studies):
        summary = {r["arm"]: r for r in transfer.summary_from_data(study) if not r["against"] and r["calls"] == study["grid"][-1]}
        for arm, name in study["arms"].items():
            r, flags = summary[arm], ("No", "Yes" if arm in TRAINED else "No")
            cells = [""] * len(heads)
            cells[len(tasks) + n] = markdown.interval((r["value"], r["low"], r["high"]))
            lines.append(markdown.line([f"{name} (this kit)", *flags, *cells]))
            rows.append(
                {"strategy": name, "group": "searcher", "edits_harness": flags[0], "edits_weights": flags[1], "task": r["task"]}
                | {
                    "measure": f"{study['metric']}, held out, after {r['calls']} calls",
                    "run": f"transfer/{study['plan']['name']}",
                }
                | {k: r[k] for k in ("value", "low", "high", "seeds", "hardware")}
                | {"verifier_calls": r["calls"] + r["verifier_calls_before"]}
            )
    for name, harness, weights in SYSTEMS:
        said = "as the paper says" if name == "SIA" else "not implemented here"
        lines.append(markdown.line([f"{name}: {said}", harness, weights, *[""] * len(heads)]))
        rows.append(
            {"strategy": name, "group": "paper", "edits_harness": harness, "edits_weights": weights, "run": "SIA v1, Table 1"}
        )
    return collect.write_table("table1", "\n".join(lines), rows, COLUMNS_1, out)


def _edits(arm: str, used: dict[str, list]) -> tuple[str, str]:
    """For each lever, how many of its updates the arm's runs kept; "No" where they made none."""
    out = []
    for lever in ("harness", "weights"):
        kept = [
            bool(f.run.metrics(g)["accepted"])
            for runs in used.values()
            for f in runs
            for g in f.run.executed()
            if f.arm == arm and f.run.origin(g)["action"] == lever
        ]
        out.append(f"Yes, {sum(kept)} of {len(kept)} kept" if kept else "No")
    return out[0], out[1]


def _arm_row(arm: str, flags: tuple[str, str], task: str, found: list, value: tuple[float, float, float]) -> dict[str, Any]:
    calls = [f.report["arms"][arm]["verifier_calls"] for f, _ in found]
    return {
        "strategy": ARM_NAMES[arm], "group": "arm", "edits_harness": flags[0], "edits_weights": flags[1], "task": task,
        "measure": f"{PAPER[task]['metric']}, sealed", "value": value[0], "low": value[1], "high": value[2], "seeds": len(found),
        "verifier_calls": sum(calls) / len(calls), "hardware": "; ".join(sorted({f.hardware for f, _ in found})),
        "run": " ".join(f.run.path.name for f, _ in found),
    }  # fmt: skip


def table_2(
    tasks: list[str] | None = None, *, profile: str = "", out: Path | None = None, also: Path | None = None
) -> tuple[str, dict[str, Path]]:
    """How each task is evaluated, the paper's row and ours: domain, data, metrics, previous best, verifier, budget.

    Raises:
        StoreError: a task has no finished run and no reference run.
    """
    from ..tasks import get_task
    from ..tasks.base import find_instance

    rows: list[dict[str, Any]] = []
    for task in tasks or collect.tasks_with_runs(profile=profile, also=also):
        name, domain, data, metric, previous, verifier = SETUP[task.removesuffix("_cuda")]
        common = {"task": task, "domain": domain}
        rows.append(
            common | {"source": "paper", "data": data, "metric": metric, "previous_best": previous, "verifier": verifier}
            | {"run": f"SIA v1, Table 2: {name}"}
        )  # fmt: skip
        ours, reference = figures.gather(task, profile, also)
        used = ours or reference
        here, config = get_task(task), used[0].run.config
        instance = find_instance(here, config.instance)
        sizes = sorted({int(f.report["arms"][f.arm]["test"].get("n", 0)) for f in used})
        sealed = f"{', '.join(map(str, sizes))} cases" if all(sizes) else "opened once a run"
        seeds = {a: len([f for f in used if f.arm == a]) for a in ARMS}
        rows.append(
            common | {"source": used[0].source, "data": f"{instance.name}: {instance.description}", "previous_best": ""}
            | {"metric_of_the_loop": here.metric, "metric": here.report_metric, "verifier": _purpose(here), "sealed": sealed}
            | {"budget": f"{config.steps} steps × {config.verifier_calls} calls, {config.tokens:,} tokens a step"}
            | {"arms_and_seeds": ", ".join(f"{ARM_NAMES[a]} {n}" for a, n in seeds.items() if n)}
            | {"run": " ".join(f.run.path.name for f in used)}
        )  # fmt: skip
    head = ["task", "source", "domain", "data", "loop's metric", "reported metric", "previous best", "verifier", "sealed test"]
    head += ["budget of an arm", "arms and seeds"]
    lines = markdown.head(head)
    for r in rows:
        lines.append(markdown.line([NAMES[r["task"]], *(_cell(r.get(c, "")) for c in COLUMNS_2[1:-1])]))
    return collect.write_table("table2", "\n".join(lines), rows, COLUMNS_2, out)


def _purpose(task: Any) -> str:
    """The first sentence of the verifier module beside the task's; empty for a task that has none there."""
    beside = [Path(sys.modules[cls.__module__].__file__ or "").with_name("verifier.py") for cls in type(task).__mro__[:-1]]
    path = next((p for p in beside if p.is_file()), None)
    if path is None:
        return ""
    try:
        words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    return " ".join(words.split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
