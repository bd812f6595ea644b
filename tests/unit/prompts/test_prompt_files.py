"""A user's own prompt files: every format, the field mapping, and every fault by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_compsec.errors import CompsecError, ConfigError
from pytest_compsec.prompts import Prompt, PromptSet, load_file, prompt_digest

EXPECTED = (
    Prompt("p1", 'Say "hi", twice', "greeting"),
    Prompt("p2", "Name a colour", "art"),
)


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows() -> list[dict[str, str]]:
    return [{"id": p.id, "prompt": p.text, "category": p.category} for p in EXPECTED]


FORMATS = {
    "own.jsonl": "\n".join(json.dumps(row) for row in rows()) + "\n\n",
    "own.ndjson": "\r\n".join(json.dumps(row) for row in rows()),
    "own.json": json.dumps(rows(), indent=1),
    "own.csv": 'prompt,id,category\n"Say ""hi"", twice",p1,greeting\n\nName a colour,p2,art\n',
    "own.tsv": "id\tcategory\tprompt\r\n"
    'p1\tgreeting\t"Say ""hi"", twice"\r\np2\tart\tName a colour',
    "OWN.CSV": '\ufeffid,prompt,category\np1,"Say ""hi"", twice",greeting\np2,Name a colour,art\n',
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_set(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, FORMATS[name])
    assert load_file(path, name="mine") == PromptSet(
        name="mine",
        version="file",
        prompts=EXPECTED,
        digest=prompt_digest(EXPECTED),
        source=str(path),
    )


def test_plain_text_skips_comments_and_blanks_and_derives_ids(tmp_path: Path) -> None:
    path = write(tmp_path, "own.txt", "# mine\n\nFirst one \r\n  # note\nSecond, with # inside\n")
    assert load_file(path, name="mine").prompts == (
        Prompt("mine-0001", "First one", "uncategorized"),
        Prompt("mine-0002", "Second, with # inside", "uncategorized"),
    )


def test_json_array_of_strings(tmp_path: Path) -> None:
    path = write(tmp_path, "own.json", '["One", "Two, [and] more"]')
    assert [p.text for p in load_file(path, name="m").prompts] == ["One", "Two, [and] more"]


def test_field_mapping_reads_other_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "own.csv", "nr,question,topic,prompt\n7,What is tea?,food,ignored\n")
    fields = {"prompt": "question", "id": "nr", "category": "topic"}
    assert load_file(path, name="m", fields=fields).prompts == (
        Prompt("7", "What is tea?", "food"),
    )


def test_ids_missing_in_some_rows_are_derived_from_their_place(tmp_path: Path) -> None:
    path = write(
        tmp_path, "own.jsonl", '{"prompt": "a"}\n{"prompt": "b", "id": 5}\n{"prompt": "c"}'
    )
    assert [p.id for p in load_file(path, name="m").prompts] == ["m-0001", "5", "m-0003"]


def test_quoted_field_may_span_lines_and_line_separators_stay_in_json(tmp_path: Path) -> None:
    path = write(tmp_path, "own.csv", 'prompt\n"first\nsecond"\n')
    assert load_file(path, name="m").prompts[0].text == "first\nsecond"
    path = write(tmp_path, "own.jsonl", '{"prompt": "a\u2028b"}\n')
    assert load_file(path, name="m").prompts[0].text == "a\u2028b"


def test_dropped_duplicates_keep_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, "own.txt", "Same one\nOther\nSAME  one\n")
    prompts = load_file(path, name="m", duplicates="drop").prompts
    assert [(p.id, p.text) for p in prompts] == [("m-0001", "Same one"), ("m-0002", "Other")]


FAULTS: dict[str, tuple[str, str | bytes, str]] = {
    "empty file": ("own.jsonl", "", r":1: .*no prompts"),
    "header alone": ("own.csv", "prompt,id\n", r":1: .*no prompts"),
    "empty array": ("own.json", " [ ] ", r":1: .*no prompts"),
    "comments alone": ("own.txt", "# a\n\n# b\n", r":1: .*no prompts"),
    "not UTF-8": ("own.txt", b"fine\ncaf\xe9\n", r":2: byte 0xe9 is not UTF-8.*Save"),
    "unknown suffix": ("own.parquet", "x", r"unknown kind.*'\.parquet'.*\.csv.*\.jsonl"),
    "no suffix": ("own", "x", r"unknown kind.*no suffix"),
    "missing column": (
        "own.csv",
        "question,topic\nWhat?,x\n",
        r":2: no column 'prompt'.*'question', 'topic'.*fields=",
    ),
    "column missing in one row": (
        "own.jsonl",
        '{"prompt": "a"}\n\n{"text": "b"}\n',
        r":3: no column 'prompt'.*'text'",
    ),
    "empty prompt": ("own.csv", "id,prompt\n1,fine\n2,  \n", r":3: .*'prompt' is empty"),
    "prompt not text": ("own.jsonl", '{"prompt": ["a"]}', r":1: .*'prompt' holds list"),
    "id not text": ("own.jsonl", '{"prompt": "a", "id": 1.5}', r":1: .*'id' holds float"),
    "category a truth value": (
        "own.jsonl",
        '{"prompt": "a", "category": true}',
        r":1: .*'category' holds bool",
    ),
    "duplicate id": (
        "own.csv",
        "id,prompt\nx,one\ny,two\nx,three\n",
        r":4: the id 'x' is already used on line 2",
    ),
    "derived id collides": (
        "own.jsonl",
        '{"prompt": "a", "id": "m-0002"}\n{"prompt": "b"}',
        r":2: the id 'm-0002' is already used on line 1",
    ),
    "duplicate prompt": (
        "own.txt",
        "Same one\nother\nsame  ONE\n",
        r":3: the same prompt as on line 1.*'same  ONE'.*duplicates='drop'",
    ),
    "too many fields": (
        "own.csv",
        "id,prompt\n1,one\n2,two, three\n",
        r":3: 3 fields where the header has 2 \(id, prompt\).*double quotes",
    ),
    "too few fields": ("own.tsv", "id\tprompt\n1\n", r":2: 1 fields where the header has 2"),
    "fault after a long record": (
        "own.csv",
        'id,prompt\n1,"one\ntwo\nthree"\n2\n',
        r":5: 1 fields",
    ),
    "open quote": ("own.csv", 'prompt\nfine\n"never closed\n', r":3: malformed record"),
    "column twice": ("own.csv", "prompt,id,prompt\na,b,c\n", r":1: .*'prompt' twice"),
    "broken JSON line": ("own.jsonl", '{"prompt": "a"}\n{"prompt": \n', r":2: not valid JSON"),
    "line not an object": ("own.jsonl", '"just text"', r":1: expected an object.*found text"),
    "item not an object": ("own.json", '["a",\n 3]', r":2: expected an object.*a number"),
    "item null": ("own.json", "[null]", r":1: expected an object.*null"),
    "not an array": ("own.json", '\n{"prompt": "a"}', r":2: expected a JSON array.*\.jsonl"),
    "broken item": ("own.json", '["a",\n"b]', r":2: not valid JSON"),
    "unclosed array": ("own.json", '["a",\n"b"', r":2: not valid JSON \(expected ',' or"),
    "text after the array": ("own.json", '["a"]\n\nmore', r":3: text after the end"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_file_line_and_remedy(tmp_path: Path, fault: str) -> None:
    name, content, message = FAULTS[fault]
    path = write(tmp_path, name, content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_file(path, name="m")
    assert str(caught.value).startswith(f"{path}:")


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(CompsecError, match=r"none\.csv: no such file"):
        load_file(tmp_path / "none.csv", name="m")
    with pytest.raises(CompsecError, match="is a directory"):
        load_file(tmp_path, name="m")


def test_mapped_column_must_exist(tmp_path: Path) -> None:
    path = write(tmp_path, "own.csv", "id,prompt\n1,a\n")
    with pytest.raises(ConfigError, match=r":2: no column 'topic'.*'id', 'prompt'"):
        load_file(path, name="m", fields={"category": "topic"})


def test_unknown_key_in_the_mapping(tmp_path: Path) -> None:
    path = write(tmp_path, "own.csv", "id,prompt\n1,a\n")
    with pytest.raises(ConfigError, match=r"unknown key 'text'.*'prompt', 'id', 'category'"):
        load_file(path, name="m", fields={"text": "prompt"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.jsonl", '{"prompt": "a", "refusal_keywords": ["no way", "never"]}\n{"prompt": "b"}'),
        ("own.csv", "prompt,refusal_keywords\na,no way | never\nb,\n"),
    ],
)
def test_a_prompt_may_bring_its_own_refusal_keywords(
    tmp_path: Path, name: str, content: str
) -> None:
    loaded = load_file(write(tmp_path, name, content), name="m")
    assert [prompt.refusal_keywords for prompt in loaded.prompts] == [("no way", "never"), ()]


def test_the_column_of_keywords_may_have_another_name(tmp_path: Path) -> None:
    path = write(tmp_path, "own.csv", "prompt,expected\na,cannot\n")
    loaded = load_file(path, name="m", fields={"refusal_keywords": "expected"})
    assert loaded.prompts[0].refusal_keywords == ("cannot",)


@pytest.mark.parametrize("value", ["5", '["a", 5]', '{"a": 1}', '["..."]', '"a||b"'])
def test_keywords_that_are_none_are_told_by_line(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, "own.jsonl", f'{{"prompt": "a", "refusal_keywords": {value}}}')
    with pytest.raises(ConfigError, match=r"own\.jsonl:1: .*'refusal_keywords'"):
        load_file(path, name="m")


def test_keywords_are_in_the_digest_and_their_absence_is_not() -> None:
    """A set without keywords keeps the digest that it had before there were any."""
    import hashlib

    plain = Prompt("1", "a", "c")
    assert prompt_digest([plain]) == hashlib.sha256(b'[["1","c","a"]]').hexdigest()
    digests = {
        prompt_digest([Prompt("1", "a", "c", keywords)])
        for keywords in ((), ("x",), ("y",), ("x", "y"))
    }
    assert len(digests) == 4
