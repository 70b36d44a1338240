"""One weight update on several devices: data parallelism over the rows of a step, by Hugging Face's ``accelerate``.

Each device has a process with the whole policy. The first is the one that trains: it alone has the problem, the
verifier, the files and what is decided. The others (``worker``) follow it: they sample their share of every group's
rows, and compute the log-probabilities and gradients of their share. The objective looks at all rows at once (a
group's mean, PPO's spread), so the log-probabilities are gathered, every process takes the same loss of all of them, and sends
its gradient into its own rows only. The sum over the processes is then the gradient that one device computes.

Random numbers belong to (seed, row), so what is sampled does not depend on the number of devices, rounding aside.
Imported by ``trainer``, ``learner``, ``rollouts``, ``worker`` and ``weights``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..errors import ConfigError, TrainingError
from ..store import cores

WORKER = "sia_nb.training.worker"
LONGEST = timedelta(days=2)  # that a process waits for the others: the first may be scoring
START = 600.0  # seconds in which a process must have loaded its policy
LAST = 30.0  # seconds in which it must end


class Alone:
    """One device: nothing is sent anywhere."""

    size, rank = 1, 0

    def share(self, thing: Any = None) -> Any:
        """What the first process gave, in every process."""
        return thing

    def gather(self, thing: Any) -> list[Any]:
        """What every process gave, by rank, in every process."""
        return [thing]

    def spread(self, tensors: list[Any]) -> None:
        """Give the first process's numbers to every process's tensors."""

    def add(self, tensors: list[Any]) -> None:
        """Give every process's tensors the sum over the processes."""

    def span(self, rows: int) -> range:
        """This process's share of that many rows, a block."""
        return range(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def together(self, work: Callable[[], Any]) -> list[Any]:
        """``work()`` of every process, by rank.

        Raises:
            MemoryError: in every process, where the memory of one did not suffice.
        """
        return [work()]


ALONE = Alone()


class Team(Alone):
    """Several processes, joined by an ``Accelerator``."""

    def __init__(self, accelerator: Any, watch: Callable[[], None] = lambda: None):
        self.accelerator, self.watch = accelerator, watch
        self.size, self.rank = accelerator.num_processes, accelerator.process_index

    def share(self, thing: Any = None) -> Any:
        from accelerate.utils import broadcast_object_list

        return self._watched(lambda: broadcast_object_list([thing])[0])

    def gather(self, thing: Any) -> list[Any]:
        from accelerate.utils import gather_object

        return self._watched(lambda: gather_object([thing]))

    def spread(self, tensors: list[Any]) -> None:
        from accelerate.utils import broadcast

        flat = _flat(tensors)
        _fill(tensors, self._watched(lambda: broadcast(flat)))

    def add(self, tensors: list[Any]) -> None:
        flat = _flat(tensors)
        _fill(tensors, self._watched(lambda: self.accelerator.reduce(flat, reduction="sum")))

    def together(self, work: Callable[[], Any]) -> list[Any]:
        from .learner import short_of_memory

        try:
            done: tuple[str, Any] = "", work()
        except (MemoryError, RuntimeError) as error:
            if not short_of_memory(error):
                raise
            done = f"{type(error).__name__} {error}", None
        everyone = self.gather(plain(done))
        for rank, (wrong, _) in enumerate(everyone):
            if wrong:
                raise MemoryError(f"on device {rank}: {wrong}")
        return [result for _, result in everyone]

    def _watched(self, talk: Callable[[], Any]) -> Any:
        try:
            return talk()
        except RuntimeError:
            self.watch()
            raise


def _flat(tensors: list[Any]) -> Any:
    import torch

    return torch.cat([t.detach().reshape(-1) for t in tensors])


def _fill(tensors: list[Any], flat: Any) -> None:
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.data.copy_(part.view_as(tensor))


def plain(thing: Any) -> Any:
    """The same without gradients and on the CPU, so that it can be sent."""
    import torch

    if isinstance(thing, torch.Tensor):
        return thing.detach().cpu()
    if isinstance(thing, tuple | list):
        return type(thing)(plain(x) for x in thing)
    return {k: plain(v) for k, v in thing.items()} if isinstance(thing, dict) else thing


# -- what is done in shares ----------------------------------------------------------------------------


def sample(team: Alone, policy: Any, asks: list[dict[str, Any]]) -> list[list[Any]]:
    """The samples of every ask (the arguments of ``Policy.sample``), each device drawing its share of the rows."""
    if team.size == 1:
        return [policy.sample(**ask) for ask in asks]
    team.share(("sample", asks))
    return follow_sample(team, policy, asks)


def follow_sample(team: Alone, policy: Any, asks: list[dict[str, Any]]) -> list[list[Any]]:
    """Every process's part in ``sample``."""
    from ..policy import adapter

    def draw() -> list[list[Any]]:
        with contextlib.nullcontext() if team.rank == 0 else adapter.merged(policy):  # the first is within it already
            spans = [team.span(ask["n"]) for ask in asks]
            return [policy.sample(**{**ask, "n": len(s)}, first=s.start) for ask, s in zip(asks, spans, strict=True)]

    team.spread(adapter.parameters(policy))
    everyone = team.together(draw)
    return [[s for part in everyone for s in part[i]] for i in range(len(asks))]


def rows_of(team: Alone, groups: list[Any], work: Callable[[Any], Any], device: Any) -> list[Any]:
    """``work(group)``, a tensor with a line a row, of each group, each device doing its share of the rows."""
    import torch

    if team.size == 1:
        return [work(group) for group in groups]
    everyone = team.together(lambda: {i: work(group) for i, group in _own(team, groups)})
    out = []
    for i in range(len(groups)):
        parts = [part[i] for part in everyone if i in part]
        longest = max(p.shape[1] for p in parts)
        out.append(torch.cat([_padded(p, longest) for p in parts]).to(device))
    return out


def step(
    team: Alone,
    policy: Any,
    groups: list[Any],
    loss: Callable[[list[Any]], tuple[Any, dict[str, float]]],
    *,
    parameters: list[Any],
    head: list[Any],
    **how: Any,
) -> dict[str, float]:
    """``forward.step`` with the rows in shares: every process ends with the gradient of the whole in ``parameters`` and ``head``.

    Raises:
        MemoryError: in every process, where the memory of one did not suffice.
    """
    import torch

    from . import forward

    own, met = _own(team, groups), False

    def joined(scored: list[Any]) -> tuple[Any, dict[str, float]]:
        nonlocal met
        met = True
        live = {i: s for (i, _), s in zip(own, scored, strict=True)}
        everyone = team.gather({i: plain(vars(s)) for i, s in live.items()})
        if None in everyone:
            raise MemoryError("another device's did not suffice")
        return loss([_whole(i, live, everyone, team.rank, policy) for i in range(len(groups))])

    def work() -> dict[str, float]:
        try:
            if own:
                return forward.step(policy, [group for _, group in own], joined, **how)
            value, stats = joined([])
            if value.requires_grad:  # a value head sees every row
                value.backward()
            return {**stats, "loss": float(value.detach()), "tokens": 0, "micro_batches": 0}
        except (MemoryError, RuntimeError):
            if not met:
                team.gather(None)  # the others wait for it
            raise

    everyone = team.together(work)
    for parameter in (*parameters, *head):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    team.add([p.grad for p in parameters])
    if head:  # each process has the gradient of all rows in it
        team.add([p.grad for p in head])
        for parameter in head:
            parameter.grad /= team.size
    counts = {"tokens": sum(s["tokens"] for s in everyone), "micro_batches": max(s["micro_batches"] for s in everyone)}
    return {**everyone[0], **counts}


def _own(team: Alone, groups: list[Any]) -> list[tuple[int, Any]]:
    """This process's share of each group's rows, groups without one left out."""
    spans = [team.span(len(group.rows)) for group in groups]
    return [(i, replace(g, rows=[g.rows[r] for r in s])) for i, (g, s) in enumerate(zip(groups, spans, strict=True)) if len(s)]


def _padded(x: Any, longest: int) -> Any:
    import torch

    return torch.cat([x, x.new_zeros(x.shape[0], longest - x.shape[1], *x.shape[2:])], 1)


def _whole(i: int, live: dict[int, Any], everyone: list[dict[int, Any]], rank: int, policy: Any) -> Any:
    """Group i of every process as one; this process's own rows with their gradients."""
    import torch

    from .forward import Scored

    device = policy.model.get_output_embeddings().weight.device
    parts = [vars(live[i]) if r == rank else part[i] for r, part in enumerate(everyone) if i in part]
    longest = max(part["logp"].shape[1] for part in parts)
    whole = {}
    for name, first in parts[0].items():
        whole[name] = None if first is None else torch.cat([_padded(part[name].to(device), longest) for part in parts])
    return Scored(**whole)


# -- the processes -------------------------------------------------------------------------------------


def check(devices: int, threads: int) -> None:
    """Whether this machine has that many: GPUs, or where it has none, cores for processes of ``threads`` threads.

    Raises:
        ConfigError: says how many there are.
    """
    import torch

    if devices == 1:
        return
    if torch.cuda.is_available():
        there, what = torch.cuda.device_count(), "GPUs"
    else:
        there, what = cores() // threads, f"times the {threads} cores of threads={threads}, and no GPU"
    if devices > there:
        raise ConfigError(f"devices: {devices}, but this machine has {there} {what}; ask for {max(1, there)} or fewer.")


@contextlib.contextmanager
def open_team(devices: int, name: str, *, data_dir: Path | str, dtype: str, threads: int) -> Iterator[Alone]:
    """The processes of a weight update; this one is the first. With one device nothing is started.

    Args:
        name, data_dir, dtype, threads: of the policy that each of the others loads, as in ``policy.model.load``.

    Raises:
        ConfigError: there are fewer devices. TrainingError: a process did not start or ended early; says what it said.
    """
    check(devices, threads)
    if devices == 1:
        yield ALONE
        return
    import torch

    if torch.distributed.is_initialized():
        raise TrainingError("devices: this process has others to train with already; one team at a time.")
    with tempfile.TemporaryDirectory(prefix="sia-devices-") as work:
        folder = Path(work)
        what = {"name": name, "data_dir": str(Path(data_dir).resolve()), "dtype": dtype, "threads": threads}
        (folder / "policy.json").write_text(json.dumps(what), encoding="utf-8")
        place = {"WORLD_SIZE": str(devices), "LOCAL_WORLD_SIZE": str(devices), "MASTER_ADDR": "127.0.0.1"}
        place |= {"MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": str(threads)}
        others = [_start(folder, rank, place) for rank in range(1, devices)]

        def watch() -> None:
            for rank, other in enumerate(others, 1):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = other.wait(2)  # a connection is lost a moment before its process is gone
                    raise TrainingError(f"devices: the process of device {rank} ended (exit {code}): {_last_words(folder, rank)}")

        try:
            _await_all(folder, others)
            team = Team(join({"RANK": "0", "LOCAL_RANK": "0", **place}), watch)
            yield team
            team.share(None)
            for other in others:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    other.wait(LAST)
        finally:
            for other in others:
                if other.poll() is None:
                    other.kill()
                other.wait()
            part()


def join(place: dict[str, str]) -> Any:
    """An ``Accelerator`` of the processes that ``place`` describes, in the variables that torch's launchers set."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    before = {name: os.environ.get(name) for name in place}
    os.environ.update(place)
    try:
        handlers = [InitProcessGroupKwargs(timeout=LONGEST)]
        return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=handlers)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def part() -> None:
    """Undo ``join``: this process can join others later."""
    import torch
    from accelerate.state import AcceleratorState, GradientState

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def _start(folder: Path, rank: int, place: dict[str, str]) -> subprocess.Popen:
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": paths, **place}
    command = [sys.executable, "-m", WORKER, str(folder)]
    with open(_log(folder, rank), "wb") as log:
        return subprocess.Popen(
            command, env={**os.environ, **where}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _await_all(folder: Path, others: list[subprocess.Popen]) -> None:
    """Until every process has its policy."""
    end = time.monotonic() + START
    for rank, other in enumerate(others, 1):
        while not (folder / f"ready-{rank}").exists():
            late = time.monotonic() > end
            if late or other.poll() is not None:
                why = f"was not ready within {START:g} s" if late else f"ended (exit {other.returncode})"
                raise TrainingError(f"devices: the process of device {rank} {why}: {_last_words(folder, rank)}")
            time.sleep(0.05)


def _log(folder: Path, rank: int) -> Path:
    return folder / f"device-{rank}.log"


def _last_words(folder: Path, rank: int) -> str:
    said = _log(folder, rank).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return said[-1] if said else "it said nothing"


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
