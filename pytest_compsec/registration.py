"""The checks that other plugins bring: registered when pytest is configured, and not later."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

import pytest

from pytest_compsec.extensions import GROUP
from pytest_compsec.markers import MARKERS, CheckMarker
from pytest_compsec.presets import SUITE

if TYPE_CHECKING:
    from pytest_compsec.run import Run

NAME = "compsec-late-plugins"
_HOOK = "pytest_compsec_register_checks"
#: Markers that pytest itself, or pytest-xdist, gives a meaning.
_PYTESTS_OWN = {"filterwarnings", "parametrize", "skip", "skipif", "tryfirst", "trylast"} | {
    "usefixtures",
    "xdist_group",
    "xfail",
}


def registered_by(config: pytest.Config) -> dict[str, CheckMarker[Any]]:
    """Our markers and those that plugins register, by name. Raises pytest.UsageError, naming the
    plugin, for what is no marker, a name that is taken, and a hook that breaks."""
    hook = config.hook.pytest_compsec_register_checks
    implementations = hook.get_hookimpls()
    if not implementations:
        return dict(MARKERS)
    taken = {*MARKERS, SUITE, *_PYTESTS_OWN}
    found = dict(MARKERS)
    for one in implementations:
        where = f"{hook.name} of {one.plugin_name}"
        others = [other.plugin for other in implementations if other is not one]
        call = config.pluginmanager.subset_hook_caller(hook.name, others)
        try:
            [made] = call(config=config) or [()]
        except Exception as error:
            raise pytest.UsageError(f"{where} broke: {type(error).__name__}: {error}") from error
        for marker in made if isinstance(made, (list, tuple)) else [made]:
            if not isinstance(marker, CheckMarker):
                raise pytest.UsageError(f"{where} gives {marker!r}, which is no CheckMarker")
            if not marker.name.isidentifier():
                raise pytest.UsageError(f"{where}: {marker.name!r} is no name for a marker")
            if marker.name in taken:
                raise pytest.UsageError(f"{where}: the marker {marker.name!r} is there already")
            taken.add(marker.name)
            found[marker.name] = marker
    return found


def require_entry_points(config: pytest.Config) -> None:
    """Raise pytest.UsageError for a plugin with judges or methods that nobody asks for them.

    They are asked of the modules of an entry point group, where `compsec pin` finds them too.
    """
    for hook in (
        config.hook.pytest_compsec_register_judges,
        config.hook.pytest_compsec_register_compression,
    ):
        for one in hook.get_hookimpls():
            points = importlib.metadata.entry_points(group=GROUP)
            if getattr(one.plugin, "__name__", "") not in {point.module for point in points}:
                raise pytest.UsageError(
                    f"{hook.name} of {one.plugin_name} would never be called: a config is read "
                    "without pytest, too. Name the module in the entry point group "
                    f"{GROUP!r} of a distribution"
                )


class LatePlugins:
    """Makes a plugin that registers checks too late a usage error of the run.

    The ``conftest.py`` of a folder below the one that pytest starts from is imported while tests
    are collected. A check of it would be a mark that nothing measures, and its test would pass.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        # pytest tells of those that are there, too.
        self._in_time = {id(plugin) for plugin in run.config.pluginmanager.get_plugins()}

    def pytest_plugin_registered(self, plugin: object) -> None:
        if id(plugin) in self._in_time or not hasattr(plugin, _HOOK):
            return
        where = getattr(plugin, "__file__", None) or repr(plugin)
        self._run.add_problem(
            f"{where}: {_HOOK} comes too late here: pytest imports this file when it collects. "
            "Move the function to the conftest.py of the folder that pytest starts from, or to a "
            "plugin (`-p`, or the entry point group pytest11)"
        )
