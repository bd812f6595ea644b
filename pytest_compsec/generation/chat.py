"""From a prompt to the text that a model reads: its chat template, applied and checked.

A template is code that came with the model. What it does to a prompt is checked where a silent
fault would make every answer meaningless: a prompt or a system prompt that does not appear in the
result, a setting that no template reads, a text that changes from one day to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_compsec.errors import LoadError, MeasurementError
from pytest_compsec.generation.under_system import spoken

#: Keys that ``chat_template_kwargs`` may not hold: they are this package's to decide.
RESERVED = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "strftime_now",
        "tokenize",
        "tokenizer_kwargs",
        "truncation",
    }
)

#: Templates that print today's date would make answers differ from day to day, and the two arms
#: differ when one was answered yesterday: they all read this date.
FIXED_DATE = {
    "%Y": "2025",
    "%y": "25",
    "%m": "01",
    "%d": "01",
    "%e": "1",
    "%B": "January",
    "%b": "Jan",
    "%A": "Wednesday",
    "%a": "Wed",
    "%j": "001",
    "%H": "12",
    "%I": "12",
    "%M": "00",
    "%S": "00",
    "%p": "PM",
    "%Z": "UTC",
    "%z": "+0000",
}


def render(
    tokenizer: Any,
    prompt: str,
    system: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """The text that the model reads for ``prompt``, up to where its answer begins; a prompt may
    bring a system prompt of its own (:class:`.under_system.UnderSystem`).

    Raises LoadError when the tokenizer has no chat template, the template fails, refuses or drops
    the system prompt, drops the prompt, or when ``chat_template_kwargs`` holds a reserved key or
    one that the template does not read.
    """
    options = dict(chat_template_kwargs or {})
    reserved = sorted(RESERVED.intersection(options))
    if reserved:
        raise LoadError(
            f"chat_template_kwargs: {', '.join(reserved)} cannot be set here; give only variables "
            "that the chat template itself reads, such as enable_thinking"
        )
    template = _template_of(tokenizer, options)
    _refuse_unknown(template, options)
    prompt, system = spoken(prompt, system)
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    try:
        rendered = tokenizer.apply_chat_template(
            messages,
            chat_template=with_fixed_date(template),
            tokenize=False,
            add_generation_prompt=True,
            **options,
        )
    except Exception as error:  # whatever a template raises, jinja errors among it
        raise LoadError(_template_failed(error, system)) from error
    text = str(rendered)
    _check_present(text, prompt, "the prompt", "a template for plain text messages is needed")
    if system is not None:
        _check_present(text, system, "the system prompt", "remove `system:` from compsec.yaml")
    return text


def encode(tokenizer: Any, rendered: Sequence[str]) -> list[list[int]]:
    """Token ids of rendered prompts. The template has written the special tokens already, so the
    tokenizer adds none (a second begin-of-text token changes answers)."""
    rows: list[list[int]] = [
        list(row) for row in tokenizer(list(rendered), add_special_tokens=False)["input_ids"]
    ]
    for place, row in enumerate(rows):
        if not row:
            raise MeasurementError(f"prompt {place} is empty after the chat template")
    return rows


def _template_of(tokenizer: Any, options: Mapping[str, Any]) -> str:
    if not getattr(tokenizer, "chat_template", None):
        where = getattr(tokenizer, "name_or_path", "") or "the model's directory"
        raise LoadError(
            f"the tokenizer of {where} has no chat template (no chat_template.jinja, no "
            "`chat_template` in tokenizer_config.json, none in the GGUF metadata). A model is "
            "compared the way it is used in chat: add the chat template that it was trained with "
            "to the tokenizer and pin again with `compsec pin`"
        )
    try:
        return str(tokenizer.get_chat_template(None, options.get("tools")))
    except ValueError as error:
        raise LoadError(f"the tokenizer's chat templates name no default one: {error}") from error


def _refuse_unknown(template: str, options: Mapping[str, Any]) -> None:
    import jinja2
    import jinja2.meta

    if not options:
        return
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]).parse(
            template
        )
    except jinja2.TemplateSyntaxError:
        return  # a tag of the library's own: the template is applied all the same
    known = jinja2.meta.find_undeclared_variables(tree)
    unknown = sorted(set(options) - known)
    if unknown:
        readable = sorted(known - RESERVED - {"raise_exception", "namespace"})
        raise LoadError(
            f"chat_template_kwargs: the chat template does not read {', '.join(unknown)}; "
            f"it reads {', '.join(readable) or 'no settings'}"
        )


def with_fixed_date(template: str) -> str:
    if "strftime_now" not in template:
        return template
    filters = "".join(
        f"|replace({directive!r},{value!r})" for directive, value in FIXED_DATE.items()
    )
    # The empty expression keeps jinja's trim_blocks from eating a newline of the template.
    return (
        "{% macro strftime_now(format) %}{{ format"
        + filters
        + " }}{% endmacro %}{{ '' }}"
        + (template)
    )


def _template_failed(error: Exception, system: str | None) -> str:
    reason = f"{type(error).__name__}: {error}"
    if system is not None and "system" in str(error).lower():
        return (
            f"the chat template refuses a system prompt ({reason}). Remove `system:` from this "
            "model in compsec.yaml, or put its text into the prompts"
        )
    return f"the chat template cannot be applied ({reason})"


def _check_present(rendered: str, text: str, what: str, advice: str) -> None:
    # Templates trim and join lines; all else of a text must come through.
    if "".join(text.split()) not in "".join(rendered.split()):
        raise LoadError(
            f"the chat template dropped {what}: the text that the model would read does not "
            f"hold it; {advice}"
        )
