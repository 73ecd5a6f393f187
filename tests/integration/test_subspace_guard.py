"""What `SubspaceGuard` promises: measured on the weights, in float64, at inputs it saw at the weights it started from."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from _modules import CLASSES, HostileModule, Restored, loader, quiet, same
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import Bounded, GradientAscent, Quantize, RecoveryCheck, Relearn, SubspaceGuard, Unlearn
from lightning_unlearn.callbacks import StepGuard
from lightning_unlearn.cli import main
from lightning_unlearn.functional.subspace import thinner
from lightning_unlearn.guards import InputSubspace, NoChange, NoIncrease, NullSpace, OptimizerMetric

INPUTS, KEPT = 24, 6
KINDS: dict[str, Callable[[Any], Any]] = {
    "momentum": lambda params: torch.optim.SGD(params, lr=3e-2, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, lr=1e-2),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-2, weight_decay=0.1),
}


class Module(pl.LightningModule):
    """Two linear layers with biases, and any optimizer."""

    def __init__(self, optimizer: str = "adamw") -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.net = nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh(), nn.Linear(16, CLASSES))
        self.optimizer = optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("my_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return KINDS[self.optimizer](self.parameters())


def kept(dtype: torch.dtype = torch.float32) -> TensorDataset:
    """Few enough that every layer has inputs to spare."""
    generator = torch.Generator().manual_seed(7)
    return TensorDataset(torch.randn(KEPT, INPUTS, generator=generator).to(dtype), torch.arange(KEPT) % CLASSES)


def new(n: int = 40, seed: int = 8) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, INPUTS, generator=generator), torch.randint(0, CLASSES, (n,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=4)


def guarding(subspace: Any = None, **kwargs: Any) -> SubspaceGuard:
    subspace = NullSpace(threshold=0) if subspace is None else subspace
    return SubspaceGuard(subspace, **{"retain": DataLoader(kept(), batch_size=KEPT), "batches": 1, **kwargs})


def fit(*callbacks: pl.Callback, module: Any = None, data: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    module = Module() if module is None else module
    trainer = quiet(callbacks=list(callbacks), **{"max_epochs": 3, **kwargs})
    trainer.fit(module, new() if data is None else data)
    return module, trainer


@torch.no_grad()
def drift(module: Any, start: Any, inputs: Tensor, layers: tuple[int, ...] = (0, 2)) -> float:
    """The worst change of any layer's outputs at the inputs it had at the start."""
    x, worst = inputs.double(), 0.0
    for i, (now, then) in enumerate(zip(*(copy.deepcopy(m.net).double() for m in (module, start)), strict=True)):
        if i in layers:
            worst = max(worst, float((now(x) - then(x)).abs().max()))
        x = then(x)
    return worst


def augmented(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


FITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"gradient_clip_val": 0.3},
    "accumulate": {"accumulate_grad_batches": 3, "max_epochs": 8},
}


@pytest.mark.parametrize("fitted", FITS)
@pytest.mark.parametrize("optimizer", KINDS)
def test_outputs_at_protected_inputs_stay(optimizer: str, fitted: str) -> None:
    guard = guarding()
    module, trainer = fit(guard, module=Module(optimizer), **FITS[fitted])
    assert trainer.global_step >= 30
    assert guard._steps == {"taken": trainer.global_step, "transformed": trainer.global_step}
    assert drift(module, Module(), kept().tensors[0]) < 1e-6


@pytest.mark.parametrize("subspace", [InputSubspace(1.0), InputSubspace(1.0, width=8)], ids=repr)
def test_a_sketch_protects_as_well(subspace: Any) -> None:
    module, _ = fit(guarding(subspace))
    assert drift(module, Module(), kept().tensors[0]) < 1e-6


