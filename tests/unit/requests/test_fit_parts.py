"""The parts of FIT: what is left out, which objective, which layers."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from _request_sequences import ENCODING, plain_fit, requests, rows, sequence, tiny
from torch import nn

from lightning_unlearn.audits import Generation, Measure
from lightning_unlearn.audits.leakage.scores import RougeRecall
from lightning_unlearn.data import QuestionAnswerData
from lightning_unlearn.metrics import AnswerProbability, ExactMemorization
from lightning_unlearn.models.layers import blocks
from lightning_unlearn.requests import Job, Parsed, Request, target
from lightning_unlearn.requests.fit import (
    FIT,
    AtQuantiles,
    AtValues,
    FITScore,
    RedundancyFilter,
    SentenceModel,
    embedding_gradient,
    only_top_layers,
)
from lightning_unlearn.requests.fit._fit import warm_cosine
from lightning_unlearn.requests.fit._fit_score import fit_score

FIRST = rows(("Who employs Ada?", "The post office", "Ada"), ("Where does Ada live?", "In Bath", "Ada"))
SECOND = rows(
    ("Who employs Ada?", "The post office", "Ada"),  # as before
    ("What does Bo bake?", "Bread of rye", "Bo"),
    ("What does Bo bake?", "Bread of rye", "Bo"),  # as the one before
)


def job(tmp_path: Path, request: Any = SECOND, earlier: Any = (FIRST,)) -> Job:
    before = [Request(f"e{number}", each) for number, each in enumerate(earlier)]
    return Job(1, Request("r", request), tiny(), FIRST, ENCODING, 0, [], before, tmp_path)


def kept(found: Any) -> list[str]:
    return [row.answer for row in found[0].questions()]


def test_rows_that_say_what_was_asked_for_before_are_left_out_and_told_of(tmp_path: Path) -> None:
    found, dropped = RedundancyFilter(tolerance=10.0)(job(tmp_path))
    assert [row.answer for row in found.questions()] == ["Bread of rye"]
    assert [(each.row, each.similarity) for each in dropped] == [(0, pytest.approx(1.0)), (2, pytest.approx(1.0))]


def test_a_row_without_which_the_loss_is_another_stays(tmp_path: Path) -> None:
    everything = job(tmp_path)
    losses = [_loss(everything.network, SECOND, left_out) for left_out in (None, 0)]
    difference = abs(losses[0] - losses[1])
    assert difference > 1e-4
    for tolerance, stays in ((0.99 * difference, True), (1.01 * difference, False)):
        _, dropped = RedundancyFilter(tolerance=tolerance)(everything)
        assert (0 not in [each.row for each in dropped]) == stays


def _loss(network: nn.Module, records: Any, left_out: int | None) -> float:
    """The mean over tokens by transformers' own loss, a row at a time."""
    total = count = 0.0
    for number, row in enumerate(records.questions()):
        if number != left_out:
            encoded = ENCODING(row)
            labels = encoded["labels"][None]
            size = int((labels[:, 1:] != -100).sum())
            with torch.no_grad():
                total += size * float(network.eval()(input_ids=encoded["input_ids"][None], labels=labels).loss)
            count += size
    return total / count


def test_one_row_always_stays(tmp_path: Path) -> None:
    found, dropped = RedundancyFilter(tolerance=10.0)(job(tmp_path, request=FIRST))
    assert len(found.questions()) == 1
    assert len(dropped) == 1


def test_nothing_alike_is_left_out(tmp_path: Path) -> None:
    assert RedundancyFilter(tolerance=10.0)(job(tmp_path, request=FIRST, earlier=()))[1] == []


def test_importance_is_the_gradient_at_embedded_tokens() -> None:
    network, records = tiny(), FIRST
    before = {name: p.clone() for name, p in network.named_parameters()}
    total, size = 0.0, 0
    for row in records.questions():
        encoded = ENCODING(row)
        embedded = network.get_input_embeddings()(encoded["input_ids"][None]).detach().requires_grad_()  # type: ignore[operator]
        logits = network.eval()(inputs_embeds=embedded).logits[0, :-1]
        labels = encoded["labels"][1:]
        loss = nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100], reduction="sum")
        total += float(torch.autograd.grad(loss, embedded)[0].square().sum())
        size += int((labels != -100).sum())
    assert embedding_gradient(network, records, ENCODING) == pytest.approx(total**0.5 / size, rel=1e-4)
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in network.named_parameters())


@pytest.mark.parametrize(("found", "level"), [(0, 0), (5.99, 0), (6, 1), (11.99, 1), (12, 2), (50, 2)])
def test_published_thresholds(found: float, level: int) -> None:
    assert AtValues().level(found, [100.0]) == level


