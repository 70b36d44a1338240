"""Put the best program of a side-by-side run where the kit keeps its best kernel, with all that was measured beside it.

    python benchmarks/gpu/trimul_best.py SIDES.json SEARCH.json[.gz]

SIDES.json is what trimul_sides.py wrote, SEARCH.json what trimul_search.py did. The best is the program with the least device time
of those that stay within the tolerance at every shape and seed. Writes best.py, and best.json with the spec that it is
compiled from, to results/reference/trimul/<gpu>/, unless a faster one stands there.
"""

import argparse
import gzip
import json
from pathlib import Path

from sia_nb.store import ROOT, machine_name, write_atomic, write_json
from sia_nb.tasks.trimul.compile_cuda import compile_spec


def read(path):
    data = Path(path).read_bytes()
    return json.loads(gzip.decompress(data) if str(path).endswith(".gz") else data)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sides")
    p.add_argument("search")
    args = p.parse_args()
    sides, search = read(args.sides), read(args.search)
    good = [name for name in sides["programs"] if name in sides["means"] and sides["worst"][name][0] <= 1]
    if not good:
        raise SystemExit(f"error: {args.sides} holds no program that was right at every shape")
    best = min(good, key=lambda name: sides["means"][name]["device"])
    program = sides["programs"][best]
    tried = search["tried"]
    specs = [t["spec"] for t in tried if t["what"] == "full" and "failed" not in t and compile_spec(t["spec"]) == program]
    if not specs:
        raise SystemExit(f"error: no program that {args.search} tried compiles to {best} of {args.sides}: of another version?")
    peers = [name for name in sides["means"] if name not in sides["programs"]]
    kept = {name: name for name in peers} | {best: "best"}
    renamed = lambda row: {kept[name]: value for name, value in row.items() if name in kept}
    gpu = sides["hardware"].rpartition(", ")[2]
    folder = ROOT / "results" / "reference" / "trimul" / machine_name(gpu.partition("× ")[2] or gpu)
    before = folder / "best.json"
    if before.exists() and read(before)["means"]["best"]["device"] <= sides["means"][best]["device"]:
        raise SystemExit(f"error: {before} is faster already; delete it to put this one there")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "best.py", program)
    found = {
        "format": 1,
        "spec": specs[0],
        "tried": {"programs": len(tried), "seconds": search["seconds"]},
        **{key: sides[key] for key in ("hardware", "torch", "commit", "rates", "seeds")},
        "worst": renamed(sides["worst"]),
        "cases": {case: {"floor": row["floor"], **renamed(row)} for case, row in sides["cases"].items()},
        "passes": sides["passes"][best],
        "means": renamed(sides["means"]),
    }
    write_json(folder / "best.json", found)
    means = found["means"]
    for name, mean in means.items():
        print(
            f"{name:14} device {mean['device']:7.0f} µs, {mean['device'] / mean['floor']:5.2f} × floor; board {mean['board']:6.0f} µs"
        )
    print(folder / "best.py")


if __name__ == "__main__":
    main()
