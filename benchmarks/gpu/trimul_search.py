"""Search SPACE_CUDA on this machine's GPU: parts first, then whole programs; all that was tried goes to a JSON file.

    python benchmarks/gpu/trimul_search.py --out build/search.json --seconds 440 [--resume EARLIER.json] [--begin BEST.json]

Beside the JSON file stand the best programs as ``trimul_1.py`` and so on, in the order of the device's clock.

Compiling runs in a pool of processes that need no GPU; timing in one process of its own, which is started again after a crash,
an illegal access or a hang. Stages: the projections' kernel for C = 128 and for C = 384, the output's, the batched product, each
by a random sample and then neighbours of the best; then whole programs from the best parts, checked and timed on both clocks by
the task's own timer; then a local search over whole programs until the time is over.
"""

import argparse
import json
import math
import multiprocessing as mp
import os
import random
import sys
import tempfile
import time
import traceback
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from pathlib import Path

from sia_nb.tasks.trimul.compile_cuda import compile_spec
from sia_nb.tasks.trimul.solution import FALLBACK_CUDA, SPACE_CUDA

MOST_SHARED = 227 * 1024
FIELDS = {f.name: f for f in SPACE_CUDA.fields}
BASE = {
    **FALLBACK_CUDA, "format": "float16", "project": "triton", "norm": "fused", "operand": "left", "layout": "tiles", "loads": "pointers",
    "sigmoid": "halved", "product": "cublas", "output": "triton", "launch": "direct",
}  # fmt: skip
# What a part's time depends on, and the shape (n, b, c) on which the parts are timed.
PARTS = {
    "narrow": (
        (
            "norm",
            "operand",
            "layout",
            "loads",
            "sigmoid",
            "narrow_rows",
            "narrow_pairs",
            "narrow_warps",
            "narrow_stages",
            "narrow_chunk",
            "narrow_resident",
        ),
        (768, 1, 128),
    ),
    "wide": (
        (
            "norm",
            "operand",
            "layout",
            "loads",
            "sigmoid",
            "wide_rows",
            "wide_pairs",
            "wide_warps",
            "wide_stages",
            "wide_program",
            "wide_resident",
        ),
        (768, 1, 384),
    ),
    "output128": (("layout", "output_rows", "output_columns", "output_warps", "output_stages"), (768, 1, 128)),
    "output384": (("layout", "output_rows", "output_columns", "output_warps", "output_stages"), (768, 1, 384)),
    "product": (("layout", "product", "product_tile", "product_stages"), (1024, 1, 128)),
}


def relaunched(spec):
    """The same program with its kernels launched the other way, which only whole programs show: parts are timed alone."""
    return {**spec, "launch": "direct" if spec["launch"] == "ahead" else "ahead"}


# --- compiling, without a GPU ---------------------------------------------------------------------------
class Hopper:
    """Stands for a GPU where Triton asks for one to compile."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self):
        import torch

        return torch.device("cpu")


def load(source, number):
    """A program as a module, always of the same name, so that Triton's cache knows kernels that programs have in common."""
    import importlib.util

    folder = Path(tempfile.gettempdir()) / f"trimul_{os.getpid()}"
    folder.mkdir(exist_ok=True)
    path = folder / f"p{number}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("program", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parts_of(module, what, x, mask, weights):
    """The calls of one part as thunks: (set-up's result, function to time)."""
    joined, last = module.prepare(weights)
    b, n, _, c = x.shape
    h = len(weights["left_proj"])
    if what in ("narrow", "wide"):
        return lambda: module.project(x, mask, weights, joined)
    sides, gate = module.sides_memory(x, h)
    if x.device.type == "cuda":
        sides.normal_(), gate.uniform_()  # zeros would run faster than real values
    left, right, gate = module.views(sides, gate)
    if what == "product":
        return lambda: module.product(left, right)
    o = module.product(left, right) if x.device.type == "meta" else left
    return lambda: module.output(o, gate, weights, last)


