"""What each lever changed, counted and linked (RQ2): tables and a figure made of ``mechanism``'s rows.

Each table is written as CSV, a row a thing, and as Markdown, counted; where a row has events, the Markdown links the
trajectory that holds them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..store import results_dir, write_atomic
from . import figures, markdown, mechanism
from .collect import Finished, write_csv
from .mechanism import CLASSES, UNNAMED
from .panels import LEVERS
from .paper import ARM_NAMES, ARMS

KINDS = ("parameter", "structure", "post-processing")
KEYS = {  # file's name → the table's name and columns
    "edits": ("What the harness updates changed", mechanism.EDIT_COLUMNS),
    "behaviours": ("What the weight updates taught", mechanism.BEHAVIOUR_COLUMNS),
    "choices": ("What the Feedback-Agent chose, and by which rule", mechanism.CHOICE_COLUMNS),
    "costs": ("What the runs cost", mechanism.COST_COLUMNS),
}
Table = tuple[str, str]  # name, Markdown


def tables(task: str, *, profile: str = "", out: Path | None = None, also: Path | None = None) -> Iterator[Table]:
    """(name, Markdown) of each table of the task; the CSVs are called edits, behaviours, choices and costs of the task.

    Links are relative to the working directory in what is returned, and to the file in what is written.

    Raises:
        StoreError: no finished run and no reference run.
    """
    runs, rows = rows_of(task, profile, also)
    folder = out or results_dir() / "figures"
    paths = {f.run.path.name: f.run.path for f in runs}
    words = (
        lambda base: edits_markdown(rows["edits"], paths, base),
        lambda base: behaviours_markdown(rows["behaviours"], paths, base),
        lambda base: choices_markdown(rows["choices"], paths, base),
        lambda base: costs_markdown(rows["costs"]),
    )
    for (key, (name, columns)), make in zip(KEYS.items(), words, strict=True):
        write_csv(folder / f"{key}_{task}.csv", rows[key], columns)
        write_atomic(folder / f"{key}_{task}.md", make(folder) + "\n")
        yield name, make(Path.cwd())


def rows_of(task: str, profile: str = "", also: Path | None = None) -> tuple[list[Finished], dict[str, list[dict[str, Any]]]]:
    """The runs, and ``mechanism``'s rows of each kind."""
    ours, reference = figures.gather(task, profile, also)
    runs = ours or reference
    return runs, _rows(task, tuple(runs))


@lru_cache(4)
def _rows(task: str, runs: tuple[Finished, ...]) -> dict[str, list[dict[str, Any]]]:
    from ..tasks import get_task

    kinds = {f.name: f.kind for f in get_task(task).space.fields}
    return {
        "edits": mechanism.edits(runs), "behaviours": mechanism.behaviours(runs, kinds),
        "choices": mechanism.choices(runs), "costs": mechanism.costs(runs),
    }  # fmt: skip


# -- Markdown ----------------------------------------------------------------------------------------


def edits_markdown(rows: list[dict[str, Any]], paths: dict[str, Path], base: Path) -> str:
    """Classes of edits by arm, counted, and each edit with the steps that made it."""
    if not rows:
        return "No harness update was made."
    arms = [a for a in ARMS if any(r["arm"] == a for r in rows)]
    classes = [c for c in (*CLASSES, UNNAMED) if any(r["class_by_name"] == c for r in rows)]
    lines = markdown.head(["class", *(f"{ARM_NAMES[a]}: edits, kept" for a in arms), "edits, times made", "the diff agrees"])
    for c in classes:
        mine = [r for r in rows if r["class_by_name"] == c]
        counts = [f"{len(told)}, {sum(r['kept'] for r in told)}" for told in ([r for r in mine if r["arm"] == a] for a in arms)]
        names = ", ".join(f"{name} {n}" for name, n in Counter(r["edit"] for r in mine).most_common())
        agree = sum(c in r["classes_by_diff"].split(", ") for r in mine)
        lines.append(markdown.line([c, *counts, names, f"{agree} of {len(mine)}"]))
    lines += ["", *markdown.head(["edit", "run", "step", "dev gain", "kept", "parts changed", "evidence"])]
    seen = set()
    for r in rows:  # the first time that a run makes an edit
        if (r["run"], r["edit"]) not in seen:
            seen.add((r["run"], r["edit"]))
            kept = "yes" if r["kept"] else "rolled back"
            parts = r["parts_changed"] + (f", new: {r['functions_added']}" if r["functions_added"] else "")
            cells = [r["edit"], r["run"], str(r["step"]), f"{r['gain']:+.4f}", kept, parts]
            lines.append(
                markdown.line(
                    [*cells, _link(paths, r["run"], r["decided_after"], "trajectory.jsonl", _events(r["events"]), base)]
                )
            )
    return "\n".join(lines)


