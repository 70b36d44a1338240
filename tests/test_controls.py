"""The controls: what they spend, what they choose, that they go on after a kill, and how they are read and shown."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_problem import SPACE, ToyProblem, tiny_policy
from view_runs import a_run

from sia_nb import controls
from sia_nb.cli import main
from sia_nb.config import make_config
from sia_nb.controls import Control, parse_arms
from sia_nb.errors import ConfigError, InvalidSolution, StoreError
from sia_nb.sealed_report import EXAMINED, PROMOTED, promoted
from sia_nb.store import ROOT, Run, alone, data_dir, hardware, machine_name, read_json, read_lines, run_name, write_json
from sia_nb.tasks.base import Instance, Score, Solution
from sia_nb.training import proposals as drawing
from sia_nb.training import rollouts, trainer
from sia_nb.training.hyper import make_hyper
from sia_nb.training.problem import Reward, Start
from sia_nb.view import collect, everything, health
from sia_nb.view import controls as view

FALLBACK = {"w": 0, "x": 0, "y": 0, "z": 0}
BEST = {"w": 5, "x": 1, "y": 4, "z": 0}


def worth(text):
    spec = SPACE.parse(text)
    return sum(1 - abs(spec[f] - BEST[f]) / 5 for f in SPACE.names) / 4


class ToyVerifier:
    """The loop's verdict is ``worth``; the full one holds no solution with z above 2 valid; sealed is worth / 2."""

    def __init__(self, task):
        self.task = task

    def score(self, solution):
        self.task.asked.append(solution.text)
        if self.task.dies_at == len(self.task.asked):
            raise KeyboardInterrupt
        return Score(worth(solution.text), True, solution_id=solution.id)

    def full(self, solution):
        self.task.full.append(solution.text)
        return Score(worth(solution.text), SPACE.parse(solution.text)["z"] <= 2, solution_id=solution.id)

    def seal(self, solution):
        self.task.sealed.append(solution.text)
        if self.task.refuses:
            raise InvalidSolution("timeout", "on the sealed data")
        return {"top1": worth(solution.text) / 2}

    def close(self):
        self.task.closed += 1


class ToyTask:
    """A task in the toy space that writes down what it is asked."""

    name, title, metric, report_metric, space = "toy", "toy", "worth", "top1", SPACE
    instances = (Instance("whole", "a toy"),)

    def __init__(self):
        self.asked, self.full, self.sealed, self.closed, self.dies_at, self.refuses = [], [], [], 0, 0, False

    def fetch(self, folder, seed=0):
        return {"files": {"toy": "0" * 64}}

    def parse(self, text):
        return Solution("spec", SPACE.dump(SPACE.parse(text)))

    def fallback(self):
        return Solution("spec", SPACE.dump(FALLBACK))

    def verifier(self, *_, **__):
        return ToyVerifier(self)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    task = ToyTask()
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(controls, "get_task", lambda name: task)
    return task


def control(arm, *, seed=0, calls=0, **more):
    return Control(arm, make_config("smoke", task="lawbench", seed=seed, **more), calls, echo=lambda line: None)


# --- what they spend and choose ----------------------------------------------------------------------
@pytest.mark.parametrize("arm", ["random", "local"])
def test_a_control_makes_as_many_distinct_calls_as_a_run_of_the_profile(toy, arm):
    one = control(arm)
    told = one.run()
    config = make_config("smoke", task="lawbench")
    assert told["calls"] == told["used"] == config.steps * config.verifier_calls == len(set(toy.asked)) == len(toy.asked)
    lines = read_lines(one.folder / "calls.jsonl")
    assert [c["call"] for c in lines] == list(range(1, told["used"] + 1)) and [c["solution"] for c in lines] == toy.asked
    assert [c["best"] for c in lines] == [max(worth(s) for s in toy.asked[: k + 1]) for k in range(len(lines))]
    sound = sorted((s for s in toy.asked if SPACE.parse(s)["z"] <= 2), key=lambda s: (-worth(s), s))[:PROMOTED]
    assert told["solution"] == max([*sound, SPACE.dump(FALLBACK)], key=worth)
    assert toy.sealed == [told["solution"]] and told["test"]["top1"] == worth(told["solution"]) / 2 == told["dev"] / 2
    assert toy.closed == 1 and told["provenance"]["commit"] and told["samples"] >= told["used"]
    assert one.run() == told and len(toy.sealed) == 1, "a finished control is read, not done again"


