"""The last look, and the report, are of the weights that the fit hands back; a resumed fit makes good what is missing."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import loader, quiet
from _observed_fits import Remembering, Validated, WithBatchNorm, int4_check, levels, observed_fit, probability_by_hand
from _ranks import run_ranks
from _sharded_fits import Sharded, fsdp2
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.tuner import Tuner
from torch import nn

from lightning_unlearn import (
    Bounded,
    GradientAscent,
    Quantize,
    RecoveryCheck,
    Relearn,
    StepGuard,
    Unlearn,
    WriteReport,
)
from lightning_unlearn.callbacks import _write_report
from lightning_unlearn.report import RobustnessReport

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*averag"),
    pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*was called without a model"),
    pytest.mark.filterwarnings("ignore:.*there is no last checkpoint available"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


@pytest.fixture(autouse=True)
def _nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are read from their callback."""
    monkeypatch.setattr(_write_report, "save", lambda report, folder: None)
    monkeypatch.setattr(_write_report, "print_table", lambda *args, **kwargs: None)


def rounded(module: pl.LightningModule) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.mul(4).round().div(4))


class Rounds(pl.Callback):
    """Leaves other weights behind."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, lambda trainer, module, *args: rounded(module))


class RoundsItself(Validated):
    hook = "on_fit_end"

    def on_train_end(self) -> None:
        if self.hook == "on_train_end":
            rounded(self)

    def on_fit_end(self) -> None:
        if self.hook == "on_fit_end":
            rounded(self)


class RoundsItselfEarlier(RoundsItself):
    hook = "on_train_end"


SWAPS: dict[str, Any] = {
    "nothing": lambda: (Validated(), []),
    "swa": lambda: (Validated("sgd"), [StochasticWeightAveraging(1e-2, 1)]),
    "swa with batchnorm": lambda: (WithBatchNorm(), [StochasticWeightAveraging(1e-2, 1)]),
    "mean": lambda: (Validated(), [WeightAveraging()]),
    "ema": lambda: (Validated(), [EMAWeightAveraging(decay=0.5)]),
    "callback, on_train_end": lambda: (Validated(), [Rounds("on_train_end")]),
    "callback, on_fit_end": lambda: (Validated(), [Rounds("on_fit_end")]),
    "module, on_train_end": lambda: (RoundsItselfEarlier(), []),
    "module, on_fit_end": lambda: (RoundsItself(), []),
}


class Counting(RecoveryCheck):
    """Remembers at which weights it looked."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__({"int4": Quantize(bits=4)}, **kwargs)
        self.looked_at: list[float] = []

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Any:
        self.looked_at.append(probability_by_hand(pl_module))
        return super().check(trainer, pl_module)


@pytest.mark.parametrize("every_n_epochs", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("first", ["check", *(pytest.param(o, marks=pytest.mark.slow) for o in ("report", "other"))])
@pytest.mark.parametrize("swap", SWAPS)
def test_the_report_is_of_the_weights_that_the_fit_hands_back(
    swap: str, first: str, every_n_epochs: int, tmp_path: Path
) -> None:
    module, others = SWAPS[swap]()
    checked, report = Counting(every_n_epochs=every_n_epochs), WriteReport(str(tmp_path))
    order = {
        "check": [checked, report, *others],
        "report": [report, checked, *others],
        "other": [*others, checked, report],
    }[first]
    trainer, module = observed_fit(*order, module=module, max_epochs=3)
    true = probability_by_hand(module)
    assert levels(checked)[-1] == (trainer.global_step, pytest.approx(true, abs=1e-6))
    assert report.report is not None
    (level,) = [
        each.interval.value
        for each in report.report.levels
        if (each.model, each.split, each.metric) == ("unlearned", "forget", "probability")
    ]
    assert level == pytest.approx(true, abs=1e-6)
    assert report.report.run["steps"] == trainer.global_step
    assert len(set(checked.looked_at)) == len(checked.looked_at)  # never twice at the same weights
    if swap in ("nothing", "swa", "swa with batchnorm", "mean", "ema"):
        assert len(checked.looked_at) == (1 if every_n_epochs == 0 else 3 if swap == "nothing" else 4)


@pytest.mark.parametrize("guard", [[], [StepGuard]], ids=["alone", "guarded"])
@pytest.mark.parametrize("own", [False, True], ids=["merged", "own optimizer"])
def test_the_pass_that_renews_batchnorm_after_averaging_forgets_nothing(own: bool, guard: list[Any]) -> None:
    """Lightning takes it for a step. Without us it moves no weight."""
    swa, optimizer = (
        StochasticWeightAveraging(1e-2, 1),
        (lambda params: torch.optim.SGD(params, lr=1e-2)) if own else None,
    )
    unlearn = Unlearn(Bounded(GradientAscent(), bound=6.0), forget=loader(seed=2, n=12), optimizer=optimizer)
    trainer, module = quiet(callbacks=[unlearn, *(make() for make in guard), swa], max_epochs=3), WithBatchNorm()
    trainer.fit(module, loader(seed=1), loader(seed=3, n=12))
    assert trainer.global_step == 19
    assert unlearn._steps == {"merged": 18, "taken": 18}
    assert swa._average_model is not None
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), swa._average_model.parameters(), strict=True))


