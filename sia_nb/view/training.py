"""What a weight update did: its curves, its rollouts before and after, and a display that follows it while it runs.

The curves come from ``curve.jsonl`` (a line an training step), the rollouts from ``rollouts.jsonl``. Plain functions
make the text and HTML; model text is always escaped. No torch here: training is only watched.
"""

from __future__ import annotations

import html
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..store import Run, read_json, read_lines
from . import collect

PANELS = (  # key of curve.jsonl, title, y label
    ("reward", "reward", "reward"),
    ("validity", "validity", "share of rollouts"),
    ("distinct", "distinct solutions", "share of rollouts"),
    ("entropy", "entropy", "nats a choice"),
    ("kl", "KL to the base policy", "nats a choice"),
    ("grad_norm", "gradient norm", "before clipping"),
)
BLUE, GREEN = "#0072B2", "#009E73"


# -- reading -----------------------------------------------------------------------------------------


def trained_steps(run: Run) -> list[int]:
    """The steps that a weight update made, in order."""
    return [g for g in run.steps() if run.origin(g)["action"] == "weights"]


def folder_of(run: Run, step: int) -> Path:
    """Where the weight update that made step g keeps its files.

    Raises:
        StoreError: the step was not made by a weight update.
    """
    if step not in trained_steps(run):
        made = ", ".join(map(str, trained_steps(run))) or "none"
        raise StoreError(f"step {step} of {run.path.name} was not made by a weight update; steps that were: {made}")
    return run.step(step) / "weights"


def result(folder: Path) -> dict[str, Any]:
    """result.json of a weight update."""
    return read_json(folder / "result.json")


def curve_lines(folder: Path) -> list[dict[str, Any]]:
    """curve.jsonl of a weight update."""
    return read_lines(folder / "curve.jsonl")


def rollouts(folder: Path) -> list[dict[str, Any]]:
    """rollouts.jsonl of a weight update."""
    return read_lines(folder / "rollouts.jsonl")


# -- curves ------------------------------------------------------------------------------------------


def curves_from_data(axes: Any, lines: list[dict[str, Any]]) -> None:
    """Six panels over the training steps; ``axes`` are six in reading order, ``lines`` those of curve.jsonl.

    Reward: mean and median of a step's rollouts, the band from their 10 % to their 90 % quantile, the best so far. A value
    that a step does not have (None: no group taught anything) is a gap.
    """
    number = lambda key: [float("nan") if line[key] is None else line[key] for line in lines]
    steps, axes = number("step"), list(axes)
    for ax, (key, title, label) in zip(axes, PANELS, strict=True):
        ax.set(title=title, ylabel=label)
        ax.set_xlim(0.5, max(len(lines), 2) + 0.5)
        ax.xaxis.get_major_locator().set_params(integer=True)
        if key == "reward":
            band = {"color": BLUE, "alpha": 0.18, "linewidth": 0, "label": "10–90 % of a step"}
            ax.fill_between(steps, number("reward_q10"), number("reward_q90"), **band)
            ax.plot(steps, number("reward_mean"), color=BLUE, label="mean")
            ax.plot(steps, number("reward_q50"), color=BLUE, linestyle=":", label="median")
            ax.plot(steps, number("best"), color=GREEN, linestyle="--", label="best so far")
            low, high = ax.get_ylim()
            ax.set_ylim(low - 0.35 * (high - low), high)  # room for the legend under the data
            ax.legend(fontsize=7, loc="lower left", ncols=2)
            continue
        values = number(key)
        ax.plot(steps, values, color=BLUE, marker=".", markersize=4)
        known = [v for v in values if v == v]
        ax.set_ylim(0, 1.08 if key in ("validity", "distinct") else 1.12 * max(known, default=0.0) or 1.0)
        if not known:
            ax.set_yticks([])
            ax.text(0.5, 0.5, "not measured", ha="center", color="#777777", fontsize=8, transform=ax.transAxes)
    for ax in axes[3:]:
        ax.set_xlabel("training step")


