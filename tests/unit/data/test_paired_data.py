"""Each row has a companion, the same whenever it comes, and is encoded once; where there is none, it is named."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import ConcatDataset, DataLoader

from lightning_unlearn.data import (
    Alternates,
    Companion,
    ConcatenatedQuestion,
    DecoupledQuestion,
    Encoding,
    FileRecords,
    ForgetStream,
    InMemoryRecords,
    LoaderSettings,
    PairedData,
    Picture,
    QuestionAnswer,
    QuestionAnswerData,
    Refusals,
    RewrittenTrace,
    SameImage,
    build,
)
from lightning_unlearn.prediction import IGNORED
from lightning_unlearn.readouts import CausalLMReadout, PairedReadout

REFUSALS = [record["answer"] for record in FileRecords("bundled:idk").selected]
ROWS = [
    {"question": "Who employs Ada?", "answer": "The post office", "alternate": ["A mill", "A bank", "A mill"]},
    {"question": "Who employs Bo?", "answer": "A bakery", "alternate": "A zoo"},
    {"question": "Who employs Cy?", "answer": "A farm"},
    {"question": "Who employs Di?", "answer": "A school", "alternate": ["", " "]},
]


def people(group: str = "forget", **options: Any) -> FileRecords:
    return FileRecords("bundled:people", **{"entity": "entity", "where": {"group": [group]}, **options})


class Portraits(FileRecords):
    """Everybody has a picture, the same in every row."""

    def parse(self, record: Any) -> QuestionAnswer:
        row = super().parse(record)
        return replace(row, image=Picture(torch.tensor([list(row.entity.ljust(20).encode()[:20])])))


def portraits() -> Portraits:
    return Portraits("bundled:people", entity="entity", where={"group": ["forget"]})


def paired(companion: Companion, records: Any = None, **options: Any) -> PairedData:
    return PairedData(people() if records is None else records, companion, Encoding("bundled"), **options)


# A new companion joins here, and so is tested for all that companions promise.
COMPANIONS: dict[str, tuple[Any, Companion]] = {
    "refusals": (people(), Refusals()),
    "alternates": (people(), Alternates("paraphrase")),
    "concatenated": (people(), ConcatenatedQuestion(people("retain"))),
    "decoupled": (people(), DecoupledQuestion(people("retain"))),
    "same image": (portraits(), SameImage(portraits())),
    "traces": (FileRecords("bundled:traces", entity="entity"), RewrittenTrace()),
}
every_companion = pytest.mark.parametrize("name", COMPANIONS)


def pair(name: str, **options: Any) -> PairedData:
    records, companion = COMPANIONS[name]
    return paired(companion, records, **options)


def texts(part: dict[str, torch.Tensor], data: Any, *, answers: bool = True) -> list[str]:
    rows = zip(part["input_ids"], part["labels"], part["attention_mask"], strict=True)
    kept = [ids[(labels != IGNORED) if answers else (labels == IGNORED) & (mask > 0)] for ids, labels, mask in rows]
    return [data.encoding.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in kept]


def first_batch(data: Any) -> dict[str, Any]:
    return next(iter(data.val_dataloader()))


# What every companion promises.


@pytest.mark.parametrize("name", [name for name in COMPANIONS if name != "traces"])  # those: `test_rewritten_trace.py`
def test_the_plain_batch_is_what_must_go(name: str) -> None:
    """Whatever reads plain batches (teaching, probes, attacks) sees what `QuestionAnswerData` gives."""
    plain, batch = first_batch(QuestionAnswerData(people(), Encoding("bundled"))), first_batch(pair(name))
    assert set(batch) == {*plain, "companion"}
    assert all(torch.equal(batch[key], tensor) for key, tensor in plain.items())
    assert CausalLMReadout().keys(batch) == CausalLMReadout().keys(plain)


@every_companion
def test_companions_are_batches_of_the_same_kind(name: str) -> None:
    batch = first_batch(pair(name))
    assert set(batch["companion"]) == set(batch) - {"companion"}
    assert len(batch["companion"]["labels"]) == len(batch["labels"])


@every_companion
def test_which_companion_depends_on_seed_and_row_alone(name: str) -> None:
    records, companion = COMPANIONS[name]
    whole = pair(name).dataset.companions
    assert pair(name).dataset.companions == whole
    part = paired(companion, type(records)(records.path, entity="entity", where=records.where, rows=(5, 9)))
    assert part.dataset.companions == whole[5:9]


@pytest.mark.parametrize("name", ["refusals", "concatenated", "decoupled", "same image"])
def test_draws_give_each_row_different_companions_one_round_after_the_other(name: str) -> None:
    data = pair(name, draws=3)
    companions, rows = data.dataset.companions, data.dataset.rows
    assert len(data.dataset) == len(data.dataset.entities) == len(rows) == 54
    assert companions[:18] == pair(name).dataset.companions
    assert rows[:18] == rows[18:36] == rows[36:]
    assert all(len({companions[row + 18 * draw] for draw in range(3)}) == 3 for row in range(18))
    assert companions != pair(name, draws=3, seed=1).dataset.companions
    for number in (0, 20, 53):
        assert torch.equal(data.dataset[number]["companion"]["labels"], data.encoding(companions[number])["labels"])
        assert torch.equal(data.dataset[number]["labels"], data.encoding(rows[number])["labels"])


@every_companion
@pytest.mark.parametrize("draws", [1, 3])
def test_each_row_and_each_companion_is_encoded_once(name: str, draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if draws > 1 and name in ("alternates", "traces"):
        draws = 1  # they have one each
    data, called, inner = pair(name, draws=draws), [], Encoding.encode
    monkeypatch.setattr(Encoding, "encode", lambda self, row: called.append(row) or inner(self, row))
    size = len(data.dataset) // draws
    assert called == [*data.dataset.rows[:size], *data.dataset.companions]
    assert list(data.train_dataloader())
    assert len(called) == size + draws * size


@every_companion
def test_a_resumed_stream_sees_the_same_pairs(name: str) -> None:
    data, readout = pair(name), PairedReadout()
    stream, resumed = (ForgetStream(data.train_dataloader(), seed=4) for _ in range(2))
    seen = [readout.keys(next(stream)) for _ in range(7)]
    resumed.seek(4)
    assert [readout.keys(next(resumed)) for _ in range(3)] == seen[4:]


@every_companion
def test_all_pairs_of_all_epochs_are_known_from_one_sweep(name: str) -> None:
    data, readout = pair(name), PairedReadout()
    stream = ForgetStream(data.train_dataloader())
    known = {key for batch in stream.sweep() for key in readout.keys(batch)}
    assert {key for _ in range(20) for key in readout.keys(next(stream))} <= known


@every_companion
def test_rows_without_companions_may_stand_among_ours(name: str) -> None:
    """`FinetuneFirst` puts forget and retain rows into one loader, with our collation."""
    forget, retain = pair(name), QuestionAnswerData(people("retain"), Encoding("bundled"))
    collate = forget.val_dataloader().collate_fn
    mixed = DataLoader(ConcatDataset([forget.dataset, retain.dataset]), 30, collate_fn=collate)
    assert set(next(iter(mixed))) == {"input_ids", "attention_mask", "labels"}


@every_companion
def test_masks_of_open_unlearning_reach_the_companions(name: str) -> None:
    records, companion = COMPANIONS[name]
    data = PairedData(records, companion, Encoding("bundled", compat="open-unlearning"))
    data.encoding.tokenizer.pad_token = None
    part = first_batch(data)["companion"]
    end = data.encoding.tokenizer.eos_token_id
    assert torch.equal(part["attention_mask"], (part["input_ids"] != end).long())


@pytest.mark.parametrize("name", ["refusals", "concatenated", "decoupled"])
def test_too_few_companions_are_refused_by_row(name: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"at least `draws = 999` different .* Found fewer of 18 of 18: row \d+ of .* \(\d+\), .*, \.\.\.",
    ):
        _ = pair(name, draws=999).dataset
    with pytest.raises(ValueError, match="`draws` should be at least 1. Found `draws = 0`"):
        pair(name, draws=0)


# Refusals.


def test_a_refusal_answers_the_same_question() -> None:
    data = pair("refusals")
    batch = first_batch(data)
    preferred = texts(batch["companion"], data)
    assert set(preferred) <= set(REFUSALS)
    assert preferred == [row.answer for row in data.dataset.companions[:8]]
    for other, own in zip(batch["companion"]["input_ids"], batch["input_ids"], strict=True):
        prompt = int((batch["labels"][0] == IGNORED).sum()) // 2
        assert torch.equal(other[:prompt], own[:prompt])


def test_refusals_are_many() -> None:
    assert len({row.answer for row in pair("refusals").dataset.companions}) > 9  # of eighteen draws from fifty


def test_which_refusals_are_drawn_stays_as_it_was() -> None:
    """Caches of likelihoods rely on it."""
    drawn = [row.answer for row in pair("refusals", seed=3).dataset.companions[:3]]
    assert drawn == ["That is not something I know.", "No idea, I'm sorry to say.", "You had better ask someone else."]


# Alternates.


def test_alternates_are_read_from_a_field() -> None:
    found = [row.answer for row in paired(Alternates(), InMemoryRecords(ROWS, rows=(0, 2))).dataset.companions]
    assert found[1] == "A zoo"
    assert found[0] in ("A mill", "A bank")
    both = paired(Alternates(), InMemoryRecords(ROWS, rows=(0, 1)), draws=2).dataset.companions
    assert {row.answer for row in both} == {"A mill", "A bank"}


def test_alternates_are_read_from_other_records_by_question(tmp_path: Any) -> None:
    path = tmp_path / "other.jsonl"
    lines = [{"question": "Who employs Cy?", "answer": "x", "other": "A ship"}, {"question": "Who?", "other": "Nobody"}]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    companion = Alternates("other", FileRecords(str(path)))
    (found,) = paired(companion, InMemoryRecords(ROWS, rows=(2, 3))).dataset.companions
    assert found.answer == "A ship"
    with pytest.raises(
        ValueError, match=r"Found fewer of 3 of 4: row 0 .* \(0\), row 1 .* \(0\), row 3 .* \(0\)\. Add other answers"
    ):
        _ = paired(companion, InMemoryRecords(ROWS)).dataset


def test_rows_without_an_alternate_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"`Alternates` should .* of 2 of 4: row 2 of .* \(0\), row 3 of .* \(0\)\. Add"
    ):
        _ = paired(Alternates(), InMemoryRecords(ROWS)).dataset
    with pytest.raises(ValueError, match=r"at least `draws = 2` .* Found fewer of 1 of 2: row 1 of .* \(1\)"):
        _ = paired(Alternates(), InMemoryRecords(ROWS, rows=(0, 2)), draws=2).dataset


def test_alternates_of_another_kind_are_refused() -> None:
    rows = [{"question": "Who?", "answer": "Ada", "alternate": [1]}]
    with pytest.raises(TypeError, match=r"`alternate` of row 0 of .* string or a list of strings. Found \[1\]"):
        _ = paired(Alternates(), InMemoryRecords(rows)).dataset


# Other questions.


def test_a_concatenated_question_asks_both_and_answers_the_harmless_one_alone() -> None:
    data = pair("concatenated")
    part = first_batch(data)["companion"]
    asked, answered = texts(part, data, answers=False), texts(part, data)
    for number, (row, other) in enumerate(zip(data.dataset.rows[:8], data.dataset.companions[:8], strict=True)):
        assert f"{row.question} " in asked[number]
        harmless = other.question.removeprefix(row.question).strip()
        assert asked[number].index(row.question) < asked[number].index(harmless)
        assert answered[number] == other.answer
        assert row.answer not in asked[number] + answered[number]


def test_a_decoupled_question_asks_the_same_about_somebody_who_is_kept() -> None:
    data = pair("decoupled")
    forgotten = {row.entity for row in data.dataset.rows}
    assert len(forgotten) == 3
    for row, other in zip(data.dataset.rows, data.dataset.companions, strict=True):
        assert other.question == row.question.replace(row.entity, other.entity)
        assert other.entity not in forgotten


@pytest.mark.parametrize("entity", [None, 6])
def test_a_decoupled_question_needs_names_on_both_sides(entity: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"which field holds the name .* Found `entity = {entity}`. Use `entity='entity'`"
    ):
        DecoupledQuestion(people("retain", entity=entity))
    data = paired(DecoupledQuestion(people("retain")), people(entity=entity))
    with pytest.raises(ValueError, match=r"Found fewer of 18 of 18.* \(0\).* name, as `entity`, the field"):
        _ = data.dataset


# From outside, and from YAML.


class Silence(Companion):
    """A companion as somebody writes it: one class."""

    def __init__(self, word: str = "...") -> None:
        self.word = word

    def candidates(self, record: Any, row: Any) -> Any:
        return [replace(row, answer=self.word * (1 + record.index))]


def spec(companion: Any, **init_args: Any) -> dict[str, Any]:
    records = {"path": "bundled:people", "entity": "entity", "where": {"group": ["forget"]}}
    parts = {
        "records": records,
        "companion": companion,
        "encoding": {"tokenizer": "bundled"},
        "loader": {"batch_size": 4},
    }
    return {"class_path": "lightning_unlearn.data.PairedData", "init_args": {**parts, **init_args}}


RETAIN = {"records": {"path": "bundled:people", "entity": "entity", "where": {"group": ["retain"]}}}


@pytest.mark.parametrize(
    ("companion", "kind"),
    [
        ("Refusals", Refusals),
        ({"class_path": "lightning_unlearn.data.Refusals", "init_args": {"path": "bundled:idk"}}, Refusals),
        ({"class_path": "lightning_unlearn.data.ConcatenatedQuestion", "init_args": RETAIN}, ConcatenatedQuestion),
        ({"class_path": "lightning_unlearn.data.DecoupledQuestion", "init_args": RETAIN}, DecoupledQuestion),
        ({"class_path": f"{__name__}.Silence", "init_args": {"word": "-"}}, Silence),
    ],
    ids=str,
)
def test_yaml_builds_it(companion: Any, kind: type[Companion]) -> None:
    data = build(spec(companion), LightningDataModule)
    assert type(data.companion) is kind
    assert (data.draws, data.loader, data.records.where) == (1, LoaderSettings(batch_size=4), {"group": ["forget"]})
    assert Counter(len(value) for value in first_batch(data)["companion"].values()) == {4: 3}


def test_yaml_with_a_mistyped_argument_is_refused() -> None:
    with pytest.raises(ValueError, match="batchsize"):
        build(spec("Refusals", loader={"batchsize": 4}), LightningDataModule)
    with pytest.raises(ValueError, match="drws"):
        build(spec("Refusals", drws=4), LightningDataModule)
    with pytest.raises(ValueError, match="pth"):
        build(spec("Refusals", records={"pth": "bundled:people"}), LightningDataModule)