@pytest.mark.parametrize("check_first", [True, False])
def test_in_a_validation_the_order_says_whether_averaged_weights_are_attacked(check_first: bool) -> None:
    """Averaged weights are put in and out by the hooks of validation."""

    class Averages(EMAWeightAveraging):
        """Says what its weights know."""

        def average(self) -> float:
            assert self._average_model is not None
            return probability_by_hand(self._average_model.module)

        def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.raw, self.averaged = probability_by_hand(pl_module), self.average()
            super().on_validation_epoch_start(trainer, pl_module)

    checked, averages = int4_check(every_n_epochs=0), Averages(decay=0.8)
    stop = EarlyStopping("recovery/none/probability", patience=9, check_on_train_epoch_end=False)
    _, module = observed_fit(*([checked, averages] if check_first else [averages, checked]), stop, max_epochs=1)
    assert averages.raw != pytest.approx(averages.averaged, abs=1e-4)
    expected = averages.averaged if check_first else averages.raw
    looks = levels(checked)
    if check_first:  # the last look was at these weights already
        assert [step for step, _ in looks] == [0, 6]
        assert looks[-1][1] == pytest.approx(expected, abs=1e-6)
    assert float(stop.best_score) == pytest.approx(expected, abs=1e-6)
    assert looks[-1][1] == pytest.approx(probability_by_hand(module), abs=1e-6)


class Killed(BaseException):
    """Stands for a process that ends."""


class KilledIn(pl.Callback):
    """Ends the fit in a hook, once all callbacks before it had their turn."""

    def __init__(self, hook: str) -> None:
        def kill(*args: Any, **kwargs: Any) -> None:
            raise Killed

        setattr(self, hook, kill)


def kills_the_second_time() -> Quantize:
    """Bears the look at the original, and ends the process in the next one."""
    calls: list[Any] = []

    class Killing(Quantize):
        def __call__(self, network: nn.Module, **kwargs: Any) -> Any:
            calls.append(network)
            if len(calls) == 2:
                raise Killed
            return super().__call__(network, **kwargs)

    Killing.__name__ = "Quantize"  # what the report says of it is the same
    return Killing(bits=3)


def attacks() -> dict[str, Any]:
    return {"int4": Quantize(bits=4), "int3": Quantize(bits=3), "relearn": Relearn(steps=1, lr=1e-1, mode="full")}


def last_saved(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, every_n_train_steps=6, save_top_k=-1, filename="{step}")


def comparable(report: RobustnessReport) -> dict[str, Any]:
    told = json.loads(report.to_json())
    told["run"] = {name: told["run"][name] for name in ("steps", "objective", "notes")}
    del told["record"]["costs"], told["record"]["budget"]  # seconds, and looks that a killed run made for nothing
    return {name: value for name, value in told.items() if name not in ("created", "id")}


def whole(folder: Path, **limit: int) -> tuple[RecoveryCheck, WriteReport, Any]:
    checked, report = RecoveryCheck(attacks(), every_n_epochs=0), WriteReport(str(folder / "whole"))
    _, module = observed_fit(checked, report, last_saved(folder / "other"), **limit)
    return checked, report, module


