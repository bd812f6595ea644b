"""What a file in a model directory is for, by its name and first bytes, and which are refused.

Pickles run code when they are opened (CVE-2025-32434, CVE-2026-24747), Python files run through
``trust_remote_code``: neither is ever loaded, so a directory that holds one is refused whole.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

Role = Literal["weights", "adapter", "config", "tokenizer", "template", "code", "other"]
ROLES: tuple[Role, ...] = ("weights", "adapter", "config", "tokenizer", "template", "code", "other")

#: Enough of a file for every check in :func:`refused_content`.
HEAD_BYTES = 512
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MAX_LFS_POINTER_BYTES = 1024


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WEIGHTS = (".safetensors", ".gguf")
_CODE = _words(".py .pyc .pyo .pyx .pyi .pyd .pyz .so .dll .dylib .sh .bash .bat .cmd .exe .ipynb")
_PICKLES = _words(
    ".bin .pt .pth .ckpt .pkl .pickle .dill .joblib .msgpack .h5 .hdf5 .keras .npy .npz .ot "
    ".nemo .mar .zip .tar .tgz .gz .xz .bz2 .7z"
)
_TOKENIZER_NAMES = _words(
    "tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json "
    "vocab.txt merges.txt tekken.json"
)
_TOKENIZER_SUFFIXES = (".model", ".tiktoken", ".vocab")
_PICKLE_MAGIC = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))


def role_of(name: str, *, adapter: bool = False) -> Role:
    """The role of a file by its relative name; ``adapter`` when it is in an adapter directory."""
    base = PurePosixPath(name).name.lower()
    suffix = PurePosixPath(base).suffix
    if suffix in _WEIGHTS:
        return "adapter" if adapter else "weights"
    if suffix == ".py":
        return "code"
    if suffix == ".jinja" or base == "chat_template.json":
        return "template"
    if base in _TOKENIZER_NAMES or suffix in _TOKENIZER_SUFFIXES:
        return "tokenizer"
    return "config" if suffix == ".json" else "other"


def refused_name(name: str) -> str | None:
    """Why no file of this name may be in a model directory, or None."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in _CODE:
        return (
            "is code, and code that comes with a model is never run (trust_remote_code is always "
            "off). Remove it; a model that needs it cannot be tested"
        )
    if suffix in _PICKLES:
        return (
            f"a {suffix} file can run code when it is opened. Convert the weights to safetensors "
            "(`save_pretrained` with transformers does) and remove it"
        )
    return None


def refused_content(role: Role, name: str, size: int, head: bytes) -> str | None:
    """Why these bytes may not be opened, or None. ``head`` is the first ``HEAD_BYTES``."""
    if size <= MAX_LFS_POINTER_BYTES and head.startswith(LFS_POINTER):
        return (
            "is a git-LFS pointer, a text of a few lines that stands where the real file should "
            "be. Run `git lfs pull` in that repository, or download the model again"
        )
    if role in ("weights", "adapter") and size == 0:
        return "is empty: the download was interrupted. Download it again"
    if name.lower().endswith(".safetensors") and _is_safetensors(size, head):
        return None  # its header's length may look like a pickle's first bytes
    kind = _disguise(head)
    if kind is not None:
        return (
            f"begins with the bytes of a {kind}, whatever its name says, and could run code when "
            "it is opened. Convert the weights to safetensors"
        )
    return None


def _is_safetensors(size: int, head: bytes) -> bool:
    length = int.from_bytes(head[:8], "little")
    return len(head) > 8 and head[8:9] == b"{" and length <= size - 8


def _disguise(head: bytes) -> str | None:
    if head.startswith(_PICKLE_MAGIC):
        return "pickle"
    if head.startswith(b"PK\x03\x04"):
        return "zip archive (as PyTorch's pickled checkpoints are)"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "HDF5 file"
    if head[257:262] == b"ustar":
        return "tar archive"
    return None
