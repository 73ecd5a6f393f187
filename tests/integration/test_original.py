"""The original, for references and reports, is what the fit really starts from, wherever its weights came from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import CLASSES, examples, loader, quiet
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_unlearn import (
    NPO,
    CachedLogLikelihood,
    ClassificationReadout,
    FrozenCopy,
    Interpolate,
    KLToReference,
    RecoveryCheck,
    SubspaceGuard,
    TrainOnly,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.guards import NullSpace
from lightning_unlearn.observation import Observation
from lightning_unlearn.selectors import Selector, TopShare

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]
AT_ORIGINAL = 4 * math.log(2)  # NPO with a likelihood ratio of one, at beta 0.5
REFERENCES = {"cache": CachedLogLikelihood, "copy": FrozenCopy, "default": lambda: None}
HOOKS = ["setup", "configure_model", "on_fit_start", "on_train_start"]


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, CLASSES))


class Plain(pl.LightningModule):
    """The weights that count are those of seed 1; it may get them in one of its own hooks."""

    def __init__(self, hook: str = "", seed: int = 7) -> None:
        super().__init__()
        self.net, self.hook = network(seed), hook

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.3)

    def load(self, hook: str) -> None:
        if hook == self.hook:
            self.net.load_state_dict(network(1).state_dict())

    def setup(self, stage: str) -> None:
        self.load("setup")

    def configure_model(self) -> None:
        self.load("configure_model")

    def on_fit_start(self) -> None:
        self.load("on_fit_start")

    def on_train_start(self) -> None:
        self.load("on_train_start")


class Loads(pl.Callback):
    """Somebody's callback that gets the weights, in a hook of its own."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.load)

    def load(self, trainer: Any, module: Any, *args: Any, **kwargs: Any) -> None:
        module.net.load_state_dict(network(1).state_dict())


class First(Unlearn):
    """Keeps each forget loss."""

    def __init__(self, reference: Any = None, **kwargs: Any) -> None:
        super().__init__(NPO(beta=0.5), reference=reference, forget=kwargs.pop("forget", loader(seed=2)), **kwargs)
        self.seen: list[float] = []

    def forget_loss(self, batch: Any) -> Tensor:
        loss = super().forget_loss(batch)
        self.seen.append(loss.item())
        return loss


def fit(module: Any, *callbacks: pl.Callback, ckpt_path: Path | None = None, **kwargs: Any) -> pl.Trainer:
    trainer = quiet(callbacks=list(callbacks), **kwargs)
    trainer.fit(module, loader(seed=1), ckpt_path=ckpt_path)
    return trainer


def foreign(path: Path, **limits: Any) -> tuple[Path, Plain]:
    """A checkpoint of a fit without anything of ours."""
    module = Plain(seed=1)
    fit(module, **limits).save_checkpoint(path)
    return path, module


@pytest.mark.parametrize("limits", [{"max_epochs": 2}, {"max_steps": 3}], ids=["epochs", "in an epoch"])
@pytest.mark.parametrize("reference", REFERENCES)
def test_a_checkpoint_made_without_us_holds_the_original(reference: str, limits: Any, tmp_path: Path) -> None:
    path, taught = foreign(tmp_path / "plain.ckpt", **limits)
    unlearn, check = First(REFERENCES[reference]()), RecoveryCheck(probes={"forget": loader(seed=2)}, every_n_epochs=0)
    fit(Plain(), check, unlearn, ckpt_path=path, max_epochs=3)
    assert unlearn.seen[0] == pytest.approx(AT_ORIGINAL, abs=1e-5)
    assert unlearn.seen[-1] < AT_ORIGINAL - 1e-3
    assert observed(check) == pytest.approx(probability(taught), abs=1e-6)


