"""`Disruption` is the mean divergence from what the original predicted, and zero for the original."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _language_models import FAMILIES, VOCABULARY, family
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_unlearn.disruption import Disruption, Snapshot, neutral_batches
from lightning_unlearn.disruption._kept_predictions import KeptLogits, KeptStates
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.readouts import CausalLMReadout, ClassificationReadout, TrainingStepReadout
from lightning_unlearn.references import FrozenCopy


def text(seed: int, rows: int = 3, length: int = 7) -> dict[str, Tensor]:
    ids = torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[0, :4] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def on_text(network: nn.Module, *batches: dict[str, Tensor]) -> Disruption:
    return Disruption([(b, True) for b in batches], CausalLMReadout(), GradientEngine(network))


def all_logits(network: nn.Module, *batches: dict[str, Tensor]) -> Tensor:
    """Every supervised position, the slow way: all logits, chosen afterwards."""
    rows = []
    for batch in batches:
        with torch.no_grad():
            logits = network.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        chosen = batch["labels"][:, 1:] != -100
        rows.append(logits[:, :-1][chosen])
    return torch.cat(rows)


def divergence(original: Tensor, now: Tensor) -> float:
    """From probabilities, in float64, without logarithms of softmax."""
    p, q = (torch.softmax(each.double(), -1) for each in (original, now))
    return float((p * (p / q).log()).sum(-1).mean())


def move_(network: nn.Module, by: float, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(by * torch.randn(p.shape, generator=generator).to(p))
    return network


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_the_mean_divergence_of_all_supervised_tokens(name: str) -> None:
    network, batches = family(name).double(), [text(1), text(2, rows=2, length=5)]
    before = all_logits(network, *batches)
    disruption = on_text(network, *batches)
    disruption.see_original(network)
    assert disruption(network) == 0
    move_(network, 0.02)
    expected = divergence(before, all_logits(network, *batches))
    assert expected > 1e-4
    assert disruption(network) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_states_are_kept_where_the_logits_follow_from_them(name: str) -> None:
    network = family(name)
    disruption = on_text(network, text(1), text(2))
    disruption.see_original(network)
    kinds = {type(each) for each in disruption._kept}
    assert kinds == {KeptLogits if name == "gemma2" else KeptStates}  # its logits are capped behind the head
    heads = {id(each.head) for each in disruption._kept if isinstance(each, KeptStates)}
    assert len(heads) <= 1


def test_the_kept_head_is_that_of_the_original() -> None:
    network = family("llama")
    disruption = on_text(network, text(1))
    disruption.see_original(network)
    with torch.no_grad():
        network.lm_head.weight.mul_(1.5)
    assert disruption(network) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_original_itself_is_at_zero_in_each_precision(dtype: torch.dtype) -> None:
    network = family("llama").to(dtype)
    disruption = on_text(network, text(1))
    disruption.see_original(network)
    disruption.refuse_unlike(network)
    assert disruption(network) < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_it_grows_along_a_ray_of_small_changes(seed: int) -> None:
    """So that an edit's scale can be found by bisection."""
    network = family("llama").double()
    disruption = on_text(network, text(1))
    disruption.see_original(network)
    found = [disruption(move_(family("llama").double(), by, seed)) for by in torch.linspace(0, 0.02, 9).tolist()]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[-1] > 1e-3


@pytest.mark.parametrize("by", [0.003, 0.01, 0.03, 0.1])
def test_distributions_differ_by_no_more_than_pinsker_allows(by: float) -> None:
    network, batch = family("llama").double(), text(1)
    before = all_logits(network, batch).softmax(-1)
    disruption = on_text(network, batch)
    disruption.see_original(network)
    move_(network, by)
    variation = (before - all_logits(network, batch).softmax(-1)).abs().sum(-1).mean() / 2
    assert 0 < float(variation) <= (disruption(network) / 2) ** 0.5


