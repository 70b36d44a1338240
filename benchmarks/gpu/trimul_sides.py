"""Time the triangular update on a GPU side by side: eager float32, TF32, torch.compile with TF32, and candidate files.

    python benchmarks/gpu/trimul_sides.py [FILE.py ...] [--spec JSON ...] [--seconds 0.5] [--cases all|small]
                 [--json OUT.json] [--verify] [--no-peers] [--seeds 10]

Prints for each case both clocks [µs] and the floor, then geometric means and their ratio to the floor, how much of the
tolerance each used at worst (every correctness and benchmark shape, the latter with and without a mask, under --seeds
seeds), and where each pass of the kit's own programs stands against its own floor. --verify also scores each file through the verifier (in a process of its own; no sandbox where
none is usable) as --task trimul_cuda does.
"""

import argparse
import importlib.util
import inspect
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from sia_nb.store import commit, hardware
from sia_nb.tasks.trimul.floor import floor_us, geometric_mean, measure_rates
from sia_nb.tasks.trimul.reference import ATOL, BENCHMARK, CORRECTNESS, RTOL, Inputs, case, update
from sia_nb.tasks.trimul.timing import Clocks

torch.set_grad_enabled(False)


def tf32(on):
    torch.backends.cuda.matmul.allow_tf32 = on


