"""A LightningModule written by somebody else trains under `Unlearn` exactly as a loop that sums the two gradients."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import Bounded, CrossEntropy, ForgetRetainData, GradientAscent, Unlearn
from lightning_unlearn.data import ForgetStream

BOUND = 3.0


def hand_written(module: SomebodysModule, batches: list, *, accumulate: int, clip: float | None) -> list[torch.Tensor]:
    """No Lightning: one loss, the sum of the two."""
    setup = module.configure_optimizers()
    optimizer, scheduler = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    for number, (retain, forget) in enumerate(batches, start=1):
        loss = F.cross_entropy(module(retain[0]), retain[1])
        loss = loss + torch.relu(BOUND - F.cross_entropy(module(forget[0]), forget[1]))
        (loss / accumulate).backward()
        if number % accumulate and number != len(batches):
            continue
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    return list(module.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (3, None), (1, 0.05), (4, 0.05)])
def test_same_parameters_to_rounding(optimizer: str, accumulate: int, clip: float | None) -> None:
    retain, forget = loader(seed=1), loader(seed=2, n=10)
    stream = ForgetStream(forget, seed=5)
    expected = hand_written(
        SomebodysModule(optimizer), [(batch, next(stream)) for batch in retain], accumulate=accumulate, clip=clip
    )

    module = SomebodysModule(optimizer)
    unlearn = Unlearn(Bounded(GradientAscent(), bound=BOUND), forget=forget, seed=5)
    quiet(callbacks=[unlearn], accumulate_grad_batches=accumulate, gradient_clip_val=clip).fit(module, retain)

    for parameter, by_hand in zip(module.parameters(), expected, strict=True):
        assert_close(parameter, by_hand, rtol=0, atol=1e-6)


def test_forgetting_moves_the_parameters_at_all() -> None:
    module, alone = SomebodysModule(), SomebodysModule()
    quiet(callbacks=[Unlearn(GradientAscent(), forget=loader(seed=2))]).fit(module, loader(seed=1))
    quiet().fit(alone, loader(seed=1))
    assert max((a - b).abs().max().item() for a, b in zip(module.parameters(), alone.parameters(), strict=True)) > 1e-2


def test_users_hooks_logs_and_schedule_stay_as_they_are() -> None:
    module, alone = SomebodysModule(), SomebodysModule()
    trainer, trainer_alone = quiet(callbacks=[Unlearn(GradientAscent(), forget=loader(seed=2))]), quiet()
    trainer.fit(module, loader(seed=1))
    trainer_alone.fit(alone, loader(seed=1))

    assert module.called == alone.called
    assert len(module.losses) == len(alone.losses)
    assert module.losses[0] == alone.losses[0]  # the same before the first step
    own = {name for name in trainer.callback_metrics if not name.startswith("unlearn/")}
    assert own == set(trainer_alone.callback_metrics)
    rates = [t.lr_scheduler_configs[0].scheduler.get_last_lr() for t in (trainer, trainer_alone)]
    assert rates[0] == rates[1]


def test_unused_parameter_is_not_decayed() -> None:
    module = SomebodysModule("adamw")
    quiet(callbacks=[Unlearn(GradientAscent(), forget=loader(seed=2))]).fit(module, loader(seed=1))
    assert_close(module.unused, torch.ones(3), rtol=0, atol=0)


def test_logs_are_the_two_losses_norms_and_cosine() -> None:
    module = SomebodysModule("sgd")
    seen: list[dict[str, float]] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            seen.append({k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("unlearn/")})

    quiet(callbacks=[Unlearn(CrossEntropy(), forget=loader(seed=2)), Watch()]).fit(module, loader(seed=1))
    first = seen[0]

    fresh = SomebodysModule("sgd")
    x, y = next(ForgetStream(loader(seed=2)))
    loss = F.cross_entropy(fresh(x), y)
    forget = torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, [*fresh.body.parameters(), *fresh.head.parameters()])]
    )
    x, y = next(iter(loader(seed=1)))
    retain_loss = F.cross_entropy(fresh(x), y)
    grads = torch.autograd.grad(retain_loss, [*fresh.body.parameters(), *fresh.head.parameters()])
    retain = torch.cat([g.flatten() for g in grads])

    assert first["unlearn/forget"] == pytest.approx(loss.item(), abs=1e-6)
    assert first["unlearn/retain"] == pytest.approx(retain_loss.item(), abs=1e-6)
    assert first["unlearn/forget_norm"] == pytest.approx(forget.norm().item(), rel=1e-5)
    assert first["unlearn/retain_norm"] == pytest.approx(retain.norm().item(), rel=1e-5)
    assert first["unlearn/cosine"] == pytest.approx(F.cosine_similarity(forget, retain, dim=0).item(), abs=1e-5)
    assert first["unlearn/realised"] == pytest.approx(1.0, abs=1e-4)


def test_split_data_gives_the_same_stream_as_two_loaders() -> None:
    """`order=None` leaves the user's retain loader alone."""
    through_data, through_argument = SomebodysModule(), SomebodysModule()
    data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2), order=None)
    quiet(callbacks=[Unlearn(GradientAscent())]).fit(through_data, datamodule=data)
    quiet(callbacks=[Unlearn(GradientAscent(), forget=loader(seed=2))]).fit(through_argument, loader(seed=1))
    for a, b in zip(through_data.parameters(), through_argument.parameters(), strict=True):
        assert_close(a, b, rtol=0, atol=0)
