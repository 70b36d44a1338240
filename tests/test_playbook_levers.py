"""The playbook's choice between the levers: one rule, one number that flips it; and the bounds of every decision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook_simulator import toy
from stories import Story, crossroads, lever, scaffold, searching, summary

from sia_nb import phases
from sia_nb.agents.playbook import PlaybookFeedbackAgent
from sia_nb.agents.playbook.levers import barred
from sia_nb.agents.playbook.sizing import rollouts_for
from sia_nb.agents.rewards import of_proposals, structured
from sia_nb.store import Run
from sia_nb.training.hyper import ALGORITHMS, make_hyper

TASK = toy("twelve")
AGENT = PlaybookFeedbackAgent(TASK)
WEIGHTS_ONLY = ("weights", "stop")


def decide(**changes):
    decision = AGENT.decide(crossroads(TASK, **changes))
    assert decision.rationale
    return decision


def rule(**changes) -> tuple[str, str]:
    """The action and the lever's rule."""
    decision = decide(**changes)
    return decision.action, decision.rule.split("/")[0]


def past(*more):
    return (summary(1, "init", True, 0.3), summary(2, "harness", True, 0.6), *more)


STALLED = {"history": past(summary(3, "harness", False, 0.6))}


def trained(gain: float, harness: float = 0.02, last: str = "weights", kept: bool = True, **more):
    """Both levers tried, ``last`` in the end."""
    levers = {"harness": lever(harness), "weights": lever(gain)}
    return {"levers": levers, "history": past(summary(3, last, kept, 0.7)), "training": {"stopped": "done"}, **more}


# -- whose turn it is --------------------------------------------------------------------------------


def test_the_harness_goes_first_until_it_stalls_or_half_of_the_steps_are_used():
    assert rule() == ("harness", "harness_first")
    assert rule(**STALLED) == ("weights", "harness_stalled")
    assert rule(steps_left=3) == ("weights", "weights_untried")
    assert rule(steps_left=4) == ("harness", "harness_first")
    assert rule(steps_left=3, levers={}) == ("harness", "harness_first"), "an untried harness is not skipped"


def test_the_lever_that_gained_more_for_its_cost_goes_on():
    assert rule(**trained(0.03)) == ("weights", "weights_gained_more")
    assert rule(**trained(0.015)) == ("harness", "harness_gained_more")
    dear = {"harness": lever(0.02), "weights": lever(0.03, calls=52)}
    assert rule(**{**trained(0.03), "levers": dear}) == ("harness", "harness_gained_more")
    noisy = {"harness": lever(0.02), "weights": lever(0.03, noise=0.02)}
    assert rule(**{**trained(0.03), "levers": noisy}) == ("harness", "harness_gained_more")


def test_where_neither_gains_they_take_turns():
    assert rule(**trained(0.0, harness=0.005, last="weights", kept=False)) == ("harness", "weights_stalled")
    assert rule(**trained(0.0, harness=0.005, last="harness", kept=False)) == ("weights", "harness_stalled")


def test_a_policy_that_cannot_be_read_is_not_trained():
    free = {"structured": False, "rewards": {"zero_share": 0.95}}
    assert rule(**STALLED, **free) == ("harness", "first_structured_output")
    assert rule(allowed=WEIGHTS_ONLY, **free) == ("weights", "only_lever"), "what mutation writes is its signal"
    assert decide(allowed=WEIGHTS_ONLY, **free).algorithm == "bon_bc"
    assert rule(**STALLED, structured=False, rewards={"zero_share": 0.5}) == ("weights", "harness_stalled")
    masked = decide(**STALLED, rewards={"zero_share": 0.95})
    assert (masked.action, masked.algorithm) == ("weights", "bon_bc"), "masked and still cold: training can help"


@pytest.mark.parametrize("stopped", ["no_signal", "out_of_memory"])
def test_an_update_without_a_signal_waits_for_another_harness(stopped):
    before = trained(0.03, training={"stopped": stopped})
    assert rule(**before) == ("harness", "no_signal")
    assert rule(**trained(0.03, training={"stopped": "done"})) == ("weights", "weights_gained_more")
    assert rule(allowed=WEIGHTS_ONLY, **before) == ("stop", "no_signal")
    weights = summary(3, "weights", False)
    kept, undone = (past(weights, summary(4, "harness", accepted, 0.7)) for accepted in (True, False))
    assert rule(**{**before, "history": kept}) == ("weights", "weights_gained_more")
    assert rule(**{**before, "history": undone}) == ("harness", "no_signal"), "a rolled-back edit changes nothing"


