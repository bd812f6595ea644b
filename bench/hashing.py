"""What hashing costs: one file after the other, threaded, and together with the imports.

A directory of ``--files`` files of random bytes, ``--megabytes`` in all (or ``--directory``, a
model's), is verified as a run verifies it. By turns, each in a process of its own and with the
files in the page cache: hashed one after the other; hashed by ``open_and_hash``; hashed by it and
then torch and transformers imported; the same with the imports made while it hashes, as staging
does. Told are medians of the seconds and of the ratios of each turn.

    python bench/hashing.py --megabytes 2048 --files 8 --repeats 5
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

WAYS = ("one by one", "threaded", "threaded, then imports", "threaded, imports meanwhile")
PROBE = """
import sys, time
from pytest_compsec.models.hashing import open_and_hash
from pytest_compsec.models.importing import import_libraries
from pytest_compsec.models.integrity import local_location
from pytest_compsec.models.listing import list_source
way, directory = sys.argv[1:]
location = local_location(directory)
names = list_source(location).names
started = time.perf_counter()
if way == "one by one":
    for name in names:
        open_and_hash(location, [name], lambda file: None)
else:
    meanwhile = import_libraries if way.endswith("meanwhile") else None
    open_and_hash(location, names, lambda file: None, meanwhile)
if "imports" in way:
    import_libraries(lambda: True)
print(time.perf_counter() - started)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--megabytes", type=int, default=2048)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--directory", type=Path, help="a model's directory instead")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        directory = options.directory or write(Path(folder), options.megabytes, options.files)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(options.repeats + 1):
            for way in WAYS:
                found = timed(way, directory)
                if turn:  # The first turn fills the page cache and writes the byte code.
                    seconds[way].append(found)
    size = sum(path.stat().st_size for path in directory.rglob("*")) if options.directory else None
    total = size / 2**20 if size is not None else options.megabytes
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{total:.0f} MiB, {cores} cores, medians of {options.repeats} turns")
    for way in WAYS:
        print(f"{way}: {statistics.median(seconds[way]):.2f} s")
    for slow, fast in (WAYS[:2], WAYS[2:]):
        ratios = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
        print(f"{slow} / {fast}: {statistics.median(ratios):.2f}")
    return 0


def write(folder: Path, megabytes: int, files: int) -> Path:
    """``files`` files of random bytes, ``megabytes`` in all."""
    block = os.urandom(2**20)
    for number in range(files):
        with (folder / f"model-{number:05}-of-{files:05}.safetensors").open("wb") as file:
            for _ in range(megabytes // files):
                file.write(block)
    return folder


def timed(way: str, directory: Path) -> float:
    result = subprocess.run(
        [sys.executable, "-c", PROBE, way, str(directory)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(result.stdout)


if __name__ == "__main__":
    sys.exit(main())