def behaviours_markdown(rows: list[dict[str, Any]], paths: dict[str, Path], base: Path) -> str:
    """Weight updates by arm, what they taught counted, then each behaviour with the rollouts that show it."""
    if not rows:
        return "No weight update was made."
    head = ["arm", "updates", "answers readable", "mean score", *(f"fields: {k}" for k in KINDS), "no shift", "too few to tell"]
    lines, tested = markdown.head(head), 0
    for arm in [a for a in ARMS if any(r["arm"] == a for r in rows)]:
        mine = [r for r in rows if r["arm"] == arm]
        updates = {(r["run"], r["step"]): r["fields_tested"] for r in mine}
        tested += sum(updates.values())
        n = lambda behaviour, mine=mine: sum(r["behaviour"] == behaviour for r in mine)
        fields = [sum(r["behaviour"] == "field" and r["kind"] == k for r in mine) for k in KINDS]
        counts = [len(updates), n("readable"), n("score"), *fields, n("no shift"), n("too few to tell")]
        lines.append(markdown.line([ARM_NAMES[arm], *map(str, counts)]))
    shifts = sum(r["behaviour"] in ("field", "readable") for r in rows)
    lines += [
        "",
        f"{shifts} shifts beyond chance of {tested} distributions compared; at 5 % each, {0.05 * tested:.1f} would be found where nothing moved.",
        "",
        *markdown.head(["run", "step", "algorithm", "kept", "behaviour", "before", "after", "rollouts"]),
    ]
    for r in rows:
        if r["behaviour"] in ("no shift", "too few to tell"):
            continue
        told = {"field": f"{r.get('field')} = {r.get('value')}", "readable": "answers that are solutions"}
        what = told.get(r["behaviour"], "mean score")
        kept = "yes" if r["kept"] else "rolled back"
        link = _link(paths, r["run"], r["step"], "weights/rollouts.jsonl", f"lines {r['rollouts'].replace(' ', ' and ')}", base)
        lines.append(
            markdown.line([r["run"], str(r["step"]), r["algorithm"], kept, what, f"{r['before']:.3f}", f"{r['after']:.3f}", link])
        )
    return "\n".join(lines)


def choices_markdown(rows: list[dict[str, Any]], paths: dict[str, Path], base: Path) -> str:
    """The interleaving of each run, the algorithms with the rules that chose them, and the updates that were rolled back."""
    if not rows:
        return "No decision was made."
    lines = markdown.head(["run", "levers in order (small: rolled back)", "kept"])
    for run in dict.fromkeys(r["run"] for r in rows):
        mine = [r for r in rows if r["run"] == run]
        letters = [{"harness": "H", "weights": "W"}.get(r["action"], r["action"]) for r in mine]
        shown = " ".join(x if r["kept"] else x.lower() for x, r in zip(letters, mine, strict=True))
        lines.append(markdown.line([run, f"A₁ {shown}", f"{sum(r['kept'] for r in mine)} of {len(mine)}"]))
    lines += ["", *markdown.head(["algorithm", "by the rule", "times", "kept"])]
    trained = [r for r in rows if r["action"] == "weights"]
    pairs = Counter((r["algorithm"], r["rule"]) for r in trained)
    for (algorithm, rule), n in pairs.most_common():
        kept = sum(r["kept"] for r in trained if (r["algorithm"], r["rule"]) == (algorithm, rule))
        lines.append(markdown.line([algorithm, rule or "a language model's own reasons", str(n), str(kept)]))
    turns = Counter((r["action"], r["lever_rule"]) for r in rows if r["lever_rule"] not in ("", "only_lever"))
    if turns:
        lines += ["", *markdown.head(["lever", "its turn by the rule", "times"])]
        lines += [markdown.line([lever, rule, str(n)]) for (lever, rule), n in turns.most_common()]
    back = [r for r in rows if not r["kept"]]
    lines += [
        "",
        f"{len(back)} of {len(rows)} updates were rolled back:",
        "",
        *markdown.head(["run", "step", "lever", "why", "evidence"]),
    ]
    for r in back:
        link = _link(paths, r["run"], r["step"] - 1, "trajectory.jsonl", _events(r["events"]), base)
        lines.append(markdown.line([r["run"], str(r["step"]), r["algorithm"] or r["action"], r["note"], link]))
    return "\n".join(lines)


def costs_markdown(rows: list[dict[str, Any]]) -> str:
    """What a run of each arm spent on each phase, means over its runs."""
    if not rows:
        return "The runs have no ledger."
    lines = markdown.head(["arm", "phase", "times a run", "verifier calls", "tokens", "seconds", "US dollars"])
    for arm in [a for a in ARMS if any(r["arm"] == a for r in rows)]:
        mine = [r for r in rows if r["arm"] == arm]
        runs = len({r["run"] for r in mine})
        mean = lambda phase, key, mine=mine, runs=runs: sum(r[key] for r in mine if phase in ("", r["phase"])) / runs
        for phase in [*dict.fromkeys(r["phase"] for r in mine), ""]:
            cells = [
                f"{mean(phase, 'times'):.1f}" if phase else "",
                f"{mean(phase, 'verifier_calls'):.0f}",
                f"{mean(phase, 'tokens'):,.0f}",
            ]
            cells += [f"{mean(phase, 'seconds'):.1f}", f"{mean(phase, 'dollars'):.2f}"]
            lines.append(markdown.line([ARM_NAMES[arm], phase or f"**all, mean of {runs}**", *cells]))
    return "\n".join([*lines, "", f"Measured on {'; '.join(sorted({r['hardware'] for r in rows}))}."])


