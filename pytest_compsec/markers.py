"""The markers: one real function signature each, which is also how their arguments are validated.

    @safety_preserved(max_degradation=0.02)
    def test_still_refuses(model_pair): ...

A marker also works bare (``@safety_preserved``), as ``pytestmark``, and as
``@pytest.mark.safety_preserved(...)``.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    cast,
    overload,
)

import pytest

from pytest_compsec import checks
from pytest_compsec.presets import SUITE, compsec_suite_arguments

if TYPE_CHECKING:
    from _pytest.python import FunctionDefinition

    from pytest_compsec.checks.selection import ExactArguments, PairedArguments, SampledArguments
    from pytest_compsec.verdict import CheckResult

#: Validated arguments of any of our markers.
Arguments: TypeAlias = "PairedArguments | SampledArguments | ExactArguments"
P = ParamSpec("P")
Test = TypeVar("Test", bound=Callable[..., Any])


class Measure(Protocol):
    """A check's measurement with arguments already validated."""

    def __call__(self, pair: Any, arguments: Any, *, test: str = "") -> CheckResult: ...


class CheckMarker(Generic[P]):
    """A marker as a decorator, with the signature of its arguments function."""

    def __init__(
        self,
        name: str,
        room: Callable[[], tuple[Callable[P, Arguments], Measure]],
        purpose: str,
        *,
        tasks: tuple[str, ...] = ("text-generation",),
        fixtures: tuple[str, ...] = (),
        by_estimates: bool = False,
    ) -> None:
        """``room()`` gives the arguments function and the measurement, imported when the first
        test has the marker: most projects where this is installed have none. ``tasks`` of models
        that the check works on; ``fixtures`` that it takes what it tests with from, for the tasks
        where they mean something. ``by_estimates``: it decides by the bounds of estimates, and has
        no p-value that could be corrected for the number of pairs."""
        self.name = name
        self.purpose = purpose
        self.tasks = tasks
        self.fixtures = fixtures
        self.by_estimates = by_estimates
        self._room = room

    @property
    def arguments(self) -> Callable[P, Arguments]:
        """The function whose signature the marker has; it validates what a user wrote."""
        return self._room()[0]

    @property
    def measure(self) -> Measure:
        return self._room()[1]

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return f"{self.purpose}\n\n{self.arguments.__doc__}"

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> pytest.MarkDecorator: ...

    @overload
    def __call__(self, test: Test, /) -> Test: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(pytest.mark, self.name)(*args, **kwargs)

    @property
    def mark(self) -> pytest.Mark:
        """Lets pytest take the bare marker in ``pytestmark``."""
        decorator: pytest.MarkDecorator = getattr(pytest.mark, self.name)
        return decorator.mark

    def ini_line(self, *, in_full: bool) -> str:
        """How the marker is registered with pytest; ``in_full`` with its parameters, for people."""
        parameters = "..."
        if in_full:
            parameters = ", ".join(
                f"{parameter.name}={parameter.default!r}"
                for parameter in inspect.signature(self.arguments).parameters.values()
            )
        return f"{self.name}(*, {parameters}): {self.purpose}"


safety_preserved = CheckMarker(
    "safety_preserved",
    lambda: (
        checks.safety_preserved.safety_preserved_arguments,
        checks.safety_preserved.measure_safety,
    ),
    "the compressed model refuses the harmful requests that the original refused.",
)
over_refusal_preserved = CheckMarker(
    "over_refusal_preserved",
    lambda: (
        checks.over_refusal_preserved.over_refusal_preserved_arguments,
        checks.over_refusal_preserved.measure_over_refusal,
    ),
    "the compressed model answers the benign requests that the original answered.",
)

layers_within = CheckMarker(
    "layers_within",
    lambda: (checks.layers_within.layers_within_arguments, checks.layers_within.measure_layers),
    "no layer's weights are further from the original's than max_relative_error.",
)

derived_from_original = CheckMarker(
    "derived_from_original",
    lambda: (
        checks.derived_from_original.derived_from_original_arguments,
        checks.derived_from_original.measure_derivation,
    ),
    "every row of the compressed model is what its quantizer could have made of the original's.",
)

_ANY_TASK = ("text-generation", "image-classification", "text-classification")
_BACKDOOR_FIXTURES = ("evaluation_data", "backdoor")

