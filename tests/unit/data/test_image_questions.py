"""Questions about images: each row has the pixels of its own image, in a batch, beside companions, and in other words."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from transformers import CLIPImageProcessor

from lightning_unlearn import (
    CausalLMReadout,
    Encoding,
    FileRecords,
    ImageEncoding,
    InMemoryRecords,
    LoaderSettings,
    PairedData,
    QuestionAnswerData,
)
from lightning_unlearn.data import (
    Ask,
    DecoupledQuestion,
    Hierarchy,
    ImageQuestions,
    Images,
    LabelledImages,
    Linter,
    Picture,
    QuestionAnswer,
    SameImage,
    load_probe,
)

KINDS = ["cat", "dog", "car", "bus"]
ASKS = [Ask("what", "What is it?", KINDS), Ask("kind", "Is it alive?", ["yes", "yes", "no", "no"])]
ENCODING = ImageEncoding("bundled", template="plain")


class Numbered(Images):
    """Eight images, two of each kind; each holds its own number."""

    def load(self) -> LabelledImages:
        return LabelledImages(torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 1, 4, 4), torch.arange(8) % 4, KINDS)


def asked(*names: str, **options: Any) -> ImageQuestions:
    return ImageQuestions(Numbered(), ASKS, where={"asks": list(names)}, **options)


def numbers(pixels: Tensor) -> list[int]:
    return [int(image.flatten()[0]) for image in pixels]


def first(data: QuestionAnswerData) -> Any:
    return next(iter(data.val_dataloader()))


def test_every_image_is_asked_everything_once() -> None:
    rows = ImageQuestions(Numbered(), ASKS).questions()
    assert [(row.question, row.answer, row.entity) for row in rows[:2]] == [
        ("What is it?", "cat", "cat"),
        ("Is it alive?", "yes", "cat"),
    ]
    assert [int(row.image.pixels.flatten()[0]) for row in rows if row.image] == [n for n in range(8) for _ in ASKS]


def test_a_batch_has_the_pixels_of_its_rows_beside_their_tokens() -> None:
    data = QuestionAnswerData(asked("kind"), ENCODING, LoaderSettings(batch_size=8))
    batch = first(data)
    assert sorted(batch) == ["attention_mask", "input_ids", "labels", "pixel_values"]
    assert numbers(batch["pixel_values"]) == list(range(8))
    plain = first(
        QuestionAnswerData(asked("kind"), Encoding("bundled", template="plain"), LoaderSettings(batch_size=8))
    )
    assert all(torch.equal(batch[name], value) for name, value in plain.items())
    shuffled = next(iter(data.train_dataloader()))
    said = [ENCODING.tokenizer.decode(row[row != -100], skip_special_tokens=True).strip() for row in shuffled["labels"]]
    assert said == [ASKS[1].answers[n % 4] for n in numbers(shuffled["pixel_values"])]


def test_a_node_goes_and_its_siblings_keep_their_names() -> None:
    """Of all that is alive, cats must go: the dogs are their siblings."""
    sides: Any = ("forget", "siblings", "retain")
    found = {s: Hierarchy(asked("what"), ["kind", "what"], ["yes/cat"], s).questions() for s in sides}
    assert {side: sorted({row.answer for row in rows}) for side, rows in found.items()} == {
        "forget": ["cat"],
        "siblings": ["dog"],
        "retain": ["bus", "car", "dog"],
    }
    assert all(row.image is not None for rows in found.values() for row in rows)


def test_the_same_image_is_asked_something_else() -> None:
    """The oracle goes through the pixels: the companion of an image has its number, and another question."""
    gone = Hierarchy(asked("what"), ["kind", "what"], ["yes/cat"])
    batch = first(PairedData(gone, SameImage(ImageQuestions(Numbered(), ASKS)), ENCODING))
    assert numbers(batch["pixel_values"]) == numbers(batch["companion"]["pixel_values"]) == [0, 4]
    questions = [ENCODING.tokenizer.decode(row) for row in batch["companion"]["input_ids"]]
    assert all("Is it alive?" in question and "yes" in question for question in questions)


def test_the_same_question_is_asked_of_another_image() -> None:
    gone, stays = (Hierarchy(asked("what"), ["kind", "what"], ["yes/cat"], side) for side in ("forget", "retain"))
    batch = first(PairedData(gone, DecoupledQuestion(replaced(stays)), ENCODING, draws=2))
    assert {number % 4 for number in numbers(batch["pixel_values"])} == {0}
    assert {number % 4 for number in numbers(batch["companion"]["pixel_values"])} <= {1, 2, 3}
    assert all("What is it?" in ENCODING.tokenizer.decode(row) for row in batch["companion"]["input_ids"])


def replaced(records: Hierarchy) -> InMemoryRecords:
    """The same rows, which say in a field what they are about."""
    rows = [
        {"question": r.question, "answer": r.answer, "about": r.entity, "image": r.image} for r in records.questions()
    ]
    return InMemoryRecords(rows, entity="about", image="image")


def test_records_of_other_images_have_no_companion() -> None:
    others = ImageQuestions(Numbered(), ASKS, rows=(0, 2))
    with pytest.raises(ValueError, match="`SameImage` should know at least .*ask something else about the same images"):
        PairedData(asked("what"), SameImage(others), ENCODING).setup("fit")
    with pytest.raises(ValueError, match="questions about images. Found none in row 0"):
        PairedData(asked("what"), SameImage(InMemoryRecords([{"question": "a", "answer": "b"}])), ENCODING).setup("fit")


def test_other_words_keep_the_image() -> None:
    data = QuestionAnswerData(asked("what"), ENCODING)
    probe = load_probe(data.val_dataloader(), CausalLMReadout())
    assert probe.rows is not None
    again = probe.asked([replace(row, question="Tell me what this is.") for row in probe.rows])
    assert numbers(again.batches[0][0]["pixel_values"]) == numbers(probe.batches[0][0]["pixel_values"])
    assert again.content_hash != probe.content_hash


def test_rows_about_two_images_are_not_the_same_row() -> None:
    rows = asked("what").questions()
    told = {"RepeatedRows", "AlsoRetained", "Contradictions", "NearDuplicates"}
    assert not told & {finding.check for finding in Linter()(rows[:4], rows[4:])}
    found = Linter()([rows[0], rows[0]], [rows[0]])
    assert {"RepeatedRows", "AlsoRetained"} <= {finding.check for finding in found}


GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)


def as_png(array: np.ndarray[Any, Any]) -> bytes:
    raw = io.BytesIO()
    Image.fromarray(array).save(raw, "PNG")
    return raw.getvalue()


@pytest.mark.parametrize("form", ["array", "pillow", "bytes", "datasets", "file", "tensor"])
def test_an_image_may_come_in_many_forms(form: str, tmp_path: Path) -> None:
    (tmp_path / "grey.png").write_bytes(as_png(GREY))
    given: Any = {
        "array": GREY,
        "pillow": Image.fromarray(GREY),
        "bytes": as_png(GREY),
        "datasets": {"bytes": as_png(GREY), "path": None},
        "file": str(tmp_path / "grey.png"),
        "tensor": torch.from_numpy(GREY),
    }[form]
    (row,) = InMemoryRecords([{"question": "a", "answer": "b", "seen": given}], image="seen").questions()
    assert_close(ENCODING(row)["pixel_values"], torch.from_numpy(GREY)[None] / 255, rtol=0, atol=0)
    assert row.image == Picture(GREY)
    assert row.image != Picture(GREY + 1)


def test_files_are_found_beside_the_records(tmp_path: Path) -> None:
    colour = np.stack([GREY, GREY + 1, GREY + 2], axis=-1)
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "one.png").write_bytes(as_png(colour))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "a", "answer": "b", "image": "seen/one.png"}))
    (row,) = FileRecords(tmp_path / "rows.jsonl", image="image").questions()
    assert torch.equal(ENCODING(row)["pixel_values"], torch.from_numpy(colour).permute(2, 0, 1) / 255)


def test_what_is_no_image_is_refused() -> None:
    for value, error, said in (
        (3, TypeError, "`seen` of row 0 .*should be an image.*Found a `int`"),
        ("nowhere.png", FileNotFoundError, "Found no file `nowhere.png`"),
    ):
        with pytest.raises(error, match=said):
            InMemoryRecords([{"question": "a", "answer": "b", "seen": value}], image="seen").questions()


def test_a_row_without_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="`ImageEncoding` should get rows with an image. Found none in row 7"):
        ENCODING(QuestionAnswer("a", "b", "", "row 7"))


def test_images_of_several_sizes_are_refused() -> None:
    rows = [{"question": "a", "answer": "b", "image": torch.zeros(1, n, 4)} for n in (4, 6)]
    with pytest.raises(ValueError, match=r"of one size|should have one size. Found \[\(1, 4, 4\), \(1, 6, 4\)\]"):
        first(QuestionAnswerData(InMemoryRecords(rows, image="image"), ENCODING))


def test_a_processor_makes_the_pixels_and_marks_stand_before_the_question() -> None:
    processor = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    colour = np.stack([GREY] * 3, axis=-1)
    encoding = ImageEncoding("bundled", template="plain", processor=processor, image_text="<<>>")
    found = encoding(QuestionAnswer("What?", "b", "", "", image=Picture(colour)))
    expected = processor(images=Image.fromarray(colour), return_tensors="pt")["pixel_values"][0]
    assert_close(found["pixel_values"], torch.as_tensor(expected), rtol=0, atol=1e-6)
    assert "<<>>What?" in encoding.tokenizer.decode(found["input_ids"])
    values = encoding(
        QuestionAnswer("What?", "b", "", "", image=Picture(torch.from_numpy(colour).permute(2, 0, 1) / 255))
    )
    assert_close(values["pixel_values"], found["pixel_values"], rtol=0, atol=0.05)


def test_a_processor_that_gives_more_is_refused() -> None:
    def tiles(images: Any, **options: Any) -> dict[str, Tensor]:
        return {"pixel_values": torch.zeros(1, 5, 3, 8, 8), "image_sizes": torch.zeros(1, 2)}

    encoding = ImageEncoding("bundled", processor=tiles)
    with pytest.raises(ValueError, match=r"`pixel_values` of shape \(1, 5, 3, 8, 8\) and \['image_sizes'\]"):
        encoding(QuestionAnswer("a", "b", "", "", image=Picture(torch.zeros(3, 8, 8))))


@pytest.mark.parametrize(
    ("asks", "said"),
    [
        ([], "questions of different names. Found \\[\\]"),
        ([ASKS[0], ASKS[0]], "questions of different names"),
        ([Ask("what", "What?", ["a"])], "`answers` of 'what' should be one for each class"),
    ],
)
def test_questions_without_sense_are_refused(asks: list[Ask], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ImageQuestions(Numbered(), asks).questions()
