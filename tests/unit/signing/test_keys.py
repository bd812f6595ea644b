"""Keys that sign and verify: each kind, made here and by openssl, and every way to be refused."""

from __future__ import annotations

import datetime
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from pytest_compsec.errors import CompsecError, MissingExtraError
from pytest_compsec.signing import keys

MESSAGE = b"what is signed"
OPENSSL = shutil.which("openssl")
KINDS = ("p256", "p384", "p521", "ed25519", "rsa")


def new_key(kind: str) -> Any:
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    return ec.generate_private_key(curves[kind])


def write_private(path: Path, key: Any, password: bytes | None = None) -> Path:
    locked = BestAvailableEncryption(password) if password else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    return path


def write_public(path: Path, key: Any) -> Path:
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(pem)
    return path


@pytest.fixture(scope="module")
def pairs() -> dict[str, Any]:
    return {kind: new_key(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_key_signs_only_its_public_key_verifies(
    kind: str, pairs: dict[str, Any], tmp_path: Path
) -> None:
    private = keys.load_private_key(write_private(tmp_path / "key.pem", pairs[kind]))
    public = keys.load_public_key(write_public(tmp_path / "pub.pem", pairs[kind]))
    signature = keys.sign(private, MESSAGE)
    keys.verify(public, signature, MESSAGE)
    flipped = bytes([signature[0], signature[1] ^ 1, *signature[2:]])
    for wrong in (flipped, b"", signature[:-1], signature + b"\0"):
        with pytest.raises(keys.SignatureRefused, match="not that of this key"):
            keys.verify(public, wrong, MESSAGE)
    with pytest.raises(keys.SignatureRefused):
        keys.verify(public, signature, MESSAGE + b".")
    for other in KINDS:
        with pytest.raises(keys.SignatureRefused):
            keys.verify(new_key(other).public_key(), signature, MESSAGE)


@pytest.mark.parametrize(
    ("kind", "digest"), [("p256", "sha256"), ("p384", "sha384"), ("p521", "sha512")]
)
def test_a_curve_signs_with_its_own_hash(
    kind: str, digest: str, pairs: dict[str, Any]
) -> None:  # fmt: skip
    algorithm: Any = getattr(hashes, digest.upper())
    public = pairs[kind].public_key()
    public.verify(keys.sign(pairs[kind], MESSAGE), MESSAGE, ec.ECDSA(algorithm()))


@pytest.mark.skipif(OPENSSL is None, reason="no openssl command here")
@pytest.mark.parametrize(
    "command",
    [
        "ecparam -name prime256v1 -genkey",
        "ecparam -name secp384r1 -genkey -noout",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521",
        "genpkey -algorithm ed25519",
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        "genrsa -traditional 2048",
    ],
)
def test_keys_made_by_openssl_load_and_openssl_verifies_what_they_sign(
    command: str, tmp_path: Path
) -> None:
    def openssl(*arguments: str) -> bytes:
        assert OPENSSL is not None
        return subprocess.run([OPENSSL, *arguments], check=True, capture_output=True).stdout

    path, public = tmp_path / "key.pem", tmp_path / "pub.pem"
    path.write_bytes(openssl(*command.split()))
    public.write_bytes(openssl("pkey", "-in", str(path), "-pubout"))
    key = keys.load_private_key(path)
    signature = keys.sign(key, MESSAGE)
    keys.verify(keys.load_public_key(public), signature, MESSAGE)
    (tmp_path / "sig").write_bytes(signature)
    (tmp_path / "message").write_bytes(MESSAGE)
    files = ("-pubin", "-inkey", str(public), "-in", str(tmp_path / "message"), "-sigfile",
             str(tmp_path / "sig"))  # fmt: skip
    how = ["-rawin"]
    if "ecparam" in command or "EC" in command:
        how += ["-digest", {"prime": "sha256", "secp3": "sha384"}.get(command[14:19], "sha512")]
    if "rsa" in command.lower():
        how += ["-digest", "sha256", "-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt",
                "rsa_pss_saltlen:digest"]  # fmt: skip
    assert b"Verified Successfully" in openssl("pkeyutl", "-verify", *files, *how)


def test_a_password_is_asked_for_and_must_fit(
    pairs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_private(tmp_path / "key.pem", pairs["p256"], b"open sesame")
    assert keys.load_private_key(path, b"open sesame")
    with pytest.raises(CompsecError, match="has a password: set COMPSEC_SIGN_PASSWORD"):
        keys.load_private_key(path)
    with pytest.raises(CompsecError, match="another password"):
        keys.load_private_key(path, b"wrong")
    plain = write_private(tmp_path / "plain.pem", pairs["p256"])
    with pytest.raises(CompsecError, match="has no password: unset COMPSEC_SIGN_PASSWORD"):
        keys.load_private_key(plain, b"open sesame")
    monkeypatch.setenv("COMPSEC_SIGN_PASSWORD", "")
    assert keys.password_from_environment() is None
    monkeypatch.setenv("COMPSEC_SIGN_PASSWORD", "open sesame")
    assert keys.password_from_environment() == b"open sesame"


def certificate(key: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a signer")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=365))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


def test_a_certificate_stands_for_its_key(pairs: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "cert.pem"
    path.write_bytes(certificate(pairs["p256"]))
    found = keys.load_public_key(path)
    assert keys.public_pem(found) == keys.public_pem(pairs["p256"].public_key())
    keys.verify(found, keys.sign(pairs["p256"], MESSAGE), MESSAGE)
    path.write_bytes(certificate(pairs["p256"]).replace(b"M", b"N"))
    with pytest.raises(CompsecError, match="not a public key or certificate"):
        keys.load_public_key(path)


def test_the_hint_is_the_digest_of_the_public_pem(pairs: dict[str, Any], tmp_path: Path) -> None:
    import hashlib

    path = write_public(tmp_path / "pub.pem", pairs["ed25519"])
    hint = hashlib.sha256(path.read_bytes()).hexdigest()
    assert keys.key_hint(keys.load_public_key(path)) == hint


@pytest.mark.parametrize("made", ["dsa", "ed448", "rsa1024", "secp192r1"])
def test_other_and_weak_keys_are_refused(made: str, tmp_path: Path) -> None:
    weak: Any = {
        "dsa": lambda: dsa.generate_private_key(key_size=2048),
        "ed448": ed448.Ed448PrivateKey.generate,
        "rsa1024": lambda: rsa.generate_private_key(public_exponent=65537, key_size=1024),
        "secp192r1": lambda: ec.generate_private_key(ec.SECP192R1()),
    }[made]
    try:
        key = weak()
    except Exception:
        pytest.skip("this version of cryptography does not make such keys")
    message = "too weak" if made in ("rsa1024", "secp192r1") else "elliptic curve, Ed25519 or RSA"
    with pytest.raises(CompsecError, match=message):
        keys.load_private_key(write_private(tmp_path / "key.pem", key))
    with pytest.raises(CompsecError, match=message):
        keys.load_public_key(write_public(tmp_path / "pub.pem", key))


def test_files_that_are_no_keys_are_named(pairs: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CompsecError, match=r"absent\.pem: cannot be read"):
        keys.load_private_key(tmp_path / "absent.pem")
    with pytest.raises(CompsecError, match=r"absent\.pem: cannot be read"):
        keys.load_public_key(tmp_path / "absent.pem")
    (tmp_path / "text.pem").write_text("hello", encoding="utf-8")
    with pytest.raises(CompsecError, match="not a private key in PEM form"):
        keys.load_private_key(tmp_path / "text.pem")
    with pytest.raises(CompsecError, match="not a public key or certificate in PEM form"):
        keys.load_public_key(tmp_path / "text.pem")
    private = write_private(tmp_path / "key.pem", pairs["p256"])
    with pytest.raises(CompsecError, match="a private key, which stays with whoever signs"):
        keys.load_public_key(private)
    with pytest.raises(CompsecError, match="not a private key in PEM form"):
        keys.load_private_key(write_public(tmp_path / "pub.pem", pairs["p256"]))


def test_without_the_library_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    with pytest.raises(MissingExtraError, match=r'pip install "pytest-compsec\[sign\]"'):
        keys.load_private_key(tmp_path / "key.pem")


def test_a_file_with_two_keys_does_not_say_which_one_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = new_key("ed25519"), new_key("p256")
    private = [write_private(tmp_path / f"{at}.pem", key) for at, key in enumerate((first, second))]
    public = [write_public(tmp_path / f"{at}.pub", key) for at, key in enumerate((first, second))]
    both = tmp_path / "both"
    both.write_bytes(b"".join(path.read_bytes() for path in private))
    with pytest.raises(CompsecError, match="holds 2 keys, and which of them is meant"):
        keys.load_private_key(both)
    both.write_bytes(b"".join(path.read_bytes() for path in public))
    with pytest.raises(CompsecError, match="holds 2 keys, and which of them is meant"):
        keys.load_public_key(both)


def test_a_password_need_not_be_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_private(tmp_path / "key.pem", new_key("p256"), b"caf\xe9")
    monkeypatch.setenv(keys.PASSWORD_VARIABLE, "caf\udce9")
    assert keys.load_private_key(path, keys.password_from_environment())
