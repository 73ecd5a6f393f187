"""`where` keeps whole values and says which there are; rows about nobody known are not about the same one."""

from __future__ import annotations

import csv
import json
from typing import Any

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from lightning_unlearn.data import FileRecords, InMemoryRecords, Records

pd = pytest.importorskip("pandas")

PEOPLE = ["Ann", "Ann Lee", "Lee", "Bo", None]


def records(field: str, values: Any, **options: Any) -> InMemoryRecords:
    return InMemoryRecords([{"question": f"q{i}", "answer": "a", field: v} for i, v in enumerate(values)], **options)


def kept(values: Any, wanted: Any) -> list[int]:
    return [record.index for record in records("x", values, where={"x": wanted}).selected]


@pytest.mark.parametrize("wanted", ["Ann Lee", ["Ann Lee"], ("Ann Lee",), {"Ann Lee"}], ids=repr)
def test_a_string_is_one_value_and_never_part_of_another(wanted: Any) -> None:
    assert kept(PEOPLE, wanted) == [1]


@pytest.mark.parametrize(
    ("values", "wanted", "found"),
    [
        (PEOPLE, "Ann", [0]),
        (PEOPLE, ["Bo", "Ann"], [0, 3]),
        (PEOPLE, None, [4]),
        (PEOPLE, [None, "Bo"], [3, 4]),
        ([1991, "1991", 1991.0, "1991.0", 19], 1991, [0, 1, 2]),
        ([1991, "1991", 1991.0, "1991.0", 19], "1991", [0, 1, 2]),
        ([0.5, "0.5", 1], 0.5, [0, 1]),
        ([True, False, "true", "True", 1, "yes"], True, [0, 2, 3]),
        ([True, False, "false", 0, ""], False, [1, 2]),
        ([1, True, "1"], 1, [0, 2]),
        (["007", 7, "7"], "007", [0]),
        (["", None, " "], "", [0]),
        (["None", None, "null", float("nan")], None, [1, 3]),
        (["None", None, "nan"], "None", [0]),
        ([["a", "b"], "a"], "a", [1]),
    ],
    ids=repr,
)
def test_values_are_compared_as_a_whole(values: Any, wanted: Any, found: list[int]) -> None:
    assert kept(values, wanted) == found


def test_a_row_without_the_field_counts_as_null_where_null_is_wanted_and_is_named_elsewhere() -> None:
    rows = [{"question": "a", "answer": "b", "x": 1}, {"question": "c", "answer": "d"}]
    assert [record.index for record in InMemoryRecords(rows, where={"x": None}).selected] == [1]
    with pytest.raises(ValueError, match="row 1 of .* should have the field `x`"):
        _ = InMemoryRecords(rows, where={"x": 1}).selected
    with pytest.raises(ValueError, match="row 0 of .* should have the field `y`"):
        _ = InMemoryRecords(rows, where={"y": None}).selected


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("Anne Lee", "`x` is one of 'Ann', 'Ann Lee', 'Lee', 'Bo', 'null'. Did you mean 'Ann Lee'?"),
        (["Bo", "bo"], "Found none with `where = {'x': 'bo'}`. .* Did you mean 'Bo'?"),
        (3, "Found none with `where = {'x': 3}`"),
    ],
)
def test_a_value_of_no_row_is_refused_though_others_are_found(wanted: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"at least one of the 5 rows of `InMemoryRecords`. .*{message[:-1]}"):
        kept(PEOPLE, wanted)


def test_many_values_are_not_all_listed() -> None:
    with pytest.raises(ValueError, match="`x` is one of 'v0', .*'v9' and 90 more.$"):
        kept([f"v{i}" for i in range(100)], "zzz")


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`where` should be values by field: .* Found `where = 'Ann'`"):
        records("x", PEOPLE, where="Ann")


@pytest.mark.parametrize("wanted", ["Ann Lee", ["Ann Lee"], 7, [7, None], True, None], ids=repr)
def test_yaml_takes_one_value_or_several(wanted: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Records, "records")
    init = {"path": "bundled:people", "where": {"x": wanted}}
    text = json.dumps({"records": {"class_path": "lightning_unlearn.FileRecords", "init_args": init}})
    built = parser.instantiate(parser.parse_string(text)).records
    assert built.where == {"x": wanted}
    assert type(built.where["x"]) is type(wanted)


# Entities


def entities(values: Any, **options: Any) -> list[str]:
    return [row.entity for row in records("x", values, entity="x", **options).questions()]


@pytest.mark.parametrize("null", [None, float("nan"), "", " \n", pd.NA, pd.NaT, [], {}, np.array([])], ids=repr)
def test_rows_about_nobody_are_not_about_the_same_one(null: Any) -> None:
    assert entities(["Ann", null, "Ann", null, null]) == ["Ann", "row 1", "Ann", "row 3", "row 4"]


def test_which_rows_are_kept_does_not_change_their_entities() -> None:
    assert entities([None, "Ann", None], rows=(1, None)) == ["Ann", "row 2"]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1, "1", 1.0, "1.0", "01"], ["1", "1", "1", "1.0", "01"]),
        ([0, "", 0.0], ["0", "row 1", "0"]),
        (["None", "nan", "null", "NA"], ["None", "nan", "null", "NA"]),
        ([True, False], ["True", "False"]),
        (["Ann", "ann", "Ann "], ["Ann", "ann", "Ann "]),
    ],
    ids=repr,
)
def test_numbers_and_strings_that_are_written_alike_are_one_entity(values: Any, found: list[str]) -> None:
    assert entities(values) == found


def test_integers_beside_nulls_are_no_floats_in_a_frame() -> None:
    frame = pd.DataFrame({"question": ["a", "b", "c"], "answer": ["x", "y", "z"], "id": [7, None, 8]})
    assert [row.entity for row in InMemoryRecords(frame, entity="id").questions()] == ["7", "row 1", "8"]
    assert [row.question for row in InMemoryRecords(frame, where={"id": 7}).questions()] == ["a"]


def test_entities_of_a_csv_and_of_its_json_are_the_same(tmp_path: Any) -> None:
    rows = [{"question": "q", "answer": "a", "who": who} for who in ("007", "NA", "1e5", "", "Ann")]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer", "who"])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    found = [[r.entity for r in FileRecords(tmp_path / f"a.{s}", entity="who").questions()] for s in ("csv", "json")]
    assert found[0] == found[1] == ["007", "NA", "1e5", "row 3", "Ann"]
