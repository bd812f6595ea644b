"""The harness and its tasks: opened, looked at, and nothing of the user's read that is not pinned.

Registered tasks come with the installed harness; their data come from the hub. Local ones are read
from the staged copies of :mod:`.files`, and their data files are named anew: the harness would look
for them in the directory where pytest happens to run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_compsec.checks.harness.files import Staged
from pytest_compsec.checks.harness.metrics import MetricFacts, TaskFacts, chosen_metrics
from pytest_compsec.errors import CompsecError, MeasurementError, MissingExtraError

#: Examples in a prompt are the same ones for both models, and in every run.
FEWSHOT_SEED = 1234
#: Builders of the datasets library that read files which a task names.
_FILE_BUILDERS = frozenset({"json", "csv", "text", "parquet", "arrow"})
#: Keys that make an entry of a group a task of its own, whose data nothing would pin.
_INLINE_KEYS = frozenset({"dataset_path", "dataset_kwargs", "custom_dataset", "class", "include"})
_NAMED = 8


@dataclasses.dataclass(frozen=True)
class Harness:
    """The harness's modules and their versions."""

    tasks: Any
    evaluator: Any
    models: Any
    registry: Any
    versions: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class OpenedTask:
    """What a user called ``name``: a task, or a group of them. ``tasks`` are the harness's own
    objects by name, ``facts`` what they say of themselves."""

    name: str
    tasks: Mapping[str, Any]
    facts: tuple[TaskFacts, ...]


def import_harness() -> Harness:
    """Import lm-evaluation-harness. Raises MissingExtraError where it, or what its tasks need, is
    not installed."""
    try:
        return Harness(
            tasks=importlib.import_module("lm_eval.tasks"),
            evaluator=importlib.import_module("lm_eval.evaluator"),
            models=importlib.import_module("lm_eval.models.huggingface"),
            registry=importlib.import_module("lm_eval.api.registry"),
            versions={name: importlib.metadata.version(name) for name in ("lm_eval", "datasets")},
        )
    except ImportError as error:
        missing = (error.name or "lm_eval").partition(".")[0]
        raise MissingExtraError(missing, "lm-eval", "lm_eval_preserved") from error


def open_tasks(
    harness: Harness,
    names: Sequence[str],
    metric: str | None,
    staged: Staged | None,
    directory: Path,
) -> tuple[OpenedTask, ...]:
    """Open the tasks and groups called ``names``, with their documents. ``directory`` is private
    and empty but for what is ``staged``.

    Raises MeasurementError for a name that the harness does not know, a task that cannot be opened
    (no network, a mistake in its file), one without the ``metric``, and one marked as unsafe.
    """
    manager = _manager(harness, names, staged)
    for name in names:
        if name not in manager.task_index:
            raise MeasurementError(_unknown(name, manager, staged))
        # Before it is opened: such a task's file may run code as soon as it is imported.
        if (manager.task_index[name].cfg or {}).get("unsafe_code"):
            raise MeasurementError(_unsafe(name))
    opened = []
    for name in names:
        found = _opened(harness, manager, name, staged, directory)
        chosen_metrics(metric, found.facts, name)  # before anything is computed
        opened.append(found)
    return tuple(opened)


def _manager(harness: Harness, names: Sequence[str], staged: Staged | None) -> Any:
    """The harness's index of tasks. Its own thousands are left out where no name needs them."""
    if staged is None:
        return harness.tasks.TaskManager()
    staged.require_closed()
    local = harness.tasks.TaskManager(include_path=str(staged.include), include_defaults=False)
    generated = staged.directory / "generated"
    generated.mkdir()
    wanted = set(names)
    for place, entry in enumerate(local.task_index.values()):
        if entry.kind.name == "GROUP":
            wanted |= set(_members(entry.name, entry.cfg or {}))
        elif entry.yaml_path is not None:
            text = json.dumps(_with_staged_data(entry, staged))  # JSON is YAML
            (generated / f"{place}.yaml").write_text(text, encoding="utf-8")
    return harness.tasks.TaskManager(
        include_path=[str(staged.include), str(generated)],
        include_defaults=not wanted <= set(local.task_index),
    )


def _members(group: str, config: Mapping[str, Any]) -> Iterator[str]:
    """The names in a local group. Raises MeasurementError for a task that is written out in it."""
    entries = config.get("task")
    inner = [config, *(one for one in entries or () if isinstance(one, dict))]
    for one in inner:
        if _INLINE_KEYS & one.keys():
            raise MeasurementError(
                f"the group {group!r} describes a task or its data "
                f"({', '.join(sorted(_INLINE_KEYS & one.keys()))}): give every task a file of its "
                "own, whose data can be pinned"
            )
    for one in entries if isinstance(entries, list) else ():
        if isinstance(one, dict) and isinstance(one.get("task"), list):
            yield from _members(group, one)
        else:
            yield str(one.get("task", one.get("group")) if isinstance(one, dict) else one)


