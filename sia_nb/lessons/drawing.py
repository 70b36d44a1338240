"""The style in which the lessons' pictures are drawn. matplotlib is loaded when it is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..view.figures import STYLE, pyplot


@contextlib.contextmanager
def drawing() -> Iterator[Any]:
    """matplotlib.pyplot within the house style.

    The backend is loaded first: a notebook's turns interactive mode on as it is loaded, and were that within the style's
    context, leaving it would turn the mode off again, and no later picture would be shown.
    """
    plt = pyplot()
    if not plt.get_fignums():
        plt.switch_backend(plt.get_backend())
    with plt.style.context(STYLE):
        yield plt