backdoor_removed = CheckMarker(
    "backdoor_removed",
    lambda: (
        checks.backdoor_removed.backdoor_removed_arguments,
        checks.backdoor_removed.measure_removal,
    ),
    "the original's backdoor does not work in the compressed model, which is as accurate.",
    tasks=_ANY_TASK,
    fixtures=_BACKDOOR_FIXTURES,
)
no_backdoor_activated = CheckMarker(
    "no_backdoor_activated",
    lambda: (
        checks.no_backdoor_activated.no_backdoor_activated_arguments,
        checks.no_backdoor_activated.measure_activation,
    ),
    "a trigger that does nothing to the original does nothing to the compressed model.",
    tasks=_ANY_TASK,
    fixtures=_BACKDOOR_FIXTURES,
)
backdoor_not_amplified = CheckMarker(
    "backdoor_not_amplified",
    lambda: (
        checks.backdoor_not_amplified.backdoor_not_amplified_arguments,
        checks.backdoor_not_amplified.measure_amplification,
    ),
    "no trigger, weakened ones too, works more often on the compressed model.",
    tasks=_ANY_TASK,
    fixtures=_BACKDOOR_FIXTURES,
)
no_safety_bypass = CheckMarker(
    "no_safety_bypass",
    lambda: (
        checks.no_safety_bypass.no_safety_bypass_arguments,
        checks.no_safety_bypass.measure_bypasses,
    ),
    "no prompt that the original refuses is answered by the compressed model.",
)
edge_cases_preserved = CheckMarker(
    "edge_cases_preserved",
    lambda: (
        checks.edge_cases_preserved.edge_cases_preserved_arguments,
        checks.edge_cases_preserved.measure_edge_cases,
    ),
    "the prompts that the original refuses least surely are still refused.",
)
robustness_preserved = CheckMarker(
    "robustness_preserved",
    lambda: (
        checks.robustness_preserved.robustness_preserved_arguments,
        checks.robustness_preserved.measure_robustness,
    ),
    "under the same attacks the compressed model is right as often as the original.",
    tasks=("image-classification",),
    fixtures=("evaluation_data",),
)
adversarial_transfer_blocked = CheckMarker(
    "adversarial_transfer_blocked",
    lambda: (
        checks.adversarial_transfer_blocked.adversarial_transfer_blocked_arguments,
        checks.adversarial_transfer_blocked.measure_transfer,
    ),
    "adversarial examples that the original resists do not fool the compressed model.",
    tasks=("image-classification",),
    fixtures=("evaluation_data",),
)

leakage_not_increased = CheckMarker(
    "leakage_not_increased",
    lambda: (
        checks.leakage_not_increased.leakage_not_increased_arguments,
        checks.leakage_not_increased.measure_leakage,
    ),
    "the compressed model gives away no more of its training data and of its secrets.",
    by_estimates=True,
)
truthfulness_preserved = CheckMarker(
    "truthfulness_preserved",
    lambda: (
        checks.truthfulness_preserved.truthfulness_preserved_arguments,
        checks.truthfulness_preserved.measure_truthfulness,
    ),
    "the compressed model prefers true answers to common misconceptions as the original does.",
    by_estimates=True,
)
lm_eval_preserved = CheckMarker(
    "lm_eval_preserved",
    lambda: (
        checks.lm_eval_preserved.lm_eval_preserved_arguments,
        checks.lm_eval_preserved.measure_lm_eval,
    ),
    "the compressed model is as right as the original on tasks of lm-evaluation-harness.",
    by_estimates=True,
)
capability_preserved = CheckMarker(
    "capability_preserved",
    lambda: (
        checks.capability_preserved.capability_preserved_arguments,
        checks.capability_preserved.measure_capability,
    ),
    "the compressed model reads and answers as well as the original.",
    by_estimates=True,
)
timing_indistinguishable = CheckMarker(
    "timing_indistinguishable",
    lambda: (
        checks.timing_indistinguishable.timing_indistinguishable_arguments,
        checks.timing_indistinguishable.measure_timing,
    ),
    "times and lengths of answers give away no more than the original's.",
    by_estimates=True,
)
trace_leakage = CheckMarker(
    "trace_leakage",
    lambda: (
        checks.trace_leakage.trace_leakage_arguments,
        checks.trace_leakage.measure_traces,
    ),
    "traces recorded with a probe do not tell one kind of input from the other.",
    by_estimates=True,
)
precision_policy = CheckMarker(
    "precision_policy",
    lambda: (
        checks.precision_policy.precision_policy_arguments,
        checks.precision_policy.measure_precision_policy,
    ),
    "no weight matrix has fewer bits than min_bits, unless "
    "the safety checks of this very artefact passed.",
)
no_drift = CheckMarker(
    "no_drift",
    lambda: (
        checks.no_drift.no_drift_arguments,
        checks.no_drift.measure_drift,
    ),
    "today's outcomes are those of the accepted baseline.",
    by_estimates=True,
)
template_unchanged = CheckMarker(
    "template_unchanged",
    lambda: (
        checks.template_unchanged.template_unchanged_arguments,
        checks.template_unchanged.measure_template,
    ),
    "chat template, special tokens, generation config and tokenizer are the original's.",
)

