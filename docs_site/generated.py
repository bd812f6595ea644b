"""The pages that are made of the code, so that they say what it says."""

from __future__ import annotations

from pathlib import Path

from docs_site.commands_page import commands_page
from docs_site.config_page import config_page
from docs_site.links import OVERVIEW, README
from docs_site.markers_page import markers_page
from docs_site.options_page import options_page
from docs_site.report_page import SCHEMA_NAME, report_page, schema_text


def pages(root: Path) -> dict[str, str]:
    """Path in the site and text of each; ``root`` is the repository's."""
    return {
        OVERVIEW: (root / README).read_text(encoding="utf-8"),
        "reference/markers.md": markers_page(),
        "reference/options.md": options_page(),
        "reference/commands.md": commands_page(),
        "reference/config.md": config_page(),
        "reference/report.md": report_page(),
        f"reference/{SCHEMA_NAME}": schema_text(),
    }