@pytest.mark.slow
@pytest.mark.parametrize(
    "killed",
    [
        lambda: [RecoveryCheck({**attacks(), "int3": kills_the_second_time()}, every_n_epochs=0)],
        lambda: [KilledIn("on_train_end"), RecoveryCheck(attacks(), every_n_epochs=0)],
        lambda: [RecoveryCheck(attacks(), every_n_epochs=0), KilledIn("on_train_end")],
        lambda: [RecoveryCheck(attacks(), every_n_epochs=0), KilledIn("on_fit_end")],
        lambda: [RecoveryCheck(attacks(), every_n_epochs=0), KilledIn("teardown")],
    ],
    ids=["in the final check", "before it", "after it", "at the end of the fit", "before the report"],
)
@pytest.mark.parametrize("limit", [{"max_epochs": 2}, {"max_epochs": -1, "max_steps": 12}])
def test_a_fit_killed_at_its_end_is_made_good(killed: Any, limit: dict[str, int], tmp_path: Path) -> None:
    expected, expected_report, module = whole(tmp_path, **limit)
    with pytest.raises(Killed):
        observed_fit(*killed(), WriteReport(str(tmp_path / "killed")), last_saved(tmp_path / "kept"), **limit)
    checked, report = RecoveryCheck(attacks(), every_n_epochs=0), WriteReport(str(tmp_path / "resumed"))
    _, resumed = observed_fit(
        checked, report, last_saved(tmp_path / "kept"), ckpt_path=tmp_path / "kept" / "step=12.ckpt", **limit
    )
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), resumed.parameters(), strict=True))
    assert checked.observations == expected.observations
    assert checked.about_data() == expected.about_data()
    assert checked.restored
    assert report.report is not None
    assert expected_report.report is not None
    assert comparable(report.report) == comparable(expected_report.report)


@pytest.mark.slow
def test_a_fit_killed_in_the_check_of_an_epoch_is_made_good(tmp_path: Path) -> None:
    """Its checkpoint is of the last step of this epoch; Lightning does not end the epoch a second time."""
    expected = RecoveryCheck(attacks())
    observed_fit(expected, last_saved(tmp_path / "other"), max_epochs=2)
    with pytest.raises(Killed):
        killed = RecoveryCheck({**attacks(), "int3": kills_the_second_time()})
        observed_fit(killed, last_saved(tmp_path / "kept"), max_epochs=2)
    checked = RecoveryCheck(attacks())
    observed_fit(checked, last_saved(tmp_path / "kept"), max_epochs=2, ckpt_path=tmp_path / "kept" / "step=6.ckpt")
    assert checked.observations == expected.observations


def test_a_fit_without_a_step_left_looks_once_more_if_it_must_and_never_if_it_need_not(tmp_path: Path) -> None:
    """The checkpoint of the last step is made before the last look, that of the last epoch behind it."""
    saves = [last_saved(tmp_path), ModelCheckpoint(tmp_path, filename="epoch-{epoch}", save_on_train_epoch_end=True)]
    first = Counting()
    observed_fit(first, *saves, max_epochs=2)
    for name, looks in (("step=12", 1), ("epoch-epoch=1", 0)):
        again, report = Counting(), WriteReport(str(tmp_path / name))
        observed_fit(again, report, last_saved(tmp_path), max_epochs=2, ckpt_path=tmp_path / f"{name}.ckpt")
        assert len(again.looked_at) == looks
        assert levels(again) == levels(first)
        assert report.report is not None
        assert report.report.run["steps"] == 12
        assert report.report.data == first.about_data()  # also if no probe was opened
        assert again.restored


def test_checks_of_a_finished_fits_checkpoint_are_about_its_last_step(tmp_path: Path) -> None:
    first = int4_check(every_n_epochs=0)
    observed_fit(first, last_saved(tmp_path), max_epochs=2)
    data = loader(seed=2, n=12)
    again, report = int4_check(probes={"forget": data}, attack_data=data), WriteReport(str(tmp_path / "report"))
    trainer = quiet(callbacks=[again, report])
    trainer.validate(Validated(), loader(seed=3, n=12), ckpt_path=tmp_path / "step=12.ckpt")
    assert levels(again) == levels(first)
    assert report.report is not None
    assert report.report.run["steps"] == 12


def test_a_check_of_the_best_checkpoint_is_about_its_step_and_not_about_the_last(tmp_path: Path) -> None:
    checked, report = int4_check(), WriteReport(str(tmp_path / "report"))
    trainer, module = observed_fit(checked, report, last_saved(tmp_path), max_epochs=2)
    at_six = dict(levels(checked))[6]
    trainer.validate(module, loader(seed=3, n=12), ckpt_path=tmp_path / "step=6.ckpt")
    assert levels(checked)[-1] == (6, pytest.approx(at_six))
    assert report.report is not None
    assert report.report.run["steps"] == 6


def test_other_probes_in_a_resumed_run_are_noticed(tmp_path: Path) -> None:
    observed_fit(int4_check(), last_saved(tmp_path), max_epochs=1)
    checked = int4_check(probes={"forget": loader(seed=4, n=12)})
    with pytest.warns(UserWarning, match="Found other examples in `forget`: numbers from before and from now"):
        observed_fit(checked, last_saved(tmp_path), max_epochs=2, ckpt_path=tmp_path / "step=6.ckpt")