def load(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[Path(path).stem] = module
    spec.loader.exec_module(module)
    return module


def passes(module, case, flusher, times=15):
    """Median µs of each pass of a program in parts, queued behind a kernel that spins; "prepare" is the weights' own pass."""
    inputs = Inputs(case, 1, "cuda")
    x, mask, weights = inputs.x, inputs.mask, dict(inputs.weights)
    prepared = module.prepare(weights) if hasattr(module, "prepare") else ()
    own = lambda function, *args: function(*args[: len(inspect.signature(function).parameters)])  # PyTorch's parts take no more
    project = lambda: own(module.project, x, mask, weights, *prepared[:1])
    left, right, gate = project()
    o = module.product(left, right)
    calls = {"prepare": lambda: module.prepare(weights)} if prepared else {}
    calls |= {"project": project, "product": lambda: module.product(left, right)}
    calls |= {"output": lambda: own(module.output, o, gate, weights, *prepared[1:])}
    found = {}
    for name, call in calls.items():
        taken = []
        for _ in range(times + 2):
            flusher.zero_()
            torch.cuda._sleep(1_000_000)  # cycles; the launch is queued meanwhile
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            stop.record()
            torch.cuda.synchronize()
            taken.append(start.elapsed_time(stop) * 1e3)
        found[name] = statistics.median(taken[2:])
        getattr(module, "NOTED", []).clear()
    return found


def excess(function, case, setup, seed):
    """Largest |Δ| / tolerance against eager float32."""
    inputs = Inputs(case, seed, "cuda")
    setup()
    y = function(inputs.x, inputs.mask, dict(inputs.weights))
    tf32(False)
    want = update(inputs.x, inputs.mask, inputs.weights)
    if y.shape != want.shape or y.dtype != want.dtype or not bool(torch.isfinite(y).all()):
        return float("inf")
    return float(((y - want).abs() / (ATOL + RTOL * want.abs())).max())


def main():
    p = argparse.ArgumentParser()
    p.add_argument("files", nargs="*")
    p.add_argument("--spec", action="append", default=[])
    p.add_argument("--seconds", type=float, default=0.5)
    p.add_argument("--cases", choices=("all", "small"), default="all")
    p.add_argument("--json")
    p.add_argument("--verify", action="store_true")
    p.add_argument("--no-peers", action="store_true")
    p.add_argument("--seeds", type=int, default=1)
    args = p.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("error: no CUDA device is usable here; this benchmark times kernels on a GPU")
    cases = BENCHMARK if args.cases == "all" else [c for c in BENCHMARK if c.n <= 512]
    print(hardware(), "torch", torch.__version__, "commit", commit())
    os.system("nvidia-smi --query-gpu=name,clocks.sm,clocks.max.sm,temperature.gpu,utilization.gpu --format=csv,noheader")
    rates = measure_rates("cuda")
    print(f"copy {rates['copy'] / 1e12:.3f} TB/s, float16 products {rates['matmul'] / 1e12:.0f} TFLOP/s")
    clocks = Clocks(torch)
    makers = {}
    if not args.no_peers:
        makers = {"eager float32": (update, lambda: tf32(False)), "eager TF32": (update, lambda: tf32(True))}
        torch._dynamo.config.recompile_limit = 64  # one program a shape; past the limit it would run eagerly
        compiled = torch.compile(update, dynamic=False)
        makers["compile TF32"] = (compiled, lambda: tf32(True))
    sources = {}
    for text in args.spec:
        from sia_nb.tasks.trimul.solution import compile_solution, parse

        path = Path(tempfile.mkdtemp()) / f"spec_{len(sources)}.py"
        path.write_text(compile_solution(parse(text, "cuda")))
        sources[f"spec {len(sources)}"] = path
    sources |= {Path(f).stem: Path(f) for f in args.files}
    modules = {name: load(path) for name, path in sources.items()}
    makers |= {name: (module.trimul, lambda: tf32(False)) for name, module in modules.items()}
    result = {"hardware": hardware(), "torch": torch.__version__, "commit": commit(), "rates": rates, "cases": {}, "worst": {}}
    result |= {"seeds": args.seeds, "programs": {name: Path(path).read_text() for name, path in sources.items()}, "passes": {}}

    def keep():
        if args.json:
            Path(args.json).write_text(json.dumps(result, indent=1))

    for name, (function, setup) in makers.items():
        began = time.time()
        own = name in modules
        shapes = [*CORRECTNESS, *cases, *(case(c.n, c.b, c.c, c.distribution, not c.masked) for c in cases)] if own else cases
        if args.cases == "small":
            shapes = [c for c in shapes if c.n <= 256]
        try:
            worst = max((excess(function, c, setup, seed), c.name) for c in shapes for seed in range(args.seeds if own else 1))
        except Exception as error:
            worst = (float("inf"), f"{type(error).__name__}: {str(error)[:300]}")
        result["worst"][name] = worst
        print(f"{name:16} uses {worst[0]:.1%} of the tolerance at worst ({worst[1]}), {time.time() - began:.0f} s", flush=True)
    keep()

    for c in cases:
        floor = floor_us(c, rates)
        row = result["cases"][c.name] = {"floor": floor}
        print(f"{c.name}: floor " + ", ".join(f"{k} {v:.0f}" for k, v in floor.items()))
        for name, (function, setup) in makers.items():
            if result["worst"][name][0] == float("inf"):
                continue
            setup()
            row[name] = found = clocks.measure(function, c, 1, seconds=args.seconds)
            print(
                f"  {name:16} board {found['board']:8.1f} ± {found['board_se']:.1f}  device {found['device']:8.1f} ± "
                f"{found['device_se']:.1f} µs  {found['device'] / floor['total']:5.2f} × floor{'  LATE' if found['late'] else ''}",
                flush=True,
            )
        for name, module in modules.items():
            if result["worst"][name][0] == float("inf") or not hasattr(module, "product"):
                continue
            tf32(False)
            found = result["passes"].setdefault(name, {})[c.name] = passes(module, c, clocks.flusher)
            against = ", ".join(
                f"{p} {t:.0f}" + (f" ({t / floor[p]:.2f} × floor)" if p in floor else "") for p, t in found.items()
            )
            print(f"  {name:16} {against}", flush=True)
        keep()
    floor = geometric_mean([r["floor"]["total"] for r in result["cases"].values()])
    print(f"geometric means; floor {floor:.1f} µs")
    for name in makers:
        if result["worst"][name][0] < float("inf"):
            board, device = (geometric_mean([r[name][k] for r in result["cases"].values()]) for k in ("board", "device"))
            result.setdefault("means", {})[name] = {"board": board, "device": device, "floor": floor}
            keep()
            print(f"  {name:16} board {board:8.1f} ({board / floor:5.2f})  device {device:8.1f} ({device / floor:5.2f})")
    if args.verify:
        from sia_nb.tasks.base import Solution
        from sia_nb.tasks.trimul.verifier import TriMulVerifier

        with TriMulVerifier(
            Path(), Path(tempfile.mkdtemp()), instance="cuda", unsafe_no_sandbox=True, code_seconds=300
        ) as verifier:
            for name, path in sources.items():
                verdict = verifier.score(Solution("code", path.read_text()))
                result.setdefault("verdicts", {})[name] = verdict.to_dict()
                print(
                    f"verdict on {name}: {verdict.value:.4f} {verdict.reason} {verdict.seconds:.0f} s {verdict.metrics}",
                    flush=True,
                )
                keep()
    keep()


if __name__ == "__main__":
    main()
