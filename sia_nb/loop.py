"""The step-budget loop (paper §5.2): which notebook runs next, by papermill; resume is the same call.

    1  01_init_scaffold                A_1 = M(U, R)
    2  for g = 1 … steps
         02_run_generation             execute A_g, record τ_g, score E_g
         03_feedback_decision          F chooses; a harness update writes A_{g+1}; "stop" ends the loop
         04_grpo_training              where F chose weights: trains θ_{g+1} by the algorithm that F chose
    3  05_ablation_figures             opens the sealed test for this run, draws its figures

Of several runs at once (``arms``) each opens its own sealed test, and the figures are drawn once, after the last.
The loop itself decides nothing: what is done is read from the completion marks of the run folder.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from . import notebooks
from .config import RunConfig
from .estimate import Clock
from .store import Run, data_dir, read_json

POLICY_IMPORTS = ("sia_nb.training.trainer", "sia_nb.policy.model", "peft", "transformers.models.llama.modeling_llama")


class Bar:
    """One progress bar with an ETA; plain lines where there is no terminal."""

    def __init__(self, run: Run, total: float, echo: Callable[[str], None]):
        self.run, self.total, self.echo = run, max(total, 1.0), echo
        self.done, self.start, self.tty = 0.0, time.monotonic(), sys.stderr.isatty()
        self.bar = None
        if self.tty:
            from tqdm import tqdm

            self.bar = tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed}<{postfix}", leave=False)

    def tick(self, weight: float) -> None:
        """Redraw from what the phase in hand says of itself."""
        if not self.bar:
            return
        with contextlib.suppress(Exception):
            now = json.loads((self.run.path / ".progress.json").read_text(encoding="utf-8"))
            share = (self.done + weight * min(1.0, now["done"] / max(now["total"], 1))) / self.total
            left = self._left(share)
            self.bar.n = int(100 * share)
            self.bar.set_postfix_str(f"{left} left, {now['what']}")

    def advance(self, weight: float, line: str) -> None:
        """A notebook has ended."""
        self.done = min(self.total, self.done + weight)
        elapsed = time.monotonic() - self.start
        text = (
            f"[{_clock(elapsed)}] {line}  ({100 * self.done / self.total:.0f} %, about {self._left(self.done / self.total)} left)"
        )
        if self.bar:
            self.bar.write(text)
        else:
            self.echo(text)

    def _left(self, share: float) -> str:
        elapsed = time.monotonic() - self.start
        planned = self.total * (1 - share)
        pace = elapsed * (1 - share) / share if share > 0.05 else planned
        return _clock(0.5 * (planned + pace))

    def close(self) -> None:
        """Remove the bar."""
        if self.bar:
            self.bar.close()
        with contextlib.suppress(OSError):
            (self.run.path / ".progress.json").unlink()


def run_loop(run: Run, *, echo: Callable[[str], None] = print, figures: bool = True, report_only: bool = False) -> Run:
    """Run, or go on with, everything that ``run``'s config asks for. Safe to call again.

    After the last step the sealed test is opened and the figures are drawn; with ``report_only``, and of a control, which is in
    none of the arms' figures, nothing is drawn; without ``figures`` the test stays closed as well.

    Raises:
        StoreError: another process holds the folder, the disk is full, a finished file was altered.
        ConfigError: fewer devices than asked for.
        Interrupted: SIGINT or SIGTERM. NotebookError, AgentError, …: what a phase raised.
    """
    report_only = report_only or bool(figures and run.config.control)
    config, clock, plan = (
        run.config,
        Clock.load(run.config.task),
        Clock.load(run.config.task),
    )  # the bar's shares stay as planned while clock learns
    if config.devices > 1:
        from .training.devices import check

        check(config.devices, config.threads)  # before anything is spent
    with run.writing(), run.lock(), _terminable(), notebooks.NotebookProcess(notebook_imports(config)) as process:
        pending = [g for g in range(1, config.steps + 1) if not run.done(g, "run")]
        total = clock.total(config, len(pending))
        if pending:
            source = "measured on this machine" if clock.seen else "by the reference machine's speed; yours may differ"
            echo(f"{run.path.name}: {len(pending)} of {config.steps} steps to run, about {_clock(total)} ({source}).")
        bar = Bar(run, total, echo)
        try:
            _steps(run, process, clock, plan, bar)
            drawn = run.path / "notebooks" / "05_ablation_figures.ipynb"
            opened = (run.path / "report.json").exists()
            if report_only and not opened:
                from .phases import report

                report(run)
                bar.advance(plan.speed["report"], "the sealed test was opened")
            elif figures and not report_only and not (drawn.exists() and opened):
                weight, folder = plan.speed["report"], run.path / "notebooks"
                _notebook(run, "05_ablation_figures", process, folder, bar, weight, run_dir=str(run.path))
        finally:
            bar.close()
            with contextlib.suppress(Exception):
                clock.save()
    return run


def draw(run: Run) -> None:
    """Draw the figures of a finished run and of those that it may be pooled with, by 05_ablation_figures.

    Raises:
        StoreError: another process holds the folder. NotebookError, StoreError: what the notebook raised.
    """
    name = "05_ablation_figures"
    with run.lock(), _terminable():
        notebooks.execute(name, {"run_dir": str(run.path)}, run.path / "notebooks" / f"{name}.ipynb", timeout=1800.0)


def _steps(run: Run, process: notebooks.NotebookProcess, clock: Clock, plan: Clock, bar: Bar) -> None:
    config, where = run.config, str(run.path)
    if not run.done(1, "init"):
        _notebook(run, "01_init_scaffold", process, run.step(1) / "notebooks", bar, plan.speed["notebook"], run_dir=where)
        bar.advance(0, "step 1: A_1 written")
    for g in range(1, config.steps + 1):
        if not run.done(g, "run"):
            weight = plan.step(config)
            seconds = _notebook(run, "02_run_generation", process, run.step(g) / "notebooks", bar, weight, run_dir=where, step=g)
            m = run.metrics(g)
            clock.learn(seconds, m["used"])
            bar.advance(weight, f"step {g}: dev {m['score']:.4f}, {m['used']['verifier_calls']:.0f} verifier calls, {m['note']}")
        if g == config.steps:
            break
        if not run.done(g, "decision"):
            weight = plan.speed["notebook"]
            _notebook(run, "03_feedback_decision", process, run.step(g) / "notebooks", bar, weight, run_dir=where, step=g)
            d = read_json(run.step(g) / "decision.json")
            edits = run.origin(g + 1)["edits"] if d["action"] == "harness" else [d["algorithm"]] if d["algorithm"] else []
            bar.advance(weight, f"step {g}: F chose {d['action']}{': ' + ', '.join(edits) if edits else ''}")
        decision = read_json(run.step(g) / "decision.json")
        if decision["action"] == "stop":
            break
        if decision["action"] == "weights" and not run.done(g + 1, "train"):
            weight, folder = plan.training(), run.step(g + 1) / "notebooks"
            clock.learn_training(_notebook(run, "04_grpo_training", process, folder, bar, weight, run_dir=where, step=g))
            bar.advance(weight, f"step {g + 1}: {_trained(run, g + 1)}")


def _trained(run: Run, g: int) -> str:
    r = read_json(run.step(g) / "weights" / "result.json")
    return f"trained by {r['algorithm']}: {r['note']}"


def _notebook(
    run: Run, name: str, process: notebooks.NotebookProcess, folder: Any, bar: Bar, weight: float, **values: Any
) -> float:
    timeout = max(1800.0, 4 * run.config.seconds)
    output, tick = folder / f"{name}.ipynb", lambda: bar.tick(weight)
    process.ready = policy_to_keep(run) if name in ("02_run_generation", "04_grpo_training") else None
    return notebooks.execute(name, values, output, timeout=timeout, poll=tick, process=process)


def policy_to_keep(run: Run) -> tuple[str, ...] | None:
    """What loads the run's policy for its notebooks to fork, once its number format is known; None where a fork cannot have it."""
    dtype = run.info.get("dtype", run.config.dtype)
    if dtype == "auto" or "sia_nb.policy.model" not in notebook_imports(run.config):
        return None
    return ("sia_nb.policy.model", "keep", run.config.policy, str(data_dir()), dtype)


def notebook_imports(config: RunConfig) -> tuple[str, ...]:
    """What the notebooks of a run import, to be imported once.

    The local policy's libraries may start a GPU's driver, which a fork could not use: where there is one, each notebook imports them.
    """
    from .tasks.trimul.machine import gpu_there

    local = () if config.policy_url or gpu_there() else POLICY_IMPORTS
    return ("sia_nb.phases", "sia_nb.view.inspect", *local)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _clock(seconds: float) -> str:
    """``75`` → ``1:15``."""
    seconds = max(0, round(seconds))
    return (
        f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
        if seconds >= 3600
        else f"{seconds // 60}:{seconds % 60:02d}"
    )
