"""The trainer: that it learns, that it resumes to the same bits, and that what goes wrong is met and said."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scipy import stats
from toy_problem import SPACE, ToyProblem, tiny_policy, worth

from sia_nb.errors import TrainingError
from sia_nb.policy import adapter
from sia_nb.store import sha256
from sia_nb.training import checkpoint, forward, learner, objectives, trainer
from sia_nb.training.hyper import ALGORITHMS, make_hyper
from sia_nb.training.problem import Start
from sia_nb.training.trainer import train

ASK = [{"role": "user", "content": "Write a spec."}]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(algorithm="grpo", **more):
    """A few steps in about a second."""
    return make_hyper(algorithm, **{"steps": 4, "group_size": 8, "learning_rate": 3e-3, "rank": 4, **more})


def run(folder, hyper, *, problem=None, policy=None, seed=0, **more):
    return train(policy or tiny_policy(), problem or ToyProblem(), hyper, folder=folder, seed=seed, **more)


def read(folder, name):
    """A log's lines without their times."""
    lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def same(a, b):
    """Two folders of one update hold the same bits."""
    assert sha256(a / "adapter" / WEIGHTS) == sha256(b / "adapter" / WEIGHTS)
    for name in ("curve.jsonl", "rollouts.jsonl"):
        assert read(a, name) == read(b, name)
    assert json.loads((a / "result.json").read_text()) == json.loads((b / "result.json").read_text())


def fresh_scores(policy, n=128, seed=12345):
    drawn = policy.sample(ASK, n, segments=ToyProblem.segments, seed=seed)
    return [worth(SPACE.parse(s.text)) for s in drawn]


def gain(algorithm, seed, folder, *, shuffle=False):
    """How far the trained policy's fresh samples are above the base policy's, and Welch's one-sided p."""
    policy = tiny_policy(seed)
    before = fresh_scores(policy)
    steps = 28 if algorithm == "bon_bc" else 16  # it learns from a quarter of the rollouts
    hyper = make_hyper(algorithm, steps=steps, group_size=16, learning_rate=5e-3, rank=8)
    run(folder, hyper, policy=policy, problem=ToyProblem(shuffle=shuffle), seed=seed)
    after = fresh_scores(policy)
    p = stats.ttest_ind(after, before, equal_var=False, alternative="greater").pvalue
    return sum(after) / len(after) - sum(before) / len(before), p


# --- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_learns(algorithm, tmp_path):
    rise, p = gain(algorithm, 0, tmp_path)
    assert rise > 0.05 and p < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_learns_in_four_of_five_seeds_and_not_from_shuffled_rewards(algorithm, tmp_path):
    real = [gain(algorithm, seed, tmp_path / f"{seed}") for seed in range(5)]
    assert sum(p < 0.05 for _, p in real) >= 4
    noise = [gain(algorithm, seed, tmp_path / f"shuffled{seed}", shuffle=True)[0] for seed in range(10)]
    # a policy trained on noise drifts, up or down, further than its samples' standard error: the runs are the sample
    assert stats.ttest_1samp(noise, 0, alternative="greater").pvalue > 0.05
    assert sum(noise) / 10 < sum(rise for rise, _ in real) / 5 / 5


def test_shuffled_rewards_teach_nothing(tmp_path):
    noise = [gain("grpo", seed, tmp_path / f"{seed}", shuffle=True)[0] for seed in (0, 1)]
    real, _ = gain("grpo", 0, tmp_path / "real")
    assert sum(noise) / 2 < real / 3


# --- what it writes -------------------------------------------------------------------------------------------------