def curves_figure(lines: list[dict[str, Any]], title: str = "") -> Any:
    """A Matplotlib figure of the six panels, outside pyplot: it can be drawn again and again and leaves nothing open."""
    from matplotlib.figure import Figure

    with _styled():
        fig = Figure(figsize=(9.6, 4.8), layout="constrained")
        curves_from_data(fig.subplots(2, 3).flat, lines)
        fig.suptitle(title, fontsize=9, x=0.01, ha="left")
    return fig


def _styled() -> Any:
    from matplotlib import style

    from .figures import STYLE

    return style.context(STYLE)


def curves(folder: Path, title: str, out: Path) -> dict[str, Path]:
    """Draw the curves of a weight update into ``out``: SVG, PDF, PNG and, beside them, the numbers as CSV."""
    lines = curve_lines(folder)
    fig = curves_figure(lines, title)
    out.mkdir(parents=True, exist_ok=True)
    name = f"training_{folder.parent.name if folder.name == 'weights' else folder.name}"
    paths = {suffix: out / f"{name}.{suffix}" for suffix in ("svg", "pdf", "png", "csv")}
    with _styled():
        for suffix, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None}), ("png", None)):
            fig.savefig(paths[suffix], metadata=metadata, dpi=160)
    columns = [k for k in lines[0] if k not in ("objective", "notes")] if lines else []
    collect.write_csv(paths["csv"], [{c: line[c] for c in columns} for line in lines], columns)
    return paths


def curve_line(line: dict[str, Any]) -> str:
    """A line of curve.jsonl for a terminal."""
    show = lambda key, digits=3: "-" if line[key] is None else f"{line[key]:.{digits}f}"
    return (
        f"step {line['step']:3}  reward {show('reward_mean')} [{show('reward_q10')}, {show('reward_q90')}]  "
        f"best {show('best')}  valid {show('validity', 2)}  distinct {show('distinct', 2)}  entropy {show('entropy')}  "
        f"KL {show('kl', 4)}  gradient {show('grad_norm')}  {line['verifier_calls']} calls"
    )


# -- rollouts before and after -----------------------------------------------------------------------


