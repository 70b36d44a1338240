"""Checks of the exercises on the measures of denoising: each looks at an answer and says what is wrong with it.

A check prints its finding and returns whether the answer is right, so that a notebook with open exercises still runs to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InvalidSolution
from ..tasks.denoising import gates
from ..tasks.denoising.engine import Engine
from ..tasks.denoising.metrics import Yardstick, normalised, poisson_loss
from ..tasks.denoising.peers import magic
from ..tasks.denoising.solution import FALLBACK, SPACE
from ..tasks.denoising.split import Split
from . import denoising

WANTED = 2.5  # times MAGIC's mse_norm


def _say(right: bool, text: str) -> bool:
    print(("right: " if right else "not yet: ") + text)
    return right


def _called(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a learner's function returns, or what it raised, in words."""
    try:
        return function(*arguments), ""
    except Exception as error:  # a learner's code may raise anything
        return None, f"your function raised {type(error).__name__}: {error}"


def check_best_guess(function: Callable[[float, float], Any]) -> bool:
    """Exercise 1: the best prediction under mse for an expected count and a library size."""
    for rate, library in ((0.1, 60.0), (2.0, 60.0), (0.5, 500.0)):
        value, trouble = _called(function, rate, library)
        if trouble:
            return _say(False, trouble)
        if value is None:
            return _say(False, "your function returns nothing; let it return a number")
        try:
            value = float(value)
        except (TypeError, ValueError):
            return _say(False, f"expected a number, got {type(value).__name__}")
        wanted = float(denoising.best_guess(np.array(rate), library))
        if np.isclose(value, wanted, rtol=0.02):
            continue
        if np.isclose(value, rate, rtol=0.02):
            return _say(
                False, "that is the expected count itself: it is best under squared error of counts, not of their logarithms"
            )
        if np.isclose(value, float(denoising.expected_log(np.array(rate), library)), rtol=0.02):
            return _say(False, "that is the expected logarithm; bring it back to the scale of counts")
        if np.isclose(value, wanted * 1e4 / library, rtol=0.02):
            return _say(False, "undo the scaling to 10,000 molecules too")
        return _say(False, f"for {rate:g} expected of {library:g} molecules it gives {value:.4g}, expected {wanted:.4g}")
    return _say(True, "the best guess lies below the expected count, the more so the rarer the gene")


def check_poisson_norm(function: Callable[[np.ndarray, Split], Any], split: Split) -> bool:
    """Exercise 2: the right Poisson measure of a dense prediction [n, g] on a split."""
    prediction = Engine().denoise(split.train, FALLBACK).astype(np.float64)
    yardstick = Yardstick(split)
    value, trouble = _called(function, prediction.copy(), split)
    if trouble:
        return _say(False, trouble)
    if value is None:
        return _say(False, "your function returns nothing; let it return a number")
    value, measures = float(value), yardstick.measure(prediction)
    if np.isclose(value, measures.poisson_norm, atol=2e-3):
        return _say(True, f"poisson_norm of MAGIC is {value:.3f} here")
    if np.isclose(value, measures.poisson_norm_openproblems, atol=2e-3):
        return _say(False, "that is the published measure: the arguments of the loss are swapped. The rate is the prediction's")
    if np.isclose(value, measures.poisson, rtol=5e-3):
        return _say(False, "that is the loss; normalise it: 0 for the train counts, 1 for the test counts")
    if np.isclose(value, _unscaled(prediction, split), atol=2e-3):
        return _say(False, "the prediction is on train's scale: multiply it by test.sum() / train.sum() first")
    return _say(False, f"it gives {value:.4f} for MAGIC, expected {measures.poisson_norm:.4f}")


def _unscaled(prediction: np.ndarray, split: Split) -> float:
    """The measure of a prediction that was left on train's scale."""
    train, test = (m.toarray().astype(np.float64) for m in (split.train, split.test))
    none, perfect, ours = (poisson_loss(rate, test).mean() for rate in (train, test, prediction))
    return normalised(ours, none, perfect)


def check_spec(changes: dict[str, Any], split: Split) -> bool:
    """Exercise 3: changes of MAGIC's spec that reach ``WANTED`` times its mse_norm and pass the right gate."""
    try:
        unknown = [name for name in changes if name not in SPACE.names]
        if unknown:
            return _say(False, f"field '{unknown[0]}' is not in the space; it has {', '.join(SPACE.names)}")
        spec = SPACE.parse(SPACE.dump({**FALLBACK, **changes}))
        prediction = Engine().denoise(split.train, spec).astype(np.float64)
    except InvalidSolution as error:
        return _say(False, str(error))
    yardstick = Yardstick(split)
    reference, measures = yardstick.measure(magic(split.train)), yardstick.measure(prediction)
    ratio = measures.mse_norm / reference.mse_norm
    told = f"mse_norm {measures.mse_norm:.3f}, {ratio:.2f} times MAGIC's; poisson_norm {measures.poisson_norm:.3f}, MAGIC {reference.poisson_norm:.3f}"
    if not gates.right(reference).judge(measures).passes:
        return _say(False, f"{told}: it does not pass the right gate. What gives back the molecules that it takes away?")
    if ratio < WANTED:
        return _say(False, f"{told}: it passes, but {WANTED} times are wanted")
    return _say(True, told)
