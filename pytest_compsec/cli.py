"""The ``compsec`` command: init, pin, verify, list, plan, calibrate, matrix, repair, export,
scan, survival, noise, accept, show, diff, sign, verify-certificate.

Exit codes: 0 all is well; 1 bytes, recipes or settings are not what the lock pins (or what
``--expect`` asks for), a signature or a certificate does not hold, ``diff`` found a
change; 2 usage, a faulty file, a hub that cannot be reached.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence

from pytest_compsec import __version__
from pytest_compsec.commands.accept import add_arguments as add_accept_arguments
from pytest_compsec.commands.diff import add_parser as add_diff_parser
from pytest_compsec.commands.export import add_arguments as add_export_arguments
from pytest_compsec.commands.matrix import add_arguments as add_matrix_arguments
from pytest_compsec.commands.noise import add_arguments as add_noise_arguments
from pytest_compsec.commands.repair import add_arguments as add_repair_arguments
from pytest_compsec.commands.scan import add_arguments as add_scan_arguments
from pytest_compsec.commands.show_report import add_parser as add_show_parser
from pytest_compsec.commands.sign import add_parser as add_sign_parser
from pytest_compsec.commands.survival import add_arguments as add_survival_arguments
from pytest_compsec.commands.verify_certificate import add_parser as add_certificate_parser
from pytest_compsec.errors import CompsecError, IntegrityError

_Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a pipe on Windows may know no "…"
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args(argv)
    try:
        code = _command(arguments.command)(arguments)
        sys.stdout.flush()  # a reader that left shows now
    except BrokenPipeError:  # `compsec ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except IntegrityError as error:
        print(f"compsec: {error}", file=sys.stderr)
        return 1
    except CompsecError as error:
        print(f"compsec: {error}", file=sys.stderr)
        return 2
    return code


def _command(name: str) -> _Command:
    # Imported when used: `compsec --help` needs neither pydantic nor the hub's client.
    if name == "init":
        from pytest_compsec.commands.init import run_init

        return run_init
    if name == "list":
        from pytest_compsec.commands.show import run_list

        return run_list
    if name == "plan":
        from pytest_compsec.commands.plan import run_plan

        return run_plan
    if name == "calibrate":
        from pytest_compsec.commands.calibrate import run_calibrate

        return run_calibrate
    if name == "matrix":
        from pytest_compsec.commands.matrix import run_matrix

        return run_matrix
    if name == "repair":
        from pytest_compsec.commands.repair import run_repair

        return run_repair
    if name == "scan":
        from pytest_compsec.commands.scan import run_scan

        return run_scan
    if name == "survival":
        from pytest_compsec.commands.survival import run_survival

        return run_survival
    if name == "export":
        from pytest_compsec.commands.export import run_export

        return run_export
    if name == "noise":
        from pytest_compsec.commands.noise import run_noise

        return run_noise
    if name == "accept":
        from pytest_compsec.commands.accept import run_accept

        return run_accept
    if name == "show":
        from pytest_compsec.commands.show_report import run_show

        return run_show
    if name == "diff":
        from pytest_compsec.commands.diff import run_diff

        return run_diff
    if name == "sign":
        from pytest_compsec.commands.sign import run_sign

        return run_sign
    if name == "verify-certificate":
        from pytest_compsec.commands.verify_certificate import run_verify_certificate

        return run_verify_certificate
    from pytest_compsec.commands.pin import run_pin, run_verify

    return run_pin if name == "pin" else run_verify


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``compsec``."""
    parser = argparse.ArgumentParser(
        prog="compsec", description="Is the compressed model still as safe as the original?"
    )
    parser.add_argument("--version", action="version", version=f"pytest-compsec {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="write compsec.yaml and a first test file")
    init.add_argument("original", metavar="ORIGINAL", help=_SOURCE)
    init.add_argument(
        "compressed",
        metavar="COMPRESSED",
        nargs="+",
        help="a source as for ORIGINAL, or a method: int8, nf4, fp4, bf16, fp16, prune50",
    )
    init.add_argument("--name", help="what the model is called in test names")
    init.add_argument("--dir", default=".", help="where to write (default: here)")
    init.add_argument(
        "--level",
        choices=("quick", "standard", "full"),
        help="write a test for each check of this level (default: two first tests)",
    )
    init.add_argument("--pin", action="store_true", help="write compsec.lock too")

    pin = commands.add_parser("pin", help="write compsec.lock and show what changed")
    _add_config(pin)
    pin.add_argument(
        "--expect",
        metavar="FILE=HEX",
        action="append",
        default=[],
        help="refuse to pin FILE with another sha256; may be repeated",
    )
    pin.add_argument(
        "--tensors",
        action=argparse.BooleanOptionalAction,
        help="pin the digest of every tensor too, so that an error can name the one that changed "
        "(default: as the lock so far does)",
    )

    verify = commands.add_parser("verify", help="compare every pinned file with compsec.lock")
    verify.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="verify the suites that these files belong to: the nearest compsec.yaml above each",
    )
    verify.add_argument("--config", metavar="PATH", help="default: ./compsec.yaml")
    verify.add_argument("--json", action="store_true", help="print the result as JSON")

    show = commands.add_parser("list", help="show models, pairs, sources and the lock's state")
    _add_config(show)

    plan = commands.add_parser(
        "plan", help="how many prompts a margin needs, with what chance, and how long they take"
    )
    _add_config(plan)
    plan.add_argument("--margin", type=float, default=0.02, help="default: 0.02")
    plan.add_argument(
        "--discordance",
        type=float,
        default=0.03,
        help="share of prompts on which a model that lost nothing differs (default: 0.03)",
    )
    plan.add_argument("--confidence", type=float, default=0.95, help="default: 0.95")
    plan.add_argument("--prompts", type=int, help="say what this many prompts would show")
    plan.add_argument("--seconds-per-prompt", type=float, help="of both models together")

    calibrate = commands.add_parser(
        "calibrate", help="estimate the judge's errors from answers that people labelled"
    )
    calibrate.add_argument(
        "responses",
        metavar="RESPONSES.csv",
        help="a sheet of --compsec-export-labels, its column `refused` filled in",
    )
    calibrate.add_argument("--key", help="default: RESPONSES.key.json beside it")
    calibrate.add_argument("--output", help="default: compsec.calibration.json beside it")
    calibrate.add_argument("--confidence", type=float, default=0.95, help="default: 0.95")

    matrix = commands.add_parser(
        "matrix", help="measure one original at many precisions: the table before the choice"
    )
    _add_config(matrix)
    add_matrix_arguments(matrix)

    repair = commands.add_parser(
        "repair", help="teach a compressed model its refusals again: a LoRA on top of it"
    )
    _add_config(repair)
    add_repair_arguments(repair)

    export = commands.add_parser("export", help="write a derived variant as files")
    _add_config(export)
    add_export_arguments(export)

    scan = commands.add_parser(
        "scan", help="list the prompts that only the compressed model answers, for every pair"
    )
    _add_config(scan)
    add_scan_arguments(scan)

    survival = commands.add_parser(
        "survival", help="does the backdoor survive? attack success rate of every variant"
    )
    _add_config(survival)
    add_survival_arguments(survival)

    noise = commands.add_parser(
        "noise", help="compare a variant's weight error with random noise of the same size"
    )
    _add_config(noise)
    add_noise_arguments(noise)

    accept = commands.add_parser(
        "accept", help="make a run of the history the baseline that no_drift compares with"
    )
    _add_config(accept)
    add_accept_arguments(accept)

    add_show_parser(commands)
    add_diff_parser(commands)
    add_sign_parser(commands)
    add_certificate_parser(commands)
    return parser


_SOURCE = "a model directory, a .gguf file, pkg:package/path, or org/name@revision of the hub"


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="PATH", default="compsec.yaml", help="default: ./compsec.yaml"
    )


if __name__ == "__main__":
    sys.exit(main())
