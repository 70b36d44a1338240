"""The two CUDA clocks on a made-up GPU whose times one can work out by hand."""

from types import SimpleNamespace

import pytest
import torch

from sia_nb.tasks.trimul.reference import case
from sia_nb.tasks.trimul.timing import SPIN_HZ, Clocks

SHAPE = case(4, 1, 8, masked=True, hidden=4)


class Gpu:
    """One stream and one other; the host launches a kernel in ``host`` seconds, the stream runs it in ``work``."""

    def __init__(self, host: float, work: float, aside: float = 0.0):
        self.host_cost, self.work, self.aside = host, work, aside
        self.now, self.stream, self.other = 0.0, 0.0, 0.0
        self.seen, self.log = [], []

    def launch(self, work: float) -> None:
        self.stream = max(self.stream, self.now) + work

    def kernel(self, x, mask, weights):
        self.seen.append((x.data_ptr(), float(x.sum()), float(weights["to_out"].sum())))
        self.log.append("kernel")
        self.now += self.host_cost
        self.launch(self.work)
        self.other = max(self.other, self.now) + self.aside
        return x.clone()

    def synchronize(self) -> None:
        self.now = max(self.now, self.stream, self.other)

    def torch(self):
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = gpu.stream = max(gpu.stream, gpu.now)

            def synchronize(self):
                gpu.now = max(gpu.now, self.at)

            def elapsed_time(self, later):
                return (later.at - self.at) * 1e3

        def zero_(tensor):
            gpu.log.append("flush")
            gpu.launch(0.003)
            return torch.Tensor.zero_(tensor)

        def sleep(cycles):
            gpu.log.append("spin")
            gpu.launch(cycles / SPIN_HZ)

        cuda = SimpleNamespace(Event=Event, synchronize=gpu.synchronize, _sleep=sleep, mem_get_info=lambda: (1 << 40, 1 << 40))
        return SimpleNamespace(cuda=cuda, Tensor=SimpleNamespace(zero_=zero_), empty=torch.empty, int8=torch.int8)


def measured(gpu: Gpu, monkeypatch) -> dict:
    monkeypatch.setattr("sia_nb.tasks.trimul.timing.time.perf_counter", lambda: gpu.now)
    monkeypatch.setattr("sia_nb.tasks.trimul.timing.FLUSH_BYTES", 1 << 10)
    return Clocks(gpu.torch(), "cpu").measure(gpu.kernel, SHAPE, 7, seconds=0.05)


def test_the_board_counts_the_host_and_the_device_does_not(monkeypatch):
    gpu = Gpu(host=200e-6, work=500e-6)
    found = measured(gpu, monkeypatch)
    assert found["board"] == pytest.approx(700) and found["device"] == pytest.approx(500)
    assert not found["late"] and found["calls"] >= 5
    assert found["board_se"] == pytest.approx(0, abs=1e-6) and found["device_se"] == pytest.approx(0, abs=1e-6)


def test_the_cache_is_flushed_and_the_inputs_are_others_each_time(monkeypatch):
    gpu = Gpu(1e-4, 1e-4)
    found = measured(gpu, monkeypatch)
    timed = gpu.log[gpu.log.index("flush") :]
    assert [a for a in timed if a != "spin"] == ["flush", "kernel"] * (len([a for a in timed if a == "kernel"]))
    assert timed.count("spin") == timed.count("kernel") - found["calls"]
    calls = gpu.seen[-found["calls"] :]
    assert len({place for place, _, _ in calls}) == 3
    assert len({value for _, _, value in calls}) == len(calls)


@pytest.mark.parametrize(("aside", "late"), [(0.002, True), (0.0002, False)])
def test_work_on_another_stream_is_seen(monkeypatch, aside, late):
    assert measured(Gpu(1e-4, 5e-4, aside), monkeypatch)["late"] is late