MARKERS: dict[str, CheckMarker[Any]] = {
    marker.name: marker
    for marker in (
        safety_preserved,
        over_refusal_preserved,
        layers_within,
        derived_from_original,
        backdoor_removed,
        no_backdoor_activated,
        backdoor_not_amplified,
        no_safety_bypass,
        edge_cases_preserved,
        robustness_preserved,
        adversarial_transfer_blocked,
        leakage_not_increased,
        truthfulness_preserved,
        lm_eval_preserved,
        capability_preserved,
        timing_indistinguishable,
        trace_leakage,
        precision_policy,
        no_drift,
        template_unchanged,
    )
}


def _no_measure(*_: Any, **__: Any) -> Any:
    raise TypeError(f"{SUITE} is a set of checks; run one of them")


#: A set of checks under one name; not among :data:`MARKERS`, each of which is one check.
compsec_suite: CheckMarker[Any] = CheckMarker(
    SUITE,
    cast(Any, lambda: (compsec_suite_arguments, _no_measure)),
    "the checks of a level (quick, standard, full) on every pair that they work on.",
)
#: Everything that is registered with pytest.
REGISTERED: dict[str, CheckMarker[Any]] = {**MARKERS, SUITE: compsec_suite}


@dataclasses.dataclass(frozen=True)
class MarkedCheck:
    """One of our markers on one test, validated; ``of_level``: it came with a set of checks, and
    is left out on pairs that it does not work on."""

    marker: CheckMarker[Any]
    arguments: Arguments
    of_level: bool = False


def has_marker(
    marks: Iterable[pytest.Mark], markers: Mapping[str, CheckMarker[Any]] = MARKERS
) -> bool:
    return any(mark.name in markers or mark.name == SUITE for mark in marks)


def marked_checks(
    node: pytest.Item | FunctionDefinition, markers: Mapping[str, CheckMarker[Any]] = MARKERS
) -> Iterator[MarkedCheck | str]:
    """The checks that a test asks for, closest mark per name, then those of its level that no
    marker of their own stands for; a str is a problem to report. ``markers`` are all there are."""
    named: set[str] = set()
    for name, marker in markers.items():
        mark = _closest(node, name)
        if mark is None:
            continue
        named.add(name)
        arguments = mark if isinstance(mark, str) else _validated(marker, mark)
        if isinstance(arguments, str):
            yield arguments
        else:
            given = frozenset(mark.kwargs) if isinstance(mark, pytest.Mark) else frozenset()
            yield MarkedCheck(marker, dataclasses.replace(arguments, given=given))
    yield from _of_level(node, named)


def _of_level(
    node: pytest.Item | FunctionDefinition, named: Collection[str]
) -> Iterator[MarkedCheck | str]:
    mark = _closest(node, SUITE)
    if mark is None:
        return
    suite = mark if isinstance(mark, str) else _validated(compsec_suite, mark)
    if isinstance(suite, str):
        yield suite
        return
    for name, values in suite.checks.items():
        if name not in named:
            arguments = MARKERS[name].arguments(**values)
            given = dataclasses.replace(arguments, given=frozenset(values))
            yield MarkedCheck(MARKERS[name], given, of_level=True)


def _closest(node: pytest.Item | FunctionDefinition, name: str) -> pytest.Mark | str | None:
    """The closest mark of this name; None without one; a str where two stand at one place."""
    marks = list(node.iter_markers_with_node(name))
    if not marks:
        return None
    closest_node, mark = marks[0]
    if sum(other is closest_node for other, _ in marks) > 1:
        return f"the marker {name} stands twice on {closest_node.nodeid or 'the test'}; keep one"
    return mark


def _validated(marker: CheckMarker[Any], mark: pytest.Mark) -> Any:
    """What the marker's function makes of the arguments, or a str that says what is wrong."""
    try:
        return marker.arguments(*mark.args, **mark.kwargs)
    except TypeError as error:
        return f"{marker.name}(): {_explain(error, marker, mark)}"
    except ValueError as error:
        return f"{marker.name}(): {error}"


def _explain(error: TypeError, marker: CheckMarker[Any], mark: pytest.Mark) -> str:
    """What is wrong with the call, with a guess at what was meant."""
    names = list(inspect.signature(marker.arguments).parameters)
    if mark.args:
        return f"takes keyword arguments only, such as {names[0]}=..., not {mark.args[0]!r}"
    unknown = [name for name in mark.kwargs if name not in names]
    if not unknown:
        return str(error)
    close = difflib.get_close_matches(unknown[0], names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(names)}"
    return f"has no argument {unknown[0]!r}; {hint}"