class GradientsProjected(pl.Callback):
    """The same projection where most would put it: on gradients, before the optimizer."""

    def __init__(self) -> None:
        x = kept().tensors[0].double()
        self.projections = {}
        for i, layer in enumerate(Module().net.double()):
            if isinstance(layer, nn.Linear):
                self.projections[i] = thinner(torch.linalg.svd(augmented(x), full_matrices=False)[2].T)
            x = layer(x).detach()

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        for i, projection in self.projections.items():
            layer = module.net[i]
            joined = projection(torch.cat([layer.weight.grad, layer.bias.grad[:, None]], dim=1).double())
            layer.weight.grad.copy_(joined[:, :-1])
            layer.bias.grad.copy_(joined[:, -1])


@pytest.mark.parametrize(("optimizer", "holds"), [("momentum", True), ("adam", False), ("adamw", False)])
def test_the_same_projection_of_gradients_holds_under_sgd_alone(optimizer: str, holds: bool) -> None:
    """The test above could fail."""
    projected, _ = fit(GradientsProjected(), module=Module(optimizer))
    bare, _ = fit(module=Module(optimizer))
    drifts = [drift(m, Module(), kept().tensors[0]) for m in (projected, bare)]
    assert drifts[1] > 1
    assert drifts[0] < 1e-6 if holds else drifts[0] > 0.1


@pytest.mark.filterwarnings("ignore:All trained parameters should be protected")
def test_a_bias_that_is_left_out_would_leak() -> None:
    """A bias that another module has too cannot be projected with the matrix, is named, and drifts."""

    class Shared(Module):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(1, 16)
            self.other.bias = self.net[0].bias
            self.other.weight.requires_grad_(False)

    with pytest.warns(UserWarning, match=r"protect 3\.30% of the trainable numbers, in `net.0.bias`\.$"):
        leaky, _ = fit(guarding(), module=Shared())
    x = kept().tensors[0]
    assert drift(leaky, Module(), x, layers=(2,)) < 1e-6
    assert drift(leaky, Module(), x) > 1e-2
    weights = [m.net[0].weight.detach().double() for m in (leaky, Module())]
    assert float((x.double() @ (weights[0] - weights[1]).T).abs().max()) < 1e-6


def test_a_frozen_bias_is_left_alone() -> None:
    module = Module()
    module.net[0].bias.requires_grad_(False)
    fit(guarding(), module=module)
    assert torch.equal(module.net[0].bias, Module().net[0].bias)
    assert drift(module, Module(), kept().tensors[0]) < 1e-6


def steps_of(*callbacks: pl.Callback) -> list[Tensor]:
    """What one step made of each layer's matrix, its bias the last column."""
    module, _ = fit(*callbacks, max_steps=1)
    pairs = [pair for pair in zip(module.net, Module().net, strict=True) if isinstance(pair[0], nn.Linear)]
    return [matrix(now) - matrix(then) for now, then in pairs]


def matrix(layer: Any) -> Tensor:
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().double()


def protected_rows() -> list[Tensor]:
    """An orthonormal basis of each layer's inputs, by a decomposition of these."""
    x, bases = kept().tensors[0].double(), []
    for layer in Module().net.double():
        if isinstance(layer, nn.Linear):
            bases.append(torch.linalg.svd(augmented(x), full_matrices=False)[2])
        x = layer(x).detach()
    return bases


def test_what_is_free_is_learnt_as_without_a_guard() -> None:
    """The first step: that of the optimizer without its part in the protected inputs."""
    for guarded, bare, basis in zip(steps_of(guarding()), steps_of(), protected_rows(), strict=True):
        torch.testing.assert_close(guarded, bare - bare @ basis.T @ basis, rtol=0, atol=1e-7)
        assert float(guarded.norm()) > 1e-2


def test_what_is_logged_is_what_was_applied() -> None:
    _, trainer = fit(guarding(), max_steps=1)
    guarded, bare = steps_of(guarding()), steps_of()
    lengths = [torch.stack([d.norm() for d in steps]).norm() for steps in (guarded, bare)]
    assert float(trainer.callback_metrics["subspace/kept"]) == pytest.approx(float(lengths[0] / lengths[1]), rel=1e-5)
    acting = max(
        float((a @ u.T).norm() / max(a.norm(), b.norm()))
        for a, b, u in zip(guarded, bare, protected_rows(), strict=True)
    )
    assert float(trainer.callback_metrics["subspace/action"]) == pytest.approx(acting, rel=0.3)
    assert acting < 1e-5


