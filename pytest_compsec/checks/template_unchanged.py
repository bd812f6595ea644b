"""``template_unchanged``: what the compressed model reads and when it stops is decided as for the
original: chat template, special tokens, tokenizer and generation config are the same.

Nothing is sampled: the verified files of both arms are opened by the libraries that load the
models, described part by part, and given the same texts and conversations. Any difference is
REGRESSED, unless ``allow`` names its part. A changed template explains many a "regression by
quantization", and a template alone can carry a backdoor.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.arguments import require_names
from pytest_compsec.checks.plain_result import plain_result
from pytest_compsec.checks.selection import ExactArguments
from pytest_compsec.checks.template.comparing import PARTS
from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.template.side import Side
    from pytest_compsec.findings_estimates import Difference
    from pytest_compsec.models.arm import Arm
    from pytest_compsec.models.pair import ModelPair

SAME_PROMPTS = (
    "System prompt and chat_template_kwargs are those of the config and the same for both models."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateArguments(ExactArguments):
    """Validated arguments of ``template_unchanged``; ``margin`` is 0, no difference is allowed but
    in the parts of ``allow``."""

    allow: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The arguments as the user would write them."""
        return {
            "allow": list(self.allow),
            "models": list(self.models) if self.models else None,
            "variants": list(self.variants) if self.variants else None,
        }

    def allows(self, part: str) -> bool:
        """Whether this part, or the whole that it is an entry of, may differ."""
        return part in self.allow or part.partition(".")[0] in self.allow


def template_unchanged_arguments(
    *,
    allow: str | Sequence[str] = (),
    models: str | Sequence[str] | None = None,
    variants: str | Sequence[str] | None = None,
) -> TemplateArguments:
    """Validate the marker's arguments. Raises ValueError in plain words.

    ``allow`` names parts (:data:`pytest_compsec.checks.template.comparing.PARTS`) that may differ,
    such as ``"generation_config"`` or ``"generation_config.temperature"``; they are told and do not
    decide. ``models`` and ``variants`` choose pairs (None: all).
    """
    names = () if allow in ((), []) else require_names("allow", allow) or ()
    for name in names:
        whole = name.partition(".")[0]
        if whole not in PARTS:
            close = difflib.get_close_matches(whole, PARTS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(PARTS)}"
            raise ValueError(f"allow={name!r} is no part; {hint}")
    return TemplateArguments(
        check="template_unchanged",
        margin=0.0,
        allow=names,
        models=require_names("models", models),
        variants=require_names("variants", variants),
    )


def check_template_unchanged(pair: ModelPair, *, test: str = "", **arguments: Any) -> CheckResult:
    """Compare what stands around both models and decide. ``arguments`` are those of the marker."""
    return measure_template(pair, template_unchanged_arguments(**arguments), test=test)


def measure_template(
    pair: ModelPair, arguments: TemplateArguments, *, test: str = ""
) -> CheckResult:
    """As :func:`check_template_unchanged`, with arguments that are already validated.

    NOT_MEASURED for a served model: its server applies the template and shows nothing of it; and
    where a template is there, and neither side's writes anything for any conversation.
    """
    original, compressed = pair.original_arm, pair.compressed_arm
    served = [arm for arm in (original, compressed) if arm.served is not None]
    if served:
        what = (
            f"{served[0].name} is served: its server applies template and tokenizer and shows "
            "neither, nor its generation config"
        )
        return plain_result(pair, arguments, test, Verdict.NOT_MEASURED, what, after=_NAME_FILES)
    pair.require_compressed()
    try:
        found, compared = _compared(pair, original, compressed)
    finally:
        pair.recheck()
    counted = tuple(one for one in found if not arguments.allows(one.part))
    allowed = tuple(one for one in found if arguments.allows(one.part))
    verdict = Verdict.REGRESSED if counted else Verdict.PRESERVED
    if compared.missing and not counted:
        return dataclasses.replace(
            plain_result(
                pair, arguments, test, Verdict.NOT_MEASURED, compared.missing, after=_RENDERS_NONE
            ),
            notes=(*map(_note, allowed), *compared.notes, SAME_PROMPTS),
            provenance=pair.provenance_with(),
        )
    if counted:
        parts = list(dict.fromkeys(one.part for one in counted))
        count = f"{len(parts)} part{'' if len(parts) == 1 else 's'}"
        what = (
            f"{count} of what stands around the model {'differs' if len(parts) == 1 else 'differ'}"
        )
        what = f"{what} from the original's: {', '.join(parts[:6])}{', ...' * (len(parts) > 6)}"
    else:
        but = f", but for {len(allowed)} that are allowed" if allowed else ""
        what = f"{compared.what}{but}"
    result = plain_result(pair, arguments, test, verdict, what, after=_PUT_BACK if counted else "")
    return dataclasses.replace(
        result,
        differences=counted,
        notes=(*map(_note, allowed), *compared.notes, SAME_PROMPTS),
        provenance=pair.provenance_with(),
    )


