"""What other distributions bring: kinds of judges and methods of compression.

A distribution names a module under the entry point group ``pytest_compsec``; the module has one or
both of the functions of :mod:`pytest_compsec.hookspecs` that register judges and methods. They are
no hooks of pytest alone, because ``compsec pin`` and the schema of ``compsec.yaml`` need them where
no pytest runs. Checks are registered by a hook of pytest: only a test run has markers.

Read once in a process, when the first config is loaded; a project without one never comes here.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import ConfigError

if TYPE_CHECKING:
    from pytest_compsec.compression.methods import Method
    from pytest_compsec.judges.base import JudgeKind

GROUP = "pytest_compsec"
#: Keys of ``compsec.yaml``, and fields of its schema.
_JUDGE_NAME = re.compile(r"[a-z][a-z0-9_]*")
_METHOD_NAME = re.compile(r"[a-z][a-z0-9-]*")


@functools.cache
def installed() -> tuple[tuple[str, Any], ...]:
    """``(where it came from, the module)`` of every entry point of the group, in order of names.

    Raises ConfigError naming the distribution whose module cannot be imported.
    """
    found = []
    points = importlib.metadata.entry_points(group=GROUP)
    for point in sorted(points, key=lambda one: (one.name, one.value)):
        distribution = point.dist.name if point.dist is not None else "an unknown distribution"
        where = f"the entry point {point.name!r} of {distribution}"
        try:
            found.append((where, point.load()))
        except Exception as error:
            raise ConfigError(
                f"{where} ({point.value}) cannot be loaded: {type(error).__name__}: {error}. "
                "Repair or uninstall it"
            ) from error
    return tuple(found)


@functools.cache
def judge_kinds() -> Mapping[str, JudgeKind]:
    """The kinds of judges of other distributions, by the name that ``compsec.yaml`` calls them.

    Raises ConfigError for what is no :class:`~pytest_compsec.judges.base.JudgeKind`, a name that
    is none, and two kinds of one name.
    """
    from pytest_compsec.judges.base import JudgeKind

    kinds: dict[str, JudgeKind] = {}
    for where, kind in _registered("pytest_compsec_register_judges"):
        if not isinstance(kind, JudgeKind):
            raise ConfigError(f"{where} registers {kind!r}, which is no JudgeKind")
        if not _JUDGE_NAME.fullmatch(kind.name):
            raise ConfigError(
                f"{where} registers a judge named {kind.name!r}: use small letters, digits and _"
            )
        if kind.name in kinds:
            raise ConfigError(f"{where} registers the judge {kind.name!r}, which is there already")
        kinds[kind.name] = kind
    return kinds


@functools.cache
def compression_methods() -> tuple[Method, ...]:
    """The methods of compression of other distributions.

    Raises ConfigError for what is no :class:`~pytest_compsec.compression.methods.Method`, a name
    that is none or there already, a section that is none of ours, and a method whose options do
    not say its name.
    """
    from pytest_compsec.compression.methods import METHODS, Method

    methods: list[Method] = []
    for where, method in _registered("pytest_compsec_register_compression"):
        if not isinstance(method, Method):
            raise ConfigError(f"{where} registers {method!r}, which is no Method")
        if not _METHOD_NAME.fullmatch(method.name):
            raise ConfigError(
                f"{where} registers a method named {method.name!r}: use small letters, digits and -"
            )
        sections = dict.fromkeys(one.section for one in METHODS)
        if method.section not in sections:
            raise ConfigError(
                f"{where}: the method {method.name!r} is of the section {method.section!r}; there "
                f"are {' and '.join(sections)}"
            )
        if any(
            (one.section, one.name) == (method.section, method.name) for one in (*METHODS, *methods)
        ):
            raise ConfigError(
                f"{where} registers {method.section}: {method.name}, which is there already"
            )
        _require_named_options(where, method)
        if not method.tools:
            raise ConfigError(
                f"{where}: the method {method.name!r} names no 'tools', the distributions whose "
                "versions the lock pins; name your own at least"
            )
        methods.append(method)
    return tuple(methods)


def _require_named_options(where: str, method: Method) -> None:
    from typing import Literal, get_args, get_origin

    field = method.options.model_fields.get("method")
    hint = None if field is None else field.annotation
    if get_origin(hint) is not Literal or get_args(hint) != (method.name,):
        raise ConfigError(
            f"{where}: the options of {method.name!r} need a field "
            f"method: Literal[{method.name!r}], by which compsec.yaml chooses among methods"
        )


def _registered(function: str) -> Iterator[tuple[str, Any]]:
    for where, module in installed():
        register = getattr(module, function, None)
        if register is None:
            continue
        try:
            made = register()
        except Exception as error:
            raise ConfigError(
                f"{where}: {function} broke: {type(error).__name__}: {error}"
            ) from error
        for one in made if isinstance(made, (list, tuple)) else [made]:
            yield where, one
