"""What all transforms of the realised step share; a new one joins the list and inherits it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_unlearn import (
    Bounded,
    CyclicOrder,
    ForgetRetainData,
    GradientAscent,
    GroupSparse,
    LookaheadRate,
    NeuralVariability,
    SignGate,
    StepGuard,
    SubspaceGuard,
    TrainOnly,
    Unlearn,
)
from lightning_unlearn.guards import History, InputSubspace, Monitor, NoChange, NullSpace
from lightning_unlearn.selectors import Random, TopShare
from lightning_unlearn.transforms import Stage, StepChain, StepTransform

pytestmark = pytest.mark.filterwarnings("ignore:All trained parameters should be protected")


class Shrunk(StepTransform):
    """Some share of each step: the smallest transform there is."""

    stage, prefix = Stage.PROXIMAL, "shrunk"

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    @torch.no_grad()
    def after(self, step: Any) -> None:
        for p in step.params:
            p.copy_(torch.where(torch.tensor(self.share) == 1, p, step.before(p).lerp(p, self.share)))


def lookahead(**settings: Any) -> LookaheadRate:
    return LookaheadRate(forget=loader(seed=3), retain=loader(seed=4), **settings)


# At work, and with settings under which it changes nothing.
TRANSFORMS: dict[str, Callable[[], StepTransform]] = {
    "StepGuard": lambda: StepGuard(NoChange(), History(3)),
    "SubspaceGuard": lambda: SubspaceGuard(InputSubspace(0.8), batches=2),
    "TrainOnly": lambda: TrainOnly(["head", "body.1.*"]),
    "TrainOnly, elements": lambda: TrainOnly(selector=Random(), choice=TopShare(0.3)),
    "TrainOnly, tensors": lambda: TrainOnly(selector=Random(by="tensor"), choice=TopShare(0.5)),
    "SignGate": lambda: SignGate(),
    "SignGate, averaged": lambda: SignGate(average=0.9, tau=0.1),
    "NeuralVariability": lambda: NeuralVariability(0.2),
    "GroupSparse": lambda: GroupSparse(alpha=0.5),
    "GroupSparse, after a while": lambda: GroupSparse(alpha=0.5, warmup_steps=1),
    "Shrunk": lambda: Shrunk(0.5),
    "LookaheadRate": lambda: lookahead(every_n_steps=1),
}
WITHOUT_EFFECT: dict[str, Callable[[], StepTransform]] = {
    "StepGuard": lambda: StepGuard(Monitor(), History(3)),
    "SubspaceGuard": lambda: SubspaceGuard(NullSpace(threshold=1), batches=2),
    "TrainOnly": lambda: TrainOnly("*"),
    "TrainOnly, elements": lambda: TrainOnly(selector=Random(), choice=TopShare(1.0)),
    "TrainOnly, tensors": lambda: TrainOnly(selector=Random(by="tensor"), choice=TopShare(1.0)),
    "SignGate": lambda: SignGate(tau=1e9),
    "SignGate, averaged": lambda: SignGate(average=0.9, tau=1e9),
    "NeuralVariability": lambda: NeuralVariability(0.0),
    "GroupSparse": lambda: GroupSparse(alpha=0.0),
    "GroupSparse, after a while": lambda: GroupSparse(alpha=0.5, warmup_steps=100),
    "Shrunk": lambda: Shrunk(1.0),
    "LookaheadRate": lambda: lookahead(every_n_steps=1000),
}
STAYS_IF_FROZEN_AT_FIRST = {"TrainOnly, elements", "TrainOnly, tensors"}
ALL = pytest.mark.parametrize("name", TRANSFORMS)


def fit(*callbacks: pl.Callback, module: Any = None, own: bool = False, **kwargs: Any) -> tuple[Any, Any]:
    module = SomebodysModule() if module is None else module
    optimizer = (lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9)) if own else None
    unlearn = Unlearn(Bounded(GradientAscent(), bound=4.0), weight=3.0, optimizer=optimizer)
    ckpt_path = kwargs.pop("ckpt_path", None)
    trainer = quiet(callbacks=[*callbacks, unlearn], **kwargs)
    data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2), order=CyclicOrder())
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, trainer


def weights(module: Any) -> list[Tensor]:
    return [p.detach() for p in module.parameters()]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


@pytest.mark.parametrize("own", [False, True], ids=["merged", "own optimizer"])
@ALL
def test_one_that_changes_nothing_leaves_the_fit_as_it_is_to_the_bit(name: str, own: bool) -> None:
    bare, _ = fit(own=own)
    assert same(bare, fit(WITHOUT_EFFECT[name](), own=own)[0])
    assert not same(bare, fit(TRANSFORMS[name](), own=own)[0])


@pytest.mark.parametrize("accumulate", [1, 3])
@ALL
def test_every_step_is_counted(name: str, accumulate: int) -> None:
    transform = TRANSFORMS[name]()
    _, trainer = fit(transform, accumulate_grad_batches=accumulate)
    assert transform._steps["taken"] == transform._steps["transformed"] == trainer.global_step == 6 // accumulate


@ALL
def test_a_step_that_passes_it_by_is_noticed(name: str) -> None:
    class Bypassing(SomebodysModule):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            optimizer_closure()
            optimizer.optimizer.step()

    with pytest.raises(RuntimeError, match="Every optimizer step should be guarded. Found 6 steps, of which 0 were"):
        fit(TRANSFORMS[name](), module=Bypassing())


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@ALL
def test_a_resumed_fit_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    def run(folder: str, **kwargs: Any) -> tuple[Any, StepTransform]:
        transform = TRANSFORMS[name]()
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        module, _ = fit(transform, saved, enable_checkpointing=True, max_epochs=2, **kwargs)
        return module, transform

    whole, transform = run("whole")
    checkpoint = tmp_path / "whole" / "step=4.ckpt"
    torch.load(checkpoint, weights_only=True)  # tensors and primitives only
    resumed, again = run("again", ckpt_path=checkpoint)
    assert same(whole, resumed)
    assert transform._steps == again._steps
    assert again._steps["taken"] == 12


class ScheduleFree(torch.optim.SGD):
    """As far as it shows: weights to train with, and others to use."""

    def train(self) -> None: ...

    def eval(self) -> None: ...


@ALL
def test_an_optimizer_with_two_sets_of_weights_is_refused_by_name(name: str) -> None:
    class Freed(SomebodysModule):
        def configure_optimizers(self) -> Any:
            return ScheduleFree(self.parameters(), lr=1e-2)

    transform = TRANSFORMS[name]()
    who = type(transform).__name__
    with pytest.raises(NotImplementedError, match=f"`{who}` should .*Found `ScheduleFree`.*or leave `{who}` out"):
        fit(transform, module=Freed())


def test_forgetting_alone_takes_it_and_beside_a_guard_it_is_no_optimizer_of_its_own_either() -> None:
    def forgets(**kwargs: Any) -> Unlearn:
        return Unlearn(GradientAscent(), forget=loader(seed=2), **kwargs)

    def own(params: Any) -> ScheduleFree:
        return ScheduleFree(params, lr=1e-3)

    quiet(callbacks=[forgets(optimizer=own)], max_steps=1).fit(SomebodysModule(), loader(seed=1))
    with pytest.raises(NotImplementedError, match="Found `ScheduleFree`"):
        quiet(callbacks=[forgets(optimizer=own), TrainOnly("head")], max_steps=1).fit(SomebodysModule(), loader(seed=1))


class Late(pl.Callback):
    """Gives the optimizer a parameter group in the third step, as ``BaseFinetuning`` does when it unfreezes layers."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            module.body.requires_grad_(True)
            trainer.optimizers[0].add_param_group({"params": list(module.body.parameters()), "lr": 3e-2})


