"""The playbook's Meta-Agent: A_1 = M(U, R), a plain first draft with the task's own words in the prompt."""

from __future__ import annotations

import inspect

from ...scaffold.contract import check
from . import first_draft
from .surgery import set_constant, set_docstring

PROMPT_CHARS = 400  # of U's opening paragraph in the system prompt: a small policy pays for every token


def opening(spec: str) -> str:
    """The first paragraph of prose in U, on one line, cut at a sentence where it is long."""
    prose: list[str] = []
    for line in spec.splitlines():
        if line.startswith(("#", "|", "-", "*", "```")) or not line.strip():
            if prose:
                break
        else:
            prose.append(line.strip())
    text = " ".join(prose)
    if len(text) <= PROMPT_CHARS:
        return text
    end = text.rfind(". ", 0, PROMPT_CHARS)
    return text[: end + 1] if end > 0 else text[:PROMPT_CHARS]


class PlaybookMetaAgent:
    """Writes the first scaffold as an unambitious engineer would: ask freely, read what can be read, submit the best.

    It makes no use of the reference beyond the fallback that every task hands to its scaffolds.
    """

    kind = "playbook"
    model = "playbook"

    def __init__(self, task):
        self.task = task

    def write(self, spec: str, reference: str) -> str:
        """The source of ``agent.py``."""
        title = self.task.title.rstrip(".")
        prompt = f"You propose solutions to this task: {title}. {opening(spec)} Judged by {self.task.metric}; higher is better."
        source = set_docstring(
            inspect.getsource(first_draft), f"Scaffold for {self.task.name}: the policy proposes, the verifier judges."
        )
        source = set_constant(source, "SYSTEM_PROMPT", prompt)
        check(source)
        return source