def weights_of(c, h, device):
    import torch

    weights = {
        name: torch.randn(h, c, device=device) / h**0.5
        for name in ("left_proj", "left_gate", "right_proj", "right_gate", "out_gate")
    }
    for name, size in (("norm", c), ("to_out_norm", h)):
        weights |= {f"{name}.weight": torch.randn(size, device=device), f"{name}.bias": torch.randn(size, device=device)}
    return weights | {"to_out": torch.randn(c, h, device=device) / h**0.5}


def checked(what, shapes):
    """The cases on which a job's program is checked before it is timed."""
    from sia_nb.tasks.trimul.reference import CORRECTNESS

    if what == "full":
        return CORRECTNESS[:9] if len(shapes) > 1 else ()
    if what == "product":
        return ()
    return [c for c in CORRECTNESS if c.c == (384 if shapes[0][2] == 384 else 128)][:2]


def compile_job(job):
    """Fill Triton's cache for a job; the most shared memory of its kernels, or why it does not compile."""
    number, what, spec, shapes = job
    try:
        import torch
        import triton

        torch.set_num_threads(1)
        triton.runtime.driver.set_active(Hopper())
        module = load(compile_spec(spec), number)
        shared = [0]
        module.launch = lambda kernel, grid, *args, **options: shared.append(
            kernel.warmup(*args, grid=grid, **options).metadata.shared
        )
        for n, b, c in shapes:
            x, mask, weights = (
                torch.empty(b, n, n, c, device="meta"),
                torch.empty(b, n, n, device="meta"),
                weights_of(c, 128, "meta"),
            )
            if what == "full":
                module.trimul(x, mask, weights)
            else:
                parts_of(module, what, x, mask, weights)()
        for case in checked(what, shapes):  # compiled here, so that the timing process finds them ready
            meta = {"device": "meta"}
            x, mask = torch.empty(case.b, case.n, case.n, case.c, **meta), torch.empty(case.b, case.n, case.n, **meta)
            module.trimul(x, mask, weights_of(case.c, 128, "meta"))
        return number, max(shared), ""
    except Exception as error:  # a candidate's failure is a result
        return number, 0, f"compile: {type(error).__name__}: {str(error)[-300:]}"


