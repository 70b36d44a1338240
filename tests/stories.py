"""Trajectories told event by event, and views of a run that stands before the choice between its levers."""

from __future__ import annotations

from sia_nb.agents.base import StepSummary, View
from sia_nb.agents.playbook import PlaybookMetaAgent
from sia_nb.agents.playbook.edits import BY_NAME
from sia_nb.training.hyper import ALGORITHMS, MENU
from sia_nb.trajectory import Event, Trajectory, text_sha

BUDGET = {"verifier_calls": 10, "tokens": 1000, "seconds": 60.0}
REWARDS = {
    "n": 26, "zero_share": 0.0, "mean": 0.5, "sd": 0.1, "skew": 0.3, "best": 0.7, "levels": 26, "scored": 26,
    "distinct_share": 1.0,
}  # fmt: skip


class Story:
    """A trajectory told event by event."""

    def __init__(self):
        self.events: list[Event] = []
        self.add("start", budget=BUDGET)

    def add(self, kind: str, /, **data) -> int:
        self.events.append(Event(len(self.events), kind, 0.0, data))
        return len(self.events) - 1

    def answer(self, text: str, solution: str | None = None, stop: str = "end", logprob: float = -1.0) -> int:
        event = self.add("response", sample=0, index=0, text=text, tokens=5, stop=stop, logprob=logprob)
        self.add("extract", text_sha=text_sha(text), ok=solution is not None, solution=solution, error="")
        return event

    def verdict(self, solution: str, score: float = 0.0, failure: str = "", again: bool = False) -> int:
        event = self.add("evaluate", solution=solution, dialect="spec")
        return self.add("verdict", evaluate=event, score=score, valid=not failure, failure=failure, cached=again, repeat=again)

    def end(self, submit: bool = True, **used: float) -> Trajectory:
        if submit:
            self.add("submit", solution="{}", score=0.0)
        self.add("end", reason="returned", used={"verifier_calls": 10, "tokens": 1000, **used})
        return Trajectory(self.events)


def lever(gain: float = 0.02, noise: float = 0.01, calls: float = 26, **more: float) -> dict[str, float]:
    """A lever's record."""
    record = {"tries": 2, "kept": 1, "last_gain": gain, "last_noise": noise, "last_verifier_calls": calls, "last_tokens": 2000}
    return {**record, **more}


def summary(step: int, action: str, accepted: bool, score: float = 0.5, edits: tuple[str, ...] = ()) -> StepSummary:
    return StepSummary(step, action, score, 0.01, accepted, edits, {"verifier_calls": 26, "tokens": 2000})


def scaffold(task, *edits: str) -> str:
    """The first draft with edits."""
    source = PlaybookMetaAgent(task).write(task.spec_text(), task.reference())
    for name in edits:
        source = BY_NAME[name].apply(source)
    return source


def searching(scores=(0.4, 0.5, 0.6, 0.5, 0.4, 0.6, 0.55, 0.45)) -> Trajectory:
    """Masked answers, each scored; the best comes first, so that the search is flat."""
    story = Story()
    story.add("sample", messages=[], n=len(scores), temperature=1.0, max_tokens=160, grammar=True)
    for i, score in enumerate(sorted(scores, reverse=True)):
        story.answer(f'{{"a": {i}}}', f'{{"a":{i}}}')
        story.verdict(f'{{"a":{i}}}', score)
    return story.end()


def crossroads(task, **changes) -> View:
    """After step 3 of 8: two harness updates kept, the weights never tried, rewards without a tail."""
    source = scaffold(task, "structured_output", "use_whole_budget")
    history = (summary(1, "init", True, 0.3), summary(2, "harness", True, 0.6), summary(3, "harness", True, 0.7))
    given = {
        "task": task.name, "spec": "", "step": 3, "steps_left": 5, "scaffold": source, "incumbent": source,
        "trajectory": searching(), "metrics": {"score": 0.7, "budget": {"verifier_calls": 26, "tokens": 12_000}},
        "history": history, "allowed": ("harness", "weights", "stop"), "algorithms": ALGORITHMS, "menu": MENU,
        "levers": {"harness": lever()}, "structured": True,
        "budget_left": {"steps": 5, "verifier_calls": 130, "tokens": 60_000},
    }  # fmt: skip
    rewards = {**REWARDS, **changes.pop("rewards", {})}
    return View(**{**given, "rewards": rewards, **changes})