def test_local_search_starts_from_the_fallback_and_beats_uniform_draws(toy):
    best = {}
    for arm in ("random", "local"):
        best[arm] = [control(arm, seed=seed, calls=60).run()["loop_best"] for seed in range(6)]
    assert sum(best["local"]) > sum(best["random"])
    assert read_lines(control("local", seed=3, calls=60).folder / "calls.jsonl")[0]["solution"] == SPACE.dump(FALLBACK)


def test_the_fallback_stands_in_where_nothing_found_holds(toy, monkeypatch):
    monkeypatch.setattr(
        controls, "uniform", lambda space, rng: controls.listed([SPACE.dump(BEST | {"z": 3 + n}) for n in range(3)])
    )
    told = control("random").run()
    assert told["fallback"] and told["solution"] == SPACE.dump(FALLBACK) and told["used"] == 3 < told["calls"]


def test_an_answer_that_fails_on_the_sealed_data_is_worth_nothing_and_says_why(toy):
    toy.refuses = True
    told = control("random", calls=5).run()
    assert told["test"] == {"top1": 0.0} and told["reason"].startswith("timeout")


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40), st.booleans())
def test_of_the_first_that_hold_the_best_by_the_full_verdict_is_promoted(verdicts, with_baseline):
    class V:
        asked = []

        def full(self, solution):
            self.asked.append(solution.text)
            value, valid = (0.5, True) if solution.text == "base" else verdicts[int(solution.text)]
            return Score(float(value), valid)

    verifier, found = V(), [Solution("spec", str(n)) for n in range(len(verdicts))]
    verifier.asked = []
    best, full = promoted(verifier, found, Solution("spec", "base") if with_baseline else None)
    sound = [n for n, (_, valid) in enumerate(verdicts) if valid][:PROMOTED]
    values = [(float(verdicts[n][0]), str(n)) for n in sound] + ([(0.5, "base")] if with_baseline else [])
    if values:
        assert (full[best.id].value, full[best.id].valid) == (max(v for v, _ in values), True)
    else:
        assert best == (found[0] if found else None)
    assert len(verifier.asked) == len(set(verifier.asked)) <= EXAMINED + 1


def test_a_report_that_did_not_end_keeps_its_choice_where_full_verdicts_come_out_otherwise(toy, monkeypatch):
    """Of a timing that may be: the sealed test is opened for the solution that was written down."""

    def stopped(*_):
        raise KeyboardInterrupt

    whole = ToyVerifier.full
    monkeypatch.setattr(ToyVerifier, "timed", True, raising=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ToyVerifier, "seal", stopped)
        control("random", calls=40).run()
    monkeypatch.setattr(
        ToyVerifier, "full", lambda self, solution: replace(found := whole(self, solution), value=1 - found.value)
    )
    told = control("random", calls=40).run()
    kept = read_json(control("random", calls=40).folder / "seal.json")["solutions"]["random"]
    assert told["solution_id"] == kept and toy.sealed == [told["solution"]] and told["dev"] == 1 - worth(told["solution"])
    others = [whole(ToyVerifier(toy), toy.parse(text)) for text in toy.asked]
    assert worth(told["solution"]) == max(v.value for v in others if v.valid)


# --- the policy's own answers ------------------------------------------------------------------------
def ask(policy, problem, start, before=(), **more):
    how = {"wanted": 30, "most": 240, "temperature": 1.0, "seed": 5} | more
    return list(drawing.proposals(policy, problem, start, before=before, **how))


def test_a_policys_batches_go_on_where_they_stopped(monkeypatch):
    monkeypatch.setattr(drawing, "BATCH", 8)
    policy, problem = tiny_policy(), ToyProblem()
    start = Start("s", [{"role": "user", "content": "Write a spec."}])
    whole = ask(policy, problem, start)
    texts = [s for b in whole for s in b.solutions]
    assert len(texts) == len(set(texts)) == 30 and whole[0].samples == 1 and len(whole) > 3
    assert ask(policy, problem, start, before=tuple(whole[:2])) == whole[2:]
    assert ask(policy, problem, start, before=tuple(whole)) == []


