"""The same rows come out of every kind of file, as they stand there; what cannot be read is named."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import socket
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from lightning_unlearn.data import FileRecords, InMemoryRecords, Records

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
datasets = pytest.importorskip("datasets")

# What tables like to turn into numbers, nulls, dates or truth, and what ends lines.
ROWS = [
    {"question": "Which agent?", "answer": "007", "who": "NA"},
    {"question": "How many,\nabout?", "answer": "1e5", "who": "null"},
    {"question": 'Who said "no"?', "answer": "True", "who": ""},
    {"question": "When?\u2028And where?", "answer": "2024-01-02", "who": "nan"},
    {"question": "Wer? Müller, 丸", "answer": " 1.0 ", "who": "None"},
]


def lines(rows: list[Any]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"


def tabular(rows: list[dict[str, str]], path: Path, delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def arrow_file(rows: list[Any], path: Path) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def zipped(path: Path, members: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


# How the same rows are written; a new kind of file joins here.
KINDS: dict[str, Any] = {
    "rows.jsonl": lambda path: path.write_text(lines(ROWS), encoding="utf-8"),
    "rows.ndjson": lambda path: path.write_bytes(lines(ROWS).replace("\n", "\r\n").encode()),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "bom.json": lambda path: path.write_text(json.dumps(ROWS), encoding="utf-8-sig"),
    "lines.json": lambda path: path.write_text(lines(ROWS), encoding="utf-8"),
    "list.jsonl": lambda path: path.write_text(json.dumps(ROWS)),
    "pretty.jsonl": lambda path: path.write_text("\n".join(json.dumps(row, indent=1) for row in ROWS)),
    "object.json": lambda path: path.write_text(json.dumps({"version": "1.1", "data": ROWS, "tags": ["a", "b"]})),
    "columns.json": lambda path: path.write_text(json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]})),
    "rows.csv": lambda path: tabular(ROWS, path, ","),
    "rows.tsv": lambda path: tabular(ROWS, path, "\t"),
    "rows.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(ROWS), path),
    "rows.arrow": lambda path: arrow_file(ROWS, path),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(ROWS).encode())),
    "rows.json.bz2": lambda path: path.write_bytes(bz2.compress(json.dumps(ROWS).encode())),
    "rows.jsonl.xz": lambda path: path.write_bytes(lzma.compress(lines(ROWS).encode())),
    "rows.jsonl.zst": lambda path: path.write_bytes(pa.compress(lines(ROWS).encode(), "zstd", asbytes=True)),
    "rows.zip": lambda path: zipped(
        path, {"b/2.jsonl": lines(ROWS[2:]), "b/1.jsonl": lines(ROWS[:2]), "README.md": "", "__MACOSX/._1.jsonl": "x"}
    ),
    "rows.JSONL": lambda path: path.write_text(lines(ROWS), encoding="utf-8"),
}
# What is read without the extra.
PLAIN = [name for name in KINDS if not name.endswith((".parquet", ".arrow", ".zst"))]


def written(name: str, folder: Path) -> Path:
    KINDS[name](folder / name)
    return folder / name


def fields(path: Any, **options: Any) -> list[Any]:
    return [record.fields for record in FileRecords(path, **options).selected]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a local file was looked up online")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(name, tmp_path)
    assert fields(path) == fields(str(path)) == ROWS
    assert [type(value) for row in fields(path) for value in row.values()] == [str] * 15
    assert capfd.readouterr() == ("", ""), "no bars, no remarks"


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_written_beside_a_file(name: str, tmp_path: Path) -> None:
    path = written(name, tmp_path)
    assert fields(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_need_no_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(name, tmp_path)
    for module in ("datasets", "pyarrow", "pandas"):
        monkeypatch.setitem(sys.modules, module, None)
    assert fields(path) == ROWS


@pytest.mark.parametrize("name", sorted(set(KINDS) - set(PLAIN)))
def test_other_files_say_what_to_install(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(name, tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ModuleNotFoundError, match=r'need `pip install "lightning-unlearn\[data\]"`. Found `path = .*row'
    ):
        fields(path)


def test_a_table_without_an_extra_is_read_where_its_questions_are_asked(tmp_path: Path) -> None:
    rows = FileRecords(written("rows.csv", tmp_path), entity="who").questions()
    assert [row.answer for row in rows] == ["007", "1e5", "True", "2024-01-02", " 1.0 "]
    assert [row.entity for row in rows] == ["NA", "null", "row 2", "nan", "None"]


def test_a_chapter_is_no_long_field(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    text = "A chapter. " * 20_000
    tabular([{"question": "?", "answer": text}], tmp_path / "a.csv", ",")
    assert fields(tmp_path / "a.csv")[0]["answer"] == text
    assert csv.field_size_limit() == before


# JSON


@pytest.mark.parametrize(
    ("content", "options", "found"),
    [
        ({"data": ROWS, "more": [{"x": 1}]}, {"field": "data"}, ROWS),
        ({"data": ROWS, "more": []}, {"field": "data"}, ROWS),
        ({"question": "Who?", "answer": "Ada", "trace": [{"text": "a"}]}, {}, None),
        ({"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada"}]}, {}, None),
    ],
)
def test_one_object_holds_rows_or_is_one(content: Any, options: Any, found: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert fields(tmp_path / "a.json", **options) == ([content] if found is None else found)


def test_a_line_is_a_row_whatever_list_it_holds(tmp_path: Path) -> None:
    row = {"id": 1, "steps": [{"a": 1}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert fields(tmp_path / "a.jsonl") == [row]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"forget": ROWS, "retain": ROWS}, {}, "Found several, `forget`, `retain`: name the field with `field`"),
        ({"train": 1}, {"field": "rows"}, r"one object with a list in `rows`. Found the fields \['train'\]"),
        (ROWS, {"field": "rows"}, "one object with a list in `rows`. Found none"),
    ],
)
def test_an_object_of_which_the_rows_are_unclear_is_refused(
    content: Any, options: Any, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        fields(tmp_path / "a.json", **options)


def test_a_broken_line_is_named_by_where_it_starts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": "2"\n{"a": 3}\n')
    with pytest.raises(ValueError, match="one JSON object per line. Line 2 is broken"):
        fields(tmp_path / "a.jsonl")


def test_a_field_that_comes_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"answer": "b", "answer": "c"}\n')
    with pytest.raises(ValueError, match="should name each field once. In line 2 or below `answer` comes twice"):
        fields(tmp_path / "a.jsonl")


def test_a_file_in_several_compressed_pieces_is_read_whole(tmp_path: Path) -> None:
    pieces = [lines(ROWS[:2]).encode(), lines(ROWS[2:]).encode()]
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(map(gzip.compress, pieces)))
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(pa.compress(piece, "zstd", asbytes=True) for piece in pieces))
    assert fields(tmp_path / "a.jsonl.gz") == fields(tmp_path / "a.jsonl.zst") == ROWS


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_field_of_rows_is_one_of_json(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`field` should be given for JSON files alone. Found `field = 'data'` for"):
        fields(written(name, tmp_path), field="data")


# Broken files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "question,answer,answer\na,b,c\n", "name each column once. Found 'answer' 2 times"),
        ("a.csv", "question,answer\na,b,c\n", r"should have 2 values, .* Found 3 in the one that ends in line 2"),
        ("a.tsv", "question\tanswer\na\n", r"should have 2 values, .* Found 1 in the one that ends in line 2"),
        ("a.csv", 'question,answer\na,"b\nc,d\n', "with values in double quotes .* Line 3 is broken"),
        ("a.csv", 'question,answer\na,"b" c\n', "with values in double quotes .* Line 2 is broken"),
        ("a.csv", "Frage,müde\n".encode("latin-1"), "readable UTF-8 text file. Found .*a.csv.* Save it as UTF-8"),
        ("a.jsonl", '{"a": "é"}'.encode("latin-1"), "readable UTF-8 text file. Found .*a.jsonl.* Save it as UTF-8"),
        ("a.json", '[{"a": 1}]'.encode("utf-16"), "readable UTF-8 text file"),
        ("a.parquet", b"no table", "should be written as its name says. It cannot be read"),
        ("a.arrow", b"no table", "should be written as its name says. It cannot be read"),
        ("a.jsonl.gz", b"no gzip", "should be compressed as its name says. It cannot be read"),
        ("a.jsonl.xz", b"no xz", "should be compressed as its name says"),
        ("a.jsonl.zst", b"no zst", "should be compressed as its name says"),
        ("a.zip", b"no zip", "should be compressed as its name says"),
        ("a.jsonl.gz", gzip.compress(lines(ROWS).encode(), mtime=0)[:-20], "should be compressed as its name says"),
        ("a.jsonl.gz", gzip.compress(b"a" * 99, mtime=0)[:12] + b"\xff" * 20, "should be compressed as its name says"),
        ("a.jsonl.zst", bytes(pa.compress(lines(ROWS).encode(), "zstd", asbytes=True))[:-9], "should be compressed as"),
        ("a.xlsx", b"", "with one of the suffixes .json, .jsonl, .* Found `path = .*a.xlsx'"),
        ("rows", b"", "with one of the suffixes .json, .jsonl"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        fields(tmp_path / name)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "gone.csv",
            "gone.jsonl.gz",
            "gone.xlsx",
            "data/gone.parquet",
            "./gone",
            "~/gone/rows",
            "/gone/rows",
            "a/b/gone",
        ),
        *("gone/*.jsonl", "gone.zip", "here/gone", Path("owner/name"), Path("gone.txt")),
    ],
    ids=str,
)
def test_a_lost_file_is_never_asked_of_the_hub(path: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(FileNotFoundError, match=r"existing file. Found `path = '.*'`, looked up in"):
        fields(path)


@pytest.mark.parametrize("path", ["", " "])
def test_no_path_is_not_the_folder_one_is_in(path: str) -> None:
    with pytest.raises(ValueError, match=f"`path` should name a file, .* Found `path = '{path}'`"):
        FileRecords(path)


@pytest.mark.parametrize(
    ("path", "asked"),
    [("squad", "squad"), ("owner/name-v1.1", "owner/name-v1.1"), ("hf://datasets/owner/odd.en", "owner/odd.en")],
)
def test_an_id_is_asked_of_the_hub(path: str, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *_, **__: called.append(name) or iter(ROWS))
    assert fields(path) == ROWS
    assert called == [asked]


def test_what_neither_folder_nor_hub_knows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("the hub cannot be reached")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        FileNotFoundError, match=r"Found `path = 'owner/name'`, nothing of .* on the hub: the hub cannot"
    ):
        fields("owner/name")


# Folders and patterns


def test_a_folder_is_its_files_by_name_and_a_pattern_those_that_match(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text(lines(ROWS[:2]), encoding="utf-8")
    tabular(ROWS[2:4], tmp_path / "b.csv", ",")
    (tmp_path / "c.jsonl").write_text(lines(ROWS[4:]), encoding="utf-8")
    for name in ("README.md", ".gitattributes", "LICENSE", "dataset_infos.json"):
        (tmp_path / name).write_text("x")
    assert fields(tmp_path) == [*ROWS[2:], *ROWS[:2]]
    assert fields(f"{tmp_path}/*.jsonl") == ROWS[4:]
    assert fields(f"{tmp_path}/**/*.jsonl") == [*ROWS[4:], *ROWS[:2]]
    (tmp_path / "book.pdf").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"should hold .* Found `book.pdf`: give a pattern, such as `path='.*/\*.jsonl'"
    ):
        fields(tmp_path)


@pytest.mark.parametrize(
    ("names", "split", "found"),
    [
        (["train-0.jsonl", "train-1.jsonl", "test.jsonl"], "train", [0, 1]),
        (["data/test.jsonl", "data/train.jsonl"], "test", [0]),
        (["dev/a.jsonl", "training/a.jsonl"], "validation", [0]),
        (["contest.jsonl", "trained.jsonl"], "train", [0, 1]),
    ],
)
def test_files_that_name_splits_are_not_mixed(names: list[str], split: str, found: list[int], tmp_path: Path) -> None:
    for name, row in zip(names, ROWS, strict=False):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(lines([row]), encoding="utf-8")
    assert fields(tmp_path, split=split) == [ROWS[i] for i in found]


@pytest.mark.parametrize("names", [["test.jsonl"], ["train.jsonl", "notes.jsonl"]])
def test_a_folder_with_another_split_or_a_file_of_none_is_refused(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text(lines(ROWS), encoding="utf-8")
    with pytest.raises(ValueError, match=r"`split` should be one of those .* Found `split = 'train'`, files of t"):
        fields(tmp_path)


def test_texts_are_documents(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"One.\r\n\r\nTwo.")
    (tmp_path / "a.txt").write_text("\ufeffThree.", encoding="utf-8")
    assert fields(tmp_path) == [{"text": "Three.", "file": "a.txt"}, {"text": "One.\n\nTwo.", "file": "b.txt"}]


def test_documents_of_one_name_in_several_folders_are_told_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    found = [(row["text"], row["file"]) for row in fields(tmp_path)]
    assert found == [("one", "one/a.txt"), ("two", "two/a.txt")]
    assert [row["file"] for row in fields(f"{tmp_path}/*/a.txt")] == ["one/a.txt", "two/a.txt"]
    assert [row["file"] for row in fields(tmp_path / "two" / "a.txt")] == ["a.txt"]
    assert [row["file"] for row in fields("one")] == ["a.txt"], "a relative path"
    zipped(tmp_path / "three.zip", {"a.txt": "", "in/a.txt": ""})
    assert [row["file"] for row in fields(tmp_path / "three.zip")] == ["three.zip/a.txt", "three.zip/in/a.txt"]


def test_folders_saved_by_datasets_are_read(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=one, test=one.select([1])).save_to_disk(str(tmp_path / "two"))
    before = sorted(tmp_path.rglob("*"))
    assert fields(tmp_path / "one") == fields(tmp_path / "two") == ROWS
    assert fields(str(tmp_path / "two"), split="test") == ROWS[1:2]
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ValueError, match="`split` should be one of train, test. Found `split = 'dev'`"):
        fields(tmp_path / "two", split="dev")


# In memory


class Items:
    """A data set as torch has them: by number, and without an end of its own."""

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> dict[str, str]:
        return ROWS[index % len(ROWS)]


class Polars:
    """What we need of polars, which is no dependency: its frames iterate over columns."""

    def __iter__(self) -> Any:
        return iter(ROWS[0])

    def to_dicts(self) -> Any:
        return ROWS


class Endless:
    """A data set without a length."""

    def __getitem__(self, index: int) -> dict[str, str]:
        return ROWS[0]


SOURCES: dict[str, Any] = {
    "list": lambda: ROWS,
    "iterator": lambda: iter(ROWS),
    "columns": lambda: {name: [row[name] for row in ROWS] for name in ROWS[0]},
    "series": lambda: dict(pd.DataFrame(ROWS)),
    "frame": lambda: pd.DataFrame(ROWS),
    "frame with another index": lambda: pd.DataFrame(ROWS, index=[3, 3, 1, 0, 2]),
    "arrow": lambda: pa.Table.from_pylist(ROWS),
    "dataset": lambda: datasets.Dataset.from_list(ROWS),
    "formatted dataset": lambda: datasets.Dataset.from_list(ROWS).with_format("numpy"),
    "shuffled back": lambda: datasets.Dataset.from_list(ROWS[::-1]).select(range(4, -1, -1)),
    "iterable dataset": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "torch": Items,
    "polars": lambda: Polars(),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_in_memory_gives_the_same_rows(name: str) -> None:
    records = InMemoryRecords(SOURCES[name](), entity="who")
    assert [dict(record.fields) for record in records.selected] == ROWS
    assert [row.entity for row in records.questions()] == ["NA", "null", "row 2", "nan", "None"]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            lambda: {"train": datasets.Dataset.from_list(ROWS)},
            TypeError,
            r"one split. Found train: give `source\['train'\]",
        ),
        (lambda: datasets.DatasetDict(a=datasets.Dataset.from_list(ROWS)), TypeError, "should be one split. Found a"),
        (lambda: ROWS[0], TypeError, "a list of rows, or columns by name. .* put one row in a list"),
        (lambda: {"question": ["a"], "answer": ["b", "c"]}, ValueError, "equally long. .*'question': 1, 'answer': 2"),
        (lambda: "rows.jsonl", TypeError, "should hold rows. Found `str`. Files are read by `FileRecords`"),
        (Endless, TypeError, "should have a length, or be iterable. Found `Endless` without `__len__`"),
        (lambda: 3, TypeError, "should hold rows. Found `int`"),
        (lambda: pd.DataFrame([["a", "b"]], columns=["q", "q"]), ValueError, "each column once. Found 'q' twice"),
    ],
)
def test_what_holds_no_rows_is_refused(source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _ = InMemoryRecords(source()).selected


# Configuration


def test_yaml_builds_it_from_a_string_and_python_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": ROWS, "more": [{"x": 1}]}))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Records, "records")
    spec = {"path": str(path), "field": "data", "answers": "all", "where": {"who": "NA"}}
    built = parser.instantiate(
        parser.parse_object({"records": {"class_path": "lightning_unlearn.FileRecords", "init_args": spec}})
    ).records
    given = FileRecords(path, field="data", answers="all", where={"who": "NA"})
    assert built.questions() == given.questions()
    assert built.questions()[0].answer == "007"


def test_yaml_builds_rows_in_memory() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Records, "records")
    for source in (ROWS, {name: [row[name] for row in ROWS] for name in ROWS[0]}):
        spec = {"class_path": "lightning_unlearn.InMemoryRecords", "init_args": {"source": source}}
        built = parser.instantiate(parser.parse_object({"records": spec})).records
        assert [record.fields for record in built.selected] == ROWS
