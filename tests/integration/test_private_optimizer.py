"""`Unlearn(optimizer=...)`: the user's optimizer never sees a forget gradient, and another steps along it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _language_models import family, frozen, language
from _modules import SomebodysModule, examples, loader, quiet, same
from _private_optimizers import OWN, AfterUsersStep, Fused, states
from _scaled import scaled
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    Bounded,
    CrossEntropy,
    CyclicOrder,
    ForgetRetainData,
    GradientAscent,
    Objective,
    Orthogonal,
    Quantize,
    RecoveryCheck,
    Relearn,
    Unlearn,
    UnlearningModule,
    unlearning,
)
from lightning_unlearn.data import ForgetStream

BOUND = 3.0


def unlearn(own: str | None = "momentum", **kwargs: Any) -> Unlearn:
    given: dict[str, Any] = {"objective": Bounded(GradientAscent(), bound=BOUND), "forget": loader(seed=2, n=10)}
    return Unlearn(**{**given, "optimizer": OWN[own] if own else None, **kwargs})


def fit(*callbacks: pl.Callback, optimizer: str = "adamw", module: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    module = SomebodysModule(optimizer) if module is None else module
    trainer = quiet(callbacks=list(callbacks), **kwargs)
    trainer.fit(module, loader(seed=1))
    return module, trainer


# Equal to a loop with two optimizers


def hand_written(module: SomebodysModule, own: str, weight: float, accumulate: int, clip: float | None) -> Any:
    """No Lightning: two losses, two gradients, two optimizers, one after the other."""
    setup = module.configure_optimizers()
    theirs, scheduler = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    params = [p for group in theirs.param_groups for p in group["params"]]
    forgetting = OWN[own](params)
    stream = ForgetStream(loader(seed=2, n=10), seed=5)
    batches = list(loader(seed=1))
    retain, forget = zeros(params), zeros(params)
    for number, (x, y) in enumerate(batches, start=1):
        add_(retain, F.cross_entropy(module(x), y) / accumulate, params)
        x, y = next(stream)
        add_(forget, weight * torch.relu(BOUND - F.cross_entropy(module(x), y)) / accumulate, params)
        if number % accumulate and number != len(batches):
            continue
        for optimizer, gradients in ((theirs, retain), (forgetting, forget)):
            for p, g in zip(params, gradients, strict=True):
                p.grad = g if g.any() else None
            if optimizer is theirs and clip is not None:
                torch.nn.utils.clip_grad_norm_(params, clip)
            optimizer.step()
        retain, forget = zeros(params), zeros(params)
        scheduler.step()
    return module, theirs, forgetting


def zeros(params: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(p) for p in params]


def add_(total: list[Tensor], loss: Tensor, params: list[Tensor]) -> None:
    for t, g in zip(total, torch.autograd.grad(loss, params, allow_unused=True), strict=True):
        if g is not None:
            t += g


@pytest.mark.parametrize("own", ["momentum", "adamw"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (3, None), (1, 0.05), (4, 0.05)])
def test_same_weights_and_states_as_by_hand(optimizer: str, own: str, accumulate: int, clip: float | None) -> None:
    expected, theirs, forgetting = hand_written(SomebodysModule(optimizer), own, 2.0, accumulate, clip)
    callback = unlearn(own, weight=2.0, seed=5)
    module, trainer = fit(callback, optimizer=optimizer, accumulate_grad_batches=accumulate, gradient_clip_val=clip)
    for parameter, by_hand in zip(module.parameters(), expected.parameters(), strict=True):
        assert_close(parameter, by_hand, rtol=0, atol=1e-6)
    for ours, by_hand in ((trainer.optimizers[0], theirs), (callback.forget_optimizer, forgetting)):
        found, wanted = states(ours), states(by_hand)
        assert len(found) == len(wanted) > 0
        for a, b in zip(found, wanted, strict=True):
            assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_users_first_step_is_that_of_the_fit_without_us_to_the_bit(
    optimizer: str, clip: float | None, accumulate: int
) -> None:
    """Its weights, its optimizer's state and its `.grad`, whatever is forgotten; and merged, it is not."""

    def first(*callbacks: pl.Callback) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        seen, kwargs = AfterUsersStep(), {"gradient_clip_val": clip, "accumulate_grad_batches": accumulate}
        module, trainer = fit(seen, *callbacks, optimizer=optimizer, max_steps=1, **kwargs)
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        return seen.weights[0], states(trainer.optimizers[0]), gradients

    alone, apart, merged = first(), first(unlearn(weight=3.0)), first(unlearn(None, weight=3.0))
    for expected, found, other in zip(alone, apart, merged, strict=True):
        assert len(expected) == len(found) > 3
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(expected, other, strict=True))


def test_clipping_leaves_the_forget_step_alone() -> None:
    """However short the user's step is made, the other one's is what it was."""

    def forgotten(clip: float | None) -> list[Tensor]:
        seen = AfterUsersStep()
        module, _ = fit(seen, unlearn("plain"), optimizer="sgd", max_steps=1, gradient_clip_val=clip)
        return [p.detach() - w for p, w in zip(module.parameters(), seen.weights[0], strict=True)]

    for a, b in zip(forgotten(None), forgotten(1e-4), strict=True):
        assert_close(a, b, rtol=0, atol=1e-7)
    assert max(d.abs().max() for d in forgotten(1e-4)) > 1e-3