_NAME_FILES = (
    "Name the model's files as 'source' in a variant of its own, or leave this pair out with "
    "variants=..."
)
_PUT_BACK = (
    "Copy the original's tokenizer, chat template and generation config beside the compressed "
    "weights and run `compsec pin`, or name what is meant to differ with allow=. Until then every "
    "other check measures this difference too."
)


_RENDERS_NONE = (
    "Look at what the template needs (chat_template_kwargs in compsec.yaml, tools, a newer "
    "transformers), and run `compsec pin` and the test again."
)


@dataclasses.dataclass(frozen=True)
class _Compared:
    """``what`` was compared, for the summary; ``missing``: why it is not enough."""

    what: str
    notes: tuple[str, ...] = ()
    missing: str = ""


def _compared(
    pair: ModelPair, original: Arm, compressed: Arm
) -> tuple[tuple[Difference, ...], _Compared]:
    if original.files.tree == compressed.files.tree and original.runtime == compressed.runtime:
        return (), _Compared(
            "template, tokenizer and generation config are the same files for both models",
            _unused(compressed),
        )
    from pytest_compsec.checks.template.comparing import differences_of
    from pytest_compsec.checks.template.side import probe_texts, read_side

    first = read_side(original, _runtime_encode(pair, original))
    second = read_side(compressed, _runtime_encode(pair, compressed))
    found = differences_of(first, second, original.chat_template_kwargs)
    rendered, refused = _rendered(first, second, original.chat_template_kwargs)
    what = (
        "chat template, special tokens, tokenizer and generation config do as the original's: "
        f"{len(first.vocabulary)} tokens, {len(probe_texts(first, second))} texts and "
        f"{rendered} conversations compared"
    )
    notes = [*_not_counted(first, second), *_unused(compressed)]
    missing = ""
    if refused and rendered:
        notes.append(
            f"{len(refused)} conversations are rendered by neither template, and were not "
            f"compared: {refused[0]}"
        )
    elif refused and (first.templates or second.templates):
        missing = (
            f"no conversation was compared: neither template renders any of {len(refused)} "
            f"({refused[0]})"
        )
    return found, _Compared(what, tuple(notes), missing)


def _rendered(first: Side, second: Side, options: Mapping[str, Any]) -> tuple[int, list[str]]:
    """How many conversations either template renders, and what the original's says against each
    of the others."""
    from pytest_compsec.checks.template.probes import CONVERSATIONS

    refused = []
    for name, messages, begun in CONVERSATIONS:
        text, renders = first.render(messages, begun, options)
        if not renders and not second.render(messages, begun, options)[1]:
            refused.append(f"{name}: {text}")
    return len(CONVERSATIONS) - len(refused), refused


def _runtime_encode(pair: ModelPair, arm: Arm) -> Any:
    """How another runtime makes tokens of a prompt; None where the tokenizer of the files does."""
    if arm.runtime is None:
        return None
    model: Any = pair.original if arm.variant is None else pair.compressed
    return model.engine.tokenize


def _not_counted(first: Side, second: Side) -> list[str]:
    notes = []
    if first.longest != second.longest:
        notes.append(
            f"model_max_length is {first.longest} in the original and {second.longest} here; it "
            "changes no answer to a prompt that fits, and does not count."
        )
    if not first.templates and not second.templates:
        notes.append("Neither model has a chat template.")
    return notes


def _unused(arm: Arm) -> tuple[str, ...]:
    """Tokenizer files beside an adapter, which nothing here reads: the source's are used."""
    names = sorted(
        path.name
        for adapter in (arm.adapter, arm.compressed_adapter)
        if adapter is not None
        for pattern in ("tokenizer*", "chat_template*", "special_tokens_map.json")
        for path in adapter.directory.glob(pattern)
    )
    if not names:
        return ()
    return (
        f"The adapter of {arm.name} comes with {', '.join(dict.fromkeys(names))}; not read here: "
        "the source's tokenizer is used. Deploy it so, or name a source that holds the adapter's.",
    )


def _note(found: Difference) -> str:
    before = "(none)" if found.original is None else found.original
    after = "(none)" if found.compressed is None else found.compressed
    return f"Allowed to differ: {found.part}: {before} -> {after}"
