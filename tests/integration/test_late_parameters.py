"""Parameters that are unfrozen or added during a fit are merged, guarded, and known to the original from then on."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _guarded_fits import Outside
from _language_models import adapted, batch, family
from _modules import CLASSES, examples, loader, quiet, same
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning, ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    AdapterDisabled,
    Bounded,
    ClassificationReadout,
    CyclicOrder,
    ForgetRetainData,
    FrozenCopy,
    GradientAscent,
    GroupSparse,
    KLToReference,
    Quantize,
    RecoveryCheck,
    Relearn,
    SpectralCollapse,
    StepGuard,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.guards import History, Int8, MicroBatches, Monitor, NoChange, NoIncrease, PerExample
from lightning_unlearn.transforms import GradientTransform

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]


class Lit(pl.LightningModule):
    """A backbone and a head, as fine-tuning callbacks expect; the optimizer gets what is trainable at first, or all."""

    def __init__(self, given: str = "trainable", optimizer: str = "adamw") -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.backbone = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU())
            self.head = nn.Linear(16, CLASSES)
        self.given, self.optimizer = given, optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        params = [p for p in self.parameters() if p.requires_grad or self.given == "all"]
        if self.optimizer == "still":
            return torch.optim.SGD(params, lr=0.0)
        return torch.optim.AdamW(params, lr=3e-2)


class Unfreezing(BaseFinetuning):
    """From its second epoch on, or from some step on; by a new group, or by the flag alone. Also after a resume."""

    def __init__(self, step: int | None = None) -> None:
        super().__init__()
        self.step = step

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if self.step is None and epoch >= 1:
            self.unfreeze(pl_module, optimizer)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if self.step is not None and trainer.global_step >= self.step:
            self.unfreeze(module, trainer.optimizers[0])

    def unfreeze(self, module: Any, optimizer: Any) -> None:
        self.make_trainable(module.backbone)
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if added := [p for p in module.backbone.parameters() if id(p) not in known]:
            optimizer.add_param_group({"params": added})


class Trained(Outside):
    """The oracle: gradients by plain autograd, of what is trainable then."""

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        params = list(module.parameters())
        rows = []
        for x, y in self._batches:
            trained = [p for p in params if p.requires_grad]
            found = torch.autograd.grad(F.cross_entropy(module(x), y) / trainer.accumulate_grad_batches, trained)
            by_id = {id(p): g.double() for p, g in zip(trained, found, strict=True)}
            rows.append([by_id.get(id(p), torch.zeros_like(p, dtype=torch.float64)) for p in params])
        self.gradients.append(rows)
        self._batches = []


def forgetting(**kwargs: Any) -> Unlearn:
    return Unlearn(Bounded(GradientAscent(), bound=4.0), forget=loader(seed=2), weight=3.0, **kwargs)


def fit(*callbacks: pl.Callback, module: Any = None, ckpt_path: Any = None, **kwargs: Any) -> tuple[Any, pl.Trainer]:
    module = Lit() if module is None else module
    trainer = quiet(callbacks=list(callbacks), **{"max_epochs": 3, **kwargs})
    trainer.fit(module, loader(seed=1), ckpt_path=ckpt_path)
    return module, trainer


LATE: dict[str, Any] = {
    "lightning's own": lambda: (BackboneFinetuning(unfreeze_backbone_at_epoch=1, verbose=False), Lit()),
    "at an epoch": lambda: (Unfreezing(), Lit()),
    "in an epoch": lambda: (Unfreezing(step=4), Lit()),
    "by the flag": lambda: (Unfreezing(step=4), Lit("all")),
}
SLOW = {"at an epoch", "by the flag"}
ALL_LATE = pytest.mark.parametrize(
    "late", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in LATE]
)
GUARDS: dict[str, Any] = {
    "gradient": ({}, "global", 1),
    "history": ({"directions": History(4)}, "global", 4),
    "by parameter": ({"directions": History(4), "scope": "parameter"}, "parameter", 4),
}


@pytest.mark.parametrize(
    ("guarded", "first"), [("gradient", True), ("history", True), ("history", False), ("by parameter", False)]
)
@ALL_LATE
def test_no_protected_loss_rises_by_what_is_unfrozen(late: str, guarded: str, first: bool) -> None:
    settings, scope, length = GUARDS[guarded]
    unfreezing, module = LATE[late]()
    seen, ours = Trained(), [forgetting(), StepGuard(NoIncrease(), **settings)]
    fit(seen, *([unfreezing, *ours] if first else [*ours, unfreezing]), module=module)
    assert max(seen.breaches("NoIncrease", scope, length)) < 1e-6

    unfreezing, module = LATE[late]()
    bare = Trained()
    fit(bare, unfreezing, forgetting(), module=module)
    own = [n for n, (name, _) in enumerate(module.named_parameters()) if name.startswith("backbone")]
    steps = [step for step, change in enumerate(bare.changes) if any(change[n].any() for n in own)]
    assert len(steps) in (12, 14)
    rises = [sum(float((bare.gradients[s][0][n] * bare.changes[s][n]).sum()) for n in own) for s in steps]
    assert max(rises) > 1e-3  # of the late parameters alone


@pytest.mark.parametrize(
    "settings",
    [{"directions": MicroBatches()}, {"directions": PerExample()}, {"storage": Int8()}, {"retain": loader(seed=1)}],
    ids=["micro-batches", "examples", "int8", "a retain set"],
)
@pytest.mark.parametrize("late", ["lightning's own", "in an epoch"])
def test_every_kind_of_direction_covers_them(late: str, settings: Any) -> None:
    (unfreezing, module), guard = LATE[late](), StepGuard(NoChange(), **settings)
    seen = Trained()
    fit(seen, unfreezing, forgetting(), guard, module=module, accumulate_grad_batches=2)
    tolerance = 1e-2 if "storage" in settings else 1e-6
    if "retain" not in settings:  # that guard looks in evaluation mode at batches of its own
        assert max(seen.breaches("NoChange", "global")) < tolerance
    assert guard._steps["fallbacks"] == 0
    assert guard._steps["transformed"] == 9
    assert len(guard._params) == len(list(module.parameters()))


@ALL_LATE
def test_the_history_has_one_row_a_step_and_nothing_where_nothing_was_trained(late: str) -> None:
    (unfreezing, module), guard, seen = LATE[late](), StepGuard(Monitor(), History(12)), Trained()
    fit(seen, unfreezing, guard, forgetting(), module=module, max_epochs=2)
    rows = guard.directions.protected([])
    assert len(rows) == 11
    place = {id(p): n for n, p in enumerate(module.parameters())}
    for row, (gradient,) in zip(
        rows, seen.gradients[:0:-1], strict=True
    ):  # the newest first; the first has dropped out
        for p, found in zip(guard._params, row, strict=True):
            expected = gradient[place[id(p)]]
            assert (found is None) == (not expected.any())
            if found is not None:
                assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)


@ALL_LATE
def test_the_forget_gradient_reaches_them(late: str) -> None:
    def moved(weight: float) -> Tensor:
        unfreezing, module = LATE[late]()
        fit(unfreezing, Unlearn(GradientAscent(), forget=loader(seed=2), weight=weight), module=module, max_epochs=2)
        return torch.cat([p.detach().flatten() for p in module.backbone.parameters()])

    start = torch.cat([p.detach().flatten() for p in Lit().backbone.parameters()])
    assert (moved(1.0) - moved(1e-30)).norm() > 0.3 * (moved(1e-30) - start).norm()


@ALL_LATE
def test_their_forget_gradient_is_transformed(late: str) -> None:
    class Longest(GradientTransform):
        """The largest singular value of each matrix, from step to step."""

        def __init__(self) -> None:
            self.found: dict[int, list[float]] = {}

        def of(self, gradient: Tensor, param: Tensor) -> Tensor:
            if param.dim() == 2:
                self.found.setdefault(id(param), []).append(float(torch.linalg.svdvals(gradient)[0]))
            return gradient

    unfreezing, module = LATE[late]()
    before, collapse, after = Longest(), SpectralCollapse(q=1, pattern=["backbone", "head"]), Longest()
    transforms = [before, collapse, after]
    fit(unfreezing, Unlearn(GradientAscent(), forget=loader(seed=2), transforms=transforms), module=module)
    weight = id(module.backbone[0].weight)
    assert len(before.found) == 2
    assert len(before.found[weight]) in (12, 14)
    assert all(b > a for key in before.found for b, a in zip(before.found[key], after.found[key], strict=True))


@ALL_LATE
def test_their_groups_are_shrunk(late: str) -> None:
    unfreezing, module = LATE[late]()
    fit(GroupSparse(alpha=1e6), unfreezing, module=module, max_epochs=2)
    assert not any(p.any() for p in module.parameters())


@pytest.mark.parametrize("first", [True, False], ids=["unfrozen before us", "after us"])
@pytest.mark.parametrize("step", [None, 4], ids=["at an epoch", "in an epoch"])
def test_an_optimizer_of_its_own_takes_them_in(step: int | None, first: bool) -> None:
    """The fit itself stands still: all that moves is moved by the forget optimizer, and guarded."""
    unlearn = forgetting(optimizer=lambda params: torch.optim.AdamW(params, lr=3e-2))
    seen, module, ours = Trained(), Lit(optimizer="still"), [unlearn, StepGuard(NoChange(), History(3))]
    late = Unfreezing(step)
    fit(seen, *([late, *ours] if first else [*ours, late]), module=module)
    assert not any(torch.equal(a, b) for a, b in zip(module.parameters(), Lit().parameters(), strict=True))
    assert max(seen.breaches("NoChange", "global", 3)) < 1e-6
    assert unlearn._steps == {"merged": 18, "taken": 18}


def test_a_group_with_settings_of_its_own_is_joined_last() -> None:
    def groups(params: list[Tensor]) -> Any:
        return torch.optim.SGD([{"params": params[:1], "lr": 1e-1}, {"params": params[1:], "lr": 1e-2}])

    unlearn = forgetting(optimizer=groups)
    fit(Unfreezing(), unlearn, StepGuard(), module=Lit())
    assert [len(g["params"]) for g in unlearn.forget_optimizer.param_groups] == [1, 5]


def original(x: Tensor) -> Tensor:
    with torch.no_grad():
        return Lit()(x)


@ALL_LATE
def test_a_frozen_copy_has_what_is_unfrozen_before_its_first_step(late: str) -> None:
    (unfreezing, module), unlearn = (
        LATE[late](),
        Unlearn(KLToReference(), reference=FrozenCopy(), forget=loader(seed=2)),
    )
    fit(unfreezing, unlearn, module=module)
    x, y = examples(2).tensors
    assert_close(unlearn.reference(ClassificationReadout(), (x, y)).logits, original(x), rtol=0, atol=1e-6)
    with torch.no_grad():
        assert (module(x) - original(x)).abs().max() > 0.1


RESUMED: dict[str, Any] = {
    # Lightning restores added groups only if they were there at the start of an epoch.
    "a group": (lambda: (Unfreezing(), Lit()), {"every_n_epochs": 1, "save_on_train_epoch_end": True}, [6, 12]),
    "a flag": (lambda: (Unfreezing(step=4), Lit("all")), {"every_n_train_steps": 1}, [3, 9]),
}


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["unfrozen before us", "after us"])
@pytest.mark.parametrize(
    ("own", "reference"),
    [(False, FrozenCopy), (False, None), (True, FrozenCopy)],
    ids=["copy", "default", "own optimizer"],
)
@pytest.mark.parametrize("kind", RESUMED)
def test_a_resumed_fit_knows_their_original_too(
    kind: str, own: bool, reference: Any, first: bool, tmp_path: Path
) -> None:
    make, when, interruptions = RESUMED[kind]

    def run(ckpt_path: Any = None) -> Any:
        optimizer = (lambda params: torch.optim.AdamW(params, lr=1e-2)) if own else None
        given = None if reference is None else reference()
        unlearn = Unlearn(KLToReference(), weight=2.0, optimizer=optimizer, reference=given)
        saved = ModelCheckpoint(
            tmp_path / ("whole" if ckpt_path is None else ckpt_path.stem), save_top_k=-1, filename="{step}", **when
        )
        unfreezing, module = make()
        callbacks = [unfreezing, unlearn] if first else [unlearn, unfreezing]
        trainer = quiet(callbacks=[*callbacks, StepGuard(), saved], enable_checkpointing=True, max_epochs=3)
        data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2), order=CyclicOrder())
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module

    whole = run()
    for step in interruptions:
        torch.load(tmp_path / "whole" / f"step={step}.ckpt", weights_only=True)  # tensors and primitives only
        assert same(whole, run(tmp_path / "whole" / f"step={step}.ckpt"))


class Adapted(Lit):
    """Gets a new layer that does nothing yet."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.backbone(x)
        return self.head(hidden + self.extra(hidden) if hasattr(self, "extra") else hidden)


