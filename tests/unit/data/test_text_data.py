"""Windows hold one document each, and every token of it is supervised once, where anything predicts it."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from transformers import AutoTokenizer

from lightning_unlearn import CausalLMReadout, CrossEntropy, PackedCausalLMReadout, TinyCausalLM
from lightning_unlearn.data import (
    Encoding,
    FileRecords,
    ForgetRetainData,
    InMemoryRecords,
    LoaderSettings,
    PairedData,
    QuestionAnswerData,
    RandomOrder,
    Refusals,
    TextData,
    TextWindows,
    build,
)
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.prediction import IGNORED
from lightning_unlearn.readouts import PairedReadout

ADA = "Ada Lovelace works in the old post office of Valdoro, and keeps a heron there. " * 4
BO = "Bo is a baker.\n\nHe sells bread, and nothing else but bread, from six to nine. " * 3
ROWS = [
    {"text": ADA, "title": "Ada"},
    {"text": BO, "title": "Bo"},
    {"text": "Short, but not too short.", "title": "Ada"},
]


@pytest.fixture
def tokenizer() -> Any:
    return load_tokenizer("bundled")


@pytest.fixture
def beginning(tokenizer: Any) -> Any:
    """A tokenizer that begins texts with a token, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.add_special_tokens({"bos_token": "<|user|>"})
    special = [("<|user|>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|user|> $A", special_tokens=special)
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


def data(windows: Any = None, source: Any = ROWS, batch_size: int = 4, **options: Any) -> TextData:
    records = InMemoryRecords(source, **options)
    return TextData(records, windows or TextWindows("bundled", max_length=16), LoaderSettings(batch_size=batch_size))


def tokens(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def supervised(windows: list[Any]) -> list[int]:
    return [int(label) for window in windows for label in window["labels"] if label != IGNORED]


SHAPES = [(16, None), (16, 16), (16, 1), (16, 5), (16, 15), (7, 3), (2, 1), (2, None), (512, None), (512, 100)]


@pytest.mark.parametrize(("length", "stride"), SHAPES)
@pytest.mark.parametrize("text", [ADA, BO, "Ada works"])
def test_overlapping_windows_supervise_every_token_but_the_first_once(
    length: int, stride: int | None, text: str, tokenizer: Any
) -> None:
    ids = tokens(tokenizer, text)
    windows = TextWindows(tokenizer, max_length=length, stride=stride)(text)
    # Where windows do not overlap, nothing predicts the first token of each.
    unknown = range(0, len(ids), length) if stride in (None, length) else [0]
    assert supervised(windows) == [token for i, token in enumerate(ids) if i not in unknown]
    assert all(2 <= len(window["input_ids"]) <= length for window in windows)
    assert all(window["labels"][0] == IGNORED for window in windows)


@pytest.mark.parametrize(("length", "stride"), [(16, None), (16, 15), (16, 1), (16, 5), (2, None), (512, None)])
@pytest.mark.parametrize("text", [ADA, BO, "A"])
def test_where_windows_begin_with_a_token_of_their_own_every_token_of_the_text_is_supervised(
    length: int, stride: int | None, text: str, beginning: Any
) -> None:
    windows = TextWindows(beginning, max_length=length, stride=stride)(text)
    assert supervised(windows) == tokens(beginning, text)
    for window in windows:
        assert window["input_ids"][0] == beginning.bos_token_id
        assert (window["input_ids"][1:] != beginning.bos_token_id).all()
        assert len(window["input_ids"]) <= length


@pytest.mark.parametrize(("length", "stride"), SHAPES)
def test_windows_are_pieces_of_the_text_and_labels_are_inputs(length: int, stride: int | None, tokenizer: Any) -> None:
    """Oracle: torch cuts the same windows, but for the last ones."""
    ids = torch.tensor(tokens(tokenizer, ADA))
    windows = TextWindows(tokenizer, max_length=length, stride=stride)(ADA)
    unfolded = ids.unfold(0, min(length, len(ids)), stride or length)
    for piece, window in zip(unfolded, windows, strict=False):
        assert torch.equal(piece, window["input_ids"])
    for window in windows:
        kept = window["labels"] != IGNORED
        assert torch.equal(window["labels"][kept], window["input_ids"][kept])
        assert torch.equal(kept, kept.cummax(0).values), "known tokens, then new ones"


def test_a_window_begins_with_what_the_one_before_ended_with(tokenizer: Any) -> None:
    windows = TextWindows(tokenizer, max_length=16, stride=10)(ADA)
    for one, other in pairwise(windows):
        assert torch.equal(one["input_ids"][10:], other["input_ids"][:6])
        assert (other["labels"][:6] == IGNORED).all()
        assert (other["labels"][6:] != IGNORED).all()


@pytest.mark.parametrize(("shortest", "last"), [(2, 5), (5, 5), (6, 16), (16, 16)])
def test_a_short_last_window_is_kept_or_left_out(shortest: int, last: int, tokenizer: Any) -> None:
    text = tokenizer.decode(tokens(tokenizer, ADA)[:37])
    assert len(tokens(tokenizer, text)) == 37  # two windows of sixteen, and five
    lengths = [len(w["input_ids"]) for w in TextWindows(tokenizer, max_length=16, shortest=shortest)(text)]
    assert lengths == [16, 16, last][: 3 if last == 5 else 2]


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_in_which_nothing_is_predicted_gives_no_window(text: str, tokenizer: Any) -> None:
    assert TextWindows(tokenizer)(text) == []


def test_a_blank_text_gives_no_window_that_holds_the_beginning_alone(beginning: Any) -> None:
    assert TextWindows(beginning)("") == []
    assert len(TextWindows(beginning)("a")) == 1


def test_a_long_text_is_tokenised_in_one_go_without_a_word(data_folder: Any, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data_folder / "models" / "stories260k")
    text = "Once upon a time, there was a heron. " * 500
    with caplog.at_level(logging.DEBUG):
        windows = TextWindows(tokenizer, max_length=128)(text)
    assert caplog.records == []
    assert supervised(windows) == tokens(tokenizer, text)
    assert {int(window["input_ids"][0]) for window in windows} == {tokenizer.bos_token_id}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 1}, "`max_length` should be at least 2"),
        ({"stride": 0}, "`stride` should be at least 1"),
        ({"max_length": 8, "stride": 9}, "`stride` should be at most the 8 tokens .* are skipped. Found `stride = 9`"),
        ({"shortest": 1}, "`shortest` should be at least 2"),
        ({"max_length": 8, "shortest": 9}, "`shortest` should be at most `max_length`.* Found `shortest = 9` and"),
    ],
)
def test_windows_that_skip_tokens_or_predict_nothing_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextWindows("bundled", **options)


