"""Every test in this directory needs a CUDA device and skips where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    if not ours:
        return
    import torch

    absent = not torch.cuda.is_available()
    for item in ours:
        item.add_marker(pytest.mark.gpu)
        if absent:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
