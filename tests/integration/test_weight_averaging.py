"""Forget steps are averaged by Lightning's own callbacks, beside ours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, loader, quiet, same
from _observed_fits import levels, probability_by_hand
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn import (
    NPO,
    CyclicOrder,
    ForgetRetainData,
    NeuralVariability,
    Quantize,
    RecoveryCheck,
    StepGuard,
    Unlearn,
)
from lightning_unlearn.cli import main
from lightning_unlearn.guards import NoChange

START, EVERY = 4, 3


class MeanFrom(WeightAveraging):
    """The plain mean of every third step from the fourth on, as in "Unlearn-Smooth" (every fifth from the hundredth on)."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx >= START and (step_idx - START) % EVERY == 0


def ema() -> EMAWeightAveraging:
    return EMAWeightAveraging(decay=0.7, update_every_n_steps=3, update_starting_at_step=START)


class Trajectory(pl.Callback):
    """The weights after each step."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self.seen.append([p.detach().clone() for p in module.parameters()])


def mean_of(seen: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(each).mean(0) for each in zip(*seen[START::EVERY], strict=True)]


def ema_of(seen: list[list[Tensor]]) -> list[Tensor]:
    first, *others = [seen[i] for i in range(START, len(seen)) if i % 3 == 0]
    for each in others:
        first = [0.7 * a + 0.3 * b for a, b in zip(first, each, strict=True)]
    return first


AVERAGES: dict[str, tuple[Callable[[], WeightAveraging], Callable[[Any], list[Tensor]]]] = {
    "mean": (MeanFrom, mean_of),
    "ema": (ema, ema_of),
}
BESIDE: dict[str, Callable[[], list[Any]]] = {
    "alone": list,
    "guard": lambda: [StepGuard(NoChange())],
    "noise": lambda: [NeuralVariability(0.05)],
}


def fit(*callbacks: Any, **kwargs: Any) -> Any:
    module = SomebodysModule()
    trainer = quiet(callbacks=[Unlearn(NPO()), *callbacks], **{"max_epochs": 3, **kwargs})
    data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2, n=12), order=CyclicOrder())
    trainer.fit(module, datamodule=data, ckpt_path=trainer_path(trainer))
    return module


def trainer_path(trainer: pl.Trainer) -> Any:
    return getattr(next((c for c in trainer.callbacks if isinstance(c, ResumesFrom)), None), "path", None)


class ResumesFrom(pl.Callback):
    """Says where the fit goes on from."""

    def __init__(self, path: Path) -> None:
        self.path = path


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("kind", AVERAGES)
def test_the_fit_hands_back_the_average_of_its_forget_steps(kind: str, beside: str) -> None:
    make, oracle = AVERAGES[kind]
    bare, averaged = Trajectory(), Trajectory()
    plain = fit(*BESIDE[beside](), bare)
    module = fit(*BESIDE[beside](), make(), averaged)
    assert len(bare.seen) == 18
    for a, b in zip(bare.seen, averaged.seen, strict=True):  # averaging does not disturb a step
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    for p, expected in zip(module.parameters(), oracle(averaged.seen), strict=True):
        assert_close(p, expected, rtol=0, atol=1e-6)
    assert not same(module, plain)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("kind", AVERAGES)
def test_the_last_look_is_at_the_averaged_weights(kind: str, order: int) -> None:
    check = RecoveryCheck({"int4": Quantize(bits=4)})
    module = fit(*[AVERAGES[kind][0](), check][::order])
    assert levels(check)[-1] == (18, pytest.approx(probability_by_hand(module), abs=1e-6))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("step", [3, 12])  # before the first average, and at the end of an epoch
@pytest.mark.parametrize("kind", AVERAGES)
def test_a_resumed_fit_hands_back_the_same_average(kind: str, step: int, tmp_path: Path) -> None:
    def run(folder: str, *more: Any) -> Any:
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        return fit(StepGuard(NoChange()), AVERAGES[kind][0](), saved, *more, enable_checkpointing=True)

    whole = run("whole")
    assert same(whole, run("again", ResumesFrom(tmp_path / "whole" / f"step={step}.ckpt")))


@pytest.mark.slow
def test_from_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real command line; the average is of the last steps, by the same callback as above."""
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    settings = "{decay: 0.8, update_every_n_steps: 3, update_starting_at_step: 4}"
    Path("mine.yaml").write_text(
        "base: bundled:averaged\nfinetune_first: {epochs: 1}\nreport: {folder: report}\n"
        "trainer: {max_epochs: 3, callbacks: [{class_path: EMAWeightAveraging, init_args: " + settings + "}]}\n"
    )
    cli = main(["fit", "--config", "mine.yaml"])
    (average,) = (c for c in cli.trainer.callbacks if isinstance(c, EMAWeightAveraging))
    (check,) = (c for c in cli.trainer.callbacks if isinstance(c, RecoveryCheck))
    assert (average.update_starting_at_step, average.update_every_n_steps) == (4, 3)
    assert int(average._average_model.n_averaged) == len([i for i in range(4, 18) if i % 3 == 0])
    for p, q in zip(cli.model.parameters(), average._average_model.module.parameters(), strict=True):
        assert torch.equal(p.cpu(), q.cpu())
    assert check._last.is_of(cli.trainer.global_step, cli.model)
