"""What of an arm a certificate can name: its pinned files, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.models.arm import digest_of

if TYPE_CHECKING:
    from pytest_compsec.models.arm import Arm

#: Of a model directory and of an adapter on top of it, where an arm has both; as
#: ``compsec export`` lays them out.
MODEL, ADAPTER = "model/", "adapter/"
#: Roles of files that hold weights.
WEIGHTS = ("weights", "adapter")


def artefact_facts(arm: Arm) -> dict[str, Any]:
    """JSON-safe. ``files`` are ``{path, sha256, size, role}``, as the lock pins them: those of the
    arm itself, none of a ``derived`` one (a recipe makes it) or of one that a server answers for.
    ``asked_with`` is the sha256 (hex) of the system prompt and the template's arguments, ``code``
    that of the code that makes the module."""
    own = arm.recipe is None and arm.served is None
    return {
        "source": arm.files.provenance.get("source"),
        "derived": arm.recipe is not None,
        "files": _files(arm) if own else [],
        "asked_with": digest_of([arm.system, dict(arm.chat_template_kwargs)]),
        "code": arm.code.digest if arm.code is not None else None,
    }


def weights_in(facts: object) -> frozenset[str]:
    """sha256 (hex) of the files of weights in what :func:`artefact_facts` gave; none of anything
    else."""
    files = facts.get("files") if isinstance(facts, Mapping) else None
    return frozenset(
        file["sha256"] for file in files or () if file["role"] in WEIGHTS and file["sha256"]
    )


def _files(arm: Arm) -> list[dict[str, Any]]:
    model = list(arm.files.provenance.get("files", ()))
    if arm.adapter is None:
        return model
    adapter = arm.adapter.provenance.get("files", ())
    return [
        *({**file, "path": f"{MODEL}{file['path']}"} for file in model),
        *({**file, "path": f"{ADAPTER}{file['path']}"} for file in adapter),
    ]
