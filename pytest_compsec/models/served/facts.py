"""What a server says of the model that it runs, and whether it still says it.

Only what stays the same while the server runs the same model is taken: ``created`` of most servers
is the time of the question, and other fields say how the server was started, not with what. None of
it is proof: a server says what it was told to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import IntegrityError
from pytest_compsec.models.served.requests import RefusedError

if TYPE_CHECKING:
    from pytest_compsec.models.served.pin import EndpointPin
    from pytest_compsec.models.served.requests import ChatServer

#: One token of an answer to this says which model answers.
CANARY = ({"role": "user", "content": "Hello"},)
FINGERPRINT = "system_fingerprint"
REVISION = "revision"

#: Of an entry of ``GET /models``: the name, who made the server, and what it loaded (vLLM, SGLang).
_OF_ENTRY = ("id", "owned_by", "root")
#: Of ``meta`` in an entry of llama.cpp's server: what its file holds.
_OF_META = ("n_params", "n_vocab", "n_embd", "size")
#: vLLM that was given a directory of the hub's cache names the commit in its path.
_SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})(/|$)")
_PIN_AGAIN = "If the change is wanted, run `compsec pin` and review the lock's change"


def pinned_facts(server: ChatServer) -> tuple[dict[str, str], tuple[str, ...]]:
    """All stable facts, to be pinned, and notes on what the server does not tell.

    Raises IntegrityError when it answers for another model than it was asked for, or runs another
    revision than the config names; what :class:`ChatServer` raises.
    """
    try:
        facts = _listed(server)
    except RefusedError:  # no list, or one that fails: `transformers serve` without a hub cache
        facts = {}
    notes = []
    first, second = _answered(server), _answered(server)
    if first == second:
        facts |= first
    elif FINGERPRINT in first or FINGERPRINT in second:
        notes.append("its system_fingerprint changes from answer to answer, so it is not pinned")
    facts |= _beside(server, facts)
    pin = server.served.pin
    _require_revision(server.label, pin, facts)
    if pin.revision is not None and REVISION not in facts:
        notes.append(f"it does not say which revision it runs: {pin.revision!r} is not compared")
    if not {*facts} - {"id", "owned_by"}:
        notes.append("it tells nothing of its model but the name")
    return facts, tuple(notes)


def compare(server: ChatServer) -> None:
    """Ask the server what it is, and hold that against the pin.

    Raises IntegrityError that names both where it is another model; what :class:`ChatServer`
    raises where it gives no answer.
    """
    pin = server.served.pin
    found = _listed(server) if {*pin.facts} - {FINGERPRINT} else {}
    if pin.facts.get("id") is not None and "id" not in found:
        raise IntegrityError(
            f"{server.label}: {pin.url} does not list the model {pin.model!r} any more, the lock "
            f"pins it as listed. {_PIN_AGAIN}"
        )
    found |= _answered(server)
    if {*pin.facts} - {*found}:
        found |= _beside(server, {**found, **pin.facts})
    require_same(server.label, pin, found, pin.facts)
    _require_revision(server.label, pin, found)


def require_same(
    label: str, pin: EndpointPin, found: Mapping[str, str], pinned: Mapping[str, str]
) -> None:
    """Raise IntegrityError unless what was found is what is pinned."""
    for name, value in pinned.items():
        if found.get(name) != value:
            now = "nothing" if found.get(name) is None else repr(found[name])
            raise IntegrityError(
                f"{label}: {pin.url} gives {now} as {name} of {pin.model!r}, the lock pins "
                f"{value!r}: this is another model or another server. {_PIN_AGAIN}"
            )


def require_model(label: str, pin: EndpointPin, reply: Mapping[str, Any]) -> None:
    """Raise IntegrityError unless a reply comes from the pinned model, with its fingerprint."""
    answered = reply.get("model")
    if answered != pin.model:
        raise IntegrityError(
            f"{label}: {pin.url} was asked for {pin.model!r} and answered as {answered!r}. Serve "
            "the model that is meant, or name the other one as 'model' and run `compsec pin`"
        )
    pinned = pin.facts.get(FINGERPRINT)
    if pinned is not None:
        require_same(label, pin, _fingerprint(reply), {FINGERPRINT: pinned})


def _answered(server: ChatServer) -> dict[str, str]:
    """What one answer says; the model must be the one that was asked for."""
    reply = server.complete(CANARY, max_tokens=1, extra={})
    require_model(server.label, server.served.pin, reply)
    return _fingerprint(reply)


def _fingerprint(reply: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in _texts(reply, (FINGERPRINT,)).items() if value}


def _listed(server: ChatServer) -> dict[str, str]:
    """The model's entry of ``GET /models``; nothing where it is not listed."""
    data = server.models().get("data")
    entries = [one for one in data if isinstance(one, Mapping)] if isinstance(data, list) else []
    entry = next((one for one in entries if one.get("id") == server.served.pin.model), None)
    return {} if entry is None else entry_facts(entry)


def entry_facts(entry: Mapping[str, Any]) -> dict[str, str]:
    """The stable facts of one entry of ``GET /models``."""
    facts = _texts(entry, _OF_ENTRY)
    meta = entry.get("meta")
    if isinstance(meta, Mapping):
        facts |= _texts(meta, _OF_META)
    found = _SNAPSHOT.search(facts.get("root", ""))
    if found is not None:
        facts[REVISION] = found.group(1)
    return facts


def _beside(server: ChatServer, facts: Mapping[str, str]) -> dict[str, str]:
    """What some servers say beside the protocol: TGI's commit, Ollama's digest of the model."""
    model = server.served.pin.model
    if facts.get("owned_by") == model:  # TGI puts the model's name there
        said = server.beside("/info")
        sha = _texts(said, ("model_sha",)).get("model_sha") if isinstance(said, Mapping) else None
        return {REVISION: sha} if sha else {}
    if facts.get(FINGERPRINT) == "fp_ollama":
        said = server.beside("/api/tags")
        models = said.get("models") if isinstance(said, Mapping) else None
        for one in models if isinstance(models, list) else []:
            names = {one.get("name"), one.get("model")} if isinstance(one, Mapping) else set()
            if names & {model, f"{model}:latest"}:
                return _texts(one, ("digest",))
    return {}


def _texts(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    known = {name: values.get(name) for name in names}
    texts = {name: str(value) for name, value in known.items() if isinstance(value, (str, int))}
    # They are shown and committed: nothing that a terminal would obey, no essays.
    return {name: text for name, text in texts.items() if text.isprintable() and len(text) <= 400}


def _require_revision(label: str, pin: EndpointPin, found: Mapping[str, str]) -> None:
    said = found.get(REVISION)
    if pin.revision is not None and said is not None and not said.startswith(pin.revision):
        raise IntegrityError(
            f"{label}: {pin.url} runs revision {said} of {pin.model!r}, compsec.yaml names "
            f"{pin.revision}"
        )
