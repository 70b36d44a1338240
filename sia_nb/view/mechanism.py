"""RQ2, what each lever changes (paper §7.2–7.4), as rows: edits of the scaffold, what the policy learned, choices, costs.

An edit of the scaffold is classed twice: by the name that the Feedback-Agent gave it, and by the diff, from the parts of
agent.py that differ from its parent's. What a weight update taught is read from its rollouts: for each field of a solution,
how far the distribution of the policy's values in the last training step lies from that of the first,

    TV = ½ Σ_v |p_after(v) − p_before(v)|,

which is called a shift where it lies beyond the 95 % quantile of the same distance under ``DRAWS`` random exchanges of
before and after: groups are small, and two samples of one policy differ as well. Every row names its run, step and events.
"""

from __future__ import annotations

import ast
import difflib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..store import Run, read_json, read_lines
from .collect import Finished
from .structure import functions_of
from .training import gain, result

CLASSES = ("prompt", "parser", "sampling", "search procedure", "retries and safeguards", "constant")
NAMED = {  # the class of an edit by its name, as the playbook names its edits
    "examples": "prompt",
    "prompt_hints": "prompt",
    "sturdier_extraction": "parser",
    "mend_answers": "parser",
    "structured_output": "sampling",
    "screen_policy": "sampling",
    "spare_tokens": "sampling",
    "use_whole_budget": "search procedure",
    "start_from_archive": "search procedure",
    "remember": "search procedure",
    "local_search": "search procedure",
    "screen_changes": "search procedure",
    "value_prior": "search procedure",
    "crossover": "search procedure",
    "skip_failing_values": "retries and safeguards",
    "retry_with_error": "retries and safeguards",
    "submit_as_found": "retries and safeguards",
    "survive_errors": "retries and safeguards",
}
PARTS = {
    "SYSTEM_PROMPT": "prompt",
    "build_prompt": "prompt",
    "extract": "parser",
    "propose": "sampling",
    "run": "search procedure",
}
UNNAMED = "not named"  # an edit whose name says nothing: a language model's
DRAWS = 200
LEAST = 4  # rollouts before and after under which no shift is asked for

EDIT_COLUMNS = [
    "task", "arm", "seed", "step", "edit", "class_by_name", "classes_by_diff", "parts_changed", "functions_added", "lines_added",
    "lines_removed", "kept", "gain", "noise", "decided_after", "events", "source", "run",
]  # fmt: skip
BEHAVIOUR_COLUMNS = [
    "task", "arm", "seed", "step", "algorithm", "kept", "behaviour", "field", "kind", "distance", "threshold", "value", "before",
    "after", "n_before", "n_after", "fields_tested", "rollouts", "source", "run",
]  # fmt: skip
CHOICE_COLUMNS = [
    "task",
    "arm",
    "seed",
    "step",
    "action",
    "lever_rule",
    "algorithm",
    "rule",
    "kept",
    "note",
    "events",
    "source",
    "run",
]
COST_COLUMNS = [
    "task",
    "arm",
    "seed",
    "phase",
    "times",
    "verifier_calls",
    "tokens",
    "seconds",
    "dollars",
    "source",
    "hardware",
    "run",
]


def _common(f: Finished) -> dict[str, Any]:
    return {"task": f.run.config.task, "arm": f.arm, "seed": f.seed, "source": f.source, "run": f.run.path.name}


# -- the harness -------------------------------------------------------------------------------------


def edits(runs: Iterable[Finished]) -> list[dict[str, Any]]:
    """A row for each named edit of each harness update; one for the update where the agent named none.

    ``events`` are the ids, in the trajectory of the step ``decided_after``, on which the decision rests.
    """
    out = []
    for f in runs:
        for g in f.run.executed():
            origin = f.run.origin(g)
            if origin["action"] != "harness":
                continue
            m, parent = f.run.metrics(g), origin["parent"]
            told = _common(f) | {"step": g, "kept": bool(m["accepted"]), "noise": m["noise"], "decided_after": g - 1}
            told |= {"gain": m["score"] - f.run.metrics(parent)["score"], "events": _evidence(f.run, g - 1)}
            told |= difference(f.run.scaffold(parent), f.run.scaffold(g))
            out += [told | {"edit": name, "class_by_name": class_by_name(name)} for name in origin["edits"] or [""]]
    return out


