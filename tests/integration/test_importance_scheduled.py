"""Each example keeps the objective that the original's view of it chose: in a fit, resumed, in two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, examples, loader, quiet, same
from _ranks import run_ranks
from _sharded_fits import STRATEGIES, data, whole
from _sharded_fits import loader as shared_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import DPO, NPO, ClassificationReadout, GradientAscent, MeasureImportance, Unlearn
from lightning_unlearn.objectives import ImportanceScheduled, KLToReference, UniformLabel
from lightning_unlearn.prediction import KnownLikelihood, Prediction
from lightning_unlearn.readouts import PairedPrediction, PairedReadout


def scheduled(thresholds: list[float] | None = None) -> ImportanceScheduled:
    return ImportanceScheduled([UniformLabel(), NPO(beta=0.1), NPO(beta=1.0)], thresholds)


def fit(objective: ImportanceScheduled, *callbacks: Any, **kwargs: Any) -> Any:
    module = SomebodysModule()
    ckpt_path = kwargs.pop("ckpt_path", None)
    trainer = quiet(
        callbacks=[Unlearn(objective, forget=loader(seed=2, n=12)), *callbacks], **{"max_epochs": 2, **kwargs}
    )
    trainer.fit(module, loader(seed=1), ckpt_path=ckpt_path)
    return module


def importances() -> Tensor:
    """By hand: one minus the probability of each label, in the network before the fit."""
    x, y = examples(2, 12).tensors
    return 1 - F.softmax(SomebodysModule()(x), 1)[torch.arange(12), y].detach()


def test_the_partition_at_absolute_thresholds() -> None:
    """As in the code of FIT, where 0 and 5.99 are small, 6 and 11.99 in the middle, 12 and 50 large."""
    levels = ImportanceScheduled([NPO(), NPO(), NPO()], [6.0, 12.0]).levels(torch.tensor([0, 5.99, 6, 11.99, 12, 50]))
    assert levels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_batch_of_one_level_is_its_objective_alone() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    student = Prediction(logits, torch.tensor([0, 1, 2, 3]), torch.arange(4), 4)
    known = KnownLikelihood(torch.full((4,), 0.1, dtype=torch.float64), torch.arange(4), 4)
    assert_close(scheduled([0.5, 0.9])(student, known), UniformLabel()(student))
    assert_close(scheduled([0.01, 0.9])(student, known), NPO(beta=0.1)(student, known))
    assert_close(scheduled([0.001, 0.01])(student, known), NPO(beta=1.0)(student, known))


def test_measured_thresholds_are_quantiles_of_the_original() -> None:
    objective = scheduled()
    fit(objective, MeasureImportance())
    expected = importances().double().quantile(torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))
    assert objective.get_extra_state() == pytest.approx(expected.tolist(), rel=1e-5)
    assert torch.bincount(objective.levels(importances()), minlength=3).tolist() == [4, 4, 4]


def test_measured_and_given_thresholds_give_the_same_fit() -> None:
    measured = scheduled()
    first = fit(measured, MeasureImportance())
    assert same(first, fit(scheduled(measured.get_extra_state())))
    assert not same(first, fit(scheduled([1e-9, 1.0])))


def test_companions_follow_what_they_are_companions_of() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    student = PairedPrediction(logits, torch.tensor([0, 1, 2, 3]), torch.arange(4), 4)
    known = KnownLikelihood(torch.tensor([0.1, 9.0, 9.0, 0.1], dtype=torch.float64), torch.arange(4), 4)
    found = ImportanceScheduled([DPO(beta=0.5), DPO(beta=2.0)], thresholds=[0.5])(student, known)
    pairs = [torch.tensor([0, 2]), torch.tensor([1, 3])]
    expected = [DPO(beta)(student.rows(p), known.rows(p)) for beta, p in zip((0.5, 2.0), pairs, strict=True)]
    assert_close(found, torch.stack(expected).mean())


def test_thresholds_are_quantiles_of_what_must_go_and_not_of_companions() -> None:
    rows, other = examples(2, 12), examples(5, 12)
    named = [{"x": x, "y": y, "companion": {"x": u, "y": v}} for (x, y), (u, v) in zip(rows, other, strict=True)]
    objective, readout = scheduled(), PairedReadout(ClassificationReadout("x", "y"))
    unlearn = Unlearn(objective, forget=DataLoader(named, batch_size=4), readout=readout)
    quiet(callbacks=[unlearn, MeasureImportance()], max_steps=1).fit(SomebodysModule(), loader(seed=1))
    expected = importances().double().quantile(torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))
    assert objective.get_extra_state() == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """Thresholds measured anew, in the network as it is by then, would be others."""

    def run(folder: str, **kwargs: Any) -> tuple[Any, ImportanceScheduled]:
        objective = scheduled()
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        return fit(objective, MeasureImportance(), saved, enable_checkpointing=True, **kwargs), objective

    complete, objective = run("whole")
    resumed, again = run("again", ckpt_path=tmp_path / "whole" / "step=6.ckpt")
    assert same(complete, resumed)
    assert again.get_extra_state() == objective.get_extra_state()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_equal_one(kind: str) -> None:
    def run(kind: str | None, rank: int, world_size: int) -> dict[str, Tensor]:
        module_class, strategy = STRATEGIES[kind] if kind else (SomebodysModule, lambda: "auto")
        module = module_class("adamw")
        forget = DataLoader(
            data(2, 8, False), batch_size=8 // world_size
        )  # whole batches: every rank has equally many rows
        objective = ImportanceScheduled([UniformLabel(), GradientAscent()])
        trainer = quiet(
            strategy=strategy(),
            devices=world_size,
            callbacks=[Unlearn(objective, forget=forget), MeasureImportance()],
            use_distributed_sampler=False,
        )
        trainer.fit(module, shared_loader(data(1, 32, False), rank, world_size))
        return whole(module, kind)

    expected = run(None, 0, 1)
    for found in run_ranks(lambda rank, world: run(kind, rank, world)):
        for name, value in expected.items():
            assert_close(found[name], value, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


# What cannot work is refused


def test_without_thresholds_it_says_who_finds_them() -> None:
    with pytest.raises(ValueError, match=r"should know the thresholds.* Found none. .*MeasureImportance\(\)"):
        fit(scheduled())


def test_there_has_to_be_something_to_measure() -> None:
    with pytest.raises(
        ValueError, match=r"an `ImportanceScheduled` without thresholds. Found `thresholds = \[0.1, 0.2\]`"
    ):
        fit(scheduled([0.1, 0.2]), MeasureImportance())


@pytest.mark.parametrize("thresholds", [[0.5], [0.2, 0.1], [0.1, 0.1], [0.1, float("nan")]])
def test_thresholds_that_do_not_fit_are_refused(thresholds: list[float]) -> None:
    with pytest.raises(ValueError, match="`thresholds` should be"):
        scheduled(thresholds)


def test_one_objective_is_no_choice() -> None:
    with pytest.raises(ValueError, match="at least two to choose from. Found 1"):
        ImportanceScheduled([NPO()])


def test_it_needs_what_its_objectives_need() -> None:
    assert not scheduled().needs_reference_logits
    assert ImportanceScheduled([NPO(), KLToReference()]).needs_reference_logits
