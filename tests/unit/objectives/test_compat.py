"""Losses as OpenUnlearning's tables have them, and the corrected ones: each against loops, and against each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from _language_models import _SIZES, batch, family
from _modules import SomebodysModule, loader, quiet
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_unlearn import (
    CausalLMReadout,
    FrozenCopy,
    PackedCausalLMReadout,
    RecoveryCheck,
    Relearn,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.objectives import UNDIAL, LogitMarginFlattening, SatImp
from lightning_unlearn.projectors import WeightedSum
from lightning_unlearn.readouts import EveryPositionReadout, UnshiftedReadout

IGNORED = -100


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**_SIZES, "vocab_size": 107}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().eval()


def without_prompt() -> dict[str, torch.Tensor]:
    """A row that is answer all through: without prompt, without padding."""
    tokens = batch(rows=(0,))["input_ids"]
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens.clone()}


def hiding() -> dict[str, torch.Tensor]:
    """As OpenUnlearning masks where padding is the end of turn: one in a prompt, and the last of a row."""
    data = batch()
    data["attention_mask"][0, 1] = data["attention_mask"][0, 8] = 0
    return data


BATCHES = {"right": batch(), "left": batch("left", width=11), "hiding": hiding(), "whole": without_prompt()}
every_batch = pytest.mark.parametrize("name", BATCHES)


def scores(model: nn.Module, data: Any) -> list[list[list[float]]]:
    with torch.no_grad():
        return model(input_ids=data["input_ids"], attention_mask=data["attention_mask"]).logits.tolist()


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(z - top) for z in row]
    return [p / sum(powers) for p in powers]


def distilled(student: list[float], teacher: list[float], label: int, beta: float) -> float:
    lowered = list(teacher)
    lowered[label] -= beta  # a negative index counts from the end, in Python as in torch
    return -sum(q * math.log(p) for q, p in zip(softmax(lowered), softmax(student), strict=True))


def undial_over(positions: list[tuple[int, int]], student: Any, teacher: Any, labels: Any, beta: float) -> float:
    """``positions`` are those read; the label is the next token's."""
    return sum(distilled(student[b][t], teacher[b][t], labels[b][t + 1], beta) for b, t in positions) / len(positions)


def margins_over(positions: list[tuple[int, int]], said: Any) -> float:
    return sum((max(said[b][t]) - sum(said[b][t]) / len(said[b][t])) ** 2 for b, t in positions) / len(positions)


def places(labels: list[list[int]], last: int) -> list[tuple[int, int]]:
    return [(b, t) for b, row in enumerate(labels) for t in range(len(row) - last)]


@every_batch
@pytest.mark.parametrize("beta", [0.0, 1.0, 10.0])
def test_undial_of_open_unlearning_is_a_mean_over_all_positions(name: str, beta: float) -> None:
    data, model, original = BATCHES[name], network(), network(1)
    readout, labels = EveryPositionReadout(), BATCHES[name]["labels"].tolist()
    loss = UNDIAL(beta=beta)(readout(model, data), readout(original, data).detach())
    expected = undial_over(places(labels, last=1), scores(model, data), scores(original, data), labels, beta)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


@every_batch
def test_undial_corrected_is_a_mean_over_what_predicts_a_label(name: str) -> None:
    data, model, original = BATCHES[name], network(), network(1)
    readout, labels = CausalLMReadout(), BATCHES[name]["labels"].tolist()
    loss = UNDIAL(beta=10.0)(readout(model, data), readout(original, data).detach())
    read = [(b, t) for b, t in places(labels, last=1) if labels[b][t + 1] != IGNORED]
    expected = undial_over(read, scores(model, data), scores(original, data), labels, 10.0)
    # Rows padded on the left are moved; rotations are computed in float32 whatever the weights are.
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_undial_gradient_is_that_of_the_mean_over_all_positions() -> None:
    """Softmax minus target at every position, over their number, sent back through the network."""
    data, model, original = BATCHES["right"], network(), network(1)
    readout = EveryPositionReadout()
    loss = UNDIAL(beta=10.0)(readout(model, data), readout(original, data).detach())
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    logits = model(input_ids=data["input_ids"], attention_mask=data["attention_mask"]).logits
    upstream = torch.zeros_like(logits)
    for b, t in places(data["labels"].tolist(), last=1):
        target = torch.tensor(scores(original, data)[b][t], dtype=torch.float64)
        target[data["labels"][b, t + 1]] -= 10.0
        upstream[b, t] = (logits[b, t].detach().softmax(0) - target.softmax(0)) / 24
    expected = torch.autograd.grad(logits, list(model.parameters()), upstream)
    for actual, wanted in zip(gradient, expected, strict=True):
        assert_close(actual, wanted, rtol=1e-9, atol=1e-12)