def class_by_name(edit: str) -> str:
    """``NAMED``; ``constant`` for ``NAME=value``, ``not named`` for any other."""
    if "=" in edit and edit.split("=")[0].isupper():
        return "constant"
    return NAMED.get(edit, UNNAMED)


def difference(before: str, after: str) -> dict[str, Any]:
    """What differs between two scaffolds: top-level parts changed and added, the classes that they make, lines.

    A function that is new counts for the class of the parts that call it.
    """
    old, new = _parts(before), _parts(after)
    changed = [name for name in new if name in old and new[name] != old[name]]
    added = [name for name in functions_of(after) if name not in old]
    classes = {PARTS[name] for name in changed if name in PARTS}
    classes |= {"constant" for name in changed if name.isupper() and name not in PARTS}
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[2:]
    return {
        "parts_changed": " ".join(changed), "functions_added": " ".join(added),
        "classes_by_diff": ", ".join(c for c in CLASSES if c in classes),
        "lines_added": sum(line[0] == "+" for line in lines), "lines_removed": sum(line[0] == "-" for line in lines),
    }  # fmt: skip


def _parts(source: str) -> dict[str, str]:
    """Top-level functions and constants by name, each as its syntax tree; nothing where the source is no Python."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return {}
    out = {n.name: ast.dump(n) for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    for n in body:
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name):
            out[n.targets[0].id] = ast.dump(n.value)
    return out


def _evidence(run: Run, g: int) -> str:
    path = run.step(g) / "decision.json"
    return " ".join(map(str, read_json(path)["evidence"])) if path.exists() else ""


# -- the weights -------------------------------------------------------------------------------------


def behaviours(runs: Iterable[Finished], kinds: dict[str, str]) -> list[dict[str, Any]]:
    """What each weight update taught the policy, a row a behaviour; nothing beyond chance gives the row ``no shift``,
    too few rollouts to ask ``too few to tell``.

    ``readable``: the share of answers that are solutions changed; ``score``: so did their mean, its 95 % interval without 0;
    ``field``: a field's values shifted. ``value`` is then the value whose share moved most, ``before`` and ``after`` its
    shares. ``rollouts`` are the lines of rollouts.jsonl compared: first and last of each group. ``kinds``: field → kind.
    """
    out = []
    for f in runs:
        for g in f.run.executed():
            origin = f.run.origin(g)
            folder = f.run.step(g) / "weights"
            if origin["action"] != "weights" or not (folder / "rollouts.jsonl").exists():
                continue
            told = _common(f) | {"step": g, "algorithm": origin["algorithm"], "kept": bool(f.run.metrics(g)["accepted"])}
            tested, found = _learned(folder, kinds)
            nothing = [{"behaviour": "no shift" if tested else "too few to tell"}]
            out += [told | {"fields_tested": tested} | row for row in found or nothing]
    return out


def _learned(folder: Any, kinds: dict[str, str]) -> tuple[int, list[dict[str, Any]]]:
    """(how many distributions were compared, what came of it)."""
    lines = list(enumerate(read_lines(folder / "rollouts.jsonl"), 1))
    own = [(n, r) for n, r in lines if r["source"] == "policy" and r["valid"] is not None]
    if not own:
        return 0, []
    first, last = own[0][1]["step"], own[-1][1]["step"]
    before, after = ([(n, r) for n, r in own if r["step"] == s] for s in (first, last))
    if first == last:
        return 0, []
    where = f"{before[0][0]}-{before[-1][0]} {after[0][0]}-{after[-1][0]}"
    common = {"n_before": len(before), "n_after": len(after), "rollouts": where}
    rows, tested = [], int(min(len(before), len(after)) >= LEAST)
    valid = [[r["valid"] for _, r in group] for group in (before, after)]
    distance, threshold, _, _ = shift(*valid)
    if distance > threshold:
        shares = tuple(sum(group) / len(group) for group in valid)
        rows.append(common | _moved("readable", "", "", distance, threshold, True, shares))
    told = result(folder)
    if told["before"]["n"] and told["after"]["n"]:
        _, low, high = gain(told["before"], told["after"])
        if low > 0 or high < 0:
            rows.append(
                common | {"behaviour": "score", "value": "rose" if low > 0 else "fell"}
                | {"before": told["before"]["mean"], "after": told["after"]["mean"]}
            )  # fmt: skip
    specs = [[_spec(r["solution"]) for _, r in group if r["valid"]] for group in (before, after)]
    specs = [[s for s in group if s] for group in specs]
    if min(map(len, specs)) >= LEAST:
        tested += len(specs[0][0])
        for field in specs[0][0]:
            values = [[json.dumps(s.get(field), ensure_ascii=False) for s in group] for group in specs]
            distance, threshold, value, shares = shift(*values)
            if distance > threshold:
                row = _moved("field", field, kinds.get(field, ""), distance, threshold, value, shares)
                rows.append(common | row | {"n_before": len(specs[0]), "n_after": len(specs[1])})
    return tested, rows


def _moved(behaviour: str, field: str, kind: str, distance: float, threshold: float, value: Any, shares: tuple) -> dict[str, Any]:
    told = {
        "behaviour": behaviour,
        "field": field,
        "kind": kind,
        "distance": distance,
        "threshold": threshold,
        "value": str(value),
    }
    return told | {"before": shares[0], "after": shares[1]}


def shift(before: list, after: list) -> tuple[float, float, Any, tuple[float, float]]:
    """(TV distance, its 95 % quantile under exchange, the value whose share moved most, that value's shares).

    Under ``LEAST`` values on either side the quantile is 1, which no distance exceeds. The draws are the same each time.
    """
    names = sorted({*before, *after}, key=str)
    hot = np.array([[v == name for name in names] for v in (*before, *after)], dtype=float)  # [N, values]
    n, total = len(before), len(before) + len(after)
    p, q = hot[:n].mean(0), hot[n:].mean(0)
    most = int(np.argmax(np.abs(q - p)))
    distance = float(np.abs(q - p).sum() / 2)
    if min(n, total - n) < LEAST:
        return distance, 1.0, names[most], (float(p[most]), float(q[most]))
    drawn = hot[np.random.default_rng(0).permuted(np.tile(np.arange(total), (DRAWS, 1)), axis=1)]  # [DRAWS, N, values]
    chance = np.abs(drawn[:, :n].mean(1) - drawn[:, n:].mean(1)).sum(1) / 2
    return distance, float(np.quantile(chance, 0.95)), names[most], (float(p[most]), float(q[most]))


def _spec(text: str | None) -> dict[str, Any]:
    """The fields of a spec; empty for a program."""
    try:
        value = json.loads(text or "")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# -- the Feedback-Agent ------------------------------------------------------------------------------


def choices(runs: Iterable[Finished]) -> list[dict[str, Any]]:
    """A row a decision that led to a step: the lever, the rule that gave it the turn, for weights the algorithm and its rule.

    A language model has no rules: they are empty, and its reasons stand in decision.json.
    """
    out = []
    for f in runs:
        for g in f.run.executed()[1:]:
            m, path = f.run.metrics(g), f.run.step(g - 1) / "decision.json"
            origin, decision = f.run.origin(g), read_json(path) if path.exists() else {}
            lever_rule, _, rule = decision.get("rule", "").partition("/")
            if not rule:  # an arm with one lever has nothing to choose
                lever_rule, rule = "", lever_rule
            out.append(
                _common(f) | {"step": g, "action": origin["action"], "algorithm": origin.get("algorithm", ""), "note": m["note"]}
                | {"lever_rule": lever_rule, "rule": rule, "kept": bool(m["accepted"]), "events": _evidence(f.run, g - 1)}
            )  # fmt: skip
    return out


def costs(runs: Iterable[Finished]) -> list[dict[str, Any]]:
    """A row a run and phase: how often it ran, what it spent, by the ledger."""
    out = []
    for f in runs:
        path = f.run.path / "ledger.jsonl"
        spent: dict[str, Counter] = {}
        for line in read_lines(path) if path.exists() else ():
            told = {k: line[k] for k in ("verifier_calls", "tokens", "seconds", "dollars")}
            spent.setdefault(line["phase"], Counter()).update({**told, "times": int(line["what"] == "phase")})
        out += [_common(f) | {"phase": p, "hardware": f.hardware, **s} for p, s in spent.items()]
    return out
