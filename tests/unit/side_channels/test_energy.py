"""Energy meters on a pretended machine: counters that go round, that may not be read, that are not
there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.side_channels.blocks import MatchedPair
from pytest_compsec.side_channels.energy import Meter, find_meter, use_energy
from tests.unit.side_channels.fake_requests import FakeArm, FakeClock, is_harmful

PAIRS = [MatchedPair(f"forbidden {at}", f"delicious {at}", 11) for at in range(6)]


def zone(root: Path, name: str, label: str, energy: int, most: int = 1000_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(label + "\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def found(powercap: Path) -> Meter:
    meter = find_meter("cpu", powercap=powercap)
    assert not isinstance(meter, str), meter
    return meter


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 900_000_000)
    part = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    whole = zone(tmp_path, "intel-rapl:2", "psys", 0)
    meter = found(tmp_path)
    assert meter.name == "RAPL, 2 processor packages"
    before = meter.joules()
    for folder, energy in ((first, 7_500_000), (second, 901_000_000), (part, 9e8), (whole, 9e8)):
        (folder / "energy_uj").write_text(str(int(energy)))
    assert meter.joules() - before == pytest.approx(3.5)


def test_a_counter_that_went_round_is_no_negative_energy(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 262_000_000, most=262_143_328)
    meter = found(tmp_path)
    before = meter.joules()
    (folder / "energy_uj").write_text("856672")
    assert meter.joules() - before == pytest.approx(1.0)


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    for powercap in (tmp_path, tmp_path / "nothing"):
        assert "shows no energy counters" in str(find_meter("cpu", powercap=powercap))
    assert "no meter on this machine" in str(find_meter("served", powercap=tmp_path))


def test_counters_that_may_not_be_read_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    read = Path.read_text

    def refused(path: Path, *arguments: Any, **named: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refused)
        assert "may not be read by this user" in str(find_meter("cpu", powercap=tmp_path))
    (folder / "energy_uj").write_text("nonsense")
    assert "cannot be read" in str(find_meter("cpu", powercap=tmp_path))


class Nvml:
    """As far as it is used: one card, whose counter is in millijoules."""

    def __init__(self, uuid: str, millijoules: list[int]) -> None:
        self.uuid, self.millijoules = uuid, millijoules

    def nvmlInit(self) -> None:  # noqa: N802 (NVML's name)
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != self.uuid:
            raise RuntimeError("Not Found")
        return "card"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        assert handle == "card"
        return self.millijoules.pop(0)


def test_a_card_is_found_by_its_own_id() -> None:
    meter = find_meter("cuda:0", nvml=Nvml("GPU-7", [0, 1500, 4000]), uuid="GPU-7")
    assert not isinstance(meter, str)
    assert meter.joules() == 1.5
    assert meter.joules() == 4.0
    assert "whole card" in meter.name
    other = find_meter("cuda:0", nvml=Nvml("GPU-7", [0]), uuid="MIG-1")
    assert "does not tell the energy of cuda:0" in str(other)
    assert "Not Found" in str(other)


def test_without_the_package_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in str(find_meter("cuda:0", uuid="GPU-7"))


class PretendedMeter:
    """A hundredth of a joule for each millisecond, and three more for each harmful request."""

    name = "pretended"

    def __init__(self, clock: FakeClock, arm: FakeArm) -> None:
        self._clock, self._arm = clock, arm

    def joules(self) -> float:
        return self._clock.time / 1e8 + 3 * sum(map(is_harmful, self._arm.asked))


def test_energy_is_that_of_one_request_in_blocks_of_one_kind() -> None:
    clock = FakeClock()
    arm = FakeArm(clock, noise=0, bursts=0, drift=0)
    meter = PretendedMeter(clock, arm)
    use = use_energy(arm.ask, PAIRS, meter, usual=100, seconds=12, seed=0, clock=clock.clock)
    assert use is not None
    assert use.meter == "pretended"
    assert use.blocks == 5
    assert use.harmful == pytest.approx([4.0] * 5)
    assert use.benign == pytest.approx([1.0] * 5)
    blocks = [arm.asked[start : start + 12] for start in range(0, 120, 12)]
    for asked in blocks:
        assert len(set(map(is_harmful, asked))) == 1
        # A second is over within the second round, which goes on to its end.
        assert asked[:6] == asked[6:]
        assert len(set(asked)) == len(PAIRS)


def test_a_round_of_slow_requests_is_of_no_more_pairs_than_must_be() -> None:
    clock = FakeClock()
    arm = FakeArm(clock, noise=0, bursts=0, drift=0)
    meter = PretendedMeter(clock, arm)
    use = use_energy(arm.ask, PAIRS, meter, usual=1e4, seconds=8, seed=0, clock=clock.clock)
    assert use is not None
    assert len(set(arm.asked)) == 2 * 4


def test_too_little_time_for_blocks_gives_nothing() -> None:
    clock = FakeClock()
    arm = FakeArm(clock)
    meter = PretendedMeter(clock, arm)
    assert (
        use_energy(arm.ask, PAIRS, meter, usual=100, seconds=2, seed=0, clock=clock.clock) is None
    )
