"""Perturbations of hidden states: within their ball, where they belong, and gone afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _attacked_network import batches, loss_of, network
from _language_models import batch, family
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_unlearn import LatentPerturbation, TokenwisePerturbation
from lightning_unlearn.objectives import CrossEntropy
from lightning_unlearn.readouts import CausalLMReadout

KINDS = [LatentPerturbation, TokenwisePerturbation]
every_kind = pytest.mark.parametrize("kind", KINDS)


def language_loss(net: nn.Module) -> Any:
    return lambda own: CrossEntropy()(CausalLMReadout()(net, own))


class Watch:
    """What a layer gives, before and after all hooks that were there when it was run."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.seen: list[Tensor] = []

    def __enter__(self) -> Watch:
        hook = lambda m, args, out: self.seen.append(out[0] if isinstance(out, tuple) else out)  # noqa: E731
        self.handle = self.layer.register_forward_hook(hook)
        return self

    def __exit__(self, *_: Any) -> None:
        self.handle.remove()


def added(attack: Any, net: nn.Module, name: str, own: Any, loss: Any) -> Tensor:
    """What the attack adds to the hidden states of a batch, ``[B, T, D]``."""
    layer = net.get_submodule(name)
    with torch.no_grad(), Watch(layer) as plain:
        loss(own)
    with attack(net, batches=[own], loss=loss), torch.no_grad(), Watch(layer) as moved:
        loss(own)
    return moved.seen[0] - plain.seen[0]


@every_kind
def test_an_empty_ball_changes_no_bit_and_sets_no_hook(kind: Any) -> None:
    net, own = network().eval(), batches(1)
    expected = net(own[0][0])
    with kind("0", eps=0.0)(net, batches=own, loss=loss_of(net)) as points:
        assert list(points) == [0.0]
        assert not net[0]._forward_hooks
        assert torch.equal(net(own[0][0]), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_token_has_its_own_vector_within_the_ball_and_padding_has_none(side: str) -> None:
    net, own = family("llama").eval(), batch(side)
    attack = TokenwisePerturbation("layers.0", eps=0.3, steps=8)
    moved = added(attack, net, "model.layers.0", own, language_loss(net))
    lengths, mask = moved.norm(dim=-1), own["attention_mask"].bool()
    assert lengths.max().item() <= 0.3 * (1 + 1e-4)
    assert lengths[0][mask[0]][:-1].min().item() > 0  # all but the last token, which predicts nothing
    assert not moved[~mask].any()
    assert not torch.allclose(moved[0, 1], moved[0, 2], atol=1e-2)


def test_without_a_mask_every_position_counts() -> None:
    net, own = family("llama").eval(), batch("right", masked=False)
    moved = added(TokenwisePerturbation("layers.0", eps=0.3), net, "model.layers.0", own, language_loss(net))
    assert moved[0].norm(dim=-1).max().item() == pytest.approx(0.3, rel=1e-3)


def test_one_vector_is_the_same_at_every_position_and_for_other_data() -> None:
    net, own, other = family("llama").eval(), batch(), batch(rows=(1,), width=5)
    attack = LatentPerturbation("layers.0", eps=0.3)
    moved = added(attack, net, "model.layers.0", own, language_loss(net))
    assert moved[0, 0].norm().item() == pytest.approx(0.3, rel=1e-3)
    assert torch.allclose(moved, moved[0, 0].expand_as(moved), atol=1e-6)
    with attack(net, batches=[own], loss=language_loss(net)):
        net(other["input_ids"])


@every_kind
def test_the_loss_of_the_attacker_falls_further_in_a_larger_ball(kind: Any) -> None:
    net, own = family("llama").eval(), batch()
    loss, seen = language_loss(net), []
    for eps in (0.0, 0.1, 0.5):
        with kind("layers.0", eps=eps)(net, batches=[own], loss=loss), torch.no_grad():
            seen.append(loss(own).item())
    assert seen[0] > seen[1] > seen[2]


def test_where_the_loss_is_linear_the_best_vector_of_the_ball_is_found() -> None:
    """It points against the gradient. Steps along signs, as Adam's, would give (-1, -1) / sqrt(2)."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[3.0, 4.0]]))
    x = torch.ones(4, 2)
    for kind in KINDS:
        moved = added(kind("0", eps=0.5, steps=40), net, "0", x, lambda x: net(x).mean())
        assert torch.allclose(moved, torch.tensor([-0.3, -0.4]).expand(4, 2), atol=1e-3)


@every_kind
def test_flags_and_gradients_of_the_fit_are_as_they_were_inside_too(kind: Any) -> None:
    net, own = network(), batches(1)
    net[0].weight.requires_grad_(False)
    net[4](torch.zeros(2, 32)).sum().backward()
    before = [(p.requires_grad, p.grad) for p in net.parameters()]
    modes = [m.training for m in net.modules()]
    with kind("0", eps=0.5, steps=2)(net, batches=own, loss=loss_of(net)):
        assert all(p.requires_grad == f and p.grad is g for p, (f, g) in zip(net.parameters(), before, strict=True))
        assert [m.training for m in net.modules()] == modes
        assert len(net[0]._forward_hooks) == 1
        F.cross_entropy(net(own[0][0]), own[0][1]).backward()
    assert not net[0]._forward_hooks
    assert not net._forward_pre_hooks


def test_other_data_than_it_was_trained_on_is_refused_by_name() -> None:
    net, (own, other) = network().eval(), batches(2)
    attack = TokenwisePerturbation("0", eps=0.5, steps=2)
    with attack(net, batches=[own], loss=loss_of(net)):
        net(own[0])
        with pytest.raises(ValueError, match=r"should run on the batch it was trained on. Found other inputs"):
            net(other[0])
        with pytest.raises(ValueError, match=r"instead of \[6, 32\], in `0`. Use it as a vantage point"):
            net[0](other[0][:3])  # not through the whole network, which alone knows its inputs
    with pytest.raises(ValueError, match="the one batch that is judged. Found 2. Use it as a vantage point"):
        attack(net, batches=[own, other], loss=loss_of(net)).__enter__()


@every_kind
@pytest.mark.parametrize(
    ("layer", "match"),
    [
        ("7", r"should fit the name of one module. Found 0 with `layer = '7'`"),
        ("(", "should be a regular expression"),
        (r"\d", "Found 3 with"),
        ("1", r"The layer `1` should give hidden states, \[B, D\] or \[B, T, D\]. Found shape \[6, 1, 2, 2\]"),
    ],
)
def test_a_layer_without_hidden_states_is_refused(kind: Any, layer: str, match: str) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (1, 2, 2)), nn.Flatten())
    with pytest.raises(ValueError, match=match):
        kind(layer)(net, batches=batches(1), loss=loss_of(net)).__enter__()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@every_kind
def test_a_layer_that_the_loss_does_not_ask_is_refused(kind: Any) -> None:
    net = nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(4, 3)})
    with pytest.raises(ValueError, match="`unused` should run on the batches of the attacker. Found that it did not"):
        kind("unused")(net, batches=batches(1), loss=lambda own: net["used"](own[0]).sum()).__enter__()