def test_quantiles_use_each_level_for_a_third_of_many_requests() -> None:
    values = torch.rand(300, generator=torch.Generator().manual_seed(0)).tolist()
    levels = [AtQuantiles().level(value, values[:number]) for number, value in enumerate(values)]
    assert [levels.count(level) / 300 for level in range(3)] == pytest.approx([1 / 3] * 3, abs=0.05)
    assert AtQuantiles().level(1.0, []) == 1


@pytest.mark.parametrize("high", [1.0, 2.0], ids=str)
def test_thresholds_rise(high: float) -> None:
    with pytest.raises(ValueError, match="`low` should be below `high`"):
        AtValues(2.0, high)


def test_only_matrices_of_the_top_layers_are_trainable_and_all_are_as_before_afterwards() -> None:
    network = tiny()
    frozen = network.get_input_embeddings().weight.requires_grad_(False)  # type: ignore[operator,union-attr]
    batch = next(iter(QuestionAnswerData(FIRST, ENCODING).val_dataloader()))
    with only_top_layers(network, [batch], 1) as chosen:
        trained = {name for name, p in network.named_parameters() if p.requires_grad}
        assert len(chosen) == 1
        assert trained
        assert all(name.startswith(chosen[0]) and (".mlp." in name or ".self_attn." in name) for name in trained)
    assert all(p.requires_grad == (p is not frozen) for p in network.parameters())
    assert len(blocks(network)) == 2


def test_the_rate_rises_and_falls_to_a_tenth() -> None:
    rates = [warm_cosine(step, 40) for step in range(41)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(one >= other for one, other in pairwise(rates[4:]))


@pytest.mark.slow
def test_a_sequence_with_fit_says_what_it_chose(tmp_path: Path) -> None:
    doubled = [
        *requests(2),
        Request("again", Parsed([replace(row, source="") for row in requests(1)[0].records.questions()])),
    ]
    fit = FIT(tiny, redundancy=RedundancyFilter(tolerance=10.0), layers=1, lr=1e-3, trainer={"accelerator": "cpu"})
    entries = sequence(tmp_path, fit).run(doubled)
    told = [entry.figures["fit"] for entry in entries[1:]]
    assert [len(each["dropped"]) for each in told] == [0, 0, 5]  # all but the last row
    assert [len(each["layers"]) for each in told] == [1, 1, 1]
    assert told[0]["level"] == 1
    assert all(each["importance"] > 0 and each["steps"] >= 3 for each in told)
    weights = [sequence(tmp_path, fit).weights(name) for name in (None, requests(1)[0].id)]
    unmoved = [name for name in weights[0] if "layers" not in name]
    assert unmoved
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in unmoved)


def test_a_sentence_model_compares_what_texts_mean_to_it(tmp_path: Path) -> None:
    from lightning_unlearn.models import load_tokenizer

    network: Any = tiny()
    network.model.save_pretrained(tmp_path)
    load_tokenizer("bundled").save_pretrained(tmp_path)
    alike = SentenceModel(str(tmp_path))(["Who employs Ada?", "a"], ["Who employs Ada?", "The mill by the river"])
    assert alike.shape == (2, 2)
    assert float(alike[0, 0]) == pytest.approx(1.0, abs=1e-5)
    assert alike.abs().max() <= 1 + 1e-5
    assert float(alike[0, 1]) < 0.999
    one = SentenceModel(str(tmp_path))(["a"], ["Who employs Ada?"])  # padding of others changes nothing
    assert float(one) == pytest.approx(float(alike[1, 0]), abs=1e-5)


def test_the_target_is_on_the_line_between_start_and_a_model_that_never_knew() -> None:
    assert [target(0.9, 0.3, share) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.6, 0.3])


def test_fit_score_is_the_geometric_mean_of_what_three_audits_say(tmp_path: Path) -> None:
    records, network = requests(1)[0].records, tiny()

    def level(audit: Any, metric: str) -> float:
        one = sequence(tmp_path, plain_fit(), audit=audit, metric=metric)
        found = one.measured(network, [], records)["retain"]
        assert found is not None
        return found

    three = Measure({"p": AnswerProbability(), "t": ExactMemorization()})
    said = Generation("bundled", {"rouge": RougeRecall()}, max_new_tokens=4)
    with torch.no_grad():  # an empty answer would make all three zero
        network.get_output_embeddings().weight.copy_(network.get_input_embeddings().weight)  # type: ignore[operator,union-attr]
    parts = [level(three, "p"), level(three, "t"), level(said, "rouge")]
    expected = 100 * math.prod(parts) ** (1 / 3)
    assert level(FITScore("bundled", max_new_tokens=4), "fit_score") == pytest.approx(expected, abs=1e-6)
    assert fit_score(0.2, 0.3, 0.4) == pytest.approx(100 * math.exp(sum(map(math.log, (0.2, 0.3, 0.4))) / 3))