def _events(told: str) -> str:
    ids = told.split()
    return f"events {', '.join(ids[:6])}{' …' if len(ids) > 6 else ''}" if ids else "trajectory"


def _link(paths: dict[str, Path], run: str, step: int, name: str, words: str, base: Path) -> str:
    path = paths[run] / f"step_{step:03d}" / name
    return f"[{words}]({Path(os.path.relpath(path, base.resolve())).as_posix().replace(' ', '%20')})"


# -- figure ------------------------------------------------------------------------------------------

COLUMNS = ["task", "lever", "group", "name", "kept", "rolled_back", "source", "runs"]


def figure_levers(task: str, *, profile: str = "", out: Path | None = None, also: Path | None = None) -> dict[str, Path]:
    """What each lever changed: (a) edits of the scaffold by class, (b) fields whose values the weights shifted.

    Raises:
        StoreError: no finished run and no reference run.
    """
    runs, rows = rows_of(task, profile, also)
    data = figure_rows(rows)
    told = {"task": task, "source": runs[0].source, "runs": len(runs)}
    plt = figures.pyplot()
    with plt.style.context(figures.STYLE):
        fig, axes = plt.subplots(1, 2, figsize=(9.8, 3.4), gridspec_kw={"wspace": 0.45})
        titles = (f"(a) {figures.title_of(task, runs)}: edits", "(b) what the weights taught")
        labels = ("edits of the scaffold", "weight updates, by what they moved beyond chance")
        for ax, lever, title, label in zip(axes, ("harness", "weights"), titles, labels, strict=True):
            counts_from_data(ax, [r for r in data if r["lever"] == lever], colour=LEVERS[lever], title=title, xlabel=label)
        figures.provenance(fig, runs)
        return figures.save(fig, f"levers_{task}", [told | r for r in data], out, COLUMNS)


def figure_rows(rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """{"lever", "group", "name", "kept", "rolled_back"}: a class of edits, or a behaviour, and how often."""
    out = []
    for c in (*CLASSES, UNNAMED):
        mine = [r["kept"] for r in rows["edits"] if r["class_by_name"] == c]
        if mine:
            out.append({"lever": "harness", "group": "class", "name": c, "kept": sum(mine), "rolled_back": len(mine) - sum(mine)})
    names: dict[tuple[str, str], list[bool]] = {}
    for r in rows["behaviours"]:
        if r["behaviour"] == "field":
            names.setdefault((r["kind"], f"{r['field']} ({r['kind']})"), []).append(r["kept"])
        elif r["behaviour"] == "score":
            names.setdefault(("", f"mean score {r['value']}"), []).append(r["kept"])
        elif r["behaviour"] == "readable":
            names.setdefault(("", "share of readable answers"), []).append(r["kept"])
        else:
            names.setdefault(("~", r["behaviour"]), []).append(r["kept"])
    for (group, name), mine in sorted(names.items(), key=lambda kv: (kv[0][0], -len(kv[1]), kv[0][1])):
        out.append({"lever": "weights", "group": group, "name": name, "kept": sum(mine), "rolled_back": len(mine) - sum(mine)})
    return out


def counts_from_data(ax: Any, rows: list[dict[str, Any]], *, colour: str, title: str, xlabel: str) -> None:
    """Horizontal bars: filled what was kept, hatched what was rolled back."""
    if not rows:
        ax.set(title=title, xticks=[], yticks=[])
        ax.text(0.5, 0.5, "none in these runs", ha="center", transform=ax.transAxes, color="#777777")
        return
    y = range(len(rows))[::-1]
    kept, back = [r["kept"] for r in rows], [r["rolled_back"] for r in rows]
    ax.barh(y, kept, color=colour, height=0.7, label="kept")
    ax.barh(
        y, back, left=kept, facecolor="white", edgecolor=colour, hatch="////", height=0.66, linewidth=0.8, label="rolled back"
    )
    most = max(a + b for a, b in zip(kept, back, strict=True))
    for place, a, b in zip(y, kept, back, strict=True):
        ax.text(a + b + 0.015 * most, place, str(a + b), va="center", fontsize=7.5)
    ax.set_yticks(list(y), [r["name"] for r in rows], fontsize=7.5)
    ax.set(title=title, xlabel=xlabel, xlim=(0, 1.12 * most))
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), fontsize=7.5, ncols=2)
