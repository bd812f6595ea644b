"""What one arm's files make of a prompt, read through the libraries that load the model.

Two arms are given the same texts and conversations, so the facts of one can be held against those
of the other without either being in memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.template.probes import texts_with
from pytest_compsec.errors import CompsecError, LoadError

if TYPE_CHECKING:
    from pytest_compsec.models.arm import Arm

Encode = Callable[[str], Sequence[int]]

#: Fields of a generation config that say how to compute or what to return, and change no answer.
NO_ANSWERS = frozenset(
    {
        "transformers_version",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "return_dict_in_generate",
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        "low_memory",
        "prefill_chunk_size",
        "remove_invalid_values",
    }
)
#: Of these unless it rounds what it keeps.
_OF_THE_CACHE = frozenset({"cache_implementation", "cache_config"})
#: Files that may hold a template beside the tokenizer's own. Which of them counts is up to the
#: program that serves the model.
_FURTHER_TEMPLATES = ("tokenizer_config.json", "chat_template.json", "processor_config.json")
#: Tokens that a model's config names beside the tokenizer.
CONFIG_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
#: Parts of a tokenizer's file that are settings of a call, or compared by themselves.
_NOT_BEHAVIOUR = frozenset({"version", "truncation", "padding", "added_tokens", "model"})


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """``templates`` by name; ``special`` the named special tokens as (text, id); ``added`` the
    added tokens, id -> (text, special), and ``matching`` how each is found in a text (blanks taken
    in on the left and right, whole words only, before the text is normalized); ``vocabulary``
    token -> id; ``merges`` in their order (None: the tokenizer has none); ``sections`` of the
    tokenizer's own description, canonical JSON (of a GGUF file, ``from_gguf``, as it was made up
    when the file was opened); ``generation``
    settings that change answers, ``config_tokens`` those of the model's config. ``settings`` are
    padding side and the like; ``longest`` is the tokenizer's ``model_max_length``."""

    tokenizer: Any
    encode: Encode
    templates: Mapping[str, str]
    special: Mapping[str, tuple[str, int | None]]
    added: Mapping[int, tuple[str, bool]]
    matching: Mapping[int, str]
    vocabulary: Mapping[str, int]
    merges: tuple[tuple[str, str], ...] | None
    sections: Mapping[str, str]
    from_gguf: bool
    generation: Mapping[str, Any]
    config_tokens: Mapping[str, Any]
    settings: Mapping[str, str]
    longest: int | None

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, special tokens in it as the tokenizer reads them, none added."""
        return tuple(self.encode(text))

    def plain_ids(self, text: str) -> tuple[int, ...]:
        """As :meth:`ids`, by the files' tokenizer even where another runtime reads prompts."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def ids_with_added(self, text: str) -> tuple[int, ...]:
        """Token ids as for a plain text, with the special tokens that the tokenizer adds."""
        return tuple(self.tokenizer(text, add_special_tokens=True)["input_ids"])

    def decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def rendered(
        self, messages: Sequence[Mapping[str, str]], begun: bool, options: Mapping[str, Any]
    ) -> str:
        """The text that a model reads for a conversation, or what the template says against it."""
        return self.render(messages, begun, options)[0]

    def render(
        self, messages: Sequence[Mapping[str, str]], begun: bool, options: Mapping[str, Any]
    ) -> tuple[str, bool]:
        """As :meth:`rendered`, and whether it is what a model reads."""
        from pytest_compsec.generation.chat import with_fixed_date

        if not self.templates:
            return "(no chat template)", False
        try:
            template = str(self.tokenizer.get_chat_template(None, options.get("tools")))
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=with_fixed_date(template),
                tokenize=False,
                add_generation_prompt=begun,
                **options,
            )
        except Exception as error:  # whatever a template raises, jinja errors among it
            return f"(refused: {type(error).__name__}: {error})", False
        return str(text), True


def read_side(arm: Arm, encode: Encode | None = None) -> Side:
    """Read one arm's files, which must be staged and verified. ``encode`` replaces the tokenizer's
    own way from text to ids (that of another runtime).

    Raises LoadError where there is no tokenizer, or a file cannot be read.
    """
    from pytest_compsec.models.checkpoints import open_tokenizer
    from pytest_compsec.models.quiet import quiet

    try:
        with quiet():
            tokenizer = open_tokenizer(arm)
            generation, config_tokens = _generation(arm)
            return _side(arm, tokenizer, encode, generation, config_tokens)
    except CompsecError:
        raise
    except Exception as error:  # whatever the libraries raise on files that make no tokenizer
        text = " ".join(str(error).split())[:300]
        raise LoadError(
            f"{arm.name}: tokenizer, template or generation config cannot be read "
            f"({type(error).__name__}: {text}). Save the tokenizer again, then run `compsec pin`"
        ) from error


def probe_texts(*sides: Side) -> tuple[str, ...]:
    """The texts that both are given: fixed ones, and each special token of either in a sentence."""
    tokens = {
        text
        for side in sides
        for text, special in [*side.added.values(), *((t, True) for t, _ in side.special.values())]
        if special
    }
    return texts_with(sorted(tokens))