def test_rewards_without_spread_or_calls_for_no_group_are_not_trained_on():
    assert rule(**STALLED, rewards={"sd": 0.0}) == ("harness", "no_spread")
    assert rule(**STALLED, rewards={"n": 3}) == ("harness", "no_spread")
    assert rule(**STALLED, rewards={"n": 4}) == ("weights", "harness_stalled")
    for calls, expected in ((5, ("harness", "too_few_calls")), (6, ("weights", "harness_stalled"))):  # 3 of 5, 4 of 6
        assert rule(**STALLED, metrics={"budget": {"verifier_calls": calls, "tokens": 12_000}}) == expected
    spent = {"steps": 1, "verifier_calls": 3, "tokens": 12_000}
    assert rule(**STALLED, budget_left=spent) == ("harness", "too_few_calls")


def test_a_scaffold_with_no_edit_left_hands_over_and_stops_where_training_is_barred():
    foreign = "SYSTEM_PROMPT = ''\n\n\ndef build_prompt(state):\n    return []\n\n\n"
    foreign += "def extract(text):\n    return None\n\n\ndef run(env):\n    env.submit('')\n"
    other = {"scaffold": foreign, "incumbent": foreign}
    assert rule(**other) == ("weights", "no_edit_left")
    assert rule(**other, rewards={"sd": 0.0}) == ("harness", "no_spread")
    idle = past(summary(3, "harness", False), summary(4, "weights", False))
    assert rule(**other, history=idle, rewards={"sd": 0.0}) == ("stop", "no_spread")


def test_only_what_is_permitted():
    assert decide(allowed=("harness", "stop"), algorithms=()).rule == "edit_answers_finding"
    assert rule(allowed=WEIGHTS_ONLY) == ("weights", "only_lever")
    assert rule(allowed=("weights",), rewards={"sd": 0.0}) == ("weights", "only_action")
    assert decide(allowed=WEIGHTS_ONLY, algorithms=()).action == "stop"


# -- which algorithm ---------------------------------------------------------------------------------

UNDONE = {"history": past(summary(3, "weights", False)), "training": {"stopped": "done"}}
BROKEN = {"history": past(summary(3, "weights", True)), "training": {"stopped": "entropy_collapse"}}


@pytest.mark.parametrize(
    ("changes", "named", "algorithm"),
    [
        ({}, "terminal_verifier", "grpo"),
        ({"rewards": {"skew": 1.01}}, "right_skewed", "entropic"),
        ({"rewards": {"skew": 0.99}}, "terminal_verifier", "grpo"),
        ({"rewards": {"zero_share": 0.9}}, "cold_start", "bon_bc"),
        ({"rewards": {"zero_share": 0.89}}, "terminal_verifier", "grpo"),
        ({"rewards": {"levels": 4}}, "ranks_only", "dpo"),
        ({"rewards": {"levels": 2}}, "terminal_verifier", "grpo"),
        ({"rewards": {"levels": 4, "scored": 11}}, "terminal_verifier", "grpo"),
        (UNDONE, "risk_of_regression", "reinforce_kl"),
        (BROKEN, "dense_rewards_stability", "ppo"),
        ({**BROKEN, "training": {"stopped": "done"}}, "terminal_verifier", "grpo"),
        ({**BROKEN, "rewards": {"zero_share": 0.5}}, "terminal_verifier", "grpo"),
    ],
)
def test_the_rewards_name_the_algorithm(changes, named, algorithm):
    decision = decide(allowed=WEIGHTS_ONLY, **changes)
    assert (decision.rule, decision.algorithm) == (f"only_lever/{named}", algorithm)


