"""``signature:`` in compsec.yaml: pinned by ``pin``, checked by ``verify`` and by every run."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pytest_compsec.cli import main
from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.models.lock import SourcePin, read_lock
from pytest_compsec.models.oms.signing import sign_model
from pytest_compsec.models.pinning import pin
from pytest_compsec.models.verification import VerificationReport, verify_lock
from tests.unit.models.oms.signers import check, private_pem, public_pem, shards
from tests.unit.models.tiny_files import CONFIG, open_inputs, safetensors, write_suite

KEYED = "original: {source: ./model, signature: {key: ./release.pub}}"
SIGNED = CONFIG.replace("original: {source: ./model}", KEYED)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A suite whose original is signed and says so."""
    path = write_suite(tmp_path, SIGNED)
    (tmp_path / "release.pem").write_bytes(private_pem())
    (tmp_path / "release.pub").write_bytes(public_pem())
    sign_model(tmp_path / "model", tmp_path / "release.pem")
    return path


def verified(config: Path) -> VerificationReport:
    loaded = load_config(config)
    return verify_lock(loaded, read_lock(loaded.lock_path))


def words(report: VerificationReport) -> str:
    return "\n".join(problem.message for problem in report.problems)


def refused(config: Path) -> str:
    """What a run says."""
    with pytest.raises(IntegrityError) as caught, open_inputs(config) as inputs:
        inputs.arm("assistant", None)
    return str(caught.value)


def test_the_lock_pins_the_signature_and_the_key(config: Path) -> None:
    result = pin(config)
    signature = result.lock.models["assistant"].original.signature
    assert signature is not None
    key = hashlib.sha256(public_pem()).hexdigest()
    assert signature.trusted == {"./release.pub": key}
    file = config.parent / "model" / "model.sig"
    assert signature.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert any("signed by" in line and "key ./release.pub" in line for line in result.changes)
    assert pin(config).changes == ()
    assert verified(config).problems == ()
    assert verified(config).notes == ()
    with open_inputs(config) as inputs:
        inputs.arm("assistant", None)
        inputs.arm("assistant", "half")


def test_pin_refuses_files_that_were_not_signed(config: Path) -> None:
    (config.parent / "model" / "model.safetensors").write_bytes(safetensors(b"\x07" * 64))
    with pytest.raises(
        IntegrityError, match=r"(?s)model\.safetensors: is not the.*Nothing was pin"
    ):
        pin(config)
    assert not config.with_name("compsec.lock").exists()
    assert main(["pin", "--config", str(config)]) == 1


def test_another_key_under_the_pinned_name_is_refused(config: Path) -> None:
    pin(config)
    (config.parent / "release.pub").write_bytes(public_pem("stranger"))
    for text in (words(verified(config)), refused(config)):
        assert "./release.pub (trusted to sign ./model): is not what the lock pins" in text
        for name in ("publisher", "stranger"):
            assert hashlib.sha256(public_pem(name)).hexdigest() in text


def test_another_signature_is_refused_though_it_is_a_good_one(config: Path) -> None:
    """Signed anew by the same key: the bytes are others, and only ``compsec pin`` takes them."""
    pin(config)
    sign_model(config.parent / "model", config.parent / "release.pem")
    assert "model.sig: is not what the lock pins" in words(verified(config))
    assert "model.sig: is not what the lock pins" in refused(config)


def test_a_run_verifies_the_signature_and_not_only_the_pins(config: Path) -> None:
    """A lock written by hand, all of whose digests fit, over a model that nobody signed."""
    pin(config)
    weights = config.parent / "model" / "model.safetensors"
    old = hashlib.sha256(weights.read_bytes()).hexdigest()
    content = safetensors(b"\x07" * 64)
    weights.write_bytes(content)
    lock = config.with_name("compsec.lock")
    before = read_lock(lock).models["assistant"].original.files
    assert before is not None
    text = lock.read_text("utf-8").replace(old, hashlib.sha256(content).hexdigest())
    after = SourcePin(
        before.source,
        tuple(
            file.__class__(file.name, hashlib.sha256(content).hexdigest(), file.size, file.role)
            if file.name == weights.name
            else file
            for file in before.files
        ),
    )
    lock.write_text(text.replace(before.tree, after.tree), encoding="utf-8")
    for said in (words(verified(config)), refused(config)):
        assert "model.safetensors: is not the file that was signed (the signature" in said
        assert old in said
    assert main(["verify", "--config", str(config)]) == 1


def test_the_config_cannot_drop_or_change_the_signer_unnoticed(
    config: Path, tmp_path: Path
) -> None:
    pin(config)
    config.write_text(CONFIG, encoding="utf-8")
    message = "the signature of 'assistant' is none, the lock pins key ./release.pub"
    assert message in words(verified(config))
    with pytest.raises(IntegrityError, match="the signature of 'assistant' is none"):
        open_inputs(config)
    (tmp_path / "other.pub").write_bytes(public_pem("other"))
    config.write_text(SIGNED.replace("release", "other"), encoding="utf-8")
    assert "is key ./other.pub, the lock pins key ./release.pub" in words(verified(config))


