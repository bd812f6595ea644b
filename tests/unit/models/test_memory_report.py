"""Peaks by arm: what is attributed to whom, and how they read."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.models.memory_report import (
    KERNEL,
    ArmPeak,
    Gauge,
    KernelGauge,
    MemoryWatch,
    NoGauge,
    SamplingGauge,
    WatchedPool,
    best_gauge,
    weights_bytes,
)
from pytest_compsec.reports.memory import memory_data, memory_lines, one_arm_at_a_time, size
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint

MIB = 2**20
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


class FakeGauge:
    """Resident memory as the test says it is."""

    how = "as told"

    def __init__(self) -> None:
        self.level = 100
        self.highest = 100

    def set(self, level: int) -> None:
        self.level = level
        self.highest = max(self.highest, level)

    def now(self) -> int | None:
        return self.level

    def peak(self) -> int | None:
        return self.highest

    def reset(self) -> None:
        self.highest = self.level

    def close(self) -> None:
        """Nothing to stop."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("tiny")
    return [make_tiny_checkpoint(root / str(seed), seed=seed) for seed in range(2)]


@pytest.fixture
def gauge() -> FakeGauge:
    return FakeGauge()


@pytest.fixture
def watch(gauge: FakeGauge) -> Iterator[MemoryWatch]:
    watch = MemoryWatch(gauge)
    yield watch
    watch.close()


def test_a_peak_counts_as_that_of_the_arm_in_use(
    watch: MemoryWatch, gauge: FakeGauge, checkpoints: list[Path]
) -> None:
    original, variant = (make_arm(path, variant=name) for path, name in
                         zip(checkpoints, (None, "v"), strict=True))  # fmt: skip
    pool = WatchedPool(watch, capacity=1)
    pool.get(original)
    gauge.set(900)
    gauge.set(300)
    pool.get(variant)
    gauge.set(500)
    pool.get(original)
    gauge.set(400)
    peaks = {peak.arm: peak for peak in watch.peaks}
    assert [peak.resident for peak in peaks.values()] == [900, 500]
    assert {peak.before for peak in peaks.values()} == {100}
    assert {peak.others for peak in peaks.values()} == {0}
    assert peaks[original.name].device == "cpu"


def test_a_later_and_higher_peak_of_the_same_arm_replaces_the_earlier(
    watch: MemoryWatch, gauge: FakeGauge, checkpoints: list[Path]
) -> None:
    first, second = make_arm(checkpoints[0]), make_arm(checkpoints[1], variant="v")
    pool = WatchedPool(watch, capacity=1)
    for level in (200, 700):
        pool.get(first)
        gauge.set(level)
        gauge.set(100)
        pool.get(second)
    assert watch.peaks[0].resident == 700


def test_weights_that_were_kept_are_counted_as_others(
    watch: MemoryWatch, checkpoints: list[Path]
) -> None:
    first, second = make_arm(checkpoints[0]), make_arm(checkpoints[1], variant="v")
    pool = WatchedPool(watch, free_bytes=lambda device: 1 << 40)
    kept = weights_bytes(pool.get(first))
    pool.get(second)
    assert [peak.others for peak in watch.peaks] == [0, kept]
    pool.get(first)
    assert [peak.others for peak in watch.peaks] == [kept, kept]
    assert kept > 4 * 64 * 259


def test_a_variant_made_from_the_original_in_memory_has_it_beside_it(
    watch: MemoryWatch, checkpoints: list[Path]
) -> None:
    original = make_arm(checkpoints[0])
    derived = make_arm(checkpoints[0], recipe=make_recipe("quantize", method="cast",
                                                          dtype="bfloat16"))  # fmt: skip
    pool = WatchedPool(watch, free_bytes=lambda device: 1 << 40)
    weights = weights_bytes(pool.get(original))
    pool.get(derived)
    assert watch.peaks[1].others == weights
    assert watch.peaks[1].weights < 0.6 * weights


