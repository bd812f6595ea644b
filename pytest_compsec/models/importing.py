"""Import the libraries that loading a model needs while its files are hashed.

Hashing leaves the interpreter to others, and whoever waits for it would import torch and
transformers right afterwards, for seconds. Done in the waiting thread, so that no module is ever
imported by two threads at once. No file of a model is opened here.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence

#: In this order. torch is asked for the device of every arm, also where all answers are cached;
#: the others are needed only to load one.
LIBRARIES = ("torch", "transformers", "transformers.modeling_utils", "transformers.generation")


def import_libraries(waiting: Callable[[], bool], names: Sequence[str] = LIBRARIES) -> None:
    """Import ``names`` one after the other for as long as ``waiting()`` is true.

    A library that fails to import is left to whoever needs it, and can say what for.
    """
    for name in names:
        if not waiting():
            return
        if name not in sys.modules:
            # Under `-W error` a deprecation inside a library would break its import for good.
            with warnings.catch_warnings(), contextlib.suppress(Exception):
                warnings.simplefilter("ignore")
                importlib.import_module(name)
