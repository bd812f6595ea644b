"""``compsec sign``: write a ``model.sig`` (OpenSSF Model Signing) that other tools verify."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_compsec.signing.keys import PASSWORD_VARIABLE, password_from_environment


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command line of ``compsec sign``."""
    sign = commands.add_parser(
        "sign",
        help="write a model.sig (OpenSSF Model Signing) beside a model",
        description="Sign every file of a model directory. A key's password is taken from the "
        f"environment variable {PASSWORD_VARIABLE}.",
    )
    sign.add_argument("model", metavar="MODEL_DIR", help="the directory that holds the model")
    sign.add_argument(
        "--key", required=True, metavar="PRIVATE.pem", help="an elliptic curve key (P-256 to P-521)"
    )
    sign.add_argument("--output", metavar="PATH", help="default: model.sig in MODEL_DIR")
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

    signed = sign_model(
        Path(arguments.model),
        Path(arguments.key),
        output=Path(arguments.output) if arguments.output is not None else None,
        password=password_from_environment(),
        certificate=Path(arguments.certificate) if arguments.certificate is not None else None,
        chain=[Path(name) for name in arguments.chain],
    )
    print(f"Signed {signed.files} files: {signed.path}")
    print(f"sha256 over their digests: {signed.digest}")
    print(f"sha256 of the public key: {signed.key}")
    return 0
