"""`ApplyEdit` edits once: when the fit begins, after everybody has seen the original, or when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import HostileModule, SomebodysModule, loader, quiet
from _ranks import run_ranks
from _sharded_fits import FSDP1OnCPU, Sharded, whole
from jsonargparse import ArgumentParser
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_unlearn import (
    NPO,
    ApplyEdit,
    ClassificationReadout,
    ForgetRetainData,
    FrozenCopy,
    KLToReference,
    RecoveryCheck,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.edits import Edit


class Shrink(Edit):
    """Every weight by a share; draws random numbers and runs the network on the way, as an edit may."""

    needs_forget = needs_retain = True

    def __init__(self, share: float = 0.5) -> None:
        self.share = share
        self.seen: list[tuple[int, int]] = []

    def see_original(self, network: nn.Module) -> None:
        self.original = [p.detach().clone() for p in network.parameters()]

    def new_values(self, network: nn.Module, *, forget: Any, retain: Any, readout: Any, engine: Any) -> Any:
        self.seen.append((sum(len(b[0]) for b in forget), sum(len(b[0]) for b in retain)))
        torch.rand(3)
        engine.forward(lambda b: readout(network, b), forget[0])
        for name, param in network.named_parameters():
            yield name, param.detach() * self.share


class Weights(pl.Callback):
    """The weights as this callback sees them, by hook."""

    def __init__(self) -> None:
        self.at: dict[str, list[Tensor]] = {}

    def keep(self, hook: str, module: nn.Module) -> None:
        self.at.setdefault(hook, [p.detach().clone() for p in module.parameters()])

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.keep("start", module)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.keep("batch", module)

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        self.keep("end", module)


class Saves(pl.Callback):
    """Saves a checkpoint when ``ModelCheckpoint`` does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        trainer.save_checkpoint(self.path)


class Counted(RecoveryCheck):
    """Counts its looks at the unlearned network."""

    looks = 0

    def check(self, trainer: Any, pl_module: Any) -> dict[str, Tensor]:
        self.looks += 1
        return super().check(trainer, pl_module)


def edit(**kwargs: Any) -> ApplyEdit:
    return ApplyEdit(Shrink(), **{"forget": loader(seed=2, n=10), **kwargs})


