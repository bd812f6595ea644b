"""The identity under which an arm's answers are cached.

Whatever may change an answer is in it, so two different models, or one model asked in two ways,
never share an entry. The prompt is added by the cache itself.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable

from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.models.arm import Arm, digest_of
from pytest_compsec.models.devices import device_kind

# Raise it whenever loading, rendering or decoding in this package changes any answer.
ANSWERS_VERSION = 3
# The same for requests to servers and the reading of their replies.
SERVED_ANSWERS_VERSION = 1

# Installed versions of whatever takes part in turning files into answers. Optional ones count even
# where an arm does not need them: a cache that is too careful costs time, one too lax a verdict.
DISTRIBUTIONS = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "jinja2",
    "bitsandbytes",
    "kernels",
    "gguf",
    "peft",
    "llama-cpp-python",
    "hqq",
    "torchao",
    "compressed-tensors",
    "gptqmodel",
    "optimum",
)


def generation_identity(arm: Arm, *, device: str, dtype: str, settings: GenerationSettings) -> str:
    """sha256 (hex) over everything but the prompt that decides an answer.

    That is: weights (files with template and tokenizer, adapter, recipe and its tools), system
    prompt, template arguments, the limit of new tokens, the float type, the kind of device (not
    its index) and the versions of the libraries; of an arm in llama.cpp also what that was built
    for and the processor features that it uses. ``settings.batch_size`` is left out: it was often
    found from free memory, and would make a cache useless after an interruption.

    Of a served model: its pin (URL, name, what the server says of itself, seed) and how it is
    asked. What is installed here does not answer; what changes behind the URL without the server
    saying so is not seen.
    """
    if arm.served is not None:
        return _served_identity(arm, settings)
    runtime = {}
    if arm.runtime is not None:
        from pytest_compsec.models.llama_cpp import runtime_facts

        runtime = {"runtime": dict(runtime_facts(arm))}
    # The same answers up to ties, and ties may decide a verdict.
    drafted = {"drafts": "on"} if settings.drafts == "on" and arm.variant is not None else {}
    return digest_of(
        {
            **runtime,
            **drafted,
            "answers_version": ANSWERS_VERSION,
            "weights": arm.weights_digest,
            "entry": arm.files.entry,
            "system": arm.system,
            "chat_template_kwargs": dict(arm.chat_template_kwargs),
            "max_new_tokens": settings.max_new_tokens,
            "dtype": dtype,
            "device": device_kind(device),
            "versions": installed_versions(),
        }
    )


def _served_identity(arm: Arm, settings: GenerationSettings) -> str:
    return digest_of(
        {
            "served_answers_version": SERVED_ANSWERS_VERSION,
            "weights": arm.weights_digest,
            "system": arm.system,
            "chat_template_kwargs": dict(arm.chat_template_kwargs),
            "max_new_tokens": settings.max_new_tokens,
        }
    )


def installed_versions() -> dict[str, str | None]:
    """Version of each of :data:`DISTRIBUTIONS`, None where it is not installed."""
    return {name: _version(name, importlib.metadata.version) for name in DISTRIBUTIONS}


# Looking for a distribution reads directories, and every fact that a suite recalls asks for all of
# them; what a process imports does not change while it runs.
@functools.lru_cache(maxsize=256)
def _version(name: str, look_up: Callable[[str], str]) -> str | None:
    try:
        return look_up(name)
    except importlib.metadata.PackageNotFoundError:
        return None
