"""A limit on the whole time of a call over the network.

The HTTP clients limit the wait for the next byte, so that an answer of one byte a minute never ends. It may import nothing
of the kit.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any


class Slow(Exception):
    """The call took longer than it may."""


def within(seconds: float, function: Callable[..., Any], *args: Any, give_up: Callable[[], None], **more: Any) -> Any:
    """``function(*args, **more)``, or ``Slow`` after ``seconds``.

    The call goes on in a thread of its own, which ends when ``give_up`` has closed what it waits for.

    Raises:
        Slow: it took longer. Whatever else the function raises.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = function(*args, **more)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True, name="call")
    thread.start()
    try:
        thread.join(seconds)
    except BaseException:  # Ctrl-C: the call must not go on by itself
        with contextlib.suppress(Exception):
            give_up()
        raise
    if thread.is_alive():
        with contextlib.suppress(Exception):
            give_up()
        raise Slow(f"no whole answer within {seconds:g} s")
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]
