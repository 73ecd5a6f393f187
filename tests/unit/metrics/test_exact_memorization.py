"""How many of an answer's tokens come first, with the last ones left out, and as OpenUnlearning's tables have it."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from _predictions import interleaving, reorder, sample

from lightning_unlearn.metrics import ExactMemorization
from lightning_unlearn.prediction import Prediction

ANSWERS = ["".join(letters) for n in range(1, 6) for letters in product("rw", repeat=n)]


def score(*answers: str, **settings: object) -> list[float]:
    """One letter a token: ``r`` where the first choice is right, ``w`` where it is wrong."""
    letters = "".join(answers)
    logits = torch.tensor([[0.0, 1.0] if letter == "r" else [1.0, 0.0] for letter in letters])
    example = torch.arange(len(answers)).repeat_interleave(torch.tensor([len(a) for a in answers]))
    metric = ExactMemorization(**settings)  # type: ignore[arg-type]
    metric.update(Prediction(logits, torch.ones(len(letters), dtype=torch.int64), example, len(answers)))
    scores: list[float] = metric.scores().tolist()
    return scores


@pytest.mark.parametrize("skipped", [0, 1, 3])
def test_tokens_at_the_end_are_left_out_as_long_as_one_is_left(skipped: int) -> None:
    counted = [answer[: max(len(answer) - skipped, 1)] for answer in ANSWERS]
    expected = [answer.count("r") / len(answer) for answer in counted]
    assert score(*ANSWERS, skip_last_tokens=skipped) == pytest.approx(expected)


def test_of_open_unlearning_leaves_one_out() -> None:
    assert score(*ANSWERS, compat="open-unlearning") == score(*ANSWERS, skip_last_tokens=1)
    assert score("wwwr") == [0.25]
    assert score("wwwr", compat="open-unlearning") == [0]
    assert score("wwwr", skip_last_tokens=0, compat="open-unlearning") == [0.25]


def test_the_last_tokens_are_those_of_each_example_whatever_the_order_of_the_rows() -> None:
    prediction = sample((3, 0, 2, 4), classes=2)
    metric, other = ExactMemorization(skip_last_tokens=1), ExactMemorization(skip_last_tokens=1)
    metric.update(prediction)
    other.update(reorder(prediction, interleaving(prediction)))
    assert metric.scores().tolist() == other.scores().tolist()


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`skip_last_tokens` should be at least 0. Found `skip_last_tokens = -1`"):
        ExactMemorization(skip_last_tokens=-1)
    with pytest.raises(ValueError, match=r"`compat` should be `None`.* or 'open-unlearning'\. Found `compat = 'muse'`"):
        ExactMemorization(compat="muse")  # type: ignore[arg-type]
