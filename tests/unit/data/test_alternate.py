"""Each question has another answer beside its own, the same whenever it comes; where there is none, it is named."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.testing import assert_close
from torch.utils.data import ConcatDataset, DataLoader

from lightning_unlearn.data import AlternateAnswerData, ForgetStream, QuestionAnswerData, RefusalData, build
from lightning_unlearn.data._rows import read_records
from lightning_unlearn.prediction import IGNORED
from lightning_unlearn.readouts import CausalLMReadout, PairedReadout

PEOPLE = {"path": "bundled:people", "tokenizer": "bundled", "entity": "entity", "where": {"group": ["forget"]}}
REFUSALS = [record["answer"] for record in read_records("bundled:idk")]
ROWS = [
    {"question": "Who employs Ada?", "answer": "The post office", "alternate": ["A mill", "A bank", "A mill"]},
    {"question": "Who employs Bo?", "answer": "A bakery", "alternate": "A zoo"},
    {"question": "Who employs Cy?", "answer": "A farm"},
    {"question": "Who employs Di?", "answer": "A school", "alternate": ["", " "]},
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    return str(path)


def answers(batch, data):
    kept = [row[row != IGNORED] for row in batch["labels"]]
    return [data.loaded_tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in kept]


def first_batch(data, **kwargs):
    return next(iter(data.val_dataloader(**kwargs)))


def test_the_plain_batch_is_the_answer_that_must_go():
    """Whatever reads plain batches (teaching, probes, attacks) sees what `QuestionAnswerData` gives."""
    plain, batch = first_batch(QuestionAnswerData(**PEOPLE)), first_batch(RefusalData(**PEOPLE))
    assert set(batch) == {*plain, "preferred", "dispreferred"}
    for name, tensor in plain.items():
        assert torch.equal(batch[name], tensor)
        assert torch.equal(batch["dispreferred"][name], tensor)
    assert CausalLMReadout().keys(batch) == CausalLMReadout().keys(plain)


def test_the_preferred_answer_is_a_refusal_to_the_same_question():
    data = RefusalData(**PEOPLE)
    batch = first_batch(data)
    preferred = answers(batch["preferred"], data)
    assert set(preferred) <= set(REFUSALS)
    assert preferred == list(data.dataset.alternates[:8])
    for other, own in zip(batch["preferred"]["input_ids"], batch["input_ids"], strict=True):
        prompt = int((batch["labels"][0] == IGNORED).sum()) // 2
        assert torch.equal(other[:prompt], own[:prompt])


def test_which_refusal_depends_on_seed_and_row_alone():
    whole, again, other = (RefusalData(**PEOPLE, seed=seed).dataset.alternates for seed in (0, 0, 1))
    assert whole == again != other
    assert len(set(whole)) > 9  # of eighteen draws from fifty
    part = RefusalData(**PEOPLE, rows=(5, 9)).dataset.alternates
    assert part == whole[5:9]


def test_draws_give_each_question_different_refusals_one_round_after_the_other():
    data = RefusalData(**PEOPLE, draws=3)
    assert len(data.dataset) == len(data.dataset.entities) == 54
    assert data.dataset.alternates[:18] == RefusalData(**PEOPLE).dataset.alternates
    assert data.dataset.rows[:18] == data.dataset.rows[18:36]
    for row in range(18):
        assert len({data.dataset.alternates[row + 18 * draw] for draw in range(3)}) == 3


def test_a_resumed_stream_sees_the_same_pairs():
    data, readout = RefusalData(**PEOPLE, draws=2), PairedReadout()
    stream, resumed = (ForgetStream(data.train_dataloader(), seed=4) for _ in range(2))
    seen = [readout.keys(next(stream)) for _ in range(7)]
    resumed.seek(4)
    assert [readout.keys(next(resumed)) for _ in range(3)] == seen[4:]


def test_all_pairs_of_all_epochs_are_known_from_one_sweep():
    data, readout = RefusalData(**PEOPLE, draws=2), PairedReadout()
    stream = ForgetStream(data.train_dataloader())
    known = {key for batch in stream.sweep() for key in readout.keys(batch)}
    assert {key for _ in range(20) for key in readout.keys(next(stream))} <= known


def test_rows_with_one_answer_may_stand_among_ours():
    """`FinetuneFirst` puts forget and retain rows into one loader, with our collation."""
    forget = RefusalData(**PEOPLE)
    retain = QuestionAnswerData(**{**PEOPLE, "where": {"group": ["retain"]}})
    mixed = DataLoader(
        ConcatDataset([forget.dataset, retain.dataset]), 30, collate_fn=forget.val_dataloader().collate_fn
    )
    assert set(next(iter(mixed))) == {"input_ids", "attention_mask", "labels"}


def test_alternates_are_read_from_a_field(rows):
    data = AlternateAnswerData(rows, "bundled", rows=(0, 2))
    assert data.dataset.alternates[1] == "A zoo"
    assert data.dataset.alternates[0] in ("A mill", "A bank")
    both = AlternateAnswerData(rows, "bundled", rows=(0, 1), draws=2).dataset.alternates
    assert set(both) == {"A mill", "A bank"}


def test_alternates_are_read_from_another_file_by_question(rows, tmp_path):
    path = tmp_path / "other.jsonl"
    lines = [{"question": "Who employs Cy?", "answer": "x", "other": "A ship"}, {"question": "Who?", "other": "Nobody"}]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    data = AlternateAnswerData(rows, "bundled", rows=(2, 3), alternate="other", alternates=str(path))
    assert data.dataset.alternates == ("A ship",)
    with pytest.raises(
        ValueError, match=r"in `other` of `.*other.jsonl`. Found none for 3 of 4: row 0 .*, row 1 .*, row 3"
    ):
        AlternateAnswerData(rows, "bundled", alternate="other", alternates=str(path)).dataset


def test_rows_without_an_alternate_are_named(rows):
    with pytest.raises(ValueError, match=r"in `alternate`. Found none for 2 of 4: row 2 of .*, row 3 of .*Add them"):
        AlternateAnswerData(rows, "bundled").dataset


def test_too_many_draws_are_refused(rows):
    with pytest.raises(ValueError, match=r"Found `draws = 2` and 1 for row 1 of"):
        AlternateAnswerData(rows, "bundled", rows=(0, 2), draws=2).dataset
    with pytest.raises(ValueError, match="`draws` should be at least 1. Found `draws = 0`"):
        RefusalData(**PEOPLE, draws=0)


def test_alternates_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"question": "Who?", "answer": "Ada", "alternate": [1]}]))
    with pytest.raises(TypeError, match=r"`alternate` of row 0 of .* string or a list of strings. Found \[1\]"):
        AlternateAnswerData(str(path), "bundled").dataset


@pytest.mark.parametrize("own", [{"draws": 2}, {"draws": 2, "refusals": "bundled:idk"}], ids=str)
def test_yaml_builds_it_with_all_arguments(own):
    spec = {"class_path": "lightning_unlearn.data.RefusalData", "init_args": {**PEOPLE, "batch_size": 4, **own}}
    data = build(spec, LightningDataModule)
    assert (data.draws, data.batch_size, data.where) == (2, 4, {"group": ["forget"]})
    batch = first_batch(data)
    assert_close(batch["labels"], batch["dispreferred"]["labels"])


def test_yaml_with_a_mistyped_argument_is_refused():
    spec = {"class_path": "lightning_unlearn.data.RefusalData", "init_args": {**PEOPLE, "batchsize": 4}}
    with pytest.raises(ValueError, match="batchsize"):
        build(spec, LightningDataModule)