def test_files_and_result(tmp_path):
    told = []
    result = run(tmp_path, small(groups=2), on_step=told.append)
    curve, rows = read(tmp_path, "curve.jsonl"), read(tmp_path, "rollouts.jsonl")
    assert [line["step"] for line in curve] == [1, 2, 3, 4] == [line["step"] for line in told]
    assert len(rows) == 4 * 2 * 8 and {r["group"] for r in rows} == {0, 1}
    first = [r["reward"] for r in rows if r["step"] == 1]
    assert curve[0]["reward_mean"] == pytest.approx(sum(first) / 16) and curve[0]["reward_max"] == max(first)
    assert result.stopped == "done" and result.steps == 4
    assert result.tokens == curve[-1]["tokens"] == sum(r["tokens"] for r in rows)
    assert result.verifier_calls == len({r["solution"] for r in rows}) == curve[-1]["verifier_calls"]
    assert result.best["score"] == max(r["score"] for r in rows) == curve[-1]["best"]
    assert result.before == {"mean": pytest.approx(sum(first) / 16), "se": pytest.approx(stats.sem(first)), "n": 16}
    assert json.loads((tmp_path / "result.json").read_text()) == dataclasses.asdict(result)
    assert result.adapter == sha256(tmp_path / "adapter" / WEIGHTS)
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 and line["entropy"] > 0 for line in curve)


def test_advantages_on_file_are_the_algorithms(tmp_path):
    run(tmp_path, small(steps=1))
    rows = read(tmp_path, "rollouts.jsonl")
    rewards = torch.tensor([r["reward"] for r in rows])
    expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    assert [r["advantage"] for r in rows] == pytest.approx(expected.tolist(), rel=1e-4)


def test_ppos_advantage_on_file_is_the_mean_over_all_choices(tmp_path, monkeypatch):
    seen = []
    real = objectives.ppo

    def ppo(logp, old, mask, told, *args, **kwargs):
        told[:, mask[0].nonzero()[0, 0]] = 0.0  # an advantage of 0 is one of a choice all the same
        seen.append((told.clone(), mask.clone()))
        return real(logp, old, mask, told, *args, **kwargs)

    monkeypatch.setattr(objectives, "ppo", ppo)
    run(tmp_path, small("ppo", steps=1, epochs=1))
    told, mask = seen[0]
    expected = [float(t[m].mean()) for t, m in zip(told, mask, strict=True)]
    assert [r["advantage"] for r in read(tmp_path, "rollouts.jsonl")] == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_kl_to_the_base_grows_from_zero(tmp_path):
    run(tmp_path, small("reinforce_kl"))
    kl = [line["kl"] for line in read(tmp_path, "curve.jsonl")]
    assert kl[0] == pytest.approx(0, abs=1e-6) and kl[-1] > 1e-4


def test_kl_to_the_base_is_measured_where_the_algorithm_has_no_use_for_it(tmp_path):
    run(tmp_path, small(steps=8))
    kl = [line["kl"] for line in read(tmp_path, "curve.jsonl")]
    assert [k is None for k in kl] == [True] * 3 + [False] + [True] * 3 + [False] and 0 < kl[3] < kl[7]


def test_a_strong_kl_holds_the_policy_at_the_base(tmp_path):
    moved = {}
    for kl in (0.0, 5.0):
        policy = tiny_policy()
        run(tmp_path / f"{kl}", small("grpo", steps=8, kl=kl), policy=policy)
        ids = [s.token_ids for s in policy.sample(ASK, 32, segments=ToyProblem.segments, seed=9)]
        prompt = policy.prompt_ids(ASK)
        with torch.no_grad():
            now = forward.log_probs(policy, prompt, ids, segments=ToyProblem.segments).logp.sum(1)
            with adapter.reference(policy):
                base = forward.log_probs(policy, prompt, ids, segments=ToyProblem.segments).logp.sum(1)
        moved[kl] = float((now - base).mean())
    assert moved[5.0] < moved[0.0] / 2


def test_it_goes_on_from_the_adapter_that_the_policy_wears(tmp_path):
    policy = tiny_policy()
    first = run(tmp_path / "1", small(), policy=policy)
    run(tmp_path / "2", small(steps=1), policy=policy)
    other = tiny_policy()
    adapter.load(other, tmp_path / "1" / "adapter")
    assert run(tmp_path / "3", small(steps=1), policy=other).adapter == sha256(tmp_path / "2" / "adapter" / WEIGHTS)
    assert first.adapter != sha256(tmp_path / "2" / "adapter" / WEIGHTS)


