"""What is shown of a weight update, and what may be said of the levers: no more than the intervals allow."""

import csv
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from view_runs import a_line, a_result, a_rollout, a_run, a_step, trained

from sia_nb.errors import StoreError
from sia_nb.store import ROOT
from sia_nb.view import collect, formulas, inspect, text, training


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_RESULTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def run(results):
    """A run of arm W+H whose second step a weight update made."""
    run = a_run(results, 0, 0.5, arm="W+H", name="one")
    rollouts = [a_rollout(0.2, step=1), a_rollout(0.4, step=2, text="<script>alert(1)</script>", advantage=0.7)]
    rollouts.append(a_rollout(0.3, step=2, source="mutation"))
    a_step(run, 2, 0.55, action="weights", algorithm="entropic", parent=1, verdicts=[0.55], rollouts=rollouts)
    trained(run, 2, a_result(0.2, 0.4, algorithm="entropic"), [a_line(1, 0.2), a_line(2, 0.4, grad_norm=None)])
    return run


SCORES = st.lists(st.integers(0, 100).map(lambda percent: percent / 100), min_size=2, max_size=20).filter(
    lambda v: len(set(v)) > 1
)


@given(SCORES, SCORES)
def test_the_gains_interval_is_welchs(before, after):
    summary = lambda v: {"mean": sum(v) / len(v), "se": float(stats.sem(v)), "n": len(v)}
    difference, low, high = training.gain(summary(before), summary(after))
    expected = stats.ttest_ind(after, before, equal_var=False).confidence_interval()
    assert difference == pytest.approx(sum(after) / len(after) - sum(before) / len(before))
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("before", "after", "se", "n", "said"),
    [
        (0.2, 0.4, 0.01, 16, "it rose"),
        (0.4, 0.2, 0.01, 16, "it fell"),
        (0.2, 0.21, 0.05, 16, "no change can be claimed"),
        (0.2, 0.4, 0.0, 1, "too few"),
        (0.0, 0.0, 0.0, 0, "nothing that was scored"),
    ],
)
def test_a_gain_is_claimed_only_where_the_interval_leaves_zero(before, after, se, n, said):
    assert said in training.gain_sentence(a_result(before, after, se=se, n=n))


def test_curves_draw_what_the_lines_say_and_gaps_where_nothing_was_measured(run, tmp_path):
    folder = training.folder_of(run, 2)
    fig = training.curves_figure(training.curve_lines(folder), "t")
    panels = {ax.get_title(loc="left"): ax for ax in fig.axes}
    reward = {line.get_label(): list(line.get_ydata()) for line in panels["reward"].lines}
    assert reward["mean"] == [0.2, 0.4] and reward["best so far"] == pytest.approx([0.4, 0.6])
    band = panels["reward"].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.1, 0.5))
    norm = list(panels["gradient norm"].lines[0].get_ydata())
    assert norm[0] == 1.5 and norm[1] != norm[1]
    assert [t.get_text() for t in panels["KL to the base policy"].texts] == ["not measured"]
    files = training.curves(folder, "t", tmp_path / "out")
    with open(files["csv"], newline="") as f:
        assert [(r["step"], r["reward_mean"], r["kl"]) for r in csv.DictReader(f)] == [("1", "0.2", ""), ("2", "0.4", "")]
    assert files["png"].name == "training_step_002.png" and files["svg"].stat().st_size > 1000


def test_rollouts_before_and_after_say_who_wrote_them_and_are_escaped(run):
    lines = training.rollouts(training.folder_of(run, 2))
    before, after = training.before_after(lines)
    assert [r["reward"] for r in before] == [0.2]
    assert [(r["reward"], r["source"]) for r in after] == [(0.4, "policy"), (0.3, "mutation")]
    shown = training.rollouts_html(lines)
    assert "<script>" not in shown and "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert ">mutation<" in shown and "2 rollouts, mean reward of the policy's 0.4000" in shown
    assert "+0.70" in shown and shown.index("0.2000") < shown.index("0.4000")


def test_rollouts_are_sorted_and_those_without_a_verdict_are_left_out():
    lines = [a_rollout(v) for v in (0.1, 0.9, 0.5)] + [a_rollout(0.0) | {"reward": None, "valid": None, "cached": None}]
    before, after = training.before_after(lines)
    assert [r["reward"] for r in before] == [0.9, 0.5, 0.1] == [r["reward"] for r in after]
    assert training.before_after([]) == ([], [])
    assert "0 rollouts" in training.rollouts_html([])


def test_a_step_that_was_not_trained_is_a_clear_error(run):
    with pytest.raises(StoreError, match="step 1 of one was not made by a weight update; steps that were: 2"):
        training.folder_of(run, 1)
    assert training.folder_of(run, 2) == run.step(2) / "weights"


def test_headless_a_line_a_step_and_a_repeated_step_takes_its_place():
    said = []
    follow = training.LiveCurves(echo=said.append)
    for line in (a_line(1, 0.2), a_line(2, 0.3), a_line(2, 0.4)):
        follow(line)
    assert not follow.live  # pytest is no notebook
    assert len(said) == 3 and "reward 0.400 [0.300, 0.500]" in said[2] and "KL -" in said[2]
    assert [line["reward_mean"] for line in follow.lines] == [0.2, 0.4]


