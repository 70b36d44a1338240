"""The transfer study as a figure and as sentences: held-out instances, the best value so far over distinct verifier calls.

``*_from_data`` take the study's plain data (``transfer.json``). An interval is the 95 % percentile bootstrap over
instances and training seeds, drawn independently, of the mean over both; the searches of one instance and seed are
averaged first. A difference between two arms is taken within instance, seed and search before that. Where a study knows what
the task's reference, which everybody has, is worth on the instances, that stands beside the arms. No torch here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StoreError
from ..store import read_json, results_dir
from . import collect, figures, health, markdown

LOOK = {  # colour, line, marker
    "trained": ("#E69F00", "-", "o"),
    "trained_then_search": ("#D55E00", "-", "^"),
    "untrained": ("#999999", "--", "s"),
    "search": ("#0072B2", "--", "D"),
    "search_from_saved": ("#0072B2", "-", "v"),
    "random": ("#56B4E9", ":", "x"),
}
MINE = ("trained", "trained_then_search")  # the arms with trained weights
FORMAT = 1  # of transfer.json
DRAWS = 4000
COLUMNS = [
    "calls", "arm", "against", "value", "low", "high", "instances", "seeds", "searches", "verifier_calls_before", "distinct",
    "task", "hardware", "commit",
]  # fmt: skip


def find(name: str) -> Path:
    """The file of the study called ``name``: of this machine's runs, else of the committed ones.

    Raises:
        StoreError: there is none.
    """
    places = (
        results_dir() / "runs" / "transfer" / name / "transfer.json",
        results_dir() / "reference" / "transfer" / f"{name}.json",
    )
    for path in places:
        if path.exists():
            return path
    raise StoreError(f"no finished transfer study called '{name}'; `python -m sia_nb transfer --name {name}` makes one")


def studies() -> list[Path]:
    """The studies' files: the committed ones, and this machine's own in the place of those of the same name."""
    found = {p.stem: p for p in sorted((results_dir() / "reference" / "transfer").glob("*.json"))}
    found |= {p.parent.name: p for p in sorted((results_dir() / "runs" / "transfer").glob("*/transfer.json"))}
    return [found[name] for name in sorted(found)]


def trouble(path: Path) -> str:
    """Why a study cannot be drawn, with the file's name; empty where it can."""
    try:
        data = read_json(path)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            return f"{path}: format {found!r}, expected {FORMAT}; it was written by another version; {health.MEND}"
        cells(data)
        data["plan"]["name"], data["provenance"]["hardware"]
    except StoreError as error:
        return f"{error}" if str(path) in str(error) else f"{path}: {error}"
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return f"{path}: {type(error).__name__}: {error}; expected a finished transfer study; {health.MEND}"
    return ""


def transfer_figure(path: Path, *, out: Path | None = None) -> tuple[dict[str, Path], list[str]]:
    """Draw the study in ``path``; returns the files written, by suffix, and what it says in sentences."""
    data = read_json(path)
    rows = summary_from_data(data)
    said = sentences_from_data(rows, data)
    plt = figures.pyplot()
    with plt.style.context(figures.STYLE):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.2), width_ratios=(1.2, 1))
        curves_from_data(left, data)
        differences_from_data(right, rows, data)
        fig.tight_layout()
        figures.caption(fig, [said[0], *said[1 + len(data["grid"]) :], *_traces(data, path)])
        name = f"transfer_{data['plan']['name']}"
        return figures.save(fig, name, rows, out, COLUMNS), said


def curves_from_data(ax: Any, data: dict[str, Any]) -> None:
    """Each arm's mean best value so far over the distinct verifier calls, with intervals at the calls of the grid."""
    values = cells(data)
    x = np.arange(values.shape[-1])
    for n, (arm, block) in enumerate(zip(data["arms"], values, strict=True)):
        colour, line, marker = LOOK[arm]
        mean, low, high = interval(block)
        ax.plot(x, mean, color=colour, linestyle=line, linewidth=1.3)
        at = np.array(data["grid"])
        shifted = np.where(at == 0, 0.05 * n, at * 1.07 ** (n - 2.5))  # side by side, or they hide each other
        err = np.nan_to_num([(mean - low)[at], (high - mean)[at]])
        ax.errorbar(
            shifted, mean[at], yerr=err, color=colour, marker=marker, markersize=4.5, linestyle="", capsize=2, linewidth=0.8
        )
        ax.plot([], [], color=colour, linestyle=line, marker=marker, markersize=4.5, label=data["arms"][arm])
    if data.get("reference"):
        ax.axhline(reference(data), color="black", linewidth=0.8, linestyle=":", label="the task's reference")
    ax.set_xscale("symlog", linthresh=1, linscale=0.5)
    ax.set_xticks(data["grid"], [str(k) for k in data["grid"]])
    ax.minorticks_off()
    ax.set(title="(a) best value so far", xlabel="distinct verifier calls on the held-out instance", ylabel=data["metric"])
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=7.5, ncols=2)


