"""Figure 2(a), two levers and one loop, and Figure 3, the architecture: boxes and arrows laid out from ``structure``.

Figure 3 has a row of phases, above it what comes from outside, below it what the phases leave in the run folder. A box stands
at the mean place of the phases that it is joined to, moved until it has room: no place is typed in. The counts are those
of the runs in hand.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ..store import read_json, read_lines
from . import collect, figures, structure
from .collect import Finished
from .panels import LEVERS

WORDS = {  # symbol, as the paper writes it, and what it is
    "U": (r"$\mathcal{U}$", "task specification"),
    "R": (r"$\mathcal{R}$", "reference\nimplementation"),
    "V": (r"$V$", "verifier"),
    "D": (r"$\mathcal{D}$", "train and dev"),
    "sealed": ("test", "opened once a run"),
    "A": (r"$A_g$", "scaffold/agent.py"),
    "tau": (r"$\tau_g$", "trajectory.jsonl"),
    "E": (r"$\mathcal{E}_g$", "metrics.json"),
    "decision": ("H or W", "decision.json\nimprovement.md"),
    "theta": (r"$\theta$", "weights/\nLoRA adapter"),
    "report": ("result", "report.json"),
}
MAUVE, TEAL, AMBER, GREY = "#CC79A7", LEVERS["harness"], LEVERS["weights"], "#666666"
ROLE_COLOURS = {"decision": MAUVE, "train": AMBER, "init": TEAL}
NAMED = {"harness": "harness", "weights": "weight"}
COLUMNS_2A = ["lever", "kind", "name", "count", "kept", "runs"]
COLUMNS_3 = ["from", "to", "kind", "phase", "notebook", "function", "times", "seconds_median"]


def used_runs(tasks: list[str] | None, profile: str, also: Path | None) -> list[Finished]:
    """The runs that the other figures of these tasks are drawn from."""
    out = []
    for task in tasks or collect.tasks_with_runs(profile=profile, also=also):
        ours, reference = figures.gather(task, profile, also)
        out += ours or reference
    return out


# -- Figure 2(a) -------------------------------------------------------------------------------------


def figure_2a(
    tasks: list[str] | None = None, *, profile: str = "", out: Path | None = None, also: Path | None = None
) -> dict[str, Path]:
    """Two levers, one loop: what each of them turned in the runs, and how often the Feedback-Agent pulled it.

    Raises:
        StoreError: no finished run and no reference run.
    """
    used = used_runs(tasks, profile, also)
    rows = lever_rows(used)
    plt = figures.pyplot()
    with plt.style.context(figures.STYLE):
        fig, ax = plt.subplots(figsize=(9.0, 4.4), gridspec_kw={"left": 0.0, "right": 1.0, "bottom": 0.0})
        levers_from_data(ax, rows)
        figures.provenance(fig, used)
        return figures.save(fig, "fig2a", rows, out, COLUMNS_2A)


def lever_rows(used: list[Finished]) -> list[dict[str, Any]]:
    """A row for each thing that a lever turned: a scaffold's function, an algorithm; and one for each lever's decisions.

    ``count`` of a function: in how many runs the last incumbent's scaffold has it; ``kept`` says whether A_1 had it already.
    """
    runs, rows = [f.run for f in used], []
    for lever in ("harness", "weights"):
        steps = [(run, g) for run in runs for g in run.executed() if run.origin(g)["action"] == lever]
        kept = sum(bool(run.metrics(g)["accepted"]) for run, g in steps)
        rows.append({"lever": lever, "kind": "updates", "name": lever, "count": len(steps), "kept": kept, "runs": len(runs)})
    first, last = Counter(), Counter()
    for run in runs:
        first.update(structure.functions_of(run.scaffold(1)))
        last.update(structure.functions_of(run.scaffold(run.metrics(run.executed()[-1])["incumbent"])))
    for name, count in last.items():
        rows.append(
            {"lever": "harness", "kind": "function", "name": name, "count": count, "kept": int(name in first), "runs": len(runs)}
        )
    trained = [(run, g) for run in runs for g in run.executed() if run.origin(g)["action"] == "weights"]
    chosen = Counter(run.origin(g)["algorithm"] for run, g in trained)
    kept_by = Counter(run.origin(g)["algorithm"] for run, g in trained if run.metrics(g)["accepted"])
    for name, count in chosen.most_common():
        rows.append(
            {"lever": "weights", "kind": "algorithm", "name": name, "count": count, "kept": kept_by[name], "runs": len(runs)}
        )
    chosen_hyper = [run.step(g) / "weights" / "hyper.json" for run, g in trained]
    ranks = sorted({read_json(path)["rank"] for path in chosen_hyper if path.exists()})
    for policy in sorted({run.config.policy for run in runs}):
        names = f"{policy}, LoRA rank {', '.join(map(str, ranks))}" if ranks else policy
        rows.append({"lever": "weights", "kind": "policy", "name": names, "count": len(trained), "kept": "", "runs": len(runs)})
    return rows


def levers_from_data(ax: Any, rows: list[dict[str, Any]]) -> None:
    """The scaffold's box and the adapter's, the Feedback-Agent between them, an arrow for each lever with its counts."""
    of = lambda lever, kind: [r for r in rows if (r["lever"], r["kind"]) == (lever, kind)]
    ax.set(xlim=(0, 10), ylim=(0, 6), title=" (a) Two levers, one loop")
    ax.set_axis_off()
    runs = rows[0]["runs"]
    old = [r["name"] for r in of("harness", "function") if r["kept"]]
    new = sorted((r for r in of("harness", "function") if not r["kept"]), key=lambda r: (-r["count"], r["name"]))
    lines = [f"$A_1$: {', '.join(old)}", f"added (in so many of the {runs} last scaffolds):"]
    lines += [", ".join(f"{r['name']} {r['count']}" for r in new[n : n + 3]) for n in range(0, min(len(new), 15), 3)]
    told = [*(r["name"] for r in of("weights", "policy")), "algorithm, times chosen (times kept):"]
    told += [f"{r['name']}  {r['count']} ({r['kept']})" for r in of("weights", "algorithm")]
    tall = 0.72 + 0.21 * max(len(lines), len(told))
    for lever, side, head, words in (
        ("harness", -1, "Harness (scaffold)", lines),
        ("weights", 1, r"Weights $\theta$ (LoRA)", told),
    ):
        colour, x, low = LEVERS[lever], 5 + 2.5 * side, 5.7 - tall
        _box(ax, x, 5.7 - tall / 2, 4.7, tall, head, words, colour)
        (row,) = of(lever, "updates")
        _arrow(ax, (5 + 1.65 * side, 0.9), (x, low - 0.03), colour, rad=0.25 * side)
        _arrow(ax, (x - 1.0 * side, low), (5 + 0.6 * side, 1.52), GREY, style=(0, (4, 2)))
        words = f"FB: {lever[0].upper()}\n{NAMED[lever]} update\n{row['count']} times, {row['kept']} kept"
        ax.text(x + 0.25 * side, (low + 0.9) / 2 - 0.1, words, ha="right" if side < 0 else "left", va="center", fontsize=8.5)
    reads = ["reads $A_g$, $\\tau_g$, $\\mathcal{E}_g$ after a step,", f"chooses the lever; {runs} runs"]
    _box(ax, 5.0, 0.9, 3.3, 1.2, "Feedback-Agent", reads, MAUVE)


# -- Figure 3 ----------------------------------------------------------------------------------------


def figure_3(
    tasks: list[str] | None = None, *, profile: str = "", out: Path | None = None, also: Path | None = None
) -> dict[str, Path]:
    """The architecture: the notebooks that the loop runs, what each reads and what it leaves in a run's folder.

    Raises:
        StoreError: no finished run and no reference run, or a source file that cannot be read.
    """
    used = used_runs(tasks, profile, also)
    runs = [f.run for f in used]
    phases = structure.phases_of(runs)
    rows = architecture_rows(phases, _spent(used))
    sandboxes = sorted({str(b) for run in runs for g in run.executed() if (b := run.metrics(g).get("backend"))})
    plt = figures.pyplot()
    with plt.style.context(figures.STYLE):
        fig, ax = plt.subplots(figsize=(11.0, 5.0), gridspec_kw={"left": 0.0, "right": 1.0, "bottom": 0.0})
        architecture_from_data(ax, phases, rows, sandbox=", ".join(sandboxes))
        figures.provenance(fig, used)
        return figures.save(fig, "fig3", rows, out, COLUMNS_3)


def architecture_rows(phases: list[structure.Phase], spent: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row an arrow: a symbol that a phase reads, or one that it writes. ``spent``: mark → seconds of each time it ran."""
    rows = []
    for p in phases:
        seconds = sorted(spent.get(p.mark, []))
        told = {"phase": p.mark, "notebook": p.notebook, "function": p.function, "times": len(seconds)}
        told["seconds_median"] = seconds[len(seconds) // 2] if seconds else ""
        rows += [{"from": s, "to": p.mark, "kind": "reads", **told} for s in p.reads]
        rows += [{"from": p.mark, "to": s, "kind": "writes", **told} for s in p.writes]
    return rows


def _spent(used: list[Finished]) -> dict[str, list[float]]:
    out: dict[str, list[float]] = {}
    for f in used:
        path = f.run.path / "ledger.jsonl"
        for line in read_lines(path) if path.exists() else ():
            if line["what"] == "phase":
                out.setdefault(line["phase"], []).append(line["seconds"])
    return out


def architecture_from_data(ax: Any, phases: list[structure.Phase], rows: list[dict[str, Any]], *, sandbox: str = "") -> None:
    """Phases in a row, inputs above, the run folder's files below; an arrow a row. What the Feedback-Agent's two choices lead
    to is drawn in the levers' colours."""
    pitch, wide, tall = 2.5, 2.15, 1.2
    x_of = {p.mark: n * pitch for n, p in enumerate(phases)}
    symbols = list(dict.fromkeys(r["from"] if r["kind"] == "reads" else r["to"] for r in rows))
    above = _spread({s: _mean_place(s, rows, x_of) for s in symbols if s in structure.INPUTS}, 1.95)
    below = _spread({s: _mean_place(s, rows, x_of) for s in symbols if s not in structure.INPUTS}, 1.95)
    x_all = [*x_of.values(), *above.values(), *below.values()]
    ax.set(
        xlim=(min(x_all) - 1.2, max(x_all) + 1.2),
        ylim=(-3.4, 2.9),
        title=" The phases of the loop and what passes between them, from the code and from the runs",
    )
    ax.set_axis_off()
    for r in rows:
        reads = r["kind"] == "reads"
        symbol, x = (r["from"], x_of[r["to"]]) if reads else (r["to"], x_of[r["from"]])
        mark = r["to"] if reads else r["from"]
        up = symbol in above
        at = above[symbol] if up else below[symbol]
        beside = lambda here, other, half: here + max(-half, min(half, 0.16 * (other - here)))  # arrows leave a box side by side
        there = (beside(at, x, 0.6), 1.57 if up else -1.77)
        edge = (beside(x, at, 0.42 * wide), tall / 2 if up else -tall / 2)
        colour = GREY if reads else {"decision": TEAL if symbol == "A" else MAUVE, "train": AMBER}.get(mark, "black")
        start, end = (there, edge) if reads else (edge, there)
        _arrow(ax, start, end, colour, style="-" if not reads else (0, (4, 2)), width=1.7 if not reads else 0.9)
    for p in phases:
        mine = next((r for r in rows if r["phase"] == p.mark), None)
        times = f"{mine['times']} times, median {mine['seconds_median']:.3g} s" if mine and mine["times"] else ""
        place = [f"in a sandbox ({sandbox})"] if p.mark == "run" and sandbox else []
        _box(ax, x_of[p.mark], 0, wide, tall, p.role, [p.notebook, times, *place], ROLE_COLOURS.get(p.mark, GREY), size=6.6)
    for places, y in ((above, 2.0), (below, -2.2)):
        for symbol, x in places.items():
            sign, words = WORDS.get(symbol, (symbol, ""))
            _box(ax, x, y, 1.75, 0.86, sign, [words], "#999999", size=6.3, face="white")
    left = min(x_all) - 1.1
    for y, words in ((2.6, "environment and inputs: fixed"), (-2.95, "the run folder: what the next phase reads")):
        ax.text(left, y, words, fontsize=7.5, color="#555555", style="italic")
    keys = (("harness update", TEAL), ("weight update", AMBER), ("decision", MAUVE), ("recorded", "black"), ("read", GREY))
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=c, linestyle="--" if w == "read" else "-", linewidth=1.5, label=w) for w, c in keys]
    ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 0.0), ncols=5, fontsize=7.5)