def _side(
    arm: Arm,
    tokenizer: Any,
    encode: Encode | None,
    generation: Mapping[str, Any],
    config_tokens: Mapping[str, Any],
) -> Side:
    description = _description(tokenizer)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    longest = getattr(tokenizer, "model_max_length", None)
    return Side(
        tokenizer=tokenizer,
        encode=encode or (lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]),
        templates=_templates(tokenizer) | _further_templates(arm, tokenizer),
        special=_special(tokenizer),
        added={
            int(number): (str(token), bool(getattr(token, "special", False)))
            for number, token in added.items()
        },
        matching={int(number): _matching(token) for number, token in added.items()},
        vocabulary={str(token): int(number) for token, number in tokenizer.get_vocab().items()},
        merges=_merges(description),
        sections=_sections(description),
        from_gguf=arm.files.entry is not None,
        generation=generation,
        config_tokens=config_tokens,
        settings={
            name: str(getattr(tokenizer, name))
            for name in ("padding_side", "truncation_side")
            if hasattr(tokenizer, name)
        },
        longest=longest if isinstance(longest, int) and longest < 10**18 else None,
    )


def _templates(tokenizer: Any) -> dict[str, str]:
    found = getattr(tokenizer, "chat_template", None)
    if not found:
        return {}
    if isinstance(found, Mapping):
        return {str(name): str(text) for name, text in found.items()}
    return {"default": str(found)}


def _further_templates(arm: Arm, tokenizer: Any) -> dict[str, str]:
    """By file name: templates that transformers does not take, and another program may."""
    from pytest_compsec.checks.template.template_text import same_program

    used = _templates(tokenizer)
    found = {}
    for name in _FURTHER_TEMPLATES:
        path = arm.files.directory / name
        if not path.is_file():
            continue
        data = json.loads(path.read_text("utf-8"))
        held = data.get("chat_template") if isinstance(data, dict) else None
        # Several by name are a list of objects.
        several = held if isinstance(held, list) else [held] if held else []
        texts = [str(one.get("template") if isinstance(one, dict) else one) for one in several]
        if not all(any(same_program(text, own) for own in used.values()) for text in texts):
            found[name] = "\n".join(texts)
    return found


def _special(tokenizer: Any) -> dict[str, tuple[str, int | None]]:
    return {
        name: (str(text), tokenizer.convert_tokens_to_ids(str(text)))
        for name, text in tokenizer.special_tokens_map.items()
        if isinstance(text, str)
    }


def _matching(token: Any) -> str:
    """``'word' lstrip, normalized``: the rules by which an added token is found in a text."""
    rules = ("lstrip", "rstrip", "single_word", "normalized")
    return f"{str(token)!r} {', '.join(rule for rule in rules if getattr(token, rule, False))}"


def _description(tokenizer: Any) -> Mapping[str, Any]:
    """The tokenizer as its library writes it down; empty for one in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        return {}
    found: dict[str, Any] = json.loads(backend.to_str())
    return found


def _merges(description: Mapping[str, Any]) -> tuple[tuple[str, str], ...] | None:
    model = description.get("model") or {}
    merges = model.get("merges")
    if merges is None:
        return None
    parts = (one.split(" ", 1) if isinstance(one, str) else one for one in merges)
    return tuple((str(first), str(second)) for first, second in parts)


def _sections(description: Mapping[str, Any]) -> dict[str, str]:
    model = description.get("model") or {}
    options = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
    parts = {key: value for key, value in description.items() if key not in _NOT_BEHAVIOUR}
    if options:
        parts["model"] = options
    return {name: json.dumps(part, sort_keys=True) for name, part in parts.items()}


def _generation(arm: Arm) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings with which a model is asked where nobody says otherwise, the library's own
    defaults filled in; and the tokens that the model's config names."""
    from transformers import AutoConfig, GenerationConfig

    directory, entry = arm.files.directory, arm.files.entry
    where: dict[str, Any] = {"local_files_only": True}
    source = {} if entry is None else {"gguf_file": entry}
    config = AutoConfig.from_pretrained(directory, trust_remote_code=False, **source, **where)
    generation: Any = GenerationConfig  # Its constructors have no types.
    if entry is None and (directory / "generation_config.json").exists():
        found = generation.from_pretrained(directory, **where)
    else:
        found = generation.from_model_config(config)
    defaults: Mapping[str, Any] = {}
    known = getattr(generation, "_get_default_generation_params", None)
    if known is not None:
        defaults = known()
    rounds = getattr(found, "cache_implementation", None) == "quantized"
    unheeded = NO_ANSWERS - _OF_THE_CACHE if rounds else NO_ANSWERS
    values = {
        name: _ordered(defaults.get(name) if value is None else value)
        for name, value in found.to_dict().items()
        if name not in unheeded and not name.startswith("_")
    }
    text_config = config.get_text_config(decoder=True)
    tokens = {name: _ordered(getattr(text_config, name, None)) for name in CONFIG_TOKENS}
    return {name: value for name, value in values.items() if value is not None}, tokens


def _ordered(value: Any) -> Any:
    """Lists of tokens in one order, one token as a list of one: neither changes an answer."""
    if isinstance(value, (list, tuple)) and all(isinstance(one, int) for one in value):
        return value[0] if len(set(value)) == 1 else sorted(set(value))
    return value
