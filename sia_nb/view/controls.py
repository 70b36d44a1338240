"""The controls beside the arms at equal budget: random search, local search, the untrained policy's answers, shuffled rewards.

A control is read from ``control.json`` and ``calls.jsonl`` (``sia_nb.controls``), a run on shuffled rewards as any run. What
can be compared has one task, instance and number of verifier calls; where times are measured, one machine. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CONTROLS
from ..errors import StoreError
from ..store import machine_name, read_json, read_lines, results_dir
from . import collect, markdown
from .collect import Finished
from .figures import gather
from .health import MEND
from .paper import ARM_NAMES, ARMS, PAPER, SHORT, TIMED

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1  # of control.json
SHUFFLED = "shuffled_rewards"
COLUMNS = [*collect.COLUMNS, "dev", "seconds", "name"]
FRAME = [  # of ``load_controls``
    "task", "arm", "seed", "calls", "dev", "sealed", "hardware", "instance", "profile", "budget", "samples", "tokens", "valid",
    "fallback", "passes", "metric", "seconds", "created", "commit", "source", "folder",
]  # fmt: skip


def load_controls() -> tuple[pd.DataFrame, list[str]]:
    """(a row a finished control, a sentence for each that cannot be read). This machine's own stand in the place of the
    committed ones of the same name; an unfinished one of this machine is neither.

    The frame's columns are FRAME: ``calls`` distinct verdicts were asked for of ``budget`` allowed, ``samples`` proposals made,
    ``dev`` is the full verdict and ``sealed`` the report metric of the answer, ``passes`` whether that passes the task's hard
    gate on the sealed test (None where there is none), ``fallback`` whether nothing found was better than the task's fallback.
    """
    import pandas as pd

    rows, lost = [], []
    for source, folder in _folders():
        try:
            rows.append(_row(folder) | {"source": source, "folder": str(folder)})
        except StoreError as error:
            lost.append(str(error))
    frame = pd.DataFrame(rows, columns=FRAME)
    frame["passes"] = pd.Series([row["passes"] for row in rows], dtype=object)  # else None becomes NaN beside a number
    return frame, lost


def tasks_with_controls() -> set[str]:
    """The tasks that a control's folder is there of."""
    return {folder.parent.parent.name for _, folder in _folders()}


def trouble() -> list[str]:
    """A sentence for each control that cannot be read."""
    return load_controls()[1] if tasks_with_controls() else []


def _folders() -> Iterator[tuple[str, Path]]:
    found: dict[Path, tuple[str, Path]] = {}
    for source, root in (("reference", results_dir() / "reference" / "controls"), ("ours", results_dir() / "controls")):
        for plan in sorted({p.parent for name in ("plan.json", "control.json") for p in root.glob(f"*/*/*/{name}")}):
            if source == "reference" or (plan / "control.json").exists():
                found[plan.relative_to(root)] = (source, plan)
    yield from found.values()