def _with_staged_data(entry: Any, staged: Staged) -> dict[str, Any]:
    """A task file that includes the user's own and names the copies of its data files."""
    found: dict[str, Any] = {"task": entry.name, "include": str(entry.yaml_path)}
    config = entry.cfg or {}
    kwargs = dict(config.get("dataset_kwargs") or {})
    source = config.get("dataset_path")
    path = Path(entry.yaml_path)
    if source in _FILE_BUILDERS:
        if "data_files" not in kwargs or "data_dir" in kwargs:
            raise MeasurementError(
                f"the task {entry.name!r} reads {source} files and does not name them: list them "
                "under dataset_kwargs: data_files"
            )
        kwargs["data_files"] = _staged_names(kwargs["data_files"], staged, path)
        # Nothing that an earlier run left in a shared cache takes the place of the pinned bytes.
        kwargs["cache_dir"] = str(staged.directory / "cache")
        found["dataset_kwargs"] = kwargs
    elif isinstance(source, str) and source.startswith((".", "/", "~")):
        raise MeasurementError(
            f"the task {entry.name!r} names the directory {source!r}: name the files in it instead "
            "(dataset_path: json, dataset_kwargs: data_files), and list them under 'data'"
        )
    elif local := _local_names([kwargs.get("data_files"), kwargs.get("data_dir")]):
        # Another builder of the library (imagefolder, pandas, xml) would read it as it is.
        raise MeasurementError(
            f"the task {entry.name!r} reads {local[0]!r}, which nothing pins: name the files of "
            "dataset_path: json, csv, text, parquet or arrow, and list them under 'data'"
        )
    return found


def _local_names(named: Any) -> list[str]:
    """Those of the names in ``named`` that are paths of this machine."""
    if isinstance(named, Mapping):
        named = list(named.values())
    if isinstance(named, (list, tuple)):
        return [path for one in named for path in _local_names(one)]
    text = "" if named is None else str(named)
    return [text] if text.startswith(("/", ".", "~", "file:")) or Path(text).is_absolute() else []


def _staged_names(named: Any, staged: Staged, task_file: Path) -> Any:
    if isinstance(named, Mapping):
        return {split: _staged_names(one, staged, task_file) for split, one in named.items()}
    if isinstance(named, (list, tuple)):
        return [_staged_names(one, staged, task_file) for one in named]
    return str(staged.data_path(str(named), task_file))


def _unknown(name: str, manager: Any, staged: Staged | None) -> str:
    own = [
        key
        for key, entry in manager.task_index.items()
        if staged is not None
        and entry.yaml_path is not None
        and staged.directory in Path(entry.yaml_path).parents
    ]
    close = difflib.get_close_matches(name, manager.all_tasks, n=3)
    hints = [f"did you mean {' or '.join(repr(one) for one in close)}?"] if close else []
    if staged is not None:
        where = staged.pinned.shown(staged.pinned.include)
        hints.append(f"{where} has {', '.join(sorted(own)[:_NAMED]) or 'no task'}")
    else:
        hints.append("a task file of your own is found with include_path=...")
    return f"lm-evaluation-harness knows no task {name!r}; {'; '.join(hints)}"


def _opened(
    harness: Harness, manager: Any, name: str, staged: Staged | None, directory: Path
) -> OpenedTask:
    try:
        # The datasets library takes a directory that is called as a data set for that data set.
        with _working_in(directory), _uncounted():
            tasks: dict[str, Any] = manager.load([name])["tasks"]
        facts = tuple(_facts(harness, leaf, task, manager, staged) for leaf, task in tasks.items())
    except CompsecError:
        raise
    except Exception as error:  # whatever a task file, a data set or the network makes of it
        raise MeasurementError(
            f"lm-evaluation-harness cannot open the task {name!r}: {brief(error)}"
        ) from error
    if not tasks:
        raise MeasurementError(f"the group {name!r} has no task")
    for leaf, task in tasks.items():
        _require_safe(leaf, task)
    return OpenedTask(name, tasks, facts)


def _require_safe(name: str, task: Any) -> None:
    """Raise MeasurementError for a task that runs what the model wrote, and for a metric that the
    harness did not find."""
    if getattr(task, "UNSAFE_CODE", False):
        raise MeasurementError(_unsafe(name))
    functions = getattr(task, "_metric_fn_list", {})
    if getattr(task.config, "process_results", None) is None:
        for metric, function in functions.items():
            if function is None:
                raise MeasurementError(
                    f"the task {name!r} names the metric {metric!r}, which neither the harness nor "
                    "the evaluate library (which looks on the hub) offers"
                )


def _unsafe(name: str) -> str:
    return (
        f"the task {name!r} is marked as unsafe: it runs code that the model wrote, which "
        "pytest-compsec never does. Leave it out"
    )


def _facts(
    harness: Harness, name: str, task: Any, manager: Any, staged: Staged | None
) -> TaskFacts:
    config = task.config
    kwargs = getattr(config, "dataset_kwargs", None) or {}
    higher = task.higher_is_better()
    names = {function: key for key, function in harness.registry.AGGREGATION_REGISTRY.items()}
    source = getattr(config, "dataset_path", None) or task.DATASET_PATH
    own = callable(getattr(config, "custom_dataset", None)) or source is None
    local = staged is not None and kwargs.get("cache_dir") == str(staged.directory / "cache")
    return TaskFacts(
        name=name,
        version=str(getattr(task, "VERSION", None)),
        output_type=str(task.OUTPUT_TYPE),
        metrics=tuple(
            MetricFacts(metric, higher.get(metric), names.get(function))
            for metric, function in task.aggregation().items()
        ),
        num_fewshot=int(getattr(config, "num_fewshot", None) or 0),
        documents=len(task.eval_docs),
        data="pinned" if local else "code" if own else "hub",
        dataset_path=source,
        dataset_name=getattr(config, "dataset_name", None) or task.DATASET_NAME,
        revision=kwargs.get("revision"),
    )


@contextlib.contextmanager
def _working_in(directory: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _uncounted() -> Iterator[None]:
    """Without the request by which the datasets library tells the hub that a builder was used."""
    config = importlib.import_module("datasets.config")
    before = getattr(config, "HF_UPDATE_DOWNLOAD_COUNTS", None)
    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS = before  # type: ignore[attr-defined]


def brief(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
