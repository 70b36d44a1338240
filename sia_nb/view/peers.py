"""Known methods beside the arms: a run's ``peers.json``, written with its report, as a table and as points of the front.

The file is what the verifier's ``peers`` returned: ``rows``, one a method and split ("dev" or "sealed"), with ``method``
and the measures; and ``published``, the methods' scores in the literature, with ``method``, ``data`` and the measures.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..store import read_json, results_dir, write_atomic
from . import collect, figures
from .collect import Finished
from .paper import ARM_NAMES, ARMS, PAPER, PUBLISHED_GATE

MEASURES = ("mse_norm", "poisson_norm", "poisson_norm_openproblems")
YARDSTICK = "MAGIC"  # the method whose mse_norm the others' are told as multiples of
COLUMNS = ["method", "kind", "measure", "value", "low", "high", "seeds", "data", "split", "task", "run", "hardware", "source"]


def read(run_path: Path) -> dict[str, list[dict[str, Any]]]:
    """A run's peers.json; without rows where the run has none."""
    path = run_path / "peers.json"
    return read_json(path) if path.exists() else {"rows": [], "published": []}


def by_method(runs: Iterable[Finished], split: str) -> dict[str, dict[int, dict[str, Any]]]:
    """method → seed → its row on this split; of runs of one seed, which share the data, the first that has it."""
    out: dict[str, dict[int, dict[str, Any]]] = {}
    for f in runs:
        for row in read(f.run.path)["rows"]:
            if row["split"] == split:
                out.setdefault(row["method"], {}).setdefault(f.seed, row)
    return out


def means(runs: Iterable[Finished], split: str) -> list[dict[str, Any]]:
    """A row a method: its name and the mean of each measure over the seeds."""
    mean = lambda rows, m: sum(r[m] for r in rows) / len(rows)
    return [
        {"method": method} | {m: mean(list(seeds.values()), m) for m in MEASURES}
        for method, seeds in by_method(runs, split).items()
    ]


def table(task: str = "denoising", *, profile: str = "", out: Path | None = None, also: Path | None = None) -> tuple[str, dict]:
    """The arms' answers and the known methods on the sealed cells, beside the published scores.

    Each measure with its mean and 95 % interval over seeds; mse_norm also as a multiple of MAGIC's on the same cells; and
    in how many seeds each gate is passed. Returns Markdown and the files by suffix; the CSV has a row a measure.

    Raises:
        StoreError: no finished run and no reference run, or none that has a peers.json.
    """
    ours, reference = figures.gather(task, profile, also)
    runs = ours or reference
    found = by_method(runs, "sealed")
    if not found:
        raise StoreError(f"no run of '{task}' has a peers.json; a run writes it when it opens its sealed test")
    entries = [(ARM_NAMES[a], "arm", _answers(runs, a)) for a in ARMS]
    entries += [(m, "known method", seeds) for m, seeds in found.items()]
    entries = sorted((e for e in entries if e[2]), key=lambda e: -_mean(e[2], "mse_norm"))
    published = next((p for p in (read(f.run.path)["published"] for f in runs) if p), [])
    data = PAPER[task]["data"]
    there = {p["method"]: p for p in published if p["data"] == data}
    magic = found.get(YARDSTICK, {})
    head = ["method", "mse_norm", f"× {YARDSTICK}", "poisson_norm", "passes the right gate", "poisson_norm (swapped)"]
    head += [f"≥ {PUBLISHED_GATE}", "seeds", f"published, {data}: mse_norm", f"published, {data}: poisson_norm (swapped)"]
    lines, rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)], []
    for name, kind, seeds in entries:
        told = {m: collect.interval([r[m] for r in seeds.values()]) for m in MEASURES}
        times = [r["mse_norm"] / magic[s]["mse_norm"] for s, r in seeds.items() if s in magic and magic[s]["mse_norm"] > 0]
        ratio = f"{sum(times) / len(times):.2f}" if times else ""
        right = [_passes(r, magic.get(s)) for s, r in seeds.items()]
        above = [r[MEASURES[2]] >= PUBLISHED_GATE for r in seeds.values()]
        cells = [
            _show(told["mse_norm"]),
            ratio,
            _show(told["poisson_norm"]),
            _count(right),
            _show(told[MEASURES[2]]),
            _count(above),
        ]
        lines.append(_line([_bold(name, kind), *cells, str(len(seeds)), *_published(there.pop(name, None))]))
        common = {"method": name, "kind": kind, "seeds": len(seeds), "data": runs[0].run.config.instance, "split": "sealed"}
        common |= {"task": task, "source": runs[0].source, "hardware": "; ".join(sorted({f.run.info["hardware"] for f in runs}))}
        common["run"] = " ".join(f.run.path.name for f in runs)
        rows += [common | {"measure": m, "value": v[0], "low": v[1], "high": v[2]} for m, v in told.items()]
        if times:
            mean, low, high = collect.interval(times)
            rows.append(common | {"measure": f"times_{YARDSTICK}", "value": mean, "low": low, "high": high})
    for name, p in there.items():
        lines.append(_line([f"{name} (not run here)", *[""] * 7, *_published(p)]))
    for p in published:
        common = {
            "method": p["method"],
            "kind": "published",
            "seeds": "",
            "data": p["data"],
            "task": task,
            "source": "literature",
        }
        rows += [common | {"measure": m, "value": p[m]} for m in MEASURES if p.get(m) is not None]
    markdown = "\n".join(lines)
    folder = out or results_dir() / "figures"
    paths = {"csv": folder / f"peers_{task}.csv", "md": folder / f"peers_{task}.md"}
    collect.write_csv(paths["csv"], rows, COLUMNS)
    write_atomic(paths["md"], markdown + "\n")
    return markdown, paths


def _answers(runs: list[Finished], arm: str) -> dict[int, dict[str, Any]]:
    """seed → what the arm's answer is worth on the sealed cells; of the baseline, one a seed."""
    out: dict[int, dict[str, Any]] = {}
    for f in runs:
        test = f.report["arms"].get(arm, {}).get("test", {})
        if all(m in test for m in MEASURES):
            out.setdefault(f.seed, test)
    return out


def _passes(row: dict[str, Any], magic: dict[str, Any] | None) -> bool | None:
    """Whether a row passes the right gate: as the verifier said, else no worse than MAGIC on the same cells."""
    if "passes_right" in row:
        return bool(row["passes_right"])
    return None if magic is None else row["poisson_norm"] >= magic["poisson_norm"]


def _count(told: list[bool | None]) -> str:
    if None in told:
        return ""
    return ("yes" if all(told) else "no") if len(set(told)) == 1 else f"{sum(told)} of {len(told)}"


def _mean(seeds: dict[int, dict[str, Any]], measure: str) -> float:
    return sum(r[measure] for r in seeds.values()) / len(seeds)


def _show(value: tuple[float, float, float]) -> str:
    mean, low, high = value
    return f"{mean:.3f}" if low != low else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _published(p: dict[str, Any] | None) -> list[str]:
    return ["" if p is None or p.get(m) is None else f"{p[m]:.3f}" for m in ("mse_norm", "poisson_norm_openproblems")]


def _bold(name: str, kind: str) -> str:
    return f"**{name}**" if kind == "arm" else name


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
