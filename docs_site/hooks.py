"""Hooks of mkdocs: pages made of the code, and links that leave ``docs``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# mkdocs loads this file by its path.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def on_files(files: Any, *, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    from docs_site.generated import pages

    for path, text in pages(ROOT).items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Links of the pages as the site has them."""
    from docs_site.links import OVERVIEW, README, site_text

    path = page.file.src_uri
    return site_text(markdown, README if path == OVERVIEW else f"docs/{path}")
