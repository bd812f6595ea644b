"""The judge that ``compsec.yaml`` names: who it is (for the lock), and the judge itself.

:func:`identify` needs no model in memory, so that ``compsec pin`` and ``compsec verify`` say with
it what :func:`make_judge` will later compare.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.config.judges import (
    ClassifierOptions,
    GenerativeOptions,
    KeywordOptions,
    ReplyOptions,
    template_text,
)
from pytest_compsec.errors import CompsecError, ConfigError
from pytest_compsec.models.agreement import tool_version
from pytest_compsec.models.arm import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_compsec.config.loading import LoadedConfig
    from pytest_compsec.generation.cache import ResponseCache
    from pytest_compsec.judges.base import Judge
    from pytest_compsec.judges.keywords import KeywordJudge
    from pytest_compsec.judges.replies import Questioner
    from pytest_compsec.models.arm import Arm
    from pytest_compsec.models.loaded import LoadedModel
    from pytest_compsec.models.verified import VerifiedInputs
    from pytest_compsec.prompts import PromptSet

#: Distributions whose versions are part of a model judge's digest.
TOOLS = ("tokenizers", "torch", "transformers")


@dataclasses.dataclass(frozen=True)
class JudgeIdentity:
    """Name, version and digest as the judge itself has them; ``tools`` (versions) are covered by
    the digest; ``note`` says what cannot be pinned."""

    name: str
    version: str
    digest: str
    tools: Mapping[str, str] = dataclasses.field(default_factory=dict)
    note: str | None = None


def identify(loaded: LoadedConfig, tree: str | None = None) -> JudgeIdentity:
    """The identity of the config's judge. ``tree`` is the digest of its files if it has some.

    Raises ConfigError when a file of phrases or a template cannot be read.
    """
    entry = loaded.config.judge
    if entry.refusal is not None:
        from pytest_compsec.judges.refusal import RefusalJudge

        builtin = RefusalJudge()
        return JudgeIdentity(builtin.name, builtin.version, builtin.digest)
    if entry.keywords is not None:
        keywords = _keyword_judge(loaded, entry.keywords, {})
        return JudgeIdentity(keywords.name, keywords.version, keywords.digest)
    if entry.endpoint is not None:
        from pytest_compsec.judges.endpoint import UNPINNED, EndpointJudge

        settings = {
            "url": entry.endpoint.url,
            "model": entry.endpoint.model,
            **_reply_settings(loaded, entry.endpoint),
        }
        return _identity(EndpointJudge, settings, note=UNPINNED)
    if entry.plugin is not None:
        foreign = _foreign_judge(loaded)
        return JudgeIdentity(foreign.name, foreign.version, foreign.digest)
    options = entry.model
    assert options is not None
    assert tree is not None
    settings = {"tree": tree, "dtype": options.dtype}
    if isinstance(options, ClassifierOptions):
        from pytest_compsec.judges.classifier import ClassifierJudge

        settings |= {
            "refusal_label": sorted(options.refusal_label),
            "threshold": options.threshold,
            "template": _template(loaded, options.template),
        }
        return _identity(ClassifierJudge, settings, tools=_tools(options.source))
    from pytest_compsec.judges.generative import GenerativeJudge

    assert isinstance(options, GenerativeOptions)
    settings |= _reply_settings(loaded, options)
    return _identity(GenerativeJudge, settings, tools=_tools(options.source))


def make_judge(
    loaded: LoadedConfig,
    inputs: VerifiedInputs,
    *,
    load: Callable[[Arm], LoadedModel],
    cache: ResponseCache | None = None,
) -> Judge:
    """The config's judge, compared with the lock, its files verified and staged but not loaded.

    ``load`` opens a generative judge when it is first asked (the pool's ``get``). With a cache,
    judges that are slow keep their outcomes in it.

    Raises IntegrityError when judge, files or library versions are not what the lock pins,
    ConfigError when the config does not fit the judge's files or the prompts.
    """
    entry = loaded.config.judge
    arm = _arm(loaded, inputs)
    identity = identify(loaded, arm.files.tree if arm is not None else None)
    inputs.check_judge(identity.name, identity.version, identity.digest, identity.tools)
    judge: Judge
    if entry.plugin is not None:
        return _foreign_judge(loaded)
    if entry.refusal is not None:
        from pytest_compsec.judges.refusal import RefusalJudge

        return RefusalJudge()
    if entry.keywords is not None:
        own = prompt_keywords(_prompt_sets(loaded, inputs)) if entry.keywords.per_prompt else {}
        return _keyword_judge(loaded, entry.keywords, own)
    if entry.endpoint is not None:
        from pytest_compsec.judges.endpoint import EndpointJudge

        judge = EndpointJudge(
            entry.endpoint,
            questioner=_questioner(loaded, entry.endpoint),
            digest=identity.digest,
        )
    elif entry.classifier is not None:
        from pytest_compsec.judges.classifier import ClassifierJudge

        assert arm is not None
        check_labels(loaded, arm.files.directory)
        judge = ClassifierJudge(
            entry.classifier,
            arm,
            template=_template(loaded, entry.classifier.template),
            digest=identity.digest,
        )
    else:
        from pytest_compsec.judges.generative import GenerativeJudge

        assert arm is not None
        assert entry.generative is not None
        judge = GenerativeJudge(
            entry.generative,
            arm,
            questioner=_questioner(loaded, entry.generative),
            load=load,
            digest=identity.digest,
        )
    if cache is None:
        return judge
    from pytest_compsec.judges.cached import CachedJudge

    return CachedJudge(judge, cache, _computed_in(arm))


def _foreign_judge(loaded: LoadedConfig) -> Judge:
    from pytest_compsec.extensions import judge_kinds

    entry = loaded.config.judge
    assert entry.plugin is not None
    try:
        return judge_kinds()[entry.name].judge(entry.plugin, loaded.root)
    except CompsecError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{loaded.where('judge', entry.name)}: the judge {entry.name!r} broke: "
            f"{type(error).__name__}: {error}"
        ) from error


def check_labels(loaded: LoadedConfig, directory: Path) -> None:
    """Raise ConfigError when a classifier in ``directory`` lacks a label that the config names;
    nothing for other judges."""
    options = loaded.config.judge.classifier
    if options is None:
        return
    from pytest_compsec.judges.classifier import refusal_indices
    from pytest_compsec.models.devices import read_config

    where = loaded.where("judge", "classifier", "refusal_label")
    refusal_indices(read_config(directory), options.refusal_label, where)


def prompt_keywords(sets: Mapping[str, PromptSet]) -> dict[str, tuple[str, ...]]:
    """Text of a prompt -> its own phrases, of all prompts that have some.

    Raises ConfigError when none has, or when two sets give one prompt different phrases.
    """
    own: dict[str, tuple[str, ...]] = {}
    for name, prompts in sets.items():
        for prompt in prompts.prompts:
            if not prompt.refusal_keywords:
                continue
            if own.setdefault(prompt.text, prompt.refusal_keywords) != prompt.refusal_keywords:
                raise ConfigError(
                    f"{prompts.source}: the prompt {prompt.id!r} of {name!r} has other "
                    "refusal_keywords in another prompt set. Give it the same in both"
                )
    if not own:
        raise ConfigError(
            "judge.keywords: per_prompt is on, and no prompt of any set under 'prompts' has "
            "'refusal_keywords'. Add the column to a prompt file, or leave per_prompt out"
        )
    return own


def _prompt_sets(loaded: LoadedConfig, inputs: VerifiedInputs) -> dict[str, PromptSet]:
    return {name: inputs.prompt_set(name) for name in loaded.config.prompts}


def _arm(loaded: LoadedConfig, inputs: VerifiedInputs) -> Arm | None:
    """The judge's verified files as an arm, so that the loading room can open them."""
    from pytest_compsec.models.arm import Arm

    options = loaded.config.judge.model
    if options is None:
        return None
    return Arm(
        model=f"judge {loaded.config.judge.name}",
        variant=None,
        files=inputs.judge_files(),
        dtype=options.dtype,
        device=options.device,
    )


def _computed_in(arm: Arm | None) -> list[str]:
    """What beside the digest decides the last bits of a model's outcome."""
    if arm is None:
        return []
    from pytest_compsec.models.devices import device_kind, pick_device, resolve_dtype

    device = pick_device(arm.device)
    return [device_kind(device), resolve_dtype(arm, device)]


def _keyword_judge(
    loaded: LoadedConfig, options: KeywordOptions, own: Mapping[str, tuple[str, ...]]
) -> KeywordJudge:
    from pytest_compsec.judges.keywords import KeywordJudge, builtin_phrases, read_phrases

    phrases = options.phrases
    if options.file is not None:
        phrases = read_phrases(_read(loaded, options.file))
    try:
        return KeywordJudge(
            builtin_phrases() if phrases is None else phrases,
            per_prompt=options.per_prompt,
            own=own,
        )
    except ValueError as error:
        raise ConfigError(f"{loaded.where('judge', 'keywords')}: {error}") from None


def _read(loaded: LoadedConfig, file: str) -> str:
    path = loaded.root / Path(file).expanduser()
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}:1: cannot be read as UTF-8 text ({error})") from None


