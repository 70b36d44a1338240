"""The playbook: the offline stand-in for the language models behind the Meta- and the Feedback-Agent.

A deterministic expert system. It reads trajectories for failure modes (``diagnose``) and composes edits of
``agent.py``'s code (``edits``, ``tuning``). It knows no task: no field, value or solution of one is named here.
"""

from .diagnose import Finding, diagnose
from .feedback import PlaybookFeedbackAgent
from .meta import PlaybookMetaAgent

__all__ = ["Finding", "PlaybookFeedbackAgent", "PlaybookMetaAgent", "diagnose"]
