"""One step up the forget loss: its direction, how far a line search lets it go, and the step by sign."""

from __future__ import annotations

import signal
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn.edits import OneStepAscent, SignAscent
from lightning_unlearn.readouts import ClassificationReadout

READOUT = ClassificationReadout()


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batches(seed: int, sizes: tuple[int, ...]) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 4, generator=generator).double(), torch.randint(0, 3, (n,), generator=generator)) for n in sizes
    ]


# Of unequal sizes: means over rows, not over batches.
FORGET, RETAIN = batches(1, (3, 1)), batches(2, (5, 2, 4))
N, M = 4, 11


def loss(net: nn.Module, data: list[Any]) -> Tensor:
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    return F.cross_entropy(net(x), y)


def merit(net: nn.Module, bound: float, forget: float, retain: float) -> Tensor:
    return retain * loss(net, RETAIN) + forget * (bound - loss(net, FORGET)).relu()


def steepest(net: nn.Module, shares: tuple[float, float]) -> list[Tensor]:
    return [-g for g in torch.autograd.grad(merit(net, 10.0, *shares), list(net.parameters()))]


def step_of(edit: OneStepAscent | SignAscent) -> list[Tensor]:
    net = network()
    edit(net, forget=FORGET, retain=RETAIN, readout=READOUT)
    return [(p - q).detach() for p, q in zip(net.parameters(), network().parameters(), strict=True)]


@pytest.mark.parametrize(("weighting", "shares"), [("sum", (N / (N + M), M / (N + M))), ("mean", (1.0, 1.0))])
def test_it_steps_down_what_it_says_it_minimises(weighting: Any, shares: tuple[float, float]) -> None:
    lr = 2.0**-6
    for step, way in zip(step_of(OneStepAscent(lr, weighting=weighting)), steepest(network(), shares), strict=True):
        assert_close(step, lr * way, rtol=1e-9, atol=1e-12)


def test_the_step_is_the_first_halving_that_keeps_armijos_promise() -> None:
    lr, bound, shares = 64.0, 1.3, (N / (N + M), M / (N + M))
    start = network()
    way = [-g for g in torch.autograd.grad(merit(start, bound, *shares), list(start.parameters()))]
    slope = sum(float(d.square().sum()) for d in way)
    before, tried = merit(start, bound, *shares).item(), lr
    while True:
        moved = deepcopy(start)
        with torch.no_grad():
            for p, d in zip(moved.parameters(), way, strict=True):
                p.add_(d, alpha=tried)
        if merit(moved, bound, *shares).item() <= before - 1e-4 * tried * slope:
            break
        tried /= 2
    assert tried < lr
    for step, d in zip(step_of(OneStepAscent(lr, bound)), way, strict=True):
        assert_close(step, tried * d, rtol=1e-9, atol=1e-12)


def test_forgetting_costs_and_retaining_does_not_suffer_beyond_it() -> None:
    net = network()
    OneStepAscent(lr=0.5)(net, forget=FORGET, retain=RETAIN, readout=READOUT)
    assert loss(net, FORGET) > loss(network(), FORGET)
    shares = N / (N + M), M / (N + M)
    assert merit(net, 10.0, *shares) < merit(network(), 10.0, *shares)


def test_where_no_step_helps_nothing_changes_and_it_says_so() -> None:
    net = network()
    with torch.no_grad():
        net[2].bias.add_(torch.tensor([1e3, 0.0, 0.0]))
    gone = [(x, torch.ones_like(y)) for x, y in FORGET]  # far past the bound
    sure = [(x, torch.zeros_like(y)) for x, y in RETAIN]  # known with certainty
    before = deepcopy(net)
    with pytest.warns(UserWarning, match="should find a step that lowers what it minimises. Found none down to 0.0312"):
        record = OneStepAscent(lr=1.0, bound=2.0, halvings=5)(net, forget=gone, retain=sure, readout=READOUT)
    assert record.elements == 0
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_line_search_that_breaks_off_leaves_the_weights_as_they_were(error: type[BaseException]) -> None:
    """An error, or Ctrl-C, in any of its passes."""

    class BreaksOff(ClassificationReadout):
        left = 0

        def __call__(self, net: Any, batch: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                if error is KeyboardInterrupt:
                    signal.raise_signal(signal.SIGINT)
                raise RuntimeError("out of memory")
            return super().__call__(net, batch)

    for passes in range(5, 15):
        net, readout = network(), BreaksOff()
        readout.left = passes
        with pytest.raises(error):
            OneStepAscent(64.0, bound=1.3)(net, forget=FORGET, retain=RETAIN, readout=readout)
        assert all(map(torch.equal, net.parameters(), network().parameters()))


def test_by_sign_it_is_the_first_step_of_adam() -> None:
    """As the authors' code takes it: both losses as means, and Adam, which begins with a sign."""
    net, lr = network(), 1e-3
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    (loss(net, RETAIN) - loss(net, FORGET)).backward()
    optimizer.step()
    for step, p, q in zip(step_of(SignAscent(lr)), net.parameters(), network().parameters(), strict=True):
        assert_close(step, (p - q).detach(), rtol=1e-3, atol=1e-8)


def test_the_step_by_sign_does_not_know_how_far_and_the_line_search_does() -> None:
    """The trap: where hardly anything pulls, the step by sign is as long as anywhere."""
    start = network()
    with torch.no_grad():
        start[2].weight.zero_()
        start[2].bias.copy_(torch.tensor([20.0, 0.0, 0.0]))
    forget, retain = ([(x, torch.zeros_like(y)) for x, y in data] for data in (FORGET, RETAIN))
    by_sign, searched = deepcopy(start), deepcopy(start)
    SignAscent(1e-3, weighting="sum")(by_sign, forget=forget, retain=retain, readout=READOUT)
    OneStepAscent(lr=1e-3)(searched, forget=forget, retain=retain, readout=READOUT)
    assert_close((by_sign[2].bias - start[2].bias).abs().detach(), torch.full((3,), 1e-3).double())
    assert 0 < (searched[2].bias - start[2].bias).abs().max() < 1e-10


def test_another_weighting_is_refused() -> None:
    with pytest.raises(ValueError, match='`weighting` should be "sum" or "mean". Found `weighting = \'median\'`'):
        SignAscent(weighting="median")  # type: ignore[arg-type]