def test_attacks_go_back_to_what_a_checkpoint_made_without_us_holds(tmp_path: Path) -> None:
    path, taught = foreign(tmp_path / "plain.ckpt", max_steps=3)
    check = RecoveryCheck({"merge": Interpolate(1.0)}, probes={"forget": loader(seed=2)}, every_n_epochs=0)
    trainer = fit(Plain(seed=7), check, ckpt_path=path, max_epochs=2)
    values = {(o.subject, o.attack): o.value for o in on_forget(check)}
    assert values["original", "merge"] == values["original", "none"] == pytest.approx(probability(taught), abs=1e-6)
    assert values["unlearned", "merge"] == pytest.approx(values["original", "none"], abs=1e-6)
    trainer.save_checkpoint(tmp_path / "ours.ckpt")

    def resumed(start: Plain) -> RecoveryCheck:
        again = RecoveryCheck({"merge": Interpolate(1.0)}, probes={"forget": loader(seed=2)}, every_n_epochs=0)
        fit(start, again, ckpt_path=tmp_path / "ours.ckpt", max_epochs=3)
        return again

    start = Plain(seed=7)
    start.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    merged = [o.value for o in on_forget(resumed(start)) if o.attack == "merge"]
    assert merged == pytest.approx([probability(taught)] * 3, abs=1e-6)
    with pytest.warns(UserWarning, match="Attack `merge` failed.*resume a fit with the weights that it started from"):
        resumed(Plain(seed=7))


def test_training_under_attack_goes_back_to_what_a_checkpoint_made_without_us_holds(tmp_path: Path) -> None:
    path, _ = foreign(tmp_path / "plain.ckpt", max_steps=3)
    unlearn = First(under={"merge": Interpolate(1.0)})
    fit(Plain(seed=7), unlearn, ckpt_path=path, max_epochs=2)
    assert unlearn.seen[1] == pytest.approx(AT_ORIGINAL, abs=1e-5)  # under attack


@pytest.mark.parametrize("reference", ["cache", "copy"])
@pytest.mark.parametrize("hook", HOOKS)
def test_weights_that_the_module_loads_in_a_hook_are_the_original(hook: str, reference: str) -> None:
    unlearn, check = First(REFERENCES[reference]()), RecoveryCheck(probes={"forget": loader(seed=2)}, every_n_epochs=0)
    fit(Plain(hook), unlearn, check)
    assert unlearn.seen[0] == pytest.approx(AT_ORIGINAL, abs=1e-5)
    assert observed(check) == pytest.approx(probability(Plain(seed=1)), abs=1e-6)


@pytest.mark.parametrize("first", [True, False], ids=["before us", "after us"])
@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_train_start", "on_train_epoch_start"])
def test_weights_that_a_callback_loads_are_the_original(hook: str, first: bool) -> None:
    unlearn, check = First(FrozenCopy()), RecoveryCheck(probes={"forget": loader(seed=2)}, every_n_epochs=0)
    ours = [unlearn, check]
    fit(Plain(), *([Loads(hook), *ours] if first else [*ours, Loads(hook)]))
    assert unlearn.seen[0] == pytest.approx(AT_ORIGINAL, abs=1e-5)
    assert observed(check) == pytest.approx(probability(Plain(seed=1)), abs=1e-6)


class Largest(Selector):
    def scores(self, network: nn.Module, **kwargs: Any) -> dict[str, Tensor]:
        return {name: p.detach().abs() for name, p in network.named_parameters()}


def test_weights_are_scored_as_they_are_when_training_starts() -> None:
    def chosen(module: Plain) -> Any:
        only = TrainOnly(selector=Largest(), choice=TopShare(0.5))
        fit(module, only, Unlearn(NPO(), forget=loader(seed=2)), max_steps=1)
        return only.state_dict()["mask"]["parts"]["net.0.weight"]

    assert torch.equal(chosen(Plain("on_train_start")), chosen(Plain(seed=1)))
    assert not torch.equal(chosen(Plain(seed=7)), chosen(Plain(seed=1)))