def test_a_policy_that_repeats_itself_is_asked_no_more_than_it_may():
    class Parrot:
        def sample(self, messages, n, **how):
            return tiny_policy().sample(messages, 1, segments=ToyProblem.segments, seed=1, temperature=0.0) * n

    (first, *rest) = ask(Parrot(), ToyProblem(), Start("s", [{"role": "user", "content": "x"}]), wanted=10, most=80)
    assert len(first.solutions) == 1 and not any(b.solutions for b in rest)
    assert first.samples + sum(b.samples for b in rest) == 80


# --- kills, and what a user gets wrong ---------------------------------------------------------------
@pytest.mark.parametrize("arm", ["random", "local"])
def test_a_killed_control_goes_on_to_the_same_end(toy, arm, tmp_path, monkeypatch):
    whole = control(arm).run()
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path / "killed"))
    toy.asked, toy.sealed, toy.dies_at = [], [], 10
    one = control(arm)
    with pytest.raises(KeyboardInterrupt):
        one.run()
    assert len(read_lines(one.folder / "calls.jsonl")) == 9 and not toy.sealed
    with open(one.folder / "calls.jsonl", "a") as f:
        f.write('{"call":10,"solu')  # half a line
    toy.asked, toy.dies_at = [], 0
    told = control(arm).run()
    assert len(toy.asked) == told["used"] - 9, "what stood in calls.jsonl was not asked for again"
    varying = ("seconds", "provenance")
    assert {k: v for k, v in told.items() if k not in varying} == {k: v for k, v in whole.items() if k not in varying}


def test_the_sealed_test_is_not_opened_for_another_solution(toy):
    one = control("random", calls=5)
    one.run()
    (one.folder / "control.json").unlink()
    lines = read_lines(one.folder / "calls.jsonl")
    worst = min(lines, key=lambda c: c["score"])
    (one.folder / "calls.jsonl").write_text(json.dumps(worst | {"score": 9.0, "solution": SPACE.dump(BEST)}) + "\n")
    with pytest.raises(StoreError, match="opened once"):
        control("random", calls=5).run()


def test_a_folder_in_use_or_of_other_parameters_is_refused(toy):
    one = control("random", calls=5)
    one.run()
    (one.folder / "control.json").unlink()
    with alone(one.folder, "wait"), pytest.raises(StoreError, match="in use by another process"):
        control("random", calls=5).run()
    write_json(one.folder / "plan.json", read_json(one.folder / "plan.json") | {"seed": 7})
    with pytest.raises(StoreError, match="other parameters"):
        control("random", calls=5)


def test_damage_in_the_middle_of_a_log_is_named(toy):
    one = control("random", calls=5)
    one.run()
    (one.folder / "control.json").unlink()
    log = one.folder / "calls.jsonl"
    log.write_text("{broken}\n" + log.read_text())
    with pytest.raises(StoreError, match="calls.jsonl is damaged .*line 1"):
        control("random", calls=5).run()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--arms", "randon"], "'randon' is not known.*Did you mean 'random'"),
        (["--arms", "random,random"], "names an arm twice"),
        (["--arms", "shuffled"], "run --arm W --control shuffled_rewards"),
        (["--calls", "-1"], "calls: -1; expected at least 1"),
        (["--seeds", "0"], "--seeds: 0; expected at least 1"),
        (["--seed", "-1"], "seed: -1"),
        (["--task", "lawbnech"], "Did you mean 'lawbench'"),
        (["--profile", "cup"], "Did you mean 'cpu'"),
        (["--profile", "paper", "--arms", "best_of_n"], "needs a local policy"),
        (["--dtype", "float16"], "dtype: 'float16'"),
    ],
)
def test_bad_input_is_named(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    assert main(["controls", *words]) == 2
    err = capsys.readouterr().err
    assert re.search(said, err) and "Traceback" not in err and not list(tmp_path.iterdir())


def test_parse_arms():
    assert parse_arms("all") == list(controls.ARMS) and parse_arms("local, random") == ["local", "random"]


# --- shuffled rewards --------------------------------------------------------------------------------
def a_group(values, valid):
    made = [rollouts.Rollout(str(n), (n,), "policy") for n in range(len(values))]
    for r, value, ok in zip(made, values, valid, strict=True):
        r.reward = Reward(value, ok, score=value)
    return rollouts.Rolled(Start("s", []), [], made)


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=24), st.integers(0, 99))
def test_shuffling_permutes_what_is_learned_from_among_the_valid_and_nothing_else(pairs, seed):
    values, valid = [float(v) for v, _ in pairs], [ok for _, ok in pairs]
    group, again = a_group(values, valid), a_group(values, valid)
    rollouts.shuffle([group], 3, seed)
    rollouts.shuffle([again], 3, seed)
    now = [r.reward.value for r in group.rollouts]
    assert now == [r.reward.value for r in again.rollouts]
    assert sorted(v for v, ok in zip(now, valid, strict=True) if ok) == sorted(v for v, ok in pairs if ok)
    assert all(n == v for n, v, ok in zip(now, values, valid, strict=True) if not ok)
    assert [(r.reward.score, r.reward.valid) for r in group.rollouts] == list(zip(values, valid, strict=True))


