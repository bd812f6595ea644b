"""``compsec verify-certificate``: who signed it, what it says, and whether this is the artefact."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import CompsecError, IntegrityError

if TYPE_CHECKING:
    from pytest_compsec.signing.certificates import Certificate


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command line of ``compsec verify-certificate``."""
    parser = commands.add_parser(
        "verify-certificate", help="check a signed certificate, and the artefact that it speaks of"
    )
    parser.add_argument("certificate", metavar="CERTIFICATE", help="a file NAME.intoto.json")
    parser.add_argument(
        "--key", metavar="PUB.pem", help="the public key of whoever must have signed"
    )
    parser.add_argument(
        "--sigstore-identity",
        metavar="IDENTITY",
        help="or who must have signed through Sigstore: a mail address, or a workflow's URL",
    )
    parser.add_argument(
        "--sigstore-issuer", metavar="URL", help="who must have vouched for that identity"
    )
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="the model directory, or the one .gguf file, that must be what was tested",
    )
    parser.add_argument(
        "--adapter", metavar="DIR", help="the adapter on top of --model, where there is one"
    )
    parser.add_argument(
        "--config",
        metavar="compsec.yaml",
        help="a suite whose config, lock and pinned files must be those of the test",
    )
    parser.add_argument(
        "--report",
        metavar="NAME.json",
        help="the JSON report that must be that of the run (--compsec-report=NAME.json of it)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run_verify_certificate(arguments: argparse.Namespace) -> int:
    """Exit code 0 where everything asked holds, 1 with the reasons where something does not.

    Raises CompsecError (exit code 2) for wrong usage, an unreadable key or a missing file.
    """
    from pytest_compsec.signing.passing import not_passed
    from pytest_compsec.signing.statement import CertificateRefused

    verify = _verifier(arguments)
    path = Path(arguments.certificate)
    try:
        certificate = verify(path)
    except CertificateRefused as error:
        # What an unproven file says of itself is not repeated here.
        return _tell(arguments, path, None, [str(error)], [])
    compared: list[str] = []
    try:
        reasons = [
            *not_passed(certificate.statement),
            *_other_artefact(arguments, certificate, compared),
            *_other_report(arguments, certificate),
        ]
    except IntegrityError as error:
        reasons = [str(error)]
    return _tell(arguments, path, certificate, reasons, compared)


def _verifier(arguments: argparse.Namespace) -> Any:
    from pytest_compsec.signing import certificates, keyless, keys

    identity, issuer = arguments.sigstore_identity, arguments.sigstore_issuer
    if (arguments.key is not None) == (identity is not None or issuer is not None):
        raise CompsecError(
            "name who must have signed: --key=PUB.pem, or --sigstore-identity=ID with "
            "--sigstore-issuer=URL"
        )
    if arguments.adapter is not None and arguments.model is None:
        raise CompsecError("--adapter lies on top of a model: name it with --model")
    if arguments.key is not None:
        key = keys.load_public_key(Path(arguments.key))
        return lambda path: certificates.verified_with_key(path, key)
    if not identity or not issuer:
        raise CompsecError(
            "--sigstore-identity and --sigstore-issuer belong together: without the issuer, anyone "
            "could vouch for that identity"
        )
    keyless.require_sigstore()
    return lambda path: certificates.verified_with_identity(path, identity, issuer)


def _other_artefact(
    arguments: argparse.Namespace, certificate: Certificate, compared: list[str]
) -> Iterator[str]:
    from pytest_compsec.signing.comparing import differences, files_at

    if arguments.model is not None:
        model = Path(arguments.model)
        adapter = Path(arguments.adapter) if arguments.adapter is not None else None
        yield from differences(
            certificate.statement, files_at(model, adapter), whole=model.is_dir()
        )
        compared.append(str(model))
    if arguments.config is not None:
        from pytest_compsec.signing.suite_of_certificate import other_suite

        yield from other_suite(certificate.statement, Path(arguments.config))
        compared.append(arguments.config)


def _other_report(arguments: argparse.Namespace, certificate: Certificate) -> Iterator[str]:
    from pytest_compsec.signing.report_of_certificate import other_report

    if arguments.report is not None:
        yield from other_report(certificate.statement, Path(arguments.report))


def _tell(
    arguments: argparse.Namespace,
    path: Path,
    certificate: Certificate | None,
    reasons: list[str],
    compared: list[str],
) -> int:
    from pytest_compsec.signing.telling import told_lines, told_of

    if arguments.json:
        data = {"certificate": str(path), "verified": not reasons, "reasons": reasons}
        if certificate is not None:
            data |= {
                **told_of(certificate),
                "compared_with": compared,
                "compared_with_report": arguments.report,
            }
        print(json.dumps(data, indent=2))
        return 1 if reasons else 0
    # Refusals come first: whoever reads no further must not have read PASSED.
    for reason in reasons:
        print(f"compsec: {path}: refused: {reason}", file=sys.stderr, flush=True)
    if certificate is not None and reasons:
        print(f"{path}: REFUSED. The certificate itself says:")
        print("\n".join(f"  {line}" for line in told_lines(certificate)))
    elif certificate is not None:
        print("\n".join(told_lines(certificate)))
        if arguments.model is None and arguments.config is None:
            print("compared with no files: name them with --model or --config")
        what = f" and is about {', '.join(compared)}" if compared else ""
        report = f"; {arguments.report} is the report of its run" if arguments.report else ""
        print(f"{path}: verified{what}{report}")
    return 1 if reasons else 0
