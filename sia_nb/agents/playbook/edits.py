"""The edits the playbook can make to a scaffold, each with the findings that call for it.

An edit is applicable where the code has the place that it changes and does not have the change yet;
``apply`` returns the new source. What an edit builds on is named in ``needs`` and comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from . import operators as op
from .surgery import calls, found, function


@dataclass(frozen=True)
class Edit:
    """One change of the code. ``calls`` maps a finding's name to the share of its weight that the change answers."""

    name: str
    calls: Mapping[str, float]
    sentence: str  # what it changes, for the report
    expect: str  # what the next trajectory should show
    apply: Callable[[str], str]
    done: Callable[[str], bool]  # the code has it already
    possible: Callable[[str], bool]  # the code has the place for it, once ``needs`` are in
    needs: tuple[str, ...] = ()

    def applicable(self, source: str) -> bool:
        """The code, or the code with what this edit builds on, has the place for it and not the change itself."""
        return not self.done(source) and self.possible(source)


def _in(name: str, pattern: str) -> Callable[[str], bool]:
    return lambda source: found(source, name, pattern)


def _has(name: str) -> Callable[[str], bool]:
    return lambda source: function(source, name) is not None


def _own(source: str) -> bool:
    """The scaffold has the first draft's shape: run scores what propose yields."""
    return found(source, "run", r"for solution in propose\(env, state\)") and found(source, "run", r"verdict = env\.evaluate")