def test_shuffles_differ_between_steps_and_groups_and_leave_no_trace_of_the_order():
    values = [float(n) for n in range(12)]
    orders = set()
    for step in range(20):
        groups = [a_group(values, [True] * 12) for _ in range(2)]
        rollouts.shuffle(groups, step, 0)
        orders |= {tuple(r.reward.value for r in g.rollouts) for g in groups}
    assert len(orders) == 40 and tuple(values) not in orders
    firsts = [order[0] for order in orders]
    assert abs(sum(firsts) / len(firsts) - 5.5) < 2.5  # sd of the mean 0.55


def test_training_on_shuffled_rewards_tells_the_true_scores_and_does_not_learn(tmp_path):
    hyper = make_hyper("grpo", steps=16, group_size=16, learning_rate=5e-3, rank=8)
    gains = {}
    for shuffled in (False, True):
        folder = tmp_path / str(shuffled)
        result = trainer.train(tiny_policy(), ToyProblem(), hyper, folder=folder, seed=0, shuffled=shuffled)
        gains[shuffled] = result.after["mean"] - result.before["mean"]
        lines = read_lines(folder / "rollouts.jsonl")
        moved = [r for r in lines if r["reward"] != r["score"]]
        assert bool(moved) is shuffled
        for step in {r["step"] for r in lines}:
            mine = [r for r in lines if r["step"] == step]
            assert sorted(r["reward"] for r in mine) == sorted(r["score"] for r in mine)
        assert result.best["score"] == max(r["score"] for r in lines)
    assert gains[False] > 0.15 and gains[True] < gains[False] / 2


def test_a_shuffled_run_has_its_own_name_and_old_names_stay():
    plain = make_config("cpu", task="lawbench", arm="W")
    told = make_config("cpu", task="lawbench", arm="W", control="shuffled_rewards")
    assert run_name(told) != run_name(plain) and "-W-shuffled_rewards-cpu-" in run_name(told)
    committed = [p.parent for p in (ROOT / "results" / "reference" / "denoising").glob("*/*/run.json")]
    assert committed and all(run_name(Run(p).config) == p.name for p in committed)
    with pytest.raises(ConfigError, match="trains nothing; use W"):
        make_config("cpu", arm="H", control="shuffled_rewards")
    with pytest.raises(ConfigError, match="control: 'shufled'"):
        make_config("cpu", arm="W", control="shufled")


