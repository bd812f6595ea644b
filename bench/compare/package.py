"""This package, asked as a check asks it: through ``ModelPair.answers``, cache file and all."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from bench.compare.demo import Demo
from bench.compare.ways import ARMS, Answered, Turn, prompt_lengths
from bench.cost.work import Row
from pytest_compsec.generation.batching import plan_batches, row_limit
from pytest_compsec.generation.settings import Answer
from pytest_compsec.models.pair import ModelPair
from pytest_compsec.suite import Suite, open_suite


@dataclasses.dataclass
class ThisPackage:
    """With an empty cache, or with one that holds the original's answers and nothing else.

    Every turn opens the config anew with a cache file of its own, verifies both arms and has what
    it needs loaded before the clock starts.
    """

    key: str
    title: str
    new_tokens: int
    cached: bool
    demo: Demo
    prompts: Sequence[str]
    folder: Path

    @property
    def dtype(self) -> str:
        return self.demo.dtype

    @property
    def _kept(self) -> Path:
        return self.folder / "original.sqlite"

    def prepare(self) -> None:
        if self.cached and not self._kept.exists():
            with self._opened(self._kept) as (suite, pair):
                pair.answers(self.prompts)
                compressed = suite.identity(pair.compressed_arm)
            _forget(self._kept, compressed)

    def turn(self) -> Turn:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            file = Path(folder) / "cache.sqlite"
            if self.cached:
                shutil.copy(self._kept, file)
            with self._opened(file) as (_, pair):
                _ = pair.original_arm if self.cached else pair.original
                _ = pair.compressed
                started = time.perf_counter()
                answers = pair.answers(self.prompts)
                seconds = time.perf_counter() - started
                sheets = {"original": answers.original, "compressed": answers.compressed}
                expected = len(self.prompts) if self.cached else 0
                if answers.cached != expected:
                    raise RuntimeError(
                        f"{answers.cached} answers came from the cache, not {expected}"
                    )
        lengths = prompt_lengths(self.demo.arm("original", self.dtype), self.prompts)
        answered = tuple(
            Answered(
                arm,
                tuple(answer.text for answer in sheets[arm].answers),
                self._batches(lengths, sheets[arm].answers),
                rows_leave=True,
            )
            for arm in ARMS
        )
        return Turn(
            seconds,
            answered,
            computed=("compressed",) if self.cached else ARMS,
        )

    @contextmanager
    def _opened(self, cache: Path) -> Iterator[tuple[Suite, ModelPair]]:
        with open_suite(self.demo.config, cache_path=cache) as suite:
            suite.generation = dataclasses.replace(suite.generation, max_new_tokens=self.new_tokens)
            suite._pool = self.demo.pool  # lent: the models outlive the suite
            try:
                yield suite, suite.pair(self.demo.pair)
            finally:
                suite._pool = None

    def _batches(
        self, lengths: Sequence[int], answers: Sequence[Answer]
    ) -> tuple[tuple[Row, ...], ...]:
        """As the package plans them where memory sets no other limit."""
        return tuple(
            tuple(Row(lengths[place], answers[place].tokens) for place in batch)
            for batch in plan_batches(lengths, row_limit(self.demo.device))
        )


def _forget(file: Path, identity: str) -> None:
    """Take one arm's answers and facts out of a cache file, and the log into the file."""
    with closing(sqlite3.connect(file)) as connection:
        for table in ("answers", "facts"):
            connection.execute(f"DELETE FROM {table} WHERE identity = ?", (identity,))
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