def test_inputs_are_protected_as_the_network_has_them_when_training_starts() -> None:
    def bases(module: Plain) -> Any:
        guard = SubspaceGuard(NullSpace(0.3), batches=4, layers=["net.3"], retain=loader(seed=1))
        with pytest.warns(UserWarning, match="All trained parameters should be protected"):
            fit(module, guard, max_steps=1)
        return guard.state_dict()["bases"]["net.3"]["basis"]

    assert torch.equal(bases(Plain("on_train_start")), bases(Plain(seed=1)))
    assert not torch.equal(bases(Plain(seed=7)), bases(Plain(seed=1)))


@pytest.mark.parametrize("hook", ["__init__", "setup", "configure_model"])
@pytest.mark.parametrize("reference", REFERENCES)
def test_a_resumed_fit_keeps_the_original_of_the_interrupted_one(reference: str, hook: str, tmp_path: Path) -> None:
    def run(folder: str, **kwargs: Any) -> tuple[Plain, First]:
        module = Plain(hook, seed=1 if hook == "__init__" else 7)
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        unlearn = First(REFERENCES[reference]())
        fit(module, unlearn, saved, enable_checkpointing=True, max_epochs=2, **kwargs)
        return module, unlearn

    whole, unlearn = run("whole")
    checkpoint = tmp_path / "whole" / "step=6.ckpt"
    torch.load(checkpoint, weights_only=True)  # tensors and primitives only
    resumed, again = run("again", ckpt_path=checkpoint)
    assert again.seen == unlearn.seen[6:]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


class Built(Plain):
    """The network does not exist before `configure_model`."""

    def __init__(self) -> None:
        super().__init__()
        del self.net

    def configure_model(self) -> None:
        if not hasattr(self, "net"):
            self.net = network(1)


def test_a_network_that_is_built_in_configure_model_is_copied_before_its_checkpoint(tmp_path: Path) -> None:
    one = First(FrozenCopy())
    trainer = fit(Built(), one)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    two, whole = First(FrozenCopy()), First(FrozenCopy())
    fit(Built(), two, ckpt_path=tmp_path / "one.ckpt", max_epochs=2)
    fit(Built(), whole, max_epochs=2)
    assert two.seen == pytest.approx(whole.seen[6:], abs=1e-6)


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "nowhere"])
def test_half_forgotten_weights_are_never_copied_for_the_original(hook: str, tmp_path: Path) -> None:
    """Loaded after the checkpoint was restored, or not at all: what is there before is another network."""
    trainer = fit(Plain(seed=1), First(FrozenCopy()))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(ValueError, match=r"Found others, or none, in 4 parameters, `net.0.bias` first\. Load them in"):
        fit(Plain(hook), First(FrozenCopy()), ckpt_path=tmp_path / "one.ckpt", max_epochs=2)
    resumed = First(CachedLogLikelihood())
    trainer = fit(Plain(seed=1), First(CachedLogLikelihood()))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    fit(Plain(), resumed, ckpt_path=tmp_path / "two.ckpt", max_epochs=2)  # its values are in the checkpoint
    assert resumed.seen[0] < AT_ORIGINAL - 1e-3


def test_another_kind_of_reference_is_said_on_resume(tmp_path: Path) -> None:
    trainer = fit(Plain(seed=1), First(CachedLogLikelihood()))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    said = "`reference` was `CachedLogLikelihood`, is `FrozenCopy`. The original is what the module held before"
    with pytest.warns(UserWarning, match=said):
        fit(Plain(seed=1), First(FrozenCopy()), ckpt_path=tmp_path / "one.ckpt", max_epochs=2)