def test_a_stride_that_leaves_no_room_for_the_beginning_is_refused(beginning: Any) -> None:
    assert TextWindows(beginning, max_length=8, stride=7)(ADA)
    with pytest.raises(ValueError, match="`stride` should be at most the 7 tokens of a text that a window holds"):
        TextWindows(beginning, max_length=8, stride=8)(ADA)


# Documents


def test_no_window_holds_two_documents(tokenizer: Any) -> None:
    dataset = data(batch_size=3).dataset
    assert [len(tokens(tokenizer, row["text"])) % 16 > 0 for row in ROWS] == [True] * 3, "all end inside a window"
    alone = [window for row in ROWS for window in TextWindows(tokenizer, max_length=16)(row["text"])]
    assert len(dataset) == len(alone) == len(dataset.entities)
    assert all(torch.equal(one["input_ids"], other["input_ids"]) for one, other in zip(dataset, alone, strict=True))


def test_windows_of_a_document_are_about_the_same_entity() -> None:
    by_row, by_title = data().dataset.entities, data(entity="title").dataset.entities
    assert by_row == sorted(by_row)
    assert set(by_row) == {"0", "1", "2"}
    assert set(by_title) == {"Ada", "Bo"}
    assert by_title[-1] == "Ada"
    assert data(rows=(1, None)).dataset.entities[0] == "1"
    assert set(data(where={"title": "Bo"}).dataset.entities) == {"1"}


def test_a_folder_of_texts_is_its_documents(tmp_path: Any) -> None:
    for name, text in (("a.txt", ADA), ("b.txt", BO)):
        (tmp_path / name).write_text(text)
    folder = TextData(FileRecords(tmp_path, entity="file"), TextWindows("bundled", max_length=16))
    assert set(folder.dataset.entities) == {"a.txt", "b.txt"}
    both = data(rows=(0, 2)).dataset
    assert all(torch.equal(one["labels"], other["labels"]) for one, other in zip(folder.dataset, both, strict=True))


