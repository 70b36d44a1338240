"""verify on the committed runs: they hold, and damage of each class is found and named."""

import json
import re
import shutil
from pathlib import Path
from random import Random

import pytest

from sia_nb.cli import main
from sia_nb.store import ROOT
from sia_nb.verify import verify

REFERENCE = sorted((ROOT / "results" / "reference").glob("*/*/*/run.json"))
RUN = next(p.parent for p in REFERENCE if p.parent.name.startswith("lawbench-W+H-cpu-playbook-s0"))


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def copy(tmp_path):
    target = tmp_path / RUN.name
    shutil.copytree(RUN, target)
    return target


@pytest.mark.parametrize("path", [p.parent for p in REFERENCE], ids=lambda p: p.name)
@pytest.mark.trust(suite="verify", backend="committed runs")
def test_a_committed_run_holds(path):
    found = verify(path)
    assert found.faults == [] and found.notes == [] and found.checked > 500


def test_there_are_committed_runs_of_both_tasks():
    assert {p.parts[-4] for p in REFERENCE} >= {"lawbench", "denoising"} and len(REFERENCE) >= 18


# --- damage ---------------------------------------------------------------------------------------------------------
def flip(raw: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ (1 << rng.randrange(8))]) + raw[at + 1 :]


def digit(raw: bytes, rng: Random) -> bytes:
    places = [m.start() for m in re.finditer(rb"[0-9]", raw)] or [0]
    at = rng.choice(places)
    return raw[:at] + bytes([48 + (raw[at] - 48 + rng.randrange(1, 10)) % 10]) + raw[at + 1 :]


