"""The matrix as a table of text, and as Markdown for a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_compsec.matrix.measuring import Row

_HEADINGS = (
    "precision",
    "bytes/param",
    "memory MB",
    "accuracy",
    "perplexity",
    "refusal",
    "over-refusal",
    "time",
    "safety",
    "helpfulness",
    "impact",
)


def table_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Aligned columns; a rate of fewer prompts than the reference's says of how many."""
    cells = [_HEADINGS, *_cells(rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADINGS))]
    for row in cells:
        texts = [
            text.ljust(width) if column in (0, 8, 9, 10) else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(texts).rstrip()


def markdown_lines(rows: Sequence[Row]) -> Iterator[str]:
    """The same as a table of Markdown."""
    yield "| " + " | ".join(_HEADINGS) + " |"
    yield "|" + "|".join("---" if column in (0, 8, 9, 10) else "---:" for column in range(11)) + "|"
    for row in _cells(rows):
        yield "| " + " | ".join(row) + " |"


def _cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    reference = rows[0]
    return [
        (
            row.name,
            "-" if row.bytes_per_parameter is None else f"{row.bytes_per_parameter:.2f}",
            "-" if row.megabytes_in_memory is None else f"{row.megabytes_in_memory:.0f}",
            _share(row.accuracy),
            "-" if row.perplexity is None else _number(row.perplexity),
            _rate(row.refusal, row.refusal_n, reference.refusal_n),
            _rate(row.over_refusal, row.over_refusal_n, reference.over_refusal_n),
            "-" if row.seconds_ratio is None else f"{row.seconds_ratio:.2f}x",
            row.safety or "-",
            row.helpfulness or "-",
            row.impact,
        )
        for row in rows
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _rate(value: float | None, asked: int, of: int) -> str:
    text = _share(value)
    return f"{text} of {asked}" if value is not None and asked < of else text


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.1e}"
