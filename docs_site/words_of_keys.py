"""What the keys of ``compsec.yaml`` mean, from the text below each field in the code.

pydantic can do this itself (``use_attribute_docstrings``), but then reads and parses the source of
every section whenever the config is imported, which takes longer than the import.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from docs_site.words_of_methods import METHOD_KEYS, OF_ONE_METHOD
from pytest_compsec.compression.methods import sections
from pytest_compsec.compression.options.base import Options
from pytest_compsec.config.base import Section


@functools.cache
def words_of(section: str) -> dict[str, str]:
    """Key -> sentence, of the section with this class name."""
    found: dict[str, str] = {}
    for kind in _subclasses(Section, Options):
        if kind.__name__ != section:
            continue
        for one in reversed(kind.__mro__):
            found |= _below_fields(one)
        if issubclass(kind, Options):
            known = {**METHOD_KEYS, **OF_ONE_METHOD.get(section, {})}
            found |= {key: known[key] for key in kind.model_fields if key in known}
        found |= {
            key: f"Derives the form from the original, by one of the methods of `{key}` below."
            for key in sections()
            if key in kind.model_fields
        }
    return found


def _subclasses(*bases: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for base in bases:
        yield base
        yield from _subclasses(*base.__subclasses__())


def _below_fields(kind: type) -> Mapping[str, str]:
    """Of the class alone. Classes that no source file has (made by a function) have none."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):
        return {}
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[field.target.id] = inspect.cleandoc(below.value.value)
    return found
