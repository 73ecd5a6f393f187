"""The beginning of an answer becomes part of its question, wherever padding is, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from _language_models import LENGTHS, PROMPTS, batch

from lightning_unlearn.readouts import CausalLMReadout, answer_tokens, begun_by


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("given", [0, 1, 2, 5])
def test_what_is_given_moves_from_the_answer_to_the_question(given: int, side: str, masked: bool) -> None:
    data = batch(side, width=11, rows=(0, 1), masked=masked or side == "left")
    before = CausalLMReadout().exchanges(data)
    begun = begun_by(data, [given] * 2)
    after = CausalLMReadout().exchanges(begun)
    assert before is not None
    assert after is not None
    for old, new in zip(before, after, strict=True):
        assert new.answer.tolist() == old.answer[given:].tolist()
        if len(new.answer):
            assert new.question.tolist() == [*old.question.tolist(), *old.answer[:given].tolist()]
    assert all(torch.equal(begun[name], data[name]) for name in data if name != "labels")
    assert data["labels"].ne(begun["labels"]).any() == (given > 0)  # the user's own are left alone


def test_rows_may_be_given_different_beginnings() -> None:
    data = batch()
    left = [len(answer) for answer in answer_tokens(begun_by(data, [4, 1, 0]))]
    assert left == [LENGTHS[0] - PROMPTS[0] - 4, LENGTHS[1] - PROMPTS[1] - 1, 0]


def test_text_that_is_supervised_from_its_first_token_on_is_begun_by_it() -> None:
    data = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "labels": torch.tensor([[5, 6, 7, 8]])}
    assert begun_by(data, [1])["labels"].tolist() == [[-100, -100, 7, 8]]  # nothing predicts the first