class HeadFirst(SomebodysModule):
    def configure_optimizers(self) -> Any:
        self.body.requires_grad_(False)
        return torch.optim.AdamW(self.head.parameters(), lr=1e-2)


@pytest.mark.parametrize("order", [1, -1])
@ALL
def test_parameter_groups_that_are_added_are_survived(name: str, order: int) -> None:
    transform = TRANSFORMS[name]()
    module, _ = fit(*[transform, Late()][::order], module=HeadFirst())
    assert transform._steps["taken"] == transform._steps["transformed"] == 6
    assert same(module.body, HeadFirst().body) == (name in STAYS_IF_FROZEN_AT_FIRST)
    assert not same(module.head, HeadFirst().head)


@pytest.mark.parametrize("own", [False, True], ids=["merged", "own optimizer"])
def test_the_order_of_callbacks_does_not_matter(own: bool) -> None:
    names = ["StepGuard", "SubspaceGuard", "TrainOnly"]
    ends = [fit(*(TRANSFORMS[name]() for name in order), own=own)[0] for order in permutations(names)]
    assert len(ends) == 6
    assert all(same(end, ends[0]) for end in ends)


def test_stages_decide_whatever_the_order_of_callbacks() -> None:
    first, last = (fit(*[Shrunk(0.5), StepGuard(NoChange())][::order])[0] for order in (1, -1))
    assert same(first, last)


