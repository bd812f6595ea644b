"""Hugging Face hub sources: one commit, only the files that a safe loader needs.

``huggingface_hub`` does the network and the cache; it honours HF_HOME, HF_ENDPOINT, HF_TOKEN and
HF_HUB_OFFLINE. Pickled weights, code and files in subdirectories are never asked for.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_compsec.errors import CompsecError, ConfigError
from pytest_compsec.models.listing import Location

#: Names at the top of a repository that are fetched: weights, config, tokenizer, template, and the
#: documents that `hf download` of the whole repository would put beside them.
PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "*.md",
            "LICENSE*", "NOTICE*", ".gitattributes")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class HubFiles:
    """A repository at a commit: the names to fetch, and the sha256 (hex) that the hub's LFS store
    gives for some of them."""

    commit: str
    names: tuple[str, ...]
    digests: dict[str, str]


def pinned_snapshot(
    label: str, repository: str, commit: str, names: Sequence[str], file: str | None
) -> Location:
    """The snapshot of a pinned commit in the local cache, completed from the hub if files lack."""
    snapshot = snapshot_path(repository, commit)
    if not all((snapshot / name).exists() for name in names):
        download(repository, commit, names)
    return Location(label, snapshot, only=file, commit=commit)


def snapshot_path(repository: str, commit: str) -> Path:
    """Where the local cache keeps a commit's files."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=repository, repo_type="model")
    return Path(constants.HF_HUB_CACHE).expanduser() / folder / "snapshots" / commit


def is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def download(repository: str, commit: str, names: Sequence[str]) -> Path:
    """Fetch exactly these names at a commit into the local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    silent = are_progress_bars_disabled()
    if not silent:
        disable_progress_bars()
    try:
        with _plain_errors(repository, commit):
            folder = snapshot_download(
                repository, revision=commit, allow_patterns=[_escape(name) for name in names]
            )
    finally:
        if not silent:
            enable_progress_bars()
    return Path(folder)


def _escape(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def repository_files(repository: str, revision: str | None, file: str | None) -> HubFiles:
    """Ask the hub which commit a revision is, what it holds and the digests of its large files.

    Raises ConfigError when the repository has no weights that can be loaded safely.
    """
    from huggingface_hub import HfApi

    with _plain_errors(repository, revision):
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    if not info.sha:
        raise CompsecError(f"{repository}: the hub names no commit for {revision or 'main'}")
    names = choose_names(repository, sorted(siblings), file)
    digests = {name: digest for name in names if (digest := _lfs_digest(siblings[name]))}
    return HubFiles(info.sha, tuple(names), digests)


def _lfs_digest(sibling: Any) -> str | None:
    lfs = sibling.lfs
    if lfs is None:
        return None
    digest = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    return digest if isinstance(digest, str) else None


def choose_names(repository: str, names: Sequence[str], file: str | None) -> list[str]:
    """The files of a repository to fetch. ``file`` is one GGUF file of it, or None."""
    if file is not None:
        if file not in names:
            raise ConfigError(f"{repository}: has no file {file!r} at this revision")
        return [file]
    top = [name for name in names if "/" not in name]
    # Pickles and code match none of the patterns.
    chosen = [name for name in top if any(fnmatch.fnmatch(name, pattern) for pattern in PATTERNS)]
    # Some repositories hold their weights a second time, in the maker's own format.
    if any(fnmatch.fnmatch(name, "model*.safetensors*") for name in chosen):
        chosen = [name for name in chosen if not fnmatch.fnmatch(name, "consolidated*.safetensors")]
    if any(name.endswith(".safetensors") for name in chosen):
        return chosen
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    if ggufs:
        raise ConfigError(
            f"{repository}: holds GGUF files; name one of them: "
            + ", ".join(f"{repository}/{name}" for name in ggufs[:5])
        )
    raise ConfigError(
        f"{repository}: holds no safetensors weights. Pickled weights (.bin, .pt) are never "
        "loaded: convert them to safetensors and use that directory as the source"
    )


@contextmanager
def _plain_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence that says what to do."""
    from huggingface_hub import errors

    where = f"{repository}@{revision or 'main'}"
    try:
        yield
    except errors.GatedRepoError:
        raise CompsecError(
            f"{where}: is gated. Accept its licence on its page and set HF_TOKEN to a token of "
            "that account"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CompsecError(
            f"{where}: the hub knows no such repository, or it is private: check the name, and "
            "set HF_TOKEN if it is private"
        ) from None
    except errors.RevisionNotFoundError:
        raise CompsecError(f"{where}: the repository has no such revision") from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError):
        raise CompsecError(
            f"{where}: is not (or not completely) in the local cache, and the hub cannot be "
            f"reached{' (HF_HUB_OFFLINE is set)' if is_offline() else ''}. Download it once with "
            f"network access: hf download {repository} --revision {revision or 'main'}"
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise CompsecError(
            f"{where}: could not be fetched from {os.environ.get('HF_ENDPOINT') or 'the hub'}: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from None
    except Exception as error:
        # The client's transport has changed between its versions, and with it the errors.
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore", "requests"):
            raise
        raise CompsecError(f"{where}: the hub cannot be reached ({error})") from None


def resolve_commit(repository: str, revision: str | None) -> str:
    """The commit (40 hex) that a revision is now. Raises CompsecError when it cannot be asked."""
    from huggingface_hub import HfApi

    with _plain_errors(repository, revision):
        commit = HfApi().model_info(repository, revision=revision).sha
    if not commit:
        raise CompsecError(f"{repository}: the hub names no commit for {revision or 'main'}")
    return commit
