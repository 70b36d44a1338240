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
REACH = 1.0  # how far below its gate a Poisson measure is drawn at most


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
    known = peers.means(used, "dev")
    scale = {
        k["method"].removesuffix(peers.SCALED): k for k in known
    }  # in train's scale where there is such a row: it comes later
    as_published = [k for k in known if not k["method"].endswith(peers.SCALED)]
    plt = figures.pyplot()
    with plt.style.context(figures.STYLE):
        fig, axes = plt.subplots(1, 2, figsize=(10.2, 4.4), sharey=True, gridspec_kw={"wspace": 0.08})
        front_from_data(axes[0], rows, list(scale.values()), measure="poisson_norm")
        front_from_data(axes[1], rows, as_published, measure="poisson_norm_openproblems")
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


def front_from_data(ax: Any, rows: list[dict], known: list[dict], *, measure: str) -> None:
    """mse_norm against one Poisson measure: the tries, the front over them, the gate, and known methods with their names.

    What lies far from the gate or far below 0 is drawn at the edge, as an arrow.

    Args:
        rows: as ``points`` makes them.
        known: {"method", "mse_norm", and the Poisson measures}.
        measure: the key of the Poisson measure; the right one's gate is MAGIC's own value, among ``known``, and shaded the
            range of those that the loop asked for.
    """
    right_one = measure == "poisson_norm"
    magic = [k[measure] for k in known if k["method"] == peers.YARDSTICK] if right_one else [PUBLISHED_GATE]
    asked = [min(r["gate"] for r in rows), max(r["gate"] for r in rows)] if right_one else [PUBLISHED_GATE] * 2
    xs, ys = sorted(r[measure] for r in rows), [r["mse_norm"] for r in rows]
    left = max(min(xs[len(xs) // 50], asked[0] - REACH / 4), asked[0] - REACH)  # a fiftieth of the tries may lie beyond
    right = max(asked[1], min(xs[-1 - len(xs) // 50], asked[1] + REACH / 4))  # the swapped measure has no upper end
    high = max(ys + [k["mse_norm"] for k in known])
    low = max(min(0.0, *ys), -high / 4)
    wide, tall = (right - left) or 1.0, (high - low) or 1.0
    ax.set(xlim=(left - 0.06 * wide, right + 0.06 * wide), ylim=(low - 0.08 * tall, high + 0.3 * tall), ylabel="mse_norm on dev")
    ax.grid(True, axis="both")

    def place(r: dict) -> tuple[float, float, str]:
        """Where it is drawn, and the arrow where that is the edge."""
        x, y = r[measure], r["mse_norm"]
        arrow = "<" if x < left else ">" if x > right else "v" if y < low else ""
        x = left - 0.03 * wide if x < left else right + 0.03 * wide if x > right else x
        return x, (low - 0.04 * tall if y < low else y), arrow

    drawn = [(r, *place(r)) for r in rows]
    for arm in [a for a in ARMS if any(r["arm"] == a for r in rows)]:
        for fits in (False, True):
            for arrow in ("", "<", ">", "v"):
                mine = [(x, y) for r, x, y, a in drawn if (r["arm"], r["passes_right"], a) == (arm, fits, arrow)]
                look = {"s": 11, "marker": arrow or MARKERS[arm], "facecolors": COLOURS[arm] if fits else "none"}
                look |= {"edgecolors": COLOURS[arm], "linewidths": 0.6, "alpha": 0.55, "zorder": 2}
                ax.scatter([x for x, _ in mine], [y for _, y in mine], **look)
    best = front([(r[measure], r["mse_norm"]) for r in rows])
    line = sorted((x, y) for n, (_, x, y, arrow) in enumerate(drawn) if n in best and not arrow)
    ax.step([x for x, _ in line], [y for _, y in line], where="pre", color="black", linewidth=0.9, zorder=3)
    for r, x, y, arrow in drawn:
        if r["reported"] and not arrow:
            look = {"color": COLOURS[r["arm"]] if r["passes_right"] else "white", "markersize": 10}
            ax.plot(x, y, "*", markeredgecolor="black", markeredgewidth=0.7, zorder=5, **look)
    if right_one:
        ax.axvspan(*asked, color=VERMILION, alpha=0.18, linewidth=0, zorder=0.5)
    for gate in magic:
        ax.axvline(gate, color=VERMILION, linestyle="--", linewidth=1, zorder=1.5)
    passing = [r for r in rows if r[measure] >= PUBLISHED_GATE]
    failing = sum(not r["passes_right"] for r in passing)
    through = f"{failing} of the {len(passing)} that pass \nfail the right gate " if passing else "no try passes it "
    name = "right gate: MAGIC's own " if right_one else f"published gate: {PUBLISHED_GATE} \n{through}"
    look = {"transform": ax.get_xaxis_transform(), "ha": "right", "va": "top", "fontsize": 7.5, "color": VERMILION, "bbox": LABEL}
    ax.text(min([*magic, *asked]), 0.985, name, **look)
    labels, outside = [], []
    for k in known:
        x, y, arrow = place(k)
        ax.plot(x, y, arrow or "P", color="black", markersize=5.5, linestyle="", zorder=4)
        if arrow:
            outside.append(f"{_short(k['method'])}  {k['mse_norm']:.2f} at {k[measure]:.2f}".replace("-", "−"))
        else:
            labels.append((x, y, _short(k["method"])))
    if outside:
        words = "\n".join(["outside the frame:", *outside])
        ax.text(0.015, 0.985, words, transform=ax.transAxes, fontsize=6.5, color="#333333", va="top", bbox=LABEL)
    _place(ax, labels, [(x, y) for _, x, y, _ in drawn] + [(x, y) for x, y, _ in labels])


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
                hidden = int(((dots >= box[:2]) & (dots <= box[2:])).all(axis=1).sum())
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
    for long, short in ((", square root", ""), ("reversed normalisation", "reversed"), (peers.SCALED, ", scaled")):
        method = method.replace(long, short)
    return method


def _legend(rows: list[dict]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    mark = lambda label, **look: Line2D([], [], linestyle="", label=label, **look)
    arms = [a for a in ARMS if any(r["arm"] == a for r in rows)]
    handles = [mark(f"tried by {ARM_NAMES[a]}", marker=MARKERS[a], color=COLOURS[a], markersize=4.5) for a in arms]
    handles.append(mark("hollow: fails the right gate", marker="o", color="#444444", markerfacecolor="none", markersize=4.5))
    handles.append(mark("the answer of a run", marker="*", markerfacecolor="#dddddd", markeredgecolor="black", markersize=10))
    handles.append(mark("a known method", marker="P", color="black", markersize=6))
    handles.append(Line2D([], [], color="black", linewidth=0.9, label="front"))
    return [*handles, Patch(color=VERMILION, alpha=0.18, label="gates that the loop asked for: + 1 paired standard error")]