def test_where_the_run_fixes_the_algorithm_the_decision_says_what_was_called_for():
    decision = decide(allowed=WEIGHTS_ONLY, rewards={"zero_share": 0.95}, algorithms=("ppo",))
    assert decision.algorithm == "ppo" and decision.rule == "only_lever/cold_start" and "permits only `ppo`" in decision.rationale
    second = decide(allowed=WEIGHTS_ONLY, rewards={"zero_share": 0.95}, algorithms=("grpo", "entropic"))
    assert second.algorithm == "entropic" and "`bon_bc` is not permitted" in second.rationale


def test_the_rationale_holds_its_numbers_and_the_evidence_their_verdicts():
    view = crossroads(TASK, **STALLED)
    decision = AGENT.decide(view)
    told = ("mean 0.5000", "standard deviation 0.1000", "best 0.7000", "skew 0.30", "gained +0.0200 (noise 0.0100)", "`grpo`")
    assert all(text in decision.rationale for text in told)
    assert {view.trajectory[i].kind for i in decision.evidence} == {"verdict"} and len(decision.evidence) == 8
    many = replace(view, trajectory=searching([i / 50 for i in range(50)]))
    scores = [many.trajectory[i].data["score"] for i in AGENT.decide(many).evidence]
    assert len(scores) == 16 and max(scores) == 0.98 and min(scores) == 0.0, "the highest and the lowest of many"


def test_the_rationale_says_what_the_last_update_did_to_the_policy():
    result = {"stopped": "done", "before": {"mean": 0.4, "se": 0.01, "n": 8}, "after": {"mean": 0.5, "se": 0.02, "n": 8}}
    assert "from 0.4000 ± 0.0100 to 0.5000 ± 0.0200" in decide(**trained(0.03, training=result)).rationale
    assert "moved the mean" not in decide(**trained(0.03)).rationale


# -- how large ---------------------------------------------------------------------------------------


def sized(**changes) -> dict:
    return decide(allowed=WEIGHTS_ONLY, **changes).hyperparameters


def test_sizes_follow_the_budget():
    small, large = sized(), sized(metrics={"budget": {"verifier_calls": 1024, "tokens": 10**6}}, budget_left={})
    assert (small["steps"], small["group_size"], small["learning_rate"]) == (2, 8, 1e-3)  # 19 calls
    assert (large["steps"], large["group_size"], large["learning_rate"]) == (24, 32, 3.3e-4)  # 768 calls
    huge = sized(metrics={"budget": {"verifier_calls": 10**6, "tokens": 10**8}}, budget_left={})
    assert huge["steps"] == 50 and huge["groups"] > 100 and huge["learning_rate"] == 3e-4
    assert sized(rewards={"distinct_share": 0.5})["steps"] > small["steps"], "repeats cost no call"
    few_tokens = {"budget": {"verifier_calls": 1024, "tokens": 100}}  # 15 rollouts of 5 tokens
    assert sized(metrics=few_tokens)["steps"] * sized(metrics=few_tokens)["group_size"] <= 15
    assert (sized(weight_share=0.5)["steps"], sized(weight_share=0.5)["group_size"]) == (3, 4)  # 13 calls
    assert sized(rewards={"zero_share": 0.95})["group_size"] == 8, "after a cold start groups are larger"


def test_a_mutation_costs_a_call_and_no_tokens_and_a_repeat_tokens_and_no_call():
    def paid(mutation: float, calls: int, tokens: int) -> int:
        budget = {"budget": {"verifier_calls": calls, "tokens": tokens}}
        view = crossroads(TASK, metrics=budget, budget_left={}, weight_share=1.0, rewards={"distinct_share": 0.5})
        return rollouts_for(view, mutation)[0]  # an answer of this view has 5 tokens

    assert (paid(0.0, 75, 10**6), paid(0.5, 75, 10**6)) == (150, 100)
    assert (paid(0.0, 10**6, 300), paid(0.5, 10**6, 300)) == (60, 120)


def test_other_hyperparameters_by_rule():
    assert sized(rewards={"best": 0.5})["mutation"] == 0.5 and sized(rewards={"best": 0.65})["mutation"] == 0.0
    assert sized(rewards={"distinct_share": 0.5})["kl"] == 0.1 and "kl" not in sized(rewards={"distinct_share": 0.7})
    shows = scaffold(TASK, "structured_output", "use_whole_budget", "examples")
    source = {"scaffold": shows, "incumbent": shows}
    assert (sized()["start"], sized(**source)["start"]) == ("restart", "incumbent")
    assert sized(**source, metrics={"budget": {"verifier_calls": 200, "tokens": 100_000}}, budget_left={})["start"] == "puct"
    hot = shows.replace("TEMPERATURE = 1.0", "TEMPERATURE = 1.3")
    assert sized(incumbent=hot)["temperature"] == 1.3


