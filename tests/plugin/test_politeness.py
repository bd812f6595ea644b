"""A project that does not use us notices nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
import sys
def test_nothing_heavy_is_loaded():
    heavy = {"torch", "transformers", "numpy", "scipy", "pydantic", "yaml"} & set(sys.modules)
    assert not heavy, heavy
"""


@pytest.mark.parametrize("arguments", [("-p", "no:xdist"), ("-n0",), ("-n2",)])
def test_no_output_no_file_no_import(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    pytester.makepyfile(PROBE)
    result = pytester.runpytest_subprocess(*arguments)
    result.assert_outcomes(passed=1)
    text = result.stdout.str() + result.stderr.str()
    # pytest itself lists every installed plugin in one line.
    shown = [line for line in text.splitlines() if not line.startswith("plugins:")]
    assert "compsec" not in "\n".join(shown)
    assert not list(pytester.path.rglob("*compsec*"))
    assert "warning" not in text.lower()


def test_importing_the_plugin_is_cheap_beside_pytest_itself() -> None:
    code = (
        "import time, pytest, unittest\n"
        "start = time.perf_counter(); import pytest_compsec.plugin\n"
        "print(time.perf_counter() - start)\n"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(7)
    ]
    pytest_times = [
        float(
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "import time; s = time.perf_counter(); import pytest; "
                    "print(time.perf_counter() - s)",
                ],
                capture_output=True,
                check=True,
            ).stdout
        )
        for _ in range(7)
    ]
    # A ratio, because machines differ and are shared: pytest takes about 100 ms where 20 ms is
    # what we allow ourselves.
    assert min(times) < 0.5 * min(pytest_times)


def test_collecting_only_measures_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_x(): pass")
    result = pytester.runpytest_subprocess("--collect-only", "-q")
    assert result.ret == 0