# --- the same bits --------------------------------------------------------------------------------------------------


def test_the_seed_decides(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / name, small(steps=2), seed=seed)
    same(tmp_path / "a", tmp_path / "b")
    assert read(tmp_path / "a", "rollouts.jsonl") != read(tmp_path / "c", "rollouts.jsonl")


class Interrupted(ToyProblem):
    """Ctrl-C in the middle of the step whose turn it is."""

    at = 0

    def result(self, start, rewards):
        self.at -= 1
        if self.at == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("hyper", [small(), small("ppo", start="incumbent", mutation=0.25)], ids=["grpo", "ppo"])
def test_an_interrupted_update_is_gone_on_with(tmp_path, hyper):
    run(tmp_path / "whole", hyper)
    policy, problem = tiny_policy(), Interrupted()
    for at in (1, 3):
        problem = Interrupted()
        problem.at = at
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", hyper, policy=policy, problem=problem)
    run(tmp_path / "cut", hyper, policy=policy)
    same(tmp_path / "whole", tmp_path / "cut")


def test_a_finished_update_is_not_done_again(tmp_path):
    first = run(tmp_path, small(steps=2))
    lines = read(tmp_path, "rollouts.jsonl")
    policy, told = tiny_policy(), []
    assert run(tmp_path, small(steps=2), policy=policy, on_step=told.append) == first
    assert read(tmp_path, "rollouts.jsonl") == lines and told == []
    assert adapter.save(policy, tmp_path / "again") == first.adapter


KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[1]]
import torch
from pathlib import Path
from test_trainer import run, small
from toy_problem import ToyProblem
from sia_nb.training import checkpoint
torch.set_num_threads(1)
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)

class Killed(ToyProblem):
    turns = 0
    def result(self, start, rewards):
        self.turns += 1
        self.turns == 3 and die()

def in_a_step(): return Killed()
def at(count, wrapped):
    left = [count]
    def f(*a, **k):
        left[0] -= 1
        return die() if left[0] == 0 else wrapped(*a, **k)
    return f
def while_flushing(): checkpoint._flush = at(14, checkpoint._flush)
def before_renaming():
    class Os:
        replace, open, fsync, close, O_RDONLY = at(3, os.replace), os.open, os.fsync, os.close, os.O_RDONLY
    checkpoint.os = Os
def while_removing_the_old():
    real = checkpoint.shutil.rmtree
    class Shutil:
        @staticmethod
        def rmtree(path, **k):
            if Path(path).name == "step_000001":
                next(Path(path).rglob("*.pt")).unlink()
                die()
            real(path, **k)
    checkpoint.shutil = Shutil

for case in (in_a_step, while_flushing, before_renaming, while_removing_the_old):
    pid = os.fork()
    if pid == 0:
        problem = case() or ToyProblem()
        run(Path(sys.argv[2]) / case.__name__, small(), problem=problem)
        os._exit(1)
    print(case.__name__, os.waitpid(pid, 0)[1], flush=True)
