"""The front of two measures: mse_norm against poisson_norm over every solution that the runs tried, on dev.

The points come from the verdicts of the trajectories and from the rollouts of the weight updates. Both Poisson measures
are drawn, the right one and the one whose arguments are swapped (as OpenProblems v1 published it), each with its gate:
MAGIC's own value on the same split, and TTT-Discover's 0.97. A point is filled where it passes the right gate, so the
second panel shows what the published gate lets through.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..store import Run, read_lines
from ..trajectory import Trajectory
from . import figures, peers
from .collect import Finished
from .panels import COLOURS, LABEL, VERMILION
from .paper import ARM_NAMES, ARMS, PUBLISHED_GATE

MEASURES = ("mse_norm", "poisson_norm", "poisson_norm_openproblems")
COLUMNS = [
    "task", "arm", "seed", "step", "origin", "solution_id", *MEASURES, "gate", "passes_right", "passes_published", "reported",
    "front", "source", "hardware", "run",
]  # fmt: skip
MARKERS = {"H": "o", "W": "D", "W+H": "s"}
REACH = 1.0  # how far below its gate a Poisson measure is drawn; what lies further is an arrow at the edge


def figure_front(task: str = "denoising", *, profile: str = "", out: Path | None = None, also: Path | None = None) -> dict:
    """Draw the front of a task's runs; returns the files written, by suffix. Parameters as ``figures.figure_1``.

    Raises:
        StoreError: no finished run and no reference run, or none whose verdicts hold both measures.
    """
    ours, reference = figures.gather(task, profile, also)
    used = ours or reference
    rows = points(used)
    if not rows:
        raise StoreError(f"no verdict of the runs of '{task}' holds {' and '.join(MEASURES)}: there is no front to draw")
    known = [k | {"method": _short(k["method"])} for k in peers.means(used, "dev") if "scaled" not in k["method"]]
    plt = figures.pyplot()
    with plt.style.context(figures.STYLE):
        fig, axes = plt.subplots(1, 2, figsize=(10.2, 4.2), sharey=True, gridspec_kw={"wspace": 0.08})
        front_from_data(axes[0], rows, known, measure="poisson_norm", gates=sorted({r["gate"] for r in rows}))
        front_from_data(axes[1], rows, known, measure="poisson_norm_openproblems", gates=[PUBLISHED_GATE])
        axes[0].set(title=f"(a) {figures.title_of(task, used)}: all that was tried", xlabel="poisson_norm on dev")
        axes[1].set(title="(b) the measure as published", xlabel="poisson_norm with swapped arguments on dev", ylabel="")
        axes[0].legend(handles=_legend(rows), loc="upper left", bbox_to_anchor=(0, -0.13), fontsize=7.5, ncols=3)
        figures.provenance(fig, used)
        return figures.save(fig, f"front_{task}", rows, out, COLUMNS)


# -- rows --------------------------------------------------------------------------------------------


def points(runs: Iterable[Finished]) -> list[dict[str, Any]]:
    """A row for each distinct valid solution of each run whose verdict holds both measures, in the order of the tries.

    ``origin`` is "training" or "execution"; ``front`` says that no other row has more of both mse_norm and poisson_norm.
    """
    out = []
    for f in runs:
        common = {"task": f.run.config.task, "arm": f.arm, "seed": f.seed, "source": f.source}
        common |= {"hardware": f.run.info["hardware"], "run": f.run.path.name}
        answer = f.report["arms"][f.arm].get("solution_id")
        seen: set[str] = set()
        for step, origin, name, metrics in _tried(f.run):
            if name in seen or not all(m in metrics for m in MEASURES):
                continue
            seen.add(name)
            row = {m: metrics[m] for m in (*MEASURES, "gate")}
            row |= {"passes_right": bool(metrics["passes"]), "passes_published": row[MEASURES[2]] >= PUBLISHED_GATE}
            out.append(common | {"step": step, "origin": origin, "solution_id": name, "reported": name == answer} | row)
    best = front([(r["poisson_norm"], r["mse_norm"]) for r in out])
    return [r | {"front": n in best} for n, r in enumerate(out)]


def _tried(run: Run) -> Iterable[tuple[int, str, str, dict[str, float]]]:
    for g in run.executed():
        if run.origin(g)["action"] == "weights":
            for r in read_lines(run.step(g) / "weights" / "rollouts.jsonl"):
                if r["valid"]:
                    yield g, "training", r["solution_id"], r.get("metrics", {})
        for e in Trajectory.read(run.step(g) / "trajectory.jsonl").of("verdict"):
            if e.data["valid"]:
                yield g, "execution", e.data["solution_id"], e.data.get("metrics", {})


def front(pairs: list[tuple[float, float]]) -> set[int]:
    """The places of the pairs (x, y) that no other pair beats: none has more of one and at least as much of the other."""
    out, best = set(), -math.inf
    order = sorted(range(len(pairs)), key=lambda n: (-pairs[n][0], -pairs[n][1]))
    for n in order:
        x, y = pairs[n]
        if y > best:
            out.add(n)
            best, top = y, x
        elif y == best and x == top:  # the same pair again
            out.add(n)
    return out


# -- drawing -----------------------------------------------------------------------------------------


def front_from_data(ax: Any, rows: list[dict], known: list[dict], *, measure: str, gates: list[float]) -> None:
    """mse_norm against one Poisson measure: the tries, the front over them, the gates, and known methods with their names.

    Args:
        rows: as ``points`` makes them.
        known: {"method", "mse_norm", and the Poisson measures}.
        measure: the key of the Poisson measure.
        gates: its threshold, one for each split of the data.
    """
    mean_gate = sum(gates) / len(gates)
    xs = sorted(r[measure] for r in rows)
    lowest = min([xs[len(xs) // 50], *(k[measure] for k in known)])  # of the tries, but for the last fiftieth
    left = max(lowest, mean_gate - REACH)
    right = max([xs[-1], mean_gate, *(k[measure] for k in known)])
    span = (right - left) or 1.0
    low, high = min(0.0, *(r["mse_norm"] for r in rows)), max(r["mse_norm"] for r in (*rows, *known))
    ax.set(
        xlim=(left - 0.06 * span, right + 0.06 * span), ylim=(low - 0.06 * (high - low), 1.14 * high), ylabel="mse_norm on dev"
    )
    ax.grid(True, axis="both")
    for arm in [a for a in ARMS if any(r["arm"] == a for r in rows)]:
        for fits in (False, True):
            mine = [r for r in rows if r["arm"] == arm and r["passes_right"] is fits and r[measure] >= left]
            face = COLOURS[arm] if fits else "none"
            ax.scatter(
                [r[measure] for r in mine], [r["mse_norm"] for r in mine], s=11, marker=MARKERS[arm], facecolors=face,
                edgecolors=COLOURS[arm], linewidths=0.6, alpha=0.55, zorder=2,
            )  # fmt: skip
        beyond = [r for r in rows if r["arm"] == arm and r[measure] < left]
        ax.scatter(
            [left - 0.035 * span] * len(beyond), [r["mse_norm"] for r in beyond], s=14, marker="<", color=COLOURS[arm], alpha=0.5
        )
    outside = sum(r[measure] < left for r in rows)
    passing = [r for r in rows if r[measure] >= PUBLISHED_GATE]
    hidden = [f"{outside} of {len(rows)} tries"] * bool(outside) + [k["method"] for k in known if k[measure] < left]
    said = [f"further left: {', '.join(hidden)}"] if hidden else []
    if measure == "poisson_norm_openproblems":
        said.append(f"{sum(not r['passes_right'] for r in passing)} of the {len(passing)} that pass fail the right gate")
    ax.annotate("\n".join(said), (0.01, 0.975), xycoords="axes fraction", fontsize=7, color="#555555", bbox=LABEL, va="top")
    best = front([(r[measure], r["mse_norm"]) for r in rows])
    line = sorted((rows[n][measure], rows[n]["mse_norm"]) for n in best if rows[n][measure] >= left)
    ax.step([x for x, _ in line], [y for _, y in line], where="pre", color="black", linewidth=0.9, zorder=3)
    for gate in gates:
        ax.axvline(gate, color=VERMILION, linestyle="--", linewidth=1 if len(gates) == 1 else 0.7, zorder=1.5)
    answers = [r for r in rows if r["reported"] and r[measure] >= left]
    for r in answers:
        face = COLOURS[r["arm"]] if r["passes_right"] else "white"
        ax.plot(r[measure], r["mse_norm"], "*", color=face, markeredgecolor="black", markeredgewidth=0.7, markersize=10, zorder=5)
    inside = [k for k in known if k[measure] >= left]
    ax.plot(
        [k[measure] for k in inside], [k["mse_norm"] for k in inside], "P", color="black", markersize=6, linestyle="", zorder=4
    )
    name = "right gate: MAGIC's own" if measure == "poisson_norm" else f"published gate: {PUBLISHED_GATE}"
    ax.text(
        mean_gate,
        0.985,
        f"{name} ",
        transform=ax.get_xaxis_transform(),
        ha="right",
        va="top",
        fontsize=7.5,
        color=VERMILION,
        bbox=LABEL,
    )
    _place(ax, [(k[measure], k["mse_norm"], k["method"]) for k in inside], [(r[measure], r["mse_norm"]) for r in (*rows, *known)])


def _place(ax: Any, labels: list[tuple[float, float, str]], marks: list[tuple[float, float]]) -> None:
    """Write each label near its point, where it hides no label and the fewest marks, with a thin line to the point."""
    ax.figure.canvas.draw()
    pixel, frame = ax.figure.dpi / 72, ax.get_window_extent()
    taken = [t.get_window_extent().extents for t in ax.texts]
    dots = ax.transData.transform(marks)
    turns = [(math.cos(math.pi * k / 8), math.sin(math.pi * k / 8)) for k in range(16)]
    for x, y, name in sorted(labels, key=lambda one: -one[1]):
        measure = ax.text(x, y, name, fontsize=7.5)
        width, height = (d + 4 for d in measure.get_window_extent().bounds[2:])
        measure.remove()
        at, tries = ax.transData.transform((x, y)), []
        for far in (10, 16, 24, 34, 46, 60, 80):
            for dx, dy in turns:
                side, share = ("left", 0.0) if dx > 0.3 else ("right", 1.0) if dx < -0.3 else ("center", 0.5)
                x0, y0 = at[0] + far * dx * pixel - share * width, at[1] + far * dy * pixel - height / 2
                box = (x0, y0, x0 + width, y0 + height)
                hidden = sum(box[0] <= a <= box[2] and box[1] <= b <= box[3] for a, b in dots)
                over = sum(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in taken)
                over += not (frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1)
                tries.append((over, hidden + 0.35 * far, (far * dx, far * dy), side, box))
        _, _, offset, side, box = min(tries, key=lambda t: t[:2])
        taken.append(box)
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "#333333", "shrinkA": 0, "shrinkB": 3}
        where = {"xytext": offset, "textcoords": "offset points", "ha": side, "va": "center"}
        ax.annotate(name, (x, y), fontsize=7.5, bbox=LABEL, zorder=6, arrowprops=line, **where)


def _short(method: str) -> str:
    """The method's name, short enough for a label."""
    return method.replace(", square root", "").replace("reversed normalisation", "reversed")


def _legend(rows: list[dict]) -> list[Any]:
    from matplotlib.lines import Line2D

    mark = lambda label, **look: Line2D([], [], linestyle="", label=label, **look)
    arms = [a for a in ARMS if any(r["arm"] == a for r in rows)]
    handles = [mark(f"tried by {ARM_NAMES[a]}", marker=MARKERS[a], color=COLOURS[a], markersize=4.5) for a in arms]
    handles.append(mark("hollow: fails the right gate", marker="o", color="#444444", markerfacecolor="none", markersize=4.5))
    handles.append(mark("the answer of a run", marker="*", markerfacecolor="#dddddd", markeredgecolor="black", markersize=10))
    handles.append(mark("a known method", marker="P", color="black", markersize=6))
    return [*handles, Line2D([], [], color="black", linewidth=0.9, label="front")]
