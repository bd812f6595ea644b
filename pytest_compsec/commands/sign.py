"""``compsec sign``: write a ``model.sig`` (OpenSSF Model Signing) that other tools verify."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_compsec.errors import CompsecError
from pytest_compsec.signing.keys import PASSWORD_VARIABLE, password_from_environment


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command line of ``compsec sign``."""
    sign = commands.add_parser(
        "sign",
        help="write a model.sig (OpenSSF Model Signing) beside a model",
        description="Sign every file of a model directory, or one .gguf file. A key's password is "
        f"taken from the environment variable {PASSWORD_VARIABLE}.",
    )
    sign.add_argument(
        "model", metavar="MODEL", help="the directory that holds the model, or a .gguf file"
    )
    sign.add_argument(
        "--key", required=True, metavar="PRIVATE.pem", help="an elliptic curve key (P-256 to P-521)"
    )
    sign.add_argument(
        "--output",
        metavar="PATH",
        help="default: model.sig in the directory, or FILE.gguf.sig beside the file",
    )
    sign.add_argument(
        "--certificate",
        metavar="LEAF.pem",
        help="the certificate of the key: sign by the method of certificates",
    )
    sign.add_argument(
        "--chain",
        metavar="CA.pem",
        action="append",
        default=[],
        help="a certificate on the way to the authority; may be repeated",
    )


def run_sign(arguments: argparse.Namespace) -> int:
    """Sign, and print what was signed. Exit code 0."""
    from pytest_compsec.models.oms.signing import sign_model

    if not arguments.model:  # an unset variable in a script, not the current directory
        raise CompsecError("MODEL is empty; name the directory that holds the model")
    signed = sign_model(
        Path(arguments.model),
        Path(arguments.key),
        output=Path(arguments.output) if arguments.output is not None else None,
        password=password_from_environment(),
        certificate=Path(arguments.certificate) if arguments.certificate is not None else None,
        chain=[Path(name) for name in arguments.chain],
    )
    print(f"Signed {signed.files} file{'s' * (signed.files != 1)}: {signed.path}")
    print(f"sha256 over their digests: {signed.digest}")
    print(f"sha256 of the public key: {signed.key}")
    if signed.replaced:
        print("It takes the place of another signature, which a lock may still pin.")
    print(
        "Next, where a compsec.yaml names this model: have the signature checked with `signature: "
        "{key: ./PUBLIC.pem}` beside its source, and run `compsec pin`. Until then a run refuses "
        f"{signed.path.name} as a file that nobody pinned."
    )
    return 0