def test_it_is_measured_where_the_trainer_logs() -> None:
    at = []

    class Recorded(SubspaceGuard):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            at.extend([batch_idx] if self._step_log else [])
            super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    fit(Recorded(NullSpace(0), retain=DataLoader(kept(), 6), batches=1), log_every_n_steps=4, max_epochs=1)
    assert at == [0, 4, 8]


# Beside others


def unlearn() -> Unlearn:
    return Unlearn(Bounded(GradientAscent(), bound=4.0), forget=new(8, seed=9), weight=3.0)


def test_beside_unlearn_the_fits_own_data_is_protected() -> None:
    data = DataLoader(kept(), batch_size=3)
    guarded, _ = fit(unlearn(), SubspaceGuard(NullSpace(0), batches=2), data=data, max_epochs=15)
    bare, _ = fit(unlearn(), data=data, max_epochs=15)
    x, y = next(iter(new(8, seed=9)))
    assert drift(guarded, Module(), kept().tensors[0]) < 1e-6
    assert drift(bare, Module(), kept().tensors[0]) > 0.1
    assert F.cross_entropy(guarded(x), y) > F.cross_entropy(Module()(x), y) + 0.5


@pytest.mark.parametrize("geometry", [None, OptimizerMetric()], ids=repr)
@pytest.mark.parametrize("rule", [NoIncrease(), NoChange()], ids=repr)
def test_both_guards_keep_their_promises_in_either_order(rule: Any, geometry: Any) -> None:
    """The loss guarded is that of other data than the inputs, so that the two are at odds."""
    other = next(iter(new(8)))

    class Outside(pl.Callback):
        cosines: list[float]

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            params = list(module.parameters())
            grads = torch.autograd.grad(F.cross_entropy(module(other[0]), other[1]), params)
            self.at = [(p, p.detach().double().clone(), g.double()) for p, g in zip(params, grads, strict=True)]

        def on_train_batch_end(self, *args: Any) -> None:
            step, g, w = (
                torch.cat([x.flatten() for x in xs])
                for xs in zip(*[(p.detach().double() - b, g, p.detach().double()) for p, b, g in self.at], strict=True)
            )
            raised = g @ step if isinstance(rule, NoIncrease) else (g @ step).abs()
            allowed = 2.0**-21 * (g * w).norm()  # two roundings of the weights
            self.cosines.append(float((raised - allowed) / (g.norm() * step.norm())))

    def run(order: int) -> tuple[Any, list[float], float]:
        outside = Outside()
        outside.cosines = []
        parts = [guarding(), StepGuard(rule, geometry=geometry, retain=DataLoader(TensorDataset(*other), 8))]
        module, trainer = fit(*parts[::order], outside)
        return module, outside.cosines, float(trainer.callback_metrics["guard/active"])

    first, cosines, active = run(1)
    last, _, _ = run(-1)
    assert same(first, last)
    assert len(cosines) == 30
    assert max(cosines) < 1e-6
    assert drift(first, Module(), kept().tensors[0]) < 1e-6
    assert active == 1 or isinstance(rule, NoIncrease)
    assert not same(first, fit(guarding())[0])


@pytest.mark.parametrize("order", [1, -1])
def test_a_forget_step_of_its_own_is_projected_too(order: int) -> None:
    """Also if it was guarded before: both the fit's step and the one that forgets leave old outputs alone."""
    own = Unlearn(
        Bounded(GradientAscent(), bound=4.0), forget=new(8, seed=9), optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
    )
    module, trainer = fit(*[own, StepGuard(NoChange()), guarding()][::order])
    assert drift(module, Module(), kept().tensors[0]) < 1e-6
    assert trainer.callback_metrics["guard/cosine"] < 1e-6
    assert not same(module, fit(guarding())[0])


