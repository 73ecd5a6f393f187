"""What `StepGuard` promises of the change of the weights, measured from outside, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _guarded_fits import FITS, Module, Outside, Seen, fit, unlearn
from _language_models import family, frozen, language
from _modules import examples, loader, quiet, same
from _scaled import scaled
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers.optimization import Adafactor, AdafactorSchedule

from lightning_unlearn import (
    Bounded,
    CyclicOrder,
    ForgetRetainData,
    GradientAscent,
    GroupSparse,
    Orthogonal,
    Quantize,
    RecoveryCheck,
    Relearn,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.callbacks import OscillationMonitor, StepGuard
from lightning_unlearn.functional import bundles
from lightning_unlearn.guards import (
    BFloat16,
    Euclidean,
    Float32,
    History,
    Int8,
    MainMemory,
    MicroBatches,
    Monitor,
    NoChange,
    NoIncrease,
    OptimizerMetric,
    RetainGradient,
    Rule,
)
from lightning_unlearn.guards._guarded_step import GuardedStep


@pytest.mark.parametrize("scope", ["global", "parameter"])
@pytest.mark.parametrize("rule", [NoIncrease(), NoChange()], ids=repr)
@pytest.mark.parametrize("fitted", FITS)
@pytest.mark.parametrize(
    "optimizer", ["sgd", "adamw", *(pytest.param(n, marks=pytest.mark.slow) for n in ("momentum", "adam"))]
)
def test_the_applied_change_harms_nothing_protected(optimizer: str, fitted: str, rule: Rule, scope: Any) -> None:
    outside = Outside(mixed=fitted == "bf16-mixed")
    guard = StepGuard(rule, History(length=4), scope=scope)
    fit(unlearn(), guard, outside, optimizer=optimizer, **FITS[fitted])
    breaches = outside.breaches(type(rule).__name__, scope, length=4)
    assert len(breaches) >= 10
    assert max(breaches) <= 1e-6
    assert guard._steps["fallbacks"] == 0


@pytest.mark.parametrize("scope", ["global", "parameter"])
@pytest.mark.parametrize("rule", [NoIncrease(), NoChange()], ids=repr)
@pytest.mark.parametrize("geometry", [Euclidean(), OptimizerMetric()], ids=repr)
def test_only_rounding_stands_in_the_way(geometry: Any, rule: Rule, scope: Any) -> None:
    """With weights in float64 nothing is left to be allowed for."""
    guard = StepGuard(rule, History(length=4), geometry, scope=scope)
    _, trainer = fit(unlearn(), guard, precision="64-true")
    assert trainer.callback_metrics["guard/cosine"] <= 1e-12


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adamw"])
def test_without_a_guard_it_is_harmed(optimizer: str) -> None:
    """And a projector before the optimizer does not help: the test above could fail."""
    outside = Outside()
    fit(unlearn(projector=Orthogonal()), outside, optimizer=optimizer)
    assert max(outside.breaches("NoIncrease", "global")) > 1e-2


@pytest.mark.parametrize("scope", ["global", "parameter"])
@pytest.mark.parametrize("rule", [NoIncrease(), NoChange()], ids=repr)
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "amsgrad"])
def test_in_the_optimizers_metric_too(optimizer: str, rule: Rule, scope: Any) -> None:
    outside = Outside()
    fit(unlearn(), StepGuard(rule, History(4), OptimizerMetric(), scope=scope), outside, optimizer=optimizer)
    assert max(outside.breaches(type(rule).__name__, scope, length=4)) <= 1e-6


@pytest.mark.parametrize("directions", [RetainGradient, MicroBatches, lambda: History(4)])
@pytest.mark.parametrize("fitted", FITS)
def test_the_order_of_callbacks_does_not_matter(fitted: str, directions: Any) -> None:
    first, _ = fit(StepGuard(NoChange(), directions()), unlearn(), **FITS[fitted])
    last, _ = fit(unlearn(), StepGuard(NoChange(), directions()), **FITS[fitted])
    bare, _ = fit(unlearn(), **FITS[fitted])
    assert same(first, last)
    assert not same(first, bare)


def test_micro_batches_are_protected_one_by_one() -> None:
    outside = Outside()
    _, trainer = fit(unlearn(), StepGuard(NoChange(), MicroBatches()), outside, accumulate_grad_batches=3)
    for rows, change in zip(outside.gradients, outside.changes, strict=True):
        d = torch.cat([c.flatten() for c in change])
        for row in rows:
            g = torch.cat([part.flatten() for part in row])
            assert abs(float(F.cosine_similarity(g, d, dim=0))) < 1e-6
    assert trainer.callback_metrics["guard/active"] == 3


@pytest.mark.parametrize("fitted", FITS)
def test_a_watched_fit_is_the_fit_without_a_guard_to_the_bit(fitted: str) -> None:
    bare, _ = fit(unlearn(), **FITS[fitted])
    watched, trainer = fit(unlearn(), StepGuard(Monitor(), History(4)), **FITS[fitted])
    assert same(bare, watched)
    assert trainer.callback_metrics["guard/kept"] == 1


def test_a_safe_step_is_left_alone_to_the_bit() -> None:
    """Under plain SGD with a forget gradient that is orthogonal, every step lowers the retain loss."""
    bare, _ = fit(unlearn(projector=Orthogonal()), optimizer="sgd")
    guarded, trainer = fit(unlearn(projector=Orthogonal()), StepGuard(NoIncrease()), optimizer="sgd")
    assert same(bare, guarded)
    assert trainer.callback_metrics["guard/active"] == 0


def test_what_is_logged_is_what_was_applied() -> None:
    outside, seen = Outside(), Seen()
    fit(unlearn(), StepGuard(NoChange()), outside, seen)
    for rows, change, logged in zip(outside.gradients, outside.changes, seen.logged, strict=True):
        g, d = (torch.cat([v.flatten() for v in vector]) for vector in (rows[0], change))
        assert logged["guard/cosine"] == pytest.approx(abs(float(F.cosine_similarity(g, d, dim=0))), abs=1e-7)
        assert logged["guard/retain_after"] == pytest.approx(float(g @ d), abs=1e-7)
        assert abs(logged["guard/retain_before"]) > 1e-4
        assert 0 < logged["guard/kept"] < 1
        assert logged["guard/active"] == 1


@pytest.mark.parametrize("rule", [NoIncrease(), NoChange()], ids=repr)
def test_what_is_logged_is_what_was_applied_where_only_some_scopes_are_corrected(rule: Rule) -> None:
    outside, seen = Outside(), Seen()
    fit(unlearn(), StepGuard(rule, scope="parameter"), outside, seen)
    for rows, change, logged in zip(outside.gradients, outside.changes, seen.logged, strict=True):
        products = torch.stack([(g * d).sum() for g, d in zip(rows[0], change, strict=True)])
        assert logged["guard/retain_after"] == pytest.approx(float(products.sum()), abs=1e-7)
    assert any(0 < logged["guard/active"] < len(products) for logged in seen.logged)


@pytest.mark.parametrize("scope", ["global", "parameter"])
@pytest.mark.parametrize(("precision", "exact"), [("64-true", 1e-12), ("32-true", 1e-6)])
def test_products_among_past_gradients_are_known_from_the_step_before(
    precision: Any, exact: float, scope: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the parameters they are over change, as those of the head do here, which rest at times."""

    class Resting(Module):
        def configure_optimizers(self) -> Any:
            made = super().configure_optimizers()
            rests = [lambda step: 1.0, lambda step: float(step not in (3, 4))]
            made["lr_scheduler"]["scheduler"] = torch.optim.lr_scheduler.LambdaLR(made["optimizer"], rests)
            return made

    known = []
    computed = GuardedStep._products

    def compared(self: GuardedStep, geometry: Any) -> Any:
        found = computed(self, geometry)
        known.append(self._past is not None)
        self._past = None
        anew = computed(self, geometry)
        torch.testing.assert_close(found.gramian, anew.gramian, rtol=0, atol=exact * float(anew.squares.max()))
        torch.testing.assert_close(found.squares, anew.squares, rtol=exact, atol=0)
        return found

    monkeypatch.setattr(GuardedStep, "_products", compared)
    fit(unlearn(), StepGuard(NoChange(), History(4), scope=scope), module=Resting(), precision=precision)
    assert len(known) >= 8
    assert [i for i, was in enumerate(known) if not was] == [0, 3, 5]


