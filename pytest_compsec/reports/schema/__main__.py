"""``python -m pytest_compsec.reports.schema [--unpublished]``: write the schema anew.

Refuses what readers of the published one could trip over. ``--unpublished``: nobody has it yet.
"""

from __future__ import annotations

import sys

from pytest_compsec.atomic import write_atomically
from pytest_compsec.reports.schema import SCHEMA_FILE, report_schema
from pytest_compsec.reports.schema.generating import made_schema, schema_text


def main(arguments: list[str]) -> int:
    """0: written; 1: refused; 2: usage."""
    if arguments not in ([], ["--unpublished"]):
        print(__doc__, file=sys.stderr)
        return 2
    published = report_schema() if SCHEMA_FILE.exists() and not arguments else None
    try:
        text = schema_text(made_schema(published))
    except (ValueError, LookupError) as error:
        print(f"not written: {error}", file=sys.stderr)
        return 1
    write_atomically(SCHEMA_FILE, text)
    print(f"wrote {SCHEMA_FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