# -- whatever comes ----------------------------------------------------------------------------------

share = st.floats(0, 1)
rewards = st.fixed_dictionaries(
    {
        "n": st.integers(0, 200), "zero_share": share, "mean": share, "sd": share, "skew": st.floats(-9, 9), "best": share,
        "levels": st.integers(0, 30), "scored": st.integers(0, 60), "distinct_share": share,
    }
)  # fmt: skip
records = st.builds(lever, st.floats(-1, 1), share, st.integers(0, 100))
steps = st.lists(st.tuples(st.sampled_from(("harness", "weights")), st.booleans(), share), max_size=6)
stops = st.sampled_from((None, "done", "no_signal", "entropy_collapse", "out_of_calls", "non_finite", "out_of_memory"))
actions = st.sampled_from(
    (("harness", "weights", "stop"), ("weights", "stop"), ("harness", "weights"), ("weights",), ("harness", "stop"))
)


@settings(max_examples=60)
@given(st.data())
def test_no_view_leads_out_of_what_is_permitted(data):
    told = data.draw(steps)
    history = (summary(1, "init", True), *(summary(i, *step) for i, step in enumerate(told, 2)))
    stopped = data.draw(stops)
    view = crossroads(
        TASK,
        rewards=data.draw(rewards),
        allowed=data.draw(actions),
        algorithms=tuple(data.draw(st.lists(st.sampled_from(ALGORITHMS), min_size=1, unique=True))),
        history=history,
        step=len(history),
        steps_left=data.draw(st.integers(0, 8)),
        levers={name: data.draw(records) for name in {action for action, _, _ in told}},
        structured=data.draw(st.booleans()),
        training=stopped and {"stopped": stopped},
        trajectory=data.draw(st.sampled_from((searching(), Story().end(), Story().end(submit=False)))),
        metrics={"budget": {"verifier_calls": data.draw(st.integers(1, 10**5)), "tokens": data.draw(st.integers(1, 10**8))}},
        budget_left=data.draw(st.sampled_from(({}, {"steps": 1, "verifier_calls": 2, "tokens": 90}))),
        weight_share=data.draw(st.floats(0.01, 1)),
    )
    decision = AGENT.decide(view)
    assert decision.action in view.allowed and decision.rule and decision == AGENT.decide(view)
    assert {view.trajectory[i].id for i in decision.evidence} == set(decision.evidence)
    if decision.action == "weights":
        assert decision.algorithm in view.algorithms
        make_hyper(decision.algorithm, **decision.hyperparameters)


# -- the next scaffold after a weight update -----------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False])
def test_a_weight_update_does_not_make_a_failed_edit_worth_another_try(kept):
    failed = AGENT.improve(crossroads(TASK)).edits
    history = past(summary(3, "harness", False, 0.1, failed), summary(4, "weights", kept, 0.65, ("grpo",)))
    improvement = AGENT.improve(crossroads(TASK, history=history))
    assert improvement.edits and set(improvement.edits) != set(failed)
    assert "The step had new weights" in improvement.report


def test_training_is_judged_by_the_scaffold_that_it_would_go_through():
    """In the committed runs of both levers: a rolled-back step that masks answers does not stand for an incumbent that does not."""
    differ = 0
    for path in sorted((Path(__file__).parent.parent / "results" / "reference").glob("*/*/*-W+H-*")):
        run = Run(path)
        for step in run.executed()[:-1]:
            metrics = run.metrics(step)
            through = step if metrics["accepted"] else metrics["incumbent"]
            view = phases.feedback_view(run, step)
            assert view.structured == structured(phases.trajectory(run, through))
            assert view.rewards == of_proposals(phases.trajectory(run, through), run.metrics(through))
            if view.structured != structured(phases.trajectory(run, step)):
                differ += 1
                turn = barred(view)
                assert turn is not None and turn.lever == "harness" and turn.rule == "first_structured_output"
    assert differ
