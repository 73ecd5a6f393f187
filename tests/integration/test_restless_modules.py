"""Modules whose forward pass moves something besides gradients: forget passes leave it where the fit has it."""

from __future__ import annotations

import random
from collections import Counter, deque
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torchmetrics
from _fingerprints import Log, differences, fingerprint
from _modules import CLASSES, loader, quiet
from _ranks import run_ranks
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm
from torch.utils.checkpoint import checkpoint

from lightning_unlearn import (
    NPO,
    CachedLogLikelihood,
    FrozenCopy,
    GradientAscent,
    RecoveryCheck,
    Relearn,
    StepGuard,
    Unlearn,
)
from lightning_unlearn.engine import _gradients
from lightning_unlearn.guards import Monitor, PerExample

TINY = 1e-300  # times any float32 gradient this is zero


class Restless(pl.LightningModule):
    """A classifier ``[B, 8] -> [B, 5]``. Subclasses move something in ``forward``, and something depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), self.middle(), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, CLASSES))
        self.unused = nn.Parameter(torch.ones(3))  # must get no gradient, or weight decay would act on it

    def middle(self) -> nn.Module:
        return nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("my_loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=3e-3)


class BatchNorm(Restless):
    def middle(self) -> nn.Module:
        return nn.BatchNorm1d(16)


class CumulativeBatchNorm(Restless):
    def middle(self) -> nn.Module:
        return nn.BatchNorm1d(16, momentum=None)


class InstanceNorm(Restless):
    def middle(self) -> nn.Module:
        return nn.Sequential(nn.Unflatten(1, (4, 4)), nn.InstanceNorm1d(4, track_running_stats=True), nn.Flatten())


class GroupNorm(Restless):
    """Has no statistics at all."""

    def middle(self) -> nn.Module:
        return nn.GroupNorm(4, 16)


class SpectralNorm(Restless):
    def middle(self) -> nn.Module:
        return parametrizations.spectral_norm(nn.Linear(16, 16))


class OldSpectralNorm(Restless):
    """Sets the weight, a tensor with a graph, as a plain attribute."""

    def middle(self) -> nn.Module:
        return spectral_norm(nn.Linear(16, 16))


class Checkpointed(BatchNorm):
    """Backward runs the forward pass again."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.net, x, use_reentrant=False)


class Teacher(Restless):
    """A moving average of the weights, as papers write it: other tensors each time, or in place behind autograd's back."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.slow = nn.Linear(8, CLASSES).requires_grad_(False)
        self.fast = nn.Linear(8, CLASSES)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        for slow, fast in zip(self.slow.parameters(), self.fast.parameters(), strict=True):
            if self.in_place:
                slow.data.mul_(0.9).add_(fast.data, alpha=0.1)
            else:
                slow.data = slow.data * 0.9 + fast.data * 0.1
        return super().forward(x) + self.fast(x) - 0.1 * self.slow(x)


class Queue(Restless):
    """A queue of keys in a buffer, written to in place; its pointer is a buffer that is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(12, CLASSES))
        self.register_buffer("place", torch.zeros(1, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        out = logits - self.queue.clone().mean(0)
        with torch.no_grad():
            self.queue[(self.place + torch.arange(len(x))) % 12] = logits.detach()
            self.place = (self.place + len(x)) % 12
        return out


class HiddenState(Restless):
    """Carried across batches: without a graph; with one, for a look at it; in place; and in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Any = None
        self.with_graph: Any = None
        self.mean = torch.zeros(CLASSES)
        self.pair = (torch.zeros(1), torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        before = 0 if self.last is None else self.last
        seen = 0 if self.with_graph is None else self.with_graph.detach().mean()
        self.last, self.with_graph = logits.detach().mean(0), logits
        self.mean.mul_(0.5).add_(self.last)
        self.pair[0].add_(1)
        return logits + 0.1 * before + seen + 0.01 * self.mean + 0.01 * self.pair[0]


class Average:
    """Of somebody's own: no tensor, no module."""

    def __init__(self) -> None:
        self.total, self.count, self.recent = 0.0, 0, deque(maxlen=3)

    def update(self, value: float) -> None:
        self.total, self.count = self.total + value, self.count + 1
        self.recent.append(value)


class Collections(Restless):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.losses: list[list[Tensor]] = [[]]
        self.counts: Counter[int] = Counter()
        self.averages = {"size": Average()}
        self.array = np.zeros(2)
        self.calls = 0
        self.kinds: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x))
        self.losses[-1].append(x.mean())
        self.counts.update([len(x)])
        self.averages["size"].update(float(x.sum()))
        self.array += 1
        self.kinds.add(int(x.sum() * 100))
        self.latest = x.mean()  # an attribute that was not there before
        average = self.averages["size"]
        moved = self.calls + len(self.seen) + len(self.losses[-1]) + self.counts[len(x)] + len(self.kinds)
        return super().forward(x) * (1 + 1e-3 * moved + 1e-3 * average.count + 1e-3 * float(self.array.sum()))


