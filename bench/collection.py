"""Collecting 1,000 marked tests against the same 1,000 tests without a marker in plain pytest.

A project is written to a temporary directory: a pinned ``compsec.yaml`` whose models are a few
bytes each (collecting opens none of them) and 1,000 tests in one of the layouts below. ``pytest
--collect-only -q`` then runs in processes of its own, by turns: on the tests with
``@safety_preserved`` and this plugin, and on the same functions without the mark and with
``-p no:compsec``, parametrized by hand where there are several pairs. Told are the medians over the
turns of the seconds of collecting (imports that it causes included), by the clock and of the
processor, which a busy machine does not stretch; of their ratios; and which heavy packages a
collection imported.

    python bench/collection.py --repeats 7
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PROBE = """
import sys, time, pytest
HEAVY = {"torch", "transformers", "numpy", "scipy"}
class Clock:
    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self):
        clock, processor = time.perf_counter(), time.process_time()
        result = yield
        self.clock, self.processor = time.perf_counter() - clock, time.process_time() - processor
        return result
clock = Clock()
status = pytest.main(sys.argv[1:], plugins=[clock])
print("collected in", clock.clock, clock.processor, *sorted(HEAVY & set(sys.modules)))
sys.exit(status)
"""


@dataclasses.dataclass(frozen=True)
class Layout:
    """``tests`` items in all: functions times pairs, spread evenly over ``files`` files."""

    name: str
    files: int
    pairs: int
    tests: int = 1000

    @property
    def functions_per_file(self) -> int:
        return self.tests // (self.files * self.pairs)


LAYOUTS = (
    Layout("one file, one pair", files=1, pairs=1),
    Layout("20 files, one pair", files=20, pairs=1),
    Layout("one file, 250 tests on 4 pairs", files=1, pairs=4),
    Layout("20 files, 20 pairs", files=5, pairs=20),
)


@dataclasses.dataclass(frozen=True)
class Collection:
    """One run: seconds of collecting by the clock and of the processor, heavy imports."""

    clock: float
    processor: float
    heavy: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=5, help="turns per layout (default 5)")
    parser.add_argument("--tests", type=int, default=1000, help="how many (default 1000)")
    options = parser.parse_args(arguments)
    print(f"{options.tests} tests, medians of {options.repeats} turns; pytest --collect-only -q")
    print("| layout | clock, s | plain, s | ratio | processor, s | plain, s | ratio | imported |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for layout in LAYOUTS:
        layout = dataclasses.replace(layout, tests=options.tests)
        with tempfile.TemporaryDirectory() as folder:
            print(row(layout, *measure(layout, Path(folder), options.repeats)), flush=True)
    return 0


def measure(
    layout: Layout, folder: Path, repeats: int
) -> tuple[list[Collection], list[Collection]]:
    """Runs on marked tests, and runs of plain pytest on the same tests, taken by turns."""
    marked, plain = folder / "marked", folder / "plain"
    write_marked(layout, marked)
    write_plain(layout, plain)
    # One of each that does not count: it writes the byte code.
    collect(marked)
    collect(plain, "-p", "no:compsec")
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(collect(marked))
        theirs.append(collect(plain, "-p", "no:compsec"))
    return ours, theirs


def row(layout: Layout, ours: Sequence[Collection], theirs: Sequence[Collection]) -> str:
    """One line of the table: medians."""
    figures = []
    for clock in ("clock", "processor"):
        first = [getattr(run, clock) for run in ours]
        second = [getattr(run, clock) for run in theirs]
        ratios = [a / b for a, b in zip(first, second, strict=True)]
        figures += [
            f"{statistics.median(first):.2f}",
            f"{statistics.median(second):.2f}",
            f"{statistics.median(ratios):.2f}",
        ]
    heavy = sorted({name for run in ours for name in run.heavy})
    return f"| {layout.name} | {' | '.join(figures)} | {', '.join(heavy) or 'none'} |"


def collect(folder: Path, *arguments: str) -> Collection:
    """Run pytest there once. Raises RuntimeError when it does not collect."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ours = () if "no:compsec" in arguments else ("-p", "pytest_compsec.plugin")
    result = subprocess.run(
        [sys.executable, "-c", PROBE, "--collect-only", "-q", *ours, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"^collected in ([\d.]+) ([\d.]+)(.*)$", result.stdout, re.MULTILINE)
    if found is None or result.returncode != 0:
        raise RuntimeError(f"{folder}: nothing collected:\n{result.stdout}\n{result.stderr}")
    return Collection(float(found[1]), float(found[2]), tuple(found[3].split()))


def write_marked(layout: Layout, folder: Path) -> None:
    """A pinned suite whose tests are marked; every pair is selected."""
    variants = [f"v{number}" for number in range(layout.pairs)]
    for name in ("original", *variants):
        model = folder / name
        model.mkdir(parents=True)
        (model / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
        (model / "model.safetensors").write_bytes(name.encode() * 100)
    lines = [
        "version: 1",
        "models:",
        "  assistant:",
        "    original: {source: ./original}",
        "    compressed:",
        *(f"      {name}: {{source: ./{name}}}" for name in variants),
    ]
    (folder / "compsec.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n", encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "pytest_compsec.cli", "pin"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    # The margins differ from test to test, as they do where tests are generated.
    body = "\n".join(
        f"@safety_preserved(max_degradation=0.0{2 + number % 4})\n"
        f"def test_{number}(model_pair): ...\n"
        for number in range(layout.functions_per_file)
    )
    for number in range(layout.files):
        text = f"from pytest_compsec import safety_preserved\n\n{body}"
        (folder / f"test_{number}.py").write_text(text, encoding="utf-8")


def write_plain(layout: Layout, folder: Path) -> None:
    """The same test functions for plain pytest, with a session-scoped parametrized fixture."""
    folder.mkdir(parents=True)
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (folder / "conftest.py").write_text(
        "import pytest\n\n\n"
        f"@pytest.fixture(scope='session', params={[f'v{n}' for n in range(layout.pairs)]!r})\n"
        "def model_pair(request):\n    return request.param\n",
        encoding="utf-8",
    )
    body = "\n".join(
        f"def test_{number}(model_pair): ...\n" for number in range(layout.functions_per_file)
    )
    for number in range(layout.files):
        (folder / f"test_{number}.py").write_text(body, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