def drop_line(raw: bytes, rng: Random) -> bytes:
    lines = raw.splitlines(True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def swap_lines(raw: bytes, rng: Random) -> bytes:
    lines = raw.splitlines(True)
    at = rng.randrange(max(1, len(lines) - 1))
    lines[at : at + 2] = reversed(lines[at : at + 2])
    return b"".join(lines)


DAMAGE = {
    "a bit flipped": flip, "a digit changed": digit, "a line dropped": drop_line, "lines swapped": swap_lines,
    "cut short": lambda raw, rng: raw[: rng.randrange(len(raw))], "emptied": lambda raw, rng: b"",
    "something appended": lambda raw, rng: raw + b'{"id": 1}\n', "zeroes in the middle": lambda raw, rng: raw[: len(raw) // 2] + bytes(8) + raw[len(raw) // 2 + 8 :],
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_the_file_named(copy, kind, trust):
    harm(copy, kind, trust, files(copy)[list(DAMAGE).index(kind) :: 20] + ["ledger.jsonl", "manifest.json"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.trust(suite="verify", backend="damaged copies")
def test_damage_to_any_file_is_found_and_the_file_named(copy, kind, trust):
    harm(copy, kind, trust, files(copy))


def harm(copy, kind, trust, names):
    rng = Random(kind)
    for name in names:
        path, whole = copy / name, (copy / name).read_bytes()
        harmed = DAMAGE[kind](whole, rng)
        if harmed == whole:
            continue
        path.write_bytes(harmed)
        found = verify(copy)
        said = [str(f) for f in found.faults]
        # a damaged manifest or mark accuses files that are whole, and is named with them
        assert trust.case(f"{kind}: {name}", any(name in s for s in said)), (name, said[:3])
        path.write_bytes(whole)
    assert verify(copy).faults == []


@pytest.mark.slow
@pytest.mark.trust(suite="verify", backend="damaged copies")
def test_a_missing_and_a_foreign_file_are_found(copy, trust):
    for name in files(copy):
        kept = (copy / name).read_bytes()
        (copy / name).unlink()
        if name != "manifest.json":  # without it the run is one from before there were manifests, and is said to be
            assert trust.case(f"missing: {name}", any(name in str(f) for f in verify(copy).faults)), name
        else:
            assert verify(copy).notes == ["no manifest.json: files outside the steps are held by their arithmetic alone"]
        (copy / name).write_bytes(kept)
    for name in ("step_002/extra.json", "extra.json", "step_009/scaffold/agent.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("{}")
        assert trust.case(f"foreign: {name}", any(name in str(f) for f in verify(copy).faults))
        (copy / name).unlink()


# --- forgeries: every hash made to fit, so that the arithmetic alone speaks ---------------------------------------------
def consistent(copy: Path) -> None:
    """Make every mark and the manifest fit the files as they are."""
    from sia_nb.store import Run, sha256, write_json

    for mark in copy.glob("step_*/*.done.json"):
        said = json.loads(mark.read_text())
        said["files"] = {n: sha256(copy / n) if (copy / n).exists() else h for n, h in said["files"].items()}
        write_json(mark, said)
    Run(copy).write_manifest()


def edit(copy: Path, name: str, change) -> None:
    path = copy / name
    if name.endswith(".jsonl"):
        lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        change(lines)
        path.write_text("".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines))
    else:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
    consistent(copy)


def put(*path, value):
    def change(data):
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value(data[path[-1]]) if callable(value) else value

    return change


def first(kind):
    return lambda lines: next(e for e in lines if e["kind"] == kind)["data"]


FORGERIES = [
    ("report.json", put("arms", "W+H", "verifier_calls", value=lambda v: v - 1), "arms.W+H.verifier_calls"),
    ("report.json", put("arms", "baseline", "tokens", value=0), "arms.baseline.tokens"),
    ("report.json", put("arms", "W+H", "solution", value=lambda v: v.replace("2", "3", 1)), "arms.W+H.solution"),
    ("report.json", put("arms", "W+H", "test", "top1", value=float("nan")), "arms.W+H.test.top1"),
    ("report.json", put("arms", "W+H", "dev", value=0.0), "arms.W+H.dev"),
    ("report.json", put("seed", value=7), "seed"),
    ("step_003/metrics.json", put("score", value=lambda v: v + 0.01), "score"),
    ("step_003/metrics.json", put("accepted", value=lambda v: not v), "accepted"),
    ("step_003/metrics.json", put("noise", value=9.0), "accepted"),
    ("step_003/metrics.json", put("counts", "evaluations", value=1), "counts.evaluations"),
    ("step_003/metrics.json", put("used", "tokens", value=1), "used.tokens"),
    ("step_003/metrics.json", put("solutions", 1, "score", value=0.999), "solutions[1].score"),
    ("step_003/trajectory.jsonl", lambda t: first("verdict")(t).update(score=0.99), "trajectory"),
    ("step_003/trajectory.jsonl", lambda t: first("response")(t).update(tokens=1), "used"),
    ("step_003/trajectory.jsonl", lambda t: first("response")(t).update(text="forged"), "trajectory"),
    ("step_003/trajectory.jsonl", lambda t: first("response")(t).update(sample=3), "sample"),
    ("step_003/trajectory.jsonl", lambda t: t.pop(4), "id"),
    ("step_003/trajectory.jsonl", lambda t: first("start")(t).update(scaffold="0" * 64), "start.scaffold"),
    ("step_004/decision.json", put("action", value="stop"), "action"),
    ("step_003/decision.json", put("evidence", value=[100_000]), "evidence"),
    ("step_003/origin.json", put("parent", value=1), "parent"),
    ("step_005/weights/result.json", put("verifier_calls", value=1), "verifier_calls"),
    ("step_005/weights/result.json", put("best", "score", value=0.99), "best.score"),
    ("step_005/weights/rollouts.jsonl", lambda r: r[0].update(tokens=9999), "tokens"),
    ("ledger.jsonl", lambda e: e.append(e[1]), "stands there twice"),
    ("ledger.jsonl", lambda e: e[1].update(verifier_calls=0, tokens=0), "tokens"),
    ("ledger.jsonl", lambda e: e.pop(), "report"),
    ("agent_calls.jsonl", lambda c: c[0].update(output=c[0]["output"] + "#"), "agent_calls.jsonl"),
    ("agent_calls.jsonl", lambda c: c[1]["inputs"].update(scaffold="0" * 16), "inputs"),
    ("run.json", put("data", "train.json", value="abc"), "data.train.json"),
    ("run.json", put("data", value={}), "data: names no checksum"),
    ("run.json", put("commit", value=""), "commit"),
    ("run.json", put("created", value="yesterday"), "created"),
    ("run.json", put("config", "seed", value=3), "seed"),
    ("run.json", put("config", "verifier_calls", value=27), "budget.verifier_calls"),
]


@pytest.mark.parametrize(("name", "change", "field"), FORGERIES, ids=[f"{n}:{f}" for n, _, f in FORGERIES])
@pytest.mark.trust(suite="verify", backend="forgeries with fitting hashes")
def test_a_forgery_whose_hashes_fit_is_found_by_arithmetic(copy, name, change, field):
    edit(copy, name, change)
    said = [str(f) for f in verify(copy).faults]
    assert any(field in s for s in said), said


def test_the_command_names_what_does_not_hold(copy, capsys):
    assert main(["verify", str(copy)]) == 0 and "holds" in capsys.readouterr().out
    (copy / "ledger.jsonl").write_bytes(b"")
    assert main(["verify", str(RUN), str(copy)]) == 1
    assert "ledger.jsonl: was altered" in capsys.readouterr().out
    (copy / "run.json").write_text("{")
    assert main(["verify", str(copy)]) == 1 and "run.json is damaged" in capsys.readouterr().out
