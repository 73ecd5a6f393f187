"""Samples are ranked by what a step on them really does, without the expansion; only the highest are visited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, examples, loader, quiet, same
from _ranks import run_ranks
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_unlearn import Bounded, ClassificationReadout, ForgetRetainData, GradientAscent, PeriodicUnlearn, Unlearn
from lightning_unlearn.functional.fisher_conflict import fisher_conflict
from lightning_unlearn.selectors import FisherConflict


def draws(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("lr", [1e-3, 0.5])
def test_the_expansion_is_the_difference_of_two_distances(lr: float) -> None:
    shapes = ((3, 2), (4,))
    g, d, f = draws(0, *shapes), draws(1, *shapes), [x.square() for x in draws(2, *shapes)]
    after = sum((fi * (-di - lr * gi).square()).sum() for fi, di, gi in zip(f, d, g, strict=True))
    before = sum((fi * di.square()).sum() for fi, di in zip(f, d, strict=True))
    assert fisher_conflict(g, f, d, lr) == pytest.approx(float(after - before), abs=1e-6)


def test_what_leads_straight_to_the_optimum_ranks_lowest() -> None:
    """Of all directions of one length, with the same weight on every parameter."""
    (drift,) = draws(3, (5,))
    others = [g / g.norm() * drift.norm() for g in draws(4, *[(5,)] * 50)]
    ones = [torch.ones(5, dtype=torch.float64)]
    scores = [fisher_conflict([g], ones, [drift], 0.1) for g in (-drift, *others)]
    assert min(scores) == scores[0]
    assert fisher_conflict([None], ones, [drift], 0.1) == 0


def by_hand(network: nn.Module, optimum: dict[str, Tensor], lr: float) -> list[float]:
    """A real step on a real copy for each example; the Fisher information from a batch of one example at a time."""

    def gradient(x: Tensor, y: Tensor) -> list[Tensor]:
        parts = torch.autograd.grad(F.cross_entropy(network(x[None]), y[None]), used)
        return [p.detach() for p in parts]

    used = [p for name, p in network.named_parameters() if name != "unused"]
    names = [name for name, _ in network.named_parameters() if name != "unused"]
    start = [p.detach().clone() for p in used]
    goal = [optimum[name] for name in names]

    def move(weights: list[Tensor]) -> None:
        with torch.no_grad():
            for p, w in zip(used, weights, strict=True):
                p.copy_(w)

    move(goal)
    squares = [[g.square() for g in gradient(x, y)] for x, y in examples(1, 6)]
    fisher = [torch.stack(parts).mean(0) for parts in zip(*squares, strict=True)]
    found = []
    for x, y in examples(2, 8):
        move(start)
        moved = [p - lr * g for p, g in zip(start, gradient(x, y), strict=True)]
        distances = [
            sum(float((f * (w - o).double().square()).sum()) for f, w, o in zip(fisher, weights, goal, strict=True))
            for weights in (moved, start)
        ]
        found.append(distances[0] - distances[1])
    move(start)
    return found


@pytest.mark.parametrize("has_optimum", [False, True])
def test_scores_are_those_of_real_steps(has_optimum: bool, tmp_path: Path) -> None:
    network, lr = SomebodysModule(), 0.1
    optimum = {name: p.detach() + 0.1 * has_optimum for name, p in network.named_parameters()}
    path = tmp_path / "optimum.safetensors"
    save_file(optimum, path)
    order = FisherConflict(lr=lr, optimum=str(path) if has_optimum else None)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    found = order.scores(network, loader(2, 8), loader(1, 6), ClassificationReadout())
    assert found == pytest.approx(by_hand(network, optimum, lr), rel=2e-3)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    if not has_optimum:
        assert min(found) > 0


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 1.0), (torch.float16, 1e-4)], ids=str)
def test_in_half_precision_the_scores_are_those_of_small_and_of_many_gradients(dtype: torch.dtype, size: float) -> None:
    """At weights of zero each of 600 gradients is half the input, and so is the step."""
    layer = nn.Linear(1, 2, bias=False).to(dtype)
    nn.init.zeros_(layer.weight)
    x = torch.full((600, 1), size, dtype=dtype)
    batch = (x, torch.zeros(600, dtype=torch.int64))
    (found, *_) = FisherConflict(lr=1.0).scores(layer, [(x[:1], batch[1][:1])], [batch], ClassificationReadout())
    half = float(x[0]) / 2
    assert found == pytest.approx(2 * half**4, rel=2e-2, abs=0.0)


def fit(
    order: FisherConflict, module: Any = None, *, saved: Any = (), ckpt_path: Any = None, **kwargs: Any
) -> list[int]:
    """Which of eight forget rows a fit visited."""
    visited: set[int] = set()
    rows = examples(2, 8)

    class Seen(Unlearn):
        def forget_loss(self, batch: Any) -> Tensor:
            visited.update(int((rows.tensors[0] == x).all(1).nonzero()) for x in batch[1][0])
            return super().forget_loss(batch)

    data = ForgetRetainData(retain=loader(1, 12), forget=loader(2, 8, batch_size=2), order=order)
    callbacks = [Seen(Bounded(GradientAscent(), bound=3.0)), PeriodicUnlearn(every=1), *saved]
    trainer = quiet(callbacks=callbacks, max_epochs=4, **kwargs)
    trainer.fit(SomebodysModule() if module is None else module, datamodule=data, ckpt_path=ckpt_path)
    return sorted(visited)


def test_a_fit_visits_the_highest_and_no_others() -> None:
    order = FisherConflict(share=0.5)
    visited = fit(order)
    ranked = sorted(range(8), key=lambda row: -order.conflicts[row])
    assert visited == sorted(ranked[:4])


def test_a_second_preparation_gives_the_same() -> None:
    first, second = FisherConflict(share=0.25), FisherConflict(share=0.25)
    assert fit(first) == fit(second)
    assert first.conflicts == second.conflicts
    assert len(fit(FisherConflict(share=1.0))) == 8


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_resumed_fit_visits_the_same_and_ends_where_the_uninterrupted_one_does(tmp_path: Path) -> None:
    def run(folder: str, **kwargs: Any) -> tuple[SomebodysModule, FisherConflict]:
        module, order = SomebodysModule(), FisherConflict(share=0.5)
        saves = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        fit(order, module, saved=[saves], enable_checkpointing=True, **kwargs)
        return module, order

    whole, order = run("whole")
    resumed, again = run("again", ckpt_path=tmp_path / "whole" / "step=5.ckpt")
    assert again.conflicts == order.conflicts
    assert same(whole, resumed)


@pytest.mark.slow
def test_two_processes_rank_as_one_does_and_visit_the_highest_between_them() -> None:
    def ranked(rank: int, world: int) -> tuple[list[float], list[int]]:
        order = FisherConflict(share=0.5)
        strategy: Any = DDPStrategy(find_unused_parameters=True) if world > 1 else "auto"
        visited = fit(order, strategy=strategy, devices=world)
        return order.conflicts, visited

    conflicts, visited = ranked(0, 1)
    (one, mine), (other, theirs) = run_ranks(ranked)
    assert one == other == conflicts
    assert sorted({*mine, *theirs}) == visited


@pytest.mark.parametrize("share", [0.0, 1.5, -1])
def test_a_share_of_nothing_or_more_than_all_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="`share` should be"):
        FisherConflict(share=share)


def test_without_a_network_or_data_it_says_what_it_needs() -> None:
    class Later(SomebodysModule):
        def parameters(self, recurse: bool = True) -> Any:
            return iter(())

    with pytest.raises(
        ValueError, match="a network with weights and a `ForgetRetainData`.* Found `ForgetRetainData` and `Later`"
    ):
        fit(FisherConflict(), Later())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    order = FisherConflict(optimum=str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="`optimum` should hold weights of the network. Found 1 tensors"):
        order.scores(SomebodysModule(), loader(2, 4), loader(1, 4), ClassificationReadout())