def _row(folder: Path) -> dict[str, Any]:
    """Raises StoreError: a file of the control is missing, damaged, or does not fit the others; the message names it."""
    path, log = folder / "control.json", folder / "calls.jsonl"
    told = read_json(path)
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        found = told.get("format") if isinstance(told, dict) else type(told).__name__
        raise StoreError(f"{path}: format {found!r}, expected {FORMAT}; it was written by another version; {MEND}")
    try:
        test, made = told["test"], told["provenance"]
        row = {
            k: told[k] for k in ("task", "arm", "seed", "instance", "profile", "samples", "tokens", "valid", "fallback", "metric")
        }
        row |= {"calls": told["used"], "budget": told["calls"], "seconds": float(told["seconds"])}
        row |= {"dev": float(told["dev"]), "sealed": float(test[told["metric"]]), "passes": test.get("passes_right")}
        row |= {"hardware": made["hardware"], "created": made["created"], "commit": made["commit"]}
        best = float(told["loop_best"])
        if (row["task"], machine_name(row["hardware"])) != folder.parts[-3:-1] or row["arm"] not in CONTROLS:
            raise StoreError(
                f"{path}: is of arm {row['arm']!r} of {row['task']!r} on {row['hardware']!r}, and stands in another's folder; {MEND}"
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{path}: {type(error).__name__}: {error}; expected a finished control; {MEND}") from None
    lines = read_lines(log)
    last = lines[-1].get("best") if lines else 0.0
    if len(lines) != row["calls"] or last != best:
        raise StoreError(
            f"{log}: {len(lines)} calls with the best {last}, but {path.name} says {row['calls']} with {best}; {MEND}"
        )
    return row


# -- the table ---------------------------------------------------------------------------------------


def table(task: str, *, profile: str = "", out: Path | None = None, also: Path | None = None) -> tuple[str, dict[str, Path]]:
    """(Markdown, files): a line an arm and a control, at equal budget; below it what the differences allow to say.

    Raises:
        StoreError: no finished run, or no control that may be compared with one.
    """
    entries = entries_of(task, profile=profile, also=also)
    metric, calls = PAPER[task]["metric"], entries[0]["budget"]
    head = ["arm", "seeds", f"sealed {SHORT.get(metric, metric)}", "dev", "distinct verifier calls", "proposals", "seconds"]
    gated = any(one["passes"] is not None for e in entries for one in e["seeds"].values())
    lines, rows = markdown.head([*head, *(["passes the gate"] if gated else []), "hardware"]), []
    for e in entries:
        seeds = e["seeds"]
        mean = lambda key, seeds=seeds: sum(one[key] for one in seeds.values()) / len(seeds)
        value = collect.interval([one["sealed"] for one in seeds.values()])
        proposals = f"{mean('samples'):.0f}" if all(one["samples"] is not None for one in seeds.values()) else ""
        cells = [
            e["name"],
            len(seeds),
            markdown.interval(value),
            f"{mean('dev'):.3f}",
            f"{mean('calls'):.0f}",
            proposals,
            f"{mean('seconds'):,.0f}",
        ]
        if gated:
            cells.append(f"{sum(bool(one['passes']) for one in seeds.values())} of {len(seeds)}")
        hardware = "; ".join(sorted({one["hardware"] for one in seeds.values()}))
        lines.append(markdown.line([*cells, hardware]))
        common = {"task": task, "arm": e["arm"], "name": e["name"], "metric": metric}
        rows.append(
            common
            | {"value": value[0], "low": value[1], "high": value[2], "seeds": len(seeds), "hardware": hardware}
            | {"verifier_calls": mean("calls"), "sampled_tokens": mean("tokens"), "dev": mean("dev"), "seconds": mean("seconds")}
            | {"source": next(iter(seeds.values()))["source"], "run": " ".join(one["run"] for one in seeds.values())}
            | {"passes": sum(bool(one["passes"]) for one in seeds.values()) / len(seeds) if gated else ""}
        )
        if len(seeds) > 1:
            rows += [
                common
                | {"value": one["sealed"], "seeds": 1, "hardware": one["hardware"], "verifier_calls": one["calls"]}
                | {"sampled_tokens": one["tokens"], "dev": one["dev"], "seconds": one["seconds"], "source": one["source"]}
                | {"run": one["run"], "passes": "" if one["passes"] is None else float(one["passes"])}
                for one in seeds.values()
            ]
    commits = lambda arms: ", ".join(
        sorted({one["commit"] for e in entries if (e["arm"] in ARMS) is arms for one in e["seeds"].values()})
    )
    lines += [
        "",
        f"Each might make {calls} verifier calls; the column says how many it made. Arms at commit {commits(True) or 'none'}, controls at "
        f"{commits(False)}; seconds are the whole of a run or control, fewer where verdicts were remembered.",
    ]
    lines += ["", *(f"- {sentence}" for sentence in sentences(entries))]
    whole = "\n".join(lines)
    return collect.write_table(f"controls_{task}", whole, rows, COLUMNS, out)


def entries_of(task: str, *, profile: str = "", also: Path | None = None) -> list[dict[str, Any]]:
    """The arms, then the controls that had their budget: ``arm``, ``name``, ``budget`` and ``seeds``, {seed: figures}.

    Of our runs and the committed ones those are taken that there are controls for, ours first.

    Raises:
        StoreError: there are none.
    """
    frame, _ = load_controls()
    groups = gather(task, profile, also)
    for runs in filter(None, groups):
        config = runs[0].run.config
        budget = config.steps * config.verifier_calls
        mine = frame[(frame["task"] == task) & (frame["instance"] == config.instance) & (frame["budget"] == budget)]
        if task in TIMED:
            mine = mine[mine["hardware"] == runs[0].hardware]
        shuffled = [
            f for source in ("reference", "ours") for f in collect.finished(task, source=source, control=SHUFFLED)
            if f.settings == runs[0].settings
        ]  # fmt: skip
        if mine.empty and not shuffled:
            continue
        found = [(arm, ARM_NAMES[arm], [f for f in runs if f.arm == arm]) for arm in ARMS[1:]]
        found += [
            (f"{arm} shuffled", f"{ARM_NAMES[arm]}, rewards shuffled", [f for f in shuffled if f.arm == arm])
            for arm in ("W", "W+H")
        ]
        out = [{"arm": a, "name": n, "budget": budget, "seeds": {f.seed: _figures(f) for f in own}} for a, n, own in found if own]
        for arm, name in CONTROLS.items():
            own = mine[mine["arm"] == arm].sort_values("created").to_dict("records")
            if own:
                seeds = {r["seed"]: r | {"run": Path(r["folder"]).name} for r in own}
                out.append({"arm": arm, "name": name, "budget": budget, "seeds": dict(sorted(seeds.items()))})
        return out
    raise StoreError(f"no control of '{task}' had the budget of its runs: `python -m sia_nb controls --task {task}` makes some")


def _figures(f: Finished) -> dict[str, Any]:
    own = f.report["arms"][f.arm]
    ledger = f.run.path / "ledger.jsonl"
    spent = [line["seconds"] for line in read_lines(ledger) if line["what"] == "phase"] if ledger.exists() else []
    return {
        "sealed": own["test"][f.report["metric"]], "dev": own["dev"], "calls": own["verifier_calls"], "tokens": own["tokens"],
        "passes": own["test"].get("passes_right"), "samples": None, "seconds": sum(spent), "hardware": f.hardware,
        "source": f.source, "run": f.run.path.name, "commit": f.run.info["commit"],
    }  # fmt: skip


def sentences(entries: list[dict[str, Any]]) -> list[str]:
    """A sentence for each arm against each control with seeds in common: the paired difference with its 95 % interval."""
    out = []
    arms, controls = ([e for e in entries if (e["arm"] in ARMS) is which] for which in (True, False))
    for one in arms:
        for other in controls:
            seeds = sorted(set(one["seeds"]) & set(other["seeds"]))
            if not seeds:
                continue
            mean, low, high = collect.interval([one["seeds"][s]["sealed"] - other["seeds"][s]["sealed"] for s in seeds])
            names = f"{one['name']} − {other['name']}"
            if low != low:
                out.append(f"{names}: {mean:+.3f} with 1 seed, which is no evidence of a difference either way.")
                continue
            verdict = "better" if low > 0 else "worse" if high < 0 else "not told apart: the interval holds 0"
            out.append(f"{names}: {mean:+.3f}, 95 % interval [{low:+.3f}, {high:+.3f}] over {len(seeds)} seeds: {verdict}.")
    return out
