"""Weights that a selector does not choose stay, bit for bit, whatever the optimizer; they are scored once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _masked_fits import OPTIMIZERS, Module, fit
from _modules import HostileModule, SomebodysModule, loader, quiet
from _ranks import run_ranks
from _sharded_fits import SAVING, STRATEGIES, whole
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn import Bounded, GradientAscent, StepGuard, SubspaceGuard, TrainOnly, Unlearn
from lightning_unlearn.guards import History, InputSubspace, NoIncrease, OptimizerMetric
from lightning_unlearn.runtime import local
from lightning_unlearn.selectors import AtLeast, Random, Selector, TopNumber, TopShare, selectable


class Saliency(Selector):
    """Size of the forget gradient, in training mode: it draws dropout masks and moves BatchNorm's statistics."""

    needs_forget = True

    def __init__(self) -> None:
        self.seen: list[int] = []

    @override
    def scores(
        self, network: nn.Module, *, forget: Any = (), retain: Any = (), readout: Any = None, engine: Any = None
    ) -> dict[str, Tensor]:
        self.seen.append(sum(len(y) for _, y in forget))
        network.train()
        params = selectable(network)
        loss = lambda batch: F.cross_entropy(readout(network, batch).logits, batch[1])  # noqa: E731
        row, _ = engine.row(loss, forget, list(params.values()))
        return {name: g.abs() for name, g in zip(params, row, strict=True) if g is not None}


def unlearn(**kwargs: Any) -> Unlearn:
    return Unlearn(Bounded(GradientAscent(), bound=4.0), forget=loader(seed=2), weight=3.0, **kwargs)