@every_batch
def test_pdu_of_open_unlearning_reads_at_the_labels(name: str) -> None:
    data, model = BATCHES[name], network()
    labels = data["labels"].tolist()
    loss = LogitMarginFlattening()(UnshiftedReadout()(model, data))
    read = [(b, t) for b, t in places(labels, last=0) if labels[b][t] != IGNORED]
    assert loss.item() == pytest.approx(margins_over(read, scores(model, data)), rel=1e-10)


@every_batch
def test_pdu_corrected_reads_before_the_labels(name: str) -> None:
    data, model = BATCHES[name], network()
    labels = data["labels"].tolist()
    loss = LogitMarginFlattening()(CausalLMReadout()(model, data))
    read = [(b, t) for b, t in places(labels, last=1) if labels[b][t + 1] != IGNORED]
    assert loss.item() == pytest.approx(margins_over(read, scores(model, data)), rel=1e-6)


def test_both_forms_of_undial_agree_where_there_is_neither_prompt_nor_padding() -> None:
    whole, rows = without_prompt(), batch()
    both = [EveryPositionReadout(), CausalLMReadout()]
    compat, corrected = (UNDIAL()(r(network(), whole), r(network(1), whole).detach()) for r in both)
    assert_close(compat, corrected, rtol=1e-12, atol=0)
    compat, corrected = (UNDIAL()(r(network(), rows), r(network(1), rows).detach()) for r in both)
    assert (compat - corrected).abs() > 1e-4


def test_both_forms_of_pdu_share_all_positions_but_the_first_and_the_last_of_each_answer() -> None:
    model, data = network(), batch(rows=(0,))
    corrected = CausalLMReadout()(model, data).logits
    compat = UnshiftedReadout()(model, data).logits
    assert_close(compat[:-1], corrected[1:], rtol=1e-12, atol=1e-12)
    assert LogitMarginFlattening()(CausalLMReadout()(model, data)) != LogitMarginFlattening()(
        UnshiftedReadout()(model, data)
    )


def test_padding_changes_the_compat_form_of_undial_only() -> None:
    def loss(readout: CausalLMReadout, width: int) -> torch.Tensor:
        data = batch(width=width)
        return UNDIAL()(readout(network(), data), readout(network(1), data).detach())

    assert_close(loss(CausalLMReadout(), 9), loss(CausalLMReadout(), 15), rtol=1e-10, atol=0)
    assert_close(loss(UnshiftedReadout(), 9), loss(UnshiftedReadout(), 15), rtol=1e-10, atol=0)
    assert (loss(EveryPositionReadout(), 9) - loss(EveryPositionReadout(), 15)).abs() > 1e-4


def test_a_small_vocabulary_has_no_entry_for_the_quirk() -> None:
    with pytest.raises(ValueError, match=r"a vocabulary of at least 100.* Found `V = 23`\. Use `CausalLMReadout\(\)`"):
        EveryPositionReadout()(family("llama"), batch())


def test_rows_of_compat_readouts_are_well_formed() -> None:
    prediction = EveryPositionReadout()(network(), batch())
    assert prediction.logits.shape == (24, 107)
    assert prediction.labels.min() >= 0
    assert set(prediction.labels[batch()["labels"][:, 1:].flatten() == IGNORED].tolist()) == {7}
    assert prediction.rows_per_example().tolist() == [8, 8, 8]
    prediction = UnshiftedReadout()(network(), batch())
    assert prediction.labels.tolist() == [y for row in batch()["labels"].tolist() for y in row if y != IGNORED]
    assert prediction.rows_per_example().tolist() == [6, 2, 0]
    assert prediction.batch_size == 3


