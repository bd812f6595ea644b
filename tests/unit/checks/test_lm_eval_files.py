"""Which task files the harness is given: pinned bytes only, and nothing that they lead out to."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_compsec.checks.harness.files import PinnedFiles, Staged, pinned_files
from pytest_compsec.checks.harness.opening import _members, _with_staged_data
from pytest_compsec.data import DataFile
from pytest_compsec.errors import ConfigError, IntegrityError, MeasurementError

TASK = "task: own\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n"


@dataclasses.dataclass
class Pair:
    """A config with files under ``data``, and the reading of pinned ones."""

    root: Path
    names: dict[str, str]
    config_name: str = "compsec.yaml"
    changed: str | None = None

    @property
    def suite(self) -> Any:
        data = {name: SimpleNamespace(file=file) for name, file in self.names.items()}
        return SimpleNamespace(
            config=SimpleNamespace(root=self.root, config=SimpleNamespace(data=data))
        )

    def data(self, name: str) -> DataFile:
        if name == self.changed:
            raise IntegrityError(f"the data {name!r} are not what the lock pins")
        file = self.names[name]
        return DataFile(name, file, Path(file).suffix, "file", (self.root / file).read_bytes())


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def pair(tmp_path: Path) -> Any:
    write(tmp_path, tasks__own_yaml=TASK, tasks__rows_jsonl='{"q": 1}\n')
    return Pair(tmp_path, {"own": "./tasks/own.yaml", "rows": "tasks/../tasks/rows.jsonl"})


def staged(pair: Any, tmp_path: Path) -> Staged:
    directory = tmp_path / "private"
    directory.mkdir()
    return Staged(pinned_files(pair, "tasks"), directory)


def test_the_harness_gets_a_copy_of_the_pinned_bytes(pair: Any, tmp_path: Path) -> None:
    copies = staged(pair, tmp_path)
    copies.require_closed()
    assert (copies.include / "own.yaml").read_text(encoding="utf-8") == TASK
    assert {file.name for file in copies.used} == {"own", "rows"}
    (tmp_path / "tasks" / "rows.jsonl").write_text("{}", encoding="utf-8")
    assert (copies.include / "rows.jsonl").read_text(encoding="utf-8") == '{"q": 1}\n'


def test_files_that_are_not_pinned_are_named_with_the_lines_to_add(
    pair: Any, tmp_path: Path
) -> None:
    write(tmp_path, tasks__more__own_yaml="task: x\n", tasks__utils_py="x = 1\n")
    with pytest.raises(MeasurementError) as caught:
        pinned_files(pair, "tasks")
    text = str(caught.value)
    assert "would read what compsec.yaml does not pin" in text
    # Names that are free, and paths as the config has them.
    assert "`own-yaml: {file: ./tasks/more/own.yaml}`" in text
    assert "`utils: {file: ./tasks/utils.py}`" in text
    assert "compsec pin" in text


def test_what_the_harness_does_not_read_need_not_be_pinned(pair: Any, tmp_path: Path) -> None:
    write(tmp_path, tasks__README_md="# Tasks\n")
    (tmp_path / "tasks" / ".hidden").write_text("", encoding="utf-8")
    (tmp_path / "tasks" / "__pycache__").mkdir()
    (tmp_path / "tasks" / "__pycache__" / "utils.pyc").write_bytes(b"")
    copies = staged(pair, tmp_path)
    assert sorted(path.name for path in copies.include.rglob("*")) == ["own.yaml", "rows.jsonl"]


def test_other_bytes_than_the_locks_are_an_integrity_error(pair: Any) -> None:
    pair.changed = "rows"
    with pytest.raises(IntegrityError):
        pinned_files(pair, "tasks")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "no directory"),
        ("empty", "no file"),
        (".", "of their own"),
        ("..", "of their own"),
    ],
)
def test_an_include_path_without_tasks(pair: Any, path: str, message: str) -> None:
    (pair.root / "empty").mkdir()
    with pytest.raises(MeasurementError, match=message):
        pinned_files(pair, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include: ../outside.yaml\n", r"tasks/own.yaml:1: includes '\.\./outside.yaml'"),
        ("include: [rows.jsonl, /etc/hostname]\n", "includes '/etc/hostname'"),
        ("x: &a {include: other.yaml}\n<<: *a\n", "own.yaml:1: includes 'other.yaml'"),
        ("task: a\nprocess_docs: !function utils.f\n", r"own.yaml:2: !function utils.f is in no"),
        ("metric_list:\n- {metric: !function os.getcwd}\n", r"own.yaml:2: !function os.getcwd"),
        ("doc_to_text: !function /tmp/x.f\n", "is in no Python file beside it"),
        ("task: [\n", r"tasks/own.yaml:2: is not valid YAML"),
        ("- a\n", "own.yaml:1: must be a mapping"),
        ("task: a\n---\ntask: b\n", "is not valid YAML"),
    ],
)
def test_a_task_file_may_not_lead_out_of_the_pinned_files(
    pair: Any, tmp_path: Path, text: str, message: str
) -> None:
    write(tmp_path, tasks__own_yaml=text, outside_yaml="task: x\n")
    with pytest.raises(ConfigError, match=message):
        staged(pair, tmp_path).require_closed()


def test_functions_of_pinned_files_and_of_the_harness_are_allowed(
    pair: Any, tmp_path: Path
) -> None:
    text = "include: base.yaml\na: !function utils.f\nb: !function lm_eval.tasks.mmlu.utils.g\n"
    write(tmp_path, tasks__own_yaml=text, tasks__base_yaml="x: &x {y: *x}\n", tasks__utils_py="")
    pair.names |= {"base": "tasks/base.yaml", "utils": "tasks/utils.py"}
    staged(pair, tmp_path).require_closed()


# --- data files


def entry(copies: Staged, **config: Any) -> Any:
    return SimpleNamespace(name="own", yaml_path=copies.include / "own.yaml", cfg=config)


@pytest.mark.parametrize("named", ["rows.jsonl", "tasks/rows.jsonl", "./rows.jsonl"])
def test_a_data_file_is_found_beside_its_task_or_from_the_config(
    pair: Any, tmp_path: Path, named: str
) -> None:
    copies = staged(pair, tmp_path)
    config = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": [named]}, "x": 1}}
    found = _with_staged_data(entry(copies, **config), copies)
    assert found["dataset_kwargs"]["data_files"] == {"test": [str(copies.include / "rows.jsonl")]}
    assert found["dataset_kwargs"]["x"] == 1
    assert found["dataset_kwargs"]["cache_dir"].startswith(str(copies.directory))
    assert json.loads(json.dumps(found))["include"] == str(copies.include / "own.yaml")


def test_a_pinned_data_file_elsewhere_is_copied_too(pair: Any, tmp_path: Path) -> None:
    write(tmp_path, big__rows_jsonl='{"q": 2}\n')
    pair.names["big"] = "./big/rows.jsonl"
    copies = staged(pair, tmp_path)
    found = copies.data_path("big/rows.jsonl", copies.include / "own.yaml")
    assert found.read_text(encoding="utf-8") == '{"q": 2}\n'
    assert copies.directory in found.parents
    assert {file.name for file in copies.used} == {"own", "rows", "big"}


@pytest.mark.parametrize(
    "config",
    [
        {"dataset_path": "json", "dataset_kwargs": {"data_files": "other.jsonl"}},
        {"dataset_path": "json", "dataset_kwargs": {"data_files": "*.jsonl"}},
        {"dataset_path": "json", "dataset_kwargs": {"data_files": "https://example.org/x.jsonl"}},
        {"dataset_path": "csv", "dataset_kwargs": {"data_dir": "tasks"}},
        {"dataset_path": "json"},
        {"dataset_path": "./tasks"},
        {"dataset_path": "/srv/data"},
    ],
)
def test_data_that_nothing_pins_are_not_measured(
    pair: Any, tmp_path: Path, config: dict[str, Any]
) -> None:
    copies = staged(pair, tmp_path)
    with pytest.raises(MeasurementError, match=r"data"):
        _with_staged_data(entry(copies, **config), copies)


def test_a_name_that_could_be_two_files_is_refused(pair: Any, tmp_path: Path) -> None:
    write(tmp_path, rows_jsonl="{}\n")
    pair.names["other"] = "rows.jsonl"
    copies = staged(pair, tmp_path)
    with pytest.raises(MeasurementError, match="could be two files"):
        copies.data_path("rows.jsonl", copies.include / "own.yaml")


def test_data_of_the_hub_are_left_as_they_are(pair: Any, tmp_path: Path) -> None:
    copies = staged(pair, tmp_path)
    config = {"dataset_path": "org/set", "dataset_kwargs": {"revision": "main"}}
    assert "dataset_kwargs" not in _with_staged_data(entry(copies, **config), copies)


def test_members_of_a_group_are_names_and_no_tasks_of_their_own() -> None:
    inner = {"group": "inner", "task": ["b", {"task": "c", "num_fewshot": 2}]}
    assert list(_members("g", {"group": "g", "task": ["a", inner]})) == ["a", "b", "c"]
    for config in (
        {"task": [{"task": "x", "dataset_path": "json"}]},
        {"task": ["a"], "dataset_kwargs": {"data_files": "x.jsonl"}},
        {"task": [{"group": "inner", "task": [{"task": "x", "custom_dataset": "f"}]}]},
    ):
        with pytest.raises(MeasurementError, match="give every task a file of its own"):
            list(_members("g", config))


def test_pinned_files_show_paths_as_the_config_has_them(tmp_path: Path) -> None:
    files = PinnedFiles(tmp_path / "tasks", tmp_path, {}, {}, lambda name: pytest.fail(name))
    assert files.shown(tmp_path / "tasks" / "x.yaml") == "tasks/x.yaml"
    assert files.shown(tmp_path.parent / "x.yaml") == "../x.yaml"