def halved(module: nn.Module) -> list[Tensor]:
    return [p.detach() / 2 for p in module.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("first", [True, False], ids=["edit_first", "edit_last"])
def test_all_see_the_original_at_the_start_and_the_edited_network_in_the_first_step(first: bool) -> None:
    seen, callback = Weights(), edit()
    check = RecoveryCheck(every_n_epochs=1, probes={"forget": loader(seed=2), "retain": loader(seed=1)})
    others = [check, seen]
    quiet(callbacks=[callback, *others] if first else [*others, callback]).fit(SomebodysModule(), loader(seed=1))
    assert same(seen.at["start"], list(SomebodysModule().parameters()))
    assert same(seen.at["batch"], halved(SomebodysModule()))
    assert callback.edit.seen == [(10, 24)]
    assert callback.record.relative_change == pytest.approx(0.5)

    alone = RecoveryCheck(every_n_epochs=0, probes={"forget": loader(seed=2), "retain": loader(seed=1)})
    quiet(callbacks=[alone], max_steps=1).fit(SomebodysModule(), loader(seed=1))
    at_start = [[o.value for o in c.observations if o.step == 0] for c in (check, alone)]
    assert at_start[0] == at_start[1]


def test_the_reference_of_unlearn_is_the_original() -> None:
    def known(*callbacks: Any) -> Any:
        unlearn = Unlearn(NPO(beta=0.1), forget=loader(seed=2))
        quiet(callbacks=[*callbacks, unlearn], max_steps=1).fit(SomebodysModule(), loader(seed=1))
        return unlearn._original.loss.reference.known

    assert known(edit()) == known()
    assert len(known()) == 24


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("whose", ["unlearn", "module"])
def test_the_reference_is_the_original_also_of_frozen_weights(whose: str) -> None:
    class Asks(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            reference = module.reference if whose == "module" else trainer.callbacks[0]._original.loss.reference
            self.said = reference(module.readout, batch).logits

    def said(*callbacks: Any) -> Tensor:
        whole = SomebodysModule()
        network = nn.Sequential(whole.body.requires_grad_(False), whole.head)
        module = UnlearningModule(network, retain=KLToReference() if whose == "module" else None)
        unlearn = Unlearn(KLToReference(), forget=loader(seed=2), reference=FrozenCopy())
        asks = Asks()
        first = [unlearn] if whose == "unlearn" else []
        quiet(callbacks=[*first, *callbacks, asks], max_steps=1).fit(module, loader(seed=1))
        return asks.said

    assert torch.equal(said(edit()), said())


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_the_fit_goes_on_as_one_that_began_from_the_edited_weights() -> None:
    """Nothing but parameters differs: buffers, random numbers, counters, metrics."""

    def fit(*callbacks: Any, shrink: bool = False) -> dict[str, Any]:
        module = HostileModule()
        if shrink:
            with torch.no_grad():
                for p in module.parameters():
                    p.copy_(p * 0.5)
        trainer = quiet(callbacks=list(callbacks))
        with pl.utilities.seed.isolate_rng():
            pl.seed_everything(7, verbose=False)
            trainer.fit(module, loader(seed=1))
        return module.state_dict()

    edited, begun = fit(edit()), fit(shrink=True)
    assert all(torch.equal(edited[n], begun[n]) for n in begun)


def test_a_resumed_fit_does_not_edit_again_and_a_second_one_does(tmp_path: Path) -> None:
    whole_fit = SomebodysModule("sgd")
    quiet(callbacks=[edit()], max_epochs=2).fit(whole_fit, loader(seed=1))

    first = quiet(callbacks=[edit()])
    first.fit(SomebodysModule("sgd"), loader(seed=1))
    first.save_checkpoint(tmp_path / "first.ckpt")
    module, callback = SomebodysModule("sgd"), edit()
    quiet(callbacks=[callback], max_epochs=2).fit(module, loader(seed=1), ckpt_path=tmp_path / "first.ckpt")
    assert callback.edit.seen == []
    assert callback.record.elements == sum(int((p != 0).sum()) for p in SomebodysModule().parameters())
    assert same(list(module.parameters()), list(whole_fit.parameters()))

    quiet(callbacks=[callback], max_steps=1).fit(SomebodysModule("sgd"), loader(seed=1))
    assert len(callback.edit.seen) == 1


@pytest.mark.parametrize("limit", [{"max_steps": 0}, {"max_epochs": 0}])
def test_a_fit_of_no_steps_edits_all_the_same(limit: dict[str, int]) -> None:
    module, seen = SomebodysModule(), Weights()
    callback = edit(retain=loader(seed=1))
    quiet(callbacks=[callback, seen], **limit).fit(module, loader(seed=1))
    assert same(list(module.parameters()), halved(SomebodysModule()))
    assert same(seen.at["end"], halved(SomebodysModule()))
    assert "batch" not in seen.at


def fitted(*callbacks: Any, **options: Any) -> SomebodysModule:
    module = SomebodysModule("sgd")
    quiet(callbacks=list(callbacks), **options).fit(module, loader(seed=1))
    return module


@pytest.mark.parametrize("first", [True, False], ids=["edit_first", "edit_last"])
def test_at_the_end_the_last_check_and_what_is_saved_are_of_the_edited_network(first: bool, tmp_path: Path) -> None:
    callback, seen = edit(when="end"), Weights()
    check = Counted(every_n_epochs=0, probes={"forget": loader(seed=2), "retain": loader(seed=1)})
    trainer = quiet(callbacks=[callback, check, seen] if first else [seen, check, callback])
    module = SomebodysModule("sgd")
    trainer.fit(module, loader(seed=1))
    plain = fitted()
    assert same(seen.at["batch"][:1], list(SomebodysModule("sgd").parameters())[:1])
    assert same(list(module.parameters()), halved(plain))
    assert callback.edit.seen == [(10, 24)]
    assert same(callback.edit.original, list(SomebodysModule("sgd").parameters()))

    assert check.looks == 1  # not one before the edit, and another after it
    trainer.save_checkpoint(tmp_path / "edited.ckpt")
    saved = torch.load(tmp_path / "edited.ckpt", weights_only=False)["state_dict"]
    assert same([saved[n] for n, _ in module.named_parameters()], halved(plain))

    alone = RecoveryCheck(every_n_epochs=0, probes={"forget": loader(seed=2), "retain": loader(seed=1)})
    quiet(callbacks=[alone], max_steps=1).fit(module, loader(seed=1))
    of_edited = [[o.value for o in c.observations if o.step == s] for c, s in ((check, 6), (alone, 0))]
    assert of_edited[0] == of_edited[1] != []


def test_an_interrupted_fit_edits_at_its_own_end_and_knows_the_first_original(tmp_path: Path) -> None:
    whole_fit = fitted(edit(when="end"), max_epochs=2)
    fitted(edit(when="end"), Saves(first := tmp_path / "first.ckpt"))  # in training: the weights before the edit
    callback, module = edit(when="end"), SomebodysModule("sgd")
    quiet(callbacks=[callback], max_epochs=2).fit(module, loader(seed=1), ckpt_path=first)
    assert same(list(module.parameters()), list(whole_fit.parameters()))
    assert same(callback.edit.original, list(SomebodysModule("sgd").parameters()))

    # With no step left, none of the hooks of training is called, and the edit is made all the same.
    ended, late = SomebodysModule("sgd"), edit(when="end")
    quiet(callbacks=[late]).fit(ended, loader(seed=1), ckpt_path=first)
    assert same(list(ended.parameters()), halved(fitted()))
    assert same(late.edit.original, list(SomebodysModule("sgd").parameters()))


def test_a_fit_that_goes_on_from_edited_weights_does_not_edit_again(tmp_path: Path) -> None:
    trainer, module = quiet(callbacks=[edit(when="end")]), SomebodysModule("sgd")
    trainer.fit(module, loader(seed=1))
    trainer.save_checkpoint(tmp_path / "edited.ckpt")
    for epochs in (1, 2):  # no step left, and some
        callback = edit(when="end")
        quiet(callbacks=[callback], max_epochs=epochs).fit(
            SomebodysModule("sgd"), loader(seed=1), ckpt_path=tmp_path / "edited.ckpt"
        )
        assert callback.edit.seen == []
        assert callback.record is not None


def test_an_edit_at_the_end_comes_after_averaged_weights() -> None:
    def average() -> pl.Callback:
        return pl.callbacks.WeightAveraging(avg_fn=lambda mean, new, n: mean + (new - mean) / (n + 1))

    assert same(list(fitted(average(), edit(when="end")).parameters()), halved(fitted(average())))
    assert not same(halved(fitted(average())), halved(fitted()))
    with pytest.raises(ValueError, match="averaged weights into the module. Found `WeightAveraging` behind it"):
        fitted(edit(when="end"), average())
    with pytest.raises(ValueError, match='`when` should be "start" or "end"'):
        edit(when="middle")


def test_the_datamodules_forget_data_is_found() -> None:
    callback = ApplyEdit(Shrink())
    data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2, n=12))
    quiet(callbacks=[callback]).fit(SomebodysModule(), datamodule=data)
    assert callback.edit.seen[0][0] == 12