def test_with_other_attacks_a_resumed_fit_keeps_the_original(tmp_path: Path) -> None:
    first = int4_check()
    observed_fit(first, last_saved(tmp_path), max_epochs=1)
    checked = RecoveryCheck({"int3": Quantize(bits=3)})
    observed_fit(checked, last_saved(tmp_path), max_epochs=2, ckpt_path=tmp_path / "step=6.ckpt")
    originals = [o for o in checked.observations if o.subject == "original"]
    assert originals == [o for o in first.observations if o.subject == "original"]


def test_an_interrupted_look_at_the_original_is_made_anew(tmp_path: Path) -> None:
    class Interrupted(RecoveryCheck):
        def _observe_control(self, *args: Any) -> None:
            raise Killed

    save = OnExceptionCheckpoint(tmp_path, "broken")
    first = Interrupted(attacks())
    with pytest.raises(Killed):
        observed_fit(first, save, max_epochs=1)
    assert first.restored  # compared, although the look was not finished
    checked = RecoveryCheck(attacks())
    observed_fit(checked, last_saved(tmp_path), max_epochs=1, ckpt_path=tmp_path / "broken.ckpt")
    keys = [(o.subject, o.step, o.attack, o.point, o.split, o.metric) for o in checked.observations]
    assert len(keys) == len(set(keys))
    assert {o.attack for o in checked.observations if o.subject == "original"} == {"none", *attacks()}


def test_a_folder_that_is_full_does_not_lose_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_write_report, "save", full)
    checked, report = int4_check(), WriteReport(str(tmp_path))
    with pytest.warns(UserWarning, match=r"No space left on device. It is kept as the `report` of this `WriteReport`"):
        trainer, _ = observed_fit(checked, report, max_epochs=1)
    assert trainer.state.finished
    assert report.report is not None
    assert len(report.report.observations) == len(checked.observations)


@pytest.mark.filterwarnings("ignore:.*weights_only")
def test_a_search_for_the_learning_rate_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithRate(Validated):
        lr = 1e-2

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    monkeypatch.chdir(tmp_path)
    checked, report, logger = int4_check(), WriteReport(str(tmp_path / "report")), Remembering()
    trainer = quiet(callbacks=[checked, report], logger=logger, max_epochs=1, enable_checkpointing=True)
    module = WithRate()
    Tuner(trainer).lr_find(module, loader(seed=1), loader(seed=3), num_training=4, update_attr=False)
    assert not checked.observations
    assert report.report is None
    assert not report.training
    assert not logger.of("recovery/none/probability")
    assert not list(tmp_path.rglob("report.*"))

    checked = int4_check(probes={"forget": loader(seed=2, n=12)}, attack_data=loader(seed=2, n=12))
    finder = LearningRateFinder(num_training_steps=4, update_attr=False)
    observed_fit(finder, checked, module=WithRate(), max_epochs=1, enable_checkpointing=True)
    assert [step for step, _ in levels(checked)] == [0, 6]


class ShardedRoundsItself(RoundsItself, Sharded):
    pass


STRATEGIES: dict[str, Any] = {
    "ddp": (RoundsItself, lambda: DDPStrategy(find_unused_parameters=True)),
    "fsdp2": (ShardedRoundsItself, lambda: fsdp2(False)),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize("kind", STRATEGIES)
def test_two_processes_agree_that_weights_were_changed_at_the_end(kind: str) -> None:
    make, strategy = STRATEGIES[kind]

    def on_rank(rank: int, world_size: int) -> list[list[tuple[int, float]]]:
        checked, still = Counting(every_n_epochs=0), Counting(every_n_epochs=1)
        for check, hook in ((checked, "on_fit_end"), (still, "never")):
            module = make()
            module.hook = hook
            unlearn = Unlearn(Bounded(GradientAscent(), bound=6.0), forget=loader(seed=2, n=12))
            trainer = quiet(strategy=strategy(), devices=world_size, callbacks=[unlearn, check], limit_val_batches=0)
            trainer.fit(module, loader(seed=1))
        return [levels(checked), levels(still), [(len(checked.looked_at), 0.0), (len(still.looked_at), 0.0)]]

    of_rank = run_ranks(on_rank)
    assert of_rank[0] == of_rank[1]
    changed, _, looks = of_rank[0]
    assert [step for step, _ in changed] == [0, 3]
    assert looks == [(2, 0.0), (1, 0.0)]