def test_checks_do_not_disturb_a_guarded_fit() -> None:
    attacks = {"int4": Quantize(bits=4), "relearn": Relearn(steps=2, lr=1e-2, mode="full")}
    checks = RecoveryCheck(
        attacks, every_n_steps=2, probes={"retain": DataLoader(kept(), 6)}, attack_data=new(8, seed=9)
    )
    plain, _ = fit(unlearn(), guarding())
    checked, _ = fit(unlearn(), guarding(), checks)
    assert same(plain, checked)


@pytest.mark.filterwarnings("ignore:All trained parameters should be protected")
def test_looking_leaves_everything_as_it_was() -> None:
    """BatchNorm, dropout, metrics, counters, random numbers: a guard that protects nothing is no guard, to the bit."""

    def run(*callbacks: pl.Callback) -> tuple[Any, Any]:
        pl.seed_everything(3, verbose=False)
        module = HostileModule()
        shuffled = loader(seed=1, shuffle=True)
        trainer = quiet(callbacks=[Unlearn(GradientAscent(), forget=loader(seed=2)), *callbacks], max_epochs=2)
        trainer.fit(module, shuffled, loader(seed=4))
        return module, trainer

    bare, plain = run()
    watched, trainer = run(SubspaceGuard(NullSpace(threshold=1)))
    assert same(bare, watched)
    assert all(torch.equal(a, b) for a, b in zip(bare.buffers(), watched.buffers(), strict=True))
    assert (bare.calls, bare.history, bare.noise.tolist()) == (watched.calls, watched.history, watched.noise.tolist())
    for name, value in plain.callback_metrics.items():
        assert torch.equal(trainer.callback_metrics[name], value), name
    assert trainer.callback_metrics["subspace/kept"] == 1


# Counting, resuming, refusing, naming


