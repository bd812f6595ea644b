"""Several requests under way at a time, and every finished one handed on at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Result = TypeVar("Result")

#: After a failure so long (seconds) is waited for answers that are under way: the server made
#: them already. One that hangs is left alone.
GRACE = 5.0


def concurrently(
    places: Sequence[int],
    ask: Callable[[int], Result],
    *,
    concurrency: int,
    finished: Callable[[list[tuple[int, Result]]], None],
) -> None:
    """``ask(place)`` for every place, at most ``concurrency`` at a time.

    ``finished`` hears, in the calling thread, of what is done, as soon as it is. The first failure
    ends the asking; what was under way and succeeds is handed on before it is raised.
    """
    work = _Work(places, ask)
    for _ in range(min(concurrency, len(places))):
        # Not joined at the end of the process: a hanging request must not keep it.
        threading.Thread(target=work.run, daemon=True).start()
    failure: BaseException | None = None
    left = len(places)
    try:
        while left and (failure is None or work.busy):
            done, failures = work.collect(None if failure is None else GRACE)
            left -= len(done) + len(failures)
            if done:
                finished(done)
            if failures and failure is None:
                failure = failures[0]
                work.stop()
            if not done and not failures:
                break
    finally:
        work.stop()
    if failure is not None:
        raise failure


class _Work(Generic[Result]):
    def __init__(self, places: Sequence[int], ask: Callable[[int], Result]) -> None:
        self._ask = ask
        self._places = list(reversed(places))
        self._guard = threading.Lock()
        self._done: queue.SimpleQueue[tuple[int, Result | None, BaseException | None]] = (
            queue.SimpleQueue()
        )
        self._taken = 0
        self._collected = 0

    def run(self) -> None:
        while True:
            with self._guard:
                if not self._places:
                    return
                place = self._places.pop()
                self._taken += 1
            try:
                self._done.put((place, self._ask(place), None))
            except BaseException as error:
                self._done.put((place, None, error))

    def stop(self) -> None:
        with self._guard:
            self._places.clear()

    @property
    def busy(self) -> bool:
        with self._guard:
            return self._taken > self._collected

    def collect(
        self, timeout: float | None
    ) -> tuple[list[tuple[int, Result]], list[BaseException]]:
        """All that is done by now, at least one; nothing when ``timeout`` seconds bring none."""
        done: list[tuple[int, Result]] = []
        failures: list[BaseException] = []
        try:
            items = [self._done.get(timeout=timeout)]
        except queue.Empty:
            return done, failures
        while not self._done.empty():
            items.append(self._done.get())
        self._collected += len(items)
        for place, result, error in items:
            if error is not None:
                failures.append(error)
            else:
                done.append((place, result))  # type: ignore[arg-type]
        return done, failures