def before_after(lines: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rewarded rollouts of the first and of the last training step, best first.

    The policy's own in the first step are those of the policy before any update, in the last step those before the last one.
    """
    known = [r for r in lines if r["reward"] is not None]
    of = lambda step: sorted((r for r in known if r["step"] == step), key=lambda r: (-r["reward"], r["group"], r["row"]))
    return (of(known[0]["step"]), of(known[-1]["step"])) if known else ([], [])


def gain(before: dict[str, float], after: dict[str, float]) -> tuple[float, float, float]:
    """Difference of two means, after minus before, with its 95 % interval (Welch's t); nan bounds under 2 values each.

    Args:
        before, after: ``mean``, its standard error ``se`` and the number ``n`` of values, as in result.json.
    """
    difference = after["mean"] - before["mean"]
    if min(before["n"], after["n"]) < 2:
        return difference, float("nan"), float("nan")
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    parts = [(group["se"] ** 2, group["n"] - 1) for group in (before, after)]
    variance = sum(v for v, _ in parts)
    if not variance:
        return difference, difference, difference
    freedom = variance**2 / sum(v**2 / df for v, df in parts)
    half = float(stdtrit(freedom, 0.975)) * variance**0.5
    return difference, difference - half, difference + half


def gain_sentence(result: dict[str, Any]) -> str:
    """Whether the policy's scores rose over a weight update, in a sentence with the interval."""
    before, after = result["before"], result["after"]
    if not (before["n"] and after["n"]):
        return "The policy wrote nothing that was scored."
    difference, low, high = gain(before, after)
    said = (
        f"Mean score of the policy's first {before['n']} and last {after['n']} samples: "
        f"{before['mean']:.4f} and {after['mean']:.4f}"
    )
    if low != low:
        return f"{said}; too few for an interval."
    verdict = "it rose" if low > 0 else "it fell" if high < 0 else "no change can be claimed"
    return f"{said}, a difference of {difference:+.4f} with 95 % interval [{low:+.4f}, {high:+.4f}]: {verdict}."


def rollouts_html(lines: list[dict[str, Any]], *, most: int = 32) -> str:
    """The rollouts before and after as two scrolling tables side by side, best first; all text is escaped."""
    parts = []
    for title, group in zip(("first training step", "last training step"), before_after(lines), strict=True):
        body = "".join(_row(n, r) for n, r in enumerate(group[:most], 1))
        more = f"<p>… and {len(group) - most} more</p>" if len(group) > most else ""
        own = [r["reward"] for r in group if r["source"] == "policy"]
        mean = f", mean reward of the policy's {sum(own) / len(own):.4f}" if own else ""
        head = "".join(f"<th>{h}</th>" for h in ("", "reward", "advantage", "source", "text"))
        parts.append(
            "<div style='flex:1 1 0;min-width:0'>"
            f"<b>{title}: {len(group)} rollouts{mean}</b><div style='max-height:420px;overflow:auto'>"
            f"<table style='width:100%;table-layout:auto'><tr>{head}</tr>{body}</table>{more}</div></div>"
        )
    return f"<div style='display:flex;gap:1em;align-items:flex-start'>{''.join(parts)}</div>"


def _row(n: int, r: dict[str, Any]) -> str:
    text = " ".join(str(r["text"]).split())
    shown = f"<code style='white-space:pre-wrap;overflow-wrap:anywhere;font-size:85%'>{html.escape(text)}</code>"
    if not r["valid"]:
        shown += f"<br><i>{html.escape(str(r['reason']))}</i>"
    advantage = "" if r["advantage"] is None else f"{r['advantage']:+.2f}"
    narrow = "width:1%;white-space:nowrap;text-align:right;vertical-align:top"
    cells = "".join(f"<td style='{narrow}'>{html.escape(str(c))}</td>" for c in (n, f"{r['reward']:.4f}", advantage, r["source"]))
    return f"<tr>{cells}<td style='text-align:left'>{shown}</td></tr>"


# -- live --------------------------------------------------------------------------------------------


class LiveCurves:
    """Follow a weight update: call it with each line of the curve.

    In a notebook that a person runs, one picture is redrawn in place, at most every ``every`` seconds and for no more than
    about a tenth of the time; elsewhere (a terminal, papermill) each line is printed. Give it as ``on_step``.
    """

    def __init__(self, *, every: float = 2.0, live: bool | None = None, echo: Callable[[str], None] = print):
        self.every, self.echo = every, echo
        self.live = run_by_hand() if live is None else live
        self.lines: list[dict[str, Any]] = []
        self._handle: Any = None
        self._next = 0.0

    def __call__(self, line: dict[str, Any]) -> None:
        """One more step; a step that comes again (after a resume) takes its own place."""
        self.lines = [seen for seen in self.lines if seen["step"] < line["step"]] + [line]
        if not self.live:
            self.echo(curve_line(line))
        elif time.monotonic() >= self._next:
            self.draw()

    def draw(self) -> None:
        """Draw what there is now. A picture that fails does not end the training: the lines are printed from then on."""
        from IPython.display import Image, display

        start, first = time.monotonic(), self._handle is None
        try:
            buffer = io.BytesIO()
            curves_figure(self.lines, curve_line(self.lines[-1])).savefig(buffer, format="png", dpi=110)
            picture = Image(data=buffer.getvalue(), alt="training curves")
            if first:
                self._handle = display(picture, display_id=True)
            else:
                self._handle.update(picture)
        except Exception as error:  # whatever a drawing library raises
            self.live = False
            self.echo(f"the live curves cannot be drawn ({error}); lines from here on")
            return
        now = time.monotonic()
        cost = 0.0 if first else now - start  # the first picture loads the library, and is no measure of the next
        self._next = now + max(self.every, 10 * cost)


def run_by_hand() -> bool:
    """Whether this is the kernel of a notebook that a person looks at, and not one that papermill or nbconvert runs."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    if getattr(get_ipython(), "kernel", None) is None:
        return False
    import psutil  # the kernel itself depends on it

    try:
        starter = " ".join(psutil.Process().parent().cmdline())
    except (psutil.Error, AttributeError):  # started by a process that has ended
        return False
    return not any(name in starter for name in ("papermill", "nbconvert", "nbclient", "sia_nb.notebook_process"))