def test_shards_are_edited_as_the_whole_is() -> None:
    def fit(rank: int, world: int) -> Any:
        strategy = ModelParallelStrategy(
            data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
        module = Sharded("sgd") if world > 1 else SomebodysModule("sgd")
        options = {"strategy": strategy, "devices": 2} if world > 1 else {}
        callback = edit(retain=loader(seed=1))
        quiet(callbacks=[callback], max_steps=0, **options).fit(module, loader(seed=1))
        return whole(module, None), callback.record

    expected, record = fit(0, 1)
    for weights, there in run_ranks(fit):
        for name, value in expected.items():
            assert_close(weights[name], value, rtol=0, atol=0)
        assert (there.tensors, there.elements) == (record.tensors, record.elements)


@pytest.mark.slow
def test_the_reference_is_the_original_also_of_frozen_shards() -> None:
    def said(rank: int, world: int) -> Any:
        found = []
        for callbacks in ([], [edit()]):
            strategy = ModelParallelStrategy(
                data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False
            )
            module = Sharded("sgd")
            module.body.requires_grad_(False)
            unlearn = Unlearn(KLToReference(), forget=loader(seed=2), reference=FrozenCopy())
            trainer = quiet(callbacks=[unlearn, *callbacks], max_steps=1, strategy=strategy, devices=2)
            trainer.fit(module, loader(seed=1))
            reference = unlearn._original.loss.reference
            found.append({o.path: o.value for o in reference._originals} if callbacks else {})
            with torch.no_grad():
                found[-1]["said"] = reference(ClassificationReadout(), next(iter(loader(seed=3)))).logits
        return found

    for without, edited in run_ranks(said):
        assert torch.equal(without["said"], edited["said"])
        assert "body.0.weight" in edited


@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_at_the_end_all_processes_edit_alike(kind: str) -> None:
    def end(rank: int, world: int) -> Any:
        def strategy() -> Any:
            sizes = {"data_parallel_size": 2, "tensor_parallel_size": 1}
            return "ddp" if kind == "ddp" else ModelParallelStrategy(**sizes, save_distributed_checkpoint=False)  # type: ignore[arg-type]

        callback = edit()
        callback.when = "end"
        weights = []
        for callbacks in ([], [callback]):
            module = Sharded("sgd") if kind == "fsdp2" else SomebodysModule("sgd")
            if kind == "ddp":
                module.unused.requires_grad_(False)  # its reducer would wait for it
            quiet(callbacks=callbacks, max_steps=2, strategy=strategy(), devices=2).fit(module, loader(seed=1))
            weights.append({n: p.clone() for n, p in whole(module, None).items()})
        return weights, callback.record.elements

    (first, count), (second, _) = run_ranks(end)
    for name, value in first[0].items():
        assert_close(first[1][name], value / 2, rtol=0, atol=0)
        assert torch.equal(first[1][name], second[1][name])
    assert count == sum(int((p != 0).sum()) for p in first[0].values())


class OfSeveral(SomebodysModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return sum((super(OfSeveral, self).training_step(part, batch_idx) for part in batch.values()), torch.zeros(()))


class Counts(Shrink):
    needs_forget = False

    def new_values(self, network: nn.Module, *, forget: Any, retain: Any, readout: Any, engine: Any) -> Any:
        self.seen.append((len(retain), sum(len(part[0]) for batch in retain for part in batch.values())))
        return iter(())


def test_several_loaders_are_retain_data_as_they_are_combined() -> None:
    callback = ApplyEdit(Counts())
    trainer = quiet(callbacks=[callback])
    trainer.fit(OfSeveral(), {"a": loader(seed=1), "b": loader(seed=3)})
    assert callback.edit.seen == [(6, 48)]
    assert trainer.global_step == 6


def test_batches_that_come_only_once_are_no_retain_data() -> None:
    with pytest.raises(ValueError, match="`Shrink` should find retain data.*such as come only once"):
        quiet(callbacks=[edit()]).fit(SomebodysModule(), (batch for batch in loader(seed=1)))


def test_what_cannot_be_edited_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`edit` should be an `Edit`.*Found `'shrink'`"):
        ApplyEdit("shrink")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`ApplyEdit` should find what to forget"):
        quiet(callbacks=[ApplyEdit(Shrink())]).fit(SomebodysModule(), loader(seed=1))
    with pytest.raises(ValueError, match=r"`Shrink` should find retain data.*Use `ApplyEdit\(\.\.\., retain=\.\.\.\)`"):
        quiet(callbacks=[edit()], max_steps=0).fit(SomebodysModule(), loader(seed=1))

    def attempt(rank: int, world: int) -> None:
        strategy = FSDP1OnCPU(auto_wrap_policy={nn.Linear})
        with pytest.raises(NotImplementedError, match=r"`ApplyEdit` should find the parameters as they are"):
            quiet(callbacks=[edit()], strategy=strategy, devices=world).fit(SomebodysModule(), loader(seed=1))

    run_ranks(attempt)


def test_it_can_be_written_in_yaml() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(pl.Callback, "callback")
    init = {"class_path": "lightning_unlearn.edits.NegateTaskVector", "init_args": {"base": "before", "scale": 0.2}}
    given = {"class_path": "lightning_unlearn.callbacks.ApplyEdit", "init_args": {"edit": init}}
    built = parser.instantiate_classes(parser.parse_object({"callback": given})).callback
    assert built.edit.settings() == {"base": "before", "finetuned": None, "scale": 0.2}
