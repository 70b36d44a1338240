"""Kills a tiny run at every write, resumes it and compares: the harness behind ``test_crash`` and ``make trust``.

The uninterrupted run is kept as it stood after each of its phases. To try an instant within a phase, a copy of the run as
it stood before that phase is gone on with until the instant, killed by SIGKILL, gone on with until the phase is done, and
compared file by file with the run that nothing befell. As a script it prints one JSON line a trial:

    python tests/kill_points.py FOLDER --every 1 [--torn] [--what kill|full|readonly|int|term]
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import tiny_run
from tiny_run import AgentServer, Instants, contents, fail, forked, go, kill, send

from sia_nb import steps, store
from sia_nb.errors import SiaError


class Enough(BaseException):
    """The phase under trial is done."""


def wiped(files: dict[str, Any]) -> dict[str, Any]:
    """``contents`` without the calls that were cut off, the others numbered anew."""
    files = {n: v for n, v in files.items() if "notebooks/" not in n}  # copies for the reader, no part of the record
    calls = files.get("agent_calls.jsonl", [])
    ended = {e["call"] for e in calls if e["event"] == "end"}
    kept = [e for e in calls if e["event"] != "begin" or e["call"] in ended]
    numbers = {n: i for i, n in enumerate(dict.fromkeys(e["call"] for e in kept))}
    files["agent_calls.jsonl"] = [{**e, "call": numbers[e["call"]]} for e in kept]
    ledger = files.get("ledger.jsonl", [])
    files["ledger.jsonl"] = [{**e, "call": numbers[e["call"]]} if "call" in e else e for e in ledger]
    return files


class Harness:
    """A reference run with a copy of it after each phase, and trials on it."""

    def __init__(self, folder: Path, **more: Any):
        tiny_run.install()
        self.folder = Path(folder)
        os.environ["SIA_DATA"] = str(self.folder / "data")
        self.server = AgentServer()
        self.config = tiny_run.config(tiny_run.prepare(self.folder), self.server.url, **more)
        self.path = self.folder / "run"  # every trial has this path: it stands in the record
        self.marks: list[str] = []
        store.Run.create(self.config, self.path)
        steps.open_policy(store.Run(self.path))  # loaded once; forked children inherit it
        shutil.copytree(self.path, self.folder / "after-0")
        before = tiny_run.after

        def keep(name: str, step: int) -> None:
            number = len(list(self.folder.glob("after-*")))
            shutil.copytree(self.path, self.folder / f"after-{number}")

        tiny_run.after = keep
        status, said = forked(lambda: go(self.config, self.path))
        assert status == 0, said
        tiny_run.after = before
        self.phases = len(list(self.folder.glob("after-*"))) - 1
        self.done = [wiped(contents(self.folder / f"after-{n}")) for n in range(self.phases + 1)]

    def close(self) -> None:
        """End the server."""
        self.server.close()

    def instants(self, phase: int) -> list[str]:
        """The labels of the writes of the phase, counted from 1, in order."""
        listed = self.folder / "instants.json"
        self._restore(phase)

        def job() -> None:
            tiny_run.after = self._enough
            with Instants(self.path, lambda *_: None) as seen, contextlib.suppress(Enough):
                go(self.config, self.path)
            listed.write_text(json.dumps(seen.seen))

        status, said = forked(job)
        assert status == 0, said
        return json.loads(listed.read_text())

    def trial(self, phase: int, number: int, what: str = "kill", *, torn: bool = False, whole: bool = False) -> str:
        """Harm the ``number``-th write of a phase and go on; "" where all is as if nothing had happened, else what is not.

        Args:
            what: "kill" (SIGKILL), "full" or "readonly" (the write fails), "int" or "term" (the signal).
            torn: the line being appended is cut in two.
            whole: go on to the report, not only to the end of the phase.
        """
        self._restore(phase)
        at = {
            "kill": lambda: kill(number, torn=torn), "full": lambda: fail(number), "readonly": lambda: fail(number, errno.EROFS),
            "int": lambda: send(number, signal.SIGINT), "term": lambda: send(number, signal.SIGTERM),
        }[what]()  # fmt: skip

        def harmed() -> None:
            tiny_run.after = self._enough
            with Instants(self.path, at):
                try:
                    go(self.config, self.path)
                except Enough:
                    pass
                except SiaError as error:
                    os.write(2, f"clear: {error}\n".encode())
                except KeyboardInterrupt:
                    os.write(2, b"clear: interrupted\n")

        status, said = forked(harmed)
        if what == "kill" and status != -signal.SIGKILL:
            return f"was not killed: status {status}: {said[-500:]}"
        if what != "kill" and status != 0:
            return f"no clear error: {said[-1500:]}"
        return self._go_on(whole)

    def random_trial(self, seconds: float) -> str:
        """Kill a run from its beginning after some seconds, then finish it."""
        self._restore(0)
        forked(lambda: go(self.config, self.path), kill_after=seconds)
        return self._go_on(True)

    def _go_on(self, whole: bool) -> str:
        done = self._done_files()
        reached = self.folder / "reached"

        def job() -> None:
            if not whole:
                tiny_run.after = self._enough
            with contextlib.suppress(Enough):
                go(self.config, self.path)

        status, said = forked(job)
        if status:
            return f"cannot be resumed: {said[-1500:]}"
        reached = wiped(contents(self.path))
        again = [n for n, stamp in done.items() if self._stamp(self.path / n) != stamp]
        if again:
            return f"done again though it was complete: {', '.join(again)}"
        # a phase that was complete before the harm: the next one was done instead
        wanted = [self.done[-1]] if whole else self.done
        if reached in wanted:
            return ""
        nearest = min(wanted, key=lambda w: sum(w.get(n) != v for n, v in reached.items()) + len(set(w) - set(reached)))
        names = [n for n in sorted({*nearest, *reached}) if nearest.get(n) != reached.get(n)]
        return "differs: " + "; ".join(f"{n}: {nearest.get(n)!s:.300} | {reached.get(n)!s:.300}" for n in names[:3])

    @staticmethod
    def _enough(name: str, step: int) -> None:
        raise Enough

    def _restore(self, phase: int) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.folder / f"after-{phase}", self.path)

    def _done_files(self) -> dict[str, tuple[int, int]]:
        """Every file of a complete phase and what tells whether it was written again."""
        out = {}
        for mark in self.path.glob("step_*/*.done.json"):
            out[str(mark.relative_to(self.path))] = self._stamp(mark)
            for name in json.loads(mark.read_text())["files"]:
                out[name] = self._stamp(self.path / name)
        return out

    @staticmethod
    def _stamp(path: Path) -> tuple[int, int]:
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_ino


def main() -> None:
    """Try every so-many-th write of every phase."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--what", default="kill")
    parser.add_argument("--torn", action="store_true")
    parser.add_argument("--random", type=int, default=0, help="also so many runs killed at an instant drawn at random")
    given = parser.parse_args()
    harness, number, began = Harness(given.folder), 0, time.monotonic()
    for phase in range(harness.phases):
        for n, label in enumerate(harness.instants(phase), 1):
            number += 1
            if (number + given.offset) % given.every:
                continue
            if given.torn and not ("fsync" in label and ".jsonl" in label or "event" in label):
                continue
            wrong = harness.trial(phase, n, given.what, torn=given.torn)
            print(json.dumps({"phase": phase, "instant": n, "label": label, "wrong": wrong}), flush=True)
    from random import Random

    rng = Random(0)
    for _ in range(given.random):
        seconds = rng.uniform(0.1, 6.0)
        print(json.dumps({"label": f"after {seconds:.2f} s", "wrong": harness.random_trial(seconds)}), flush=True)
    print(f"{number} writes, {time.monotonic() - began:.0f} s", file=sys.stderr)
    harness.close()


if __name__ == "__main__":
    main()
