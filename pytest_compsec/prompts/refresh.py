"""Maintenance: ``python -m pytest_compsec.prompts.refresh`` after editing a built-in set.

Recomputes the digests in ``data/sets.json`` from the files beside it. It edits the source tree and
is never part of a test run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from .builtin import INDEX, read_index, read_set


def refresh(directory: Path) -> dict[str, tuple[str, str]]:
    """Rewrite ``sets.json`` in ``directory``; returns, per changed set, the old and new digest."""
    index = dict(read_index(directory))
    changed = {}
    for name, entry in index.items():
        digest = read_set(directory, name, entry).digest
        if digest != entry.digest:
            changed[name] = (entry.digest, digest)
            index[name] = replace(entry, digest=digest)
    text = json.dumps({name: asdict(index[name]) for name in sorted(index)}, indent=2) + "\n"
    (directory / INDEX).write_text(text, encoding="utf-8")
    return changed


def main() -> None:
    """Refresh the package's own sets and print what changed."""
    changed = refresh(Path(__file__).parent / "data")
    for name, (old, new) in changed.items():
        print(f"{name}: {old or '(none)'} -> {new}")
    if not changed:
        print("sets.json is up to date")


if __name__ == "__main__":
    main()