def _mean_place(symbol: str, rows: list[dict[str, Any]], x_of: dict[str, float]) -> float:
    joined = [x_of[r["to"] if r["kind"] == "reads" else r["from"]] for r in rows if symbol in (r["from"], r["to"])]
    return sum(joined) / len(joined)


def _spread(places: dict[str, float], room: float) -> dict[str, float]:
    """The places moved apart until any two are ``room`` from each other, in their order and about their mean."""
    order = sorted(places, key=lambda s: (places[s], s))
    out: dict[str, float] = {}
    for name in order:
        out[name] = max(places[name], max(out.values(), default=-1e9) + room)
    shift = sum(places[s] - out[s] for s in order) / max(len(order), 1)
    return {s: x + shift for s, x in out.items()}


# -- parts -------------------------------------------------------------------------------------------


def _box(
    ax: Any, x: float, y: float, wide: float, tall: float, head: str, lines: list[str], colour: str, *, size: float = 8,
    face: str = "",
) -> None:  # fmt: skip
    """A rounded box with a heading and lines, centred at (x, y)."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import FancyBboxPatch

    pale = face or tuple(1 - 0.15 * (1 - c) for c in to_rgb(colour))
    corner = (x - wide / 2, y - tall / 2)
    shape = {"boxstyle": "round,pad=0,rounding_size=0.12", "facecolor": pale, "edgecolor": colour, "linewidth": 1.3}
    ax.add_patch(FancyBboxPatch(corner, wide, tall, zorder=3, **shape))
    lines = [line for line in lines if line]
    text = {"ha": "center", "zorder": 4}
    ax.text(x, y + tall / 2 - 0.09, head, va="top", fontsize=size + 1.6, weight="bold", **text)
    ax.text(x, y + tall / 2 - 0.42, "\n".join(lines), va="top", fontsize=size, linespacing=1.25, **text)


def _arrow(ax: Any, start: tuple, end: tuple, colour: str, *, rad: float = 0.0, style: Any = "-", width: float = 1.4) -> None:
    look = {"arrowstyle": "-|>", "color": colour, "linestyle": style, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops={**look, "connectionstyle": f"arc3,rad={rad}", "mutation_scale": 9}, zorder=2)