# --- timing, in a process of its own --------------------------------------------------------------------
def timer(pipe):
    """Serve jobs from ``pipe``: run, check and time; ends itself after a CUDA error, since the context is then lost."""
    import torch

    from sia_nb.tasks.trimul import reference
    from sia_nb.tasks.trimul.timing import Clocks

    torch.manual_seed(0)
    clocks, cache = Clocks(torch), {}
    flush = torch.empty(256 << 20, dtype=torch.int8, device="cuda")

    def inputs(shape):
        if shape not in cache:
            n, b, c = shape
            x, mask = torch.randn(b, n, n, c, device="cuda"), torch.randint(0, 2, (b, n, n), device="cuda").float()
            cache[shape] = (x, mask, weights_of(c, 128, "cuda"))
        return cache[shape]

    def median(call, times=9):
        found = []
        for _ in range(times):
            flush.zero_()
            torch.cuda._sleep(400_000)  # cycles, so that the launch is queued when the GPU comes to it
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            stop.record()
            torch.cuda.synchronize()
            found.append(start.elapsed_time(stop) * 1e3)
        return sorted(found)[len(found) // 2]

    def error_of(trimul, case, seed):
        x, mask, weights = reference.make_inputs(case, seed, "cuda")
        expected, y = reference.update(x, mask, weights), trimul(x, mask, weights)
        return float(((y - expected).abs() / (reference.ATOL + reference.RTOL * expected.abs())).nan_to_num(9e9).max())

    def serve(number, what, spec, shapes):
        module = load(compile_spec(spec), number)
        if what == "full":
            errors = [error_of(module.trimul, case, 7) for case in checked(what, shapes)]
            if max(errors, default=0) > 1:
                return {"failed": f"wrong: {max(errors):.2f} of the tolerance"}
            out = {"error": max(errors, default=0), "cases": {}}
            for case in [c for c in reference.BENCHMARK if (c.n, c.b, c.c) in shapes]:
                error = error_of(module.trimul, case, 11)
                if error > 1:
                    return {"failed": f"wrong: {error:.2f} of the tolerance on {case.name}"}
                out["error"] = max(out["error"], error)
                out["cases"][case.name] = clocks.measure(module.trimul, case, 5, seconds=0.12, least=7, most=60)
            for clock in ("board", "device"):
                out[clock] = math.exp(sum(math.log(v[clock]) for v in out["cases"].values()) / len(out["cases"]))
            for kept in ("KEPT", "PLANS", "NOTED"):
                getattr(module, kept, []).clear()
            return out
        error = max((error_of(module.trimul, case, 3) for case in checked(what, shapes)), default=0)
        if not error <= 1:
            return {"failed": f"wrong: {error:.2f} of the tolerance"}
        call = parts_of(module, what, *inputs(shapes[0]))
        call()
        torch.cuda.synchronize()
        took = median(call)
        for kept in ("KEPT", "PLANS", "NOTED"):
            getattr(module, kept, []).clear()
        return {"us": took}

    pipe.send({"ready": torch.cuda.get_device_name(), "torch": torch.__version__})
    while True:
        job = pipe.recv()
        if job is None:
            return
        try:
            pipe.send(serve(*job))
        except Exception as error:
            text = f"{type(error).__name__}: {str(error)[-300:]}"
            lost = "CUDA error" in text or "illegal" in text or "AcceleratorError" in text
            pipe.send({"failed": "run: " + text, "lost": lost, "trace": traceback.format_exc()[-800:]})
            if lost:
                os._exit(1)
        if len(cache) > 4:
            cache.clear()
        torch.cuda.empty_cache() if job[1] == "full" else None


class Timer:
    """The timing process and its restarts."""

    def __init__(self, pretend):
        self.pretend, self.process, self.hardware, self.crashes = pretend, None, {}, 0

    def start(self):
        context = mp.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=timer, args=(other,), daemon=True)
        self.process.start()
        other.close()
        if not self.pipe.poll(120):
            raise EOFError("the timing process did not start")
        self.hardware = self.pipe.recv()

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.join()
            self.process = None

    def run(self, job, seconds):
        if self.pretend:
            rng = random.Random(str(job[1:3]))
            t = rng.uniform(100, 900)
            return {"us": t} if job[1] != "full" else {"board": t * 1.1, "device": t, "error": 0.1, "cases": {}}
        try:
            if self.process is None or not self.process.is_alive():
                self.stop()
                self.start()
            self.pipe.send(job)
            if not self.pipe.poll(seconds):
                self.stop()
                return {"failed": f"timeout: {seconds} s"}
            out = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.stop()
            self.crashes += 1
            if self.crashes > 20 and not self.hardware:
                raise SystemExit(f"error: the timing process does not start: {error}") from error
            return {"failed": f"crash: {type(error).__name__}"}
        if out.get("lost"):
            self.stop()
        return out