class Metrics(Restless):
    """Registered; in a dictionary, where torch does not see it; and one that keeps a list."""

    def __init__(self) -> None:
        super().__init__()
        self.mean_size = torchmetrics.MeanMetric()
        self.all = torchmetrics.CatMetric()
        self.hidden = {"sum": torchmetrics.SumMetric()}

    def forward(self, x: Tensor) -> Tensor:
        self.mean_size.update(x.sum())
        self.all.update(x.mean())
        self.hidden["sum"].update(x.sum())
        return super().forward(x) * (1 + 1e-3 * self.mean_size._update_count + 1e-3 * self.hidden["sum"].compute())


class OwnGenerators(Restless):
    """Noise from generators of the module, and from all global ones."""

    def __init__(self) -> None:
        super().__init__()
        self.torchs = torch.Generator().manual_seed(1)
        self.numpys, self.pythons = np.random.default_rng(1), random.Random(1)
        self.old = np.random.RandomState(1)

    def forward(self, x: Tensor) -> Tensor:
        own = torch.rand((), generator=self.torchs) + self.numpys.random() + self.pythons.random() + self.old.rand()
        return super().forward(x) * (1 + 0.1 * own + 0.1 * (torch.rand(()) + np.random.rand() + random.random()))


class MaxNorm(Restless):
    """An embedding that shortens, in place, the rows it looks up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, CLASSES, max_norm=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.table((x.sum(1).abs() * 7).long() % 64)


class Augmented(Restless):
    """Augments on the device, at random, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.augmented = 0

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.augmented += 1
        return batch[0] * (1 + 0.1 * torch.rand(())), batch[1]


class ChangesModes(Restless):
    """Puts a part in another mode while it runs."""

    def forward(self, x: Tensor) -> Tensor:
        self.net[3].train(not self.net[3].training)
        return super().forward(x)


class Everything(Queue, HiddenState, Collections, Metrics, OwnGenerators, MaxNorm, BatchNorm):
    """All at once, but for augmentation: what is augmented has no cached likelihood."""


RESTLESS: dict[str, Any] = {
    "BatchNorm": BatchNorm,
    "BatchNorm, cumulative": CumulativeBatchNorm,
    "BatchNorm, checkpointed": Checkpointed,
    "InstanceNorm": InstanceNorm,
    "spectral norm": SpectralNorm,
    "spectral norm, old": OldSpectralNorm,
    "teacher, in place": lambda: Teacher(in_place=True),
    "teacher, anew": lambda: Teacher(in_place=False),
    "queue": Queue,
    "hidden state": HiddenState,
    "collections": Collections,
    "metrics": Metrics,
    "own generators": OwnGenerators,
    "max_norm": MaxNorm,
    "augmented": Augmented,
    "modes": ChangesModes,
    "everything": Everything,
    "GroupNorm": GroupNorm,  # the only one that moves nothing but the generators, by dropout
}
every_module = pytest.mark.parametrize("name", RESTLESS)


def forgetting(objective: Any = None, **kwargs: Any) -> Unlearn:
    objective = GradientAscent() if objective is None else objective
    return Unlearn(objective, weight=TINY, forget=loader(seed=2, n=12), **kwargs)


def fit(name: str, callbacks: list[pl.Callback], **kwargs: Any) -> dict[str, Any]:
    pl.seed_everything(3, verbose=False)
    module = RESTLESS[name]()
    trainer = quiet(max_epochs=2, logger=Log(), callbacks=callbacks, **kwargs)
    trainer.fit(module, loader(seed=1, shuffle=True))
    return fingerprint(trainer, module)


@every_module
def test_forget_passes_move_nothing(name: str) -> None:
    assert differences(fit(name, [forgetting()]), fit(name, [])) == []


@pytest.mark.parametrize("name", [name for name in RESTLESS if name != "GroupNorm"])
def test_the_comparison_notices_each_of_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gradients, "state_kept", lambda module: nullcontext())
    assert differences(fit(name, [forgetting()]), fit(name, [])) != []


def test_the_comparison_notices_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gradients, "random_numbers_kept", nullcontext)
    assert "random" in differences(fit("GroupNorm", [forgetting()]), fit("GroupNorm", []))


CALLBACKS: dict[str, Any] = {
    "cached likelihoods": lambda: [forgetting(NPO(), reference=CachedLogLikelihood())],
    "frozen copy": lambda: [forgetting(NPO(), reference=FrozenCopy())],
    "an optimizer of its own": lambda: [forgetting(optimizer=lambda params: torch.optim.SGD(params, lr=1e-2))],
    "a guard that looks": lambda: [forgetting(), StepGuard(Monitor())],
    "a guard that looks at examples": lambda: [forgetting(), StepGuard(Monitor(), PerExample())],
    "a guard of a separate set": lambda: [forgetting(), StepGuard(Monitor(), retain=loader(seed=4, n=12))],
    "checks": lambda: [forgetting(), RecoveryCheck({"relearn": Relearn(steps=2)}, every_n_steps=5)],
}
FITS: dict[str, Any] = {
    "accumulated": lambda: {"accumulate_grad_batches": 4, "gradient_clip_val": 0.1},
    "bf16": lambda: {"precision": "bf16-mixed"},
    "fp16": lambda: {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))]},
}