def moved(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of each parameter the elements of which any bit changed."""
    start = dict(Module().named_parameters())
    return {n: v.contiguous().view(torch.int32) != start[n].detach().view(torch.int32) for n, v in found.items()}


def salient(module: nn.Module, share: float) -> dict[str, Tensor]:
    """Written with autograd alone: all forget data as one batch, and a threshold."""
    x, y = loader(seed=2).dataset.tensors
    named = {n: p for n, p in module.named_parameters() if n != "unused"}
    grads = torch.autograd.grad(F.cross_entropy(module(x), y), list(named.values()))
    flat = torch.cat([g.flatten() for g in grads]).abs()
    least = flat.sort(descending=True).values[int(share * len(flat))]
    return {n: g.abs() > least for n, g in zip(named, grads, strict=True)}


@pytest.mark.parametrize("own", [False, True], ids=["merged", "own optimizer"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_elements_that_are_not_chosen_stay_bit_for_bit_and_no_others(optimizer: str, own: bool) -> None:
    forgetting = unlearn(optimizer=OPTIMIZERS[optimizer] if own else None)
    found, _ = fit(forgetting, TrainOnly(selector=Random(), choice=TopShare(0.3)), module=Module(optimizer))
    chosen = TopShare(0.3)(Random().scores(Module()))
    changed = moved(found)
    assert not changed.pop("unused").any()  # it never has a gradient
    for name, there in changed.items():
        assert not (there & ~chosen[name]).any()
    there, picked = (torch.cat([m[n].flatten() for n in changed]) for m in (changed, chosen))
    assert there.sum() > 0.98 * picked.sum()  # a few weights of zero have no decay, and perhaps no gradient
    assert 0.25 < picked.float().mean() < 0.35


def test_whole_tensors_are_chosen_by_one_score_each() -> None:
    class Wide(Selector):
        def scores(self, network: Any, **kwargs: Any) -> dict[str, Tensor]:
            return {name: torch.tensor(float(p.numel())) for name, p in network.named_parameters()}

    only = TrainOnly(selector=Wide(), choice=TopNumber(2))
    found, trainer = fit(unlearn(), only)
    assert {name for name, there in moved(found).items() if there.any()} == {"body.0.weight", "head.weight"}
    (state,) = (c.state_dict()["mask"] for c in trainer.callbacks if c is only)
    assert state == {"whole": ["body.0.weight", "head.weight"], "parts": {}}


def test_what_forget_data_says_is_trained_as_autograd_alone_would_say() -> None:
    selector = Saliency()
    only = TrainOnly(selector=selector, choice=TopShare(0.2), forget=loader(seed=2))
    found, _ = fit(unlearn(), only)
    assert selector.seen == [24]
    expected, masks = salient(Module(), 0.2), only.state_dict()["mask"]["parts"]
    agree = torch.cat([(masks[n] == expected[n]).flatten() for n in masks])
    assert (~agree).sum() <= 2  # which are equal but for rounding, or the last one
    assert all(not (there & ~masks[n]).any() for n, there in moved(found).items() if n in masks)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_scoring_leaves_the_fit_as_it_is_to_the_bit() -> None:
    def end(*callbacks: Any) -> Any:
        module = HostileModule()
        with pl.utilities.seed.isolate_rng():
            pl.seed_everything(7, verbose=False)
            quiet(callbacks=list(callbacks)).fit(module, loader(seed=1))
        return {**module.state_dict(), "calls": torch.tensor(module.calls), "noise": torch.tensor(module.noise)}

    selector = Saliency()
    bare = end()
    found = end(TrainOnly(selector=selector, choice=AtLeast(0.0), forget=loader(seed=2, shuffle=True)))
    assert selector.seen == [24]
    assert all(torch.equal(found[name], bare[name]) for name in bare)
    fewer = end(TrainOnly(selector=selector, choice=TopShare(0.5), forget=loader(seed=2)))
    assert not torch.equal(fewer["net.0.weight"], bare["net.0.weight"])  # so the test could fail


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_fit_does_not_score_again_and_a_second_one_does(tmp_path: Path) -> None:
    def run(**kwargs: Any) -> tuple[dict[str, Tensor], TrainOnly]:
        only = TrainOnly(selector=Saliency(), choice=TopShare(0.2), forget=loader(seed=2))
        folder = tmp_path / ("resumed" if kwargs else "whole")
        saved = ModelCheckpoint(folder, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
        return fit(only, saved, unlearn(), enable_checkpointing=True, **kwargs)[0], only

    expected, first = run()
    found, only = run(ckpt_path=tmp_path / "whole" / "epoch=0.ckpt")
    assert first._mask.selector.seen == [24]
    assert only._mask.selector.seen == []
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    masks = [c.state_dict()["mask"] for c in (first, only)]
    assert masks[0]["whole"] == masks[1]["whole"]
    assert all(torch.equal(masks[0]["parts"][name], part) for name, part in masks[1]["parts"].items())

    trained = Module()
    trained.load_state_dict(expected)
    fit(only, unlearn(), module=trained)  # scored anew, by the weights that it starts from
    assert only._mask.selector.seen == [24]
    parts = only.state_dict()["mask"]["parts"]
    assert any(not torch.equal(parts[name], part) for name, part in masks[0]["parts"].items() if name in parts)


@pytest.mark.parametrize("geometry", [None, OptimizerMetric()], ids=repr)
@pytest.mark.parametrize("order", [1, -1])
def test_beside_a_step_guard_no_step_raises_the_retain_loss(order: int, geometry: Any) -> None:
    """To first order, over all weights; measured from outside."""
    raised = []

    class Outside(Unlearn):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(trainer, module, batch, batch_idx)
            self.params = [p for n, p in module.named_parameters() if n != "unused"]
            self.before = [p.detach().double().clone() for p in self.params]
            self.grads = torch.autograd.grad(F.cross_entropy(module(batch[0]), batch[1]), self.params)

        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            step = torch.cat([(p.detach() - b).flatten() for p, b in zip(self.params, self.before, strict=True)])
            g = torch.cat([g.double().flatten() for g in self.grads])
            raised.append(float(g @ step / (g[step != 0].norm() * step.norm())))

    forgetting = Outside(Bounded(GradientAscent(), bound=4.0), forget=loader(seed=2), weight=3.0)
    parts = [
        TrainOnly(selector=Random(), choice=TopShare(0.3)),
        StepGuard(NoIncrease(), History(3), geometry=geometry),
    ]
    found, trainer = fit(*parts[::order], forgetting)
    chosen = TopShare(0.3)(Random().scores(Module()))
    assert all(not (there & ~chosen[n]).any() for n, there in moved(found).items())
    assert len(raised) == 12
    assert max(raised) < 1e-5
    assert trainer.callback_metrics["guard/cosine"] < 1e-6


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_processes_choose_alike_and_as_one_does(kind: str) -> None:
    def run(rank: int, world: int) -> Any:
        module_class, strategy = STRATEGIES[kind] if world > 1 else (SomebodysModule, lambda: "auto")
        selector = Saliency()
        only = TrainOnly(selector=selector, choice=TopShare(0.2), forget=loader(seed=2))
        module = module_class("sgd")
        trainer = quiet(callbacks=[only], strategy=strategy(), devices=world, max_epochs=1)
        trainer.fit(module, loader(seed=1))
        return only.state_dict()["mask"], whole(module, None), selector.seen

    expected, _, _ = run(0, 1)
    start = dict(SomebodysModule().named_parameters())
    for masks, end, seen in run_ranks(run):
        assert seen == [24]
        assert masks["whole"] == expected["whole"]
        assert masks["parts"].keys() == expected["parts"].keys()
        agree = torch.cat([(m == expected["parts"][n]).flatten() for n, m in masks["parts"].items()])
        assert (~agree).sum() <= 2  # two that are equal but for rounding
        for name, value in end.items():
            changed = value != start[name]
            mask = masks["parts"].get(name, torch.tensor(name in masks["whole"]))
            assert not (changed & ~mask).any()
        assert any((value != start[name]).any() for name, value in end.items())


def test_of_shards_a_resumed_fit_takes_up_the_whole_mask(tmp_path: Path) -> None:
    def run(rank: int, world: int) -> Any:
        def fit_for(epochs: int, ckpt_path: Any = None) -> tuple[TrainOnly, dict[str, Tensor]]:
            module_class, strategy = SAVING["fsdp2"]
            module = module_class()
            only = TrainOnly(selector=Saliency(), choice=TopShare(0.2), forget=loader(seed=2))
            trainer = quiet(callbacks=[only], strategy=strategy(), devices=world, max_epochs=epochs)
            trainer.fit(module, loader(seed=1), ckpt_path=ckpt_path)
            if ckpt_path is None and epochs == 1:
                trainer.save_checkpoint(tmp_path / "one.ckpt")
            return only, whole(module, None)

        first, _ = fit_for(1)
        only, end = fit_for(2, tmp_path / "one.ckpt")
        _, expected = fit_for(2)
        masks = [c.state_dict()["mask"] for c in (first, only)]
        return only._mask.selector.seen, masks, end, expected

    for seen, masks, end, expected in run_ranks(run):
        assert seen == []
        assert masks[0]["parts"]
        assert all(torch.equal(masks[0]["parts"][name], part) for name, part in masks[1]["parts"].items())
        assert all(torch.equal(end[name], expected[name]) for name in expected)


def test_signed_zeros_and_what_is_not_a_number_stay_too() -> None:
    before = torch.tensor([-0.0, float("nan"), -0.0, 1.0])

    class Odd(Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd = nn.Parameter(before.clone())

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) + (self.odd * torch.ones(4)).nan_to_num().sum()

    class LastOfFour(Selector):
        def scores(self, network: Any, **kwargs: Any) -> dict[str, Tensor]:
            return {"odd": torch.arange(4.0)}

    module = Odd()
    fit(TrainOnly(selector=LastOfFour(), choice=TopNumber(1)), module=module, max_steps=1)
    changed = local(module.odd).detach().view(torch.int32) != before.view(torch.int32)
    assert changed.tolist() == [False, False, False, True]


GIVEN: list[tuple[dict[str, Any], str]] = [
    ({}, "Found neither"),
    ({"pattern": "head", "selector": Random(), "choice": TopShare(0.1)}, "Found `pattern`, `selector`, `choice`"),
    ({"selector": Random()}, "Found `selector`. Use"),
    ({"choice": TopShare(0.1)}, "Found `choice`. Use"),
    ({"pattern": "head", "forget": []}, "Found `pattern`, `forget`. Use"),
]


@pytest.mark.parametrize(("given", "found"), GIVEN, ids=[found for _, found in GIVEN])
def test_neither_or_both_are_refused(given: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=f"by `pattern` alone, or by `selector` and `choice`. {found}"):
        TrainOnly(**given)


def test_what_cannot_work_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"`Saliency` should find forget data.*Use `TrainOnly\(selector=\.\.\., forget="
    ):
        fit(TrainOnly(selector=Saliency(), choice=TopShare(0.1)))
    with pytest.raises(
        ValueError, match=r"nothing that AtLeast\(threshold=2.0\) chooses; the highest score of `Random` is 0\.99"
    ):
        fit(TrainOnly(selector=Random(), choice=AtLeast(2.0)))
    subspace = SubspaceGuard(InputSubspace(0.8), batches=2)
    with pytest.raises(NotImplementedError, match="Found single elements, beside `SubspaceGuard`. Use a selector that"):
        fit(TrainOnly(selector=Random(), choice=TopShare(0.1)), subspace, unlearn())


def test_another_network_than_the_checkpoints_is_refused() -> None:
    only = TrainOnly(selector=Random(), choice=TopShare(0.1))
    only._mask.load_state_dict({"whole": ["tail.weight"], "parts": {}})
    only._mask.start(quiet(), SomebodysModule())
    with pytest.raises(ValueError, match="Found no parameter of the name `tail.weight`, nor 0 others"):
        only.leaves_alone(torch.ones(1))


def test_it_can_be_written_in_yaml_and_has_a_name_that_does_not_change() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(pl.Callback, "callback")
    parts = {
        "selector": {"class_path": "lightning_unlearn.selectors.Random", "init_args": {"seed": 3}},
        "choice": {"class_path": "lightning_unlearn.selectors.TopShare", "init_args": {"share": 0.1}},
    }
    given = {"class_path": "lightning_unlearn.TrainOnly", "init_args": parts}
    built = parser.instantiate_classes(parser.parse_object({"callback": given})).callback
    assert built.state_key == "TrainOnly[Random(seed=3, by='element'), TopShare(share=0.1)]"