class Adding(pl.Callback):
    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 1:
            module.extra = nn.Linear(16, 16)
            nn.init.zeros_(module.extra.weight), nn.init.zeros_(module.extra.bias)
            trainer.optimizers[0].add_param_group({"params": list(module.extra.parameters())})


def test_layers_that_are_added_count_as_they_were_added() -> None:
    seen, module, guard = Grown(), Adapted(), StepGuard(NoChange(), scope="module")
    unlearn = Unlearn(KLToReference(), reference=FrozenCopy(), forget=loader(seed=2), weight=3.0)
    fit(Adding(), seen, unlearn, guard, module=module)
    x, y = examples(2).tensors
    assert module.extra.weight.abs().max() > 1e-2
    assert_close(unlearn.reference(ClassificationReadout(), (x, y)).logits, original(x), rtol=0, atol=1e-6)
    assert len(guard._params) == 8
    assert max(seen.cosines) < 1e-6


class Grown(pl.Callback):
    """How far steps go along the retain gradient, in the added layer."""

    def __init__(self) -> None:
        self.cosines: list[float] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.held = None
        if hasattr(module, "extra"):
            weight, bias = module.extra.weight, module.extra.bias
            found = torch.autograd.grad(F.cross_entropy(module(batch[0]), batch[1]), [weight, bias])
            self.held = [p.detach().clone() for p in (weight, bias)], [g.double() for g in found]

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        if self.held is not None:
            now = [module.extra.weight, module.extra.bias]
            change = torch.cat([(p.detach() - b).double().flatten() for p, b in zip(now, self.held[0], strict=True)])
            gradient = torch.cat([g.flatten() for g in self.held[1]])
            self.cosines.append(abs(float(change @ gradient / (change.norm() * gradient.norm()).clamp_min(1e-30))))