def _template(loaded: LoadedConfig, template: str | None) -> str | None:
    if template is None:
        return None
    try:
        return template_text(template, loaded.root)
    except (OSError, UnicodeDecodeError) as error:
        where = loaded.where("judge", loaded.config.judge.name, "template")
        raise ConfigError(f"{where}: {template!r} cannot be read ({error})") from None


def _questioner(loaded: LoadedConfig, options: ReplyOptions) -> Questioner:
    from pytest_compsec.judges.replies import questioner_of

    return questioner_of(options, lambda template: str(_template(loaded, template)))


def _reply_settings(loaded: LoadedConfig, options: ReplyOptions) -> dict[str, Any]:
    return {
        "question": _questioner(loaded, options).template,
        "refusal_when": options.refusal_when,
        "answered_when": options.answered_when,
        "max_new_tokens": options.max_new_tokens,
    }


def _identity(
    judge: Any,
    settings: Mapping[str, Any],
    *,
    tools: Mapping[str, str] | None = None,
    note: str | None = None,
) -> JudgeIdentity:
    versions = dict(tools or {})
    digest = digest_of([judge.name, judge.version, dict(settings), versions])
    return JudgeIdentity(judge.name, judge.version, digest, versions, note)


def _tools(source: str) -> dict[str, str]:
    names = (*TOOLS, "gguf") if source.lower().endswith(".gguf") else TOOLS
    versions = {name: tool_version(name) for name in sorted(names)}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        raise CompsecError(f"the judge needs {missing[0]!r}: pip install {missing[0]}")
    # What follows a plus sign says for which device torch was built, not what it computes.
    return {name: str(version).partition("+")[0] for name, version in versions.items()}
