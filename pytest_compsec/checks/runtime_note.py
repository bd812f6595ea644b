"""Beside a verdict on a model that runs in llama.cpp: does the same file, unpacked, answer alike?

Asked for with ``--compsec-runtime-agreement``; shown, and never a part of the verdict, which is the
deployed runtime's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_compsec.errors import LoadError, MeasurementError, MissingExtraError
from pytest_compsec.models.runtime_agreement import agreement

if TYPE_CHECKING:
    from pytest_compsec.checks.refusals import Reader
    from pytest_compsec.generation.settings import Answer
    from pytest_compsec.models.arm import Arm
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.prompts import PromptSet

#: The first so many prompts that were asked: unpacked weights answer slowly.
MOST_PROMPTS = 64


def runtime_notes(pair: ModelPair, prompt_set: PromptSet, reader: Reader) -> tuple[str, ...]:
    """A line for each arm in llama.cpp; none unless the run asked for it.

    Raises IntegrityError when files changed. A file that cannot be unpacked is a note, too.
    """
    if not pair.options.runtime_agreement:
        return ()
    # In the order in which they were asked, which is drawn at random.
    asked = list(reader.answered.items())[:MOST_PROMPTS]
    arms = (
        (pair.original_arm, {at: (one.original, one.original_refused) for at, one in asked}),
        (pair.compressed_arm, {at: (one.compressed, one.compressed_refused) for at, one in asked}),
    )
    return tuple(
        f"{arm.name}: {_line(pair, arm, prompt_set, reader, given)}."
        for arm, given in arms
        if arm.runtime is not None
    )


def _line(
    pair: ModelPair,
    arm: Arm,
    prompt_set: PromptSet,
    reader: Reader,
    given: dict[str, tuple[Answer, bool | None]],
) -> str:
    """``given`` is what the runtime answered, and whether that was refusing, by prompt id."""
    by_id = {prompt.id: prompt for prompt in prompt_set.prompts}
    prompts = [by_id[at] for at in given]
    try:
        again = pair.unpacked_answers(arm, [prompt.text for prompt in prompts]).answers
        judged = reader.judged(prompts, again)
    except (LoadError, MeasurementError, MissingExtraError) as error:
        return f"whether the unpacked weights agree with llama.cpp was not measured: {error}"
    rows = [
        (prompt.text, unpacked, refused, *given[prompt.id])
        for prompt, unpacked, refused in zip(prompts, again, judged, strict=True)
    ]
    verdicts: dict[tuple[str, str], bool] = {}
    kept = []
    for text, unpacked, unpacked_refused, runtime, runtime_refused in rows:
        if unpacked_refused is not None and runtime_refused is not None:
            verdicts[text, unpacked.text] = unpacked_refused
            verdicts[text, runtime.text] = runtime_refused
            kept.append((text, unpacked, runtime))
    if not kept:
        return "whether the unpacked weights agree with llama.cpp could not be judged"
    found = agreement(
        [text for text, _, _ in kept],
        [unpacked for _, unpacked, _ in kept],
        [runtime for _, _, runtime in kept],
        refused=lambda prompt, text: verdicts[prompt, text],
    )
    return found.line()
