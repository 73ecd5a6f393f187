"""What `RecoveryCheck` and `WriteReport` give a user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_unlearn import (
    AnswerProbability,
    Bounded,
    ForgetRetainData,
    GradientAscent,
    Quantize,
    RandomOrder,
    RecoveryCheck,
    Relearn,
    Unlearn,
    WriteReport,
)
from lightning_unlearn.audits import Measure


def data() -> ForgetRetainData:
    return ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2, n=12), order=RandomOrder())


def check(**kwargs: Any) -> RecoveryCheck:
    return RecoveryCheck({"int4": Quantize(bits=4), "relearn": Relearn(steps=2, lr=1e-1, mode="full")}, **kwargs)


def fit(*callbacks: Any, **kwargs: Any) -> Any:
    module = SomebodysModule()
    trainer = quiet(
        callbacks=[Unlearn(Bounded(GradientAscent(), bound=6.0)), *callbacks], **{"max_epochs": 2, **kwargs}
    )
    trainer.fit(module, datamodule=data())
    return trainer, module


def test_logged_under_attack_and_metric() -> None:
    trainer, _ = fit(check())
    metrics = trainer.callback_metrics
    names = {f"recovery/{a}/{m}" for a in ("none", "int4", "relearn") for m in ("probability", "retain_probability")}
    assert names <= set(metrics)
    assert metrics["recovery/relearn/probability"] > metrics["recovery/none/probability"]


def test_value_equals_the_metric_computed_by_hand() -> None:
    trainer, module = fit(check())
    by_hand = []
    for x, y in data().forget.loader():
        by_hand.append(torch.softmax(module.eval()(x), -1).gather(1, y[:, None]).squeeze(1))
    assert trainer.callback_metrics["recovery/none/probability"].item() == pytest.approx(
        torch.cat(by_hand).mean().item(), abs=1e-6
    )


def test_model_checkpoint_and_early_stopping_can_monitor_it(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="recovery/int4/probability", mode="min", save_on_train_epoch_end=True)
    stop = EarlyStopping("recovery/none/probability", mode="max", patience=0, check_on_train_epoch_end=True)
    trainer, _ = fit(check(), best, stop, max_epochs=10, enable_checkpointing=True)
    assert best.best_model_score == min(
        look.value
        for look in trainer.callbacks[1].observations[1:]
        if (look.attack, look.split, look.metric) == ("int4", "forget", "probability") and look.step
    )
    assert trainer.current_epoch < 10  # the probability fell, so a run that wants it higher stops


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"every_n_epochs": 1}, [0, 3, 6]),
        ({"every_n_epochs": 0}, [0, 6]),
        ({"every_n_epochs": 0, "every_n_steps": 2}, [0, 2, 4, 6]),
        ({"every_n_epochs": 1, "every_n_steps": 2}, [0, 2, 3, 4, 6]),
    ],
)
def test_runs_when_asked_and_at_both_ends(arguments: dict[str, int], steps: list[int]) -> None:
    checked = check(**arguments)
    fit(checked)
    assert sorted({look.step for look in checked.observations}) == steps


def test_never_between_the_micro_batches_of_a_step() -> None:
    checked = check(every_n_epochs=0, every_n_steps=1)
    fit(checked, accumulate_grad_batches=3)
    assert sorted({look.step for look in checked.observations}) == [0, 1, 2]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_checks_run_alone(stage: str, tmp_path: Path) -> None:
    class Evaluated(SomebodysModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

        def test_step(self, batch: Any, batch_idx: int) -> None: ...

    checked = check(probes={"forget": loader(seed=2), "retain": loader(seed=1)}, attack_data=loader(seed=2))
    trainer = quiet(callbacks=[checked, WriteReport(str(tmp_path))])
    (values,) = getattr(trainer, stage)(Evaluated(), loader(seed=1))
    assert {"recovery/none/probability", "recovery/int4/probability"} <= set(values)
    assert (tmp_path / "report.html").exists()


def test_report_holds_what_was_observed(tmp_path: Path) -> None:
    checked = check()
    fit(checked, WriteReport(str(tmp_path / "deep" / "folder")), logger=CSVLogger(tmp_path))
    report = json.loads((tmp_path / "deep" / "folder" / "report.json").read_text())
    assert len(report["observations"]) == len(checked.observations)
    assert [row["step"] for row in report["training"]] == list(range(1, 7))
    assert report["run"]["objective"].startswith("Bounded(")
    (unlearned,) = [
        level
        for level in report["levels"]
        if (level["model"], level["split"]) == ("unlearned", "forget") and level["metric"] == "probability"
    ]
    last = [look for look in checked.observations if look.attack == "none" and look.split == "forget"]
    expected = [look for look in last if look.metric == "probability"][-1]
    assert unlearned["interval"]["value"] == pytest.approx(expected.value)


def test_without_split_data_keeping_is_measured_on_what_the_fit_trains_on() -> None:
    checked, module = RecoveryCheck({"int4": Quantize(bits=4)}), SomebodysModule()
    trainer = quiet(callbacks=[Unlearn(Bounded(GradientAscent(), bound=6.0), forget=loader(seed=2)), checked])
    trainer.fit(module, loader(seed=1))
    by_hand = [torch.softmax(module.eval()(x), -1).gather(1, y[:, None]).squeeze(1) for x, y in loader(seed=1)]
    logged = trainer.callback_metrics["recovery/none/retain_probability"].item()
    assert logged == pytest.approx(torch.cat(by_hand).mean().item(), abs=1e-6)


def test_first_and_last_looks_reach_the_logger(tmp_path: Path) -> None:
    fit(check(every_n_epochs=0), logger=CSVLogger(tmp_path, name="", version=""))
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("recovery/none/probability")
    values = [line.split(",")[column] for line in lines[1:]]
    assert sum(value != "" for value in values) == 2


def test_own_metrics_and_names() -> None:
    trainer, _ = fit(RecoveryCheck({"four": Quantize(bits=4)}, audits=[Measure({"p": AnswerProbability()})]))
    assert {n for n in trainer.callback_metrics if n.startswith("recovery/")} == {"recovery/worst"} | {
        f"recovery/{attack}/{metric}" for attack in ("none", "four") for metric in ("p", "retain_p")
    }


def test_the_name_of_the_unattacked_model_is_taken() -> None:
    with pytest.raises(ValueError, match='should not use the name "none"'):
        RecoveryCheck({"none": Quantize()})
