"""How far honest quantizations are from their original, row by row, and how far planted edits are:
what the limits of ``derived_from_original`` rest on.

    python bench/compression/honest_rows.py ORIGINAL [COMPRESSED ...]

Both are directories or .gguf files. Without COMPRESSED the original is quantized here by
bitsandbytes: int8, NF4, FP4, and NF4 with quantized scales. Printed for each: quantiles over all
rows of all quantized matrices of the two scores that are limited (largest error of a weight in half
steps; root mean square error of a row as a multiple of even rounding's), and over groups of how far
the grid reaches (as a multiple of twice the largest weight of the group); then the scores of rows
of one matrix that were edited by a share of their norm. Of a GPTQ checkpoint also the output scores
of the rows that are beyond the limit, of some that are not, and of the edited ones.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pytest_compsec.compression.calibration import CalibrationTexts
from pytest_compsec.compression.methods import validated_options
from pytest_compsec.derivation.compare import matrices, row_scores
from pytest_compsec.derivation.grids import RoundedMatrix, rounded_matrices
from pytest_compsec.derivation.limits import LIMITS
from pytest_compsec.derivation.outputs import output_scores
from pytest_compsec.models.arm import Arm, StagedFiles
from pytest_compsec.models.loaded import LoadedModel, TransformersModel
from pytest_compsec.models.loading import load
from pytest_compsec.models.quiet import quiet
from pytest_compsec.prompts import load_builtin

SHARES = (0.5, 0.9, 0.99, 0.999, 0.9999, 1.0)
EDITS = (0.1, 0.2, 0.3, 0.5)
DERIVED: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "nf4": {"bits": 4, "type": "nf4"},
    "fp4": {"bits": 4, "type": "fp4"},
    "nf4, quantized scales": {"bits": 4, "type": "nf4", "double_quant": True},
}
EDITED_ROWS = 16
PROMPTS = 24
#: Of rows within the limit, every one of so many has its output looked at.
EVERY = 97


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with quiet():
        original = _load(options.original, "float32", None)
        print("quantiles    " + "".join(f"{100 * share:>9g} %" for share in SHARES))
        for name, compressed in _compressed(original, options.compressed):
            _report(name, original, compressed)
    return 0


def _compressed(
    original: LoadedModel, paths: Sequence[Path]
) -> Iterator[tuple[str, LoadedModel]]:  # fmt: skip
    for path in paths:
        yield path.name, _load(path, "bfloat16" if path.is_dir() else "float32", "compressed")
    if not paths:
        from pytest_compsec.compression.bitsandbytes import apply

        for name, values in DERIVED.items():
            chosen = validated_options("quantize", {"method": "bitsandbytes", **values})
            module = apply(copy.deepcopy(original.module), chosen.model_dump(), "cpu")
            assert isinstance(original, TransformersModel)
            yield name, dataclasses.replace(original, module=module)


def _report(name: str, original: LoadedModel, compressed: LoadedModel) -> None:
    grids = rounded_matrices(compressed)
    scores: dict[str, list[torch.Tensor]] = {"weight": [], "row": [], "grid reach": []}
    means: dict[str, torch.Tensor] = {}
    dense: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for layer, first, second in matrices(original.module, compressed.module):
        if layer not in grids:
            continue
        element, mean = row_scores(first, second, grids[layer], LIMITS[grids[layer].rounding])
        means[layer] = mean
        dense = dense or ({layer: (first, second)} if "up_proj" in layer else {})
        scores["weight"].append(element)
        scores["row"].append(mean)
        scores["grid reach"].append(_reach(first, grids[layer]))
    kinds = ", ".join(sorted({grid.rounding for grid in grids.values()}))
    rows = sum(map(len, means.values()))
    print(f"\n{name}: {kinds}; {rows:,} rows of {len(means)} matrices")
    for label, found in scores.items():
        _print_quantiles(label, torch.cat(found))
    for layer, (first, second) in dense.items():
        numbers, changes = _edits(first)
        for share, change in zip(EDITS, changes, strict=True):
            edited = second.clone()
            edited[numbers] += change
            limits = LIMITS[grids[layer].rounding]
            element, mean = row_scores(first, edited, grids[layer], limits)
            low, high = float(mean[numbers].min()), float(mean[numbers].max())
            print(
                f"{len(numbers)} rows of {layer} edited by {100 * share:g} %: row {low:.2f} to "
                f"{high:.2f}, weight from {float(element[numbers].min()):.2f}"
            )
    if any(grid.rounding == "compensating" for grid in grids.values()):
        _report_outputs(original, compressed, grids, means, next(iter(dense)))


def _report_outputs(
    original: LoadedModel,
    compressed: LoadedModel,
    grids: Mapping[str, RoundedMatrix],
    means: Mapping[str, torch.Tensor],
    edited_layer: str,
) -> None:
    limit = LIMITS["compensating"].row
    looked_at = {
        layer: sorted(
            {*(mean > limit).nonzero().flatten().tolist(), *range(0, len(mean), EVERY)}
        )
        for layer, mean in means.items()
    }  # fmt: skip
    texts = CalibrationTexts(
        original.tokenizer,
        tuple(
            prompt.text
            for name in ("benign", "harmful")
            for prompt in load_builtin(name).prompts[:PROMPTS]
        ),
    )

    def outputs(rows: Mapping[str, Sequence[int]]) -> dict[tuple[str, int], float]:
        return output_scores(
            original.module, compressed.module, rows, grids, texts.batches(original.device)
        )

    found = outputs(looked_at)
    far = [score for (layer, row), score in found.items() if float(means[layer][row]) > limit]
    near = [score for (layer, row), score in found.items() if float(means[layer][row]) <= limit]
    for label, values in ((f"output, {len(far)} far rows", far), ("output, others", near)):
        if values:
            _print_quantiles(label, torch.tensor(values))
    weight = compressed.module.get_parameter(f"{edited_layer}.weight")
    before = weight.detach().clone()
    numbers, changes = _edits(original.module.get_parameter(f"{edited_layer}.weight").float())
    for share, change in zip(EDITS, changes, strict=True):
        weight.data[numbers] = (before[numbers].float() + change).to(weight.dtype)
        scores = outputs({edited_layer: numbers}).values()
        low, high = min(scores), max(scores)
        print(f"edited by {100 * share:g} %: output {low:.2f} to {high:.2f}")
        weight.data.copy_(before)


def _edits(weight: torch.Tensor) -> tuple[list[int], list[torch.Tensor]]:
    """Rows spread over the matrix, and for each of EDITS a random change of them."""
    numbers = list(range(0, len(weight), max(1, len(weight) // EDITED_ROWS)))[:EDITED_ROWS]
    noise = torch.randn(len(numbers), weight.shape[1], generator=torch.Generator().manual_seed(0))
    noise *= (weight[numbers].norm(dim=1) / noise.norm(dim=1))[:, None]
    return numbers, [share * noise for share in EDITS]


def _reach(original: torch.Tensor, grid: RoundedMatrix) -> torch.Tensor:
    """Of each weight's grid, except where all weights of its group are zero."""
    largest = 2 * grid.largest_of_group(original)
    return (grid.reach / largest)[largest > 0]


def _print_quantiles(label: str, values: torch.Tensor) -> None:
    ordered = values.flatten().sort().values
    places = [min(len(ordered) - 1, int(share * len(ordered))) for share in SHARES]
    print(
        f"{label:>24}" + "".join(f"{float(ordered[place]):>9.2f}" for place in places), flush=True
    )


def _load(path: Path, dtype: str, variant: str | None) -> LoadedModel:
    path = path.resolve()
    directory, entry = (path, None) if path.is_dir() else (path.parent, path.name)
    files = StagedFiles(directory, str(path), entry, {"source": path.name}, lambda: None)
    return load(Arm(model="bench", variant=variant, files=files, device="cpu", dtype=dtype))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("original", type=Path, metavar="ORIGINAL")
    parser.add_argument("compressed", type=Path, metavar="COMPRESSED", nargs="*")
    return parser


if __name__ == "__main__":
    sys.exit(main())
