"""The user's own loss: its value, its gradient and its rows are those of the hand-written loss; nothing else happens."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from _own_losses import (
    BY_BATCH,
    OWN_LOSSES,
    VAE,
    Detection,
    GraphNetwork,
    NoForward,
    Normalised,
    Regression,
    Shape,
    SummedLoss,
)
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_unlearn import NPO, Bounded, CrossEntropy, GradientAscent, SimNPO
from lightning_unlearn.readouts import TrainingStepReadout
from lightning_unlearn.references import CachedLogLikelihood, FrozenCopy, choose_reference

every = pytest.mark.parametrize("kind", OWN_LOSSES, ids=lambda kind: kind.__name__)
without_draws = pytest.mark.parametrize("kind", [k for k in OWN_LOSSES if k is not VAE], ids=lambda kind: kind.__name__)


def double(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: double(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(double(part) for part in value)
    value.x = value.x.double()  # a graph
    return value


def case(kind: type[Shape], seed: int = 0, size: int = 4) -> tuple[Shape, Any]:
    """A module and a batch, in float64."""
    return kind().double(), double(next(iter(kind.loader(seed, size))))


def gradient(loss: Tensor, module: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    return [torch.zeros(()) if g is None else g for g in found]


def fresh(module: Shape) -> Shape:
    if hasattr(module, "hidden"):
        module.hidden = None
    return module


@without_draws
def test_the_forget_gradient_is_that_of_the_hand_written_loss(kind: type[Shape]) -> None:
    module, batch = case(kind)
    expected = gradient(-module.loss(batch), module)
    readout = TrainingStepReadout().settled(fresh(module), batch).for_mean()
    found = gradient(GradientAscent()(readout(fresh(module), batch)), module)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, rtol=1e-12, atol=1e-12)


@every
def test_rows_are_examples_wherever_the_step_can_be_asked_so(kind: type[Shape]) -> None:
    module, batch = case(kind)
    readout = TrainingStepReadout().settled(module, batch)
    likelihood = readout(fresh(module), batch)
    assert likelihood.batch_size == (1 if kind in BY_BATCH else 4)
    assert likelihood.example.tolist() == list(range(likelihood.batch_size))
    assert len(readout.keys(batch)) == len(set(readout.keys(batch))) == likelihood.batch_size


@pytest.mark.parametrize("kind", [k for k in OWN_LOSSES if k not in BY_BATCH], ids=lambda kind: kind.__name__)
def test_each_row_is_the_loss_of_its_example(kind: type[Shape]) -> None:
    module, batch = case(kind)
    rows = TrainingStepReadout()(module, batch).token_nll()
    alone = [module.loss(double(next(iter(kind.loader(0, 4, batch_size=1))))), rows[0]]
    assert_close(*alone)
    total = rows.sum() if kind is SummedLoss else rows.mean()
    assert_close(total, module.loss(batch))


@without_draws
def test_the_mean_over_examples_has_the_gradient_of_the_batch(kind: type[Shape]) -> None:
    if kind is SummedLoss:
        pytest.skip("its whole is a sum")
    module, batch = case(kind)
    readout = TrainingStepReadout().settled(fresh(module), batch)
    rows = gradient(CrossEntropy()(readout(fresh(module), batch)), module)
    whole = gradient(CrossEntropy()(readout.for_mean()(fresh(module), batch)), module)
    for a, b in zip(rows, whole, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_npo_is_that_of_single_examples() -> None:
    module, batch = case(Regression)
    original = Regression().double()
    with torch.no_grad():
        for p in original.parameters():
            p.add_(0.1)
    readout = TrainingStepReadout().settled(module, batch)
    loss = NPO(beta=0.5)(readout(module, batch), readout(original, batch))
    with torch.no_grad():
        ratios = [
            float((original(x) - y) ** 2 - (module(x) - y) ** 2)  # log pi / pi_ref, the squared error as the loss
            for x, y in zip(*batch, strict=True)
        ]
    assert loss.item() == pytest.approx(2 / 0.5 * np.mean(np.log1p(np.exp(0.5 * np.array(ratios)))), rel=1e-10)


@pytest.mark.parametrize(
    "objective", [GradientAscent(), CrossEntropy(), NPO(), SimNPO(), Bounded(GradientAscent(), bound=9.0)], ids=repr
)
def test_objectives_of_likelihoods_take_it(objective: Any) -> None:
    module, batch = case(NoForward)
    likelihood = TrainingStepReadout()(module, batch)
    original = TrainingStepReadout()(module, batch) if objective.needs_reference else None
    loss = objective(likelihood, original)
    assert loss.shape == ()
    assert any(g.any() for g in gradient(loss, module))


def test_batchnorm_mixes_examples_in_training_but_not_in_a_measurement() -> None:
    module, batch = case(Normalised)
    readout = TrainingStepReadout().settled(module, batch)
    assert readout(module, batch).batch_size == 1
    assert readout.for_measuring()(module.eval(), batch).batch_size == 4


class Drawing(Shape):
    """Everything that can be drawn from."""

    def loss(self, batch: Any) -> Tensor:
        noise = torch.rand(()) + random.random() + float(np.random.rand())
        return self.net(batch[0]).square().mean() + noise


def value_of(readout: TrainingStepReadout, module: nn.Module, batch: Any) -> float:
    with torch.no_grad():
        return float(readout(module, batch).token_nll())


def states() -> Any:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


def test_the_reference_sees_the_draws_of_the_network_and_the_next_step_others() -> None:
    module, batch = case(Drawing)
    readout = TrainingStepReadout(per_example=False)
    before = states()
    network, reference = (value_of(readout, module, batch) for _ in range(2))
    assert network == reference
    assert states() == before
    torch.rand(1)  # what the fit draws between two steps
    assert value_of(readout, module, batch) != network


def test_micro_batches_of_one_step_draw_each_for_themselves() -> None:
    module, batch = case(Drawing)
    other = [batch[0].flip(0), batch[1]]  # the same loss but for the draws
    readout = TrainingStepReadout(per_example=False)
    assert abs(value_of(readout, module, batch) - value_of(readout, module, other)) > 1e-6


def test_a_measurement_gives_the_same_number_each_time() -> None:
    module, batch = case(VAE)
    readout = TrainingStepReadout().settled(module, batch).for_measuring()
    first = value_of(readout, module, batch)
    torch.rand(1)
    assert value_of(readout, module, batch) == first


class Unusual(Shape):
    answer: Any = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return type(self).answer(self.net(batch[0]).square().mean())


def unusual(answer: Any) -> Unusual:
    return type("Answering", (Unusual,), {"answer": staticmethod(answer)})().double()


def test_a_mapping_and_a_tensor_of_one_element_are_losses() -> None:
    batch = case(NoForward)[1]
    expected = unusual(lambda loss: loss).training_step(batch, 0).item()
    for answer in (lambda loss: {"loss": loss, "more": 1}, lambda loss: loss[None]):
        assert CrossEntropy()(TrainingStepReadout()(unusual(answer), batch)).item() == pytest.approx(expected)


def test_none_is_not_supervised_and_gives_a_zero_that_runs_backward() -> None:
    module, batch = unusual(lambda loss: None), case(NoForward)[1]
    likelihood = TrainingStepReadout()(module, batch)
    assert not likelihood.supervised().any()
    loss = GradientAscent()(likelihood)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())


@pytest.mark.parametrize("answer", [lambda loss: loss.expand(3), lambda loss: 1.0, lambda loss: {"total": loss}])
def test_anything_else_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match=r"should return a scalar loss, a mapping with it at `loss`, or `None`. Found"):
        TrainingStepReadout(per_example=False)(unusual(answer), case(NoForward)[1])


@pytest.mark.parametrize(
    "step",
    [
        lambda self, batch: self.loss(batch),
        lambda self, b, _: self.loss(b),
        lambda self, batch, batch_idx, dataloader_idx: self.loss(batch),
        lambda self, batch, batch_idx, dataloader_idx=3: self.loss(batch) if dataloader_idx == 3 else None,
        lambda self, *args: self.loss(args[0]) if len(args) == 2 else None,
    ],
)
def test_every_signature_of_a_step_is_called_as_it_wants(step: Any) -> None:
    module, batch = case(NoForward)
    expected = module.loss(batch)
    module = type("Other", (NoForward,), {"training_step": step})().double()
    assert_close(CrossEntropy()(TrainingStepReadout()(module, batch)), expected)


def test_a_step_that_fetches_its_batches_is_refused() -> None:
    step = {"training_step": lambda self, dataloader_iter: None}
    with pytest.raises(NotImplementedError, match=r"Found `dataloader_iter`. Take `batch` in its place"):
        TrainingStepReadout().find_network(type("Fetching", (NoForward,), step)())


def test_batches_that_cannot_be_cut_are_refused_where_examples_are_asked_for() -> None:
    module, batch = case(GraphNetwork)
    with pytest.raises(ValueError, match=r"`per_example=True` should go with batches that can be cut.*Found a `Graph`"):
        TrainingStepReadout(per_example=True)(module, batch)


def test_a_network_without_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"should find a `training_step`. Found none in `Linear`"):
        TrainingStepReadout().find_network(nn.Linear(1, 1))


def test_examples_keep_their_key_in_another_batch_and_contents_are_of_examples_always() -> None:
    module, batch = case(Detection)
    readout = TrainingStepReadout().settled(module, batch)
    keys = readout.keys(batch)
    assert readout.keys([list(reversed(part)) for part in batch]) == keys[::-1]
    assert len(readout.for_mean().keys(batch)) == 1
    assert readout.for_mean().contents(batch) == keys


def test_one_row_per_batch_is_not_cached_and_a_copy_is_chosen() -> None:
    module, batch = case(Normalised)
    readout = TrainingStepReadout().settled(module, batch)
    reference = CachedLogLikelihood()
    reference.attach(module)
    with pytest.raises(
        ValueError, match=r"one likelihood per batch, and batches are shuffled anew. Use `FrozenCopy\(\)`"
    ):
        reference.sweep(readout, [batch])
    assert isinstance(choose_reference(NPO(), module, readout), FrozenCopy)


def test_a_cache_of_examples_knows_them_in_any_batch() -> None:
    module, batch = case(Regression)
    readout = TrainingStepReadout().settled(module, batch)
    reference = CachedLogLikelihood()
    reference.attach(module)
    reference.sweep(readout, [batch])
    known = reference(readout, [part.flip(0) for part in batch])
    assert_close(known.token_nll().double(), readout(module, batch).token_nll().flip(0).detach(), rtol=1e-6, atol=1e-6)


def test_likelihoods_of_random_draws_are_not_cached() -> None:
    module, batch = case(Drawing)
    reference = CachedLogLikelihood()
    reference.attach(module)
    with pytest.raises(ValueError, match=r"gives likelihoods of random draws, other ones at each step"):
        reference.sweep(TrainingStepReadout(per_example=True).settled(module, batch), [batch])