# --- reading and showing -----------------------------------------------------------------------------
@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Three seeds of H and W runs, and the three controls of two of them, on a toy verifier."""
    results = tmp_path / "results"
    monkeypatch.setenv("SIA_RESULTS", str(results))
    task = ToyTask()
    monkeypatch.setattr(controls, "get_task", lambda name: task)
    for seed in range(3):
        a_run(results, seed, 0.80 + 0.01 * seed, arm="H")
        a_run(results, seed, 0.70 + 0.01 * seed, arm="W")
    for seed in range(2):
        for arm in ("random", "local"):
            control(arm, seed=seed).run()
    return results


def test_the_reader_gives_a_row_a_control(shown):
    frame, lost = view.load_controls()
    assert not lost and len(frame) == 4 and set(frame["arm"]) == {"random", "local"} and list(frame.columns) == view.FRAME
    for row in frame.to_dict("records"):
        told = read_json(Path(row["folder"]) / "control.json")
        assert (row["sealed"], row["dev"], row["calls"]) == (told["test"]["top1"], told["dev"], told["used"])
        assert row["hardware"] == hardware() and row["source"] == "ours" and row["budget"] == 24


@pytest.mark.parametrize("harm", ["cut", "format", "calls", "lacks", "moved", "best"])
def test_a_damaged_control_is_named_skipped_and_said(shown, harm, capsys):
    one = control("local", seed=1).folder
    path = one / "control.json"
    told = read_json(path)
    if harm == "cut":
        path.write_text(path.read_text()[:100])
    elif harm == "calls":
        path = one / "calls.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    elif harm == "moved":
        (one / "control.json").write_text(json.dumps(told | {"task": "denoising"}))
    elif harm == "lacks":
        write_json(path, {k: v for k, v in told.items() if k != "test"})
    elif harm == "best":
        write_json(path, told | {"loop_best": 2.0})
        path = one / "calls.jsonl"
    else:
        write_json(path, told | {"format": 0})
    frame, (said,) = view.load_controls()
    assert len(frame) == 3 and str(path) in said


def test_the_figures_are_drawn_without_a_damaged_control_and_say_so(shown, capsys, monkeypatch):
    monkeypatch.setattr(everything, "MAKERS", {name: lambda **_: "drawn" for name in everything.MAKERS} | {
        "controls": everything.MAKERS["controls"]
    })  # fmt: skip
    path = control("local", seed=1).folder / "control.json"
    path.write_text("{")
    with pytest.raises(StoreError, match=re.escape(str(path))):
        everything.draw(["lawbench"])
    out = capsys.readouterr().out
    assert "Controls, lawbench: \n| arm | seeds |" in out and "| (1+1) local search | 1 |" in out


def test_the_table_sets_controls_beside_the_arms_of_their_budget(shown):
    words, files = view.table("lawbench")
    lines = [[c.strip() for c in line.strip("| ").split("|")] for line in words.splitlines() if line.startswith("|")]
    assert [row[0] for row in lines[2:]] == ["SIA-H", "SIA-W", "uniform draws", "(1+1) local search"]
    frame, _ = view.load_controls()
    for name, arm in (("uniform draws", "random"), ("(1+1) local search", "local")):
        row = next(r for r in lines if r[0] == name)
        own = frame[frame["arm"] == arm]
        mean, low, high = collect.interval(list(own["sealed"]))
        assert row[1:5] == ["2", f"{mean:.3f} [{low:.3f}, {high:.3f}]", f"{own['dev'].mean():.3f}", "24"]
    assert next(r for r in lines if r[0] == "SIA-H")[1:3] == ["3", "0.810 [0.785, 0.835]"]
    differences = [
        0.80 + 0.01 * s - float(frame[(frame["arm"] == "random") & (frame["seed"] == s)]["sealed"].iloc[0]) for s in (0, 1)
    ]
    assert f"SIA-H − uniform draws: {sum(differences) / 2:+.3f}, 95 % interval" in words
    assert "over 2 seeds" in words
    rows = files["csv"].read_text().splitlines()
    assert len(rows) == 1 + 2 * (1 + 3) + 2 * (1 + 2) and files["md"].read_text().strip() == words.strip()


def test_the_committed_controls_are_read_and_the_gate_is_told_of_the_task_that_has_one(tmp_path, monkeypatch):
    """Both tasks are in one frame: what is no gate for one must stay none beside the other's."""
    (tmp_path / "reference").symlink_to(ROOT / "results" / "reference")
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    frame, lost = view.load_controls()
    assert not lost and set(frame["task"]) >= {"lawbench", "denoising"}
    for task, gated in (("lawbench", False), ("denoising", True)):
        words, _ = view.table(task, out=tmp_path)
        assert ("passes the gate" in words) is gated and "rewards shuffled" in words and "nan" not in words


def test_controls_of_another_budget_or_instance_stand_beside_no_run(shown):
    shutil.rmtree(shown / "controls")
    control("random", calls=7).run()
    with pytest.raises(StoreError, match="no control of 'lawbench' had the budget"):
        view.table("lawbench")
    assert everything.controls_words("lawbench").startswith("not there: no control")