def test_what_forgetting_does_not_use_is_not_decayed() -> None:
    module, _ = fit(unlearn("adamw"))
    assert_close(module.unused, torch.ones(3), rtol=0, atol=0)


def test_gradients_that_are_zeroed_in_place() -> None:
    class InPlace(SomebodysModule):
        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            optimizer.zero_grad(set_to_none=False)

    assert same(fit(unlearn(), module=InPlace())[0], fit(unlearn())[0])


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_adapters_alone_are_moved() -> None:
    network = family("llama", lora=True)
    module = UnlearningModule(network, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    callback = unlearn("adamw", forget=language(0))
    base = frozen(network)
    quiet(callbacks=[callback], max_steps=4).fit(module, language(1))
    assert len(base) > 10
    assert all(torch.equal(a, b) for a, b in zip(base, frozen(network), strict=True))
    assert len(callback.forget_optimizer.state) == sum(p.requires_grad for p in network.parameters()) > 0
    assert callback._steps == {"merged": 4, "taken": 4}


def test_what_is_unfrozen_later_is_moved_then() -> None:
    class Unfreezing(SomebodysModule):
        def __init__(self) -> None:
            super().__init__("sgd")
            self.head.requires_grad_(False)
            self.moved: list[bool] = []

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.moved.append(not torch.equal(self.head.weight, SomebodysModule().head.weight))
            self.head.requires_grad_(batch_idx >= 3)

    seen = AfterUsersStep()
    module, _ = fit(seen, unlearn(), module=Unfreezing())
    assert module.moved == [False, False, False, False, True, True]
    *_, weight, _bias = seen.weights[-1]
    assert not torch.equal(module.head.weight, weight)  # by the forget step too


# What is logged and counted


def test_norms_cosine_and_losses_are_those_of_merging_and_the_weight_is_in_none() -> None:
    class Seen(pl.Callback):
        def __init__(self) -> None:
            self.logged: list[dict[str, float]] = []

        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("unlearn/")})

    apart, merged = Seen(), Seen()
    fit(unlearn(weight=3.0), apart)
    fit(unlearn(None, weight=3.0), merged)
    assert len(apart.logged) == 6
    assert set(apart.logged[0]) == set(merged.logged[0]) > {"unlearn/cosine", "unlearn/realised"}
    assert apart.logged[0] == pytest.approx(merged.logged[0], rel=1e-4)
    assert all(logged["unlearn/realised"] == pytest.approx(1.0, abs=1e-4) for logged in apart.logged)


