"""The direction of unlearning is taken out of hidden states, and nothing else, and only for a while."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_unlearn import AblateDirection, FactSplit, TinyCausalLM
from lightning_unlearn.models import LoRA
from lightning_unlearn.objectives import CrossEntropy
from lightning_unlearn.readouts import CausalLMReadout


def language_model(adapter: bool = False) -> nn.Module:
    torch.manual_seed(0)
    plain = TinyCausalLM(hidden_size=32, num_hidden_layers=3)
    return (LoRA(r=2).wrap(plain) if adapter else plain).eval()


def batch(padding: int = 0, seed: int = 1) -> dict[str, Tensor]:
    ids = torch.randint(5, 500, (4, 7), generator=torch.Generator().manual_seed(seed))
    ids = torch.cat([ids, torch.full((4, padding), 7)], dim=1)
    mask = torch.cat([torch.ones(4, 7, dtype=torch.long), torch.zeros(4, padding, dtype=torch.long)], dim=1)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def loss_of(net: nn.Module) -> Any:
    return lambda own: CrossEntropy()(CausalLMReadout()(net, own))


def moved(net: nn.Module, attack: AblateDirection) -> None:
    """Training, as far as it matters here."""
    attack.see_original(net)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.05)


def states(net: nn.Module, own: Any, name: str) -> Tensor:
    """What one block gives out, after all its hooks."""
    found: list[Tensor] = []
    hook = lambda m, args, out: found.append(out[0] if isinstance(out, tuple) else out)  # noqa: E731
    handle = net.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        net(input_ids=own["input_ids"], attention_mask=own["attention_mask"])
    handle.remove()
    return found[0]


def logits(net: nn.Module, own: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = net(input_ids=own["input_ids"], attention_mask=own["attention_mask"]).logits
    return found


@pytest.mark.parametrize("padding", [0, 3])
def test_the_projection_is_gone_and_what_is_orthogonal_to_it_stays(padding: int) -> None:
    """The direction by numpy, from states that were read here."""
    net, attack, own, other = language_model(), AblateDirection(["layers.1"]), batch(padding), batch(seed=2)
    name, real = "model.layers.1", batch(padding)["attention_mask"].bool()
    before = states(net, own, name)[real].double().numpy().mean(0)
    moved(net, attack)
    direction = states(net, own, name)[real].double().numpy().mean(0) - before
    direction /= np.linalg.norm(direction)
    plain = states(net, other, name).double().numpy()
    with attack(net, batches=[own], loss=loss_of(net)) as points:
        assert list(points) == [1]
        ablated = states(net, other, name).double().numpy()
    along = plain @ direction
    assert np.abs(along).max() > 1e-2
    assert np.abs(ablated @ direction).max() < 1e-6 * np.abs(plain).max()
    np.testing.assert_allclose(ablated, plain - along[..., None] * direction, atol=1e-6)


@pytest.mark.parametrize("adapter", [False, True])
def test_every_block_is_ablated_by_default_and_all_is_as_before_afterwards(adapter: bool) -> None:
    net, attack, own = language_model(adapter), AblateDirection(), batch()
    moved(net, attack)
    before, weights = logits(net, own), [p.detach().clone() for p in net.parameters()]
    with attack(net, batches=[own], loss=loss_of(net)) as points:
        assert list(points) == [3]
        assert not torch.allclose(logits(net, own), before, atol=1e-3)
    assert torch.equal(logits(net, own), before)
    assert all(torch.equal(p, kept) for p, kept in zip(net.parameters(), weights, strict=True))
    assert not any(m._forward_hooks for m in net.modules())


def test_forgetting_that_only_adds_a_vector_is_undone() -> None:
    """The known answer: states that have nothing of their own along the vector are those of the original again."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    with torch.no_grad():
        net[0].weight[5], net[0].bias[5] = 0.0, 0.0
    attack, x = AblateDirection(["0"]), torch.randn(8, 4)
    attack.see_original(net)
    known = net(x).detach()
    with torch.no_grad():
        net[0].bias[5] += 40.0
    assert (net(x) - known).abs().min() > 1
    with attack(net, batches=[x], loss=lambda own: net(own).sum()):
        assert torch.equal(net(x), known)


def test_the_original_itself_is_left_alone_to_the_bit() -> None:
    net, attack, own = language_model(), AblateDirection(), batch()
    attack.see_original(net)
    before = logits(net, own)
    with attack(net, batches=[own], loss=loss_of(net)):
        assert torch.equal(logits(net, own), before)


def test_a_network_in_half_precision_stays_in_it() -> None:
    torch.manual_seed(0)
    net, attack = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).bfloat16(), AblateDirection(["0"])
    x = torch.randn(8, 4, dtype=torch.bfloat16)
    moved(net, attack)
    with attack(net, batches=[x], loss=lambda own: net(own).sum()):
        assert net(x).dtype == torch.bfloat16


def test_weights_that_an_original_had_otherwise_are_refused() -> None:
    net, attack, own = language_model(), AblateDirection(), batch()
    net.get_submodule("model.embed_tokens").requires_grad_(False)
    moved(net, attack)
    with torch.no_grad():
        net.get_submodule("model.embed_tokens").weight.add_(1)
    with pytest.raises(ValueError, match=r"as the original has them. Found others.*Give `original`"):
        attack(net, batches=[own], loss=loss_of(net)).__enter__()


def test_an_attacker_without_data_and_a_network_without_blocks_are_refused() -> None:
    net, attack = language_model(), AblateDirection()
    moved(net, attack)
    with pytest.raises(ValueError, match=r"should get batches to find directions on.*Found 0 batches and a loss"):
        attack(net, loss=loss_of(net)).__enter__()
    with pytest.raises(ValueError, match=r"should find blocks.*Found none in `Linear`. Name some `layers`"):
        attack(nn.Linear(2, 2), batches=[batch()], loss=loss_of(net)).__enter__()


def test_layers_that_give_no_states_or_do_not_run_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2, 1)), nn.Flatten())
    attack, x = AblateDirection(["1"]), torch.randn(2, 4)
    attack.see_original(net)
    with pytest.raises(ValueError, match=r"should give hidden states, .*Found shape \[2, 2, 2, 1\]"):
        attack(net, batches=[x], loss=lambda own: net(own).sum()).__enter__()
    idle = AblateDirection(["1"])
    idle.see_original(net)
    with pytest.raises(ValueError, match="should run on the batches of the attacker"):
        idle(net, batches=[x], loss=lambda own: net[0](own).sum()).__enter__()


@pytest.mark.parametrize("layers", ["layers.1", []])
def test_layers_are_a_list_of_names(layers: Any) -> None:
    with pytest.raises(ValueError, match=r"`layers` should be a list of names"):
        AblateDirection(layers)


def test_it_can_be_judged_by_other_facts_than_it_has() -> None:
    split = FactSplit(share=0.5)
    assert AblateDirection(facts=split).facts is split
    assert AblateDirection(data="related").data == "related"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_frozen_weights_that_a_trainer_converts_are_still_the_originals(dtype: torch.dtype) -> None:
    net, attack = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), AblateDirection(["0"])
    net[0].requires_grad_(False)
    attack.see_original(net)
    net.to(dtype)
    assert attack.has_own_frozen_weights(net)
    net[0].weight.data[0, 0] += 0.1
    assert not attack.has_own_frozen_weights(net)