def test_steps_that_a_scaler_skips_are_not_counted() -> None:
    """`precision="16-mixed"` silently becomes bf16 on the CPU; so the plugin by hand."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22, growth_interval=1000)
    guard = guarding()
    module, trainer = fit(guard, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)])
    assert 0 < guard._steps["taken"] == guard._steps["transformed"] < trainer.global_step == 30
    assert drift(module, Module(), kept().tensors[0], layers=(0,)) < 1e-6  # the other's inputs were rounded to fp16


def test_an_unguarded_step_is_noticed() -> None:
    class Bypassing(Module):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            optimizer_closure()
            optimizer.optimizer.step()

    with pytest.raises(RuntimeError, match="Every optimizer step should be guarded. Found 30 steps, of which 0 were"):
        fit(guarding(), module=Bypassing())


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("subspace", [NullSpace(0), InputSubspace(0.9, rank=3)], ids=repr)
@pytest.mark.parametrize("interrupted_at", [3, 10])
def test_resumed_equals_uninterrupted(interrupted_at: int, subspace: Any, tmp_path: Path) -> None:
    def run(folder: str, ckpt_path: Path | None = None, **kwargs: Any) -> tuple[Any, SubspaceGuard]:
        guard = guarding(subspace)
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = quiet(callbacks=[guard, saved], enable_checkpointing=True, max_epochs=2, **kwargs)
        module = Module()
        # One batch, so that the position of a plain loader within its epoch does not matter.
        repeated = TensorDataset(*(t.repeat(10, *[1] * (t.dim() - 1)) for t in next(iter(new()))))
        trainer.fit(module, DataLoader(repeated, batch_size=4), ckpt_path=ckpt_path)
        return module, guard

    whole, guard = run("whole")
    run("first", max_steps=interrupted_at)
    checkpoint = tmp_path / "first" / f"step={interrupted_at}.ckpt"
    torch.load(checkpoint, weights_only=True)  # tensors and primitives only
    resumed, again = run("second", checkpoint)
    assert same(whole, resumed)
    assert guard._steps == again._steps == {"taken": 20, "transformed": 20}


def test_a_checkpoint_of_other_layers_is_refused() -> None:
    guard = guarding()
    fit(guard)
    again = guarding(layers=["2"])
    with pytest.raises(ValueError, match="A resumed fit should protect the layers that its checkpoint does.*`net.0`"):
        fit(Restored(again, guard.state_dict()), again)


def test_what_cannot_be_guarded_is_refused_by_name() -> None:
    class Manual(Module):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    class Newton(Module):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters())

    class DeepSpeedStrategy(SingleDeviceStrategy):
        pass

    class FSDPStrategy(SingleDeviceStrategy):
        pass

    with pytest.raises(NotImplementedError, match="should run under automatic optimization.*`Manual`"):
        fit(guarding(), module=Manual())
    with pytest.raises(NotImplementedError, match="Found `LBFGS`"):
        fit(guarding(), module=Newton())
    with pytest.raises(
        NotImplementedError, match="Found `DeepSpeedStrategy`, which keeps both inside its engine. Use `strategy='ddp'`"
    ):
        fit(guarding(), strategy=DeepSpeedStrategy(device="cpu"))
    with pytest.raises(NotImplementedError, match=r"Found `FSDPStrategy` \(FSDP1\), which flattens them.*FSDP2"):
        fit(guarding(), strategy=FSDPStrategy(device="cpu"))
    with pytest.raises(ValueError, match="should find what to protect. Found neither `Unlearn`"):
        fit(SubspaceGuard(NullSpace()))
    with pytest.raises(ValueError, match="There should be one `SubspaceGuard`.* Found 2"):
        fit(guarding(), guarding(NullSpace(0.5)))
    with pytest.raises(ValueError, match="Found none for 'attention'. There are `net.0`, `net.2`"):
        fit(guarding(layers=["0", "attention"]))
    with pytest.raises(TypeError, match="`subspace` should be a `Subspace`"):
        SubspaceGuard(0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`batches` should be at least 1. Found `batches = 0`"):
        guarding(batches=0)


def test_no_linear_layer_is_refused() -> None:
    class Convolving(Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Unflatten(1, (1, INPUTS)), nn.Conv1d(1, CLASSES, INPUTS), nn.Flatten())

    with pytest.raises(ValueError, match="There should be a layer to protect.*Found none in `Convolving`"):
        fit(guarding(), module=Convolving())


def test_several_training_loaders_are_refused() -> None:
    with pytest.raises(ValueError, match=r"should find one training loader. Found several, \['a'\]"):

        class Dicts(Module):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return super().training_step(batch["a"], batch_idx)

        fit(unlearn(), SubspaceGuard(NullSpace()), module=Dicts(), data={"a": new()})


def test_what_stays_unprotected_is_named_with_its_share() -> None:
    class Mixed(Module):
        """A norm, a layer that is never called, and one whose bias alone is trained."""

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(INPUTS, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, CLASSES))
            self.net[2].weight.requires_grad_(False)
            self.silent = nn.Linear(2, 2)

    names = "`net.1.weight`, `net.1.bias`, `net.2.bias`, `silent.weight`, `silent.bias`"
    share = 100 * (3 * 16 + 6) / (25 * 16 + 3 * 16 + 17 * CLASSES + 6)
    with pytest.warns(UserWarning, match=rf"protect {share:.2f}% of the trainable numbers, in {names}\.$"):
        fit(guarding(), module=Mixed(), max_steps=1)


class Thawing(pl.Callback):
    """Gives a layer to the optimizer in the middle of an epoch, as ``BaseFinetuning`` does at the start of one."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.at and not module.net[2].weight.requires_grad:
            self.before = copy.deepcopy(module)
            module.net[2].requires_grad_(True)
            trainer.optimizers[0].add_param_group({"params": list(module.net[2].parameters())})


class Thawed(Module):
    def configure_optimizers(self) -> Any:
        self.net[2].requires_grad_(False)
        return torch.optim.AdamW(self.net[0].parameters(), lr=1e-2)


@pytest.mark.parametrize("first", [True, False], ids=["guard first", "guard last"])
def test_a_layer_that_is_unfrozen_later_is_protected_from_its_first_step_on(first: bool) -> None:
    guard, thawing = guarding(), Thawing(at=4)
    module, _ = fit(*[guard, thawing][:: 1 if first else -1], module=Thawed(), max_epochs=1)
    assert set(guard._inputs.bases()) == {"net.0", "net.2"}
    assert drift(module, thawing.before, kept().tensors[0]) < 1e-6
    assert not torch.equal(module.net[2].weight, thawing.before.net[2].weight)
    bare, _ = fit(Thawing(at=4), module=Thawed(), max_epochs=1)
    assert drift(bare, thawing.before, kept().tensors[0]) > 0.05