@pytest.mark.filterwarnings("ignore:.*bf16.*")
def test_it_is_the_forget_step_that_is_said_to_be_swallowed() -> None:
    callback = unlearn(optimizer=lambda params: torch.optim.SGD(params, lr=1e-5))
    with pytest.warns(UserWarning, match="their precision swallows small steps"):
        _, trainer = fit(callback, optimizer="sgd", precision="bf16-true")
    assert trainer.callback_metrics["unlearn/realised"] < 0.5


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("module_class", [SomebodysModule, Fused])
def test_a_step_that_a_scaler_skips_is_skipped_by_both(module_class: Any) -> None:
    callback = unlearn("adamw")
    module, trainer = fit(callback, module=module_class(), **scaled(2.0**20))
    taken = callback._steps["taken"]
    assert callback._steps["merged"] == taken
    assert 0 < taken < trainer.global_step == 6
    for optimizer in (trainer.optimizers[0], callback.forget_optimizer):
        assert {float(state["step"]) for state in optimizer.state.values()} == {taken}
    assert all(p.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("module_class", [SomebodysModule, Fused])
def test_the_loss_scale_does_not_change_what_is_forgotten(module_class: Any) -> None:
    small, _ = fit(unlearn(), module=module_class(), **scaled(1.0))
    large, _ = fit(unlearn(), module=module_class(), **scaled(2.0**8))
    for a, b in zip(small.parameters(), large.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=2e-3)


def test_bf16_mixed_is_near_full_precision() -> None:
    full, _ = fit(unlearn(), optimizer="sgd")
    mixed, _ = fit(unlearn(), optimizer="sgd", precision="bf16-mixed")
    for a, b in zip(full.parameters(), mixed.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=2e-2)


def test_steps_without_a_forget_step_are_noticed() -> None:
    class Bypassing(SomebodysModule):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer_closure()
            getattr(optimizer, "_optimizer", optimizer).step()

    with pytest.raises(RuntimeError, match="Found 6 steps, of which 0 did"):
        fit(unlearn(), module=Bypassing())


# Beside others


class Both(Objective):
    def forward(self, student: Any, reference: Any = None) -> Tensor:
        return Bounded(GradientAscent(), bound=BOUND)(student) + 0.5 * CrossEntropy()(student)


def test_two_of_them_step_one_after_the_other() -> None:
    """Under plain SGD that is one step along the sum; each gradient is taken at the weights before all of them."""
    together, _ = fit(unlearn("plain", objective=Both()))
    callbacks = [unlearn("plain"), unlearn("plain", objective=CrossEntropy(), weight=0.5)]
    apart, _ = fit(*callbacks)
    for a, b in zip(together.parameters(), apart.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=1e-6)
    assert all(c._steps == {"merged": 6, "taken": 6} for c in callbacks)


@pytest.mark.parametrize("order", [1, -1])
def test_one_that_merges_may_stand_beside_it(order: int) -> None:
    callbacks = [unlearn("plain"), unlearn(None, objective=NPO())]
    module, _ = fit(*callbacks[::order])
    assert all(c._steps == {"merged": 6, "taken": 6} for c in callbacks)
    assert all(not same(module, fit(other)[0]) for other in callbacks)


def test_checks_do_not_disturb_it() -> None:
    attacks = {"int4": Quantize(bits=4), "relearn": Relearn(steps=2, lr=1e-2, mode="full")}
    check = RecoveryCheck(attacks, every_n_steps=1, probes={"retain": loader(seed=1)}, attack_data=loader(seed=2))
    plain, _ = fit(unlearn(), accumulate_grad_batches=2)
    checked, _ = fit(unlearn(), check, accumulate_grad_batches=2)
    assert same(plain, checked)


def test_a_module_can_bring_it_along() -> None:
    own, forget = OWN["momentum"], loader(seed=2, n=10)
    brought = unlearning(SomebodysModule(), Bounded(GradientAscent(), bound=BOUND), forget, optimizer=own)
    assert same(fit(module=brought)[0], fit(unlearn())[0])


# Checkpoints


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("interrupted_at", [3, 6, 8])
def test_resumed_equals_uninterrupted(interrupted_at: int, own: str, tmp_path: Path) -> None:
    def run(folder: str, ckpt_path: Path | None = None, **kwargs: Any) -> tuple[Any, Unlearn]:
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        callback = Unlearn(Bounded(GradientAscent(), bound=BOUND), optimizer=OWN[own])
        trainer = quiet(callbacks=[callback, saved], enable_checkpointing=True, max_epochs=2, **kwargs)
        module = SomebodysModule("adamw")
        data = ForgetRetainData(
            retain=DataLoader(examples(1, n=24), batch_size=4),
            forget=DataLoader(examples(2, n=10), batch_size=3),
            order=CyclicOrder(),
        )
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module, callback

    whole, callback = run("whole")
    run("first", max_steps=interrupted_at)
    path = tmp_path / "first" / f"step={interrupted_at}.ckpt"
    checkpoint = torch.load(path, weights_only=True)  # tensors and primitives only
    resumed, again = run("second", path)
    assert same(whole, resumed)
    assert callback._steps == again._steps == {"merged": 12, "taken": 12}
    found, expected = states(again.forget_optimizer), states(callback.forget_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    if own == "plain":
        return  # which has no state
    (state,) = [v for k, v in checkpoint["callbacks"].items() if k.startswith("Unlearn")]
    state["optimizer"] = {}
    torch.save(checkpoint, path)
    assert not same(whole, run("third", path)[0])  # it matters: the test above could fail


# What is refused


def test_a_projector_has_nothing_to_merge() -> None:
    with pytest.raises(ValueError, match=r"two gradients to merge.*`projector = Orthogonal.*Leave out one"):
        unlearn(projector=Orthogonal())


def test_an_optimizer_of_parameters_that_are_not_there_yet() -> None:
    made = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    for wrong, found in ((made, "SGD"), ("SGD", "str")):
        with pytest.raises(TypeError, match=f"`optimizer` should make an optimizer from parameters.*Found `{found}`"):
            unlearn(optimizer=wrong)


def test_what_is_made_is_no_optimizer_to_step_with() -> None:
    with pytest.raises(TypeError, match=r"should make an optimizer from parameters.*It made `\[Parameter"):
        fit(unlearn(optimizer=list))
    with pytest.raises(
        NotImplementedError, match=r"`Unlearn\(optimizer=...\)` should take one gradient.*Found `LBFGS`"
    ):
        fit(unlearn(optimizer=torch.optim.LBFGS))


def test_several_optimizers_of_the_user_are_refused_by_lightning_itself() -> None:
    class Two(SomebodysModule):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), lr=1e-2) for part in (self.body, self.head)]

    with pytest.raises(RuntimeError, match="multiple optimizers is only supported with manual optimization"):
        fit(unlearn(), module=Two())


def test_parameters_that_are_added_join_the_last_group() -> None:
    class Late(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                trainer.optimizers[0].add_param_group({"params": list(module.head.parameters()), "lr": 0.0})

    module = SomebodysModule("sgd")
    module.configure_optimizers = lambda: torch.optim.SGD(module.body.parameters(), lr=0.0)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    callback = unlearn()
    fit(Late(), callback, module=module)
    assert [len(g["params"]) for g in callback.forget_optimizer.param_groups] == [6]
    # The fit itself stands still: what moved, the forget optimizer has moved.
    assert {n for n, p in module.named_parameters() if torch.equal(p, before[n])} == {"unused"}