"""


def test_a_killed_update_is_resumed_to_the_same_bits(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    cases = dict(line.split() for line in done.stdout.splitlines())
    assert len(cases) == 4 and set(cases.values()) == {str(int(signal.SIGKILL))}, done.stderr[-2000:]
    run(tmp_path / "whole", small())
    for case in cases:
        assert not (tmp_path / case / "result.json").exists()
        assert checkpoint.latest(tmp_path / case / "checkpoint") is not None
        run(tmp_path / case, small())
        same(tmp_path / "whole", tmp_path / case)
        assert [p.name for p in (tmp_path / case / "checkpoint").iterdir()] == ["step_000004"]


def test_another_update_in_the_folder_is_refused(tmp_path):
    run(tmp_path, small(steps=1))
    with pytest.raises(TrainingError, match=r"holds an update with seed 0, and 1 was asked for.*another folder"):
        run(tmp_path, small(steps=1), seed=1)
    with pytest.raises(TrainingError, match="with hyper .*'steps': 1"):
        run(tmp_path, small(steps=2))


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(tmp_path, small(steps=1))
    (file,) = (tmp_path / "checkpoint").rglob("*.pt")
    os.truncate(file, 100)
    with pytest.raises(TrainingError, match=r"no good one is left .*optimiser.pt was truncated or altered.*Delete"):
        run(tmp_path, small(steps=1))


# --- what goes wrong ------------------------------------------------------------------------------------------------


def untouched(folder):
    """The saved adapter is the fresh one, whose B is 0."""
    from safetensors.torch import load_file

    weights = load_file(folder / "adapter" / WEIGHTS)
    return all(bool((w == 0).all()) for name, w in weights.items() if "lora_B" in name)


def test_no_signal(tmp_path):
    result = run(tmp_path, small(), problem=ToyProblem(constant=0.0))
    assert (result.stopped, result.steps) == ("no_signal", 2) and untouched(tmp_path)
    assert [line["collapsed"] for line in read(tmp_path, "curve.jsonl")] == [1, 1]
    assert all(r["advantage"] is None for r in read(tmp_path, "rollouts.jsonl"))


def test_a_collapsed_group_is_left_out(tmp_path, monkeypatch):
    class Half(ToyProblem):
        def starts(self, n, kind, rng):
            return [Start(str(i), ASK, None, f"{i}") for i in range(n)]

        def rewards(self, start, solutions):
            out = super().rewards(start, solutions)
            return [dataclasses.replace(r, value=0.5) for r in out] if start.instance == "0" else out

    seen = []
    monkeypatch.setattr(learner, "forward", Wrapped(forward, step=lambda p, groups, *a, **k: seen.append(len(groups))))
    result = run(tmp_path, small(groups=3, steps=2), problem=Half())
    assert result.stopped == "done" and seen == [2, 2]
    assert [line["collapsed"] for line in read(tmp_path, "curve.jsonl")] == [1, 1]


def test_entropy_collapse(tmp_path):
    result = run(tmp_path, small(entropy_floor=5.0))
    assert result.stopped == "entropy_collapse" and "nats a choice" in result.note
    assert result.steps == 1 and untouched(tmp_path)


def test_a_policy_that_writes_one_text_has_collapsed(tmp_path):
    policy = tiny_policy()
    with torch.no_grad():
        policy.model.lm_head.weight *= 1000
    assert run(tmp_path, small(), policy=policy).stopped == "entropy_collapse"


class Wrapped:
    """A module with some functions told of, or replaced."""

    def __init__(self, module, **before):
        self.module, self.before = module, before

    def __getattr__(self, name):
        if name not in self.before:
            return getattr(self.module, name)

        def call(*args, **kwargs):
            self.before[name](*args, **kwargs)
            return getattr(self.module, name)(*args, **kwargs)

        return call


def broken_at(monkeypatch, calls, how):
    """grpo with ``how(loss, logp)`` for a loss at these calls (all where None)."""
    count = [0]
    real = objectives.grpo

    def grpo(logp, *args, **kwargs):
        count[0] += 1
        loss, said = real(logp, *args, **kwargs)
        return (how(loss, logp), said) if calls is None or count[0] in calls else (loss, said)

    monkeypatch.setattr(objectives, "grpo", grpo)


BAD = {
    "loss": lambda loss, logp: loss * math.nan,
    "gradient": lambda loss, logp: loss + torch.sqrt((logp - logp.detach()) ** 2).sum() * math.inf,
    "gradient alone": lambda loss, logp: loss + torch.sqrt(logp - logp.detach()).sum(),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_finite_is_undone_three_times_and_then_stops(what, tmp_path, monkeypatch):
    broken_at(monkeypatch, None, BAD[what])
    result = run(tmp_path, small())
    assert (result.stopped, result.steps) == ("non_finite", 3) and untouched(tmp_path)
    notes = [line["notes"][0] for line in read(tmp_path, "curve.jsonl")]
    assert [n.rsplit(" ", 1)[1] for n in notes] == ["0.0015", "0.00075", "0.000375"]


def test_one_bad_update_is_undone_and_training_goes_on(tmp_path, monkeypatch):
    hyper = small(epochs=2, steps=3)
    run(tmp_path / "one", small(epochs=2, steps=1))
    broken_at(monkeypatch, {4}, BAD["loss"])  # the second epoch of the second step
    kept = {}
    keep = lambda line: kept.setdefault(line["step"], sha256(next((tmp_path / "cut" / "checkpoint").rglob(WEIGHTS))))
    result = run(tmp_path / "cut", hyper, on_step=keep)
    assert result.stopped == "done" and kept[1] == kept[2] != kept[3]
    assert kept[1] == sha256(tmp_path / "one" / "adapter" / WEIGHTS)
    curve = read(tmp_path / "cut", "curve.jsonl")
    assert curve[1]["loss"] is None and "update undone" in curve[1]["notes"][0] and curve[2]["loss"] is not None


ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["python", "cuda", "cpu"])
def test_out_of_memory_halves_the_micro_batches(error, tmp_path, monkeypatch):
    def step(*args, token_budget, **kwargs):
        if token_budget > 600:
            raise error

    monkeypatch.setattr(learner, "forward", Wrapped(forward, step=step))
    result = run(tmp_path, small(steps=2))
    curve = read(tmp_path, "curve.jsonl")
    assert result.stopped == "done" and curve[1]["notes"] == []
    assert [n.rsplit(" ", 1)[1] for n in curve[0]["notes"]] == ["2048", "1024", "512"]


def test_out_of_memory_at_last(tmp_path, monkeypatch):
    count = [0]

    def step(*args, **kwargs):
        count[0] += 1
        if count[0] > 1:
            raise MemoryError

    run(tmp_path / "one", small(steps=1))
    monkeypatch.setattr(learner, "forward", Wrapped(forward, step=step))
    result = run(tmp_path / "cut", small())
    assert (result.stopped, result.steps) == ("out_of_memory", 2)
    assert result.adapter == sha256(tmp_path / "one" / "adapter" / WEIGHTS)


def test_out_of_memory_in_sampling(tmp_path):
    policy, count = tiny_policy(), [0]

    def sample(*args, **kwargs):
        count[0] += 1
        if count[0] > 1:
            raise MemoryError
        return type(policy).sample(policy, *args, **kwargs)

    policy.sample = sample
    result = run(tmp_path, small(), policy=policy)
    assert (result.stopped, result.steps) == ("out_of_memory", 1) and "in sampling" in result.note


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "Triton Error [CUDA]: out of memory",
        "cudaErrorMemoryAllocation",
        "[enforce fail] not enough memory: you tried to allocate 8 bytes.",
    ],
)
def test_what_cudas_libraries_say_when_memory_does_not_suffice(text):
    assert learner.short_of_memory(RuntimeError(text))
    assert not learner.short_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_another_error_is_not_taken_for_it(tmp_path, monkeypatch):
    def step(*args, **kwargs):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(learner, "forward", Wrapped(forward, step=step))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(tmp_path, small())


def test_a_reward_that_is_no_number_names_its_solution(tmp_path):
    class Nan(ToyProblem):
        def rewards(self, start, solutions):
            out = super().rewards(start, solutions)
            return [*out[:-1], dataclasses.replace(out[-1], value=math.nan)]

    with pytest.raises(TrainingError, match=r'reward nan .*to the solution \'\{"w":\d.*expected a finite number'):
        run(tmp_path, small(), problem=Nan())


def test_out_of_calls_learns_from_what_was_scored(tmp_path):
    result = run(tmp_path, small(), problem=ToyProblem(calls=12))
    assert (result.stopped, result.steps, result.verifier_calls) == ("out_of_calls", 2, 12)
    last = [r for r in read(tmp_path, "rollouts.jsonl") if r["step"] == 2]
    assert [r["reward"] is None for r in last] == [r["advantage"] is None for r in last]
    assert {r["reason"] for r in last if r["reward"] is None} == {"out of verifier calls"}
    assert read(tmp_path, "curve.jsonl")[1]["grad_norm"] > 0


def test_no_calls_at_all(tmp_path):
    result = run(tmp_path, small(), problem=ToyProblem(calls=0))
    assert (result.stopped, result.verifier_calls) == ("out_of_calls", 0) and untouched(tmp_path)
    assert result.before == {"mean": 0.0, "se": 0.0, "n": 0}


def test_out_of_tokens(tmp_path):
    cap = 8 * 26 * 3 - 1
    result = run(tmp_path, small(), tokens=cap)
    assert (result.stopped, result.steps) == ("out_of_tokens", 2) and result.tokens <= cap


class Slow(ToyProblem):
    """The clock of the trainer goes on by a second a group."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def result(self, start, rewards):
        self.clock[0] += 1.0


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(trainer.time, "monotonic", lambda: now[0])
    return now


