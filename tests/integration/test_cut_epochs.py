"""An epoch that is cut short leaves nothing to the next one: each step forgets as many micro-batches as it retains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _joined_fits import rows
from _language_models import family
from _modules import SomebodysModule, loader, quiet
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    BilevelUnlearn,
    Bounded,
    ForgetRetainData,
    GradientAscent,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.data import ForgetStream
from lightning_unlearn.forgetting import CheaperPass, FiniteDifference, TwoPasses
from lightning_unlearn.forgetting._merger import Merger
from lightning_unlearn.projectors import PrimalDual

BOUND = 3.0
EPOCH = 6


class Cut(SomebodysModule):
    """Ends its first epoch before batch number ``at``."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if self.current_epoch == 0 and batch_idx == self.at else None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class EveryOther(Cut):
    """Takes a step for every other batch; of those between, Lightning drops the gradients."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if batch_idx % 2:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


def unlearn(**kwargs: Any) -> Unlearn:
    return Unlearn(Bounded(GradientAscent(), bound=BOUND), forget=loader(seed=2, n=10), seed=5, **kwargs)


def fit(module: Any, *callbacks: Any, accumulate: int = 1) -> Any:
    quiet(callbacks=list(callbacks), max_epochs=2, accumulate_grad_batches=accumulate).fit(module, loader(seed=1))
    return module


def hand_written(steps: list[list[int]]) -> list[Tensor]:
    """No Lightning: the numbers of the retain micro-batches of each step."""
    module, stream, retain = Cut(0), ForgetStream(loader(seed=2, n=10), seed=5), list(loader(seed=1))
    optimizer = module.configure_optimizers()
    accumulate = max(len(step) for step in steps)
    for step in steps:
        for number in step:
            kept, forgotten = (F.cross_entropy(module(x), y) for x, y in (retain[number], next(stream)))
            ((kept + torch.relu(BOUND - forgotten)) / accumulate).backward()
        optimizer.step()
        optimizer.zero_grad()
    return list(module.parameters())


@pytest.mark.parametrize(
    ("build", "accumulate", "steps"),
    [
        (lambda: Cut(at=2), 1, [[0], [1], *([n] for n in range(EPOCH))]),
        (lambda: Cut(at=4), 3, [[0, 1, 2], [0, 1, 2], [3, 4, 5]]),
        (lambda: Cut(at=5), 4, [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5]]),
        (lambda: EveryOther(at=EPOCH), 1, [[1], [3], [5]] * 2),
    ],
    ids=["between steps", "in a step", "and by its end", "by the module"],
)
def test_equals_the_loop_written_by_hand(build: Any, accumulate: int, steps: list[list[int]]) -> None:
    found = fit(build(), unlearn(), accumulate=accumulate)
    for p, by_hand in zip(found.parameters(), hand_written(steps), strict=True):
        assert_close(p, by_hand, rtol=0, atol=1e-6)


class Spy(PrimalDual):
    """Remembers the retain losses it was shown."""

    def __init__(self) -> None:
        super().__init__(eps=1.0)
        self.seen: list[float] = []

    def observe(self, forget: Tensor, retain: Tensor) -> None:
        super().observe(forget, retain)
        self.seen.append(float(retain))


def test_a_projector_is_shown_the_losses_of_its_own_step() -> None:
    spy = Spy()
    losses = fit(Cut(at=4), unlearn(projector=spy), accumulate=3).losses
    steps = [losses[:3], losses[4:7], losses[7:]]  # of the fourth, the gradient was dropped
    assert spy.seen == pytest.approx([sum(step) / 3 for step in steps], abs=1e-6)


class Counted(FiniteDifference):
    """Counts forget and retain micro-batches of each gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[tuple[int, int]] = []

    def gradient(self, potential: Any, point: Any) -> Any:
        self.counts.append((len(point.forget), len(point.retain)))
        return super().gradient(potential, point)


@pytest.mark.parametrize(
    ("at", "counts"),
    [
        (4, [(1, 1), (3, 3), (3, 3), (1, 1), (3, 3)]),  # in the second step of a round
        (1, [(1, 1), (3, 3), (3, 3)]),  # in the first one, whose inner step has been taken
    ],
)
def test_rounds_of_an_inner_loop_are_of_their_own_step(at: int, counts: list[tuple[int, int]]) -> None:
    counted = Counted()
    kwargs = {"rho": 0.0, "inner_steps": 1, "outer_steps": 2, "curvature": counted}
    bilevel = BilevelUnlearn(Bounded(GradientAscent(), bound=BOUND), forget=loader(seed=2, n=10), **kwargs)
    fit(Cut(at), bilevel, accumulate=3)
    assert counted.counts == counts


class CutWrapper(UnlearningModule):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if self.current_epoch == 0 and batch_idx == 4 else None


@pytest.mark.filterwarnings("ignore:.*validation_step:lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize("passes", [TwoPasses(), CheaperPass(1e9)], ids=["two passes", "one pass"])
def test_micro_batches_that_were_joined_to_lost_ones_are_lost(passes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, merge = [], Merger.merge_

    def counted(self: Any, loss: Any, batches: Any, params: Any, *, joined: Any = (), **kwargs: Any) -> Any:
        counts.append((len(joined) > 0, len(joined) + len(batches)))
        return merge(self, loss, batches, params, joined=joined, **kwargs)

    monkeypatch.setattr(Merger, "merge_", counted)
    module = CutWrapper(family("gpt2"), optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
    retain, forget = (DataLoader(rows(seed, 12), batch_size=2) for seed in (1, 2))
    settings = {"limit_val_batches": 0, "precision": "64-true", "log_every_n_steps": 0, "max_epochs": 2}
    trainer = quiet(callbacks=[Unlearn(NPO(0.3), passes=passes)], accumulate_grad_batches=3, **settings)
    trainer.fit(module, datamodule=ForgetRetainData(retain=retain, forget=forget))
    assert counts == [(isinstance(passes, CheaperPass), 3)] * 5
