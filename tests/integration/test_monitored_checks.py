"""Whatever monitors a value of `RecoveryCheck` finds that of the model as it is at this moment."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import HostileModule, SomebodysModule, examples, loader, quiet
from _observed_fits import KEY, Remembering, Validated, int4_check, levels, observed_fit, probability_by_hand
from _ranks import run_ranks
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, DistributedSampler

from lightning_unlearn import (
    AnswerProbability,
    Bounded,
    GradientAscent,
    Quantize,
    RecoveryCheck,
    Relearn,
    Unlearn,
    WriteReport,
)
from lightning_unlearn.audits import Measure
from lightning_unlearn.report import RobustnessReport, assess

WORST = "recovery/worst"
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "twice an epoch": {"val_check_interval": 0.5},
    "every two batches": {"val_check_interval": 2},
    "over epochs": {"val_check_interval": 4, "check_val_every_n_epoch": None},
    "every second epoch": {"check_val_every_n_epoch": 2},
    "no validation": {"limit_val_batches": 0},
    "no sanity check": {"num_sanity_val_steps": 0},
    "part of the batches": {"limit_train_batches": 4, "val_check_interval": 2},
    "one batch again and again": {"overfit_batches": 1},
    "accumulated": {"accumulate_grad_batches": 4, "val_check_interval": 0.5},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*overfit")


class Reads:
    """What was read of `KEY`, at which step, and what it should have been."""

    def __init__(self) -> None:
        self.found: list[tuple[int, float, float]] = []

    def read(self, trainer: pl.Trainer) -> None:
        value = float(trainer.callback_metrics.get(KEY, torch.tensor(torch.nan)))
        self.found.append((trainer.global_step, value, probability_by_hand(trainer.lightning_module)))

    def are_right(self) -> bool:
        return bool(self.found) and all(read == pytest.approx(true, abs=1e-6) for _, read, true in self.found)


class ReadingStop(EarlyStopping):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(KEY, patience=100, **kwargs)
        self.reads = Reads()

    def _run_early_stopping_check(self, trainer: pl.Trainer) -> None:
        self.reads.read(trainer)
        super()._run_early_stopping_check(trainer)


class ReadingCheckpoint(ModelCheckpoint):
    def __init__(self, folder: Path, **kwargs: Any) -> None:
        super().__init__(folder, monitor=KEY, save_top_k=-1, **kwargs)
        self.reads = Reads()

    def _save_topk_checkpoint(self, trainer: pl.Trainer, monitor_candidates: Any) -> None:
        self.reads.read(trainer)
        super()._save_topk_checkpoint(trainer, monitor_candidates)


@pytest.mark.parametrize("every_n_epochs", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("setting", SETTINGS)
def test_early_stopping_and_model_checkpoint_read_this_moments_value(
    setting: str, every_n_epochs: int, tmp_path: Path
) -> None:
    stop, save = ReadingStop(), ReadingCheckpoint(tmp_path)
    observed_fit(stop, save, int4_check(every_n_epochs=every_n_epochs), max_epochs=2, **SETTINGS[setting])
    assert stop.reads.are_right()
    assert save.reads.are_right()


SAVES: list[dict[str, Any]] = [
    {"every_n_train_steps": 4},
    {"every_n_train_steps": 3},  # at the end of the epoch, too
    {"every_n_train_steps": 3, "save_on_train_epoch_end": True},
    {"every_n_epochs": 2},
    {"every_n_epochs": 2, "save_on_train_epoch_end": False},
    {"train_time_interval": timedelta(seconds=0)},
]


@pytest.mark.parametrize("when", SAVES)
@pytest.mark.parametrize(
    "setting", [*(pytest.param(s, marks=pytest.mark.slow) for s in ("default", "accumulated")), "twice an epoch"]
)
def test_model_checkpoint_reads_it_whenever_it_saves(when: dict[str, Any], setting: str, tmp_path: Path) -> None:
    save = ReadingCheckpoint(tmp_path, **when)
    observed_fit(int4_check(every_n_epochs=0), save, max_epochs=4, **SETTINGS[setting])
    assert save.reads.are_right()


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_scheduler_reads_it(interval: str) -> None:
    class Plateau(Validated):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()["optimizer"]
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": interval, "frequency": 2, "monitor": KEY},
            }

        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            reads.read(self.trainer)
            super().lr_scheduler_step(scheduler, metric)

    reads = Reads()
    observed_fit(int4_check(every_n_epochs=0, every_n_steps=5), module=Plateau(), max_epochs=4)
    assert reads.are_right()
    assert [step for step, *_ in reads.found] == ([12, 24] if interval == "epoch" else list(range(2, 25, 2)))


@pytest.mark.parametrize("hook", ["on_validation_end", "on_train_epoch_end"])
def test_a_monitor_of_ones_own_reads_it(hook: str) -> None:
    class Own(pl.Callback):
        monitor = KEY

    reads, own = Reads(), Own()
    setattr(own, hook, lambda trainer, module: trainer.sanity_checking or reads.read(trainer))
    observed_fit(int4_check(every_n_epochs=0), own, max_epochs=2, val_check_interval=0.5)
    assert reads.are_right()


@pytest.mark.parametrize(
    ("monitor", "steps"),
    [
        (None, [0, 6, 12]),
        ("val_loss", [0, 6, 12]),
        ("recovery/other/probability", [0, 6, 12]),
        (KEY, [0, 3, 6, 9, 12]),
        (WORST, [0, 3, 6, 9, 12]),
        ("recovery/int4/retain_probability", [0, 3, 6, 9, 12]),
    ],
)
def test_a_validation_is_no_look_of_its_own(monitor: str | None, steps: list[int]) -> None:
    """Only if somebody reads then: a look is not cheap."""
    checked = int4_check()
    observed_fit(
        checked,
        *([EarlyStopping(monitor, patience=100, strict=False)] if monitor else []),
        max_epochs=2,
        val_check_interval=0.5,
    )
    assert [step for step, _ in levels(checked)] == steps


RARELY = {"log_every_n_steps": 4}  # how often Lightning writes what `self.log` took in a step


@pytest.mark.parametrize("setting", sorted(set(SETTINGS) - {"one batch again and again"}))
def test_loggers_get_each_look_once_with_its_step(setting: str, tmp_path: Path) -> None:
    logger, checked = Remembering(), int4_check(every_n_steps=5)
    monitors = [EarlyStopping(KEY, patience=100), ReadingCheckpoint(tmp_path, every_n_train_steps=3)]
    observed_fit(checked, *monitors, logger=logger, max_epochs=2, **SETTINGS[setting], **RARELY)
    assert logger.of(KEY) == [(step, pytest.approx(value)) for step, value in levels(checked)]


def test_fast_dev_run_looks_at_both_ends(tmp_path: Path) -> None:
    checked = int4_check()
    observed_fit(checked, EarlyStopping(KEY), ModelCheckpoint(tmp_path, monitor=KEY), fast_dev_run=True)
    assert [step for step, _ in levels(checked)] == [0, 1]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_two_checks_share_a_trainer(tmp_path: Path) -> None:
    def two() -> list[Any]:
        return [
            int4_check(every_n_epochs=1),
            RecoveryCheck({"int3": Quantize(bits=3)}, every_n_epochs=2),
            ModelCheckpoint(tmp_path / "kept", save_last=True),
        ]

    logger, (often, seldom, keep) = Remembering(), two()
    trainer, _ = observed_fit(often, seldom, keep, WriteReport(str(tmp_path / "report")), logger=logger, max_epochs=2)
    assert [step for step, _ in levels(often)] == [0, 6, 12]
    assert [step for step, _ in levels(seldom)] == [0, 12]
    assert logger.of(KEY) == [(step, pytest.approx(value)) for step, value in levels(often)]
    assert {"recovery/int4/probability", "recovery/int3/probability"} <= set(trainer.callback_metrics)
    report = trainer.callbacks[-2].report
    keys = [(o.subject, o.step, o.attack, o.point, o.split, o.metric) for o in report.observations]
    assert len(keys) == len(set(keys))
    assert {o.attack for o in report.observations} == {"none", "int4", "int3"}

    again = two()
    observed_fit(*again, max_epochs=3, ckpt_path=tmp_path / "kept" / "last.ckpt")
    assert [step for step, _ in levels(again[0])] == [0, 6, 12, 18]
    assert [step for step, _ in levels(again[1])] == [0, 12, 18]
    assert levels(again[0])[:3] == levels(often)


class ReadingWorst(EarlyStopping):
    """Reads `recovery/worst`, and what the report would say at this moment."""

    def __init__(self, check: RecoveryCheck) -> None:
        super().__init__(WORST, patience=100)
        self.check, self.found = check, list[tuple[float, float]]()

    def _run_early_stopping_check(self, trainer: pl.Trainer) -> None:
        report = assess(self.check.observations)
        true = max(r.shown.value for r in report.recoveries if r.metric == report.summary["headline_metric"])
        self.found.append((float(trainer.callback_metrics[WORST]), true))
        super()._run_early_stopping_check(trainer)


@pytest.mark.parametrize("control", [None, "control.ckpt"])
def test_the_worst_case_is_the_reports_largest_number_at_each_moment(control: str | None, tmp_path: Path) -> None:
    if control is not None:
        never_knew = {name: -0.5 * weight + 0.01 for name, weight in Validated().state_dict().items()}
        torch.save({"state_dict": never_knew}, control)
    attacks = {"int3": Quantize(bits=3), "relearn": Relearn(steps=4, lr=0.1, mode="full")}
    checked = RecoveryCheck(dict(attacks), control=control, every_n_epochs=0)
    stop, save = ReadingWorst(checked), ModelCheckpoint(tmp_path / "kept", monitor=WORST, mode="min")
    observed_fit(checked, stop, save, max_epochs=4)
    pairs = [(read, true) for read, true in stop.found if read != 1.0]
    assert len(pairs) >= 2
    assert all(read == pytest.approx(true, abs=1e-6) for read, true in pairs)
    assert float(save.best_model_score) == pytest.approx(min(read for read, _ in stop.found))


@pytest.mark.slow
def test_two_processes_agree_on_the_worst_case() -> None:
    def on_rank(rank: int, world_size: int) -> tuple[list[tuple[float, float]], float]:
        pl.seed_everything(0, verbose=False)
        attacks = {"int3": Quantize(bits=3), "relearn": Relearn(steps=2, lr=0.1, mode="full")}
        checked = RecoveryCheck(
            dict(attacks),
            probes={"forget": loader(seed=2, n=12), "retain": loader(seed=1)},
            attack_data=loader(seed=2, n=12),
            every_n_epochs=0,
        )
        stop, retain = ReadingWorst(checked), examples(1)
        unlearn = Unlearn(Bounded(GradientAscent(), bound=6.0), forget=loader(seed=2, n=12))
        trainer = quiet(
            strategy=DDPStrategy(find_unused_parameters=True),
            devices=world_size,
            callbacks=[unlearn, checked, stop],
            use_distributed_sampler=False,
            max_epochs=4,
            limit_val_batches=0,
        )
        sampler: Any = DistributedSampler(retain, world_size, rank, shuffle=False)
        trainer.fit(SomebodysModule(), DataLoader(retain, 4, sampler=sampler))
        return stop.found, float(stop.best_score)

    first, second = run_ranks(on_rank)
    assert first == second
    assert all(read == pytest.approx(true, abs=1e-6) for read, true in first[0] if read != 1.0)
    assert len(first[0]) == 4


def test_cheap_looks_are_often_and_dear_ones_at_both_ends(tmp_path: Path) -> None:
    """The documented way, monitored by the cheap check's values: nobody asks the dear ones to look."""
    often = int4_check(every_n_epochs=1)
    at_end = RecoveryCheck({"relearn": Relearn(steps=2, mode="full")}, every_n_epochs=0)
    said = RecoveryCheck(audits=[Measure({"said": AnswerProbability()})], every_n_epochs=0)
    monitors = [EarlyStopping(WORST, patience=100), ModelCheckpoint(tmp_path / "kept", monitor=KEY)]
    logger = Remembering()
    observed_fit(often, at_end, said, *monitors, WriteReport(str(tmp_path / "report")), logger=logger, max_epochs=3)
    looks = {name: sorted({o.step for o in c.observations}) for name, c in (("often", often), ("at_end", at_end))}
    assert looks == {"often": [0, 6, 12, 18], "at_end": [0, 18]}
    assert sorted({o.step for o in said.observations}) == [0, 18]
    assert [step for step, _ in logger.of(WORST)] == [0, 6, 12, 18]
    report = RobustnessReport.load(tmp_path / "report")
    assert {r.attack for r in report.recoveries} == {"int4", "relearn"}
    assert {level.metric for level in report.levels} >= {"probability", "said"}