def test_shared_weights_are_counted_once(checkpoints: list[Path]) -> None:
    watch = MemoryWatch(FakeGauge())
    model = WatchedPool(watch).get(make_arm(checkpoints[0]))
    module: Any = model.module
    assert module.get_input_embeddings().weight is module.get_output_embeddings().weight
    assert weights_bytes(model) < 1.01 * 4 * sum(p.numel() for p in model.module.parameters())


@linux
@pytest.mark.parametrize("kind", ["kernel", "sampled"])
def test_a_gauge_sees_memory_come_and_forgets_it_when_reset(kind: str) -> None:
    gauge: Gauge
    if kind == "kernel":
        try:
            gauge = KernelGauge()
        except OSError:
            pytest.skip("this kernel does not let the mark be set back")
        assert gauge.how == KERNEL
    else:
        real = KernelGaugeReader()
        gauge = SamplingGauge(real.now, interval=0.005)
    before = gauge.peak()
    assert before is not None
    block = b"x" * (200 * MIB)
    time.sleep(0.1)
    del block
    peak, now = gauge.peak(), gauge.now()
    assert peak is not None
    assert now is not None
    assert peak > before + 150 * MIB
    assert now < before + 100 * MIB
    gauge.reset()
    after = gauge.peak()
    assert after is not None
    assert after < before + 100 * MIB
    gauge.close()


class KernelGaugeReader:
    """Resident memory without touching the mark."""

    def now(self) -> int:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


def test_a_kernel_that_refuses_leaves_it_to_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KernelGauge, "reset", _refused)
    gauge = best_gauge()
    assert gauge.how != KERNEL
    assert gauge.peak()
    gauge.close()
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert isinstance(best_gauge(), NoGauge)


def _refused(self: KernelGauge) -> None:
    raise PermissionError(13, "Permission denied")


def peak(**fields: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "arm": "a", "device": "cpu", "weights": 300 * MIB, "others": 0, "before": 100 * MIB,
        "resident": 500 * MIB,
    }  # fmt: skip
    return ArmPeak(**{**values, **fields}).to_json()


def test_a_line_says_what_a_peak_is_made_of() -> None:
    lines = memory_lines({"main": {"how": "as told", "arms": [peak()]}})
    assert lines[0] == (
        "memory: a on cpu: peak 500 MiB resident: before any model 100 MiB, weights 300 MiB, "
        "key-value cache, activations and loading 100 MiB"
    )
    assert "one arm at a time: no other" in lines[1]
    assert "as told" in lines[2]


def test_another_arm_in_memory_is_said() -> None:
    both: dict[str, Any] = {
        "gw1": {"how": "x", "arms": [peak(others=50 * MIB)]},
        "gw0": {"how": "x", "arms": []},
    }
    lines = memory_lines(both)
    assert lines[0].startswith("memory (gw1): a on cpu: peak 500 MiB resident")
    assert "other arms 50 MiB" in lines[0]
    assert "cache, activations and loading 50 MiB" in lines[0]
    assert "more than one arm at a time" in lines[1]
    assert memory_data(both)["one_arm_at_a_time"] is False
    assert one_arm_at_a_time({"gw0": {"how": "x", "arms": [peak()]}})


def test_of_a_gpu_both_memories_are_told() -> None:
    arm = peak(device="cuda:0", allocated=900 * MIB, reserved=1200 * MIB)
    line = memory_lines({"main": {"how": "x", "arms": [arm]}})[0]
    assert "peak 900 MiB allocated and 1.17 GiB reserved on the GPU" in line
    assert "loading 600 MiB" in line
    assert line.endswith("500 MiB resident in main memory")


def test_what_is_unknown_is_called_unknown() -> None:
    arm = peak(resident=None)
    assert arm["rest"] is None
    line = memory_lines({"main": {"how": "x", "arms": [arm]}})[0]
    assert "peak unknown resident" in line
    assert size(None) == "unknown"
    assert "no model was loaded" in memory_lines({"main": {"how": "x", "arms": []}})[0]


def test_a_peak_survives_its_way_through_json() -> None:
    found = ArmPeak("a", "cpu", 1, 2, 3, 9)
    assert ArmPeak.from_json(found.to_json()) == found
    assert found.rest == 3