def test_a_parameter_that_changes_its_shape_is_named() -> None:
    class Replacing(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 1:
                module.head.weight, module.head.bias = nn.Parameter(torch.zeros(7, 16)), nn.Parameter(torch.zeros(7))

    with pytest.raises(ValueError, match=r"`head.weight` should stay a tensor of shape \(5, 16\).*was replaced"):
        fit(Replacing(), Unlearn(KLToReference(), reference=FrozenCopy(), forget=loader(seed=2)))


def test_a_base_that_is_unfrozen_under_an_adapter_is_not_the_original_any_more() -> None:
    class Thawing(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                for name, p in module.named_parameters():
                    p.requires_grad_(p.requires_grad or "input_layernorm" in name)

    module = UnlearningModule(adapted(family("llama")))
    unlearn = Unlearn(NPO(), forget=DataLoader([batch()], batch_size=None))
    other = DataLoader([{**batch(), "input_ids": 22 - batch()["input_ids"]}] * 3, batch_size=None)
    with pytest.raises(ValueError, match="should find a frozen base in every step. Found 2 trained parameters outside"):
        quiet(callbacks=[Thawing(), unlearn]).fit(module, other)
    assert isinstance(unlearn._original.loss.reference, AdapterDisabled)


@ALL_LATE
def test_checks_leave_such_a_fit_alone_and_attack_all_of_it(late: str) -> None:
    unfreezing, module = LATE[late]()
    bare, _ = fit(unfreezing, forgetting(), module=module)
    unfreezing, module = LATE[late]()
    attacks = {"relearn": Relearn(steps=2, lr=1e-2, mode="full"), "int4": Quantize(bits=4)}
    check = RecoveryCheck(attacks, probes={"forget": loader(seed=2), "retain": loader(seed=1)})
    checked, _ = fit(unfreezing, forgetting(), check, module=module)
    assert same(bare, checked)
    assert check.restored


# Neighbours


def test_parameters_outside_the_optimizer_get_no_forget_gradient() -> None:
    """Whoever reads their `.grad` finds what their own loss has put there."""

    class Partly(Lit):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.head.parameters(), lr=1e-2)

    bare, beside = Partly(), Partly()
    fit(module=bare)
    fit(Unlearn(GradientAscent(), forget=loader(seed=2), weight=1e-30), StepGuard(Monitor()), module=beside)
    assert same(bare, beside)
    for a, b in zip(bare.backbone.parameters(), beside.backbone.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("own", [False, True], ids=["merged", "own optimizer"])
def test_frozen_parameters_among_several_groups_stay_and_the_others_are_guarded(own: bool) -> None:
    class Groups(Lit):
        def configure_optimizers(self) -> Any:
            self.backbone[0].weight.requires_grad_(False)
            self.head.bias.requires_grad_(False)
            lr = 0.0 if own else 1e-2
            return torch.optim.SGD(
                [{"params": self.head.parameters(), "lr": lr}, {"params": self.backbone.parameters(), "lr": lr / 2}]
            )

    seen, module = Trained(), Groups()
    optimizer = (lambda params: torch.optim.AdamW(params, lr=1e-2)) if own else None
    fit(seen, forgetting(optimizer=optimizer), StepGuard(NoChange(), History(3)), module=module)
    stays = {n for (n, p), q in zip(module.named_parameters(), Lit().parameters(), strict=True) if torch.equal(p, q)}
    assert stays == {"backbone.0.weight", "head.bias"}
    assert max(seen.breaches("NoChange", "global", 3)) < 1e-6


def test_shared_parameters_are_copied_and_swapped_once() -> None:
    class Tied(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.twin = nn.Linear(8, 16)
            self.twin.weight = self.backbone[0].weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.backbone(x) + self.twin(x))

    module = Tied()
    start = copy.deepcopy(module)
    unlearn = Unlearn(NPO(beta=0.5), reference=FrozenCopy(), forget=loader(seed=2))
    losses: list[float] = []
    take = unlearn.forget_loss
    unlearn.forget_loss = lambda b: losses.append((loss := take(b)).item()) or loss
    fit(Unfreezing(), unlearn, StepGuard(), module=module)
    x, y = examples(2).tensors
    with torch.no_grad():
        assert_close(unlearn.reference(ClassificationReadout(), (x, y)).logits, start(x), rtol=0, atol=1e-6)
    assert losses[0] == pytest.approx(4 * math.log(2), abs=1e-5)
    assert module.twin.weight is module.backbone[0].weight
