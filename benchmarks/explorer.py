"""The explorer's index beside reading a trajectory whole: seconds to open, filter and search logs of 100,000 and 1,000,000 events.

The logs are made up, of the proportions, texts and sizes of the recorded runs (about 390 bytes an event). The alternative is
what there was before: ``Trajectory.read``, then a loop over its events. Each side of each size runs in a process of its own,
whose peak memory is its own; a time is the least of a few rounds, in wall time and, as a busy machine stretches that, in
processor time. Takes 2 to 3 minutes, 0.4 GB on the disk and, for the alternative at a million events, 3 GB of memory.

    python benchmarks/explorer.py
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import _common

from sia_nb.trajectory import Trajectory, text_sha

SIZES = (100_000, 1_000_000)
ROUNDS = {100_000: 5, 1_000_000: 1}
CASES = "被告人张某以非法占有为目的，秘密窃取他人财物，数额较大，其行为已构成盗窃罪。"
RARE = "needle-7f3a"  # stands in one response of a thousand
SEARCHES = {
    "search, a rare word": RARE,
    "search, a common word": "centroid",
    "search, Chinese": "盗窃罪",
    "search, nothing": "no such text",
}


def make_log(path: Path, events: int, seed: int = 0) -> None:
    """A log of rounds: a sample, 32 responses and their extracts, 16 evaluations and verdicts, as in the recorded runs."""
    rng, number = Random(seed), 0
    fields = ("view", "tf", "idf", "min_df", "select", "model", "strength", "weight", "level2", "strength2", "view2", "model2")
    words = ("char12", "word1", "bm25", "centroid", "svc", "smooth", "none", "stack", "balanced")

    def solution() -> str:
        spec = {f: rng.choice(words) if rng.random() < 0.7 else round(rng.random(), 3) for f in fields}
        return json.dumps(spec, separators=(",", ":"))

    pool = [solution() for _ in range(5000)]
    with open(path, "w", encoding="utf-8") as file:

        def write(kind: str, /, **data: Any) -> int:
            nonlocal number
            event = {"id": number, "kind": kind, "seconds": number / 1000, "data": data}
            if number < events:
                file.write(json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n")
            number += 1
            return number - 1

        write("start", format=1, task="lawbench", instance="all191", seed=seed, sandbox="sandlock")
        while number < events:
            prompt = "Fields and their values:\n" + "\n".join(f'{f}: "{rng.choice(words)}"' for f in fields * 4) + CASES
            sample = write(
                "sample", messages=[{"role": "user", "content": prompt}], n=32, temperature=1.0, max_tokens=160, grammar=True
            )
            texts = [f"{rng.choice(pool)}{' ' + RARE if rng.random() < 0.001 else ''}" for _ in range(32)]
            for index, text in enumerate(texts):
                write("response", sample=sample, index=index, text=text, tokens=80, stop="end", logprob=-rng.random() * 20)
            for text in texts:
                write("extract", text_sha=text_sha(text), ok=True, solution=text, error="")
            for text in texts[:16]:
                evaluate, score, valid = write("evaluate", solution=text, dialect="spec"), rng.random(), rng.random() < 0.9
                metrics = {"macro": score, "top1": score, "se": 0.01}
                told = {
                    "score": score if valid else 0.0,
                    "valid": valid,
                    "reason": "" if valid else "timeout: 60 s",
                    "metrics": metrics,
                }
                told |= {"failure": "" if valid else "timeout", "cached": False, "repeat": False}
                write("verdict", evaluate=evaluate, solution_id=text_sha(text), **told)


def best(rounds: int, act: Callable[[], Any]) -> dict[str, float]:
    """Least wall and processor seconds of a few rounds, and the size of what came out."""
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        out = act()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {
        "seconds": round(min(walls), 4),
        "cpu_seconds": round(min(cpus), 4),
        "found": len(out) if hasattr(out, "__len__") else 0,
    }


def ours(path: Path, rounds: int) -> dict[str, Any]:
    """The explorer: open, filter, search, a page, an event, and following one more line."""
    from sia_nb.view.explorer.events import EventLog
    from sia_nb.view.explorer.model import Explorer

    out = {"open": best(rounds, lambda: EventLog(path))}
    log = EventLog(path)
    out["filter, by kind and score, sorted"] = best(
        rounds, lambda: log.select(kinds=["verdict"], reward=(0.7, None), sort="reward", descending=True)
    )
    out["filter, failures"] = best(rounds, lambda: log.select(failed=True))
    for name, text in SEARCHES.items():
        out[name] = best(rounds, lambda text=text: log.select(text=text))
    last = log.select(kinds=["verdict"])[-1]
    out["a page of 200 rows"] = best(rounds, lambda: log.rows(range(len(log) - 200, len(log))))
    out["an event with what belongs to it"] = best(rounds, lambda: log.linked(int(last)))
    out["through the model: a page of a search"] = _through_the_model(Explorer, path, rounds)

    def one_more() -> EventLog:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f'{{"id":{len(log)},"kind":"log","seconds":1.0,"data":{{"kind":"more"}}}}\n')
        assert log.refresh()
        return log

    return out | {"follow one more line": best(rounds, one_more)}


def _through_the_model(explorer: type, path: Path, rounds: int) -> dict[str, float]:
    """What a browser asks for, as JSON: an ``events`` request of a run folder whose only step has this log."""
    from sia_nb.config import make_config
    from sia_nb.store import Run

    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(make_config("smoke", task="lawbench"), Path(folder) / "run")
        (run.step(1) / "scaffold").mkdir(parents=True)
        (run.step(1) / "scaffold" / "agent.py").write_text("")
        os.symlink(path, run.step(1) / "trajectory.jsonl")
        x, ask = explorer([run.path]), {"do": "events", "run": "run", "g": 1}
        x.answer(ask)
        texts = iter(RARE[: len(RARE) - n] for n in range(rounds))  # each is new: a search asked for again is remembered
        return best(rounds, lambda: json.dumps(x.answer(ask | {"text": next(texts)})))


def peer(path: Path, rounds: int) -> dict[str, Any]:
    """``Trajectory.read``, then a loop over its events."""
    trajectory: list[Any] = []

    def read() -> Trajectory:
        trajectory.clear()
        trajectory.append(Trajectory.read(path))
        return trajectory[0]

    def search(text: str) -> list:
        return [e for e in trajectory[0] if text.lower() in json.dumps(e.data, ensure_ascii=False).lower()]

    def good() -> list:
        chosen = [e for e in trajectory[0] if e.kind == "verdict" and e.data["score"] >= 0.7]
        return sorted(chosen, key=lambda e: -e.data["score"])

    out = {"open": best(rounds, read), "filter, by kind and score, sorted": best(rounds, good)}
    return out | {name: best(rounds, lambda text=text: search(text)) for name, text in SEARCHES.items()}


def measure(side: str, path: Path, events: int) -> dict[str, Any]:
    """One side in a process of its own, with its peak memory in GB."""
    run = subprocess.run([sys.executable, __file__, side, str(path), str(ROUNDS[events])], capture_output=True, text=True)
    if run.returncode:
        return {"failed": run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"killed by signal {-run.returncode}"}
    return json.loads(run.stdout)


def main() -> None:
    """Measure and write ``explorer.json``."""
    sizes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for events in SIZES:
            path = Path(folder) / f"{events}.jsonl"
            make_log(path, events)
            told = {"megabytes": round(path.stat().st_size / 1e6, 1)}
            told["load_average"] = round(os.getloadavg()[0], 1)
            told |= {"peer": measure("peer", path, events), "ours": measure("ours", path, events)}
            sizes[str(events)] = told
            for name, value in told["ours"].items():
                print(f"{events:>9,} {name:40} {value}   {told['peer'].get(name, '')}", flush=True)
    small = sizes[str(SIZES[0])]
    mine, other = small["ours"]["open"]["seconds"], small["peer"]["open"]["seconds"]
    _common.write(
        "explorer",
        what="opening a trajectory of 100,000 events",
        unit="s",
        ours=mine,
        peers={"Trajectory.read": other},
        ratio=round(other / mine, 2),
        sizes=sizes,
        hardware=_common.hardware(),
        versions=_common.versions("numpy"),
        commit=_common.commit(),
        command="python benchmarks/explorer.py",
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        side, path, rounds = sys.argv[1:]
        result = (ours if side == "ours" else peer)(Path(path), int(rounds))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(result | {"peak_memory_gb": round(peak, 3)}))
    else:
        main()
