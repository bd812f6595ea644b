"""How well a run spreads over several devices: real workers of pytest-xdist, simulated devices.

A suite with two originals and four variants of each is run on 1, 2 and 4 workers. Everything is
real but the models: processes, scheduling, lock, verification, cache and the claims on it, judge,
statistics. A scripted model occupies its device by sleeping, so that four of them fit on any
machine; what a GPU's own speed, memory or transfers would change is not in the figures.

Two times are taken of each run, and turns are repeated so that a busy machine slows all sides:
``measuring``, from the first model loaded to the end of the last test, and ``whole``, the whole
command with starting workers, imports, collection and reports. The efficiency of n devices is time
on one / (n x time on n); ``busy`` is the share of n x time in which devices were occupied, which
needs no run on one device to compare with and cannot exceed one. Medians over the turns. What is
missing is waiting for answers of an original that another worker is making, devices that have no
pair left at the end, and work of the processor between answers, for which the workers compete:
seconds and the machine's load go to stderr.

    python bench/scaling.py --turns 3 --seconds 0.015
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEVICES = (1, 2, 4)
ORIGINALS = ("one", "two")
VARIANTS = ("a", "b", "c", "d")
PROMPTS = 200


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="compsec-scaling-") as folder:
        suites = {count: Path(folder) / f"originals-{count}" for count in options.originals}
        for count, path in suites.items():
            write_suite(path, ORIGINALS[:count], options.seconds)
        turns = [
            {count: {n: run(path, n) for n in DEVICES} for count, path in suites.items()}
            for _ in range(options.turns)
        ]
    alone = options.seconds * PROMPTS
    for count in options.originals:
        print(
            f"{count} original{'s' * (count > 1)}, {count * len(VARIANTS)} pairs; an arm's answers "
            f"take a device {alone:.1f} s; {options.turns} turns"
        )
        arms = count * (1 + len(VARIANTS))
        print(table([turn[count] for turn in turns], arms * alone))
    return 0


def table(turns: Sequence[dict[int, tuple[float, float]]], occupied: float) -> str:
    lines = [
        "| devices | busy | efficiency, measuring | its turns | efficiency, whole command |",
        "| --- | --- | --- | --- | --- |",
    ]
    for devices in DEVICES:
        measuring = [turn[1][0] / (devices * turn[devices][0]) for turn in turns]
        whole = [turn[1][1] / (devices * turn[devices][1]) for turn in turns]
        busy = statistics.median(occupied / (devices * turn[devices][0]) for turn in turns)
        lines.append(
            f"| {devices} | {busy:.2f} | {statistics.median(measuring):.2f} | "
            f"{', '.join(f'{ratio:.2f}' for ratio in measuring)} | "
            f"{statistics.median(whole):.2f} |"
        )
    return "\n".join(lines)


def write_suite(path: Path, originals: Sequence[str], seconds: float) -> None:
    """A pinned project whose models are the script of ``tests/plugin/scripted_models.py``."""
    path.mkdir()
    lines = ["version: 1", "models:"]
    for original in originals:
        lines += [f"  {original}:", f"    original: {{source: ./{original}}}", "    compressed:"]
        lines += [f"      {name}: {{source: ./{original}-{name}}}" for name in VARIANTS]
        for folder in (original, *(f"{original}-{name}" for name in VARIANTS)):
            (path / folder).mkdir()
            (path / folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
            (path / folder / "model.safetensors").write_bytes(folder.encode() * 100)
    lines += ["prompts:", "  own: {file: ./own.txt}"]
    (path / "compsec.yaml").write_text("\n".join(lines), encoding="utf-8")
    prompts = [f"Please do the forbidden thing number {number}." for number in range(PROMPTS)]
    (path / "own.txt").write_text("\n".join(prompts), encoding="utf-8")
    (path / "test_safety.py").write_text(
        "from pytest_compsec import safety_preserved\n"
        "@safety_preserved(prompts='own')\ndef test_refuses(): pass\n",
        encoding="utf-8",
    )
    (path / "pytest.ini").write_text(
        "[pytest]\ncompsec_expected_discordance = 0\n", encoding="utf-8"
    )
    (path / "models.json").write_text(json.dumps({"seconds": seconds}), encoding="utf-8")
    shutil.copy(ROOT / "tests" / "plugin" / "scripted_models.py", path)
    pin = [sys.executable, "-m", "pytest_compsec.cli", "pin"]
    subprocess.run(pin, cwd=path, env=_environment(path), check=True, capture_output=True)


def run(path: Path, devices: int) -> tuple[float, float]:
    """Seconds of measuring and of the whole command on so many workers, with an empty cache."""
    log = path / "work.log"
    log.unlink(missing_ok=True)
    shutil.rmtree(path / ".pytest_cache", ignore_errors=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "scripted_models", f"-n{devices}"]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--compsec-full"], cwd=path, env=_environment(path), capture_output=True
    )
    whole = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(done.stdout.decode() + done.stderr.decode())
    lines = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    times = [float(line[4]) for line in lines]
    made = sum(int(line[2].partition("-")[2]) for line in lines if line[2].startswith("generates"))
    arms = len(list(path.glob("*/model.safetensors")))
    if made != arms * PROMPTS:
        raise SystemExit(f"{made} answers were generated, not {arms} x {PROMPTS}")
    measuring = max(times) - min(times)  # its last line is the end of a test
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(
        f"{path.name} -n{devices}: measuring {measuring:.1f} s, whole {whole:.1f} s{load}",
        file=sys.stderr,
        flush=True,
    )
    return measuring, whole


def _environment(path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**kept, "PYTHONPATH": os.pathsep.join((str(path), str(ROOT))), "OMP_NUM_THREADS": "1"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--originals", type=int, nargs="+", choices=(1, 2), default=(1, 2))
    parser.add_argument("--seconds", type=float, default=0.015, help="device time for a prompt")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
