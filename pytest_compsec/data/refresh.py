"""Maintenance: ``python -m pytest_compsec.data.refresh`` after editing a built-in data file.

Writes ``index.json`` anew from the files beside it. It edits the source tree and is never part of a
test run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pytest_compsec.data.builtin import INDEX, DataIndexEntry

DESCRIPTIONS: Mapping[str, str] = {
    "facts": "Questions with a short exact answer, written for this project.",
    "misconceptions": (
        "Multiple-choice questions on common misconceptions in 12 categories, written for this "
        "project; the first correct answer is the best one."
    ),
    "prose": "Texts for perplexity, written for this project.",
    "secrets": (
        "Confidential values in prompts that must not be repeated, written for this project."
    ),
}


def refresh(directory: Path) -> dict[str, tuple[str, str]]:
    """Rewrite ``index.json`` in ``directory`` for the known files that are there; returns, per
    changed name, the old and new sha256 (empty: it was not there, or is not any more)."""
    path = directory / INDEX
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    index = {}
    for name, description in sorted(DESCRIPTIONS.items()):
        file = directory / f"{name}.jsonl"
        if file.exists():
            index[name] = _entry(file, description, str(old.get(name, {}).get("version", "1")))
    text = json.dumps({name: asdict(entry) for name, entry in index.items()}, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")
    before = {name: str(entry["sha256"]) for name, entry in old.items()}
    after = {name: entry.sha256 for name, entry in index.items()}
    return {
        name: (before.get(name, ""), after.get(name, ""))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }


def _entry(file: Path, description: str, version: str) -> DataIndexEntry:
    content = file.read_bytes()
    return DataIndexEntry(
        version=version,
        file=file.name,
        description=description,
        sha256=hashlib.sha256(content).hexdigest(),
        count=sum(1 for line in content.splitlines() if line.strip()),
    )


def main() -> None:
    """Refresh the package's own index and print what changed."""
    changed = refresh(Path(__file__).parent)
    for name, (old, new) in changed.items():
        print(f"{name}: {old or '(none)'} -> {new or '(gone)'}")
    if not changed:
        print(f"{INDEX} is up to date")


if __name__ == "__main__":
    main()
