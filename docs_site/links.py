"""Links of a page, as they must be in the site.

The pages are also read where the repository is shown as files, so they link to files outside
``docs``. In the site the README is the page ``overview.md``; other files are only named.
"""

from __future__ import annotations

import posixpath
import re

#: The page that the site makes of the README.
OVERVIEW = "overview.md"
README = "README.md"
_DOCS = "docs"
_FENCE = re.compile(r"^ *(```|~~~)")
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^()\s]+)\)")


def site_text(text: str, page: str) -> str:
    """The Markdown of ``page`` (its path in the repository) with the links that the site has.

    What stands in fenced blocks is no link.
    """
    lines, fenced = [], False
    for part in re.split(r"(^ *(?:```|~~~)[^\n]*\n?)", text, flags=re.MULTILINE):
        if _FENCE.match(part):
            fenced = not fenced
        elif not fenced:
            part = _IMAGE.sub(lambda match: _image(match, page), part)
            part = _LINK.sub(lambda match: _link(match, page), part)
        lines.append(part)
    return "".join(lines)


def _link(match: re.Match[str], page: str) -> str:
    text, target = match.groups()
    where = site_target(target, page)
    if where is not None:
        return f"[{text}]({where})"
    path = _path(target.partition("#")[0], page)
    return text if text.startswith("`") and text.endswith("`") else f"{text} (`{path}`)"


def _image(match: re.Match[str], page: str) -> str:
    where = site_target(match[2], page)
    return match[0] if where is None else f"![{match[1]}]({where})"


def site_target(target: str, page: str) -> str | None:
    """Where a link of ``page`` leads in the site; None: to a file that the site does not have."""
    if re.match(r"[a-z]+:|#|/", target):
        return target
    name, mark, anchor = target.partition("#")
    path = _path(name, page)
    if path == README:
        path = f"{_DOCS}/{OVERVIEW}"
    if not path.startswith(f"{_DOCS}/"):
        return None
    # The README's page lies in docs, wherever its text came from.
    folder = _DOCS if page == README else posixpath.dirname(page)
    return posixpath.relpath(path, folder) + mark + anchor


def _path(name: str, page: str) -> str:
    """The path in the repository of what ``page`` calls ``name``."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), name))
