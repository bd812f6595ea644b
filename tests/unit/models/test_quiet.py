"""Silence while loading: on, off again as before, and nothing else touched."""

from __future__ import annotations

import importlib
import io
import logging
import sys
import warnings
from typing import Any

import pytest

from pytest_compsec.models.quiet import LIBRARIES, quiet


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_librarys_warnings_are_silent_and_its_errors_are_not(
    library: str, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger(f"{library}.part")
    logger.setLevel(logging.NOTSET)
    caplog.handler.setLevel(0)
    logging.getLogger(library).addHandler(caplog.handler)
    try:
        with quiet():
            logger.warning("noise")
            logger.error("trouble")
    finally:
        logging.getLogger(library).removeHandler(caplog.handler)
    assert {record.message for record in caplog.records} == {"trouble"}


def test_levels_are_put_back_even_after_an_error() -> None:
    before = {name: logging.getLogger(name).level for name in LIBRARIES}
    logging.getLogger("peft").setLevel(logging.DEBUG)
    try:
        with pytest.raises(RuntimeError), quiet():
            raise RuntimeError
        assert logging.getLogger("peft").level == logging.DEBUG
    finally:
        logging.getLogger("peft").setLevel(before["peft"])
    assert {name: logging.getLogger(name).level for name in LIBRARIES} == before


def test_warnings_are_silent_inside_only() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn("noise", UserWarning, stacklevel=1)
        warnings.warn("a user's own", UserWarning, stacklevel=1)
    assert [str(w.message) for w in seen] == ["a user's own"]


def test_progress_bars_are_silent_inside_only() -> None:
    tqdm = importlib.import_module("tqdm.auto").tqdm

    inside, outside = io.StringIO(), io.StringIO()
    with quiet():
        assert list(tqdm(range(3), file=inside)) == [0, 1, 2]
    list(tqdm(range(3), file=outside))
    assert inside.getvalue() == ""
    assert "3/3" in outside.getvalue()


@pytest.mark.parametrize("enabled", [True, False])
def test_bars_of_transformers_and_the_hub_are_put_back(enabled: bool) -> None:
    hub: Any = importlib.import_module("huggingface_hub.utils")
    library: Any = importlib.import_module("transformers.utils.logging")

    def switch(on: bool) -> None:
        (library.enable_progress_bar if on else library.disable_progress_bar)()
        (hub.enable_progress_bars if on else hub.disable_progress_bars)()

    was = library.is_progress_bar_enabled()
    switch(enabled)
    try:
        with quiet():
            assert not library.is_progress_bar_enabled()
            assert hub.are_progress_bars_disabled()
        assert library.is_progress_bar_enabled() is enabled
        assert hub.are_progress_bars_disabled() is not enabled
    finally:
        switch(was)


def test_it_nests() -> None:
    from transformers.utils import logging as transformers_logging

    was = transformers_logging.is_progress_bar_enabled()
    with quiet():
        with quiet():
            pass
        assert not transformers_logging.is_progress_bar_enabled()
        assert logging.getLogger("transformers").level == logging.ERROR
    assert transformers_logging.is_progress_bar_enabled() is was


def test_what_others_print_still_appears(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet():
        print("mine")
        print("mine too", file=sys.stderr)
    assert capsys.readouterr() == ("mine\n", "mine too\n")


def test_it_works_without_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("transformers.utils.logging", "huggingface_hub.utils", "tqdm.std"):
        monkeypatch.setitem(sys.modules, name, None)
    with quiet():
        logging.getLogger("transformers").warning("noise")
