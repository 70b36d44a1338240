"""Checks of the exercises on the loop: each looks at an answer and says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import nearest
from ..store import Run
from . import loop
from .answers import Wrong, called, judged, number
from .checking import dictionary

MISTAKEN = {
    "any": "you take any gain: compare it with the noise as well",
    "last": "you take every step: a step that does not beat the incumbent is rolled back",
    "previous": "you compare with the step before, but what was rolled back is no rival: compare with the incumbent",
}


PLAIN = "that is right for the plain mean over texts; macro accuracy is a mean over charges of charges' means"
SPREAD = "that is the spread of single texts; the error of a mean of n texts is smaller by sqrt(n)"
UNPAIRED = "those are two errors added up as if of different texts; take the difference text by text first"


@judged
def check_places(run: Run, step: int, answer: Any) -> str:
    """Exercise 1: which file holds what."""
    answer = dictionary(answer, list(loop.PLACES), "places")
    known = list(loop.files(run, step)["file"])
    holds = {file: f"{symbol}: {what}" for symbol, (file, what) in loop.PLACES.items()}
    for symbol, (file, what) in loop.PLACES.items():
        said = str(answer[symbol])
        if said == file:
            continue
        if said not in known:
            raise Wrong(f"{symbol}: there is no file {said!r} in the step's folder.{nearest(said, known)}")
        other = holds.get(said, "made beside these, for people or for a resume")
        raise Wrong(f"{symbol} is {what}; {said} holds something else ({other})")
    return "with these five files a step can be checked, and done again"


@judged
def check_incumbents(run: Run, answer: Any) -> str:
    """Exercise 2: the incumbent after each step."""
    truth = loop.incumbents(run)
    answer = dictionary(answer, list(truth), "incumbents")
    for g, said in answer.items():
        if said not in truth or said > g:
            raise Wrong(f"after step {g}: {said!r} is none of the steps executed by then, 1 to {g}")
    if answer == truth:
        kept = [g for g, best in truth.items() if g == best]
        return f"kept are {', '.join(map(str, kept))}; the loop goes on from step {truth[max(truth)]}"
    first = min(g for g in truth if answer[g] != truth[g])
    hint = next((text for rule, text in MISTAKEN.items() if answer == loop.incumbents(run, rule)), "")
    m, rival = run.metrics(first), truth.get(first - 1, 1)
    gain = m["score"] - run.metrics(rival)["score"]
    size = "more" if gain > m["noise"] else "not more"
    shown = f"step {first}: {gain:+.4f} against step {rival}, the incumbent, is {size} than the noise, {m['noise']:.4f}"
    raise Wrong(f"{shown}{'; ' + hint if hint else ''}")


@judged
def check_noise(function: Callable[..., Any], pair: loop.Pair) -> str:
    """Exercise 3: the paired standard error of the difference of two macro accuracies, from hits and labels."""
    a, b, labels = pair.a, pair.b, pair.labels
    value, d = number(called(function, a, b, labels)), a - b
    if np.isclose(value, pair.noise, rtol=1e-6):
        return f"noise {value:.4f} for a gain of {pair.gain:+.4f}: {'kept' if pair.gain > value else 'rolled back'}"
    groups = [d[labels == c] for c in np.unique(labels)]
    several = [g for g in groups if len(g) > 1]
    lone = np.sqrt(sum(g.var(ddof=1) / len(g) for g in several)) / len(groups)
    known = (
        (pair.gain, "that is the gain; the noise is how far it may be off by the choice of texts"),
        (loop.intervals(pair)["as if on different texts"], UNPAIRED),
        (d.std(ddof=1) / np.sqrt(len(d)), PLAIN),
        (d.std() / np.sqrt(len(d)), PLAIN),
        (d.std(ddof=1), SPREAD),
        (d.std(), SPREAD),
        (np.sqrt(sum(g.var() / len(g) for g in groups)) / len(groups), "divide the squares by n − 1: ddof=1"),
        (lone, "charges with one text count, too: they take the variance pooled over the others"),
        (pair.noise * len(groups), "divide by the number of charges: it is the error of a mean over charges"),
        (pair.noise**2, "that is the variance; take its root"),
    )  # fmt: skip
    for wrong, text in known:
        if np.isclose(value, wrong, rtol=1e-4):
            raise Wrong(text)
    if not np.isfinite(value):
        raise Wrong("it gives no number: a charge with one text has no variance of its own; see the formula for those")
    raise Wrong(
        f"it gives {value:.5f}, expected {pair.noise:.5f}; begin with d = a − b, then the variance of d within each charge"
    )


@judged
def check_worth(run: Run, step: int, answer: Any, lever: Any) -> str:
    """Exercise 4: what each lever's last try was worth after a step, and the lever that F pulled next."""
    truth, gains = loop.worth(run, step), loop.last_gains(run, step)
    answer = dictionary(answer, list(truth), "worth")
    for name, wanted in truth.items():
        said, g = number(answer[name], name), gains[name]
        if np.isclose(said, wanted, rtol=0.02, atol=0.02):
            continue
        if g["gain"] <= g["noise"]:
            raise Wrong(f"{name}: a gain of {g['gain']:+.4f} is no more than its noise, {g['noise']:.4f}; it is worth 0")
        if np.isclose(100 * said, wanted, rtol=0.02):
            raise Wrong(f"{name}: that is for one verifier call; give it for 100")
        if np.isclose(said, 100 * g["gain"] / g["verifier_calls"], rtol=0.02):
            raise Wrong(f"{name}: that is in units of the score; divide by the noise, so that steps can be compared")
        calls = f"{g['verifier_calls']:.0f} verifier calls"
        if np.isclose(said, g["gain"] / g["noise"], rtol=0.02):
            raise Wrong(f"{name}: that is the gain in noise units; it was paid with {calls}: give it for 100")
        raise Wrong(f"{name}: {said:.3g}, expected {wanted:.3g}: gain / noise × 100 / verifier calls")
    chose = str(loop.decisions(run).loc[step, "chose"])
    pulled = "harness" if chose == "harness" else "weights"
    if lever in (..., None):
        raise Wrong(f"the numbers are right; now say which lever F pulls: {' or '.join(truth)}")
    if lever != pulled:
        raise Wrong(f"lever: {lever!r}; F goes on with the lever whose last try gained more for its calls, and pulled {pulled}")
    return f"after step {step} F chose {chose}, by the rule {loop.decisions(run).loc[step, 'rule']}"
