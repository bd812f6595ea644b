"""The process in which GPTQModel quantizes: ``python -m pytest_compsec.compression.gptq_worker D``.

Reads ``D/task.json`` (:class:`Task`) and the checkpoint ``D/dense``, writes the GPTQ checkpoint
``D/quantized``; a failure leaves its reason in ``D/error.txt``.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any, TypedDict

# Texts in one forward pass. GPTQModel pads on its own, and masks what it padded.
_BATCH = 8


class Task(TypedDict):
    """What to do. ``group_size`` -1: all inputs; ``rows``: the token ids of each text;
    ``left_dense``: names of layers to leave alone."""

    bits: int
    group_size: int
    symmetric: bool
    desc_act: bool
    device: str
    dtype: str
    left_dense: list[str]
    rows: list[list[int]]


def quantize(directory: Path, task: Task) -> None:
    """Quantize ``directory/dense`` into ``directory/quantized``."""
    torch: Any = importlib.import_module("torch")
    library: Any = importlib.import_module("gptqmodel")
    settings = library.GPTQConfig(
        bits=task["bits"],
        group_size=task["group_size"],
        sym=task["symmetric"],
        desc_act=task["desc_act"],
        # Its default, said here because it does not take it back where there is but one group.
        act_group_aware=not task["desc_act"] and task["group_size"] > 0,
        # Version 1 has no place for a zero point of 0.
        format="gptq_v2",
        device=task["device"],
        dynamic={f"-:^{re.escape(name)}$": {} for name in task["left_dense"]} or None,
        offload_to_disk=False,
        # The others compile code first, which takes longer than they save.
        pack_impl="original",
    )
    model = library.GPTQModel.load(
        str(directory / "dense"), settings, dtype=getattr(torch, task["dtype"])
    )
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in task["rows"]]
    # It leaves out texts of up to that many tokens, 10 if nothing is said.
    model.quantize(rows, batch_size=_BATCH, calibration_data_min_length=0)
    model.save(str(directory / "quantized"))


def main(arguments: list[str]) -> int:
    """Exit status 0, or 1 with the reason in ``error.txt``."""
    directory = Path(arguments[0])
    task: Task = json.loads((directory / "task.json").read_text(encoding="utf-8"))
    try:
        quantize(directory, task)
    except Exception as error:
        # One line: the whole story is in the output, and the user can act on the reason alone.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        (directory / "error.txt").write_text(reason, encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
