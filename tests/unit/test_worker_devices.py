"""Which GPUs a run may use, as CUDA reads it, and how workers share them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from pytest_compsec.errors import ConfigError
from pytest_compsec.worker_devices import (
    Gpu,
    bytes_within_share,
    divide_processor,
    memory_share,
    parse_smi,
    place_workers,
    placement_line,
    usable_gpus,
    visible_gpus,
)

GPUS = (Gpu("GPU-aaaa-1"), Gpu("GPU-aabb-2"), Gpu("GPU-cccc-3"), Gpu("GPU-dddd-4"))
SMI = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 3g.20gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-0a1b2c3d-d33d-2b2c-524d-9e3d8d2b8a78)
"""


@pytest.mark.parametrize(
    ("listed", "visible"),
    [
        (None, ("GPU-aaaa-1", "GPU-aabb-2", "GPU-cccc-3", "GPU-dddd-4")),
        ("2,0", ("2", "0")),
        (" 1 , 3", ("1", "3")),
        ("", ()),
        ("-1", ()),
        ("0,-1,2", ("0",)),
        ("0,9,1", ("0",)),
        ("1gpu,2b", ("1", "2")),
        ("0,0", ()),
        ("0,00", ()),
        ("none", ()),
        ("GPU-cccc-3,GPU-aaaa-1", ("GPU-cccc-3", "GPU-aaaa-1")),
        ("GPU-c,GPU-d", ("GPU-c", "GPU-d")),
        ("GPU-aa", ()),  # names two
        ("GPU-cccc-3,GPU-zz,GPU-aaaa-1", ("GPU-cccc-3",)),
        ("GPU-c,GPU-cccc", ()),  # the same one twice
        ("0,GPU-cccc-3", ("0",)),
        ("GPU-cccc-3,0", ("GPU-cccc-3",)),
        ("MIG-GPU-cccc-3/1/0", ("MIG-GPU-cccc-3/1/0",)),
        ("MIG-1,MIG-2", ("MIG-1", "MIG-2")),
    ],
)
def test_the_callers_list_is_read_as_cuda_reads_it(
    listed: str | None, visible: tuple[str, ...]
) -> None:
    assert visible_gpus(listed, GPUS) == visible


