"""``compsec matrix MODEL``: one original at many precisions, measured."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from pytest_compsec.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command, ``--config`` apart."""
    parser.add_argument("model", metavar="MODEL", help="a model of the config, as pinned")
    parser.add_argument(
        "--precisions",
        help="names with commas between, such as bf16,int8,int4-nf4 (default: all)",
    )
    parser.add_argument(
        "--dtype",
        default="fastest",
        choices=("fastest", "float32", "float16", "bfloat16"),
        help="what quantized models compute in (default: the fastest here)",
    )
    parser.add_argument("--max-degradation", type=float, default=0.02, help="default: 0.02")
    parser.add_argument("--max-increase", type=float, default=0.05, help="default: 0.05")
    parser.add_argument(
        "--full", action="store_true", help="ask every prompt even when a verdict is settled"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw them (needs the extra [plot])")


def run_matrix(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write what was asked for. Exit code 0: it reports, it does not
    judge; tests do."""
    from pytest_compsec.atomic import write_atomically
    from pytest_compsec.commands.variant_lines import require_language_model
    from pytest_compsec.config.loading import load_config
    from pytest_compsec.matrix.measuring import measure_matrix
    from pytest_compsec.matrix.precisions import chosen_precisions
    from pytest_compsec.matrix.questions import texts_digest
    from pytest_compsec.matrix.suite import open_matrix_suite
    from pytest_compsec.matrix.table import markdown_lines, table_lines
    from pytest_compsec.models.identity import installed_versions
    from pytest_compsec.models.lock import read_lock

    names = None
    if arguments.precisions is not None:
        names = [name.strip() for name in arguments.precisions.split(",")]
    precisions = chosen_precisions(names)
    if not precisions:
        raise ConfigError("--precisions: name at least one beside fp32")
    max_degradation = _share("--max-degradation", arguments.max_degradation)
    max_increase = _share("--max-increase", arguments.max_increase)
    for option in ("json", "plot"):
        require_writable(option, getattr(arguments, option))
    loaded = load_config(Path(arguments.config))
    require_language_model(loaded, arguments.model, "matrix")
    lock = read_lock(loaded.lock_path)
    with open_matrix_suite(
        loaded, lock, arguments.model, precisions, dtype=arguments.dtype, full=arguments.full
    ) as suite:
        rows = measure_matrix(
            suite,
            arguments.model,
            precisions,
            max_degradation=max_degradation,
            max_increase=max_increase,
            notify=lambda text: print(f"... {text}", file=sys.stderr, flush=True),
        )
    lines = markdown_lines(rows) if arguments.markdown else table_lines(rows)
    print("\n".join(lines))
    if arguments.json is not None:
        record = {
            "model": arguments.model,
            "lock_digest": lock.digest,
            "texts_digest": texts_digest(),
            "max_degradation": arguments.max_degradation,
            "max_increase": arguments.max_increase,
            "dtype": arguments.dtype,
            "full": arguments.full,
            "libraries": installed_versions(),
            "rows": [row.to_json() for row in rows],
        }
        try:
            write_atomically(
                Path(arguments.json), json.dumps(record, indent=1, allow_nan=False) + "\n"
            )
        except OSError as error:
            raise ConfigError(
                f"--json {arguments.json!r}: cannot be written ({error.strerror})"
            ) from None
    if arguments.plot is not None:
        from pytest_compsec.matrix.plot import draw

        draw(rows, f"{arguments.model}: what compression does", Path(arguments.plot))
    return 0


def _share(option: str, value: float) -> float:
    if not 0 < value < 1:
        raise ConfigError(f"{option} {value:g} must be a share between 0 and 1, such as 0.02")
    return value


def require_writable(option: str, value: str | None) -> None:
    """Said before an hour is spent, not after."""
    if value is None:
        return
    path = Path(value)
    parent = path.absolute().parent
    if path.is_dir():
        raise ConfigError(f"--{option} {value!r} is a directory: name a file")
    if not parent.is_dir():
        raise ConfigError(f"--{option} {value!r}: there is no directory {str(parent)!r}")
    if not os.access(parent, os.W_OK):
        raise ConfigError(f"--{option} {value!r}: {str(parent)!r} cannot be written to")
    if option == "plot":
        if path.suffix.lower() != ".svg":
            raise ConfigError(f"--plot {value!r}: give a name that ends in .svg")
        from pytest_compsec.matrix.plot import require_matplotlib

        require_matplotlib()