def _all(*tests: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda source: all(test(source) for test in tests)


def _masked(source: str) -> bool:
    return all(any(k.arg == "grammar" for k in call.keywords) for call in calls(source, "env.sample"))


_prompt = _in("build_prompt", r"lines\.append\(''\)")

EDITS: tuple[Edit, ...] = (
    Edit(
        "structured_output",
        {"no_json": 1.0, "broken_json": 0.9, "truncated": 0.9, "unknown_field": 0.9, "missing_field": 0.9, "bad_value": 0.9},
        'Sampling is masked to the task\'s declared space (`grammar="solution"`), so that every answer is a valid spec.',
        "no unparsable answers, and verdicts on the policy's own proposals",
        op.structured_output,
        _masked,
        lambda source: bool(calls(source, "env.sample")),
    ),
    Edit(
        "use_whole_budget",
        {"unused_calls": 1.0},
        "One batch becomes rounds that go on until the verifier calls are spent.",
        "no verifier calls left at the end",
        op.use_whole_budget,
        _in("run", r"for _ in range\(ROUNDS\)"),
        _own,
    ),
    Edit(
        "start_from_archive",
        {"restarted": 1.0, "fallback_submitted": 0.6, "flat": 0.3},
        "The best solutions of the run's earlier steps are where an execution starts from, and the least that it submits.",
        "a submission no worse than any earlier one",
        op.start_from_archive,
        _in("run", r"for entry in env\.archive"),
        _own,
        ("remember",),
    ),
    Edit(
        "remember",
        {"repeats": 1.0},
        "Verdicts are kept, and a solution that was scored before is passed over.",
        "no solution scored twice",
        op.remember,
        _in("run", r"state\['tried'\] = \{\}"),
        _own,
    ),
    Edit(
        "local_search",
        {"policy_below_best": 1.0, "flat": 0.8, "policy_uninformed": 0.6, "low_diversity": 0.5},
        "A part of the proposals are small changes of the best solution, made in code from the best at that moment.",
        "improvements between the policy's batches",
        op.local_search,
        _has("neighbours"),
        _own,
        ("use_whole_budget", "start_from_archive"),
    ),
    Edit(
        "screen_changes",
        {"uneven_fields": 0.8, "flat": 0.4, "search_beats_policy": 0.5},
        "An additive fit over the verdicts estimates each value's effect; of a pool of changes the most promising is scored.",
        "more verdicts above the best so far",
        op.screen_changes,
        _in("neighbours", r"pool = "),
        _own,
        ("local_search",),
    ),
    Edit(
        "value_prior",
        {"uneven_fields": 0.6, "flat": 0.4},
        "Some proposals are drawn field by field, each value with a chance that grows with its estimated effect.",
        "proposals that combine values which did well apart",
        op.value_prior,
        _has("by_effects"),
        _own,
        ("use_whole_budget", "remember"),
    ),
    Edit(
        "screen_policy",
        {"policy_below_best": 0.6, "unused_tokens": 1.0},
        "More answers are sampled than can be scored, and those that the fit over the verdicts finds most promising are scored.",
        "a higher mean score of the policy's proposals, and fewer tokens left",
        op.screen_policy,
        _in("propose", r"answers = "),
        _all(_own, _in("propose", r"solution = extract\(text\)"), _in("propose", r"yield solution$")),
        ("remember",),
    ),
    Edit(
        "crossover",
        {"flat": 0.6, "rising": 0.4},
        "Some proposals combine two of the best solutions, field by field.",
        "proposals between the good solutions",
        op.crossover,
        _has("crossovers"),
        _own,
        ("use_whole_budget", "remember"),
    ),
    Edit(
        "examples",
        {"policy_uninformed": 0.7, "policy_below_best": 0.4},
        "The prompt shows the best solutions so far with their scores.",
        "proposals of the policy nearer to the best",
        op.examples,
        _in("build_prompt", r"if state\['best'\]"),
        _prompt,
    ),
    Edit(
        "prompt_hints",
        {"policy_uninformed": 0.6, "uneven_fields": 0.3},
        "The prompt names the values that did well and badly in this execution's own verdicts.",
        "a higher mean score of the policy's proposals",
        op.prompt_hints,
        _has("hints"),
        _all(_own, _prompt),
        ("remember",),
    ),
    Edit(
        "skip_failing_values",
        {"verifier_crash": 1.0, "verifier_timeout": 1.0},
        "No verdict is spent on a solution with a value that only ever failed in the verifier.",
        "fewer failures in the verifier",
        op.skip_failing_values,
        _has("hopeless"),
        _own,
        ("remember",),
    ),
    Edit(
        "sturdier_extraction",
        {"broken_json": 0.8, "truncated": 0.5},
        "Extraction reads fenced, loosely quoted and cut-off objects, and takes the last one of several.",
        "fewer answers lost to their spelling",
        op.sturdier_extraction,
        _has("parse_loosely"),
        _has("extract"),
    ),
    Edit(
        "mend_answers",
        {"bad_value": 0.8, "missing_field": 0.8, "unknown_field": 0.8},
        "Wrong values are moved to the nearest allowed one, unknown fields dropped and gaps filled from the best solution.",
        "no verdicts lost to single wrong fields",
        op.mend_answers,
        _has("mend"),
        _all(_own, _in("propose", r"yield solution$")),
    ),
    Edit(
        "retry_with_error",
        {"no_json": 0.6, "broken_json": 0.3, "truncated": 0.3},
        "An answer that cannot be read goes back to the policy with what is wrong with it, once.",
        "second answers that can be read",
        op.retry_with_error,
        _has("ask_again"),
        _all(_own, _in("propose", r"solution = extract\(text\)")),
    ),
    Edit(
        "spare_tokens",
        {"tokens_first": 1.0},
        "The policy is asked only while its answers can be paid for; the search in code goes on after that.",
        "verifier calls spent to the end",
        op.spare_tokens,
        _in("propose", r"affordable = "),
        _in("propose", r"texts = env\.sample"),
        ("local_search",),
    ),
    Edit(
        "submit_as_found",
        {"no_submission": 0.8, "out_of_time": 1.0},
        "Every new best is submitted at once, so that an execution cut short has an answer.",
        "a submission in every execution",
        op.submit_as_found,
        _in("run", r"if state\['best'\]\[0\]"),
        _in("run", r"state\['best'\]\.sort"),
    ),
    Edit(
        "survive_errors",
        {"scaffold_crash": 1.0},
        "An error of the scaffold's own is logged, and what was found until then is submitted.",
        "a submission in every execution",
        op.survive_errors,
        lambda source: "except Exception as error:" in source[source.find("def run(") :],
        _own,
    ),
)

BY_NAME = {edit.name: edit for edit in EDITS}