@pytest.mark.parametrize("reference", ["cache", "copy"])
def test_a_second_fit_takes_other_weights_and_other_data_for_the_original(reference: str) -> None:
    unlearn, module = First(REFERENCES[reference]()), Plain(seed=1)
    fit(module, unlearn)
    module.net.load_state_dict(network(3).state_dict())
    unlearn.forget, unlearn.seen = loader(seed=5), []
    fit(module, unlearn)
    assert unlearn.seen[0] == pytest.approx(AT_ORIGINAL, abs=1e-5)
    assert unlearn._stream.position == unlearn._steps["taken"] == 6
    if reference == "cache":
        assert len(unlearn.reference) == 24  # of the new data only


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides")
def test_averaged_weights_are_never_forgotten_from() -> None:
    """`WeightAveraging` swaps them in for validation: the forget passes see the raw weights, as the fit's own do."""

    class Validated(Plain):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

        def val_dataloader(self) -> Any:
            return loader(seed=3)

    bare, averaged = First(FrozenCopy()), First(FrozenCopy())
    fit(Validated(seed=1), bare, max_epochs=3, limit_val_batches=1)
    fit(Validated(seed=1), averaged, WeightAveraging(), max_epochs=3, limit_val_batches=1)
    assert averaged.seen == bare.seen
    assert averaged.seen[-1] < averaged.seen[0] == pytest.approx(AT_ORIGINAL, abs=1e-5)


class Retaining(UnlearningModule):
    def __init__(self, hook: str = "", seed: int = 7) -> None:
        super().__init__(network(seed), retain=KLToReference(), optimizer=lambda p: torch.optim.SGD(p, lr=0.3))
        self.hook = hook
        self.losses: list[float] = []

    def configure_model(self) -> None:
        if self.hook:
            self.network.load_state_dict(network(1).state_dict())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss


class Networks(Loads):
    def load(self, trainer: Any, module: Any, *args: Any, **kwargs: Any) -> None:
        module.network.load_state_dict(network(1).state_dict())


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_train_start"])
def test_our_own_module_keeps_what_the_fit_starts_from(hook: str) -> None:
    module = Retaining()
    fit(module, Networks(hook), First())
    assert isinstance(module.reference, FrozenCopy)
    assert module.losses[0] == pytest.approx(0, abs=1e-6)
    assert module.losses[-1] > 1e-4


def test_our_own_module_keeps_what_a_checkpoint_without_us_holds(tmp_path: Path) -> None:
    plain = UnlearningModule(network(1), optimizer=lambda p: torch.optim.SGD(p, lr=0.3))
    fit(plain).save_checkpoint(tmp_path / "plain.ckpt")
    module = Retaining()
    fit(module, First(), ckpt_path=tmp_path / "plain.ckpt", max_epochs=2)
    assert module.losses[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("hook", ["", "configure_model"])
def test_our_own_module_is_resumed_with_the_original(hook: str, tmp_path: Path) -> None:
    def run(epochs: int, ckpt_path: Path | None = None) -> tuple[Retaining, pl.Trainer]:
        module = Retaining(hook, seed=7 if hook else 1)
        return module, fit(module, First(), ckpt_path=ckpt_path, max_epochs=epochs)

    whole, _ = run(2)
    run(1)[1].save_checkpoint(tmp_path / "one.ckpt")
    resumed, _ = run(2, tmp_path / "one.ckpt")
    assert resumed.losses == whole.losses[6:]
    with pytest.raises(ValueError, match="Found others, or none, in 4 parameters"):
        fit(Retaining(), First(), ckpt_path=tmp_path / "one.ckpt", max_epochs=2)


@torch.no_grad()
def probability(module: Plain) -> float:
    x, y = examples(2).tensors
    return float((-ClassificationReadout()(module.eval(), (x, y)).token_nll()).exp().mean())


def on_forget(check: RecoveryCheck) -> list[Observation]:
    return [o for o in check.observations if (o.split, o.metric) == ("forget", "probability")]


def observed(check: RecoveryCheck) -> float:
    (value,) = (o.value for o in on_forget(check) if (o.subject, o.attack) == ("original", "none"))
    return value
