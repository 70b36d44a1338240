"""The transfer study: searchers, a whole study on a toy task, what its figure says."""

import json
import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_problem import SPACE, tiny_policy

from sia_nb.cli import main
from sia_nb.errors import ConfigError, StoreError
from sia_nb.store import alone
from sia_nb.study import announcement, make_plan, pace, parse_hyper
from sia_nb.tasks import get_task
from sia_nb.tasks.base import Instance, Score, Solution
from sia_nb.training.clock import Clock
from sia_nb.training.hyper import make_hyper
from sia_nb.training.searchers import climb, distance, follow, listed, uniform
from sia_nb.training.transfer import Transfer
from sia_nb.training.transfer_plan import ARMS, Plan
from sia_nb.view import transfer as view

OPTIMA = {"whole": (5, 1, 4, 0), "one": (5, 1, 4, 1), "two": (5, 2, 4, 0), "near-one": (5, 1, 4, 2), "near-two": (5, 3, 4, 0)}


def worth(text: str, name: str = "whole") -> float:
    spec = SPACE.parse(text)
    return sum(1 - abs(spec[f] - best) / 5 for f, best in zip(SPACE.names, OPTIMA[name], strict=True)) / 4


# --- searchers ------------------------------------------------------------------------------------------
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 12))
def test_a_curve_counts_distinct_solutions_and_keeps_the_best(values, calls):
    asked = []
    curve = follow(listed(map(str, values)), lambda text: asked.append(text) or float(text), calls)
    distinct = list(dict.fromkeys(values))[:calls]
    assert asked == [str(v) for v in distinct] and curve.distinct == len(distinct) and len(curve.best) == calls + 1
    expected = [max(distinct[: k or 1]) for k in range(len(distinct) + 1)]
    assert list(curve.best) == expected + expected[-1:] * (calls - len(distinct))


@given(st.integers(0, 10**6))
def test_a_change_is_of_one_or_two_fields(seed):
    spec = SPACE.random(Random(seed))
    child = SPACE.changed(spec, Random(seed + 1))
    assert set(child) == set(spec) and sum(child[n] != spec[n] for n in spec) in (1, 2)
    assert SPACE.parse(SPACE.dump(child)) == child


def test_climbing_beats_uniform_draws_and_starts_from_the_best_given():
    scores = {name: [] for name in ("climb", "uniform")}
    for seed in range(20):
        first = SPACE.dump(SPACE.random(Random(seed)))
        scores["climb"].append(follow(climb(SPACE, Random(seed), [first]), worth, 60).best[-1])
        scores["uniform"].append(follow(uniform(SPACE, Random(seed)), worth, 60).best[-1])
    assert np.mean(scores["climb"]) > np.mean(scores["uniform"]) + 0.05
    starts = ['{"w":0,"x":5,"y":0,"z":5}', '{"w":5,"x":1,"y":4,"z":1}', '{"w":1,"x":5,"y":0,"z":5}']
    asked = []
    curve = follow(climb(SPACE, Random(0), starts), lambda text: asked.append(text) or worth(text), 5)
    assert asked[:3] == starts and curve.best[:4] == (worth(starts[0]), worth(starts[0]), *[worth(starts[1])] * 2)
    one, two = SPACE.parse(starts[1]), SPACE.parse(asked[3])
    assert sum(one[n] != two[n] for n in one) <= 2


def test_searchers_that_only_repeat_themselves_or_propose_nothing_end():
    def same():
        while True:
            yield "1"

    assert follow(same(), float, 5).best == (1.0,) * 6
    with pytest.raises(ValueError, match="proposed nothing"):
        follow(listed([]), float, 5)


def test_distance_is_between_the_numbers_of_two_descriptions():
    assert distance("10 charges, 4 texts", "10 charges, 4 texts") == 0
    near, far = distance("10 charges, 4 texts", "12 charges, 4 texts"), distance("10 charges, 4 texts", "60 charges, 20 texts")
    assert 0 < near < far < math.inf == distance("10 charges", "10 charges, 4 texts") == distance("none", "none")


