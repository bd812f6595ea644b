"""An extension of griffe: docstrings as Markdown before mkdocstrings shows them."""

from __future__ import annotations

from typing import Any

import griffe

from docs_site.text import plain_roles


class PlainRoles(griffe.Extension):
    """Cross references of reStructuredText become code."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = plain_roles(obj.docstring.value)