@pytest.mark.parametrize(
    "listed", ["2,0", "", "-1", "0,-1,2", "1gpu,2b", "0,0", "none", "+1,2", "3,x,1", "0,GPU-cccc-3"]
)
def test_indices_agree_with_torchs_own_reading(
    listed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    expected = torch.cuda._parse_visible_devices()
    assert visible_gpus(listed, GPUS) == tuple(str(index) for index in expected)


def test_a_machine_without_gpus_has_none_whatever_is_listed() -> None:
    assert visible_gpus("0,1", ()) == ()


def test_mig_instances_stand_for_their_gpu() -> None:
    gpus = parse_smi(SMI)
    assert [len(gpu.instances) for gpu in gpus] == [2, 0]
    first, second = gpus[0].instances
    assert visible_gpus(None, gpus) == (first, second, gpus[1].uuid)
    assert visible_gpus(second, gpus) == (second,)
    assert visible_gpus("MIG-unknown", gpus) == ()


def test_a_torch_without_cuda_uses_no_gpu() -> None:
    def gpus() -> tuple[Gpu, ...]:
        return GPUS

    assert usable_gpus({}, installed=gpus, torch_version=lambda: "2.13.0+cpu") == ()
    assert len(usable_gpus({}, installed=gpus, torch_version=lambda: "2.13.0+cu130")) == 4
    listed = {"CUDA_VISIBLE_DEVICES": "3"}
    assert usable_gpus(listed, installed=gpus, torch_version=lambda: "2.13.0") == ("3",)


@pytest.mark.parametrize("script", ["exit 9", "echo nonsense", "printf '\\377'"])
def test_a_broken_nvidia_smi_is_no_gpu(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("pytest_compsec.worker_devices._gpus_of_proc", lambda: ())
    assert usable_gpus({}, torch_version=lambda: "2.13.0") == ()


def test_the_drivers_files_serve_where_there_is_no_nvidia_smi(tmp_path: Path) -> None:
    from pytest_compsec.worker_devices import _gpus_of_proc

    for bus, uuid in (("0000:01:00.0", "GPU-0a1b2c3d-00"), ("0000:02:00.0", "GPU-????????")):
        folder = tmp_path / bus
        folder.mkdir()
        text = f"Model: \t\t NVIDIA H200\nGPU UUID: \t {uuid}\n"
        (folder / "information").write_text(text, encoding="utf-8")
    gpus = _gpus_of_proc(tmp_path)
    assert visible_gpus(None, gpus) == ("GPU-0a1b2c3d-00", "1")


def environments(count: int) -> list[tuple[str, dict[str, str]]]:
    return [(f"gw{number}", {}) for number in range(count)]


def test_more_workers_than_gpus_take_turns_and_share_the_memory() -> None:
    specs = environments(5)
    places = place_workers(specs, ("7", "GPU-x"))
    assert [env["CUDA_VISIBLE_DEVICES"] for _, env in specs] == ["7", "GPU-x", "7", "GPU-x", "7"]
    assert [env["COMPSEC_GPU_SHARE"] for _, env in specs] == ["1/3", "1/2", "1/3", "1/2", "1/3"]
    assert places[1].share == Fraction(1, 2)
    assert "gw1 on GPU GPU-x (1/2 of its memory)" in placement_line(places)


def test_a_gpu_for_each_worker_is_theirs_alone() -> None:
    specs = environments(2)
    place_workers(specs, ("0", "1"))
    assert [env for _, env in specs] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]


def test_what_the_user_gave_a_worker_stays() -> None:
    specs = environments(2)
    specs[0][1]["CUDA_VISIBLE_DEVICES"] = "0"
    place_workers(specs, ("0", "1"))
    assert [env["CUDA_VISIBLE_DEVICES"] for _, env in specs] == ["0", "1"]


def test_without_gpus_the_environment_says_nothing_of_them() -> None:
    specs = environments(2)
    place_workers(specs, ())
    assert [env for _, env in specs] == [{}, {}]


def test_workers_on_the_processor_divide_cores_and_memory() -> None:
    workers: list[dict[str, str]] = [{}, {"OMP_NUM_THREADS": "7"}, {}]
    divide_processor(workers, processors=8, environment={})
    assert [env["OMP_NUM_THREADS"] for env in workers] == ["2", "7", "2"]
    assert {env["COMPSEC_MEMORY_SHARE"] for env in workers} == {"1/3"}
    alone: list[dict[str, str]] = [{}]
    divide_processor(alone, processors=8, environment={})
    assert alone == [{}]
    told: list[dict[str, str]] = [{}, {}]
    divide_processor(told, processors=8, environment={"OMP_NUM_THREADS": "1"})
    assert all("OMP_NUM_THREADS" not in env for env in told)


def test_a_share_of_the_memory() -> None:
    assert memory_share("cuda:0", {"COMPSEC_GPU_SHARE": "1/2"}) == 0.5
    assert memory_share("cpu", {"COMPSEC_GPU_SHARE": "1/2"}) == 1
    assert memory_share("cpu", {"COMPSEC_MEMORY_SHARE": "0.25"}) == 0.25
    for wrong in ("0", "2", "half", "1/0", "-1", "nan"):
        with pytest.raises(ConfigError, match="COMPSEC_GPU_SHARE"):
            memory_share("cuda", {"COMPSEC_GPU_SHARE": wrong})


def test_a_worker_takes_no_more_than_its_part_whoever_came_first() -> None:
    # Of 100, the other holds 40 and this one 10: 40 are left to it, though 50 are free.
    assert bytes_within_share(50, 100, 10, 0.5) == 40
    # The other took more than its part: only what is free is there.
    assert bytes_within_share(5, 100, 10, 0.5) == 5
    assert bytes_within_share(60, 100, 70, 0.5) == 0
    assert bytes_within_share(50, 100, 10, 1.0) == 50