def test_documents_without_a_window_are_counted_once_and_none_is_refused() -> None:
    rows = [*ROWS, {"text": " ", "title": "x"}, {"text": "", "title": "y"}]
    with pytest.warns(
        UserWarning, match=r"2 of 5 documents of .* and are left out, the first row 3 of `InMemoryRecords`"
    ):
        dataset = data(source=rows).dataset
    assert set(dataset.entities) == {"0", "1", "2"}
    with pytest.raises(ValueError, match="at least `shortest = 2` tokens. Found none in 2, the first row 0 of"):
        _ = data(source=rows[3:]).dataset


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"body": "x"}, ValueError, "row 0 of .* should have the field `text`. It has `body`"),
        ({"text": None}, TypeError, "`text` of row 0 of .* should be a string. Found `NoneType`"),
        ({"text": ["a", "b"]}, TypeError, "`text` of row 0 of .* should be a string. Found `list`"),
    ],
)
def test_a_row_without_text_is_named(row: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        data(source=[row]).setup("fit")


def test_texts_without_fields_are_documents(tmp_path: Any) -> None:
    """As in MUSE's files."""
    (tmp_path / "a.json").write_text(json.dumps([row["text"] for row in ROWS]))
    bare = TextData(FileRecords(tmp_path / "a.json"), TextWindows("bundled", max_length=16)).dataset
    assert bare.entities == data().dataset.entities
    assert all(torch.equal(one["labels"], other["labels"]) for one, other in zip(bare, data().dataset, strict=True))


def test_the_field_may_have_another_name() -> None:
    body = TextData(InMemoryRecords([{"body": ADA}]), TextWindows("bundled", max_length=16), text="body")
    assert len(body.dataset) == len(data(source=ROWS[:1]).dataset)


# Batches


def test_batches_are_those_of_questions_and_answers(tokenizer: Any) -> None:
    text, chat = data(), QuestionAnswerData(FileRecords("bundled:people"), Encoding("bundled"))
    batches = list(text.val_dataloader())
    assert {(key, value.dtype) for key, value in batches[0].items()} == {
        (key, value.dtype) for key, value in next(iter(chat.val_dataloader())).items()
    }
    rows = [row for batch in batches for row in zip(*batch.values(), strict=True)]
    for (ids, mask, labels), window in zip(rows, text.dataset, strict=True):
        assert torch.equal(ids[mask.bool()], window["input_ids"])
        assert torch.equal(labels[mask.bool()], window["labels"])
        assert (labels[~mask.bool()] == IGNORED).all()


@pytest.mark.parametrize("readout", [CausalLMReadout(), PackedCausalLMReadout()], ids=str)
@pytest.mark.parametrize("stride", [None, 5])
def test_the_loss_is_that_of_hugging_face(readout: Any, stride: int | None) -> None:
    network = TinyCausalLM(hidden_size=16, num_hidden_layers=1).eval()
    for batch in data(TextWindows("bundled", max_length=16, stride=stride)).val_dataloader():
        with torch.no_grad():
            prediction = readout(network, batch)
            torch.testing.assert_close(CrossEntropy()(prediction), network(**batch).loss)
        assert len(prediction.labels) == int((batch["labels"] != IGNORED).sum())
        assert len(set(readout.keys(batch))) == len(batch["labels"])


def test_an_order_says_which_windows_go_with_which_questions() -> None:
    chat = QuestionAnswerData(FileRecords("bundled:people"), Encoding("bundled"), LoaderSettings(batch_size=4))
    both = ForgetRetainData(retain=chat, forget=data(), order=RandomOrder())
    both.setup("fit")
    rows = both.forget_order()
    assert rows is not None
    assert sorted(rows(0)) == list(range(len(data().dataset)))
    assert len(list(both.train_dataloader())) == -(-len(data().dataset) // 4)


def test_yaml_builds_it(tmp_path: Any) -> None:
    (tmp_path / "a.txt").write_text(ADA)
    init = {
        "records": {"path": str(tmp_path)},
        "windows": {"tokenizer": "bundled", "max_length": 16, "stride": 8},
        "loader": {"batch_size": 2},
    }
    built = build({"class_path": "lightning_unlearn.TextData", "init_args": init}, LightningDataModule)
    given = TextData(FileRecords(tmp_path), TextWindows("bundled", max_length=16, stride=8), LoaderSettings(2))
    assert torch.equal(next(iter(built.val_dataloader()))["labels"], next(iter(given.val_dataloader()))["labels"])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TextData, "data")
    assert isinstance(parser.instantiate(parser.parse_object({"data": init})).data, TextData)


# What makes no sense


@pytest.mark.parametrize(
    "made",
    [
        lambda windows: PairedData(InMemoryRecords(ROWS), Refusals(), windows),
        lambda windows: QuestionAnswerData(InMemoryRecords(ROWS), windows),
    ],
)
def test_windows_have_no_answers_and_no_companions(made: Any) -> None:
    with pytest.raises(TypeError, match=r"`encoding` of `\w+Data` should be an `Encoding`.* Use `TextData`"):
        made(TextWindows("bundled"))


def test_an_encoding_makes_no_windows() -> None:
    with pytest.raises(TypeError, match=r"`windows` should be a `TextWindows`, such as `TextWindows\(\"bundled\"\)`"):
        TextData(InMemoryRecords(ROWS), Encoding("bundled"))  # type: ignore[arg-type]


def test_texts_are_not_asked() -> None:
    with pytest.raises(ValueError, match="should have the field `answer`. It has `text`, `title`.* use `TextData`"):
        _ = QuestionAnswerData(InMemoryRecords(ROWS), Encoding("bundled")).dataset
    with pytest.raises((KeyError, TypeError, ValueError), match="companion"):
        PairedReadout()(TinyCausalLM(), next(iter(data().val_dataloader())))