def test_out_of_time_keeps_the_weights_of_the_last_step_and_stays_so(clock, tmp_path):
    two = run(tmp_path / "two", small(steps=2))
    result = run(tmp_path / "cut", small(), problem=Slow(clock), seconds=1.5)
    assert (result.stopped, result.steps) == ("out_of_time", 2) and "2 of 4 steps in 1.5 s" in result.note
    assert result.adapter == two.adapter and read(tmp_path / "cut", "rollouts.jsonl") == read(tmp_path / "two", "rollouts.jsonl")
    assert run(tmp_path / "cut", small(), problem=Slow(clock), seconds=1.5) == result


def test_a_time_cap_that_is_not_reached_changes_nothing(clock, tmp_path):
    run(tmp_path / "free", small())
    result = run(tmp_path / "capped", small(), problem=Slow(clock), seconds=4.0)  # reached as the last step ends
    assert result.stopped == "done"
    same(tmp_path / "free", tmp_path / "capped")


def test_the_time_before_a_kill_counts(clock, tmp_path):
    class Killed(Slow):
        def result(self, start, rewards):
            if self.clock[0] >= 102.0:
                raise KeyboardInterrupt
            super().result(start, rewards)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, small(), problem=Killed(clock), seconds=3.0)
    assert run(tmp_path, small(), problem=Slow(clock), seconds=3.0).steps == 3