@pytest.mark.parametrize("readout", [EveryPositionReadout, UnshiftedReadout])
def test_examples_are_recognised_as_by_the_plain_readout(readout: Any) -> None:
    assert readout().keys(batch()) == CausalLMReadout().keys(batch())


def fit(objective: Any, readout: Any) -> dict[str, float]:
    data = [{name: tensor[[i]] for name, tensor in batch(rows=(0, 1)).items()} for i in range(2)]
    rows = DataLoader([{k: v[0] for k, v in d.items()} for d in data], batch_size=2)
    retain = [{**{k: v[0] for k, v in d.items()}, "input_ids": (d["input_ids"][0] * 3) % 103} for d in data]
    check = RecoveryCheck({"relearn": Relearn(steps=2)}, every_n_steps=1)
    unlearn = Unlearn(objective, readout=readout, reference=FrozenCopy(), forget=rows)
    check.probe = rows
    check.attack_data = rows
    trainer = quiet(max_steps=1, callbacks=[unlearn, check])
    kept = DataLoader(retain, batch_size=2)
    trainer.fit(UnlearningModule(network().float().train()), kept, kept)
    first = check.observations
    return {f"{o.attack} {o.split} {o.metric} {o.point}": o.value for o in first if o.step == 0}


def test_a_fit_measures_and_attacks_by_the_plain_readout_whatever_the_objective_reads() -> None:
    plain = fit(UNDIAL(), CausalLMReadout())
    assert len(plain) > 4
    assert fit(UNDIAL(), EveryPositionReadout()) == plain
    assert fit(UNDIAL(), UnshiftedReadout()) == plain
    for readout in (CausalLMReadout(keep_features=True), PackedCausalLMReadout()):
        assert readout.for_measuring() is readout


# SatImp's coefficients: OpenUnlearning's configuration has them the other way round from the authors and its own class.
COEFFICIENTS: dict[str, tuple[dict[str, Any], float, float]] = {
    "default": ({}, 1.0, 1.0),
    "open-unlearning": ({"weight": 0.1}, 0.1, 1.0),
    "authors": ({"projector": WeightedSum(retain=0.1)}, 1.0, 0.1),
}


def one_step(**settings: Any) -> list[torch.Tensor]:
    """What a step of plain gradient descent at a rate of one takes off the weights."""
    module = SomebodysModule()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=1.0)
    before = [p.detach().clone() for p in module.parameters()]
    unlearn = Unlearn(SatImp(), forget=loader(seed=2, n=4), **settings)
    quiet(callbacks=[unlearn], max_steps=1).fit(module, loader(seed=1, n=4))
    return [p - q.detach() for p, q in zip(before, module.parameters(), strict=True)]


def sat_imp_by_hand(module: nn.Module) -> torch.Tensor:
    """p^5 (1 - p) log p of each label, the weights constants."""
    x, y = next(iter(loader(seed=2, n=4)))
    p = module(x).softmax(1)[torch.arange(4), y]
    return (p.detach() ** 5 * (1 - p.detach()) * p.log()).mean()


@pytest.mark.parametrize("whose", COEFFICIENTS)
def test_sat_imp_weighs_forgetting_and_retaining_as_either_has_it(whose: str) -> None:
    settings, of_forgetting, of_retaining = COEFFICIENTS[whose]
    module = SomebodysModule()
    x, y = next(iter(loader(seed=1, n=4)))
    loss = of_forgetting * sat_imp_by_hand(module) + of_retaining * nn.functional.cross_entropy(module(x), y)
    parameters = list(module.parameters())
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    for step, gradient in zip(one_step(**settings), expected, strict=True):
        assert_close(step, torch.zeros_like(step) if gradient is None else gradient, rtol=1e-4, atol=1e-6)


def test_both_forms_of_sat_imp_share_their_directions_and_swap_their_weights() -> None:
    """0.1 f + r and f + 0.1 r: they differ, and add up to 1.1 of f + r."""
    names = ("open-unlearning", "authors", "default")
    theirs, authors, plain = (torch.cat([t.flatten() for t in one_step(**COEFFICIENTS[n][0])]) for n in names)
    assert (theirs - authors).norm() > 0.1 * authors.norm()
    assert_close((theirs + authors) / 1.1, plain, rtol=1e-4, atol=1e-6)
