"""Which facts an attacker has, and by which he is judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler

from lightning_unlearn import (
    CausalLMReadout,
    ClassificationReadout,
    Encoding,
    FactSplit,
    FileRecords,
    LoaderSettings,
    QuestionAnswerData,
)
from lightning_unlearn.data import Probe, load_probe

PEOPLE = [f"person {i // 4}" for i in range(20)]


class People(Dataset[Any]):
    """Numbered rows about five people."""

    def __init__(self, entities: list[str] = PEOPLE) -> None:
        self.entities = entities

    def __len__(self) -> int:
        return len(self.entities)

    def __getitem__(self, row: int) -> Any:
        return torch.full((2,), float(row)), row % 3


def probe(data: Any = None) -> Probe:
    return load_probe(DataLoader(data or People(), 3), ClassificationReadout())


def rows_in(loader: Any) -> list[int]:
    return [int(x[0]) for batch, _ in loader for x in batch]


@pytest.mark.parametrize("by", ["entity", "fact"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_he_is_judged_by_exactly_what_he_does_not_have(by: Any, share: float) -> None:
    split, asked = FactSplit(share, by), probe()
    judged, trained = split.judged_examples(asked), rows_in(split.without_judged(DataLoader(People(), 3), asked))
    assert judged
    assert trained
    assert sorted([*judged, *trained]) == list(range(20))
    names = split.names(PEOPLE, 20)
    assert not {names[i] for i in judged} & {names[i] for i in trained}
    known = round(share * len(set(names)))
    assert len({names[i] for i in trained}) == min(max(known, 1), len(set(names)) - 1)


def test_the_seed_draws_and_the_same_seed_draws_the_same() -> None:
    drawn = [FactSplit(by="fact", seed=seed).judged_examples(probe()) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_by_entity_his_data_may_be_others_about_the_same_and_what_is_about_nobody_judged_stays() -> None:
    split, asked = FactSplit(0.5), probe()
    judged = {PEOPLE[i] for i in split.judged_examples(asked)}
    names = ["person 0", "person 3", "somebody else", "person 4", "person 1"]
    trained = rows_in(split.without_judged(DataLoader(People(names), 2), asked))
    assert trained == [row for row, name in enumerate(names) if name not in judged]
    assert 2 in trained


def test_only_rows_that_his_sampler_visits_are_trained_on() -> None:
    split, asked = FactSplit(0.5), probe()
    loader = DataLoader(People(), 3, sampler=SubsetRandomSampler(range(0, 20, 2)))
    trained = rows_in(split.without_judged(loader, asked))
    assert trained == [row for row in range(0, 20, 2) if row not in split.judged_examples(asked)]


ENCODING = Encoding("bundled")


def asked(name: str, answers: str, **fields: Any) -> DataLoader[Any]:
    """Rows of a file of that name, without a field of entities, or with one."""
    Path(name).write_text("".join(json.dumps({"question": f"{a}?", "answer": a, "who": a}) + "\n" for a in answers))
    return QuestionAnswerData(FileRecords(name, **fields), ENCODING, LoaderSettings(batch_size=2)).val_dataloader()


def test_numbers_of_rows_are_no_names_in_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    split, forget = FactSplit(), load_probe(asked("forget.jsonl", "abcd"), CausalLMReadout())
    with pytest.raises(ValueError, match='by numbers of rows, and of other rows.*`by="fact"`'):
        split.without_judged(asked("attack.jsonl", "dcba"), forget)
    assert len(list(FactSplit(by="fact").without_judged(asked("attack.jsonl", "dcba"), forget))) == 1
    # The same file, opened again.
    assert len(list(split.without_judged(asked("forget.jsonl", "abcd"), forget))) == 1
    assert len(split.known(forget, load_probe(asked("forget.jsonl", "abcd"), CausalLMReadout()))) == 2
    assert split.known(forget, load_probe(asked("retain.jsonl", "wxyz"), CausalLMReadout())) == set()
    assert split.known(forget, probe(People(["0", "1"]))) == set()


def test_named_entities_are_found_in_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    split, forget = FactSplit(), load_probe(asked("forget.jsonl", "abcd", entity="who"), CausalLMReadout())
    assert len(list(split.without_judged(asked("attack.jsonl", "dcba", entity="who"), forget))) == 1
    assert len(split.known(forget, load_probe(asked("retain.jsonl", "abyz", entity="who"), CausalLMReadout()))) == 2


class Unnamed(People):
    entities: Any = []

    def __init__(self) -> None: ...

    def __len__(self) -> int:
        return 5


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda: FactSplit(1.5), "`share` should be between 0 and 1"),
        (lambda: FactSplit(by="author"), '`by` should be "entity" or "fact"'),  # type: ignore[arg-type]
        (lambda: FactSplit(seed=-1), "`seed` should be at least 0"),
        (lambda: FactSplit().judged_examples(probe(Unnamed())), 'Found 0 entities. Name them.*`by="fact"`'),
        (lambda: FactSplit().judged(["Ada", "Ada"]), "should find two or more to share out. Found 1"),
        (
            lambda: FactSplit(by="fact").without_judged(DataLoader(Unnamed()), probe()),
            'Found 5 and 20. Split by entity: `by="entity"`',
        ),
        (lambda: FactSplit().without_judged([1], probe()), "a `DataLoader` whose rows are known. Found `list`"),
        (
            lambda: FactSplit().without_judged(
                DataLoader(People([n for n in PEOPLE if n in FactSplit().judged(PEOPLE)])), probe()
            ),
            "Found that all his rows are about what is judged",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(act: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        act()