@ALL
def test_after_an_exception_nothing_stays_behind(name: str) -> None:
    class Failing(SomebodysModule):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                raise KeyError("mine")

    optimizers: list[Any] = []

    class Kept(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            optimizers.append(trainer)

    with pytest.raises(KeyError, match="mine"):
        fit(TRANSFORMS[name](), Kept(), module=Failing())
    (trainer,) = optimizers
    assert not trainer.optimizers[0]._optimizer_step_post_hooks
    assert trainer not in StepChain._chains


@ALL
def test_a_second_fit_with_the_same_trainer_is_transformed_too(name: str) -> None:
    transform = TRANSFORMS[name]()
    module, trainer = fit(transform)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, datamodule=trainer.datamodule)
    assert transform._steps["transformed"] == transform._steps["taken"] == 6


def test_one_copy_of_the_weights_is_held_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: storages of living tensors that hold what a parameter was before the step, at its end."""
    import gc

    found: list[list[int]] = []

    class Counting(Shrunk):
        """A transform of a late stage: the guards' copies, whichever there are, are all alive."""

        def after(self, step: Any) -> None:
            counts = []
            for p in step.params:
                before = step.before(p).flatten()
                if len(before.unique()) < len(before):
                    continue  # ones and zeros, as norms start with, are everywhere
                alive = [t for t in gc.get_objects() if type(t) is Tensor and t.dtype == p.dtype and t.numel()]
                holds = {t.untyped_storage().data_ptr() for t in alive if holds_run(t, before)}
                counts.append(len(holds - {p.untyped_storage().data_ptr()}))
            found.append(counts)
            super().after(step)

    def holds_run(t: Tensor, run: Tensor) -> bool:
        """Whether the storage of ``t`` holds the numbers ``run`` somewhere."""
        whole = torch.empty(0, dtype=t.dtype).set_(t.untyped_storage())
        starts = (whole == run[0]).nonzero()[:, 0].tolist()
        return any(torch.equal(whole[s : s + len(run)], run) for s in starts)

    names = ["StepGuard", "SubspaceGuard", "TrainOnly"]
    module = SomebodysModule(width=64)
    fit_wide(Counting(0.5), *(TRANSFORMS[name]() for name in names), module=module)
    assert len(found) == 3
    assert all(len(counts) >= 4 for counts in found[1:])
    # In the first step, which is logged, `Unlearn` measures on a copy of one tensor of its own.
    assert {count for counts in found[1:] for count in counts} == {1}


def fit_wide(*callbacks: pl.Callback, module: Any) -> None:
    from _modules import examples
    from torch.utils.data import DataLoader

    def wide(seed: int) -> Any:
        return DataLoader(examples(seed, 12, width=64), batch_size=4)

    unlearn = Unlearn(Bounded(GradientAscent(), bound=4.0), forget=wide(2), weight=3.0)
    quiet(callbacks=[*callbacks, unlearn], log_every_n_steps=100).fit(module, wide(1))
