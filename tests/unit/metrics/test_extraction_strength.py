"""How much of an answer comes by itself, corrected, and as OpenUnlearning's tables have it."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from _predictions import interleaving, reorder, sample
from jsonargparse import ArgumentParser

from lightning_unlearn.metrics import ExtractionStrength, KnowledgeMetric
from lightning_unlearn.prediction import Prediction


def said(*answers: str) -> Prediction:
    """One letter a token: ``r`` where the first choice is right, ``w`` where it is wrong."""
    letters = "".join(answers)
    logits = torch.tensor([[0.0, 1.0] if letter == "r" else [1.0, 0.0] for letter in letters]).reshape(-1, 2)
    example = torch.arange(len(answers)).repeat_interleave(torch.tensor([len(a) for a in answers]))
    return Prediction(logits, torch.ones(len(letters), dtype=torch.int64), example, len(answers))


def score(answer: str, **settings: object) -> float:
    metric = ExtractionStrength(**settings)
    metric.update(said(answer))
    return metric.compute().item()


def longest_right_end(answer: str) -> float:
    return (len(answer) - len(answer.rstrip("r"))) / len(answer)


ANSWERS = ["".join(letters) for n in range(1, 6) for letters in product("rw", repeat=n)]


def test_is_the_share_of_the_longest_end_that_is_right() -> None:
    for answer in ANSWERS:
        assert score(answer) == pytest.approx(longest_right_end(answer), abs=1e-12), answer


def test_of_open_unlearning_takes_the_last_token_that_counts_for_right_and_leaves_one_out() -> None:
    for answer in ANSWERS:
        counted = answer[:-1] or answer
        expected = max(longest_right_end(counted), 1 / len(counted))
        assert score(answer, compat="open-unlearning") == pytest.approx(expected, abs=1e-12), answer


def test_the_two_differ_by_the_floor_alone_once_they_count_the_same_tokens() -> None:
    differ = []
    for answer in ANSWERS:
        corrected = score(answer, skip_last_tokens=1)
        compat = score(answer, compat="open-unlearning")
        assert compat == score(answer, skip_last_tokens=1, compat="open-unlearning")
        if corrected != compat:
            assert corrected == 0
            assert (answer[:-1] or answer)[-1] == "w"
            differ.append(answer)
    assert "wwwwr" in differ
    assert "wwrrw" not in differ


def test_all_wrong_is_zero_and_a_quarter_in_compat() -> None:
    assert score("wwww") == 0
    assert score("wwww", skip_last_tokens=0, compat="open-unlearning") == 0.25


def test_an_end_of_turn_alone_counts_unless_it_is_skipped() -> None:
    assert score("wwwr") == 0.25
    assert score("wwwr", skip_last_tokens=1) == 0


@pytest.mark.parametrize("compat", [None, "open-unlearning"])
def test_examples_are_told_apart_whatever_the_order_of_the_rows(compat: str | None) -> None:
    prediction = sample((3, 0, 2, 4), classes=2)
    metric, other = ExtractionStrength(compat=compat), ExtractionStrength(compat=compat)
    metric.update(prediction)
    other.update(reorder(prediction, interleaving(prediction)))
    assert metric.scores().tolist() == other.scores().tolist()
    assert len(metric.scores()) == 3
    several = ExtractionStrength()
    several.update(said("rwr", "", "ww", "rr"))
    assert several.scores().tolist() == pytest.approx([1 / 3, 0, 1])


def test_a_batch_without_rows_adds_no_score() -> None:
    metric = ExtractionStrength()
    metric.update(said("", ""))
    metric.update(said("wr"))
    assert metric.scores().tolist() == [0.5]


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`skip_last_tokens` should be at least 0. Found `skip_last_tokens = -1`"):
        ExtractionStrength(skip_last_tokens=-1)
    with pytest.raises(ValueError, match=r"`compat` should be `None`.* or 'open-unlearning'\. Found `compat = 'muse'`"):
        ExtractionStrength(compat="muse")


def test_yaml_builds_it() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--metric", type=KnowledgeMetric)
    text = "metric: {class_path: lightning_unlearn.metrics.ExtractionStrength, init_args: {compat: open-unlearning}}"
    metric = parser.instantiate_classes(parser.parse_string(text)).metric
    assert (metric.compat, metric.skip_last_tokens) == ("open-unlearning", 1)