@pytest.mark.parametrize("beside", CALLBACKS)
def test_with_other_callbacks_too(beside: str) -> None:
    assert differences(fit("everything", CALLBACKS[beside]()), fit("everything", [])) == []


@pytest.mark.parametrize("kind", FITS)
def test_in_other_fits_too(kind: str) -> None:
    both = [forgetting(), StepGuard(Monitor())]
    assert differences(fit("everything", both, **FITS[kind]()), fit("everything", [], **FITS[kind]())) == []


def run(module: Any, callbacks: list[pl.Callback], **kwargs: Any) -> Log:
    pl.seed_everything(3, verbose=False)
    trainer = quiet(logger=Log(), callbacks=callbacks, **{"max_epochs": 2, **kwargs})
    trainer.fit(module, loader(seed=1, shuffle=True), ckpt_path=kwargs.get("resume"))
    return trainer.logger


def forget_losses(log: Log) -> list[float]:
    return [value for key, value in log.ours if key == "unlearn/forget"]


class StandsStill(Restless):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_dropout_stays_on_in_forget_passes() -> None:
    """One forget batch and weights that do not move: only dropout makes the loss another in each step."""
    losses = forget_losses(run(StandsStill(), [Unlearn(GradientAscent(), forget=loader(seed=2, n=4))]))
    assert len(losses) == 12
    assert len(set(losses)) == 12


def test_a_forget_pass_draws_by_seed_and_position_alone() -> None:
    """Whatever the fit has drawn in the meantime, a resumed or repeated one among others."""

    class DrawsMore(StandsStill):
        def on_train_batch_start(self, *args: Any) -> None:
            torch.rand(7), random.random(), np.random.rand()

    def losses(kind: type[StandsStill], seed: int) -> list[float]:
        torch.manual_seed(0)
        module = kind()
        return forget_losses(run(module, [Unlearn(GradientAscent(), forget=loader(seed=2, n=4), seed=seed)]))

    assert losses(DrawsMore, seed=0) == losses(StandsStill, seed=0)
    assert losses(StandsStill, seed=1) != losses(StandsStill, seed=0)


def test_a_resumed_fit_draws_the_same() -> None:
    def unlearn() -> Unlearn:
        return Unlearn(GradientAscent(), forget=loader(seed=2, n=12))

    torch.manual_seed(0)
    whole, module = StandsStill(), StandsStill()
    module.load_state_dict(whole.state_dict())
    losses = forget_losses(run(whole, [unlearn()]))
    pl.seed_everything(3, verbose=False)
    first = quiet(callbacks=[unlearn()], max_epochs=1)
    first.fit(module, loader(seed=1, shuffle=True))
    first.save_checkpoint("first.ckpt")
    torch.rand(100)
    log = Log()
    again = quiet(logger=log, callbacks=[unlearn()], max_epochs=2)
    again.fit(StandsStill(), loader(seed=1, shuffle=True), ckpt_path="first.ckpt")
    assert forget_losses(log) == losses[6:]


def test_a_fit_with_compiled_parts_is_the_same() -> None:
    def fitted(callbacks: list[pl.Callback]) -> dict[str, Any]:
        pl.seed_everything(3, verbose=False)
        module = Everything()
        module.net.compile(backend="eager")
        trainer = quiet(logger=Log(), callbacks=callbacks)
        trainer.fit(module, loader(seed=1))
        return fingerprint(trainer, module)

    assert differences(fitted([forgetting()]), fitted([])) == []


def _rank(rank: int, world_size: int) -> list[str]:
    def fitted(callbacks: list[pl.Callback]) -> dict[str, Any]:
        pl.seed_everything(3 + rank, verbose=False)
        module = Everything()
        ddp = DDPStrategy(find_unused_parameters=True, process_group_backend="gloo")
        trainer = quiet(logger=Log(), callbacks=callbacks, strategy=ddp, devices=world_size, accumulate_grad_batches=2)
        trainer.fit(module, loader(seed=1))
        return fingerprint(trainer, module)

    return differences(fitted([forgetting(), StepGuard(Monitor())]), fitted([]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:It is recommended to use `self.log")
def test_under_ddp_it_is_the_same() -> None:
    """Without synchronised statistics, each process keeps its own."""
    assert run_ranks(_rank) == [[], []]


def test_one_example_is_too_few_for_batch_norm() -> None:
    with pytest.raises(ValueError, match="at least two examples.*`drop_last=True` in the forget loader"):
        run(BatchNorm(), [Unlearn(GradientAscent(), forget=loader(seed=2, n=5))])