def test_the_clock_goes_by_its_guesses_until_it_has_measured():
    told = []
    clock = Clock(lambda *args: told.append(args), {"train": 10.0, "draw": 3.0})
    clock.plan({"train": 3, "draw": 2})
    clock.skip("train", 1)
    clock.done("train", "a step")
    what, share, left = told[0]
    assert what == "a step" and 6.0 <= left < 6.5 and 0 <= share < 0.2
    for _ in range(2):
        clock.done("draw", "proposals")
    clock.done("train", "the last")
    assert told[-1][2] == 0 and told[-1][1] == 1


# --- a whole study ----------------------------------------------------------------------------------------
class ToyTask:
    """Specs of ``toy_problem``, worth how near they stand to the optimum of an instance; held-out optima are near the others'."""

    name, title, metric, report_metric, space = "toy", "Toy", "worth on dev", "worth", SPACE
    instances = tuple(
        Instance(name, f"{n} points, {10 * n} in all", name.startswith("near"))
        for name, n in zip(OPTIMA, (90, 2, 50, 3, 40), strict=True)
    )

    def spec_text(self):
        return "Find the point."

    def fallback(self):
        return Solution("spec", '{"w":0,"x":0,"y":0,"z":0}')

    def parse(self, text):
        return Solution("spec", SPACE.dump(SPACE.parse(text)))


class ToyVerifier:
    def __init__(self, name):
        self.name, self.closed = name, False

    def score(self, solution):
        assert not self.closed
        value = worth(solution.text, self.name)
        return Score(value, True, solution_id=solution.id)

    def close(self):
        self.closed = True


SOURCE = """
SYSTEM_PROMPT = "Propose a point."

def build_prompt(state):
    return [{"role": "user", "content": SYSTEM_PROMPT + " " + state["task"]["instance"]}]

def extract(text):
    return text

def run(env):
    env.submit(env.task["fallback"])
"""


def plan(**change) -> Plan:
    hyper = make_hyper("grpo", steps=6, groups=2, group_size=8, learning_rate=5e-3, rank=8, entropy_floor=0.0)
    given = {
        "name": "toy", "task": "toy", "policy": "tiny", "train": ("one", "two"), "held_out": ("near-one", "near-two"),
        "seeds": (0, 1), "searches": 2, "calls": 8, "hyper": hyper,
    }  # fmt: skip
    return Plan(**{**given, **change})


def study(folder, policy=tiny_policy, chosen=None, opened=None):
    def verifier(name):
        if opened is not None:
            opened.append(name)
        return ToyVerifier(name)

    return Transfer(chosen or plan(), task=ToyTask(), policy=policy, source=SOURCE, verifier=verifier, folder=folder)