def test_nearly_parallel_directions_are_told_apart_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small steps on one batch: its gradient hardly turns."""
    precise = []
    corrected = GuardedStep.correct_

    def seen(self: GuardedStep, *args: Any) -> Any:
        outcome = corrected(self, *args)
        precise.append(self._is_precise)
        return outcome

    monkeypatch.setattr(GuardedStep, "correct_", seen)
    outside = Outside()
    guard = StepGuard(NoChange(), History(4))
    fit(unlearn(), guard, outside, optimizer="momentum", overfit_batches=1)
    assert precise[0] is False  # one direction
    assert all(precise[2:])
    assert max(outside.breaches("NoChange", "global", length=4)) <= 1e-6


@pytest.mark.parametrize("rule", [NoIncrease, NoChange])
@pytest.mark.parametrize("geometry", [Euclidean, OptimizerMetric])
@pytest.mark.parametrize("scope", ["global", "module"])
def test_small_parameters_as_one_vector_are_guarded_as_one_by_one(
    scope: Any, geometry: Any, rule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, parts = [], []
    made = GuardedStep.__init__

    def counted(self: GuardedStep, *args: Any) -> None:
        made(self, *args)
        parts[-1].append(len(self._parts))

    monkeypatch.setattr(GuardedStep, "__init__", counted)
    for length in (0, 40, 1 << 17):
        monkeypatch.setitem(bundles._LENGTH, "cpu", length)
        parts.append([])
        module, _ = fit(unlearn(), StepGuard(rule(), History(4), geometry(), scope=scope), optimizer="adamw")
        ends.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert parts[0][0] > parts[1][0] > parts[2][0] >= 1
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-6)


# Counting, refusing, resuming


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("order", [1, -1])
def test_steps_that_a_scaler_skips_are_neither_guarded_nor_remembered(order: int) -> None:
    guard = StepGuard(NoChange(), History(100))
    _, trainer = fit(*[unlearn(), guard][::order], optimizer="momentum", **scaled(2.0**20))
    assert 0 < guard._steps["taken"] == guard._steps["transformed"] < trainer.global_step == 12
    assert len(guard.directions._past) == guard._steps["taken"]
    assert trainer.callback_metrics["guard/cosine"] < 1e-6


def test_the_loss_scale_does_not_change_the_direction() -> None:
    small, _ = fit(StepGuard(NoChange()), unlearn(), optimizer="momentum", **scaled(1.0))
    large, _ = fit(unlearn(), StepGuard(NoChange()), optimizer="momentum", **scaled(2.0**8))
    for a, b in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)  # fp16 rounds differently at other scales


def test_an_unguarded_step_is_noticed() -> None:
    class Bypassing(Module):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            optimizer_closure()
            optimizer.optimizer.step()

    data = DataLoader(examples(3), batch_size=4)
    with pytest.raises(RuntimeError, match="Every optimizer step should be guarded. Found 12 steps, of which 0 were"):
        fit(StepGuard(retain=data), module=Bypassing("adamw"))


def test_what_cannot_be_guarded_is_refused_by_name() -> None:
    class Manual(Module):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    class Newton(Module):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters())

    data = loader(seed=3)
    with pytest.raises(NotImplementedError, match="should run under automatic optimization.*`Manual`"):
        fit(StepGuard(retain=data), module=Manual())
    with pytest.raises(NotImplementedError, match="Found `LBFGS`"):
        fit(StepGuard(retain=data), module=Newton())
    with pytest.raises(NotImplementedError, match="second moments.*Found `SGD`. Use `geometry=Euclidean"):
        fit(StepGuard(geometry=OptimizerMetric(), retain=data), optimizer="sgd")
    with pytest.raises(ValueError, match="should find what to protect. Found neither `Unlearn`"):
        fit(StepGuard())
    with pytest.raises(ValueError, match="There should be one `StepGuard`.* Found 2. Protect several losses in one"):
        fit(StepGuard(retain=data), StepGuard(NoChange(), retain=loader(seed=4)))
    with pytest.raises(ValueError, match="`scope` should be one of .*Found `scope = 'layer'`"):
        StepGuard(scope="layer")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`storage` should be a `Storage`, such as `Int8.*Found `'int4'`"):
        StepGuard(storage="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`length` should be at least 1.*Found `length = 0`"):
        History(0)


def test_deepspeed_is_refused_by_name() -> None:
    class DeepSpeedStrategy(SingleDeviceStrategy):
        pass

    with pytest.raises(NotImplementedError, match="Found `DeepSpeedStrategy`, which keeps both inside its engine"):
        fit(StepGuard(retain=loader(seed=3)), strategy=DeepSpeedStrategy(device="cpu"))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    "storage",
    [Float32(), *(pytest.param(s, marks=pytest.mark.slow) for s in (BFloat16(), Int8(), MainMemory()))],
    ids=repr,
)
@pytest.mark.parametrize("interrupted_at", [3, 6, 8])
def test_resumed_equals_uninterrupted(interrupted_at: int, storage: Any, own: bool, tmp_path: Path) -> None:
    def run(folder: str, ckpt_path: Path | None = None, **kwargs: Any) -> tuple[Any, StepGuard]:
        source = {} if own else {"retain": loader(seed=5)}
        guard = StepGuard(NoChange(), History(4), storage=storage, **source)
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        forgetting = Unlearn(Bounded(GradientAscent(), bound=4.0))
        trainer = quiet(callbacks=[guard, forgetting, saved], enable_checkpointing=True, max_epochs=2, **kwargs)
        module = Module("adamw")
        data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2), order=CyclicOrder())
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module, guard

    whole, guard = run("whole")
    run("first", max_steps=interrupted_at)
    checkpoint = tmp_path / "first" / f"step={interrupted_at}.ckpt"
    torch.load(checkpoint, weights_only=True)  # tensors and primitives only
    resumed, again = run("second", checkpoint)
    assert same(whole, resumed)
    assert guard._steps == again._steps == {"taken": 12, "transformed": 12, "fallbacks": 0}


def test_looking_at_a_retain_set_leaves_buffers_and_random_generators_alone() -> None:
    class Drawing(Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(self.head.in_features)
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.drop(self.norm(self.body(x))))

    def run(*guards: pl.Callback) -> Module:
        torch.manual_seed(3)
        return fit(unlearn(), *guards, module=Drawing())[0]

    bare, watched = run(), run(StepGuard(Monitor(), History(3), retain=loader(seed=5)))
    assert same(bare, watched)
    assert all(torch.equal(x, y) for x, y in zip(bare.buffers(), watched.buffers(), strict=True))
    assert bare.norm.num_batches_tracked > 0


def test_an_empty_retain_set_is_named() -> None:
    empty = DataLoader(TensorDataset(torch.zeros(0, 3), torch.zeros(0)), batch_size=2)
    with pytest.raises(ValueError, match="The retain set should hold at least one example. Found none"):
        fit(unlearn(), StepGuard(retain=empty))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_network_is_guarded_the_same(backend: str) -> None:
    for retain in (None, loader(seed=5)):
        compiled = Module()
        compiled.body = torch.compile(compiled.body, backend=backend)
        plain, _ = fit(unlearn(), StepGuard(NoChange(), History(3), retain=retain))
        fit(unlearn(), StepGuard(NoChange(), History(3), retain=retain), module=compiled)
        for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


# Uses


@pytest.mark.parametrize("directions", [RetainGradient, MicroBatches, lambda: History(4)])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_ordinary_fine_tuning_leaves_a_retain_set_alone(accumulate: int, directions: Any) -> None:
    """Other labels for the same inputs, all in one batch: fine-tuning raises their loss, a guarded one hardly."""
    inputs, labels = examples(1).tensors
    kept = TensorDataset(inputs[:8], (labels[:8] + 1) % 5)

    @torch.no_grad()
    def loss(module: Any) -> float:
        return float(F.cross_entropy(module(kept.tensors[0]), kept.tensors[1]))

    source = DataLoader(kept, batch_size=8)
    bare, _ = fit(accumulate_grad_batches=accumulate)
    guarded, trainer = fit(StepGuard(NoChange(), directions(), retain=source), accumulate_grad_batches=accumulate)
    start = loss(Module())
    assert loss(bare) > start + 0.05
    assert abs(loss(guarded) - start) < 0.4 * (loss(bare) - start)
    assert trainer.callback_metrics["guard/cosine"] < 1e-6
    assert trainer.callback_metrics["guard/active"] == {RetainGradient: 1, MicroBatches: accumulate}.get(directions, 4)


def test_checks_do_not_disturb_a_guarded_fit() -> None:
    def run(*checks: pl.Callback) -> Any:
        return fit(
            unlearn(), StepGuard(NoIncrease(), History(4), scope="parameter"), *checks, accumulate_grad_batches=2
        )

    attacks = {"int4": Quantize(bits=4), "relearn": Relearn(steps=2, lr=1e-2, mode="full")}
    plain, _ = run()
    checked, _ = run(
        RecoveryCheck(attacks, every_n_steps=1, probes={"retain": loader(seed=1)}, attack_data=loader(seed=2))
    )
    assert same(plain, checked)


@pytest.mark.parametrize("storage", [Float32(), BFloat16(), Int8(), MainMemory()], ids=repr)
def test_storage_costs_at_most_its_rounding(storage: Any) -> None:
    outside = Outside()
    fit(unlearn(), StepGuard(NoChange(), storage=storage), outside)
    assert max(outside.breaches("NoChange", "global")) <= {BFloat16: 1e-3, Int8: 1e-2}.get(type(storage), 1e-6)


def test_bf16_weights_are_warned_about_with_what_was_measured() -> None:
    with pytest.warns(UserWarning, match=r"Found a cosine of \d.*with a protected gradient.*bfloat16"):
        fit(unlearn(), StepGuard(NoChange()), optimizer="sgd", precision="bf16-true")


def test_a_step_that_is_not_finite_is_undone_and_counted() -> None:
    class Broken(Module):
        """The fourth step is infinite; the state of the optimizer is not."""

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=1e-2)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: float("inf") if n == 3 else 1.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    outside = Outside()
    guard = StepGuard(NoIncrease(), History(4))
    module, trainer = fit(unlearn(), guard, outside, module=Broken())
    assert all(p.isfinite().all() for p in module.parameters())
    assert not any(c.any() for c in outside.changes[3])
    assert all(any(c.any() for c in change) for i, change in enumerate(outside.changes) if i != 3)
    assert trainer.callback_metrics["guard/fallbacks"] == 1


def test_a_parameter_without_a_learning_rate_stays() -> None:
    class Partly(Module):
        def configure_optimizers(self) -> Any:
            groups = [{"params": self.body.parameters(), "lr": 0.0}, {"params": self.head.parameters()}]
            return torch.optim.SGD(groups, lr=1e-2)

    module, trainer = fit(unlearn(), StepGuard(NoChange()), module=Partly())
    assert same(module.body, Module().body)
    assert not same(module.head, Module().head)
    assert trainer.callback_metrics["guard/cosine"] < 1e-6


class OwnRate(Module):
    """Without a schedule the learning rate is `None`; with this one it is 0 before the first step."""

    def __init__(self, scheduled: bool) -> None:
        super().__init__()
        self.scheduled = scheduled

    def configure_optimizers(self) -> Any:
        optimizer = Adafactor(self.parameters(), relative_step=True, warmup_init=False)
        if not self.scheduled:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": AdafactorSchedule(optimizer), "interval": "step"}}


@pytest.mark.parametrize("scheduled", [False, True])
def test_an_optimizer_that_finds_its_own_learning_rate_is_guarded_from_the_first_step_on(scheduled: bool) -> None:
    outside, seen = Outside(), Seen()
    fit(outside, unlearn(), StepGuard(NoChange()), seen, module=OwnRate(scheduled))
    assert all(any(c.any() for c in change) for change in outside.changes)
    assert max(outside.breaches("NoChange", "global")) < 1e-6
    assert seen.logged[-1]["guard/fallbacks"] == 0
    for monitored in (GroupSparse(), OscillationMonitor(power_steps=1)):
        with pytest.raises(
            NotImplementedError, match="should find the learning rate of the optimizer. Found one that it"
        ):
            fit(monitored, module=OwnRate(scheduled))


def test_a_warm_up_from_zero_is_no_fallback() -> None:
    class WarmedUp(Module):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=3e-2)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 3, 1.0))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    outside, seen = Outside(), Seen()
    fit(outside, unlearn(), StepGuard(NoChange(), History(3)), seen, module=WarmedUp())
    assert not any(c.any() for c in outside.changes[0])
    assert seen.logged[0] == {f"guard/{n}": v for n, v in STILL.items()}
    assert seen.logged[-1]["guard/fallbacks"] == 0
    assert max(outside.breaches("NoChange", "global")) < 1e-6


STILL = {"active": 0.0, "kept": 1.0, "cosine": 0.0, "retain_before": 0.0, "retain_after": 0.0, "fallbacks": 0.0}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_adapters_are_guarded() -> None:
    network = family("llama", lora=True)
    module = UnlearningModule(network, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    guard = StepGuard(NoChange(), scope="parameter")
    callbacks = [Unlearn(GradientAscent(), forget=language(0)), guard]
    trainer = quiet(callbacks=callbacks, max_steps=4)
    base = frozen(network)
    trainer.fit(module, language(1))
    assert guard._steps == {"taken": 4, "transformed": 4, "fallbacks": 0}
    assert trainer.callback_metrics["guard/cosine"] < 1e-6
    assert len(base) > 10
    assert all(torch.equal(a, b) for a, b in zip(base, frozen(network), strict=True))


@pytest.mark.parametrize("name", ["AdamW", "AdamW8bit", "Adam8bit"])
def test_the_moments_of_bitsandbytes_are_read(name: str) -> None:
    bnb = pytest.importorskip("bitsandbytes", reason="its optimizers are what is read")

    class Large(pl.LightningModule):
        """Tensors under 4096 elements are not kept in eight bits."""

        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.net = torch.nn.Sequential(torch.nn.Linear(8, 600), torch.nn.Tanh(), torch.nn.Linear(600, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return getattr(bnb.optim, name)(self.parameters(), lr=1e-2)

    outside = Outside()
    module, trainer = fit(unlearn(), StepGuard(NoChange(), geometry=OptimizerMetric()), outside, module=Large())
    assert max(outside.breaches("NoChange", "global")) <= 1e-6
    weight = module.net[0].weight
    optimizer = trainer.optimizers[0]
    assert (optimizer.state[weight]["state2"].dtype == torch.uint8) == name.endswith("8bit")
    metric = OptimizerMetric().inverse_metric(optimizer, weight, optimizer.param_groups[0])
    assert metric.shape == weight.shape
    assert 0.05 < float(metric.median()) < 50
