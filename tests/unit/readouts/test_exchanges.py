"""Questions and answers taken apart and put together again, and keys that tell examples apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _language_models import batch, family
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn import CausalLMReadout, ClassificationReadout, PackedCausalLMReadout

READOUTS = [CausalLMReadout(), PackedCausalLMReadout()]
every_readout = pytest.mark.parametrize("readout", READOUTS, ids=["plain", "packed"])


@every_readout
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("masked", [True, False])
def test_with_its_own_answers_a_batch_reads_the_same(readout: Any, side: str, masked: bool) -> None:
    if side == "left" and not masked:
        pytest.skip("without a mask, padding on the left is part of the question")
    given = batch(side, width=11, masked=masked)
    own = [exchange.answer for exchange in readout.exchanges(given)]
    net = family("llama").eval()
    there, back = readout(net, given), readout(net, readout.with_answers(given, own))
    assert_close(back.logits, there.logits)
    assert torch.equal(back.labels, there.labels)
    assert torch.equal(back.example, there.example)


@every_readout
def test_other_answers_follow_the_same_questions(readout: Any) -> None:
    given = {**batch(), "row": ["a", "b", "c"]}
    before = readout.exchanges(given)
    others = [torch.tensor([9, 8, 7, 6]), torch.tensor([5]), torch.tensor([4, 3])]
    other = readout.with_answers(given, others)
    after = readout.exchanges(other)
    for (question, _), (same, answer), new in zip(before, after, others, strict=True):
        assert torch.equal(question, same)
        assert torch.equal(answer, new)
    assert other["row"] == given["row"]
    assert torch.equal(other["labels"].ne(-100).sum(1), torch.tensor([4, 1, 2]))


def test_tokens_hidden_inside_a_question_stay_hidden() -> None:
    hidden = {
        "input_ids": torch.tensor([[5, 3, 6, 7, 8]]),
        "attention_mask": torch.tensor([[1, 0, 1, 1, 1]]),
        "labels": torch.tensor([[-100, -100, -100, 7, 8]]),
    }
    other = CausalLMReadout().with_answers(hidden, [torch.tensor([9])])
    assert other["input_ids"].tolist() == [[5, 3, 6, 9]]
    assert other["attention_mask"].tolist() == [[1, 0, 1, 1]]


def test_inputs_for_each_token_would_not_fit_other_answers() -> None:
    given = batch()
    readout = CausalLMReadout()
    assert readout.exchanges({**given, "pixel_values": torch.zeros(3, 2, 4, 4)}) is not None
    assert readout.exchanges({**given, "token_type_ids": torch.zeros_like(given["labels"])}) is None


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_other_classes_belong_to_the_same_inputs(kind: Any) -> None:
    x, y = torch.randn(3, 2), torch.tensor([4, -100, 1])
    readout = ClassificationReadout("x", "y") if kind is dict else ClassificationReadout()
    given = {"x": x, "y": y} if kind is dict else kind([x, y])
    other = readout.with_answers(given, [torch.tensor([2]), torch.tensor([], dtype=torch.long), torch.tensor([0])])
    inputs, labels = (other["x"], other["y"]) if kind is dict else other
    assert inputs is x
    assert labels.tolist() == [2, -100, 0]
    assert y.tolist() == [4, -100, 1]
    assert [exchange.answer.tolist() for exchange in readout.exchanges(given)] == [[4], [], [1]]


def with_pixels(pixels: Tensor) -> dict[str, Any]:
    return {"input_ids": torch.tensor([[5, 6]] * 2), "labels": torch.tensor([[-100, 6]] * 2), "pixel_values": pixels}


@every_readout
def test_two_images_with_one_text_have_two_keys(readout: Any) -> None:
    images = torch.randn(2, 3, 4, 4)
    first, second = readout.keys(with_pixels(images))
    assert first != second
    assert readout.keys(with_pixels(images.flip(0))) == [second, first]
    same = readout.keys(with_pixels(images[:1].expand(2, -1, -1, -1)))
    assert same == [first, first]


@every_readout
def test_keys_depend_neither_on_padding_nor_on_row_numbers(readout: Any) -> None:
    types = {"token_type_ids": torch.ones(3, batch()["labels"].shape[1]).long()}
    wide = {"token_type_ids": torch.ones(3, 11).long()}
    plain = readout.keys({**batch(), **types})
    assert readout.keys({**batch(width=11), **wide, "index": torch.arange(3)}) == plain
    other = types["token_type_ids"].clone()
    other[0, 0] = 0
    assert [a == b for a, b in zip(plain, readout.keys({**batch(), "token_type_ids": other}), strict=True)] == [
        False,
        True,
        True,
    ]
