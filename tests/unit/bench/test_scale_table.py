"""``docs/scale.md`` shows what its command prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cost.table import main

PAGE = Path(__file__).resolve().parents[3] / "docs" / "scale.md"


def test_the_table_of_the_page_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever changes the cost model, a shape or a peak prints the table again:
    ``python -m bench.cost.table``."""
    assert main([]) == 0
    printed = capsys.readouterr().out.splitlines()
    text = PAGE.read_text(encoding="utf-8")
    rows = [line for line in printed if line.startswith("|")]
    assert len(rows) == 2 + 3 * 2 * 3
    assert [row for row in rows if row not in text.splitlines()] == []
    flat = " ".join(text.split())
    circumstances = printed[0][1:]  # its first letter is a capital on the page
    assert circumstances in flat
