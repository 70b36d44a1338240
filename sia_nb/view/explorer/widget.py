"""The explorer in a notebook: ``explore()`` shows runs in JupyterLab, Notebook 7 and VS Code, and follows those that go on.

The view is the script of ``front/`` in an anywidget. It asks ``model.Explorer`` by custom messages {"id", "request"} and is
answered by {"id", "answer"}; nothing else passes. Beside the view the output holds a static copy of one run, folded away
while the view is alive, because an exported notebook shows a widget only with the help of a network: the copy needs none.
"""

from __future__ import annotations

import html
import uuid
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython.display import HTML, display

from ...errors import ConfigError
from ...store import Run, find_run
from ..inspect import table_html
from . import assets
from .model import Explorer
from .page import TABS, frame

COPY_EVENTS = 200  # events of the run in the static copy


class ExplorerWidget(anywidget.AnyWidget):
    """The live view of some runs.

    Args:
        explorer: what answers.
        first: the run, step (g) and tab to begin with; any may be left out.
        run: the run that is copied for where no kernel is; None: there is no copy.
    """

    first = traitlets.Dict().tag(sync=True)
    copy_id = traitlets.Unicode().tag(sync=True)

    _esm = assets.widget_script()
    _css = assets.style()

    def __init__(self, explorer: Explorer, first: dict[str, Any] | None = None, run: Run | None = None):
        super().__init__(first=first or {}, copy_id=uuid.uuid4().hex)
        self.explorer, self.run = explorer, run
        self.on_msg(self._answer)

    def _answer(self, _: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict) and isinstance(content.get("request"), dict):
            self.send({"id": content.get("id"), "answer": self.explorer.answer(content["request"])})

    def static_copy(self) -> str:
        """HTML of one run: unfolded until the view, once alive, folds it. Empty where there is no run."""
        if self.run is None:
            return ""
        name = self.run.path.name
        inner = frame(self.run, events=COPY_EVENTS, first={k: v for k, v in self.first.items() if k != "run"})
        said = (
            f"A copy of {name} for where no kernel is, as in exported HTML; it holds the first {COPY_EVENTS} events of the run."
        )
        return f"<details open data-sia-static='{self.copy_id}'><summary>{html.escape(said)}</summary>{self._table(name)}{inner}</details>"

    def _table(self, name: str) -> str:
        """The steps in plain HTML, for viewers that let no script run."""
        show = ("g", "lever", "algorithm", "score", "se", "rolled_back", "verifier_calls", "tokens")
        steps = Explorer([self.run.path]).answer({"do": "steps", "run": name}).get("steps", [])
        head = ("step", "lever", "algorithm", "dev score", "standard error", "rolled back", "verifier calls", "tokens")
        return f"<noscript>{table_html(head, [tuple(s.get(k) for k in show) for s in steps])}</noscript>"

    def _ipython_display_(self) -> None:
        shown = "" if self.run is None else f" of {self.run.path.name}"
        display(
            self._repr_mimebundle_()[0] | {"text/plain": f"The explorer{shown}: it needs JavaScript and a running kernel."},
            raw=True,
        )
        if copy := self.static_copy():
            display(HTML(copy))


def explore(*runs: Run | str | Path, step: int = 0, tab: str = "trajectory") -> ExplorerWidget:
    """The explorer of these runs, of all runs there are if none is named; shown where a notebook's cell ends with it.

    Args:
        runs: runs, their folders or names; the first is shown first.
        step: the step to begin with; 0: the last that was kept.
        tab: what of it to begin with: decision, scaffold, trajectory, rollouts, compare or ledger.

    Raises:
        StoreError: no such run. ConfigError: no such tab.
    """
    if tab not in TABS:
        raise ConfigError(f"tab: {tab!r}; expected one of {', '.join(TABS)}")
    found = [run if isinstance(run, Run) else find_run(str(run)) for run in runs]
    explorer = Explorer([run.path for run in found] if found else None)
    if not found:
        names = [r["name"] for r in explorer.answer({"do": "runs"})["runs"] if r["state"] != "damaged" and r["steps"]]
        found = [find_run(name) for name in names[:1]]
    first = {"tab": tab} | ({"run": found[0].path.name} if found else {}) | ({"g": step} if step else {})
    return ExplorerWidget(explorer, first, found[0] if found else None)
