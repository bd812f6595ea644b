"""Both models asked by the harness, with the same documents, seeds and batches.

The module is the one that was verified and loaded for the pair: nothing is loaded anew. Its batch
size is found from free memory beforehand, since the harness's own search needs an accelerator's
error and prints what it does.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.harness.opening import FEWSHOT_SEED, Harness, OpenedTask, brief
from pytest_compsec.checks.harness.samples import Row, rows_of, score_of
from pytest_compsec.errors import CompsecError, MeasurementError
from pytest_compsec.models.quiet import quiet

if TYPE_CHECKING:
    from pytest_compsec.models.loaded import LoadedModel

#: Seed of everything else that a task may draw at random.
SEED = 1234
_LIBRARIES = ("lm_eval", "datasets", "evaluate", "fsspec", "httpx", "filelock")
_REQUESTS = ("loglikelihood", "loglikelihood_rolling", "generate_until")
#: More rows bring no more speed, only more memory for logits at every position.
_MOST_ROWS = {"cpu": 16}
_MOST_ROWS_ACCELERATOR = 64
#: Of so many longest texts the tokens are counted.
_COUNTED = 8
#: Logits at every position: in the model's type, as float32, and as log-probabilities.
_LOGITS_BYTES = 12


@dataclasses.dataclass(frozen=True)
class ArmRun:
    """What the harness found with one model: rows by task, and its own figures by task and
    ``metric,filter``."""

    rows: Mapping[str, tuple[Row, ...]]
    figures: Mapping[tuple[str, str], float]


class Batches:
    """Rows of a batch by kind of request. The second model asks in no larger ones than the first
    did: rounding differs with the shape of a batch."""

    def __init__(self, rows: dict[str, int] | None = None) -> None:
        self.rows = {} if rows is None else rows

    def at_most(self, kind: str, rows: int) -> int:
        self.rows[kind] = max(1, min(rows, self.rows.get(kind, rows)))
        return self.rows[kind]

    def halve(self) -> bool:
        """Whether any could be made smaller."""
        smaller = {kind: max(1, rows // 2) for kind, rows in self.rows.items()}
        changed = smaller != self.rows
        self.rows = smaller
        return changed


@contextlib.contextmanager
def harness_quiet() -> Iterator[None]:
    """Keep what the harness and its libraries print, log and warn of off the screen."""
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    levels = [logger.level for logger in loggers]
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def run_arm(
    harness: Harness,
    opened: Sequence[OpenedTask],
    model: LoadedModel,
    limit: int | float | None,
    batches: Batches,
) -> ArmRun:
    """Ask one model every document of every task (of ``limit``, the first ones).

    Raises MeasurementError for a model that is no torch module here (a served one), and for
    whatever goes wrong inside the harness.
    """
    from pytest_compsec.generation.batching import is_out_of_memory, release_memory

    tasks = {name: task for one in opened for name, task in one.tasks.items()}
    types = {facts.name: facts.output_type for one in opened for facts in one.facts}
    module = model.module  # MeasurementError where there is none, before anything else
    while True:
        try:
            with _untouched(module), own_random_state(model.device):
                found = _evaluate(harness, tasks, model, limit, batches)
            break
        except CompsecError:
            raise
        except Exception as error:
            if is_out_of_memory(error) and batches.halve():
                release_memory()
                continue
            raise MeasurementError(
                f"lm-evaluation-harness failed on {model.arm.name}: {brief(error)}"
            ) from error
    samples = found["samples"]
    return ArmRun(
        rows={name: rows_of(name, samples.get(name, ()), types[name]) for name in tasks},
        figures={
            (name, str(key)): float(figure)
            for name in tasks
            for key, value in found["results"].get(name, {}).items()
            if "_stderr," not in str(key) and (figure := score_of(value)) is not None
        },
    )


def _evaluate(
    harness: Harness,
    tasks: Mapping[str, Any],
    model: LoadedModel,
    limit: int | float | None,
    batches: Batches,
) -> Any:
    for task in tasks.values():
        if task.config.num_fewshot is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)  # anew for each model: drawing moves it on
    wrapped = harness.models.HFLM(
        pretrained=model.module,
        tokenizer=copy.deepcopy(model.tokenizer),  # it sets the padding of the one it is given
        batch_size=1,
        device=model.device,
    )
    for kind in _REQUESTS:
        setattr(wrapped, kind, _planned(wrapped, kind, model, batches))
    found = harness.evaluator.evaluate(
        lm=wrapped,
        task_dict={"tasks": dict(tasks), "groups": {}},
        limit=limit,
        bootstrap_iters=0,  # its standard errors are of no use here
        log_samples=True,
        confirm_run_unsafe_code=False,
    )
    if found is None:
        raise MeasurementError(
            "lm-evaluation-harness runs as one of several processes here (LOCAL_RANK) and gave no "
            "result"
        )
    return found


def _planned(wrapped: Any, kind: str, model: LoadedModel, batches: Batches) -> Callable[..., Any]:
    """The harness's method for one kind of request, in batches that fit into memory."""
    ask = getattr(wrapped, kind)

    def planned(requests: Any, *arguments: Any, **named: Any) -> Any:
        new_tokens = wrapped.max_gen_toks if kind == "generate_until" else 0
        texts = ["".join(one for one in r.args if isinstance(one, str)) for r in requests]
        rows = _rows_that_fit(model, texts, wrapped.max_length, new_tokens)
        wrapped.batch_size_per_gpu = batches.at_most(kind, rows)
        return ask(requests, *arguments, **named)

    return planned


def _rows_that_fit(
    model: LoadedModel, texts: Sequence[str], most_tokens: int, new_tokens: int
) -> int:
    from pytest_compsec.generation.batching import free_memory, memory_budget, memory_need

    most = _MOST_ROWS.get(model.device.partition(":")[0], _MOST_ROWS_ACCELERATOR)
    budget = memory_budget(free_memory(model.device))
    if budget is None or not texts:
        return most
    longest = sorted(texts, key=lambda text: len(text.encode("utf-8", "replace")))[-_COUNTED:]
    width = min(max(len(model.tokenizer.encode(text)) for text in longest) + 1, most_tokens)
    vocabulary = int(getattr(model.module.config, "vocab_size", 0) or len(model.tokenizer))
    a_row = memory_need(model.module).of_batch(1, width, new_tokens)
    if new_tokens == 0:
        a_row += _LOGITS_BYTES * width * vocabulary
    rows = min(most, budget // a_row)
    return 1 << (rows.bit_length() - 1) if rows > 0 else 1


@contextlib.contextmanager
def _untouched(module: Any) -> Iterator[None]:
    """The harness ties the weights of a model that it is given: of a compressed one that would put
    the original's embedding in the place of a layer that was compressed."""
    module.tie_weights = lambda *arguments, **named: None
    try:
        yield
    finally:
        del module.tie_weights


@contextlib.contextmanager
def own_random_state(device: str = "cpu") -> Iterator[None]:
    """Fixed seeds for what a task draws at random; everyone else's state is put back."""
    import numpy as np
    import torch

    state, array_state = random.getstate(), np.random.get_state()
    devices = [torch.device(device)] if device.startswith("cuda") else []
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(SEED)
            np.random.seed(SEED)
            torch.default_generator.manual_seed(SEED)
            if devices:
                torch.cuda.manual_seed(SEED)
            yield
    finally:
        random.setstate(state)
        np.random.set_state(array_state)