def differences_from_data(ax: Any, rows: list[dict[str, Any]], data: dict[str, Any]) -> None:
    """The trained policy minus each other arm, at each number of calls of the grid."""
    others = [arm for arm in data["arms"] if arm not in MINE]
    for n, arm in enumerate(others):
        mine = [r for r in rows if r["arm"] == "trained" and r["against"] == arm]
        x = np.arange(len(mine)) + (n - (len(others) - 1) / 2) * 0.16
        y = np.array([r["value"] for r in mine])
        colour, _, marker = LOOK[arm]
        if not math.isnan(mine[0]["low"]):
            err = [y - [r["low"] for r in mine], [r["high"] for r in mine] - y]
            ax.errorbar(x, y, yerr=np.maximum(err, 0), color=colour, linestyle="", capsize=2.5, linewidth=1)
        ax.plot(x, y, marker, color=colour, markersize=5, label=f"minus {data['arms'][arm]}")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(range(len(data["grid"])), [str(k) for k in data["grid"]])
    ax.set(
        title="(b) the trained policy's lead",
        xlabel="distinct verifier calls",
        ylabel=f"difference in {data['metric'].split(' on ')[0]}",
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=7.5, ncols=2)


# -- numbers -----------------------------------------------------------------------------------------


def cells(data: dict[str, Any]) -> np.ndarray:
    """Best so far, mean over searches, float [arms, instances, seeds, calls + 1].

    Raises:
        StoreError: a run is missing.
    """
    plan = data["plan"]
    found: dict[tuple, list[list[float]]] = {}
    for run in data["runs"]:
        found.setdefault((run["arm"], run["instance"], run["seed"]), []).append(run["best"])
    try:
        return np.array(
            [[[np.mean(found[a, i, s], axis=0) for s in plan["seeds"]] for i in plan["held_out"]] for a in data["arms"]]
        )
    except KeyError as missing:
        raise StoreError(f"transfer study '{plan['name']}': no run of {missing.args[0]}; run it again to complete it") from None


