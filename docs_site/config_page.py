"""The page of ``compsec.yaml``, from the JSON Schema of its pydantic models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from docs_site.text import code, prose, table
from docs_site.words_of_keys import words_of
from pytest_compsec.config.schema import Config

_TITLES = {
    "ModelEntry": "A model (`models.NAME`)",
    "SourceEntry": "Its original (`original`)",
    "VariantEntry": "A compressed form (`compressed.NAME`)",
    "PromptEntry": "A prompt set (`prompts.NAME`)",
    "DataEntry": "A data file (`data.NAME`)",
    "Defaults": "`defaults`",
    "JudgeEntry": "`judge`",
    "BackdoorEntry": "`backdoor`",
    "SignatureEntry": "`signature`",
    "EndpointEntry": "`endpoint` of a model",
}


def config_page() -> str:
    """The page as Markdown."""
    schema = Config.model_json_schema()
    sections = schema["$defs"]
    names = [*_TITLES, *sorted(set(sections) - set(_TITLES) - {"JsonValue"})]
    parts = [
        "# `compsec.yaml`",
        "Unknown keys and values of another type are errors that name the line. Paths count from "
        "the file. What else must hold (a source of the hub needs a `revision`, a variant is made "
        "in exactly one way) is said by the error of a breach.",
        _rows(schema, words_of("Config")),
    ]
    for name in names:
        section = sections[name]
        parts += [f"## {_TITLES.get(name, _title(name))} {{ #{name.lower()} }}"]
        if section.get("description"):
            parts.append(prose(section["description"]))
        parts.append(_rows(section, words_of(name)) if section.get("properties") else "No keys.")
    return "\n\n".join(parts)


def _title(name: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Options"))
    return f"Options: {words}" if name.endswith("Options") else words


def _rows(section: dict[str, Any], words: Mapping[str, str]) -> str:
    required = set(section.get("required", ()))
    rows = [
        (
            code(name),
            type_of(entry),
            "required" if name in required else _default(entry),
            prose(words.get(name)),
        )
        for name, entry in section["properties"].items()
    ]
    return table(["key", "type", "default", "meaning"], rows)


def _default(entry: dict[str, Any]) -> str:
    default = entry.get("default")
    return "" if default is None or isinstance(default, (dict, list)) else code(str(default))


def type_of(entry: dict[str, Any]) -> str:
    """A JSON Schema type in words; null, which every optional key allows, is left out."""
    return " or ".join(dict.fromkeys(_types(entry)))


def _types(entry: dict[str, Any]) -> Iterator[str]:
    if "$ref" in entry:
        name = entry["$ref"].rpartition("/")[2]
        yield "any" if name == "JsonValue" else f"[{_label(name)}](#{name.lower()})"
    elif "const" in entry:
        yield code(str(entry["const"]))
    elif "enum" in entry:
        yield from (code(str(value)) for value in entry["enum"])
    elif choices := entry.get("anyOf", entry.get("oneOf")):
        for choice in choices:
            yield from _types(choice)
    elif entry.get("type") == "array":
        yield f"list of {type_of(entry['items'])}" if entry.get("items") else "list"
    elif entry.get("type") == "object":
        values = entry.get("additionalProperties")
        yield f"names, each {type_of(values)}" if isinstance(values, dict) else "mapping"
    elif entry.get("type") != "null":
        yield f"{entry.get('type', 'any')}{_bounds(entry)}"


def _label(name: str) -> str:
    return _title(name).removeprefix("Options: ").lower()


def _bounds(entry: dict[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    found = [f"{word} {entry[key]}" for key, word in words.items() if key in entry]
    return f" ({', '.join(found)})" if found else ""
