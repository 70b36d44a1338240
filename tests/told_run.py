"""A run by hand that has something of everything to look at: a harness update that was kept, a weight update that was rolled
back, texts that are markup, binary, from right to left and Chinese; its numbers can be read off here."""

import json

from view_runs import a_line, a_result, a_rollout, trained

from sia_nb.config import make_config
from sia_nb.store import Run, write_json
from sia_nb.trajectory import text_sha

SCRIPT = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
ODD = "\u0000\u0007\u001b[31mred\u001b[0m \u2028 \ufffd"
HEBREW, CHINESE = "שלום עולם", "被告人犯盗窃罪，判处有期徒刑"
LONG = "\n".join(f"line {n} of a long answer" for n in range(400))
FIRST = 'SYSTEM_PROMPT = "first"\n\n\ndef build_prompt(state):\n    return []\n'
SECOND = 'SYSTEM_PROMPT = "second"\n\n\ndef build_prompt(state):\n    hint = "<b>hint</b>"\n    return [hint]\n'
SCORES = {1: 0.25, 2: 0.75, 3: 0.70}  # of the steps


def told_run(folder, *, name="told", finished=True, seed=0):
    """Lay it down under ``folder``; returns the run. ``finished`` false: the sealed test has not been opened."""
    run = Run.create(make_config("smoke", arm="W+H", seed=seed), folder / name)
    run.notice("made by hand <b>for tests</b>")
    _step(run, 1, "init", 0, FIRST, accepted=True)
    _step(run, 2, "harness", 1, SECOND, accepted=True, edits=["structured_output"])
    _step(run, 3, "weights", 2, SECOND, accepted=False, algorithm="grpo")
    write_json(run.step(1) / "decision.json", _decision("harness", "No answer could be read: <i>structure</i> it.", [2, 3]))
    write_json(run.step(2) / "decision.json", _decision("weights", "The harness stalls.", [7], algorithm="grpo"))
    (run.step(1) / "improvement.md").write_text(f"# After step 1\n\n- **unparsable**: `{SCRIPT}`\n- a second point\n")
    (run.step(3) / "weights").mkdir()
    rollouts = [a_rollout(0.2, advantage=-1.0), a_rollout(0.6, advantage=1.5), a_rollout(0.9, step=2, advantage=0.5)]
    (run.step(3) / "weights" / "rollouts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rollouts))
    trained(run, 3, a_result(0.4, 0.9, n=2), [a_line(1, 0.4), a_line(2, 0.9)])
    spent = {"verifier_calls": 8, "tokens": 100, "seconds": 2.5, "dollars": 0.125}
    ledger = [{"phase": phase, "step": g, "what": "phase", **spent} for g in SCORES for phase in ("run", "decision")]
    (run.path / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ledger))
    if finished:
        arm = lambda dev, test: {
            "solution": '{"x":1}',
            "solution_id": "s",
            "dev": dev,
            "test": {"top1": test},
            "verifier_calls": 8,
            "tokens": 9,
        }
        report = {"task": "lawbench", "seed": seed, "metric": "top1", "arms": {"baseline": arm(0.25, 0.2), "W+H": arm(0.75, 0.7)}}
        write_json(run.path / "report.json", report)
    return run


def _decision(action, rationale, evidence, algorithm=None):
    hyper = {"learning_rate": 1e-4} if algorithm else {}
    return {
        "action": action,
        "rationale": rationale,
        "evidence": evidence,
        "algorithm": algorithm,
        "hyperparameters": hyper,
        "rule": "a_rule",
    }


def _step(run, g, action, parent, source, *, accepted, algorithm="", edits=()):
    folder = run.step(g)
    (folder / "scaffold").mkdir(parents=True)
    (folder / "scaffold" / "agent.py").write_text(source)
    write_json(
        folder / "origin.json",
        {"action": action, "parent": parent, "edits": list(edits), "author": "playbook", "weights": 0, "algorithm": algorithm},
    )
    metrics = {
        "step": g,
        "score": SCORES[g],
        "noise": 0.01,
        "valid": True,
        "accepted": accepted,
        "incumbent": min(g, 2),
        "note": "",
        "solutions": [],
    }
    write_json(
        folder / "metrics.json", metrics | {"solution": '{"x":1}', "used": {"verifier_calls": 8, "tokens": 100, "seconds": 2.5}}
    )
    lines = [json.dumps(e, ensure_ascii=False, separators=(",", ":")) for e in events(g)]
    (folder / "trajectory.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(folder / "run.done.json", {"phase": "run", "files": {}})


def events(g):
    """The events of step g: two samples, the first with hostile texts, the second with answers that were scored."""
    good, bad = '{"model":"svc","strength":3}', '{"model":"nb"}'
    data = [
        ("start", {"format": 1, "task": "lawbench", "instance": "", "seed": g, "sandbox": "sandlock"}),
        ("sample", {"messages": [{"role": "system", "content": SCRIPT}, {"role": "user", "content": CHINESE}], "n": 3, "temperature": 1.0, "grammar": False}),
        ("response", {"sample": 1, "index": 0, "text": SCRIPT, "tokens": 30, "stop": "end", "logprob": -3.5}),
        ("response", {"sample": 1, "index": 1, "text": f"{ODD} {HEBREW} {CHINESE}", "tokens": 31, "stop": "end", "logprob": -3.5}),
        ("response", {"sample": 1, "index": 2, "text": LONG, "tokens": 900, "stop": "length", "logprob": -3.5}),
        ("extract", {"text_sha": text_sha(SCRIPT), "ok": False, "solution": None, "error": "no JSON object"}),
        ("evaluate", {"solution": good, "dialect": "spec"}),
        ("verdict", {"evaluate": 6, "solution_id": "a", "score": SCORES[g], "valid": True, "reason": "", "failure": "", "metrics": {"top1": 0.5}, "cached": False, "repeat": False}),
        ("evaluate", {"solution": bad, "dialect": "spec"}),
        ("verdict", {"evaluate": 8, "solution_id": "b", "score": 0.0, "valid": False, "reason": f"it crashed: {SCRIPT}", "failure": "crash", "metrics": {}, "cached": False, "repeat": False}),
        ("submit", {"solution": good, "solution_id": "a", "score": SCORES[g]}),
        ("end", {"reason": "returned", "used": {"verifier_calls": 2, "tokens": 961}}),
    ]  # fmt: skip
    return [{"id": n, "kind": kind, "seconds": n / 8, "data": d} for n, (kind, d) in enumerate(data)]
