"""A ledger notices every change, and loses nothing but a line that was being written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lightning_unlearn.requests import Entry, Ledger, in_effect
from lightning_unlearn.requests._ledger import BEGINNING, locked


def entry(number: int, previous: str = BEGINNING, kind: str = "request", request: str = "") -> Entry:
    name = request or ("" if kind == "start" else f"r{number}")
    return Entry(number, kind, name, "d", "c", f"b{number}", f"a{number}", {"x": [0.1, None]}, [], previous)  # type: ignore[arg-type]


def written(folder: Path, number: int = 4) -> Ledger:
    ledger = Ledger(folder / "ledger.jsonl")
    for n in range(number):
        ledger.append(entry(n, ledger.head, "request" if n else "start"))
    return ledger


def test_entries_come_back_as_they_were_written(tmp_path: Path) -> None:
    entries = written(tmp_path).entries()
    assert [(e.number, e.request, e.figures) for e in entries[:2]] == [
        (0, "", {"x": [0.1, None]}),
        (1, "r1", {"x": [0.1, None]}),
    ]


def test_the_chain_is_that_of_a_hash_written_differently(tmp_path: Path) -> None:
    previous = BEGINNING
    for line in written(tmp_path).path.read_text().splitlines():
        values = json.loads(line)
        told = values.pop("hash")
        assert values["previous"] == previous
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        previous = hashlib.sha256(text.encode()).hexdigest()
        assert told == previous


def test_a_changed_byte_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    ledger = written(tmp_path, 2)
    whole = ledger.path.read_bytes()
    for place in range(0, len(whole) - 1, 5):  # but for the end of the last line, below
        ledger.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="should be as it was written"):
            ledger.entries()


@pytest.mark.parametrize("order", [[0, 2, 3], [1, 2, 3], [0, 2, 1, 3], [0, 1, 1, 2, 3]], ids=str)
def test_lines_that_are_missing_moved_or_repeated_are_noticed(order: list[int], tmp_path: Path) -> None:
    ledger = written(tmp_path)
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[n] for n in order))
    with pytest.raises(ValueError, match="does not follow on the one before"):
        ledger.entries()


@pytest.mark.parametrize(
    "line",
    [
        b"{}\n",
        b"\n",
        b"somebody was here\n",
        b'{"number": 4}\n',
        # As an entry is, but for its hash, which is that of another.
        json.dumps({**asdict(entry(4)), "hash": entry(4, previous="f" * 64).hash}).encode() + b"\n",
    ],
)
def test_a_line_that_is_added_by_hand_is_noticed(line: bytes, tmp_path: Path) -> None:
    ledger = written(tmp_path)
    with ledger.path.open("ab") as file:
        file.write(line)
    with pytest.raises(ValueError, match="should be as it was written. Found .* in line 5"):
        ledger.entries()


def test_an_entry_with_its_right_hash_that_was_made_for_another_place_is_noticed(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    for made in (entry(4), entry(7, ledger.head)):
        whole = ledger.path.read_bytes()
        ledger.append(made)
        with pytest.raises(ValueError, match="does not follow on the one before in line 5"):
            ledger.entries()
        ledger.path.write_bytes(whole)


def test_who_writes_all_of_it_anew_is_found_out_by_the_head_alone(tmp_path: Path) -> None:
    """What a chain of hashes without a secret can promise, and what it cannot."""
    ledger = written(tmp_path)
    noted = ledger.head
    (tmp_path / "other").mkdir()
    forged = Ledger(tmp_path / "other" / "ledger.jsonl")
    for each in ledger.entries():
        figures = {"x": [0.9, None]} if each.number == 2 else each.figures
        forged.append(replace(each, figures=figures, previous=forged.head))
    ledger.path.write_bytes(forged.path.read_bytes())
    assert len(ledger.entries()) == 4
    assert ledger.head != noted


def test_lines_cut_off_the_end_are_noticed_by_the_head(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    noted = ledger.head
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:-1]))
    assert len(ledger.entries()) == 3
    assert ledger.head != noted


def test_wherever_a_line_breaks_off_it_was_not_there_and_the_next_one_follows(tmp_path: Path) -> None:
    ledger = written(tmp_path, 3)
    whole = ledger.path.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for place in [*range(last, len(whole), 40), len(whole) - 1]:
        ledger.path.write_bytes(whole[:place])
        assert len(ledger.entries()) == 2
        ledger.repair()
        ledger.append(entry(2, ledger.head))
        assert ledger.path.read_bytes() == whole
    ledger.repair()
    assert ledger.path.read_bytes() == whole


def test_after_an_undo_the_earlier_request_is_the_last_again() -> None:
    done = [entry(0, kind="start"), entry(1), entry(2), entry(3, kind="undo", request="r1"), entry(4)]
    assert [e.number for e in in_effect(done)] == [0, 1, 4]


def test_two_processes_do_not_write_at_once(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RuntimeError, match="Found another one there"), locked(tmp_path):
        pass
    with locked(tmp_path):  # free again
        pass