def test_chosen_layers_alone_are_protected() -> None:
    with pytest.warns(UserWarning, match="of the trainable numbers, in `net.0.weight`, `net.0.bias`"):
        module, _ = fit(guarding(layers=["net.2"]))
    assert drift(module, Module(), kept().tensors[0], layers=(2,)) < 1e-6
    assert drift(module, Module(), kept().tensors[0], layers=(0,)) > 0.1


def test_a_layer_with_nothing_free_stays_and_is_named() -> None:
    many = DataLoader(TensorDataset(torch.randn(40, INPUTS), torch.zeros(40, dtype=torch.int64)), batch_size=40)
    with pytest.warns(UserWarning, match="free direction to learn in. Found none in `net.0`, `net.2`"):
        module, trainer = fit(guarding(retain=many), max_epochs=1)
    assert same(module, Module())
    assert trainer.callback_metrics["subspace/kept"] == 0


def test_a_sketch_that_is_too_thin_is_named() -> None:
    with pytest.warns(
        UserWarning,
        match="Use a larger `width`. Found that all of its directions hold less, and are all protected, in `net.0`",
    ):
        fit(guarding(InputSubspace(1.0, width=4)), max_steps=1)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_that_round_more_than_float32_are_warned_about_with_what_was_measured(precision: Any) -> None:
    halves = torch.bfloat16 if precision == "bf16-true" else torch.float16
    data = DataLoader(TensorDataset(*kept(halves).tensors), batch_size=6)
    with pytest.warns(UserWarning, match=rf"Found \d\.\de-\d\d of it that does: weights of \['{halves}'\] round it"):
        fit(guarding(), module=Module("momentum"), data=data, precision=precision, max_epochs=2)


def test_a_second_fit_looks_anew() -> None:
    guard = guarding()
    module, _ = fit(guard, max_epochs=1)
    start = copy.deepcopy(module)
    fit(guard, module=module, max_epochs=1)
    assert guard._steps == {"taken": 10, "transformed": 10}
    assert drift(module, start, kept().tensors[0]) < 1e-6


@pytest.mark.parametrize(
    "subspace",
    [
        {"class_path": "lightning_unlearn.guards.NullSpace", "init_args": {"threshold": 0.2}},
        {"class_path": "lightning_unlearn.guards.InputSubspace", "init_args": {"energy": 0.8, "rank": 4}},
    ],
)
def test_it_is_built_from_yaml(subspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    measured = {"class_path": "somebodys_package.Measurements", "init_args": {"seed": 3}}
    init_args = {"subspace": subspace, "retain": measured, "layers": ["*.0", "*.2"], "batches": 2}
    settings = {
        "model": {"class_path": "somebodys_package.Classifier", "init_args": {"width": 24}},
        "data": {"class_path": "somebodys_package.Measurements", "init_args": {"seed": 1, "n": 12}},
        "trainer": {
            "callbacks": [{"class_path": "lightning_unlearn.SubspaceGuard", "init_args": init_args}],
            "max_steps": 2,
            "accelerator": "cpu",
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "log_every_n_steps": 1,
            "logger": False,
        },
    }
    Path("guarded.yaml").write_text(yaml.safe_dump(settings))
    trainer = main(["fit", "--config", "guarded.yaml"]).trainer
    (guard,) = (c for c in trainer.callbacks if isinstance(c, SubspaceGuard))
    assert repr(guard.subspace).startswith(subspace["class_path"].rpartition(".")[2] + "(")
    assert vars(guard.subspace).items() >= subspace["init_args"].items()
    assert guard._steps == {"taken": 2, "transformed": 2}
    assert 0 < float(trainer.callback_metrics["subspace/kept"]) < 1
