"""Forgetting and retaining at rounded weights, straight through: `Unlearn(under={...: Quantize()}, under_retain=True)`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, loader
from _vantage import BOUND, fitted, forgetting
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import GradientAscent, Quantize, RoundingNoise, SimNPO
from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.objectives import CrossEntropy, Objective
from lightning_unlearn.readouts import ClassificationReadout

INT4 = Quantize(bits=4)


class StraightThrough(torch.autograd.Function):
    """Rounded on the way there, the identity on the way back."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:  # type: ignore[override]
        return rounding(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def straight_through(module: nn.Module, attack: Quantize, *args: Any) -> Tensor:
    """The output of ``module`` with its matrices rounded by autograd's own means."""
    weights = {
        name: StraightThrough.apply(p, attack.rounded) if p.dim() > 1 else p for name, p in module.named_parameters()
    }
    result: Tensor = functional_call(module, weights, args)
    return result


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 32, bias=False), nn.Linear(32, 5)
    )


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 12, generator=generator), torch.randint(0, 5, (6,), generator=generator)


@pytest.mark.parametrize("objective", [GradientAscent(), SimNPO(), CrossEntropy()], ids=["ascent", "sim_npo", "retain"])
@pytest.mark.parametrize(
    "attack",
    [INT4, Quantize(bits=4, group_size=8), Quantize(bits=4, codebook="nf4"), Quantize(bits=8)],
    ids=["int4", "groups", "nf4", "int8"],
)
def test_the_gradient_inside_is_autograds_straight_through_to_the_bit(attack: Quantize, objective: Objective) -> None:
    net, readout = network(), ClassificationReadout()
    params = list(net.parameters())
    with attack(net) as points:
        list(points)
        row, _ = GradientEngine(net).row(lambda b: objective(readout(net, b), None), [batch()], params)
    rounded = partial(straight_through, net, attack)
    by_hand = torch.autograd.grad(objective(readout(rounded, batch()), None), params)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(row, by_hand, strict=True))
    plain = torch.autograd.grad(objective(readout(net, batch()), None), params)
    assert not any(torch.equal(a, b) for a, b in zip(row, plain, strict=True))


def test_a_gradient_of_a_loss_from_inside_cannot_be_taken_outside() -> None:
    """Weights are back in place by then, and the backward pass would mix both: torch notices, since nothing hides it."""
    net = network()
    with INT4(net):
        loss = F.cross_entropy(net(batch()[0]), batch()[1])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_hidden_edits_of_weights_would_give_another_gradient() -> None:
    """What is tempting, and wrong: rounding by `.data`, and putting back before the backward pass."""
    net = network()
    params = list(net.parameters())
    kept = [p.detach().clone() for p in params]
    for p in params:
        if p.dim() > 1:
            p.data.copy_(INT4.rounded(p.detach()))
    loss = F.cross_entropy(net(batch()[0]), batch()[1])
    for p, value in zip(params, kept, strict=True):
        p.data.copy_(value)
    wrong = torch.autograd.grad(loss, params)
    right = torch.autograd.grad(F.cross_entropy(straight_through(net, INT4, batch()[0]), batch()[1]), params)
    assert_close(wrong[-1], right[-1])
    assert not torch.allclose(wrong[0], right[0], rtol=1e-2)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_fit_takes_both_gradients_at_both_weights_by_hand(accumulate: int) -> None:
    module, _ = fitted(
        forgetting(under={"int4": INT4}, under_retain=True),
        SomebodysModule("sgd"),
        accumulate_grad_batches=accumulate,
    )

    by_hand = SomebodysModule("sgd")
    setup = by_hand.configure_optimizers()
    optimizer, scheduler = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    stream = ForgetStream(loader(seed=2, n=24), seed=5)
    for number, (x, y) in enumerate(loader(seed=1), start=1):
        forget_x, forget_y = next(stream)
        for run in (by_hand, partial(straight_through, by_hand, INT4)):
            loss = torch.relu(BOUND - F.cross_entropy(run(forget_x), forget_y)) + F.cross_entropy(run(x), y)
            (loss / accumulate / 2).backward()
        if number % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    for p, q in zip(module.parameters(), by_hand.parameters(), strict=True):
        assert_close(p, q, rtol=0, atol=1e-6)


def test_a_network_on_the_grid_is_named_once_in_a_fit() -> None:
    module = SomebodysModule("sgd")
    with INT4(module):
        on_grid = {n: p.detach().clone() for n, p in module.named_parameters()}
    module.load_state_dict(on_grid)
    with pytest.warns(UserWarning, match="does not lie on its own grid yet") as found:
        fitted(forgetting(under={"int4": Quantize(bits=4)}), module)
    assert sum("own grid" in str(w.message) for w in found) == 1


def test_noise_of_the_size_of_rounding_is_a_vantage_point_too() -> None:
    fits = [fitted(forgetting(under={"noise": RoundingNoise(bits=4)}))[0] for _ in range(2)]
    assert all(torch.equal(p, q) for p, q in zip(fits[0].parameters(), fits[1].parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:`Quantize` leaves 1 layers alone")
def test_packed_bytes_are_never_rounded() -> None:
    """A base in nf4 is loaded as bytes: to round these would make another model of it. What is not packed is rounded."""
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes stores weights in few bits")
    packed = bnb.nn.Linear4bit(64, 64, quant_type="nf4").to("cpu")
    net = nn.Sequential(packed, nn.Linear(64, 4))
    before, rounded = packed.weight.detach().clone(), Quantize(bits=8).rounded(net[1].weight.detach())
    assert before.dtype == torch.uint8
    with Quantize(bits=8)(net):
        assert torch.equal(packed.weight, before)
        assert torch.equal(net[1].weight, rounded)