def interval(block: np.ndarray, draws: int = DRAWS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, low and high of [instances, seeds, ...] over the first two; nan bounds where there is one of each only."""
    mean = block.mean(axis=(0, 1))
    instances, seeds = block.shape[:2]
    if instances * seeds < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    rng = np.random.default_rng(0)
    share = lambda n: rng.multinomial(n, np.full(n, 1 / n), draws) / n
    drawn = np.einsum("bi,is...,bs->b...", share(instances), block, share(seeds))
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return mean, low, high


def summary_from_data(data: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each arm and number of calls of the grid, ``against`` empty; and one for each lead of an arm with trained
    weights over each other arm."""
    values = dict(zip(data["arms"], cells(data)[..., data["grid"]], strict=True))
    plan, training = data["plan"], data["training"]
    before = sum(t["verifier_calls"] for t in training) / len(training)
    common = {"instances": len(plan["held_out"]), "seeds": len(plan["seeds"]), "searches": plan["searches"], "task": plan["task"]}
    common |= {"hardware": data["provenance"]["hardware"], "commit": data["provenance"]["commit"]}
    pairs = [(arm, "") for arm in values] + [(a, b) for a in MINE for b in values if b != a]
    rows = []
    for arm, against in pairs:
        figures_of = interval(values[arm] - values[against] if against else values[arm])
        distinct = [r["distinct"] for r in data["runs"] if r["arm"] == arm]
        own = before if arm in (*MINE, "search_from_saved") else 0
        for calls, value, low, high in zip(data["grid"], *(f.tolist() for f in figures_of), strict=True):
            rows.append(
                {"calls": calls, "arm": arm, "against": against, "value": value, "low": low, "high": high, **common}
                | {"verifier_calls_before": own, "distinct": sum(distinct) / len(distinct)}
            )
    return rows


def reference(data: dict[str, Any]) -> float:
    """What the task's reference is worth in the mean over the held-out instances."""
    return float(np.mean([data["reference"][name]["value"] for name in data["plan"]["held_out"]]))


def table(paths: list[Path], *, out: Path | None = None) -> tuple[str, dict[str, Path]]:
    """The studies under each other: a line an arm, the mean best value at each number of calls with its interval.

    Returns Markdown and the files (transfer.md, transfer.csv).
    """
    found = [read_json(path) for path in paths]
    grid = sorted({k for data in found for k in data["grid"]})
    lines, rows = markdown.head(["study", "arm", "calls before", *(f"{k} calls" for k in grid)]), []
    for data in found:
        mine = summary_from_data(data)
        rows += [{"study": data["plan"]["name"], **row} for row in mine]
        at = {(r["arm"], r["calls"]): r for r in mine if not r["against"]}
        title = f"{data['plan']['name']} ({data['metric']})"
        for arm, name in data["arms"].items():
            found_at = [at.get((arm, k)) for k in grid]
            cells = [markdown.interval(r and (r["value"], r["low"], r["high"])) for r in found_at]
            lines.append(markdown.line([title, name, f"{at[arm, data['grid'][0]]['verifier_calls_before']:.0f}", *cells]))
        if data.get("reference"):
            lines.append(markdown.line([title, "the task's reference", 0, *[f"{reference(data):.3f}"] * len(grid)]))
    return collect.write_table("transfer", "\n".join(lines), rows, out=out, columns=["study", *COLUMNS])


# -- words -------------------------------------------------------------------------------------------


def sentences_from_data(rows: list[dict[str, Any]], data: dict[str, Any]) -> list[str]:
    """What the numbers say, at each number of calls and in sum. "Level" is an interval of the difference that holds 0."""
    plan, names = data["plan"], data["arms"]
    before = ", ".join(f"{t['verifier_calls']:,}" for t in data["training"])
    samples = [f"{t['before']['mean']:.3f} to {t['after']['mean']:.3f}" for t in data["training"]]
    out = [
        f"Trained on {len(plan['train'])} instances with {before} verifier calls ({_many(len(plan['seeds']), 'seed')}; mean score "
        f"of the policy's samples from {'; '.join(samples)}), tried on {_many(len(plan['held_out']), 'held-out instance')}, "
        f"{_many(plan['searches'], 'search', 'searches')} each{_beside(data)}. A first verdict only tells what the unseen answer was worth: 0 and 1 "
        "calls agree."
    ]
    table = {(r["arm"], r["against"], r["calls"]): r for r in rows}
    for calls in data["grid"]:
        means = "; ".join(f"{names[arm]} {table[arm, '', calls]['value']:.3f}" for arm in names)
        out.append(f"{_many(calls, 'call')}: {means}.")
    for mine in MINE:
        for other in names:
            if other in MINE:
                continue
            told = {}
            for calls in data["grid"]:
                told.setdefault(_fate(table[mine, other, calls]), []).append(f"{calls} ({_signed(table[mine, other, calls])})")
            parts = [
                f"{fate} at {', '.join(told[fate])}" for fate in ("ahead", "level", "behind", "not told apart") if fate in told
            ]
            had = " of the same training" if other == "search_from_saved" else ""
            out.append(f"{names[mine].capitalize()} against {names[other]}{had}: {'; '.join(parts)}.")
    return out


def _beside(data: dict[str, Any]) -> str:
    return f", on which the task's reference is worth {reference(data):.3f}" if data.get("reference") else ""


def _fate(row: dict[str, Any]) -> str:
    if math.isnan(row["low"]):
        return "not told apart"
    return "ahead" if row["low"] > 1e-9 else "behind" if row["high"] < -1e-9 else "level"


def _signed(row: dict[str, Any]) -> str:
    bounds = "" if math.isnan(row["low"]) else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{row['value']:+.3f}{bounds}"


def _many(n: int, one: str, more: str = "") -> str:
    return f"{n} {one if n == 1 else more or one + 's'}"


def _traces(data: dict[str, Any], path: Path) -> list[str]:
    plan, made = data["plan"], data["provenance"]
    commits = sorted({t["provenance"]["commit"] for t in data["training"]} | {made["commit"]})
    machines = sorted({t["provenance"]["hardware"] for t in data["training"]})
    hyper = plan["hyper"]
    return [
        f"{path.name} of study {plan['name']} · {plan['task']}, {plan['policy']}, {hyper['algorithm']}, {hyper['steps']} steps of "
        f"{hyper['groups']} × {hyper['group_size']} rollouts · seeds {', '.join(map(str, plan['seeds']))} · {'; '.join(machines)}",
        f"trained at commit {', '.join(commits)}, drawn at {figures.head()}; intervals: bootstrap over instances and training seeds",
    ]
