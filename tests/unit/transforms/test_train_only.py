"""All but the chosen parameters stay, bit for bit, whatever the optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _masked_fits import OPTIMIZERS, Module, fit
from _modules import loader, quiet
from _ranks import run_ranks
from _sharded_fits import STRATEGIES
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_unlearn import Bounded, GradientAscent, StepGuard, TrainOnly, Unlearn
from lightning_unlearn.guards import History, NoIncrease, OptimizerMetric
from lightning_unlearn.runtime import local
from lightning_unlearn.transforms import Step


def unlearn(**kwargs: Any) -> Unlearn:
    return Unlearn(Bounded(GradientAscent(), bound=4.0), forget=loader(seed=2), weight=3.0, **kwargs)


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.int32)


def moved(found: dict[str, Tensor]) -> set[str]:
    """Names of the parameters of which any bit changed."""
    start = dict(Module().named_parameters())
    return {name for name, value in found.items() if not torch.equal(bits(value), bits(start[name]))}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("own", [False, True], ids=["merged", "own optimizer"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_all_others_stay_bit_for_bit(optimizer: str, own: bool, accumulate: int) -> None:
    forgetting = unlearn(optimizer=OPTIMIZERS[optimizer] if own else None)
    module = Module(optimizer)
    found, _ = fit(forgetting, TrainOnly(["head.weight", "1"]), module=module, accumulate_grad_batches=accumulate)
    assert moved(found) == {"head.weight", "body.1.weight", "body.1.bias"}
    assert "body.0.weight" in moved(fit(unlearn(), module=Module(optimizer))[0])  # so the test could fail


def test_what_is_trained_is_trained_as_without() -> None:
    """In the first step, before the network has become another."""
    masked, _ = fit(TrainOnly("head"), max_steps=1)
    bare, _ = fit(max_steps=1)
    assert all(torch.equal(masked[name], bare[name]) for name in ("head.weight", "head.bias"))


@pytest.mark.parametrize("geometry", [None, OptimizerMetric()], ids=repr)
@pytest.mark.parametrize("order", [1, -1])
def test_beside_a_step_guard_no_step_raises_the_retain_loss(order: int, geometry: Any) -> None:
    """To first order; measured from outside, over all parameters: those that stay do not count."""
    raised = []

    class Outside(Unlearn):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(trainer, module, batch, batch_idx)
            params = list(module.parameters())
            loss = torch.nn.functional.cross_entropy(module(batch[0]), batch[1])
            grads = torch.autograd.grad(loss, params, allow_unused=True)
            self.at = [(p, p.detach().double().clone(), g) for p, g in zip(params, grads, strict=True) if g is not None]

        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            steps = [(p.detach().double() - before, g.double()) for p, before, g in self.at]
            d, g = (torch.cat([x.flatten() for x in xs]) for xs in zip(*steps, strict=True))
            raised.append(float(g @ d / (g.norm() * d.norm())))

    forgetting = Outside(Bounded(GradientAscent(), bound=4.0), forget=loader(seed=2), weight=3.0)
    parts = [TrainOnly("head"), StepGuard(NoIncrease(), History(3), geometry=geometry)]
    found, trainer = fit(*parts[::order], forgetting)
    assert moved(found) == {"head.weight", "head.bias"}
    assert len(raised) == 12
    assert max(raised) < 1e-5
    assert trainer.callback_metrics["guard/cosine"] < 1e-6


def test_signed_zeros_and_what_is_not_a_number_come_back_too() -> None:
    p = torch.nn.Parameter(torch.tensor([-0.0, float("nan"), 1.0]))
    optimizer = torch.optim.SGD([p], lr=0.1)
    only = TrainOnly("nothing")
    only._mask._known = only._mask._stay = {id(p)}
    step = Step(optimizer)
    before = bits(p).clone()
    for group in only.wanted(step):
        step.snapshot.keep(group)
    p.grad = torch.ones(3)
    optimizer.step()
    assert not torch.equal(bits(p), before)
    only.after(step)
    assert torch.equal(bits(p), before)


def test_groups_added_late_are_held_to_the_same_names() -> None:
    class Late(TrainOnly):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 3:
                trainer.optimizers[0].add_param_group({"params": list(module.body.parameters()), "lr": 3e-2})

    class HeadFirst(Module):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.head.parameters(), lr=1e-2)

    found, _ = fit(Late(["head.weight", "body.1.*"]), module=HeadFirst())
    assert moved(found) == {"head.weight", "body.1.weight", "body.1.bias"}


def test_what_cannot_work_is_refused_by_name() -> None:
    class FSDPStrategy(SingleDeviceStrategy):
        pass

    with pytest.raises(ValueError, match=r"Found none for 'tail'. There are `unused`, `body.0.weight`.*`head.bias`"):
        fit(TrainOnly(["head", "tail"]))
    with pytest.raises(ValueError, match=r"Found no pattern. Use `'\*'`"):
        TrainOnly([])
    with pytest.raises(NotImplementedError, match=r"`TrainOnly` should see each parameter by itself.*FSDP1"):
        fit(TrainOnly("head"), strategy=FSDPStrategy(device="cpu"))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_in_two_processes_all_others_stay_too(kind: str) -> None:
    def run(rank: int, world_size: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        module_class, strategy = STRATEGIES[kind]
        module = module_class("adamw")
        start = {}

        class Start(TrainOnly):
            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                super().on_train_start(trainer, pl_module)
                start.update({n: local(p).detach().clone() for n, p in pl_module.named_parameters()})

        from _modules import examples

        data = DataLoader(examples(1, 16), batch_size=4)
        trainer = quiet(strategy=strategy(), devices=world_size, callbacks=[Start("head")], max_epochs=1)
        trainer.fit(module, data)
        return start, {n: local(p).detach() for n, p in module.named_parameters()}

    for start, end in run_ranks(run):
        changed = {name for name in start if not torch.equal(bits(start[name]), bits(end[name]))}
        assert changed == {"head.weight", "head.bias"}