def test_checks_of_equal_attacks_do_not_share_a_trainer() -> None:
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `RecoveryCheck`"):
        quiet(callbacks=[int4_check(), int4_check()])


def test_a_second_fit_starts_afresh() -> None:
    checked, report = int4_check(), WriteReport("unused")
    observed_fit(checked, max_epochs=2)
    before = levels(checked)
    observed_fit(checked, module=Validated("sgd"), max_epochs=1)
    assert [step for step, _ in levels(checked)] == [0, 6]
    assert levels(checked)[1][1] not in [value for _, value in before]
    assert report.report is None


@pytest.mark.parametrize("breaks_off_at", [0, 2])
def test_a_second_fit_starts_afresh_after_one_that_broke_off_before_its_second_look(breaks_off_at: int) -> None:
    class BreaksOff(SomebodysModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == breaks_off_at:
                raise RuntimeError("no memory")
            return super().training_step(batch, batch_idx)

    def observed(checked: RecoveryCheck) -> list[tuple[str, str, float]]:
        module = SomebodysModule()
        module.head.weight.data.mul_(9)
        quiet(callbacks=[checked]).fit(module, loader(1))
        return [(o.subject, o.split, o.value) for o in checked.observations]

    checked = RecoveryCheck(probes={"forget": loader(2)}, every_n_epochs=0)
    with pytest.raises(RuntimeError, match="no memory"):
        quiet(callbacks=[checked]).fit(BreaksOff(), loader(3))
    assert checked.observations
    assert observed(checked) == observed(RecoveryCheck(probes={"forget": loader(2)}, every_n_epochs=0))


def test_the_same_fit_goes_on() -> None:
    checked = int4_check()
    trainer, module = observed_fit(checked, max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader(seed=1), loader(seed=3, n=12))
    assert [step for step, _ in levels(checked)] == [0, 6, 12]


@pytest.mark.parametrize("setting", ["twice an epoch", "accumulated"])
def test_looks_within_validations_leave_the_fit_and_its_logs_the_same_to_the_bit(setting: str) -> None:
    ends = []
    for looks in ([], [int4_check(every_n_epochs=0), EarlyStopping(KEY, patience=100)]):
        pl.seed_everything(3)
        logger = Remembering()
        _, module = observed_fit(*looks, module=HostileModule(), logger=logger, max_epochs=2, **SETTINGS[setting])
        own = [(step, key, value) for step, key, value in logger.logged if not key.startswith("recovery/")]
        ends.append((module.state_dict(), own))
    (plain, logged), (checked, logged_too) = ends
    assert all(torch.equal(plain[name], checked[name]) for name in plain)
    assert logged == logged_too
    assert {"train_loss_step", "val_loss"} <= {key for _, key, _ in logged}
