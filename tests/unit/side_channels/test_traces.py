"""Fixed against random traces: what leaks is found where it is, and noise is no leak."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from pytest_compsec.data import DataFile
from pytest_compsec.errors import ConfigError
from pytest_compsec.side_channels.traces import Traces, assess, smallest_seen
from pytest_compsec.side_channels.traces_file import read_traces

POINTS = 300


def noise(seed: int, rows: int = 1000, points: int = POINTS) -> Any:
    return np.random.default_rng(seed).normal(0, 2, (rows, points)).astype(np.float32)


def planted(effect: float, *, seed: int = 0, rows: int = 1000, point: int = 123) -> Traces:
    """A leak of ``effect`` standard deviations at one point."""
    fixed, random = noise(2 * seed, rows), noise(2 * seed + 1, rows)
    fixed[:, point] += 2 * effect
    return Traces(fixed, random)


def npz(**arrays: Any) -> DataFile:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return DataFile("probe", "probe.npz", ".npz", "file", buffer.getvalue())


def npy(array: Any, name: str = "probe") -> DataFile:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return DataFile(name, f"{name}.npy", ".npy", "file", buffer.getvalue())


@pytest.mark.parametrize("effect", [0.6, -0.6])
def test_a_planted_leak_is_found_where_it_is(effect: float) -> None:
    found = assess(planted(effect), 4.5, 0.95)
    assert found.leaks == (123,)
    assert np.sign(found.agreed[123]) == np.sign(effect)
    assert found.largest_agreed > 4.5
    assert abs(found.whole[123]) > found.largest_agreed


def test_noise_leaks_nowhere() -> None:
    for seed in range(20):
        assert assess(planted(0.0, seed=seed, rows=200), 4.5, 0.95).leaks == ()


def test_what_only_one_half_shows_is_no_leak() -> None:
    traces = planted(0.0)
    traces.fixed[:500, 50] += 4.0  # something in the room, while the first half was recorded
    found = assess(traces, 4.5, 0.95)
    assert found.leaks == ()
    assert found.largest > 4.5
    # A trace of it in the second half is not enough.
    traces.fixed[500:, 50] += 0.3
    found = assess(traces, 4.5, 0.95)
    assert found.leaks == ()
    assert 0 < found.agreed[50] < 4.5
    turned = planted(0.0)
    turned.fixed[:500, 50] += 4.0
    turned.fixed[500:, 50] -= 4.0
    found = assess(turned, 4.5, 0.95)
    assert found.leaks == ()
    assert found.agreed[50] == 0


def test_the_worst_leak_comes_first_and_integers_will_do() -> None:
    traces = planted(0.8)
    traces.fixed[:, 7] += 6.0
    whole = Traces((traces.fixed * 10).astype(np.int16), (traces.random * 10).astype(np.int16))
    assert assess(whole, 4.5, 0.95).leaks == (7, 123)


def test_a_leak_as_large_as_promised_is_seen_as_often_as_promised() -> None:
    size = smallest_seen((400, 400), 4.5, 0.9)
    seen = sum(
        bool(assess(planted(size, seed=seed, rows=400), 4.5, 0.95).leaks) for seed in range(80)
    )
    assert 64 <= seen <= 80
    # Four times the traces see half of it.
    assert smallest_seen((1600, 1600), 4.5, 0.9) == pytest.approx(size / 2)


def test_points_that_never_vary_are_counted_and_steps_between_them_are_leaks() -> None:
    traces = planted(0.0)
    traces.fixed[:, :5] = traces.random[:, :5] = np.float32(0.1)
    found = assess(traces, 4.5, 0.95)
    assert found.constant == 5
    assert found.leaks == ()
    traces.fixed[:, 2] = np.float32(0.2)
    assert assess(traces, 4.5, 0.95).leaks == (2,)


def test_the_chance_of_a_false_alarm_is_told() -> None:
    found = assess(planted(0.0), 4.5, 0.95)
    assert 0 < found.false_alarm < 1e-6
    assert 3.5 < found.familywise < 4.5


def test_files_in_every_form_give_the_same_traces() -> None:
    from safetensors.numpy import save

    traces = planted(0.5)
    labels = np.array([1, 0] * 1000)
    both = np.empty((2000, POINTS), np.float32)
    both[labels == 1], both[labels == 0] = traces.fixed, traces.random
    arrays = {"fixed": traces.fixed, "random": traces.random}
    tensors = DataFile("probe", "probe.safetensors", ".safetensors", "file", save(arrays))
    for file, apart in (
        (npz(**arrays), None),
        (npz(traces=both, labels=labels), None),
        (tensors, None),
        (npy(both), npy(labels.astype(bool).astype(np.int8), "labels")),
    ):
        found = read_traces(file, apart)
        np.testing.assert_array_equal(found.compressed.fixed, traces.fixed)
        np.testing.assert_array_equal(found.compressed.random, traces.random)
        assert found.original is None
        assert found.weights_digest is None


def test_the_originals_traces_and_the_digest_are_read() -> None:
    side = noise(1, 50)
    found = read_traces(
        npz(fixed=side, random=side, original_fixed=side, original_random=side,
            weights_digest=np.array("ab12")),
        None,
    )  # fmt: skip
    assert found.original is not None
    assert found.weights_digest == "ab12"


SIDE = noise(1, 50)


@pytest.mark.parametrize("array", [["ab12"], [["ab12"]], b"ab12", [b"ab12"]])
def test_a_digest_is_read_as_programs_write_it(array: Any) -> None:
    found = read_traces(npz(fixed=SIDE, random=SIDE, weights_digest=np.array(array)), None)
    assert found.weights_digest == "ab12"


@pytest.mark.parametrize("array", [["ab12", "cd34"], [], 12, b"\xff\xfe", ""])
def test_a_digest_that_is_no_text_is_refused(array: Any) -> None:
    with pytest.raises(ConfigError, match="'weights_digest' must be one text"):
        read_traces(npz(fixed=SIDE, random=SIDE, weights_digest=np.array(array)), None)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (npz(fixed=SIDE), "arrays 'fixed' and 'random'"),
        (npz(a=SIDE), "needs the arrays .* it has: a"),
        (npz(fixed=SIDE, random=SIDE[:, :10]), "300 sample points and 'random' 10"),
        (npz(fixed=SIDE[:30], random=SIDE), "'fixed' has 30 traces, and at least 40"),
        (npz(fixed=SIDE[:, 0], random=SIDE), r"'fixed' has shape \(50,\)"),
        (npz(fixed=SIDE[:, :0], random=SIDE), "a column a sample point"),
        (npz(fixed=np.where(SIDE > 5, np.nan, SIDE), random=SIDE), "'fixed' .* not finite"),
        (npz(fixed=SIDE.astype(complex), random=SIDE), "real numbers, not complex128"),
        (npz(fixed=SIDE, random=SIDE, original_fixed=SIDE), "'original_fixed' and 'original_ran"),
        (npz(traces=SIDE, labels=np.arange(50)), "'labels' must be 1 for the fixed input"),
        (npz(traces=SIDE, labels=np.zeros(9)), "a label a row"),
        (npz(fixed=np.array([{}]), random=SIDE), "cannot be read as arrays .*allow_pickle"),
        (npy(np.array([object()])), "cannot be read as arrays .*allow_pickle"),
        (npy(SIDE), "'traces' and 'labels'"),
        (DataFile("p", "p.npz", ".npz", "file", b"PK\x03\x04 cut"), "cannot be read as arrays"),
        (DataFile("p", "p.npz", ".npz", "file", npy(SIDE).content), "no archive of arrays"),
        (DataFile("p", "p.safetensors", ".safetensors", "file", b"12345"), "cannot be read"),
        (DataFile("p", "p.csv", ".csv", "file", b"1,2"), "are read from .npz, .npy"),
    ],
)
def test_files_that_hold_no_traces_say_what_is_wrong(file: DataFile, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{file.source}:1: .*{message}"):
        read_traces(file, None)


def test_labels_apart_belong_to_npy_files() -> None:
    with pytest.raises(ConfigError, match=r"labels.npy:1: labels apart are for .npy files"):
        read_traces(npz(fixed=SIDE, random=SIDE), npy(np.zeros(50), "labels"))