class Noisy(nn.Module):
    """Draws in evaluation mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + torch.randn_like(x))


def images(seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, generator=generator), torch.randint(0, 2, (4,), generator=generator)


def of_images(network: nn.Module) -> Disruption:
    return Disruption([(images(), True)], ClassificationReadout(), GradientEngine(network))


def test_classifiers_are_measured_by_their_logits_and_noise_cancels_out() -> None:
    network = Noisy().train()
    disruption = of_images(network)
    state = torch.get_rng_state()
    disruption.see_original(network)
    disruption.refuse_unlike(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert isinstance(disruption._kept[0], KeptLogits)


def test_a_network_that_is_not_the_same_twice_is_refused() -> None:
    class Restless(Noisy):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Restless.calls += 1
            return self.layer(x) * Restless.calls

    network = Restless()
    disruption = of_images(network)
    disruption.see_original(network)
    with pytest.raises(
        ValueError, match=r"should be below 1e-06. Found .* by its logits. Passes of the network differ"
    ):
        disruption.refuse_unlike(network)


def test_weights_that_are_not_numbers_are_not_within_any_budget() -> None:
    network = nn.Linear(3, 2)
    disruption = of_images(network)
    disruption.see_original(network)
    with torch.no_grad():
        network.bias.fill_(torch.nan)
    assert not disruption(network) <= 1e9


def test_a_batch_that_counts_elsewhere_does_not_count_here() -> None:
    network, mine, theirs = family("llama").double(), text(1), text(2)
    both = Disruption([(mine, True), (theirs, False)], CausalLMReadout(), GradientEngine(network))
    alone = on_text(network, mine)
    for each in (both, alone):
        each.see_original(network)
    move_(network, 0.01)
    assert both(network) == alone(network) > 0


def test_a_reference_gives_the_original_of_a_network_that_has_moved() -> None:
    network = family("llama").double()
    first = on_text(network, text(1))
    first.see_original(network)
    reference = FrozenCopy()
    reference.attach(network)
    move_(network, 0.01)
    second = on_text(network, text(1))
    second.see_original(network, reference)
    assert second(network) == pytest.approx(first(network), rel=1e-12)


def test_losses_are_refused_and_so_are_batches_without_labels() -> None:
    with pytest.raises(ValueError, match="a readout that gives logits. Found `TrainingStepReadout"):
        Disruption([], TrainingStepReadout(), GradientEngine(nn.Linear(1, 1)))
    network = family("llama")
    empty = text(1)
    empty["labels"][:] = -100
    disruption = on_text(network, empty)
    disruption.see_original(network)
    with pytest.raises(ValueError, match="at least one supervised label. Found none: every label is -100"):
        disruption(network)
    with pytest.raises(ValueError, match="The neutral data set should hold at least one example"):
        neutral_batches([], GradientEngine(network), most=2)


# Snapshots


def test_a_snapshot_puts_back_what_training_changes_and_nothing_else() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2).requires_grad_(False))
    before = {n: t.clone() for n, t in module.state_dict().items()}
    snapshot = Snapshot(module)
    snapshot.take()
    assert snapshot.state_dict().keys() == {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
    }
    assert all(t.device.type == "cpu" for t in snapshot.state_dict().values())
    module(torch.randn(4, 2))
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1.0)
    assert not snapshot.is_current()
    snapshot.put_back()
    assert snapshot.is_current()
    after = module.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in snapshot.state_dict())
    assert torch.equal(after["2.weight"], before["2.weight"] + 1)


def test_weights_that_were_replaced_are_named_and_are_not_current() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    snapshot = Snapshot(module)
    snapshot.take()
    module[0].weight = nn.Parameter(torch.ones(3, 2))
    assert not snapshot.is_current()
    with pytest.raises(ValueError, match="put back where they were copied. Found that `0.weight` was replaced"):
        snapshot.put_back()
    snapshot.take()
    assert snapshot.is_current()


def test_what_is_unfrozen_later_joins_before_it_moves() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    before = module[1].weight.detach().clone()
    snapshot = Snapshot(module)
    snapshot.take()
    module[1].requires_grad_(True)
    snapshot.join()
    with torch.no_grad():
        module[1].weight.add_(1)
    snapshot.put_back()
    assert_close(module[1].weight, before, rtol=0, atol=0)