def none_left():
    raise AssertionError("there is nothing left to sample")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished study: its folder and its result."""
    folder = tmp_path_factory.mktemp("transfer")
    first = study(folder).run((1,))
    assert first is None
    return folder, study(folder).run()


def test_every_arm_has_a_curve_for_every_seed_search_and_instance(done):
    folder, data = done
    keys = [(r["arm"], r["instance"], r["seed"], r["search"]) for r in data["runs"]]
    assert len(set(keys)) == len(keys) == 6 * 2 * 2 * 2 and {k[0] for k in keys} == set(ARMS)
    for run in data["runs"]:
        assert len(run["best"]) == 9 and run["best"] == sorted(run["best"]) and run["best"][0] == run["best"][1]
        assert run["distinct"] == 8 or run["arm"] in ("trained", "untrained")
        assert run["samples"] >= run["distinct"] if run["arm"] in ("trained", "untrained") else run["samples"] == 0
    assert data["reference"] == {
        n: {"value": worth('{"w":0,"x":0,"y":0,"z":0}', n), "metrics": {}} for n in ("near-one", "near-two")
    }
    assert data["grid"] == [0, 1, 8] and data == json.loads((folder / "transfer.json").read_text())
    assert [t["verifier_calls"] <= 96 and t["seed"] for t in data["training"]] == [0, 1]


def test_training_on_some_instances_helps_on_others_whose_optima_are_near(done):
    _, data = done
    first = {arm: np.mean([r["best"][0] for r in data["runs"] if r["arm"] == arm]) for arm in ARMS}
    assert first["trained"] > first["untrained"]


def test_curves_are_what_the_arms_proposed(done):
    folder, data = done
    drawn = json.loads((folder / "seed_001" / "proposals-trained.json").read_text())
    runs = {(r["arm"], r["instance"], r["seed"], r["search"]): r["best"] for r in data["runs"]}
    for name in ("near-one", "near-two"):
        for search in (0, 1):
            texts = drawn[f"{name}-{search}"]["solutions"]
            assert len(set(texts)) == len(texts) <= 8
            values = [worth(t, name) for t in texts]
            assert runs["trained", name, 1, search][: len(values) + 1] == pytest.approx(
                [values[0], *np.maximum.accumulate(values)], abs=1e-6
            )
            assert runs["search", name, 1, search][0] == runs["random", name, 1, search][0]


def test_the_search_from_saved_solutions_starts_from_the_nearest_instances_best(done):
    folder, data = done
    saved = json.loads((folder / "seed_000" / "trained.json").read_text())["saved"]
    lines = [json.loads(line) for line in (folder / "seed_000" / "training" / "rollouts.jsonl").read_text().splitlines()]
    for name in ("one", "two"):
        assert saved[name]["score"] == max(r["score"] for r in lines if r["instance"] == name)
        assert worth(saved[name]["solution"], name) == pytest.approx(saved[name]["score"])
    for run in data["runs"]:
        if run["arm"] == "search_from_saved" and run["seed"] == 0:
            nearest = run["instance"].removeprefix("near-")
            assert run["best"][0] == pytest.approx(worth(saved[nearest]["solution"], run["instance"]), abs=1e-6)


def test_what_is_finished_is_not_done_again_and_what_is_lost_comes_back_the_same(done):
    folder, data = done
    opened = []
    again = study(folder, policy=none_left, opened=opened).run()
    assert not opened and again["runs"] == data["runs"]
    cell = folder / "seed_001" / "near-one-1.json"
    before = cell.read_text()
    cell.unlink()
    assert study(folder, policy=none_left, opened=opened).run((0,)) is None
    assert study(folder, policy=none_left, opened=opened).run()["runs"] == data["runs"]
    assert opened == ["near-one"] and cell.read_text() == before
    (folder / "seed_001" / "proposals-trained.json").unlink()
    assert study(folder).run()["runs"] == data["runs"]


def test_another_study_in_its_folder_and_plans_that_do_not_fit_are_refused(done, tmp_path):
    folder, _ = done
    with pytest.raises(StoreError, match="is of another study"):
        study(folder, chosen=plan(calls=9))
    with pytest.raises(ConfigError, match="seed 7 is not in the plan; its seeds: 0, 1"):
        study(folder).run((7,))
    waiting = study(folder)
    with alone(study(folder).at(1), "wait"), pytest.raises(StoreError, match="seed_001 is in use by another process"):
        waiting.run((1,))
    for change, message in (
        ({"held_out": ("one",)}, "trained on and held out: one"),
        ({"train": ()}, "one of the two lists is empty"),
        ({"train": ("three",)}, "instance: 'three' is not known"),
        ({"searches": 0}, "searches: 0; expected at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            study(tmp_path, chosen=plan(**change))


# --- what it says -----------------------------------------------------------------------------------------
def made_up(lead: float, noise: float = 0.0005, seeds=(0, 1, 2), held_out=("a", "b", "c", "d")):
    """A study in which the trained policy leads every other arm by ``lead`` at up to one call and lies as far behind after."""
    rng = np.random.default_rng(0)
    runs = []
    for arm in ARMS:
        for i, name in enumerate(held_out):
            for seed in seeds:
                for search in (0, 1):
                    mine = np.array([lead, lead, *[-lead] * 7]) if arm == "trained" else 0
                    best = 0.3 + 0.2 * i + mine + rng.normal(0, noise)
                    run = {"seed": seed, "search": search, "instance": name, "arm": arm, "distinct": 8, "samples": 0}
                    runs.append(run | {"best": np.broadcast_to(best, 9).tolist()})
    told = {
        "verifier_calls": 100,
        "before": {"mean": 0.2},
        "after": {"mean": 0.4},
        "provenance": {"commit": "c", "hardware": "h"},
    }
    return {
        "plan": plan(seeds=tuple(seeds), held_out=tuple(held_out)).to_dict(), "metric": "worth on dev", "arms": dict(ARMS),
        "provenance": {"commit": "c", "hardware": "h"}, "grid": [0, 1, 8], "training": [told] * len(seeds), "runs": runs,
    }  # fmt: skip


def test_leads_are_paired_and_said_as_they_are():
    data = made_up(0.1)
    rows = view.summary_from_data(data)
    lead = {r["calls"]: r for r in rows if r["arm"] == "trained" and r["against"] == "search_from_saved"}
    assert lead[0]["value"] == pytest.approx(0.1, abs=0.002) and lead[8]["value"] == pytest.approx(-0.1, abs=0.002)
    assert 0.095 < lead[0]["low"] < lead[0]["value"] < lead[0]["high"] < 0.105
    single = next(r for r in rows if r["arm"] == "trained" and not r["against"] and r["calls"] == 0)
    assert single["high"] - single["low"] > 3 * (lead[0]["high"] - lead[0]["low"])  # instances differ, leads do not
    assert {r["verifier_calls_before"] for r in rows if r["arm"] == "search"} == {0}
    said = "\n".join(view.sentences_from_data(rows, data))
    assert "Trained policy against local search from saved solutions of the same training: ahead at 0 (+0." in said
    assert "behind at 8 (-0." in said and "100, 100, 100 verifier calls" in said
    level = view.sentences_from_data(view.summary_from_data(made_up(0.0)), data)
    line = next(s for s in level if s.startswith("Trained policy then local search against uniform draws"))
    assert "level at" in line and "ahead" not in line and "behind" not in line


def test_one_instance_and_seed_has_no_interval_and_is_not_judged():
    data = made_up(0.1, seeds=(0,), held_out=("a",))
    rows = view.summary_from_data(data)
    assert all(math.isnan(r["low"]) for r in rows)
    assert "not told apart at 0 (+0." in view.sentences_from_data(rows, data)[-8]


def test_intervals_by_hand():
    same, low, high = view.interval(np.full((3, 2, 4), 0.5))
    assert np.allclose([same, low, high], 0.5)
    mean, low, high = view.interval(np.array([[[0.0]], [[1.0]]]))
    assert (mean[0], low[0], high[0]) == (0.5, 0.0, 1.0)


def test_the_figure_and_its_data_are_written_from_the_file(done, tmp_path):
    folder, data = done
    files, said = view.transfer_figure(folder / "transfer.json", out=tmp_path)
    assert set(files) == {"svg", "pdf", "png", "csv"} and all(f.stat().st_size > 1000 for f in files.values())
    lines = files["csv"].read_text().splitlines()
    assert len(lines) == 1 + (6 + 2 * 5) * 3 and any("against" in s for s in said)
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({**data, "runs": [r for r in data["runs"] if r["arm"] != "random" or r["seed"]]}))
    with pytest.raises(StoreError, match=r"no run of .*random.*run it again"):
        view.transfer_figure(broken, out=tmp_path)


def test_the_table_sets_studies_beside_each_other_and_the_reference_beside_the_arms(done, tmp_path):
    folder, data = done
    bare = {k: v for k, v in made_up(0.1).items() if k != "reference"}
    bare["plan"]["name"], other = "bare", tmp_path / "other.json"
    other.write_text(json.dumps(bare))
    text, files = view.table([folder / "transfer.json", other], out=tmp_path)
    lines = text.splitlines()
    assert len(lines) == 2 + 6 + 1 + 6 and lines[0].split(" | ")[-3:] == ["0 calls", "1 calls", "8 calls |"]
    mean = np.mean([v["value"] for v in data["reference"].values()])
    assert f"| the task's reference | 0 | {mean:.3f} |" in text and "bare (worth on dev) | the task's reference" not in text
    assert all(f.stat().st_size > 100 for f in files.values())
    said = view.sentences_from_data(view.summary_from_data(data), data)
    assert f"on which the task's reference is worth {mean:.3f}." in said[0]


# --- the command ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("task", "train", "held", "searches", "calls"), [("denoising", 14, 6, 1, 64), ("trimul", 8, 4, 1, 8)])
def test_every_task_with_held_out_instances_has_a_study_of_each_size(task, train, held, searches, calls):
    smoke, full = make_plan("smoke", task=task), make_plan("full", task=task)
    assert (len(smoke.train), len(smoke.held_out), len(full.train), len(full.held_out)) == (2, 1, train, held)
    assert (full.searches, full.calls, full.name) == (searches, calls, f"{task}-full")
    for chosen in (smoke, full):
        chosen.check(get_task(task))
    half = make_plan("full", task=task, hyper=parse_hyper(["mutation=0.5", "reward=improvement", "start=puct"])).hyper
    assert (half.mutation, half.reward, half.start, half.kl) == (0.5, "improvement", "puct", full.hyper.kl)


def test_the_sizes_name_instances_of_the_task():
    smoke, full = make_plan("smoke"), make_plan("full", seeds=5, hyper={"steps": 7})
    assert (len(full.train), len(full.held_out), len(full.seeds), full.hyper.steps) == (16, 6, 5, 7)
    assert set(smoke.train) < set(full.train) and set(smoke.held_out) < set(full.held_out)
    assert "all191" not in full.train and full.calls == 64
    assert "5 × (training on 16 instances, at most 448 verifier calls; then 12 searches" in announcement(full, 5)
    assert sum(pace(full).values()) > sum(pace(smoke).values()) > 0
    with pytest.raises(ConfigError, match="size: 'ful' is not known.*Did you mean 'full'"):
        make_plan("ful")
    with pytest.raises(ConfigError, match="group_sise.*Did you mean 'group_size'"):
        make_plan("smoke", hyper={"group_sise": 8})


def test_hyperparameters_on_the_command_line(capsys):
    assert parse_hyper(["steps=16", "beta=adaptive", "learning-rate=1e-4"]) == {
        "steps": 16, "beta": "adaptive", "learning_rate": 1e-4,
    }  # fmt: skip
    assert main(["transfer", "--set", "steps"]) == 2 and "'steps' is not NAME=VALUE" in capsys.readouterr().err
    assert main(["transfer", "--size", "large"]) == 2 and "known sizes: smoke, full" in capsys.readouterr().err


def test_a_study_that_is_not_there_cannot_be_redrawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    assert main(["transfer", "--redraw", "--name", "mine"]) == 1
    assert "no finished transfer study called 'mine'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_smoke_study_runs_on_the_real_policy_and_is_drawn_from_what_it_published(
    lawbench_data, embedded_model, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    assert main(["transfer", "--size", "smoke", "--publish", "--out", str(tmp_path / "figures")]) == 0
    said = capsys.readouterr().out
    assert "training step 2 of 2" in said and "Trained policy against local search from saved solutions" in said
    published = json.loads((tmp_path / "reference" / "transfer" / "lawbench-smoke.json").read_text())
    assert published["provenance"]["commit"] and {r["arm"] for r in published["runs"]} == set(ARMS)
    assert all(0 < r["best"][-1] <= 1 for r in published["runs"])
    first = (tmp_path / "figures" / "transfer_lawbench-smoke.csv").read_text()
    (tmp_path / "runs" / "transfer" / "lawbench-smoke" / "transfer.json").unlink()
    assert main(["transfer", "--redraw", "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "transfer_lawbench-smoke.csv").read_text() == first