def test_a_signer_that_the_lock_does_not_list_is_not_taken_on_trust(config: Path) -> None:
    config.write_text(CONFIG, encoding="utf-8")
    pin(config)
    config.write_text(SIGNED, encoding="utf-8")
    assert "is key ./release.pub, the lock pins none" in words(verified(config))


def test_a_signature_that_nobody_asks_for_is_mentioned_and_no_more(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(CONFIG, encoding="utf-8")
    assert main(["pin", "--config", str(config)]) == 0
    mention = "model.sig is there and was not checked"
    assert mention in capsys.readouterr().err
    assert main(["verify", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert f"note: assistant: {mention}" in out
    assert out.count(mention) == 1


def test_a_variant_s_own_source_can_be_signed_too(config: Path) -> None:
    signature = "source: ./other, signature: {key: ./release.pub}"
    config.write_text(SIGNED.replace("source: ./other", signature), encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"other.*model\.sig' cannot be read"):
        pin(config)
    sign_model(config.parent / "other", config.parent / "release.pem")
    assert pin(config).lock.models["assistant"].variants["other"].signature is not None
    with open_inputs(config) as inputs:
        inputs.arm("assistant", "other")
    (config.parent / "release.pub").write_bytes(public_pem("stranger"))
    with pytest.raises(IntegrityError, match="trusted to sign"), open_inputs(config) as inputs:
        inputs.arm("assistant", "other")


def test_two_arms_of_the_same_files_are_each_held_to_their_own_signer(config: Path) -> None:
    """The first check must not answer for the second."""
    root = config.parent
    (root / "second.pub").write_bytes(public_pem())
    second = "source: ./model, signature: {key: ./second.pub}"
    config.write_text(SIGNED.replace("source: ./other", second), encoding="utf-8")
    pin(config)
    (root / "second.pub").write_bytes(public_pem("stranger"))
    with open_inputs(config) as inputs:
        inputs.arm("assistant", None)
        with pytest.raises(IntegrityError, match=r"second\.pub \(trusted to sign"):
            inputs.arm("assistant", "other")


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("{}", "exactly one of 'key', 'certificates' and 'sigstore'; it has none"),
        ("{key: ./release.pub, certificates: [./release.pub]}", "it has 'key' and 'certificates'"),
        ("{key: ./missing.pub}", "'./missing.pub' is no file"),
        ("{certificates: []}", "it has none of them"),
        ("{sigstore: {identity: a@example.org}}", "issuer"),
        ("{keys: ./release.pub}", "did you mean 'key'"),
    ],
)
def test_a_faulty_entry_is_refused(config: Path, signature: str, message: str) -> None:
    config.write_text(SIGNED.replace("{key: ./release.pub}", signature), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(config)


def test_what_has_no_files_of_its_own_cannot_be_signed(config: Path) -> None:
    derived = "{method: magnitude, sparsity: 0.5}, signature: {key: ./release.pub}"
    config.write_text(
        SIGNED.replace("{method: magnitude, sparsity: 0.5}", derived), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="'signature' and 'runtime' belong to a variant with its"):
        load_config(config)
    hub = f"source: org/name, revision: {'a' * 40}, signature"
    config.write_text(SIGNED.replace("source: ./model, signature", hub), encoding="utf-8")
    with pytest.raises(ConfigError, match="Fetch the whole repository"):
        load_config(config)


@pytest.mark.parametrize(
    ("old", "new"),
    [('method = "key"', 'method = "sigstore"'), ('method = "key"', 'method = "trust me"'),
     ('"./release.pub" = "', '"./release.pub" = "x')],
)  # fmt: skip
def test_a_lock_that_does_not_say_whom_to_trust_is_refused(
    config: Path, old: str, new: str
) -> None:
    pin(config)
    lock = config.with_name("compsec.lock")
    text = lock.read_text("utf-8")
    assert old in text
    lock.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match="signature"):
        read_lock(lock)


def test_verify_goes_on_where_a_file_that_is_signed_in_shards_is_gone_or_a_pipe(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = config.parent / "model"
    (model / "model.sig").write_text(shards(model, 16), encoding="utf-8")
    pin(config)
    (model / "model.safetensors").write_bytes(safetensors(b"\x07" * 64))
    (model / "config.json").unlink()
    assert main(["verify", "--config", str(config)]) == 1
    said = capsys.readouterr().out
    assert "config.json: is pinned by the lock and missing" in said
    assert "config.json: cannot be opened (No such file" in said
    assert "model.safetensors: is no longer the pinned file" in said
    os.mkfifo(model / "config.json")
    assert main(["verify", "--config", str(config)]) == 1
    assert "config.json: is no regular file" in capsys.readouterr().out


def test_a_pipe_in_place_of_a_signature_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_bytes(public_pem())
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(60))
    os.mkfifo(tmp_path / "a.gguf.sig")
    with pytest.raises(IntegrityError, match=r"a\.gguf\.sig' is no regular file"):
        check(tmp_path / "a.gguf", key="key.pub")