def test_live_one_display_is_updated_in_place_and_not_for_every_step(monkeypatch):
    import IPython.display

    shown, handle = [], SimpleNamespace(update=lambda picture: shown.append(("update", picture.data[:4])))
    monkeypatch.setattr(
        IPython.display, "display", lambda picture, display_id: (shown.append(("display", picture.data[:4])), handle)[1]
    )
    clock = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])
    follow = training.LiveCurves(every=2.0, live=True, echo=pytest.fail)
    for step, now in ((1, 0.0), (2, 1.0), (3, 1.9), (4, 2.1)):
        clock[0] = now
        follow(a_line(step, 0.1 * step))
    assert shown == [("display", b"\x89PNG"), ("update", b"\x89PNG")]


def test_a_picture_that_fails_does_not_end_the_training(monkeypatch):
    said = []
    monkeypatch.setattr(training, "curves_figure", lambda *a: 1 / 0)
    follow = training.LiveCurves(live=True, echo=said.append)
    follow(a_line(1, 0.2))
    follow(a_line(2, 0.2))
    assert "cannot be drawn" in said[0] and said[1].startswith("step   2")


def test_the_terminal_shows_levers_algorithm_and_result(run):
    said = []
    text.show(str(run.path), echo=said.append)
    (weights,) = [line for line in said if line.startswith("step   2")]
    assert "  W  " in weights and "entropic, 2 training steps, mean score 0.2000 → 0.4000, stopped: done" in weights
    assert "A_1" in next(line for line in said if line.startswith("step   1"))
    said.clear()
    text.show(str(run.path), step=2, echo=said.append)
    assert sum(line.startswith("step ") for line in said) == 2 and any("it rose" in line for line in said)


def test_a_comparison_says_what_its_interval_allows():
    assert "SIA-W+H is better" in text.comparison("W+H", "H", [0.10, 0.11, 0.12], "")
    assert "SIA-W is worse" in text.comparison("W", "H", [-0.10, -0.11, -0.12], "")
    assert "did not help measurably" in text.comparison("W+H", "H", [-0.01, 0.0, 0.02], "")
    assert "no evidence" in text.comparison("W+H", "H", [0.3], "")


def test_findings_pair_the_arms_by_seed_and_count_the_weight_updates(results):
    for seed in (0, 1):
        a_run(results, seed, 0.7 + 0.1 * seed, arm="H")
        both = a_run(results, seed, 0.72 + 0.1 * seed, arm="W+H")
        a_step(both, 2, 0.5, action="weights", algorithm="grpo", parent=1, accepted=False, rollouts=[a_rollout(0.1)])
        trained(both, 2, a_result(0.2, 0.4 if seed else 0.2), [])
    a_run(results, 2, 0.1, arm="W+H")  # no partner in arm H
    found = text.findings("lawbench")
    (pair,) = [line for line in found if line.startswith("SIA-W+H − SIA-H")]
    assert "+0.020" in pair and "over 2 seeds" in pair and "24 against 24 verifier calls" in pair
    assert "2 weight updates in 3 runs" in found[-1] and "rose in 1 and fell in 0" in found[-1]
    assert "0 were kept" in found[-1] and "2 rolled back" in found[-1]


def test_an_arm_that_never_chose_weights_is_told(results):
    a_run(results, 0, 0.7, arm="W+H")
    assert "never chose a weight update in 1 run" in text.weight_updates(collect.finished("lawbench"))[0]


def test_why_shows_the_rule_the_numbers_and_the_menu_with_the_choice_in_bold():
    numbers = {"n": 8, "zero_share": 0.25, "mean": 0.3, "sd": 0.1, "skew": 1.5, "best": 0.6, "distinct_share": 0.5}
    record = {"tries": 2, "kept": 1, "last_gain": 0.002, "last_noise": 0.004, "last_verifier_calls": 26, "last_tokens": 900}
    view = SimpleNamespace(
        algorithms=("grpo", "entropic"),
        menu={"grpo": "cheap", "entropic": "skewed <b>"},
        rewards=numbers,
        levers={"harness": record, "weights": dict.fromkeys(record, 0)},
        budget_left={"steps": 3, "verifier_calls": 78},
        training=a_result(0.1, 0.2),
    )
    decision = SimpleNamespace(action="weights", rule="right_skewed", algorithm="entropic", hyperparameters={"steps": 4})
    shown = inspect.why_html(view, decision)
    for part in ("right_skewed", "0.25", "1.5", "0.002", "0.004", "78", "all steps are done", "skewed &lt;b&gt;"):
        assert part in shown, part
    assert "bold'>entropic" in shown and "bold'>grpo" not in shown and shown.count("never tried") == 1
    view.algorithms = ()
    assert "no lever to choose" in inspect.why_html(view, SimpleNamespace(action="harness", rule="r"))


def test_every_algorithm_has_its_formula():
    for algorithm, f in formulas.FORMULAS.items():
        shown = formulas.formula_markdown(algorithm)
        assert shown.count("$$") == 4 and f.loss.count("{") == f.loss.count("}") and f.weight.count("{") == f.weight.count("}")


def test_looking_at_training_needs_no_torch():
    code = "import sys; from sia_nb.view import training, text, inspect, figures, tables, formulas; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "False"
