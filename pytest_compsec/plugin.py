"""The pytest hooks, each a line or two into the rooms that do the work.

Loaded in every project where the package is installed, so it must stay light: nothing that is
imported at the top of this file may load torch, numpy, pydantic or yaml.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_compsec import callphase, collection, junit, registration, workers
from pytest_compsec.fixtures import (
    backdoor,
    compressed_model,
    compsec,
    compsec_device,
    evaluation_data,
    model_pair,
    original_model,
)
from pytest_compsec.markers import compsec_suite
from pytest_compsec.options import add_options, read_settings
from pytest_compsec.run import CHECKS, RUN, Run

__all__ = [
    "backdoor",
    "compressed_model",
    "compsec",
    "compsec_device",
    "evaluation_data",
    "model_pair",
    "original_model",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_compsec import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    markers = registration.registered_by(config)
    registration.require_entry_points(config)
    for marker in (*markers.values(), compsec_suite):
        line = marker.ini_line(in_full=config.option.markers)
        config.addinivalue_line("markers", line)
    run = config.stash[RUN] = Run(config, read_settings(config), markers=markers)
    run.directory = workers.directory_of(config)
    config.pluginmanager.register(registration.LatePlugins(run), registration.NAME)
    if run.settings.memory:
        from pytest_compsec import memory_reporting

        reporter = memory_reporting.MemoryReporter(config)
        config.pluginmanager.register(reporter, memory_reporting.NAME)
    if not run.is_worker:
        config.pluginmanager.register(workers.Receiver(run), "compsec-receiver")


@pytest.hookimpl(tryfirst=True)  # every plugin is configured by now
def pytest_sessionstart(session: pytest.Session) -> None:
    junit.guard(session.config.stash[RUN])


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, obj: object
) -> Generator[None, Any, Any]:
    with collection.asking_for_the_pair(collector, obj):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    collection.parametrize(metafunc.config.stash[RUN], metafunc)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, None, None]:
    run = config.stash[RUN]
    collection.prepare(run, items)
    workers.report_problems(run)
    yield
    collection.group_by_pair(items)


@pytest.hookimpl(tryfirst=True)  # before the terminal reporter asks for the header
def pytest_collection_finish(session: pytest.Session) -> None:
    run = session.config.stash[RUN]
    if session.config.option.collectonly or run.problems:
        return
    collection.expect_results(run, session.items)
    if run.expected:
        from pytest_compsec.header import header_lines

        run.header = header_lines(run, session.items)
    workers.send_promises(run, session.items)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    run = config.stash[RUN]
    return run.header if config.get_verbosity() >= 0 else []


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    if CHECKS not in pyfuncitem.stash:
        return (yield)
    callphase.begin(pyfuncitem)
    result = yield
    callphase.run_checks(pyfuncitem.config.stash[RUN], pyfuncitem)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    callphase.finish_report(item.config.stash[RUN], item, call, report)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    run = session.config.stash[RUN]
    if run.has_an_ending:
        from pytest_compsec import ending

        ending.finish(run, session)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    yield
    run = config.stash[RUN]
    if run.has_an_ending:
        from pytest_compsec import ending

        ending.show_summary(run, terminalreporter)


def pytest_unconfigure(config: pytest.Config) -> None:
    if RUN in config.stash:
        config.stash[RUN].close()
        config.stash[RUN].remove_directory()


# Hooks of pytest-xdist: the controller's, where it is installed and in use.


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    from pytest_compsec.worker_count import auto_workers

    return auto_workers(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    workers.set_up(config.stash[RUN], specs)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    workers.hand_over(node.config.stash[RUN], node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return workers.scheduler(config.stash[RUN], log)