# --- the search -----------------------------------------------------------------------------------------
class Search:
    def __init__(self, args):
        self.args, self.rng, self.began = args, random.Random(args.seed), time.time()
        self.timer, self.number, self.tried, self.saved = Timer(args.pretend), 0, {}, 0.0
        self.texts = set()  # of the whole programs that were tried
        self.open_pool()
        if args.resume:
            self.resume(json.loads(Path(args.resume).read_text()))

    def open_pool(self):
        self.pool = ProcessPoolExecutor(self.args.workers, mp_context=mp.get_context("spawn"))

    def resume(self, record):
        """Take over what an earlier search on the same kind of GPU has timed."""
        if not self.args.pretend:
            self.timer.start()
        name, now = record["hardware"].get("ready"), self.timer.hardware.get("ready")
        if name != now:
            print(f"not resumed: timed on {name}, this is {now}", flush=True)
            return
        for t in record["tried"]:
            t["spec"] = {**FALLBACK_CUDA, **t["spec"]}  # fields added since then, whose fallbacks are what there was
            if set(t["spec"]) == set(SPACE_CUDA.names) and not t.get("failed", "").startswith(("crash", "timeout")):
                self.tried[self.key(t["what"], t["spec"])] = t
                self.texts |= {compile_spec(t["spec"])} if t["what"] == "full" else set()
        print(f"resumed: {len(self.tried)} known", flush=True)

    def left(self):
        return self.args.seconds - (time.time() - self.began)

    def key(self, what, spec):
        names = PARTS[what][0] if what in PARTS else SPACE_CUDA.names
        return what, json.dumps({n: spec[n] for n in names}, sort_keys=True)

    def batch(self, what, specs, shapes, until, seconds=20):
        """Compile in parallel, time one by one as they come; forget what is left when the time is over."""
        new, seen = [], set()
        for spec in specs:
            key = self.key(what, spec)
            text = compile_spec(spec) if what == "full" else None  # which fields of no effect leave as it is
            if key not in self.tried and key not in seen and text not in self.texts:
                seen.add(key)
                self.texts |= {text} - {None}
                new.append(spec)
        futures = {}
        for spec in new:
            self.number += 1
            try:
                futures[self.pool.submit(compile_job, (self.number, what, spec, shapes))] = (self.number, spec)
            except BrokenExecutor:
                self.open_pool()
        try:
            for future in as_completed(futures, timeout=max(1, until - time.time())):
                number, spec = futures[future]
                try:
                    _, shared, failed = future.result()
                except BrokenExecutor as error:  # the compiler took its process with it, and the pool
                    print(f"{what}: {type(error).__name__}; what was being compiled is left out", flush=True)
                    break
                if not failed and shared > MOST_SHARED:
                    failed = f"compile: {shared} bytes of shared memory"
                out = {"failed": failed} if failed else self.timer.run((number, what, spec, shapes), seconds)
                self.tried[self.key(what, spec)] = {"what": what, "spec": spec, "shared": shared, **out}
                if time.time() > self.saved + 10:
                    self.save()
                if time.time() > until:
                    break
        except TimeoutError:
            pass
        for future in futures:
            future.cancel()
        self.save()

    def ranked(self, what, value="us"):
        return sorted((t for t in self.tried.values() if t["what"] == what and value in t), key=lambda t: t[value])

    def neighbours(self, what, spec):
        out = []
        for name in PARTS[what][0]:
            if name in ("norm", "sigmoid"):  # settled: seeds and samples have both
                continue
            field = FIELDS[name]
            values = [v for v in field.values if v not in ("wide", "maps") or what == "product"]
            if spec[name] not in values:
                continue
            at = values.index(spec[name])
            near = (at - 1, at + 1) if field.ordered else range(len(values))
            out += [{**spec, name: values[i]} for i in near if 0 <= i < len(values) and i != at]
        return out

    def part(self, what, sample, share):
        """Random sample, then neighbours of the best, within ``share`` of all seconds."""
        until = time.time() + min(share * self.args.seconds, self.left())
        names, shape = PARTS[what]
        draws = [{**BASE, **{n: self.rng.choice(FIELDS[n].values) for n in names}} for _ in range(40 * sample)]
        draws = [
            d for d in draws if "wide" not in (d["norm"], d["operand"]) and d["layout"] != "maps" and d["sigmoid"] == "halved"
        ]
        draws = [d for d in draws if what != "wide" or d["norm"] == "separate"]  # rows of so many channels do not fit
        known = [{**t["spec"], "sigmoid": "halved"} for t in self.ranked(what)[:8]]
        if what.startswith("output"):
            draws = [{**BASE, "output_rows": r, "output_columns": c, "output_warps": w, "output_stages": s, "layout": "rows"}
                     for r in FIELDS["output_rows"].values for c in FIELDS["output_columns"].values
                     for w in (4, 8) for s in (1, 2, 3)]  # fmt: skip
            self.rng.shuffle(draws)
        if what == "product":
            draws = [{**BASE, "layout": layout, "product": p, "product_tile": t, "product_stages": s}
                     for layout in ("rows", "maps") for p, t, s in [("cublas", "128x128", 3), ("triton", "128x128", 3), ("triton", "128x128", 4),
                     ("triton", "128x256", 3), ("triton", "128x256", 4), ("triton", "128x64", 4)]]  # fmt: skip
        self.batch(what, [*self.seeds(what), *known, *draws[:sample]], [shape], until)
        while time.time() < until and not what.startswith(("output", "product")):
            near = [
                n for t in self.ranked(what)[:5] for n in self.neighbours(what, t["spec"]) if self.key(what, n) not in self.tried
            ]
            if not near:
                break
            self.batch(what, near[:45], [shape], until)
        for t in self.ranked(what)[:4]:
            print(f"{what}: {t['us']:.1f} us", {n: t["spec"][n] for n in names}, flush=True)
        bad = [t for t in self.tried.values() if t["what"] == what and "failed" in t]
        print(f"{what}: {len(self.ranked(what))} timed, {len(bad)} failed, {self.left():.0f} s left", flush=True)
        for text in sorted({t["failed"][:160] for t in bad})[:6]:
            print("   ", text, flush=True)

    def seeds(self, what):
        """What ought to be good."""
        if what not in ("narrow", "wide"):
            return [BASE]
        if what == "wide":
            # norm and product in one program: 2 or 3 of them on a multiprocessor hide each other's norm and epilogue
            norm = [(128, 64, 4, 2, 3), (128, 64, 8, 2, 2), (128, 64, 4, 2, 0), (128, 64, 8, 3, 2), (128, 64, 4, 3, 2), (128, 32, 4, 2, 4),
                    (128, 32, 4, 3, 3), (64, 64, 4, 2, 4), (64, 64, 4, 3, 3), (128, 64, 8, 2, 0), (256, 32, 8, 2, 2), (256, 64, 8, 3, 1)]  # fmt: skip
            rows = [
                (256, 64, 8, 3, 1),
                (128, 128, 8, 3, 1),
                (128, 64, 4, 3, 2),
                (128, 64, 4, 2, 2),
                (256, 64, 8, 4, 1),
                (128, 64, 8, 3, 1),
            ]
            tile = [(128, 64, 4, 2, 3), (256, 64, 8, 3, 1), (128, 64, 8, 2, 2), (128, 64, 4, 2, 0), (256, 32, 8, 3, 2)]
            return [
                {**BASE, "norm": "separate", "operand": operand, "layout": layout, "loads": "tiles", "wide_program": program,
                 "wide_rows": r, "wide_pairs": p, "wide_warps": w, "wide_stages": s, "wide_resident": resident}
                for operand, layout in (("right", "rows"), ("left", "rows"), ("right", "tiles"))
                for program, tiles in (("norm", norm), ("rows", rows), ("tile", tile)) for r, p, w, s, resident in tiles
            ]  # fmt: skip
        # the weights come from the L2 cache once for each tile of rows, which bounds small tiles
        tiles = [(128, 32, 4, 2, 3), (128, 64, 8, 2, 2), (64, 32, 4, 2, 4), (128, 32, 4, 2, 0), (128, 32, 8, 2, 2), (128, 16, 4, 2, 3),
                 (128, 32, 4, 3, 2), (64, 64, 4, 2, 3)]  # fmt: skip
        return [
            {**BASE, "operand": operand, "layout": layout, "loads": "tiles", "narrow_rows": r, "narrow_pairs": p, "narrow_warps": w,
             "narrow_stages": s, "narrow_chunk": chunk, "narrow_resident": resident}
            for r, p, w, s, resident in tiles for chunk in (64, 32, 128)
            for operand, layout in (("right", "rows"), ("right", "tiles"), ("left", "tiles"))
        ]  # fmt: skip

    def near_whole(self, spec):
        """Whole programs that differ in one number, or that take another part's runner-up."""
        out = [n for what in ("narrow", "wide", "output128", "product") for n in self.neighbours(what, spec)]
        return [n for n in out if n["layout"] == spec["layout"] and n["norm"] == spec["norm"]]

    def combined(self):
        """Whole specs from the best parts that go together."""
        out = []
        structure = ("norm", "operand", "layout", "loads", "sigmoid")
        narrow, wide = self.ranked("narrow")[:12], self.ranked("wide")[:12]
        outputs = {}
        for t in [*self.ranked("output128"), *self.ranked("output384")]:
            name = json.dumps([t["spec"][n] for n in PARTS["output128"][0][1:]])
            outputs.setdefault(name, []).append(t)
        outputs = sorted((v for v in outputs.values() if len(v) == 2), key=lambda v: v[0]["us"] * v[1]["us"])[:3]
        outputs = outputs or [[{"spec": BASE}]]  # where the time was too short to time one on both shapes
        products = self.ranked("product")[:1] or [{"spec": BASE, "us": 1}]
        for a in narrow:
            for b in wide:
                spec = dict(a["spec"])
                if a["spec"]["norm"] != b["spec"]["norm"]:
                    if b["spec"]["norm"] != "separate":
                        continue
                    spec["norm"] = "wide"
                if a["spec"]["operand"] != b["spec"]["operand"]:
                    if b["spec"]["operand"] != "right":
                        continue
                    spec["operand"] = "wide"
                if any(a["spec"][n] != b["spec"][n] for n in structure[2:]):
                    continue
                spec |= {n: b["spec"][n] for n in PARTS["wide"][0] if n.startswith("wide")}
                for rank, o in enumerate(outputs):
                    spec = spec | {n: o[0]["spec"][n] for n in PARTS["output128"][0][1:]}
                    spec |= {n: products[0]["spec"][n] for n in PARTS["product"][0][1:]}
                    out.append((a["us"] * b["us"] * (1 + 0.01 * rank), spec))
        return [spec for _, spec in sorted(out, key=lambda t: t[0])]

    def run(self):
        from sia_nb.tasks.trimul.reference import BENCHMARK

        shapes = [(c.n, c.b, c.c) for c in BENCHMARK]
        full = lambda specs, until: self.batch("full", specs, shapes, until, 90)
        if self.args.begin:
            combined = [{**FALLBACK_CUDA, **json.loads(Path(self.args.begin).read_text())["spec"]}]
        else:
            self.part("wide", 12, 0.36)
            self.part("narrow", 12, 0.2)
            self.part("output384", 72, 0.06)
            self.part("output128", 72, 0.06)
            self.part("product", 12, 0.05)
            combined = self.combined()
        end = self.began + self.args.seconds
        full([s for spec in combined[:6] for s in (relaunched(spec), spec)], end - 0.1 * self.args.seconds)
        rest = combined[6:]
        while self.left() > 15:
            best = self.ranked("full", "device")[:3]
            near = [n for t in best for n in self.near_whole(t["spec"])]
            near, rest = [*rest[:4], *self.rng.sample(near, min(8, len(near)))], rest[4:]
            near = [*(relaunched(t["spec"]) for t in best), *near]
            near = [s for s in near if self.key("full", s) not in self.tried]
            if not near:
                break
            full(near, end)
        self.save()
        for t in self.ranked("full", "device")[:5]:
            print(
                f"full: device {t['device']:.1f} board {t['board']:.1f} us, error {t['error']:.2f}",
                SPACE_CUDA.dump(t["spec"]),
                flush=True,
            )
        self.timer.stop()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def save(self):
        out = Path(self.args.out)
        best = {clock: (self.ranked("full", clock) or [None])[0] for clock in ("device", "board")}
        record = {
            "hardware": self.timer.hardware,
            "seconds": time.time() - self.began,
            "best": best,
            "tried": list(self.tried.values()),
        }
        out.with_suffix(".part").write_text(json.dumps(record))
        out.with_suffix(".part").replace(out)
        chosen = self.ranked("full", "device")[: self.args.programs]
        chosen += [best["board"]] if best["board"] and best["board"] not in chosen else []
        for rank, found in enumerate(chosen, 1):
            out.with_name(f"trimul_{rank}.py").write_text(compile_spec(found["spec"]))
        self.saved = time.time()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="build/search.json")
    parser.add_argument("--seconds", type=float, default=440)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", help="the JSON file of an earlier search on the same kind of GPU, to go on from")
    parser.add_argument("--begin", help="a best.json: search around its program only, without the parts' stages")
    parser.add_argument("--programs", type=int, default=2, help="how many of the best programs to write out")
    parser.add_argument(
        "--pretend", action="store_true", help="compile only, to try this script without a GPU: its times mean nothing"
    )
    args = parser.parse_args()
    if not args.pretend:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("error: no CUDA device is usable here; this search times kernels on a GPU")
    os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp(prefix="triton_"))
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    search = Search(args)
    try:
        search.run()
    finally:
        search.save()
    sys.stdout.flush()
    for child in mp.active_children():  # that still compile
        child.kill()
    os._exit(0)


if __name__ == "__main__":
    main()