def test_shuffled_runs_are_in_the_table_and_nowhere_pooled(shown):
    for seed in range(3):
        a_run(shown, seed, 0.1, arm="W", control="shuffled_rewards", name=f"lawbench-W-shuffled_rewards-smoke-{seed}")
    assert all(f.report["arms"][f.arm]["test"]["top1"] > 0.5 for f in collect.finished("lawbench"))
    assert len(collect.finished("lawbench")) == 6 and len(collect.finished("lawbench", control="shuffled_rewards")) == 3
    words, _ = view.table("lawbench")
    assert "| SIA-W, rewards shuffled | 3 | 0.100 [0.100, 0.100] |" in words
    assert "SIA-W − SIA-W, rewards shuffled: +0.610, 95 % interval" in words
    also = shown / "runs" / "lawbench-W-shuffled_rewards-smoke-0"
    assert len(collect.finished("lawbench", also=also)) == 6
    (also / "run.json").write_text("{")
    (gap,) = health.gaps("lawbench")
    assert gap.arm == "" and "shuffled_rewards" in gap.path.name


def test_publishing_copies_what_is_read(shown):
    one = control("local", seed=0)
    target = controls.publish(one)
    assert target == shown / "reference" / "controls" / "lawbench" / machine_name(hardware()) / one.folder.name
    assert sorted(p.name for p in target.iterdir()) == sorted(controls.PUBLISHED)
    shutil.rmtree(shown / "controls")
    frame, lost = view.load_controls()
    assert not lost and list(frame["source"]) == ["reference"]
    (target / "control.json").unlink()
    frame, (said,) = view.load_controls()
    assert frame.empty and str(target / "control.json") in said
    with pytest.raises(StoreError, match="not finished"):
        controls.publish(control("best_of_n"))


def test_looking_at_controls_needs_no_torch(shown):
    code = "import sys; from sia_nb.view import controls; controls.load_controls(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


# --- real data -----------------------------------------------------------------------------------------
@pytest.mark.skipif(not (data_dir() / "denoising").exists(), reason="the denoising data are not prepared")
def test_four_calls_on_real_data_by_the_command_line(tmp_path, monkeypatch, capsys):
    """The smallest instance; every number printed is the file's, and the full verdicts and the seal are real."""
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    words = ["controls", "--task", "denoising", "--instance", "pbmc-80", "--arms", "random,local", "--calls", "4", "--publish"]
    assert main(words) == 0
    out = capsys.readouterr().out
    frame, lost = view.load_controls()
    assert not lost and sorted(frame["arm"]) == ["local", "random"] and set(frame["calls"]) == {4}
    for row in frame.to_dict("records"):
        assert f"sealed test mse_norm {row['sealed']:.4f}" in out and row["passes"] in (0.0, 1.0)
        assert read_json(Path(row["folder"]) / "seal.json")["solutions"][row["arm"]]
    assert len(list((tmp_path / "reference" / "controls" / "denoising").glob("*/*/control.json"))) == 2


@pytest.mark.slow
@pytest.mark.skipif(not (data_dir() / "models").exists(), reason="the embedded model is not there")
def test_the_untrained_policys_answers_on_real_data(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    one = control_of("denoising", "best_of_n", calls=6, instance="pbmc-80")
    told = one.run()
    drawn = read_lines(one.folder / "drawn.jsonl")
    assert told["used"] == 6 == sum(len(b["solutions"]) for b in drawn) and told["samples"] == sum(b["samples"] for b in drawn)
    assert told["tokens"] > 0 and told["dtype"] in ("float32", "bfloat16") and drawn[0]["samples"] == 1
    (one.folder / "drawn.jsonl").write_text(json.dumps(drawn[0]) + "\n")
    (one.folder / "control.json").unlink()
    again = control_of("denoising", "best_of_n", calls=6, instance="pbmc-80").run()
    assert again["solution"] == told["solution"] and again["samples"] == told["samples"]


def control_of(task, arm, **more):
    calls = more.pop("calls")
    return Control(arm, make_config("smoke", task=task, **more), calls, echo=lambda line: None)
