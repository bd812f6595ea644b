"""Keep the libraries underneath off the screen while they load and generate.

A run of many variants would otherwise bury its own table under progress bars, deprecation notes
and per-call warnings that no user of this package can act on. Everything is put back on leaving;
``sys.stdout`` and ``sys.stderr`` are never touched, so real output of others still appears.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

LIBRARIES = (
    "transformers",
    "huggingface_hub",
    "bitsandbytes",
    "peft",
    "accelerate",
    "gguf",
    "torchao",
    "hqq",
    "torch.utils._pytree",
)
_INT8_CAST = "MatMul8bitLt: inputs will be cast"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and progress bars of the model libraries inside the block; errors pass.

    Works when any of them is absent, and nests.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_without_transformers_bars())
        stack.enter_context(_without_hub_bars())
        stack.enter_context(_without_tqdm())
        # After the imports above: transformers sets its logger's level when first imported.
        stack.enter_context(_loggers_at(logging.ERROR, LIBRARIES))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def silence_int8_cast_warning() -> None:
    """Drop the one message that bitsandbytes logs at every int8 matrix product, and only that."""
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    # addFilter ignores a filter that is there already: the function is one object.
    logger.addFilter(_is_not_the_int8_cast)


def _is_not_the_int8_cast(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_INT8_CAST)


def _imported(name: str) -> Any | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


@contextlib.contextmanager
def _loggers_at(level: int, names: tuple[str, ...]) -> Iterator[None]:
    before = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(level)
        yield
    finally:
        for name, previous in before.items():
            logging.getLogger(name).setLevel(previous)


@contextlib.contextmanager
def _without_transformers_bars() -> Iterator[None]:
    library = _imported("transformers.utils.logging")
    if library is None or not library.is_progress_bar_enabled():
        yield
        return
    # transformers switches the bars of huggingface_hub together with its own.
    with _hub_bars_kept():
        library.disable_progress_bar()
    try:
        yield
    finally:
        with _hub_bars_kept():
            library.enable_progress_bar()


@contextlib.contextmanager
def _without_hub_bars() -> Iterator[None]:
    library = _imported("huggingface_hub.utils")
    if library is None or library.are_progress_bars_disabled():
        yield
        return
    # HF_HUB_DISABLE_PROGRESS_BARS=0 makes the switch a mere warning: the user's wish stands.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.disable_progress_bars()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library.enable_progress_bars()


@contextlib.contextmanager
def _hub_bars_kept() -> Iterator[None]:
    library = _imported("huggingface_hub.utils")
    disabled = library is not None and library.are_progress_bars_disabled()
    yield
    if library is not None and library.are_progress_bars_disabled() != disabled:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (library.disable_progress_bars if disabled else library.enable_progress_bars)()


@contextlib.contextmanager
def _without_tqdm() -> Iterator[None]:
    # Some loaders (GGUF) make a plain tqdm bar that no library's switch reaches, and tqdm reads
    # TQDM_DISABLE only when it is imported.
    library = _imported("tqdm.std")
    if library is None:
        yield
        return
    original = library.tqdm.__init__

    @functools.wraps(original)
    def disabled(self: Any, *args: Any, **keywords: Any) -> None:
        keywords["disable"] = True
        original(self, *args, **keywords)

    library.tqdm.__init__ = disabled
    try:
        yield
    finally:
        library.tqdm.__init__ = original