def test_improvement_as_the_reward_and_mutations(tmp_path):
    run(tmp_path, small(start="incumbent", reward="improvement", mutation=0.5))
    rows = read(tmp_path, "rollouts.jsonl")
    for r in rows:
        gained = r["score"] - r["parent"]["score"] if r["parent"] else r["score"]
        assert r["reward"] == pytest.approx(max(0.0, gained))
    assert [r["source"] for r in rows[:8]] == ["policy"] * 4 + ["mutation"] * 4
    assert all((r["logprob"] is None) == (r["source"] == "mutation") for r in rows)
    assert read(tmp_path, "curve.jsonl")[0]["distinct"] == len({r["text"] for r in rows[:4]}) / 4


def test_behaviour_cloning_computes_only_what_it_imitates(tmp_path, monkeypatch):
    """Rollouts that weigh nothing are left out of the pass, and every rollout is still told its weight."""
    seen = []
    monkeypatch.setattr(learner, "forward", Wrapped(forward, step=lambda p, groups, *a, **k: seen.append(len(groups[0].rows))))
    run(tmp_path, small("bon_bc", steps=1, best=0.25))
    told = [r["advantage"] for r in read(tmp_path, "rollouts.jsonl")]
    assert len(told) == 8 and sum(told) == pytest.approx(1) and seen == [sum(a > 0 for a in told)] and 0 < seen[0] <= 2


def test_leaving_out_what_is_not_imitated_changes_no_weight(tmp_path, monkeypatch):
    """The same update with every rollout computed, as where the KL is measured, gives the same adapter to rounding."""
    from safetensors.torch import load_file

    run(tmp_path / "some", small("bon_bc", steps=2))
    monkeypatch.setattr(trainer, "KL_EVERY", 1)
    run(tmp_path / "all", small("bon_bc", steps=2))
    some, every = (load_file(tmp_path / name / "adapter" / WEIGHTS) for name in ("some", "all"))
    assert all(torch.allclose(some[k], every[k], rtol=1e-3, atol=1e-6) for k in some)
