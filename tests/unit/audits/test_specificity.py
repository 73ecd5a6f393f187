"""The right answer against answers about others: chance for a model that says anything, one for a model that knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_unlearn import (
    CausalLMReadout,
    ClassificationReadout,
    CrossEntropy,
    Encoding,
    FileRecords,
    LoaderSettings,
    QuestionAnswerData,
    TinyCausalLM,
)
from lightning_unlearn.audits import Specificity
from lightning_unlearn.audits._alternates import choose_alternates
from lightning_unlearn.data import Probe, load_probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import Exchange, Readout


def people(rows: tuple[int, int] = (0, 12), batch_size: int = 5) -> Any:
    records = FileRecords("bundled:people", entity="entity", rows=rows)
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size)).val_dataloader()


def observe(net: nn.Module, readout: Readout, alternates: int = 4, **loaders: Any) -> Any:
    probes = {name: load_probe(loader, readout) for name, loader in loaders.items()}
    found = Specificity(alternates)(net, readout=readout, probes=probes, engine=GradientEngine(net))
    return found[0] if found else None


def by_hand(net: nn.Module, probe: Probe, alternates: int) -> list[float]:
    """One sequence at a time, from probabilities, without splicing, padding or readout."""
    assert probe.exchanges is not None
    chosen = choose_alternates(probe.exchanges, probe.entities, first=probe.size, count=alternates)

    def mean_log_probability(question: Tensor, answer: Tensor) -> float:
        ids = torch.cat([question, answer])
        said = net(input_ids=ids[None]).logits[0].log_softmax(-1)
        return float(said[len(question) - 1 : -1][torch.arange(len(answer)), answer].mean())

    scores = []
    for (question, right), others in zip(probe.exchanges, chosen, strict=True):
        mine = mean_log_probability(question, right)
        beaten = [mean_log_probability(question, probe.exchanges[o].answer) < mine for o in others]
        scores.append(sum(beaten) / len(beaten))
    return scores


def test_it_equals_one_sequence_at_a_time() -> None:
    torch.manual_seed(1)
    net = TinyCausalLM(hidden_size=32).eval()
    probe = load_probe(people(), CausalLMReadout())
    found = observe(net, CausalLMReadout(), alternates=3, forget=people())
    with torch.no_grad():
        assert found.scores == pytest.approx(by_hand(net, probe, 3))
    assert 0 < found.value < 1


def test_a_model_that_was_taught_is_ahead_and_one_that_says_all_alike_is_at_chance() -> None:
    net, loss = TinyCausalLM(hidden_size=64), CrossEntropy()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(40):
        for batch in people():
            loss(CausalLMReadout()(net, batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert observe(net, CausalLMReadout(), forget=people()).value > 0.95
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()  # every token is as likely as any other, so every comparison is a tie
    assert observe(net, CausalLMReadout(), forget=people()).scores == [0.5] * 12


def test_others_are_about_another_entity_have_another_answer_and_the_most_similar_question_first() -> None:
    exchanges = load_probe(people((0, 40)), CausalLMReadout())
    pool, entities = exchanges.exchanges, exchanges.entities
    assert pool is not None
    for row, others in enumerate(choose_alternates(pool, entities, first=len(pool), count=4)):
        assert len(others) == 4
        answers = [tuple(pool[other].answer.tolist()) for other in others]
        assert len({*answers, tuple(pool[row].answer.tolist())}) == 5
        assert entities[row] not in {entities[other] for other in others}
        words = [set(pool[i].question.tolist()) for i in (row, *others)]
        alike = [len(words[0] & other) / len(words[0] | other) for other in words[1:]]
        assert alike == sorted(alike, reverse=True)


def test_without_entities_every_example_is_its_own() -> None:
    ask, answers = torch.tensor([1, 2]), [torch.tensor([token]) for token in (7, 8, 7)]
    probe = Probe([], [], "", 3, [Exchange(ask, answer) for answer in answers])
    assert choose_alternates(probe.exchanges, probe.clusters, first=3, count=2) == [[1], [2], [1]]


def test_classes_are_compared_with_other_classes() -> None:
    net = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.eye(3))
    inputs = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
    batch = (inputs, torch.tensor([0, 1, 0]))  # first; second of three; tied with one, ahead of the other
    every_class = (torch.zeros(3, 3), torch.tensor([0, 1, 2]))
    found = observe(net, ClassificationReadout(), forget=[batch, every_class])
    assert found.scores[:3] == [1.0, 0.5, 0.75]


def test_a_split_of_one_class_is_compared_with_the_classes_of_the_others() -> None:
    net = nn.Linear(3, 3)
    forget, retain = (torch.randn(4, 3), torch.zeros(4).long()), (torch.randn(4, 3), torch.tensor([0, 1, 2, 1]))
    assert observe(net, ClassificationReadout(), forget=[forget]) is None
    logits = net(forget[0])
    expected = (logits[:, :1] > logits[:, 1:]).double().mean(1).tolist()
    assert observe(net, ClassificationReadout(), forget=[forget], retain=[retain]).scores == expected


def test_logits_that_are_no_numbers_are_ahead_of_nothing() -> None:
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.fill_(float("nan"))
    batch = (torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    assert observe(net, ClassificationReadout(), forget=[batch]).scores == [0.0] * 4


def test_nothing_is_observed_where_other_answers_cannot_be_put_in() -> None:
    class Own(ClassificationReadout):
        exchanges = Readout.exchanges  # type: ignore[assignment]
        with_answers = Readout.with_answers

        def __call__(self, network: nn.Module, batch: Any) -> Prediction:
            return super().__call__(network, batch)

    batch = (torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    assert observe(nn.Linear(3, 2), Own(), forget=[batch]) is None
    with pytest.raises(NotImplementedError, match=r"`Own` should override `exchanges` and `with_answers` together"):
        Own().with_answers(batch, [])


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`alternates` should be at least 1. Found `alternates = 0`"):
        Specificity(alternates=0)
