"""Known methods beside the arms: a run's ``peers.json``, written with its report, as a table and as points of the front.

The file is what the verifier's ``peers`` returned: for "dev" and "sealed" a row a method, with ``method``, the measures (None
where the method was not run) and ``published``: data set → its mse_norm and swapped poisson_norm in the literature.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..store import read_json
from . import collect, figures, markdown
from .collect import Finished
from .paper import ARM_NAMES, ARMS, PUBLISHED_GATE

MEASURES = ("mse_norm", "poisson_norm", "poisson_norm_openproblems")
YARDSTICK = "MAGIC"  # the method whose mse_norm the others' are told as multiples of
SCALED = ", scaled to train"  # ends the name of a method's second row, its output brought to train's scale
COLUMNS = ["method", "kind", "measure", "value", "low", "high", "seeds", "data", "split", "task", "run", "hardware", "source"]


def by_method(runs: Iterable[Finished], split: str) -> dict[str, dict[int, dict[str, Any]]]:
    """method → seed → its row on this split; of runs of one seed, which share the data, the first that has it."""
    out: dict[str, dict[int, dict[str, Any]]] = {}
    for f in runs:
        path = f.run.path / "peers.json"
        for row in read_json(path)[split] if path.exists() else ():
            out.setdefault(row["method"], {}).setdefault(f.seed, row)
    return out


def means(runs: Iterable[Finished], split: str) -> list[dict[str, Any]]:
    """A row a method that was run: its name and the mean of each measure over the seeds."""
    run_here = {m: seeds for m, seeds in by_method(runs, split).items() if _were_run(seeds)}
    return [{"method": name} | {m: _mean(seeds, m) for m in MEASURES} for name, seeds in run_here.items()]


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
    magic = found.get(YARDSTICK, {})
    entries = [(ARM_NAMES[a], "arm", _answers(runs, a)) for a in ARMS]
    entries += [(name, "known method", seeds) for name, seeds in found.items() if _were_run(seeds)]
    entries = sorted((e for e in entries if e[2]), key=lambda e: -_mean(e[2], "mse_norm"))
    published = {name: next(iter(seeds.values()))["published"] for name, seeds in found.items()}
    sets = list(dict.fromkeys(data for scores in published.values() for data in scores))
    head = ["method", "mse_norm", f"× {YARDSTICK}", "poisson_norm", "passes the right gate", "poisson_norm, swapped"]
    head += [f"≥ {PUBLISHED_GATE}", "seeds", *(f"published, {data}" for data in sets)]
    lines, rows = markdown.head(head), []
    common = {"task": task, "split": "sealed", "source": runs[0].source, "run": " ".join(f.run.path.name for f in runs)}
    common |= {"hardware": "; ".join(sorted({f.run.info["hardware"] for f in runs}))}
    common["data"] = runs[0].run.config.instance or "the first instance"
    for name, kind, seeds in entries:
        told = {m: collect.interval([r[m] for r in seeds.values()]) for m in MEASURES}
        times = [r["mse_norm"] / magic[s]["mse_norm"] for s, r in seeds.items() if s in magic and magic[s]["mse_norm"] > 0]
        ratio = f"{sum(times) / len(times):.2f}" if times and min(times) >= 0 else ""  # a negative multiple says nothing
        right = [_passes(r, magic.get(s)) for s, r in seeds.items()]
        above = [r[MEASURES[2]] >= PUBLISHED_GATE for r in seeds.values()]
        cells = [
            markdown.interval(told["mse_norm"]),
            ratio,
            markdown.interval(told["poisson_norm"]),
            _count(right),
            markdown.interval(told[MEASURES[2]]),
            _count(above),
        ]
        bold = f"**{name}**" if kind == "arm" else name
        lines.append(markdown.line([bold, *cells, str(len(seeds)), *_published(published.get(name, {}), sets)]))
        told |= {f"times_{YARDSTICK}": collect.interval(times)} if times else {}
        this = common | {"method": name, "kind": kind, "seeds": len(seeds)}
        rows += [this | {"measure": m, "value": v[0], "low": v[1], "high": v[2]} for m, v in told.items()]
    for name, seeds in found.items():
        if not _were_run(seeds):
            lines.append(markdown.line([f"{name} (not run here)", *[""] * 7, *_published(published[name], sets)]))
        for data, scores in published[name].items():
            this = {"method": name, "kind": "published", "data": data, "task": task, "source": "literature"}
            rows += [this | {"measure": m, "value": v} for m, v in zip((MEASURES[0], MEASURES[2]), scores, strict=True)]
    lines.append(
        "\nPublished: mse_norm / poisson_norm with swapped arguments, of OpenProblems v1 and TTT-Discover, on other cells."
    )
    whole = "\n".join(lines)
    return collect.write_table(f"peers_{task}", whole, rows, COLUMNS, out)


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


def _were_run(seeds: dict[int, dict[str, Any]]) -> bool:
    return all(r["mse_norm"] is not None for r in seeds.values())


def _published(scores: dict[str, list[float]], sets: list[str]) -> list[str]:
    return [" / ".join(f"{v:.3f}" for v in scores[data]) if data in scores else "" for data in sets]
